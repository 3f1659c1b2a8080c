"""Penalties on the weights (never on biases): the λ R(w) of the objective and its gradient.

    value(backend, w)                          λ R(w), a 0-d array on the device
    add_gradient(backend, w, gradient, scale)  gradient += scale · λ ∂R/∂w, in place; w is read

w is the flat vector of all weights.
"""

import dataclasses

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import checks


@dataclasses.dataclass(frozen=True)
class ElasticNet:
    """λ R(w) = l1 Σ |w| + l2 Σ w².

    Parameters
    ----------
    l1, l2 : float >= 0
        The strengths of the two penalties.

    References
    ----------
    Zou and Hastie, Regularization and variable selection via the elastic net, 2005.
    """

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        """Check both strengths."""
        checks.refuse([checks.number("l1", self.l1, least=0), checks.number("l2", self.l2, least=0)])

    def value(self, backend: Backend, w: Array) -> Array:
        """l1 Σ |w| + l2 Σ w²."""
        value = self.l2 * (w @ w)
        if self.l1:
            value = value + self.l1 * backend.xp.sum(backend.xp.abs(w))
        return value

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · (l1 sign(w) + 2 l2 w); at w = 0 the l1 part is 0."""
        xp, dtype = backend.xp, backend.dtype
        for block in backend.blocks(w.shape[0]):
            if self.l2:
                gradient[block] += (2.0 * self.l2 * scale) * w[block]
            if self.l1:
                positive, negative = xp.astype(w[block] > 0.0, dtype), xp.astype(w[block] < 0.0, dtype)
                gradient[block] += (self.l1 * scale) * (positive - negative)


@dataclasses.dataclass(frozen=True)
class L1:
    """λ R(w) = λ Σ |w|, which drives weights to zero.

    Parameters
    ----------
    strength : float >= 0
        λ.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        """Check λ."""
        checks.refuse([checks.number("strength", self.strength, least=0)])

    def value(self, backend: Backend, w: Array) -> Array:
        """λ Σ |w|."""
        return ElasticNet(l1=self.strength).value(backend, w)

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · λ sign(w)."""
        ElasticNet(l1=self.strength).add_gradient(backend, w, gradient, scale)


@dataclasses.dataclass(frozen=True)
class L2:
    """λ R(w) = λ Σ w², also called ridge.

    Parameters
    ----------
    strength : float >= 0
        λ (half of scikit-learn's alpha).
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        """Check λ."""
        checks.refuse([checks.number("strength", self.strength, least=0)])

    def value(self, backend: Backend, w: Array) -> Array:
        """λ Σ w²."""
        return ElasticNet(l2=self.strength).value(backend, w)

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · 2 λ w."""
        ElasticNet(l2=self.strength).add_gradient(backend, w, gradient, scale)


REGULARIZERS: dict[str, type] = {"l1": L1, "l2": L2, "elastic_net": ElasticNet}
