"""The objective and its gradient over one step, a list of chunks.

    J = (Σ_i s_i L_i + λ R(w)) / Σ_i s_i        "mean"
    J =  Σ_i s_i L_i + λ R(w)                   "sum"

L_i sums over the outputs; s_i is the sample weight; biases are never penalised.
"""

import array
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlp_xp.backprop import backprop
from mlp_xp.dropout import Dropout
from mlp_xp.forward import Memo, forward
from mlp_xp.machine.array_api import Array, to_host
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.rows.loader import Loader, Step
from mlp_xp.run.micro_batches import within_memory

READ_EVERY = 4096
"""Values that wait on the device before the host reads them all at once."""


class Values:
    """Numbers computed on the device, read by the host many at a time: reading one stops a GPU's queue.

    Attributes
    ----------
    read : array.array of float
        What the host has seen so far: 8 bytes each, where a list of floats takes 32.
    broken : bool
        Whether something among it is infinite or nan.
    waiting : array (READ_EVERY,)
        On the device: what it has not; always the same array.
    """

    def __init__(self, network: Network) -> None:
        self.waiting = network.backend.zeros((READ_EVERY,))
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._n_waiting = 0
        self.read = array.array("d")
        self.broken = False

    def append(self, value: Array) -> None:
        """Store a 0-d array on the device."""
        self.waiting[self._n_waiting] = value
        self._n_waiting += 1
        if self._n_waiting == READ_EVERY:
            self.flush()

    def place(self, n: int) -> int:
        """Where in `waiting` the next n values go; a step that stores them itself says `stored` after."""
        if self._n_waiting + n > READ_EVERY:
            self.flush()
        return self._n_waiting

    def stored(self, n: int) -> None:
        """Count n values that are in their place; read all when it is time."""
        self._n_waiting += n
        if self._n_waiting == READ_EVERY:
            self.flush()

    def forget(self, n: int) -> None:
        """Forget the last n values."""
        known = len(self.read) + self._n_waiting - n
        self._n_waiting = max(0, self._n_waiting - n)
        del self.read[known - self._n_waiting :]

    def flush(self) -> None:
        """Read what is waiting."""
        latest = to_host(self.waiting)[: self._n_waiting].tolist()
        self.read.extend(latest)
        self.broken = self.broken or not all(map(math.isfinite, latest))
        self._n_waiting = 0


class Objective:
    """J and its gradient for one network, loss and regularizer; owns the memo and the gradient.

    Parameters
    ----------
    network : Network
        Read.
    loss : loss
        From `losses`.
    regularizer : regularizer, optional
        From `regularizers`.
    dropout : Dropout, optional
        For hidden units.
    reduction : "mean" or "sum"
        Whether J is divided by Σ s_i.
    ranks : Ranks, optional
        The processes over which a step's rows are shared out; J and its gradient are those of all rows.

    Attributes
    ----------
    gradient : Parameters
        ∂J/∂w of the step last differentiated.
    """

    def __init__(
        self,
        network: Network,
        loss: Any,
        regularizer: Any = None,
        dropout: Dropout | None = None,
        reduction: str = "mean",
        ranks: Ranks | None = None,
    ) -> None:
        self.network, self.loss, self.regularizer = network, loss, regularizer
        self.dropout, self.reduction, self.ranks = dropout, reduction, ranks
        self.targets = targets_of(network, loss, ranks)
        self._memo: Memo | None = None
        self.gradient = network.parameters.zeros_like(extra=0 if ranks is None else 3)
        self.values = Values(network)
        self.start_epoch()

    @property
    def memo(self) -> Memo:
        """What the forward pass of a chunk remembers; made with the first chunk, and again once forgotten."""
        if self._memo is None:
            self._memo = Memo(self.network, 1)
        return self._memo

    def start_epoch(self) -> None:
        """Forget the values of the last epoch."""
        self.values.clear()
        self._steps_of_values = array.array("q")
        self._divisors = array.array("d")

    def differentiate(self, step: Step, number: int = 0) -> None:
        """Fill `gradient` with ∂J/∂w over a step's chunks; J's terms wait on the device.

        Parameters
        ----------
        step : Step
            Its chunks are consumed.
        number : int
            The update's number from 0, of which dropout is a function.
        """
        gradient = self.gradient
        known = step.divisor if self.reduction == "mean" else None
        n_done, own_value = 0, 0.0
        computing, most_weights = self.network.backend.runtime.computing, gradient.most_weights
        for x, y, weight in step:
            factor = 1.0 / known if known else None
            with computing(x.shape[0] * most_weights):
                value = self.add_chunk(x, y, weight, factor, number, step.first_row + n_done, add=n_done > 0)
            n_done += x.shape[0]
            if self.ranks is None:
                self._record(value)
            else:
                own_value = own_value + value
        if self.ranks is not None:
            self._add_up(self.ranks, own_value, step, n_done)
        divisor = step.divisor or 0.0
        scale = 1.0 if self.reduction == "sum" else 1.0 / divisor if divisor else 0.0
        if not known and scale != 1.0:
            gradient.flat *= scale
        if self.regularizer is not None and divisor:
            self._record(self.add_penalty(scale))
        self._divisors.append(divisor)

    def add_chunk(
        self,
        x: Array,
        y: Array,
        weight: Array | None,
        factor: Any,
        number: int,
        first_row: int,
        *,
        add: bool,
    ) -> Array:
        """Write the chunk's Σ s_i ∂L_i/∂w, times a factor, to `gradient` (or add it); return its Σ s_i L_i.

        Parameters
        ----------
        x, y, weight : arrays
            A chunk; read.
        factor : float, array of one element, or None
            What δ is multiplied with.
        number, first_row : int
            What dropout is a function of.
        add : bool
            Whether to add.
        """
        memo = self.memo.of(x.shape[0])
        z = forward(self.network, x, memo, self.dropout, number, first_row)
        value = self.loss(self.network.backend, z, y, weight)  # Σ s L; z is now δ
        if factor is not None:
            z *= factor
        backprop(self.network, memo, z, self.gradient, add=add)
        return value

    def add_penalty(self, scale: Any) -> Array:
        """Add scale · λ ∂R/∂w to `gradient`; return λ R."""
        backend, weights = self.network.backend, self.network.parameters.flat_weights
        self.regularizer.add_gradient(backend, weights, self.gradient.flat_weights, scale)
        return self.regularizer.value(backend, weights)

    def compute_with(self, network: Network, loss: Any, regularizer: Any, dropout: Any) -> None:
        """Use other objects that compute the same: fused kernels, say. The parameters stay where they are."""
        self.network, self.loss, self.regularizer, self.dropout = network, loss, regularizer, dropout
        self.forget_buffers()

    def forget_buffers(self) -> None:
        """Let go of the memory that depends on the number of rows; the next chunk makes it again."""
        self._memo = None

    def forget_step(self) -> None:
        """Forget what is known of a step that was not completed."""
        n_values = self._steps_of_values.count(len(self._divisors))
        self.values.forget(n_values)
        del self._steps_of_values[len(self._steps_of_values) - n_values :]

    def record_stored(self, n_values: int, *divisors: float) -> None:
        """Count steps whose values are among the waiting ones already: of each Σ s_i L_i, and perhaps λ R."""
        first = len(self._divisors)
        self._divisors.extend(divisors)
        self._steps_of_values.extend(n for n in range(first, len(self._divisors)) for _ in range(n_values))
        self.values.stored(n_values * len(divisors))

    def _add_up(self, ranks: Ranks, own_value: Any, step: Step, n_rows: int) -> None:
        """Sum the gradient, Σ s_i L_i, Σ s_i and wishes to stop over all ranks, in one message."""
        gradient, size = self.gradient, self.gradient.size
        if not n_rows:
            gradient.flat[...] = 0.0
        gradient.vector[size] = own_value
        own = (step.own_weight, float(ranks.stop_asked))
        weight, n_that_stop = ranks.sum(gradient.vector, own, self.network.backend)
        ranks.stop_agreed = n_that_stop > 0
        self._record(gradient.vector[size])
        if step.divisor is None:
            step.divisor = weight

    def _record(self, value: Array) -> None:
        self.values.append(value)
        self._steps_of_values.append(len(self._divisors))

    def epoch_loss(self) -> float:
        """J over the steps since `start_epoch`, each at the weights of its time, summed in float64.

        "mean" divides by Σ s_i of the epoch; "sum" leaves it out and averages the penalty over the steps.
        """
        self.values.flush()
        if self.values.broken:
            return math.nan
        try:
            return self._mean_or_sum()
        except OverflowError:  # each is finite, their sum is not
            return math.inf

    def _mean_or_sum(self) -> float:
        if self.reduction == "sum":
            losses, penalties, divisors = zip(*self.step_terms(), strict=True)
            return math.fsum(losses) + math.fsum(penalties) / max(1, sum(map(bool, divisors)))
        divisor = math.fsum(self._divisors)
        return math.fsum(self.values.read) / divisor if divisor else 0.0

    def step_terms(self) -> list[tuple[float, float, float]]:
        """Σ s_i L_i, λ R(w) and Σ s_i of each step since `start_epoch`."""
        self.values.flush()
        values: list[list[float]] = [[] for _ in self._divisors]
        for step, value in zip(self._steps_of_values, self.values.read, strict=True):
            values[step].append(value)
        terms = []
        for of_step, divisor in zip(values, self._divisors, strict=True):
            penalty = of_step.pop() if self.regularizer is not None and divisor else 0.0
            terms.append((sum(of_step), penalty, divisor))
        return terms

    def epoch_so_far(self) -> dict[str, np.ndarray]:
        """The values of the epoch under way, as host arrays."""
        self.values.flush()
        return {
            "epoch.values": np.array(self.values.read, dtype=np.float64),
            "epoch.steps": np.array(self._steps_of_values, dtype=np.int64),
            "epoch.divisors": np.array(self._divisors, dtype=np.float64),
        }

    def restore_epoch(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on with an epoch from what `epoch_so_far` gave."""
        self.start_epoch()
        self.values.read = array.array("d", arrays["epoch.values"].tolist())
        self._steps_of_values = array.array("q", arrays["epoch.steps"].tolist())
        self._divisors = array.array("d", arrays["epoch.divisors"].tolist())

    def first_failure(self) -> int | None:
        """The first step since `start_epoch` (from 0) whose value is not finite; None if all are."""
        self.values.flush()
        for step, value in zip(self._steps_of_values, self.values.read, strict=True):
            if not math.isfinite(value):
                return step
        return None


def targets_of(network: Network, loss: Any, ranks: Ranks | None = None) -> dict[str, Any]:
    """What a loader is told: which targets a loss takes, and which rows are this rank's."""
    n_outputs = network.layer_sizes[-1]
    return {
        "labels": loss.labels,
        "check": lambda y: loss.check_targets(y, n_outputs),
        "share": (0, 1) if ranks is None else ranks.share,
    }


def mean_loss(network: Network, loader: Loader, loss: Any, ranks: Ranks | None = None) -> float:
    """The loss over all rows of a loader, without penalty and dropout: Σ s_i L_i / Σ s_i.

    In chunks, on the device, shared out over ranks; the host reads once.
    """

    def over_rows() -> tuple[float, float]:
        memo = Memo(network, 1, way_back=False)
        values, divisor = Values(network), 0.0
        computing, most_weights = network.backend.runtime.computing, network.parameters.most_weights
        for step in loader.steps(0, network.backend, **targets_of(network, loss, ranks)):
            for x, y, weight in step:
                with computing(x.shape[0] * most_weights):
                    value = loss(network.backend, forward(network, x, memo.of(x.shape[0])), y, weight)
                values.append(value)
            divisor += step.own_weight
        values.flush()
        return math.fsum(values.read), divisor

    network.backend.runtime.select()
    with network.backend.runtime.working():
        total, divisor = within_memory(loader, network, over_rows)
    if ranks is not None:
        total, divisor = ranks.sum_numbers([total, divisor])
    return total / divisor if divisor else math.nan
