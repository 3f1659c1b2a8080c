"""What the rows held out are judged by after each epoch: what predictions will be worth when they are given.

Values of these losses alone are used: they have no derivative.
"""

import dataclasses
import functools

import numpy as np

from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array, Backend

DOUBT = 3.0
"""c: how many nats of the held-out rows a temperature of e must win."""

LARGEST_LOG = 2.0
"""Temperatures are from e^-2 to e^2."""

HALVINGS = 8
"""Of the range in which log T is: then it is known to 0.01."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bounded(Loss):
    """Another loss, at z that is clipped: what a held-out row costs when predictions are.

    One row far outside, whose prediction would be anything, then decides nothing. The bounds are those of
    each target, standardised.
    """

    loss: Loss
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """As the loss itself."""
        self.loss.check_targets(y, n_outputs)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Σ s_i L_i; z is consumed."""
        repeat = z.shape[-1] // len(self.lower)
        xp = backend.xp
        least, most = (
            backend.asarray([bound for bound in bounds for _ in range(repeat)])
            for bounds in (self.lower, self.upper)
        )
        return self.loss(backend, xp.minimum(xp.maximum(z, least), most), y, weight)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated(Loss):
    """A cross-entropy at z / T, with the T that suits the rows: what they cost when a network is calibrated.

        T = argmin  n Σ_i s_i L_i(z / T) / Σ_i s_i  +  c (log T + 2 ε)²          n = (Σ s)² / Σ s²

    That is `tables.calibration`, of one network or each member, and of the rows that are looked at together.
    An epoch after which a network says more, but is too sure of it, is then no worse than one before it. The
    derivative by u = −log T follows from the loss's own: Σ_ij δ_ij z_ij / T.

    References
    ----------
    Berta, Holzmüller, Jordan and Bach, Rethinking early stopping: refine, then calibrate, 2025
    (arXiv 2501.19195).
    """

    loss: Loss
    smoothing: float

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """As the loss itself."""
        self.loss.check_targets(y, n_outputs)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Σ s_i L_i, of members of each; z is read."""
        xp = backend.xp
        of_each = functools.partial(xp.sum, axis=(-2, -1))
        share: Array | float = 1.0  # n / Σ s
        if weight is not None:
            squares = of_each(weight * weight)
            share = of_each(weight) / xp.where(squares > 0, squares, xp.ones_like(squares))
        low = of_each(z) * 0.0 - LARGEST_LOG
        high = low + 2.0 * LARGEST_LOG
        for _ in range(HALVINGS):
            log = 0.5 * (low + high)
            scaled = z * xp.exp(log)[..., None, None]
            delta = xp.asarray(scaled, copy=True)
            self.loss(backend, delta, y, weight)
            is_above = share * of_each(delta * scaled) + 2.0 * DOUBT * (log - 2.0 * self.smoothing) > 0
            low, high = xp.where(is_above, low, log), xp.where(is_above, log, high)
        return self.loss(backend, z * xp.exp(0.5 * (low + high))[..., None, None], y, weight)
