"""The objective and its gradient over one batch, a list of chunks.

    J = (Σ_i s_i L_i + λ R(w)) / Σ_i s_i        "mean"
    J =  Σ_i s_i L_i + λ R(w)                   "sum"

L_i sums over the outputs; s_i is the sample weight; biases are never penalised.
"""

import functools
from collections.abc import Callable, Collection

import numpy as np

from mlp_xp.backprop import backprop
from mlp_xp.dropout import Dropout
from mlp_xp.epoch_losses import EpochLosses
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.regularizers import Regularizer
from mlp_xp.rows.batch import Batch
from mlp_xp.rows.loader import Wanted

AddChunk = Callable[..., Array]
"""What does as `Objective.add_chunk`."""


class Objective:
    """J and its gradient for one network, loss and regularizer; owns the memo and the gradient.

    Where a step's rows are shared out over `ranks`, they are those of all rows.

    Attributes
    ----------
    gradient : Parameters
        ∂J/∂w of the batch last differentiated.
    losses : EpochLosses
        J's terms, step by step.
    frozen : collection of int
        The layers that are not trained: their gradient is not computed.
    given : tuple
        Network, loss, regularizer and dropout as they were given, whatever computes in their places.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        regularizer: Regularizer | None = None,
        dropout: Dropout | None = None,
        reduction: str = "mean",
        ranks: Ranks | None = None,
    ) -> None:
        self.network, self.loss, self.regularizer = network, loss, regularizer
        self.dropout = self._dropout = dropout
        self.reduction, self.ranks = reduction, ranks
        self.given = network, loss, regularizer, dropout
        self.targets = targets_of(network, loss, ranks)
        n_sums = 1 + 2 * (network.members or 1)  # a wish to stop, Σ s_i L_i and Σ s_i
        self.gradient = network.parameters.zeros_like(extra=0 if ranks is None else n_sums)
        self.losses = self._new_losses(takes_mean=reduction == "mean", has_penalty=regularizer is not None)
        self.frozen: Collection[int] = ()

    def _new_losses(self, **terms: bool) -> EpochLosses:
        """Where J's terms wait."""
        return EpochLosses(self.network.backend, **terms)

    @functools.cached_property
    def memo(self) -> Memo:
        """What the forward pass of a chunk remembers; made with the first chunk, and again once forgotten."""
        return Memo(self.network, 1)

    def differentiate(self, batch: Batch, number: int = 0, add_chunk: AddChunk | None = None) -> None:
        """Fill `gradient` with ∂J/∂w over a batch's chunks, which are consumed; J's terms wait on the device.

        Dropout is a function of the update's number, from 0. `add_chunk` takes the place of the method.
        """
        gradient = self.gradient
        known = batch.divisor if self.reduction == "mean" else None
        self.add_chunks(batch, number, 1.0 / known if known else None, add_chunk)
        divisor = batch.divisor or 0.0
        scale = 1.0 if self.reduction == "sum" else 1.0 / divisor if divisor else 0.0
        if not known and scale != 1.0:
            gradient.flat *= scale
        if divisor and (penalty := self.add_penalty(scale)) is not None:
            self.losses.add(penalty)
        self.losses.end_step(divisor)

    def add_chunks(
        self, batch: Batch, number: int, factor: float | Array | None, add_chunk: AddChunk | None = None
    ) -> None:
        """Fill `gradient` with the Σ s_i ∂L_i/∂w of a batch, times a factor; its Σ s_i L_i waits."""
        n_done, own_value, add_chunk = 0, 0.0, add_chunk or self.add_chunk
        for x, y, weight in batch:
            at = batch.first_row + n_done
            value = add_chunk(x, y, weight, factor, number, at, add=n_done > 0)
            n_done += x.shape[-2]
            if self.ranks is None:
                self.losses.add(value)
            else:
                own_value = own_value + value
        if self.ranks is not None:
            self._add_up(self.ranks, own_value, batch, n_done)

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
        """Write the chunk's Σ s_i ∂L_i/∂w, times a factor, to `gradient` (or add it); return its Σ s_i L_i.

        The chunk is read. Dropout is a function of the update's number and of the chunk's first row.
        """
        memo = self.memo.of(x.shape[-2])
        z = forward(self.network, x, memo, self.dropout, number, first_row)
        value = self.loss(self.network.backend, z, y, weight)  # Σ s L; z is now δ
        if factor is not None:
            z *= factor
        backprop(self.network, memo, z, self.gradient, add=add, frozen=self.frozen)
        return value

    def add_penalty(self, scale: float | Array) -> Array | None:
        """Add scale · λ ∂R/∂w to `gradient`; return λ R, or None without a penalty."""
        if self.regularizer is None:
            return None
        backend, weights = self.network.backend, self.network.parameters.flat_weights
        self.regularizer.add_gradient(backend, weights, self.gradient.flat_weights, scale)
        return self.regularizer.value(backend, weights)

    def compute_with(
        self, network: Network, loss: Loss, regularizer: Regularizer | None, dropout: Dropout | None
    ) -> None:
        """Use other objects that compute the same: fused kernels, say. The parameters stay where they are."""
        self.network, self.loss, self.regularizer = network, loss, regularizer
        self.dropout = self._dropout = dropout
        self.forget_buffers()

    def drop(self, factor: float) -> None:
        """Drop units with all probabilities times a factor in [0, 1] from now on."""
        if self._dropout is not None:
            self.dropout = self._dropout.times(factor)

    def forget_buffers(self) -> None:
        """Let go of the memory that depends on the number of rows; the next chunk makes it again."""
        vars(self).pop("memo", None)

    def _add_up(self, ranks: Ranks, own_value: float | Array, batch: Batch, n_rows: int) -> None:
        """Sum the gradient, Σ s_i L_i, Σ s_i and wishes to stop over all ranks, in one message."""
        gradient, members = self.gradient, self.network.members
        if not n_rows:
            gradient.flat[...] = 0.0
        values = gradient.extra[: members or 1]
        values[...] = own_value
        own = np.broadcast_to(batch.own_weight, members or 1).tolist()
        *weights, n_that_stop = ranks.sum(
            gradient.vector, [*own, float(ranks.stop_wanted)], self.network.backend
        )
        ranks.stop_agreed = n_that_stop > 0
        self.losses.add(values[0] if members is None else values)
        if batch.divisor is None:
            batch.divisor = weights[0] if members is None else np.array(weights)


def targets_of(network: Network, loss: Loss, ranks: Ranks | None = None) -> Wanted:
    """What a loader is told: which targets a loss takes, and which rows are this rank's."""
    n_outputs = network.layer_sizes[-1]
    return {
        "labels": loss.labels,
        "check": lambda y: loss.check_targets(y, n_outputs),
        "share": (0, 1) if ranks is None else ranks.share,
        "members": network.members or 1,
    }
