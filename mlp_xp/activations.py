"""Each activation beside its derivative.

Backprop needs differentiable activations; where the derivative is easy, training is fast. The easiest are
those whose derivative follows from the output: they `keeps_output`, and the way back needs nothing but the
a that the forward pass already has (tanh: f' = 1 − a²). The others compute f'(z) while z is hot and keep it.

Every activation has two methods, three lines apart:

    forward(backend, z, kept)    z is consumed: it becomes a = f(z). Where the derivative does not follow
                                 from a, `kept` is filled with f'(z) (None: nobody will ask for it).
    derivative(backend, kept)    f'(z) from what was kept, which is consumed. Shapes: (…, n_rows, n_units).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import fields
from mlp_xp.settings.catalogue import resolve


def logistic(backend: Backend, z: Array) -> Array:
    """1 / (1 + e^−z), in place: z is consumed.

    z is bounded below where e^−z would overflow (−87 in float32): the result there is below 1e-38.
    """
    xp, into = backend.xp, backend.into
    into(z, xp.maximum, z, math.log(xp.finfo(backend.dtype).smallest_normal))
    into(z, xp.negative, z)
    into(z, xp.exp, z)
    z += 1.0
    return into(z, xp.divide, 1.0, z)


def softplus(backend: Backend, z: Array) -> Array:
    """log(1 + e^z) without overflow: max(z, 0) + log(1 + e^−|z|). z is read."""
    xp = backend.xp
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


LONG_ROW = 32
"""Units from which NumPy combines a matrix with a row faster than with a number."""


class Activation(fields.Checked):
    """A layer's nonlinearity as the forward pass and backprop use it; a fused kernel is one of these, too.

    Attributes
    ----------
    keeps_output : bool
        Whether the derivative follows from the output.
    initializer : str
        The starting weights that a network takes for it when none are named (`initializers.INITIALIZERS`).
    """

    keeps_output: bool = False
    initializer: ClassVar[str] = "glorot_uniform"

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """z ← f(z + b), and what the derivative follows from is kept."""
        if biases is not None:
            z += biases
        self.forward(backend, z, kept)

    def chain(self, backend: Backend, delta: Array, kept: Array) -> None:
        """δ ← δ ⊙ f': the chain rule through f. What was kept is consumed."""
        delta *= self.derivative(backend, kept)

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z ← f(z)."""
        raise AttributeError("an activation knows its function")

    def derivative(self, backend: Backend, kept: Array) -> Array | float:
        """f'(z)."""
        raise AttributeError("an activation knows its derivative")


BLOCKS = 4
"""Blocks (`Backend.block`) that a function of many passes takes at a time."""


class ManyPasses(Activation):
    """One with many temporaries, which takes many rows some at a time.

    Those of all would be asked for anew of the system at every call, and filled with zeros by it (gelu of
    1024 × 2048: 18, not 7 ms). Its derivative is made on the way there, and is what is kept.
    """

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """z ← f(z + b), and what the derivative follows from is kept."""
        n_rows, most = z.shape[-2], max(1, BLOCKS * backend.block * z.shape[-2] // math.prod(z.shape))
        for first in range(0, n_rows, most):
            rows = slice(first, min(first + most, n_rows))
            super().activate(backend, z[..., rows, :], biases, None if kept is None else kept[..., rows, :])

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """f'(z), as it was kept."""
        return kept


@dataclasses.dataclass(frozen=True)
class Identity(Activation):
    """f(z) = z, f' = 1."""

    keeps_output = True

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """Leave z as it is."""

    def derivative(self, backend: Backend, kept: Array) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Logistic(Activation):
    """f(z) = 1 / (1 + e^−z), f' = a (1 − a)."""

    keeps_output = True

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes 1 / (1 + e^−z)."""
        logistic(backend, z)

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """a (1 − a)."""
        return kept - kept * kept


@dataclasses.dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh z, f' = 1 − a²."""

    keeps_output = True

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes tanh z."""
        backend.into(z, backend.xp.tanh, z)

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """1 − a²."""
        backend.into(kept, backend.xp.multiply, kept, kept)
        return backend.into(kept, backend.xp.subtract, 1.0, kept)


@dataclasses.dataclass(frozen=True)
class Relu(Activation):
    """f(z) = max(z, 0), f' = 1 where a > 0, else 0."""

    keeps_output = True
    initializer = "he_uniform"

    def activate(self, backend: Backend, z: Array, biases: Array | None, kept: Array | None) -> None:
        """z ← max(z, −b) + b, which is max(z + b, 0).

        NumPy compares with a long row twice as fast as with a number (both lines, 200 × 100: 9, not 13 µs).
        """
        if biases is None or z.shape[-1] < LONG_ROW:
            super().activate(backend, z, biases, kept)
            return
        backend.into(z, backend.xp.maximum, z, -biases)
        z += biases

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes max(z, 0)."""
        backend.into(z, backend.xp.maximum, z, 0.0)

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """1 where a > 0, else 0."""
        return backend.into(kept, backend.xp.greater, kept, 0.0)


@dataclasses.dataclass(frozen=True)
class LeakyRelu(Activation):
    """f(z) = max(z, slope · z), f' = 1 where a > 0, else slope.

    Parameters
    ----------
    slope : float in (0, 1)
        The derivative where z is negative.
    """

    slope: float = fields.number(0.01, above=0, below=1)
    keeps_output = True
    initializer = "he_uniform"

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes max(z, slope · z)."""
        backend.into(z, backend.xp.maximum, z, self.slope * z)

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """1 where a > 0, else slope."""
        backend.into(kept, backend.xp.greater, kept, 0.0)
        kept *= 1.0 - self.slope
        kept += self.slope
        return kept


@dataclasses.dataclass(frozen=True)
class Elu(Activation):
    """f(z) = z where z > 0, else α (e^z − 1); f' = 1 where a > 0, else a + α.

    Parameters
    ----------
    alpha : float > 0
        Minus the value at −∞.

    References
    ----------
    Clevert, Unterthiner and Hochreiter, Exponential linear units, ICLR 2016, equation 15.
    """

    alpha: float = fields.number(1.0, above=0)
    keeps_output = True
    initializer = "he_uniform"

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes max(z, 0) + α (e^min(z, 0) − 1)."""
        xp = backend.xp
        negative = self.alpha * xp.expm1(xp.minimum(z, 0.0))
        backend.into(z, xp.maximum, z, 0.0)
        z += negative

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """1 where a > 0, else a + α, as min(a, 0) + α + (a > 0) (1 − α)."""
        return _elu_derivative(backend, kept, 1.0, self.alpha)


def _elu_derivative(backend: Backend, kept: Array, right: float, left: float) -> Array:
    """`right` where a > 0, else a + `left`; `where` on random signs is 20 times slower on NumPy."""
    xp = backend.xp
    step = (right - left) * xp.astype(kept > 0.0, backend.dtype)
    backend.into(kept, xp.minimum, kept, 0.0)
    kept += left
    kept += step
    return kept


@dataclasses.dataclass(frozen=True)
class Selu(Activation):
    """f(z) = λ z where z > 0, else λ α (e^z − 1); f' = λ where a > 0, else a + λ α.

    λ and α are those for which activations keep mean 0 and variance 1 from layer to layer.

    References
    ----------
    Klambauer et al., Self-normalizing neural networks, NeurIPS 2017, equation 2 and appendix A1.
    """

    keeps_output = True
    initializer = "lecun_normal"
    scale: ClassVar[float] = 1.0507009873554805
    alpha: ClassVar[float] = 1.6732632423543772

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes λ (max(z, 0) + α (e^min(z, 0) − 1))."""
        Elu(self.alpha).forward(backend, z, kept)
        z *= self.scale

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """λ where a > 0, else a + λ α."""
        return _elu_derivative(backend, kept, self.scale, self.scale * self.alpha)


@dataclasses.dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + e^z), f' = 1 − e^−a."""

    keeps_output = True
    initializer = "he_uniform"

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes log(1 + e^z)."""
        z[...] = softplus(backend, z)

    def derivative(self, backend: Backend, kept: Array) -> Array:
        """1 − e^−a."""
        return -backend.xp.expm1(-kept)


@dataclasses.dataclass(frozen=True)
class Silu(ManyPasses):
    """f(z) = z σ(z), f' = σ (1 + z (1 − σ)) with σ the logistic function; also called swish.

    References
    ----------
    Elfwing, Uchibe and Doya, Sigmoid-weighted linear units, Neural Networks 107, 2018, equations 2 and 4.
    """

    initializer = "he_uniform"

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes z σ(z); kept becomes σ (1 + z (1 − σ))."""
        xp = backend.xp
        sigma = logistic(backend, z + 0.0)
        if kept is not None:
            kept[...] = sigma * (1.0 + z * (1.0 - sigma))
        backend.into(z, xp.multiply, z, sigma)


@dataclasses.dataclass(frozen=True)
class Gelu(ManyPasses):
    """f(z) = z/2 (1 + t), t = tanh(c (z + k z³)); f' = (1 + t)/2 + z/2 (1 − t²) c (1 + 3 k z²).

    The tanh form (c = √(2/π), k = 0.044715): neither NumPy nor the Array API standard has erf. It differs
    from z Φ(z) by at most 5e-4.

    References
    ----------
    Hendrycks and Gimpel, Gaussian error linear units, 2016, section 2.
    """

    initializer = "he_uniform"
    c: ClassVar[float] = math.sqrt(2.0 / math.pi)
    k: ClassVar[float] = 0.044715

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes z/2 (1 + t)."""
        xp = backend.xp
        bounded = xp.minimum(xp.maximum(z, -100.0), 100.0)  # beyond, t is ±1 and z³ would overflow
        square = bounded * bounded
        t = xp.tanh(self.c * bounded * (1.0 + self.k * square))
        half = 0.5 * (1.0 + t)
        if kept is not None:
            kept[...] = half + 0.5 * bounded * ((1.0 - t * t) * self.c * (1.0 + 3.0 * self.k * square))
        backend.into(z, xp.multiply, z, half)


@dataclasses.dataclass(frozen=True)
class Mish(ManyPasses):
    """f(z) = z t, t = tanh(log(1 + e^z)); f' = t + z σ(z) (1 − t²).

    References
    ----------
    Misra, Mish, BMVC 2020, equation 1.
    """

    initializer = "he_uniform"

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes z tanh(log(1 + e^z))."""
        xp = backend.xp
        t = xp.tanh(softplus(backend, z))
        if kept is not None:
            kept[...] = t + z * logistic(backend, z + 0.0) * (1.0 - t * t)
        backend.into(z, xp.multiply, z, t)


@dataclasses.dataclass(frozen=True)
class Custom(ManyPasses):
    """A user's own activation: a pair of functions of z, checked against each other when it is given.

    Parameters
    ----------
    value, derivative : callable
        Functions of one array z that return an array of its shape, written with operators or with the
        functions of the array's own namespace (``z.__array_namespace__()``; NumPy's on the CPU).

    Raises
    ------
    TypeError
        One of them is missing or cannot be called.
    ValueError
        The derivative is not that of the value; the message says where and by how much.
    """

    value: Callable[[Array], Array]
    derivative_of_z: Callable[[Array], Array]

    def __post_init__(self) -> None:
        """Compare the derivative with difference quotients of the value."""
        check_derivative(self.value, self.derivative_of_z)

    @property
    def name(self) -> str:
        """The name of the value function, by which a saved network asks for it again."""
        return getattr(self.value, "__name__", "activation")

    def forward(self, backend: Backend, z: Array, kept: Array | None) -> None:
        """z becomes value(z); kept becomes derivative(z)."""
        if kept is not None:
            kept[...] = self.derivative_of_z(z)
        z[...] = self.value(z)


def check_derivative(
    value: Callable[[Array], Array],
    derivative: Callable[[Array], Array],
    what: str = "an activation",
    of: str = "z",
) -> None:
    """Refuse a pair whose derivative is not the derivative of its value.

    Compares f'(z) with the central difference (f(z+h) − f(z−h)) / 2h at 201 points of [−5, 5] in float64.
    A point where the quotients of the two sides, or those of two step sizes, disagree is a kink or a jump
    of the function and is skipped.

    Raises
    ------
    TypeError, ValueError
        See `Custom`.
    """
    for role, function in (("value", value), ("derivative", derivative)):
        if not callable(function):
            raise TypeError(
                f"{what} of a user's own is a pair of functions of {of} (value, derivative); "
                f"the {role} is {function!r}."
            )
    # Off the round numbers, where people put their kinks.
    z = np.linspace(-5.0, 5.0, 201) + 1e-3 * math.sqrt(2.0)
    h = 1e-5
    results = []
    for role, function, at in (
        ("derivative", derivative, z),
        ("value", value, z),
        ("value", value, z + h),
        ("value", value, z - h),
    ):
        result = np.asarray(function(at.copy()))
        if result.shape != z.shape or result.dtype.kind != "f" or not np.isfinite(result).all():
            raise ValueError(
                f"the {role} function of {what} must return finite numbers, one for each {of}: got "
                f"shape {result.shape} and dtype {result.dtype} for shape {z.shape}, with "
                f"{np.count_nonzero(~np.isfinite(np.asarray(result, dtype=float)))} not finite "
                f"for {of} in [-5, 5]."
            )
        results.append(result)
    given, here, right, left = results
    forward, backward, central = (right - here) / h, (here - left) / h, (right - left) / (2 * h)
    scale = np.maximum(np.abs(central), 1.0)
    smooth = np.abs(forward - backward) <= 1e-3 * scale
    error = np.where(smooth, np.abs(given - central) / scale, 0.0)
    worst = int(np.argmax(error))
    if not smooth.any() or error[worst] > 1e-5:
        raise ValueError(
            f"the derivative given for {what} is not that of its value: at {of} = {z[worst]:.6g} it "
            f"returns {given[worst]:.6g}, but the value changes at a rate of {central[worst]:.6g} there "
            f"(difference {given[worst] - central[worst]:.3g}). Give the pair (value, derivative), both "
            f"functions of {of}."
        )


ACTIVATIONS: dict[str, type[Activation]] = {
    "identity": Identity,
    "logistic": Logistic,
    "tanh": Tanh,
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "elu": Elu,
    "selu": Selu,
    "softplus": Softplus,
    "silu": Silu,
    "gelu": Gelu,
    "mish": Mish,
}


def resolve_activation(given: object) -> Activation:
    """An activation from its name, from an instance, or from a user's pair (value, derivative)."""
    if isinstance(given, Custom):
        return given
    if callable(given) and not isinstance(given, type) and not hasattr(given, "keeps_output"):
        raise TypeError(
            f"activation={given!r} comes without its derivative: give the pair (value, derivative), both "
            "functions of z."
        )
    if isinstance(given, tuple) and len(given) == 2 and any(callable(part) for part in given):
        return Custom(*given)
    return resolve("activation", ACTIVATIONS, given)
