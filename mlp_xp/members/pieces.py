"""Losses, penalties and dropout of which each member has its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from mlp_xp.dropout import Dropout
from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.regularizers import Regularizer


def as_one(pieces: Sequence[Any], make: Callable[[Sequence[Any]], Any]) -> Any:
    """The piece that all members have, or what `make` makes of theirs."""
    return pieces[0] if all(piece == pieces[0] for piece in pieces) else make(pieces)


def some(piece: Any, first: int, stop: int) -> Any:
    """Of a piece what belongs to some members: all of it, where all have the same."""
    if isinstance(piece, EachLoss):
        return piece.of_members(first, stop)
    return EachDropout(piece.of_each[first:stop]) if isinstance(piece, EachDropout) else piece


def alone(piece: Any, member: int) -> Any:
    """A member's own."""
    if isinstance(piece, EachLoss):
        return piece.losses[member]
    return piece.of_each[member] if isinstance(piece, EachDropout) else piece


def own(array: Array | None, member: int) -> Array | None:
    """A member's part of targets or weights, which may be for all."""
    return array[member, ...] if array is not None and array.ndim == 3 else array


@dataclasses.dataclass(frozen=True)
class EachLoss(Loss):
    """A loss for each member.

    Raises ValueError: they predict different things.
    """

    losses: Sequence[Loss]
    labels: ClassVar[bool]

    def __post_init__(self) -> None:
        """Check that they predict the same."""
        first = self.losses[0]
        if any(loss.link != first.link or loss.labels != first.labels for loss in self.losses):
            raise ValueError("the losses of all members must have one link and one kind of targets.")
        object.__setattr__(self, "link", first.link)
        object.__setattr__(self, "labels", first.labels)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L of each member; z becomes δ."""
        values = [loss(backend, z[n, ...], own(y, n), own(weight, n)) for n, loss in enumerate(self.losses)]
        return backend.xp.stack(values)

    def of_members(self, first: int, stop: int) -> "EachLoss":
        """Those of some members."""
        return EachLoss(self.losses[first:stop])

    def n_outputs(self, n_targets: int, n_classes: int | None) -> int:
        """Outputs that a network needs for this loss."""
        return self.losses[0].n_outputs(n_targets, n_classes)

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse targets for which one of the losses has no meaning."""
        for loss in self.losses:
            loss.check_targets(y, n_outputs)


@dataclasses.dataclass(frozen=True)
class EachPenalty(Regularizer):
    """A penalty, or none, for each member."""

    penalties: Sequence[Regularizer | None]

    def value(self, backend: Backend, w: Array) -> Array:
        """λ R(w) of each member."""
        values = backend.zeros((len(self.penalties),))
        for n, penalty in enumerate(self.penalties):
            if penalty is not None:
                values[n] = penalty.value(backend, w[n, ...])
        return values

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float | Array) -> None:
        """Add scale · λ ∂R/∂w."""
        for n, penalty in enumerate(self.penalties):
            if penalty is not None:
                part = scale if isinstance(scale, float) else scale[n, ...]
                penalty.add_gradient(backend, w[n, ...], gradient[n, ...], part)


class EachDropout(Dropout):
    """Dropout with a seed, and perhaps with rates, for each member."""

    of_each: Sequence[Dropout]

    def __init__(self, of_each: Sequence[Dropout]) -> None:
        rates = tuple(max(of_layer) for of_layer in zip(*(each.rates for each in of_each), strict=True))
        super().__init__(rates, of_each[0].seed)
        object.__setattr__(self, "of_each", of_each)

    def times(self, factor: float) -> "EachDropout":
        """The same with all probabilities times a factor in [0, 1]."""
        return EachDropout([each.times(factor) for each in self.of_each])

    def mask(self, backend: Backend, shape: tuple[int, ...], step: int, layer: int, first_row: int) -> Array:
        """Factors of each member, of shape (members, n_rows, n_units)."""
        return backend.xp.stack([each.mask(backend, shape, step, layer, first_row) for each in self.of_each])
