"""A training step on a CUDA GPU: fused kernels, and one launch for the whole step.

What computes lies in `fast.cuda` (the engine); here is how it takes the places of the plain parts. The rows
of a step are copied to fixed addresses, with all numbers that change from step to step; after a few steps it
is captured as a graph, which is launched for every further step of as many rows. Numbers and rows of several
steps are handed over together. Where a step has several chunks or ranks, what is captured is forward and
backward of a chunk, and the update. Ragged steps and chunks are launched kernel by kernel, with the same
kernels. Those of members have an axis more (`members.captured` hands over their numbers).
"""

import collections
import copy
import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeGuard

import numpy as np

from mlp_xp.activations import Activation, Identity
from mlp_xp.dropout import Dropout
from mlp_xp.fast import programs
from mlp_xp.fast.cuda.engine import Engine, engine_of
from mlp_xp.fast.cuda.graph import Captured
from mlp_xp.fast.cuda.kernels import Drops
from mlp_xp.losses import GroupedCrossEntropy, Loss, Pinball, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.machine.symbolic import Program
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.regularizers import REGULARIZERS, Norms
from mlp_xp.rows.batch import Batch, Block, Chunk, of_each
from mlp_xp.run.rates import Rates
from mlp_xp.settings.catalogue import known_name
from mlp_xp.step import Step

EAGER_STEPS = 2
"""Steps of a size that are launched kernel by kernel first: kernels are compiled, cuBLAS chooses its own."""

log = logging.getLogger(__name__)


class FusedActivation(Activation):
    """An activation whose bias, value and derivative are one kernel; δ is summed and dropped with the latter.

    The sums, Σ_i δ_i, are the gradient of the layer's biases.
    """

    def __init__(
        self, plain: Activation, both: programs.Both, engine: Engine, no_biases: Array, sums: Array
    ) -> None:
        self.plain, self.both, self.engine = plain, both, engine
        self.no_biases, self.sums = no_biases, sums
        self.keeps_output = plain.keeps_output
        self.drops: Drops | None = None  # of the chunk under way

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """z ← f(z + b), and what the derivative follows from is kept."""
        if self.engine.handles(z):
            b = self.no_biases if biases is None else biases
            self.engine.activate(self.both.forward, z, b, None if self.keeps_output else kept)
        else:
            self.plain.activate(backend, z, biases, kept)

    def chain(self, backend: Backend, delta: Array, kept: Array) -> None:
        """δ ← δ ⊙ f', and with the units' own factor where some were dropped."""
        drops, self.drops = self.drops, None
        self.engine.chain(self.both.chain, delta, kept, self.sums, drops)


class AsWritten(Activation):
    """An activation without kernels. What its way back consumes may be read aside, as a layer's input."""

    def __init__(self, plain: Activation, engine: Engine) -> None:
        self.plain, self.engine, self.keeps_output = plain, engine, plain.keeps_output

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """As the plain one."""
        self.plain.activate(backend, z, biases, kept)

    def chain(self, backend: Backend, delta: Array, kept: Array) -> None:
        """As the plain one, after what was made aside."""
        self.engine.join()
        self.plain.chain(backend, delta, kept)


class BiasesForLoss(Identity):
    """The identity on the last layer, whose biases are left to the kernel of the loss in training."""

    biases: Array = None

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """Nothing yet; z ← z + b in a prediction."""
        if kept is None:
            super().activate(backend, z, biases, kept)
        else:
            self.biases = biases

    def taken(self) -> Array:
        """The biases that are still to be added."""
        biases, self.biases = self.biases, None
        return biases


class FusedLoss:
    """A loss whose δ, biases before it, factor and sum are one kernel: `fill` (z, biases, y, weight).

    z becomes δ times the engine's `inverse`, and what is given is Σ s L.
    """

    def __init__(self, plain: Loss, engine: Engine, fill: Callable[..., Array], last: Activation) -> None:
        self.plain, self.engine, self.fill, self.last = plain, engine, fill, last
        self.labels, self.link, self.check_targets = plain.labels, plain.link, plain.check_targets
        self.judge = plain.judge

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ times 1 / Σ s."""
        biases = self.last.taken() if isinstance(self.last, BiasesForLoss) else None
        if self.engine.handles(z):
            return self.fill(z, biases, y, weight)
        if biases is not None:
            z += biases
        value = self.plain(backend, z, y, weight)
        z *= self.engine.inverse
        return value


def is_norms(penalty: object) -> TypeGuard[Norms]:
    """Whether a penalty is one of the catalogue's."""
    return isinstance(penalty, Norms) and known_name(REGULARIZERS, penalty) is not None


class FusedPenalty:
    """A penalty whose gradient is one kernel, also with a scale in device memory."""

    def __init__(self, plain: Norms, engine: Engine) -> None:
        self.plain, self.engine = plain, engine
        self.l1, self.l2 = plain.strengths

    def value(self, backend: Backend, w: Array) -> Array:
        """λ R(w), valid until it is asked for again."""
        return self.engine.penalty(w, self.l1, self.l2)

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float | Array) -> None:
        """Add scale · λ ∂R/∂w."""
        if isinstance(scale, float):
            self.plain.add_gradient(backend, w, gradient, scale)
        else:
            self.engine.penalty_gradient(w, gradient, scale, self.l1, self.l2)


class FusedDropout:
    """Dropout by one kernel each way, which reads the step's number from device memory.

    Activations that are fused see to the way back.
    """

    def __init__(self, plain: Dropout, engine: Engine, network: Network) -> None:
        self.plain, self.engine, self.rates, self.network = plain, engine, plain.rates, network
        backend = network.backend
        each = getattr(plain, "of_each", [plain] * (network.members or 1))
        self.drops = []
        for layer in range(len(plain.rates)):
            least, factors = zip(*(of.threshold(layer) for of in each), strict=True)
            seeds = [(of.seed, of.seed >> 32, own) for of, own in zip(each, least, strict=True)]
            words = (np.array(seeds, dtype=object) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
            self.drops.append(Drops(layer, backend.asarray(words, "int32"), backend.asarray(factors)))

    def times(self, factor: float) -> "FusedDropout":
        """The same with all probabilities times a factor in [0, 1]."""
        return FusedDropout(self.plain.times(factor), self.engine, self.network)

    def drop(
        self, backend: Backend, a: Array, step: int, layer: int, first_row: int
    ) -> tuple[Array, Array | None]:
        """As the plain one."""
        drops, activation = self.drops[layer], self.network.activations[layer]
        dropped = backend.empty(a.shape)
        if isinstance(activation, FusedActivation):
            activation.drops = drops
            self.engine.drop(a, dropped, drops)
            return dropped, None
        self.engine.drop(backend.ones(a.shape), dropped, drops)
        return a * dropped, dropped


class CudaStep(Step):
    """Steps by fused kernels and captured steps; the objective computes with them from now on.

    Parameters
    ----------
    objective, optimizer, clip_norm
        As in `Step`; of members there may be as many limits.
    captures : bool
        Whether to capture steps.
    schedules_more : bool
        Whether more than the rate changes from step to step: decay, or dropout, which a captured step would
        keep as it was.
    engine : object, optional
        What computes (`cuda.engine.Engine`).
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        clip_norm: Any = None,
        *,
        captures: bool = True,
        schedules_more: bool = False,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(objective, optimizer, clip_norm)
        network, backend = objective.network, objective.network.backend
        self.engine = engine or engine_of(backend.runtime, backend.dtype, network.members)
        self._thread = threading.current_thread()
        self._limits = None if clip_norm is None else backend.asarray(np.ravel(clip_norm))
        drops_differently = schedules_more and objective.dropout is not None
        self.captures = captures and not drops_differently
        is_whole_rule = optimizer.groups is None and not drops_differently
        self.program = self._program_of_rule() if is_whole_rule else None
        objective.compute_with(*self._equivalents())
        self._n_rows, self._rows = 0, dict[tuple[int, bool], tuple[Any, ...]]()
        self._graphs: dict[Hashable, Captured] = {}
        self._of_graphs: list[object] = []
        self._n_eager: collections.Counter[Hashable] = collections.Counter()

    def _equivalents(self) -> tuple[Network, Any, Any, Any]:
        """Network, loss, penalty and dropout that compute with the engine where it has something."""
        objective, engine = self.objective, self.engine
        own, loss, penalty, dropout = objective.given
        network = copy.copy(own)
        for name in ("layers", "output_is_linear"):
            vars(network).pop(name, None)
        plain, biases = own.backend, objective.gradient.biases or [None] * own.n_layers
        network.activations = [
            self._fused_activation(f, plain.zeros((1,)), sums)
            for f, sums in zip(own.activations, biases, strict=True)
        ]
        fill = self._loss_kernel(loss)
        if fill is not None and type(network.activations[-1]) is Identity:
            network.activations[-1] = BiasesForLoss()
        is_fused = [isinstance(f, FusedActivation) for f in network.activations[:-1]]
        network.backend = dataclasses.replace(
            plain,
            write=engine.writer(plain, all_fused=all(is_fused) and own.parameters.input_scale is None),
            write_gradient=engine.write_gradient,
        )
        return (
            network,
            loss if fill is None else FusedLoss(loss, engine, fill, network.activations[-1]),
            FusedPenalty(penalty, engine) if is_norms(penalty) else penalty,
            None if dropout is None else FusedDropout(dropout, engine, network),
        )

    def _fused_activation(self, f: Activation, no_biases: Array, sums: Array) -> Activation:
        both = programs.of_activation(f, self.objective.network.backend.dtype_name)
        if both is None:
            return AsWritten(f, self.engine)
        if both.forward.changes_nothing:
            return f
        return FusedActivation(f, both, self.engine, no_biases, sums)

    def _loss_kernel(self, loss: Loss) -> Callable[..., Array] | None:
        """What computes a loss of z, biases, y and weight; None for one that is captured as it is."""
        engine, network = self.engine, self.objective.network
        if type(loss) is Pinball:
            return functools.partial(engine.pinball, network.backend.asarray(loss.quantiles))
        if type(loss) is SoftmaxCrossEntropy or type(loss) is GroupedCrossEntropy:
            groups = getattr(loss, "groups", network.layer_sizes[-1:])
            ends = network.backend.asarray(np.cumsum(groups), "int32")
            return functools.partial(engine.cross_entropy, ends, loss.label_smoothing, loss.eps)
        program = programs.of_loss(loss, network.backend.dtype_name)
        return functools.partial(engine.differentiate, program) if program else None

    def _program_of_rule(self) -> Program | None:
        rule = self.optimizer.rule
        program = programs.of_rule(rule)
        fits = program and len(programs.numbers_of_step(rule, program, 1, 1.0)) <= self.engine.INVERSE
        return program if fits else None

    def __call__(self, batch: Batch, number: int, rate: float) -> None:
        """Make one of several chunks or ranks, or by a rule without a kernel."""
        self.objective.differentiate(batch, number, self.add_chunk)
        if not self.objective.losses.broken and batch.divisor:
            self.apply(rate)

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches, handed over together; return how many."""
        most = self.n_ahead(block, first, most)
        divisors = list(itertools.takewhile(bool, block.divisors(first, most))) if most else []
        if not divisors:
            return 0
        decays = rates.more_ahead(len(divisors)).decays if rates.schedules_more else 1.0
        numbers = self._numbers(rates.ahead(len(divisors)), self._inverses(divisors), decays)
        return self.make(block, first, numbers, divisors, rates.history.step)

    def n_ahead(self, block: Block, first: int, most: int) -> int:
        """How many of a block's batches can be handed over together: of as many rows, on this process."""
        self._take_own_engine()
        if block.rows is None or self.program is None or self.objective.ranks is not None:
            return 0
        n_whole = block.rows.x.shape[-2] // block.batch_size - first
        return min(most, self.engine.at_once, max(1, n_whole))

    def _take_own_engine(self) -> None:
        """An engine is its thread's: where another one goes on with the training, it takes its own."""
        if threading.current_thread() is not self._thread:
            network, self._thread = self.objective.network, threading.current_thread()
            self.engine = engine_of(network.backend.runtime, network.backend.dtype, network.members)
            self._forget_graphs()
            self.objective.compute_with(*self._equivalents())

    def make(
        self, block: Block, first: int, numbers: np.ndarray, divisors: Sequence[Any], number: int
    ) -> int:
        """Make steps of a block with numbers (n_steps, 1 or members, …); return how many were made."""
        objective, optimizer, engine, program = self.objective, self.optimizer, self.engine, self.program
        room, n_made = objective.losses.room(len(divisors)), 0
        if objective.losses.broken or program is None or block.rows is None:
            return 0
        n_steps, start = room.n // (1 if objective.regularizer is None else 2), first * block.batch_size
        rows = block.rows.part(slice(start, None))
        n_rows = min(block.batch_size, rows.x.shape[-2])
        divisors, targets = divisors[:n_steps], self._rows_of(rows, n_rows)
        engine.begin(tuple(rows), numbers[:n_steps], number, room.start, 0)
        run, which = (
            functools.partial(self._compute, program, targets, room.waiting),
            ("step", n_rows, rows.weight is None),
        )
        try:
            for _ in divisors:
                self._launch(which, targets, run)
                n_made += 1
        except MemoryError:
            if not n_made:  # else what comes next says so again
                raise
        optimizer.t += n_made
        objective.losses.filled(*divisors[:n_made])
        return n_made

    def _inverses(self, divisors: Sequence[float]) -> Any:
        """What δ is multiplied with, from Σ s of each step."""
        return 1.0 if self.objective.reduction == "sum" else 1.0 / np.array(divisors)

    def _numbers(self, rates: Sequence[float], inverses: Any, decays: Any) -> np.ndarray:
        """What changes from step to step, (n_steps, 1, …)."""
        rule, t, program = self.optimizer.rule, self.optimizer.t + 1, self.program
        numbers = self.numbers_without_a_rule(len(rates), inverses)
        if program is not None:
            own = [programs.numbers_of_step(rule, program, *each) for each in enumerate(rates, t)]
            numbers[:, 0, : len(own[0])] = own
            if rule.weight_decay:
                numbers[:, 0, len(own[0]) - 1] = 1.0 - np.multiply(rates, decays) * rule.weight_decay
        return numbers

    def numbers_without_a_rule(self, n_steps: int, inverses: Any) -> np.ndarray:
        """What δ is multiplied with alone: a number, of each step, or of each step and member."""
        inverses = np.asarray(inverses)
        shape = n_steps, inverses.shape[1] if inverses.ndim > 1 else 1, self.engine.N_SCALARS
        numbers = np.zeros(shape, dtype=self.objective.network.backend.dtype_name)
        numbers[..., self.engine.INVERSE] = inverses.reshape(-1, shape[1])
        return numbers

    def _rows_of(self, chunk: Chunk, n_rows: int) -> tuple[Any, ...]:
        """Where so many rows are read, with or without weights: arrays whose addresses stay."""
        if n_rows > self._n_rows:
            self._forget_graphs()
            self._n_rows = n_rows
        key = n_rows, chunk.weight is None
        if key not in self._rows:
            xp = self.objective.network.backend.xp
            self._rows[key] = tuple(
                None if each is None else xp.empty_like(each[..., :n_rows, :]) for each in chunk
            )
        return self._rows[key]

    def _compute(self, program: Program, rows: tuple[Any, ...], waiting: Array) -> None:
        """One step on rows at a fixed address, its numbers in device memory; its values go to `waiting`."""
        objective, engine = self.objective, self.engine
        value = self._differentiate(rows, 0, 0, add=False)
        if objective.regularizer is None:
            engine.end_step(value, None, waiting)  # beside the derivatives of the first layer
            engine.join()
        else:
            engine.join()
            penalty = objective.add_penalty(engine.inverse[..., 0])
            engine.end_step(value, self._as_recorded(penalty), waiting)
        self._update(program)

    def add_chunk(
        self, x: Array, y: Array, weight: Array, factor: Any, number: int, first_row: int, *, add: bool
    ) -> Array:
        """As the objective's, captured; a factor is a number here, or an array on the host."""
        if weight is not None and x.ndim < weight.ndim:
            weight = weight[..., 0].mT  # as it lies in memory
        chunk, n_rows = Chunk(x, y, weight), x.shape[-2]
        rows, inverse = self._rows_of(chunk, n_rows), 1.0 if factor is None else np.ravel(factor)[np.newaxis]
        self.engine.begin(chunk, self.numbers_without_a_rule(1, inverse), number, 0, first_row)

        def run() -> Array:
            value = self._differentiate(rows, number, first_row, add=add)
            self.engine.join()
            return value

        return self._launch(("chunk", n_rows, add), rows, run)

    def _differentiate(self, rows: tuple[Any, ...], number: int, first_row: int, *, add: bool) -> Array:
        """Forward and backward of the rows whose turn it is; Σ s L. The gradient is complete after `join`."""
        objective, engine, (x, y, weight) = self.objective, self.engine, rows
        engine.take((x, y, weight))
        weight = None if weight is None else of_each(weight)
        engine.adds = add
        factor = None if isinstance(objective.loss, FusedLoss) else engine.inverse
        try:
            value = objective.add_chunk(x, y, weight, factor, number, first_row, add=add)
        except BaseException:
            engine.break_off()
            raise
        return self._as_recorded(value)

    def _as_recorded(self, value: Any) -> Array:
        """A value as the kernel reads it: a user's loss or penalty may return a number, or another dtype."""
        backend = self.objective.network.backend
        return None if value is None else backend.xp.asarray(value, dtype=backend.dtype)

    def _update(self, program: Program) -> None:
        """Move the weights, by the numbers in device memory."""
        optimizer, g = self.optimizer, self.objective.gradient.flat
        if self._limits is not None:
            self.engine.clip(g, self._limits)
        vectors = (g, optimizer.parameters.n_weights, optimizer.parameters.flat, *optimizer.state.values())
        self.engine.update(program, *vectors)

    def _launch(self, which: Hashable, rows: tuple[Any, ...] | None, run: Callable[[], Any]) -> Any:
        """Launch the graph of what `run` does, captured first where it is time to, or run; what it gives."""
        graph = self._graphs.get(which)
        if graph is None and self._is_to_be_captured(which, rows):
            graph = self._capture(which, rows, run)
        return run() if graph is None else graph.launch()

    def _is_to_be_captured(self, which: Hashable, rows: tuple[Any, ...] | None) -> bool:
        """Whether there were steps enough of as many rows as there are at most."""
        is_ragged = rows is not None and rows[0].shape[-2] < self._n_rows
        if is_ragged or not self.captures or not self.engine.is_current():
            return False
        self._n_eager[which] += 1
        return self._n_eager[which] > EAGER_STEPS

    def _capture(
        self, which: Hashable, rows: tuple[Any, ...] | None, run: Callable[[], Any]
    ) -> Captured | None:
        # What it reads and writes must live as long: also where the memo makes larger arrays later.
        self._of_graphs += [copy.copy(self.objective.memo), rows]
        try:
            self._graphs[which] = self.engine.capture(run)
        except self.engine.NotCapturedError as error:
            self.captures = False
            log.warning("steps are launched kernel by kernel, since this one cannot be captured: %s", error)
        return self._graphs.get(which)

    def apply(self, rate: float) -> None:
        """Move the weights along the gradient of a batch of several chunks or ranks."""
        if self.program is None:
            super().apply(rate)
        else:
            self.move(self.program, self._numbers([rate], 1.0, self.optimizer.decay_factor))

    def move(self, program: Program, numbers: np.ndarray) -> None:
        """Move the weights along the gradient, by a step's numbers."""
        self.engine.begin((None,) * 3, numbers, -1, 0, 0)
        self.optimizer.t += 1

        def run() -> None:
            self.engine.take((None,) * 3)
            self._update(program)

        self._launch("update", None, run)

    def _forget_graphs(self) -> None:
        self._n_rows = 0
        self._rows.clear()
        self._graphs.clear()
        self._of_graphs.clear()
        self._n_eager.clear()

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        self._forget_graphs()
        super().forget_buffers()
