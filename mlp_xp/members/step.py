"""One update of the weights of all members that still run, each by its own numbers."""

import copy
import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.averaging import Average
from mlp_xp.fast import programs
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.threads import together
from mlp_xp.members.losses import MemberLosses
from mlp_xp.members.pieces import some
from mlp_xp.members.rates import RatesOfEach
from mlp_xp.objective import AddChunk, Objective
from mlp_xp.optimizers import AdamW, Optimizer, RateFactors, Rule, clip_by_global_norm
from mlp_xp.parameters import Parameters
from mlp_xp.rows.batch import Batch, Block, Chunk
from mlp_xp.run.rates import More
from mlp_xp.step import Step


class MemberObjective(Objective):
    """J and its gradient of each member; a batch's rows, or their weights, are shared or each one's own.

    `has_rows` says which members had rows in the batch last differentiated.
    """

    losses: MemberLosses
    has_rows: np.ndarray

    def _new_losses(self, **terms: bool) -> MemberLosses:
        """Where the terms of each member wait."""
        self.n = self.network.members or 1
        self._parts: list[tuple[tuple[int, int], MemberObjective]] = []
        return MemberLosses(self.network.backend, self.n, **terms)

    def differentiate(self, batch: Batch, number: int = 0, add_chunk: AddChunk | None = None) -> None:
        """Fill `gradient` with ∂J/∂w over a batch's chunks; J's terms wait on the device."""
        known = batch.divisor if self.reduction == "mean" else None
        self.add_chunks(batch, number, None if known is None else self._inverse(known, 2), add_chunk)
        divisor = 0.0 if batch.divisor is None else batch.divisor
        self.has_rows = np.broadcast_to(divisor, self.n) > 0
        scale = 1.0 if self.reduction == "sum" else self._on_device(self._inverse(divisor, 1))
        if known is None and self.reduction == "mean":
            self.gradient.flat *= scale
        if self.has_rows.any() and (penalty := self.add_penalty(scale)) is not None:
            self.losses.add(penalty)
        self.losses.end_step(divisor)

    def add_chunk(
        self,
        x: Array,
        y: Array,
        weight: Array | None,
        factor: float | Array | None,
        number: int,
        first_row: int,
        *,
        add: bool,
    ) -> Array:
        """As of one network, or in parts: each thread computes some members, with the same bits.

        A factor of each is an array (members, 1, 1) on the host, or on the device.
        """
        backend, factor = self.network.backend, self._on_device(factor)
        n_parts = backend.runtime.n_parts(self.n, x.shape[-2] * self.network.parameters.most_weights)
        if n_parts == 1:
            return super().add_chunk(x, y, weight, factor, number, first_row, add=add)
        if len(self._parts) != n_parts:
            ends = [self.n * part // n_parts for part in range(n_parts + 1)]
            self._parts = [(bounds, self._some(*bounds)) for bounds in itertools.pairwise(ends)]

        def add_part(bounds: tuple[int, int], part: MemberObjective) -> Array:
            part.dropout = some(self.dropout, *bounds)
            of_x, of_y, of_weight, own_factor = (_of_some(each, *bounds) for each in (x, y, weight, factor))
            return Objective.add_chunk(part, of_x, of_y, of_weight, own_factor, number, first_row, add=add)

        return backend.xp.concat(together([functools.partial(add_part, *each) for each in self._parts]))

    def _some(self, first: int, stop: int) -> "MemberObjective":
        """That of some members, whose gradient is a part of this one's."""
        part = copy.copy(self)
        part.network, part.gradient = self.network.some(first, stop), self.gradient.some(first, stop)
        part.loss = some(self.loss, first, stop)
        vars(part).pop("memo", None)
        return part

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        super().forget_buffers()
        self._parts = []

    def _on_device(self, factor: Any) -> Any:
        """A number, or an array that was on the host."""
        return self.network.backend.asarray(factor) if isinstance(factor, np.ndarray) else factor

    def _inverse(self, divisor: float | np.ndarray, n_axes: int) -> float | np.ndarray:
        """1 / Σ s_i, or 0 without rows; where each has its own, with so many axes behind the members'."""
        if isinstance(divisor, float):
            return 1.0 / divisor if divisor else 0.0
        inverse = np.divide(1.0, divisor, out=np.zeros(self.n), where=divisor > 0)
        return inverse.reshape(-1, *[1] * n_axes)


def _of_some(given: Any, first: int, stop: int) -> Any:
    """What some members have of a chunk's arrays or factor, or all."""
    return given[first:stop, ...] if getattr(given, "ndim", 0) == 3 else given


class MemberOptimizer(Optimizer):
    """The rules of all members: one where they are alike, else each on its own vectors.

    Attributes
    ----------
    moving : array of bool (members,)
        Whose weights the next step moves.
    programs : dict of rule to Program
        Of the rules that have one.
    behind : list of int
        Steps that each member has not made, of `t`.
    """

    def __init__(
        self, rules: Sequence[Rule], parameters: Parameters, factors: RateFactors | None = None
    ) -> None:
        super().__init__(rules[0], parameters, factors)
        if any(rule.state != rules[0].state for rule in rules):
            raise ValueError("the update rules of all members must remember the same vectors.")
        self.is_one_rule = all(rule == rules[0] for rule in rules)
        found = ((rule, programs.of_rule(rule)) for rule in rules)
        self.programs = {rule: program for rule, program in found if program is not None}
        self._but_for_decay = [
            dataclasses.replace(rule, weight_decay=0.0) if isinstance(rule, AdamW) else rule for rule in rules
        ]
        self.behind = [0] * len(rules)
        self.moving = np.ones(len(rules), dtype=bool)
        self.each = [
            Optimizer(rule, own, factors) for rule, own in zip(rules, parameters.each(), strict=True)
        ]
        for n, optimizer in enumerate(self.each):
            optimizer.state = {name: vector[n, ...] for name, vector in self.state.items()}
        self._gradients: tuple[Parameters, list[Parameters]] | None = None

    def step_each(self, gradient: Parameters, rates: Sequence[float]) -> None:
        """Update those that move, at their own rates; the gradient is read."""
        if self.moves_as_one(rates):
            self.step(gradient, rates[0])
            return
        if self._gradients is None or self._gradients[0] is not gradient:
            self._gradients = gradient, gradient.each()
        self.is_moving = True
        self.t += 1
        for n, (optimizer, own) in enumerate(zip(self.each, self._gradients[1], strict=True)):
            if self.moving[n]:
                optimizer.t, optimizer.decay_factor = self.t - 1 - self.behind[n], self.decay_factor
                optimizer.step(own, rates[n])
            else:
                self.behind[n] += 1
        self.is_moving = False

    def numbers_of_each(
        self, members: Sequence[int], rates: np.ndarray, t: int, decays: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Those of the rules of some members, which have one program, from step t on.

        Parameters
        ----------
        members : sequence of int
            Which.
        rates : array (n_steps, members)
            η of each.
        t : int
            From 1; of a member that has not made all steps, so many fewer.
        decays : array (n_steps, 1), or float
            The factors on the rate of a decoupled decay.

        Returns
        -------
        array (n_steps, n_numbers, members)
            As of `fast.programs.numbers_of_step`.
        """
        alike = defaultdict[tuple[Rule, int], list[int]](list)
        for place, n in enumerate(members):
            alike[self._but_for_decay[n], t - self.behind[n]].append(place)
        found: Array = None
        for (_, first), places in alike.items():
            rule = self.each[members[places[0]]].rule
            for step, of_step in enumerate(rates[:, places]):
                numbers = programs.numbers_of_step(rule, self.programs[rule], first + step, of_step)
                if found is None:
                    found = np.empty((len(rates), len(numbers), len(members)))
                for number, value in enumerate(numbers):
                    found[step, number, places] = value
        decaying = np.array([self.each[n].rule.weight_decay for n in members])
        found[:, -1] = 1.0 - rates * decays * decaying
        return found

    def moves_as_one(self, rates: Sequence[float]) -> bool:
        """Whether the coming step is the same for all."""
        is_alike = self.is_one_rule and not any(self.behind) and len(set(rates)) == 1
        return bool(is_alike and self.moving.all())


class Steps(NamedTuple):
    """Steps that members are to make.

    Attributes
    ----------
    number, n_before : int
        That of the first, from 0; and steps that are made before these, of those asked for together.
    rows : Chunk
        Of all steps, also with an axis for members; weights are (n_rows, 1), or (n_rows, members) for rows
        that all share.
    batch : int
        Rows a step.
    rates, divisors : arrays (n_steps, 1 or members)
        η and Σ s of each step.
    more : More
        What else is a step's own.
    values : array (n_steps, n_values, members)
        To be filled.
    """

    number: int
    n_before: int
    rows: Chunk
    batch: int
    rates: np.ndarray
    divisors: np.ndarray
    more: More
    values: np.ndarray

    def part(self, start: int, stop: int) -> "Steps":
        """Some of them."""
        rows, steps = slice(start * self.batch, stop * self.batch), slice(start, stop)
        return Steps(
            self.number + start,
            self.n_before + start,
            self.rows.part(rows),
            self.batch,
            self.rates[steps],
            self.divisors[steps],
            self.more.part(start, stop),
            self.values[steps],
        )

    def of(self, n: int) -> "Steps":
        """Those of a member alone, values apart."""
        rows, weight = self.rows, self.rows.weight
        if rows.x.ndim == 3:
            rows = Chunk(*(None if part is None else part[n] for part in rows))
        elif weight is not None and weight.shape[1] > 1:
            rows = rows._replace(weight=weight[:, n : n + 1])
        rates, divisors = (of if of.shape[1] == 1 else of[:, n : n + 1] for of in (self.rates, self.divisors))
        return self._replace(rows=rows, rates=rates, divisors=divisors)


class Members(NamedTuple):
    """What steps of members are made with: each one's largest norm of a gradient, and rates.

    The average takes note of the weights after each of the steps that are made at once.
    """

    objective: MemberObjective
    optimizer: MemberOptimizer
    clip_norms: Sequence[float | None]
    rates: RatesOfEach
    average: Average | None = None


class MemberStep(Step):
    """Differentiate the objectives, clip each gradient, apply each rule."""

    def __init__(self, of: Members) -> None:
        super().__init__(of.objective, of.optimizer)
        self.of, self.members, self.rules, self.rates = of, of.objective, of.optimizer, of.rates
        self.add_chunk: AddChunk | None = None  # the objective's own
        self._limits: Array | None = None
        if any(norm is not None for norm in of.clip_norms):
            backend = of.objective.network.backend
            most = float(backend.xp.finfo(backend.dtype).max)
            self._limits = backend.asarray([[most if norm is None else norm] for norm in of.clip_norms])

    def __call__(self, batch: Batch, number: int, rate: float) -> None:
        """Make one; a member without rows, or that has stopped, is left as it is."""
        self.members.differentiate(batch, number, self.add_chunk)
        self.rules.moving = self.members.has_rows & self.members.losses.running
        if not self.members.losses.broken and self.rules.moving.any():
            self.apply(rate)

    def apply(self, rate: float) -> None:
        """Move the weights of those that move, each at its own rate."""
        self.clip()
        self.rules.step_each(self.members.gradient, self.rates.of_each())

    def divisors_ahead(self, block: Block, first: int, most: int) -> np.ndarray:
        """Σ s of some of a block's batches, (n_steps, 1 or members), up to one in which a member has none."""
        divisors = np.array(block.divisors(first, most))
        divisors = divisors.reshape(len(divisors), -1)
        lacks_rows = np.append((divisors <= 0.0).any(axis=1), [True])
        return divisors[: np.argmax(lacks_rows)]

    def clip(self) -> None:
        """Clip each member's gradient, to which frozen layers do not count."""
        self.rules.hold(self.members.gradient)
        if self._limits is not None:
            clip_by_global_norm(self.members.gradient, self._limits)
