"""Compiled steps of members on a CPU: each core makes those of its own members, and waits for nobody.

A member's steps are those that it would make alone by one thread (`fast.on_cpu`), dealt out over the cores;
those of tiny networks are made many members at a time (`members.side_by_side`).
"""

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from mlp_xp.averaging import Average
from mlp_xp.fast import compiled, on_cpu, programs
from mlp_xp.machine import blas
from mlp_xp.machine.threads import Pool
from mlp_xp.members.pieces import EachLoss, EachPenalty, alone
from mlp_xp.members.side_by_side import SideBySide, pays
from mlp_xp.members.step import MemberObjective, MemberOptimizer, MemberStep, Steps
from mlp_xp.objective import Objective
from mlp_xp.regularizers import ElasticNet, Regularizer
from mlp_xp.rows.batch import Block, Chunk
from mlp_xp.run.rates import Rates


class Maker(Protocol):
    """What makes the steps of some members by one thread; see `SideBySide`."""

    def groups(self, members: Sequence[int], batch: int) -> list[list[int]]:
        """Those of which it makes the steps at a time."""

    def make(self, members: Sequence[int], steps: Steps) -> None:
        """Make steps."""


class OneByOne:
    """What makes the steps of one member after the other.

    Parameters
    ----------
    each : sequence of CpuStep
        What makes those of each.
    optimizer : MemberOptimizer
        Of all.
    average : Average, optional
        Takes note of the weights after each step.
    """

    def __init__(
        self, each: Sequence[on_cpu.CpuStep], optimizer: MemberOptimizer, average: Average | None
    ) -> None:
        self.each, self.optimizer, self.average = each, optimizer, average

    def groups(self, members: Sequence[int], batch: int) -> list[list[int]]:
        """Each is one."""
        return [[n] for n in members]

    def make(self, members: Sequence[int], steps: Steps) -> None:
        """Make steps; the values of one that breaks off are nan from there."""
        (n,) = members
        step, optimizer, own = self.each[n], self.optimizer.each[n], steps.of(n)
        step.objective.losses.start()
        optimizer.t = self.optimizer.t + steps.n_before - self.optimizer.behind[n]
        n_steps = len(own.divisors)
        for start in range(0, n_steps, 1 if self.average else n_steps):
            part = own.part(start, start + 1) if self.average else own
            step.make(part.rows, part.batch, part.rates.tolist(), part.divisors.tolist(), part.more)
            if self.average is not None:
                self.average.take_of(n, part.number + 1)
        found = step.objective.losses.values()
        steps.values[..., n] = np.nan
        steps.values.reshape(-1, steps.values.shape[2])[: len(found), n] = found


class CompiledMemberStep(MemberStep):
    """Steps of members that are compiled from a certain one on, where all of them can be.

    Parameters
    ----------
    objective, optimizer, clip_norms, rates
        As of `MemberStep`.
    rates_ahead : callable (int) -> array (n_steps, 1 or members)
        Gives η at each of the coming steps: of all members, or of each.
    average : Average, optional
        Takes note of the weights after each step.
    schedules_more : bool
        Whether more than the rate changes from step to step.
    """

    def __init__(
        self,
        objective: MemberObjective,
        optimizer: MemberOptimizer,
        clip_norms: Sequence[float | None],
        rates: Callable[[], Sequence[float]],
        rates_ahead: Callable[[int], np.ndarray],
        average: Average | None = None,
        *,
        schedules_more: bool = False,
    ) -> None:
        super().__init__(objective, optimizer, clip_norms, rates)
        self.clip_norms, self.rates_ahead, self.average = clip_norms, rates_ahead, average
        self.first_compiled = on_cpu.first_compiled_of(objective) // objective.n
        self.is_possible = objective.ranks is None
        is_plain = objective.dropout is None and average is None and optimizer.groups is None
        self.may_be_together = is_plain and not schedules_more
        self.maker: Maker | None = None
        self.n_threads = min(objective.n, on_cpu.n_threads())
        self._pool = Pool(self.n_threads)

    def _turn(self, number: int, batch: int, *, has_own_rows: bool) -> Maker | None:
        """What makes steps of so many rows, where the one of this number is compiled."""
        if self.maker is None and self.is_possible and number >= self.first_compiled:
            if compiled.problem() is None:
                n_weights = self.rules.parameters.n_weights
                may_be = self.may_be_together and not has_own_rows
                is_tiny = may_be and pays(n_weights, batch, self.members.n)
                self.maker = (self._side_by_side() if is_tiny else None) or self._one_by_one()
            self.is_possible = self.maker is not None
        return self.maker

    def _alone(self, n: int) -> Objective:
        """A member's objective."""
        members = self.members
        loss, dropout = alone(members.loss, n), alone(members.dropout, n)
        return Objective(members.network.each()[n], loss, self._penalty(n), dropout, members.reduction)

    def _penalty(self, n: int) -> Regularizer | None:
        """A member's penalty; of 0, where others have one."""
        penalty = self.members.regularizer
        return (penalty.penalties[n] or ElasticNet()) if isinstance(penalty, EachPenalty) else penalty

    def _side_by_side(self) -> SideBySide | None:
        """One call for many members, where they differ in numbers alone."""
        rules = [each.rule for each in self.rules.each]
        known = {programs.steps_of(rule) for rule in rules}
        penalties = [self._penalty(n) for n in range(self.members.n)]
        plan = None
        if len(known) == 1 and None not in known and not isinstance(self.members.loss, EachLoss):
            plan = on_cpu.plan_of(self._alone(0), penalties)
        if plan is None:
            return None
        members = self.members
        return SideBySide(
            plan, self.rules, self.clip_norms, members.reduction, has_labels=members.loss.labels
        )

    def _one_by_one(self) -> OneByOne | None:
        """A step of each member alone, by one thread."""
        steps: list[on_cpu.CpuStep] = []
        for n in range(self.members.n):
            step = on_cpu.CpuStep(self._alone(n), self.rules.each[n], self.clip_norms[n])
            step.turn()
            step.n_threads = 1
            if step.plan is None or step.rule is None:
                return None
            if steps and self.rules.is_one_rule:
                step.rule = steps[0].rule
            steps.append(step)
        return OneByOne(steps, self.rules, self.average)

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches; return how many were made."""
        if block.rows is None:
            return 0
        maker = self._turn(rates.history.step, block.batch_size, has_own_rows=block.rows.x.ndim == 3)
        if maker is None:
            return 0
        batch, losses = block.batch_size, self.members.losses
        running = np.flatnonzero(losses.running).tolist()
        work = batch * self.rules.parameters.size * -(-len(running) // self.n_threads)
        divisors = np.array(block.divisors(first, min(most, max(1, on_cpu.MOST_WORK // work))))
        divisors = divisors.reshape(len(divisors), -1)
        lacks_rows = np.append((divisors <= 0.0).any(axis=1), [True])
        divisors = divisors[: np.argmax(lacks_rows)]
        if not len(divisors):
            return 0
        rates.ahead(len(divisors))
        rows = slice(first * batch, (first + len(divisors)) * batch)
        values = np.zeros((len(divisors), 1 + losses.has_penalty, self.members.n))
        chunk = Chunk(*(None if part is None else part[..., rows, :] for part in block.rows))
        more = rates.more_ahead(len(divisors))
        number, own_rates = rates.history.step, self.rates_ahead(len(divisors))
        steps = Steps(number, 0, chunk, batch, own_rates, divisors, more, values)
        self._deal_out(maker.make, maker.groups(running, batch), steps)
        losses.extend(values.reshape(-1, self.members.n), divisors)
        self.rules.t += len(divisors)
        if self.average is not None:
            self.average.latest = number + len(divisors)
        return len(divisors)

    def _deal_out(
        self, make: Callable[[Sequence[int], Steps], None], groups: Sequence[Sequence[int]], steps: Steps
    ) -> None:
        """Have each core make the steps of some groups: in parts, where they do not go up in the cores."""
        with blas.computing():
            if len(groups) == 1 or self.n_threads == 1:
                for group in groups:
                    make(group, steps)
                return
            n_steps, n_parts = len(steps.divisors), self.n_threads if len(groups) % self.n_threads else 1
            ends = [n_steps * part // n_parts for part in range(n_parts + 1)]
            made: list[Future[None]] = []
            for start, stop in itertools.pairwise(ends):
                for group, own in itertools.zip_longest(groups, made[-len(groups) :]):
                    task = functools.partial(_after, own, make, group, steps.part(start, stop))
                    made.append(self._pool.of_this_process().submit(task))
            concurrent.futures.wait(made)
        for each in made:
            each.result()


def _after(
    before: "Future[None] | None",
    make: Callable[[Sequence[int], Steps], None],
    group: Sequence[int],
    steps: Steps,
) -> None:
    """Make steps of a group when those before them are made, which another thread has begun already."""
    if before is not None:
        before.result()
    if len(steps.divisors):
        make(group, steps)
