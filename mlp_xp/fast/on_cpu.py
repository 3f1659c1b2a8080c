"""A training step on a CPU: one compiled call for several steps, or at least for the update rule.

What computes lies in `fast.compiled`; here is what it is told. A step that it does not cover (frozen layers,
a function without a program, several chunks, several processes) is made by the plain rules, with the update
rule, which is most of what is slow in them, as one pass over memory.

Results: the update rule alone has the bits of the plain one. A whole step sums in another order; what it
gives differs by rounding. So does, by a little, what different numbers of threads give.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.activations import ManyPasses
from mlp_xp.dropout import Dropout
from mlp_xp.fast import compiled, programs
from mlp_xp.fast.beside import beside
from mlp_xp.losses import Loss, SoftmaxCrossEntropy
from mlp_xp.machine import blas
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.symbolic import Program
from mlp_xp.machine.threads import workers
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer, Rule
from mlp_xp.regularizers import REGULARIZERS, Norms, Regularizer
from mlp_xp.rows.batch import Block, Chunk
from mlp_xp.run.rates import More, Rates
from mlp_xp.settings.catalogue import known_name
from mlp_xp.step import Step

PAYS_AFTER = 0.6
"""Seconds that compiled steps would have saved so far, at which they are turned to. To import Numba and to
load what it has compiled takes as long, to compile it once on a machine 12 s. A thread begins when half is
saved, beside steps that go on. A run that is to end before loads nothing, one that goes on has lost at most
as much again."""

SAVED_PER_STEP, SAVED_PER_NUMBER = 45e-6, 1.3e-9
"""Seconds: what a plain step takes longer than a compiled one, for a network of a few units (4-3-2-1), and
for each parameter and each output of a unit more (32-100-1 to 1024-2048-2048-10)."""

SAVED_PER_SLOW_NUMBER = 3e-9
"""Seconds, for each output of an activation of many passes, or of dropout, more (20 to 40-128-128-128-1)."""

MOST_WORK = 2 * 10**9
"""Rows × parameters that one call of compiled steps may take, some 0.2 s: Ctrl-C waits for its end."""

USUAL_ROWS = 128
"""Of a step. Not the step's own: whether the last, ragged one is compiled must not depend on its rows."""


def first_compiled_step(n_units: int, n_parameters: int, n_slow: int = 0) -> int:
    """The number of the step from which on steps are compiled: a function of sizes, never of a clock.

    Runs that are repeated or resumed turn at the same step, so that they have the same bits.
    """
    saved = SAVED_PER_STEP + SAVED_PER_NUMBER * (n_units * USUAL_ROWS + n_parameters)
    return round(PAYS_AFTER / (saved + SAVED_PER_SLOW_NUMBER * n_slow * USUAL_ROWS))


def first_compiled_of(objective: Objective) -> int:
    """The same for an objective."""
    network = objective.network
    sizes = network.layer_sizes[1:]
    slow = [n for n, f in zip(sizes, network.activations, strict=True) if isinstance(f, ManyPasses)]
    n_dropped = sum(sizes[:-1]) if objective.dropout else 0
    return first_compiled_step(sum(sizes), network.parameters.size, sum(slow) + n_dropped)


class Plan(NamedTuple):
    """What `compiled.steps.make_steps` is told of network, loss and penalty: its first arguments."""

    sizes: np.ndarray
    places: np.ndarray
    n_numbers: int
    at_scale: int
    functions: np.ndarray
    constants: np.ndarray
    no_biases: np.ndarray
    loss: int
    loss_constants: np.ndarray
    l1: np.ndarray
    l2: np.ndarray

    def memory_size(self, n_rows: int, n_parts: int = 1) -> int:
        """Numbers of memory for steps of so many rows."""
        return -(-n_rows // n_parts) * n_parts * self.n_numbers

    def of_members(self, members: Sequence[int]) -> "Plan":
        """The same for some of the members that are side by side."""
        no_biases = np.zeros((len(self.no_biases), len(members)), dtype=self.no_biases.dtype)
        of_loss = np.ascontiguousarray(self.loss_constants[:, members])
        return self._replace(
            no_biases=no_biases, loss_constants=of_loss, l1=self.l1[members], l2=self.l2[members]
        )


def plan_of(
    objective: Objective, members: Sequence[tuple[Loss, Regularizer | None]] | None = None
) -> Plan | None:
    """How to compute an objective; None where compiled steps do not cover it.

    With a list of losses and penalties, that of as many members side by side.
    """
    network, dtype = objective.network, objective.network.backend.dtype_name
    losses, regularizers = zip(*(members or [(objective.loss, objective.regularizer)]), strict=True)
    penalties = [_penalty(one) for one in regularizers]
    l1, l2 = (
        np.array([penalty for penalty in penalties if penalty is not None] or (0.0, 0.0)).reshape(-1, 2).T
    )
    parameters = network.parameters
    has_scale, drops = parameters.input_scale is not None, objective.dropout is not None
    is_alone = members is None
    if l1.size < len(penalties) or objective.ranks or (not is_alone and has_scale):
        return None
    functions = [programs.of_activation(f, dtype) for f in network.activations]
    loss = _loss(losses, dtype, of_members=not is_alone)
    both = [each for each in functions if each is not None]
    if loss is None or len(both) < len(functions):
        return None
    from mlp_xp.fast.compiled import formulas
    from mlp_xp.fast.compiled.steps import places_of

    constants = np.zeros((len(both), 2, max(len(each.numbers) for each in itertools.chain(*both)) or 1))
    addresses = np.zeros((len(both), 3), dtype=np.int64)
    for (there, back), numbers, at in zip(both, constants, addresses, strict=True):
        numbers[0, : len(there.numbers)], numbers[1, : len(back.numbers)] = there.numbers, back.numbers
        at[0] = formulas.activate(formulas.text_of(there), dtype).address
        if not back.changes_nothing:
            at[1] = formulas.chain(formulas.text_of(back), dtype).address
    writes = np.array([len(each.forward.outputs) > 1 for each in both])
    addresses[:-1, 2] = drops & ~writes[:-1]
    keeps = (writes | (addresses[:, 2] != 0)).tolist()
    sizes = network.layer_sizes
    return Plan(
        np.array(sizes, dtype=np.int64),
        *places_of(sizes, keeps, has_scale=has_scale),
        parameters.size - sizes[0] if has_scale else -1,
        addresses,
        constants,
        np.zeros((max(sizes), *(() if is_alone else l1.shape)), dtype=dtype),
        *loss,
        np.ascontiguousarray(l1),
        np.ascontiguousarray(l2),
    )


def _loss(losses: Sequence[Loss], dtype: str, *, of_members: bool) -> tuple[int, np.ndarray] | None:
    """Address and numbers of a loss, or of those of members; None unless they have one compiled form."""
    of_softmax = [(loss.label_smoothing, loss.eps) for loss in losses if type(loss) is SoftmaxCrossEntropy]
    if len(of_softmax) == len(losses):
        from mlp_xp.fast.compiled.losses import softmax

        address = softmax(dtype, of_members=of_members).address
        numbers = np.array(of_softmax, dtype=np.float64)
    else:
        known = [programs.of_loss(loss, dtype) for loss in losses]
        found = [program for program in known if program is not None]
        if len(found) < len(known) or len({program[:2] for program in found}) > 1:
            return None
        from mlp_xp.fast.compiled.formulas import differentiate, text_of

        address = differentiate(text_of(found[0]), dtype, of_members=of_members).address
        numbers = np.array([program.numbers or (0.0,) for program in found])
    return address, numbers.T.copy() if of_members else numbers[0]


def _penalty(regularizer: Regularizer | None) -> tuple[float, float] | None:
    """Strengths of L1 and L2; None for a penalty that is not known here."""
    if regularizer is None:
        return 0.0, 0.0
    if known_name(REGULARIZERS, regularizer) is None or not isinstance(regularizer, Norms):
        return None
    l1, l2 = regularizer.strengths
    return float(l1), float(l2)


def scales_of(divisors: np.ndarray, reduction: str) -> np.ndarray:
    """What J is multiplied with, from Σ s of each step."""
    return np.divide(1.0, divisors, order="C") if reduction == "mean" else np.ones(divisors.shape)


MOST_STATE = 2
"""Vectors that a compiled rule may remember."""


class CompiledRule:
    """A rule that remembers `MOST_STATE` vectors at most, as one pass over memory.

    There is a factor on the rate of each group of parameters. Members that are side by side may have numbers
    of their own (`of_each`).
    """

    def __init__(
        self,
        rule: Rule,
        program: Program,
        dtype: str,
        factors: Sequence[float] = (1.0,),
        *,
        of_each: bool = False,
    ) -> None:
        from mlp_xp.fast.compiled.formulas import text_of, update

        text = text_of(program, n_outputs=1 + MOST_STATE)
        self.rule, self.program, self.factors = rule, program, factors
        self._latest: tuple[tuple[Any, ...], np.ndarray] | None = None
        self.address = update(text, dtype, len(rule.state), bool(rule.weight_decay), of_each=of_each).address

    def numbers(
        self, t: int, rates: Sequence[float] | np.ndarray, decays: Sequence[float] | np.ndarray = (1.0,)
    ) -> np.ndarray:
        """Those of the steps from t on, (n_steps, n_groups, …), with the factors on their decay.

        The latest are remembered for members that share them.
        """
        rates, decays = np.asarray(rates), np.asarray(decays)
        steps, latest = (t, rates.tobytes(), decays.tobytes()), self._latest
        if latest is None or latest[0] != steps:
            own = np.multiply.outer(rates, self.factors)
            found = programs.numbers_of_steps(self.rule, self.program, t, own)
            if self.rule.weight_decay:
                decaying = rates * decays * self.rule.weight_decay
                found[..., -1] = 1.0 - decaying[:, np.newaxis]
            latest = self._latest = steps, found
        return latest[1]


Compiled = tuple[CompiledRule | None, Plan | None]
"""What steps are compiled of: a rule, and a whole step where there is one."""


def as_read(rows: Chunk, *, has_labels: bool) -> tuple[Array, Array, Array, Array]:
    """x, y, labels and weight as compiled steps read them: what there is not is empty."""
    x, y, weight = rows.x, np.ascontiguousarray(rows.y), rows.weight
    no_rows = np.empty((0, 1), dtype=x.dtype)
    weight = no_rows if weight is None else np.ascontiguousarray(weight)
    return (x, no_rows, y, weight) if has_labels else (x, y, np.empty((0, 1), dtype=np.int32), weight)


def n_threads() -> int:
    """Threads that a step may be shared out to: as many as the BLAS would use, where one can sleep."""
    return blas.n_threads() if os.name == "posix" else 1


def drops_of(masks: Sequence[Dropout | None], more: More) -> np.ndarray:
    """What compiled steps are told of dropout: that of a network, or of each of the members side by side."""
    known = [each for each in masks if each is not None]
    if not known:
        return np.empty((0, 0, 4, len(masks)))
    n_layers = len(known[0].rates)
    found = np.zeros((len(more.dropping), n_layers, 4, len(masks)))
    for n, dropout in enumerate(masks):
        if dropout is not None:
            found[..., n] = dropout.of_steps(more.first, more.dropping)
    return found


def compiled_rule(optimizer: Optimizer) -> CompiledRule | None:
    """An optimizer's rule, with the factors of its groups; None where it has no compiled form."""
    program = _program_of(optimizer.rule)
    if program is None:
        return None
    factors = [factor for _, factor in _groups(optimizer)]
    return CompiledRule(optimizer.rule, program, optimizer.parameters.backend.dtype_name, factors)


def _program_of(rule: Rule) -> Program | None:
    return programs.of_rule(rule) if len(rule.state) <= MOST_STATE else None


def _groups(optimizer: Optimizer) -> list[tuple[slice, float]]:
    return optimizer.groups or [(slice(0, optimizer.parameters.size), 1.0)]


def told_of_rule(
    rule: CompiledRule, optimizer: Optimizer, gradient: Array, numbers: np.ndarray
) -> tuple[Any, ...]:
    """What compiled steps are told of a rule with its numbers for each: which, groups, and the vectors."""
    parameters = optimizer.parameters
    first, second = (*optimizer.state.values(), parameters.flat, parameters.flat)[:MOST_STATE]
    return (
        rule.address,
        np.array([group.start for group, _ in _groups(optimizer)] + [parameters.size], dtype=np.int64),
        numbers,
        parameters.flat,
        gradient,
        first,
        second,
        parameters.n_weights,
        sum(parameters.layer_sizes[1:]) if parameters.bias else 0,
    )


def by_one_thread(
    plan: Plan,
    clip_norms: np.ndarray,
    drops: np.ndarray,
    rule: tuple[Any, ...],
    rows: tuple[Array, Array, Array, Array],
    batch: int,
    scales: np.ndarray,
    values: Array,
) -> None:
    """Make steps of a network, or of members side by side, in the calling thread; see `make_steps`."""
    from mlp_xp.fast.compiled.steps import make_steps
    from mlp_xp.fast.compiled.threads import LINE

    p, lanes = rule[3], max(LINE, len(clip_norms))
    memory = np.empty((plan.memory_size(min(batch, len(rows[0]))), *p.shape[1:]), dtype=p.dtype)
    arrived, totals = np.zeros(LINE, dtype=np.int64), np.zeros(lanes)
    make_steps(0, 1, arrived, totals, *plan, clip_norms, drops, *rule, *rows, batch, scales, memory, values)


class CpuStep(Step):
    """Steps that are compiled from a certain one on; before, and where Numba is not there, plain ones."""

    def __init__(self, objective: Objective, optimizer: Optimizer, clip_norm: float | None = None) -> None:
        super().__init__(objective, optimizer, clip_norm)
        self.may_turn = _program_of(optimizer.rule) is not None
        self.rule: CompiledRule | None = None
        self._loading: Future[Compiled] | None = None
        self.first_compiled = first_compiled_of(objective)
        self.plan: Plan | None = None
        self.n_threads = 1
        self._memory = np.empty(0, dtype=objective.network.backend.dtype_name)

    def _turn(self, number: int, n_steps: int) -> bool:
        """Whether the step of this number is compiled; what it needs is loaded beside steps before it.

        It is not, before a run of so many steps ends; one that is gone on with may be longer.
        """
        first = self.first_compiled
        if self.may_turn and number >= (first // 2 if first < n_steps else first):
            if self._loading is None:
                self._loading = beside(self._load)
            if number >= first:
                self.rule, self.plan = self._loading.result()
                self.n_threads = 1 if self.rule is None else n_threads()
                self.may_turn, self._loading = False, None
        return self.rule is not None

    def _load(self) -> Compiled:
        """What compiled steps are told, with all that they call loaded, or compiled once on a machine."""
        rule = None if compiled.problem() is not None else compiled_rule(self.optimizer)
        if rule is None:
            return None, None
        from mlp_xp.fast.compiled.steps import apply_rule, parts_for

        plan = None if self.optimizer.frozen else plan_of(self.objective)
        address, bounds, numbers, *vectors, n_weights, n_biases = self._rule(rule, [0.0])
        apply_rule(address, numbers[0, 0], *vectors, 0, 0, 0)
        if plan is not None:
            parts_for(1, 1, 1)
            dtype, drops = self._memory.dtype, drops_of([None], More(0, np.ones(0), np.ones(0)))
            rows, labels = np.empty((0, 1), dtype=dtype), np.empty((0, 1), dtype=np.int32)
            told = (address, bounds, numbers[:0], *vectors, n_weights, n_biases)
            scales, values = np.empty((0, 1)), np.empty((0, 1, 1), dtype=dtype)
            by_one_thread(plan, np.zeros(1), drops, told, (rows, rows, labels, rows), 1, scales, values)
        return rule, plan

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches by one call; return how many were made."""
        history = rates.history
        n_steps = history.max_epochs * history.steps_per_epoch
        if block.rows is None or not self._turn(history.step, n_steps):
            return 0
        if self.plan is None or self.rule is None:
            return 0
        batch = block.batch_size
        most = min(most, max(1, MOST_WORK // (batch * self.optimizer.parameters.size)))
        divisors = list(itertools.takewhile(bool, block.divisors(first, most)))
        if not divisors:
            return 0
        rows = slice(first * batch, (first + len(divisors)) * batch)
        chunk = block.rows.part(rows)
        more = rates.more_ahead(len(divisors))
        return self._make_steps(
            self.plan, self.rule, chunk, batch, rates.ahead(len(divisors)), divisors, more
        )

    def _make_steps(
        self,
        plan: Plan,
        rule: CompiledRule,
        rows: Chunk,
        batch: int,
        rates: Sequence[float],
        divisors: Sequence[float],
        more: More,
    ) -> int:
        """Make steps of `batch` rows each until all are made, or a loss is seen to be infinite."""
        from mlp_xp.fast.compiled.steps import parts_for

        objective, optimizer = self.objective, self.optimizer
        n_parts = parts_for(min(batch, rows.x.shape[0]), optimizer.parameters.n_weights, self.n_threads)
        n_memory = plan.memory_size(min(batch, rows.x.shape[0]), n_parts)
        if self._memory.size < n_memory:
            self._memory = np.empty(n_memory, dtype=self._memory.dtype)
        x, y, labels, weight = as_read(rows, has_labels=objective.loss.labels)
        n_values = 1 if objective.regularizer is None else 2
        scales = scales_of(np.reshape(divisors, (-1, 1)), objective.reduction)
        n_made = 0
        while n_made < len(divisors) and not objective.losses.broken:
            values = objective.losses.room(len(divisors) - n_made).view.reshape(-1, n_values, 1)
            stop = n_made + len(values)
            some, own = slice(n_made * batch, stop * batch), more.part(n_made, stop)
            self._share_out(
                n_parts,
                *plan,
                np.array([self.clip_norm or 0.0]),
                drops_of([own.dropout], own),
                *self._rule(rule, rates[n_made:stop], own.decays),
                x[some],
                y[some],
                labels[some],
                weight[some],
                batch,
                scales[n_made:stop],
                self._memory[:n_memory],
                values,
            )
            optimizer.t += len(values)
            objective.losses.filled(*divisors[n_made:stop])
            n_made = stop
        return n_made

    def _share_out(self, n_parts: int, *arguments: object) -> None:
        """Call the compiled steps, by several threads where they are large enough."""
        from mlp_xp.fast.compiled.steps import make_steps
        from mlp_xp.fast.compiled.threads import GIVEN_UP, LINE

        arrived, totals = np.zeros(n_parts * LINE, dtype=np.int64), np.zeros(n_parts * LINE)

        def make(part: int) -> None:
            try:
                make_steps(part, n_parts, arrived, totals, *arguments)
            except BaseException:  # Ctrl-C, say: before all parts have met nothing has been changed
                arrived[part * LINE] = GIVEN_UP
                raise

        # Each of our threads would have several of the BLAS's; and one alone is faster without them on
        # products that are too small to be shared out (32-100-1 with 200 rows: 57 instead of 109 µs).
        with workers().turns if n_parts > 1 else contextlib.nullcontext(), blas.computing():
            try:
                others = workers().start([functools.partial(make, part) for part in range(1, n_parts)])
                make(0)
            except BaseException:
                arrived[0] = GIVEN_UP  # also where not all of them could be started
                raise
            for other in others:
                other.result()

    def _rule(
        self, rule: CompiledRule, rates: Sequence[float], decays: Sequence[float] | np.ndarray = (1.0,)
    ) -> tuple[Any, ...]:
        """A compiled rule's arguments for the coming steps."""
        numbers = rule.numbers(self.optimizer.t + 1, rates, decays)
        return told_of_rule(rule, self.optimizer, self.objective.gradient.flat, numbers)

    def apply(self, rate: float) -> None:
        """Move the weights along the gradient of the step last differentiated."""
        if self.rule is None:
            super().apply(rate)
            return
        from mlp_xp.fast.compiled.steps import apply_rule

        self.clip()
        told = self._rule(self.rule, [rate], [self.optimizer.decay_factor])
        address, _, numbers, *vectors, n_weights, _ = told
        for (group, _), own in zip(_groups(self.optimizer), numbers[0], strict=True):
            apply_rule(address, own, *vectors, group.start, group.stop, n_weights)
        self.optimizer.t += 1

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        super().forget_buffers()
        self._memory = self._memory[:0].copy()
