"""The objective and its gradient over one step, a list of chunks.

    J = (Σ_i s_i L_i + λ R(w)) / Σ_i s_i        "mean"
    J =  Σ_i s_i L_i + λ R(w)                   "sum"

L_i sums over the outputs; s_i is the sample weight; biases are never penalised.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlp_xp.array_api import Array, to_host
from mlp_xp.backprop import backprop
from mlp_xp.data_parallel import Ranks
from mlp_xp.dropout import Dropout
from mlp_xp.forward import Memo, forward
from mlp_xp.loader import Loader, Step
from mlp_xp.network import Network

READ_EVERY = 4096
"""Values that wait on the device before the host reads them all at once."""


class Values:
    """Numbers computed on the device, read by the host many at a time: reading one stops a GPU's queue.

    Attributes
    ----------
    read : list of float
        What the host has seen so far.
    broken : bool
        Whether something among it is infinite or nan.
    """

    def __init__(self, network: Network) -> None:
        self._waiting = network.backend.zeros((READ_EVERY,))
        self._n_waiting = 0
        self.read: list[float] = []
        self.broken = False

    def append(self, value: Array) -> None:
        """Store a 0-d array on the device."""
        self._waiting[self._n_waiting] = value
        self._n_waiting += 1
        if self._n_waiting == READ_EVERY:
            self.flush()

    def flush(self) -> None:
        """Read what is waiting."""
        latest = to_host(self._waiting)[: self._n_waiting].tolist()
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
        self.memo = Memo(network, 1)
        self.gradient = network.parameters.zeros_like(extra=0 if ranks is None else 2)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the values of the last epoch."""
        self.values = Values(self.network)
        self._steps_of_values: list[int] = []
        self._divisors: list[float] = []

    def differentiate(self, step: Step, number: int = 0) -> None:
        """Fill `gradient` with ∂J/∂w over a step's chunks; J's terms wait on the device.

        Parameters
        ----------
        step : Step
            Its chunks are consumed.
        number : int
            The update's number from 0, of which dropout is a function.
        """
        network, backend, gradient = self.network, self.network.backend, self.gradient
        known = step.divisor if self.reduction == "mean" else None
        n_done, own_value = 0, 0.0
        for x, y, weight in step:
            n_rows = x.shape[0]
            memo = self.memo.of(n_rows)
            z = forward(network, x, memo, self.dropout, number, step.first_row + n_done)
            value = self.loss(backend, z, y, weight)  # Σ s L; z is now δ
            if known:
                z *= 1.0 / known
            backprop(network, memo, z, gradient, add=n_done > 0)
            n_done += n_rows
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
            weights = network.parameters.flat_weights
            self.regularizer.add_gradient(backend, weights, gradient.flat_weights, scale)
            self._record(self.regularizer.value(backend, weights))
        self._divisors.append(divisor)

    def _add_up(self, ranks: Ranks, own_value: Any, step: Step, n_rows: int) -> None:
        """Sum the gradient, Σ s_i L_i and Σ s_i over all ranks, in one message."""
        gradient, size = self.gradient, self.gradient.size
        if not n_rows:
            gradient.flat[...] = 0.0
        gradient.vector[size] = own_value
        gradient.vector[size + 1] = step.own_weight
        ranks.sum(gradient.vector, self.network.backend)
        self._record(gradient.vector[size])
        if step.divisor is None:
            step.divisor = float(to_host(gradient.vector[size + 1]))

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
            "epoch.values": np.asarray(self.values.read, dtype=np.float64),
            "epoch.steps": np.asarray(self._steps_of_values, dtype=np.int64),
            "epoch.divisors": np.asarray(self._divisors, dtype=np.float64),
        }

    def restore_epoch(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on with an epoch from what `epoch_so_far` gave."""
        self.start_epoch()
        self.values.read = arrays["epoch.values"].tolist()
        self._steps_of_values = arrays["epoch.steps"].tolist()
        self._divisors = arrays["epoch.divisors"].tolist()

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
    memo = Memo(network, 1, way_back=False)
    values, divisor = Values(network), 0.0
    for step in loader.steps(0, network.backend, **targets_of(network, loss, ranks)):
        for x, y, weight in step:
            values.append(loss(network.backend, forward(network, x, memo.of(x.shape[0])), y, weight))
        divisor += step.own_weight
    values.flush()
    total = math.fsum(values.read)
    if ranks is not None:
        total, divisor = ranks.sum_numbers([total, divisor])
    return total / divisor if divisor else math.nan
