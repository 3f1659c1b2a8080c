"""A training step on a CUDA GPU: fused kernels, and one launch for the whole step.

What computes lies in `fast.cuda` (the engine); here is how it takes the places of the plain parts. Steps of
one chunk are copied to fixed addresses, with all numbers that change from step to step; after a few of them
the step is captured as a graph, which is launched for every further step of as many rows. Ragged steps, and
those of several chunks or ranks, are launched kernel by kernel, with the same kernels.
"""

import copy
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

from mlp_xp.activations import Activation
from mlp_xp.dropout import Dropout
from mlp_xp.fast import programs
from mlp_xp.fast.cuda.engine import Engine, engine_of
from mlp_xp.fast.cuda.graph import Captured
from mlp_xp.fast.cuda.kernels import INVERSE
from mlp_xp.losses import GroupedCrossEntropy, Loss, Pinball, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.machine.symbolic import Program
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.regularizers import REGULARIZERS, Norms
from mlp_xp.rows.batch import Batch, Chunk
from mlp_xp.settings.catalogue import known_name
from mlp_xp.step import Step

EAGER_STEPS = 2
"""Steps of a size that are launched kernel by kernel first: kernels are compiled, cuBLAS chooses its own."""

log = logging.getLogger(__name__)


def plain_of(part: object) -> Any:
    """The plain part that a fused one stands for; any other part itself."""
    return getattr(part, "plain", part)


class FusedActivation(Activation):
    """An activation whose bias, value and derivative are one kernel."""

    def __init__(self, plain: Activation, both: programs.Both, engine: Engine, no_biases: Array) -> None:
        self.plain, self.both, self.engine, self.no_biases = plain, both, engine, no_biases
        self.keeps_output = plain.keeps_output

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """z ← f(z + b), and what the derivative follows from is kept."""
        if self.engine.handles(z):
            b = self.no_biases if biases is None else biases
            self.engine.activate(self.both.forward, z, b, None if self.keeps_output else kept)
        else:
            self.plain.activate(backend, z, biases, kept)

    def chain(self, backend: Backend, delta: Array, kept: Array) -> None:
        """δ ← δ ⊙ f'."""
        self.engine.chain(self.both.chain, delta, kept)


class FusedLoss:
    """A loss whose values and δ are filled by kernels, and whose values are summed.

    Parameters
    ----------
    plain : Loss
    engine : Engine
    fill : callable (z, y, weight, values)
        z becomes δ; values, one an output or one a row, are filled.
    per_row : bool
    """

    def __init__(
        self, plain: Loss, engine: Engine, fill: Callable[..., None], *, per_row: bool = False
    ) -> None:
        self.plain, self.engine, self.fill, self.per_row = plain, engine, fill, per_row
        self.labels, self.link, self.check_targets = plain.labels, plain.link, plain.check_targets

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        if not self.engine.handles(z):
            return self.plain(backend, z, y, weight)
        values = backend.empty(z.shape[:1] if self.per_row else z.shape)
        self.fill(z, y, weight, values)
        return backend.xp.sum(values)


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
    """Dropout's masks by one kernel, which reads the step's number from device memory."""

    def __init__(self, plain: Dropout, engine: Engine) -> None:
        self.plain, self.engine, self.rates = plain, engine, plain.rates

    def mask(self, backend: Backend, shape: tuple[int, int], step: int, layer: int, first_row: int) -> Array:
        """The plain masks."""
        mask = backend.empty(shape)
        if step != self.engine.number or not self.engine.handles(mask):
            return self.plain.mask(backend, shape, step, layer, first_row)
        threshold, factor = self.plain.threshold(layer)
        self.engine.dropout_mask(mask, self.plain.seed, layer, first_row, threshold, factor)
        return mask


class CudaStep(Step):
    """Steps by fused kernels and captured steps; the objective computes with them from now on.

    Parameters
    ----------
    objective, optimizer, clip_norm
        As in `Step`.
    captures : bool
        Whether to capture steps.
    schedules_more : bool
        Whether more than the rate changes from step to step: dropout or decay.
    engine : object, optional
        What computes (`cuda.engine.Engine`).
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        *,
        captures: bool = True,
        schedules_more: bool = False,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(objective, optimizer, clip_norm)
        backend = objective.network.backend
        self.engine = engine_of(backend.runtime, backend.dtype) if engine is None else engine
        self.captures = captures
        is_whole_rule = optimizer.groups is None and not schedules_more
        self.program = self._program_of_rule() if is_whole_rule else None
        objective.compute_with(*self._equivalents())
        self._buffers: tuple[Any, ...] | None = None
        self._graph: Captured | None = None
        self._of_graph: object = None
        self._repeated = (0, 0)

    def _equivalents(self) -> tuple[Network, Any, Any, Any]:
        """Network, loss, penalty and dropout that compute with the engine where it has something."""
        objective, engine, own = self.objective, self.engine, self.objective.network
        network = copy.copy(own)
        for name in ("layers", "output_is_linear"):
            vars(network).pop(name, None)
        network.backend = dataclasses.replace(own.backend, write=engine.writer(own.backend))
        no_biases = own.backend.zeros((1,))
        network.activations = [self._fused_activation(f, no_biases) for f in map(plain_of, own.activations)]
        loss, penalty = plain_of(objective.loss), plain_of(objective.regularizer)
        dropout = plain_of(objective.dropout)
        return (
            network,
            self._fused_loss(loss),
            FusedPenalty(penalty, engine) if self._is_norms(penalty) else penalty,
            FusedDropout(dropout, engine) if type(dropout) is Dropout else dropout,
        )

    def _fused_activation(self, f: Activation, no_biases: Array) -> Activation:
        both = programs.of_activation(f, self.objective.network.backend.dtype_name)
        if both is None or both.forward.changes_nothing:
            return f
        return FusedActivation(f, both, self.engine, no_biases)

    def _fused_loss(self, loss: Loss) -> Any:
        """The loss by a kernel, where it has one; others are captured as they are."""
        engine, backend = self.engine, self.objective.network.backend
        if type(loss) is Pinball:
            quantiles = backend.asarray(loss.quantiles)
            return FusedLoss(loss, engine, lambda z, y, s, values: engine.pinball(z, y, s, quantiles, values))
        if type(loss) is SoftmaxCrossEntropy or type(loss) is GroupedCrossEntropy:
            groups, numbers = getattr(loss, "groups", None), (loss.label_smoothing, loss.eps)

            def fill(z: Array, y: Array, weight: Array, values: Array) -> None:
                engine.cross_entropy(z, y, weight, groups or z.shape[1:], *numbers, values)

            return FusedLoss(loss, engine, fill, per_row=True)
        program = programs.of_loss(loss, backend.dtype_name)
        return FusedLoss(loss, engine, functools.partial(engine.differentiate, program)) if program else loss

    def _program_of_rule(self) -> Program | None:
        rule = self.optimizer.rule
        program = programs.of_rule(rule)
        fits = program and len(programs.numbers_of_step(rule, program, 1, 1.0)) <= INVERSE
        return program if fits else None

    def _is_norms(self, penalty: object) -> bool:
        return known_name(REGULARIZERS, penalty) is not None and isinstance(penalty, Norms)

    def __call__(self, batch: Batch, number: int, rate: float) -> None:
        """Make one."""
        chunk = batch.only_chunk
        if chunk is None or self.objective.ranks is not None or not batch.divisor or self.program is None:
            super().__call__(batch, number, rate)
            return
        objective, optimizer, engine = self.objective, self.optimizer, self.engine
        room = objective.losses.room()
        if objective.losses.broken:
            return
        rows = self._rows_of(chunk)
        inverse = 1.0 if objective.reduction == "sum" else 1.0 / batch.divisor
        numbers = programs.numbers_of_step(optimizer.rule, self.program, optimizer.t + 1, rate)
        engine.begin(tuple(chunk), rows, numbers, inverse, number, room.start)
        run = functools.partial(self._compute, self.program, rows, number, room.waiting)
        if not self._launch(batch.n_rows, rows, run):
            run()
        optimizer.t += 1
        objective.losses.filled(batch.divisor)

    def _rows_of(self, chunk: Chunk) -> tuple[Any, ...]:
        """Where the rows of a chunk go: the first rows of arrays whose addresses stay."""
        n_rows = chunk.x.shape[0]
        if self._buffers is None or self._buffers[0].shape[0] < n_rows:
            self._graph, self._buffers = None, None
            xp = self.objective.network.backend.xp
            self._buffers = tuple(None if each is None else xp.empty_like(each) for each in chunk)
        return tuple(None if each is None else each[:n_rows, ...] for each in self._buffers)

    def _compute(self, program: Program, rows: tuple[Any, ...], number: int, waiting: Array) -> None:
        """One step on rows at a fixed address, its numbers in device memory; its values go to `waiting`."""
        objective, engine = self.objective, self.engine
        x, y, weight = rows
        value = objective.add_chunk(x, y, weight, engine.inverse, number, 0, add=False)
        penalty = objective.add_penalty(engine.inverse)
        engine.record(self._as_recorded(value), self._as_recorded(penalty), waiting)
        self._update(program)

    def _as_recorded(self, value: Any) -> Array:
        """A value as the kernel reads it: a user's loss or penalty may return a number, or another dtype."""
        backend = self.objective.network.backend
        return None if value is None else backend.xp.asarray(value, dtype=backend.dtype)

    def _update(self, program: Program) -> None:
        """Move the weights, by the numbers in device memory."""
        optimizer, g = self.optimizer, self.objective.gradient.flat
        if self.clip_norm is not None:
            self.engine.clip(g, self.clip_norm)
        vectors = (g, optimizer.parameters.n_weights, optimizer.parameters.flat, *optimizer.state.values())
        self.engine.update(program, bool(optimizer.rule.weight_decay), *vectors)

    def _launch(self, n_rows: int, rows: tuple[Any, ...], run: Callable[[], None]) -> bool:
        """Launch the graph, captured first where it is time to; False where there is none for this step."""
        if not self.captures or self._buffers is None or not self.engine.is_current():
            return False
        if self._graph is None and n_rows == self._buffers[0].shape[0]:
            size, times = self._repeated
            self._repeated = (n_rows, times + 1 if size == n_rows else 1)
            if self._repeated[1] > EAGER_STEPS:
                self._capture(rows, run)
        if self._graph is None or n_rows != self._repeated[0]:
            return False
        self._graph.launch()
        return True

    def _capture(self, rows: tuple[Any, ...], run: Callable[[], None]) -> None:
        memo = self.objective.memo.of(rows[0].shape[0])
        try:
            self._graph = self.engine.capture(run)
        except self.engine.NotCapturedError as error:
            self.captures = False
            log.warning("steps are launched kernel by kernel, since this one cannot be captured: %s", error)
        else:
            self._of_graph = (memo, rows)  # what it reads and writes must live as long

    def apply(self, rate: float) -> None:
        """Move the weights along the gradient of a batch of several chunks."""
        if self.program is None:
            super().apply(rate)
            return
        optimizer = self.optimizer
        numbers = programs.numbers_of_step(optimizer.rule, self.program, optimizer.t + 1, rate)
        self.engine.begin((None,) * 3, (None,) * 3, numbers, 1.0, -1, 0)
        optimizer.t += 1
        self._update(self.program)

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        self._graph = self._buffers = self._of_graph = None
        self._repeated = (0, 0)
        super().forget_buffers()
