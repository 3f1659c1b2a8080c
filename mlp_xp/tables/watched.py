"""What the rows held out are judged by after each epoch: what predictions will be worth when they are given.

Values of these losses alone are used: they have no derivative.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array, Backend

DOUBT = 3.0
"""c: how many nats of the held-out rows a temperature of e must win."""

LARGEST_LOG = 2.0
"""Temperatures are from e^-2 to e^2."""

LOGS = np.linspace(-LARGEST_LOG, LARGEST_LOG, 9)
"""u at which the loss is computed; it is a cubic polynomial between two of them."""

MANY = 2**15
"""Numbers of which some are computed together: more would not stay in the cache."""

PLACES = np.linspace(0.0, 1.0, 64, endpoint=False)[:, np.newaxis]
"""Where between two of them the best u is looked for."""


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

    That is `tables.calibration`, of one network or each member. An epoch after which a network says more, but
    is too sure of it, is then no worse than one before it. What it takes are sums over rows, so that chunks
    and ranks do not matter: of the loss and its derivative by u = −log T, Σ_ij δ_ij z_ij / T, at some u, and
    of s².

    References
    ----------
    Berta, Holzmüller, Jordan and Bach, Rethinking early stopping: refine, then calibrate, 2025
    (arXiv 2501.19195).
    """

    loss: Loss
    smoothing: float
    n_sums: ClassVar[int] = 2 * len(LOGS) + 1

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """As the loss itself."""
        self.loss.check_targets(y, n_outputs)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """The sums, of members of each; z is read."""
        xp, n_parts = backend.xp, min(len(LOGS), 1 + math.prod(z.shape) // MANY)
        found: list[tuple[Array, Array]] = []
        for logs in np.array_split(LOGS, n_parts):
            scaled = backend.asarray(np.exp(logs).reshape(-1, *[1] * z.ndim)) * z
            delta = xp.asarray(scaled, copy=True)
            found.append((self.loss(backend, delta, y, weight), xp.sum(delta * scaled, axis=(-2, -1))))
        of_each = [xp.concat(each, axis=0) for each in zip(*found, strict=True)]
        squares = xp.sum(z[..., 0] * 0.0 + 1.0 if weight is None else (weight * weight)[..., 0], axis=-1)
        return xp.moveaxis(xp.concat([*of_each, squares + 0.0 * of_each[0][:1, ...]], axis=0), 0, -1)

    def mean_of(self, sums: Sequence[float], divisor: float) -> float:
        """What rows cost at the best temperature."""
        losses, slopes = np.reshape(sums[:-1], (2, -1))
        share = divisor / sums[-1]  # n / Σ s
        off = LOGS - 2.0 * self.smoothing
        with np.errstate(all="ignore"):  # what is not finite is no good epoch
            cost = _between(share * losses + DOUBT * off**2, share * slopes + 2.0 * DOUBT * off)
            return float(_between(losses, slopes).flat[np.argmin(cost)]) / divisor


def _between(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The cubic polynomials that have values and slopes at `LOGS`, at places between two (n, 8)."""
    t, width = PLACES, LOGS[1] - LOGS[0]
    left, right = values[:-1] + width * slopes[:-1] * t, values[1:] - width * slopes[1:] * (1.0 - t)
    return (1.0 - t) ** 2 * (left + 2.0 * t * values[:-1]) + t**2 * (right + 2.0 * (1.0 - t) * values[1:])
