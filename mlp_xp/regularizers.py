"""Penalties on the weights (never on biases): the λ R(w) of the objective and its gradient.

    value(backend, w)                          λ R(w), a 0-d array on the device, or (members,)
    add_gradient(backend, w, gradient, scale)  gradient += scale · λ ∂R/∂w, in place; w is read

w is the flat vector of all weights (n_weights,), or (members, n_weights).
"""

import dataclasses

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import fields


class Regularizer(fields.Checked):
    """What a penalty is asked."""

    def value(self, backend: Backend, w: Array) -> Array:
        """λ R(w)."""
        raise NotImplementedError

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · λ ∂R/∂w."""
        raise NotImplementedError


class Norms(Regularizer):
    """λ R(w) = l1 Σ |w| + l2 Σ w², with the strengths that a subclass states."""

    @property
    def strengths(self) -> tuple[float, float]:
        """l1 and l2."""
        raise NotImplementedError

    def value(self, backend: Backend, w: Array) -> Array:
        """l1 Σ |w| + l2 Σ w²."""
        l1, l2 = self.strengths
        value = l2 * backend.xp.vecdot(w, w)
        if l1:
            value = value + l1 * backend.xp.sum(backend.xp.abs(w), axis=-1)
        return value

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · (l1 sign(w) + 2 l2 w); at w = 0 the l1 part is 0."""
        xp, dtype = backend.xp, backend.dtype
        l1, l2 = self.strengths
        for block in backend.blocks(*w.shape):
            if l2:
                gradient[..., block] += (2.0 * l2 * scale) * w[..., block]
            if l1:
                positive, negative = w[..., block] > 0.0, w[..., block] < 0.0
                sign = xp.astype(positive, dtype) - xp.astype(negative, dtype)
                gradient[..., block] += (l1 * scale) * sign


@dataclasses.dataclass(frozen=True)
class ElasticNet(Norms):
    """λ R(w) = l1 Σ |w| + l2 Σ w².

    Parameters
    ----------
    l1, l2 : float >= 0, or one for each member
        The strengths of the two penalties.

    References
    ----------
    Zou and Hastie, Regularization and variable selection via the elastic net, 2005.
    """

    l1: fields.OneOrEach = fields.number(0.0, least=0, of_each=True)
    l2: fields.OneOrEach = fields.number(0.0, least=0, of_each=True)

    @property
    def strengths(self) -> tuple[float, float]:
        """l1 and l2."""
        return self.l1, self.l2


@dataclasses.dataclass(frozen=True)
class L1(Norms):
    """λ R(w) = λ Σ |w|, which drives weights to zero.

    Parameters
    ----------
    strength : float >= 0, or one for each member
        λ.
    """

    strength: fields.OneOrEach = fields.number(1e-4, least=0, of_each=True)

    @property
    def strengths(self) -> tuple[float, float]:
        """λ and 0."""
        return self.strength, 0.0


@dataclasses.dataclass(frozen=True)
class L2(Norms):
    """λ R(w) = λ Σ w², also called ridge.

    Parameters
    ----------
    strength : float >= 0, or one for each member
        λ (half of scikit-learn's alpha).
    """

    strength: fields.OneOrEach = fields.number(1e-4, least=0, of_each=True)

    @property
    def strengths(self) -> tuple[float, float]:
        """0 and λ."""
        return 0.0, self.strength


REGULARIZERS: dict[str, type[Regularizer]] = {"l1": L1, "l2": L2, "elastic_net": ElasticNet}
