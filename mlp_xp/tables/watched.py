"""A loss of predictions that go no further out than the targets that were trained on."""

import dataclasses

import numpy as np

from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array, Backend


@dataclasses.dataclass(frozen=True, eq=False)
class Bounded(Loss):
    """Another loss, at z that is clipped: what a held-out row costs when predictions are.

    One row far outside, whose prediction would be anything, then decides nothing. Its value alone is used;
    there is no derivative. The bounds are those of each target, standardised.
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
