"""Starting weights, drawn at random on the host by one generator, so that every backend starts alike.

An initializer is asked for each layer in turn: `weights(generator, layer, n_in, n_out)` -> (n_in, n_out) and
`biases(generator, layer, n_in, n_out)` -> (n_out,), float64 host arrays. Biases start at zero unless given.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from mlp_xp.settings import checks


class Random:
    """What the random initializers share: biases of zero."""

    def biases(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Zeros."""
        return np.zeros(n_out)


def _uniform(generator: np.random.Generator, variance: float, shape: tuple[int, int]) -> np.ndarray:
    bound = math.sqrt(3.0 * variance)
    return generator.uniform(-bound, bound, shape)


def _normal(generator: np.random.Generator, variance: float, shape: tuple[int, int]) -> np.ndarray:
    return generator.normal(0.0, math.sqrt(variance), shape)


@dataclasses.dataclass(frozen=True)
class GlorotUniform(Random):
    """Variance 2 / (n_in + n_out): keeps the size of a and δ through layers that are linear near 0 (tanh).

    References
    ----------
    Glorot and Bengio, Understanding the difficulty of training deep networks, 2010, equation 16.
    """

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Uniform with that variance."""
        return _uniform(generator, 2.0 / (n_in + n_out), (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class GlorotNormal(Random):
    """Variance 2 / (n_in + n_out); Glorot and Bengio 2010, equation 12."""

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Normal with that variance."""
        return _normal(generator, 2.0 / (n_in + n_out), (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class HeUniform(Random):
    """Variance 2 / n_in: for relu and its kin, which pass on half of the variance.

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015, equation 10.
    """

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Uniform with that variance."""
        return _uniform(generator, 2.0 / n_in, (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class HeNormal(Random):
    """Variance 2 / n_in; He et al. 2015, equation 10."""

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Normal with that variance."""
        return _normal(generator, 2.0 / n_in, (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class LeCunUniform(Random):
    """Variance 1 / n_in: for selu.

    References
    ----------
    LeCun et al., Efficient backprop, 1998, equation 16.
    """

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Uniform with that variance."""
        return _uniform(generator, 1.0 / n_in, (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class LeCunNormal(Random):
    """Variance 1 / n_in; LeCun et al. 1998, equation 16."""

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Normal with that variance."""
        return _normal(generator, 1.0 / n_in, (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class Orthogonal(Random):
    """Orthonormal rows or columns (whichever are fewer), times a gain.

    Parameters
    ----------
    gain : float > 0
        The factor on every singular value; √2 suits relu.

    References
    ----------
    Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning, ICLR 2014.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        """Check the gain."""
        checks.refuse([checks.number("gain", self.gain, above=0)])

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """The Q of a normal matrix; signs fixed by R's diagonal, so that Q is uniform."""
        q, r = np.linalg.qr(generator.normal(size=(max(n_in, n_out), min(n_in, n_out))))
        q *= self.gain * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return q if n_in >= n_out else q.T


@dataclasses.dataclass(frozen=True)
class Uniform(Random):
    """Uniform between two bounds, whatever the layer.

    Parameters
    ----------
    low, high : float
        The bounds, low < high.
    """

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        """Check the bounds."""
        checks.refuse([checks.number("low", self.low), checks.number("high", self.high)])
        checks.refuse([checks.number("high", self.high, above=self.low)])

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Uniform in [low, high)."""
        return generator.uniform(self.low, self.high, (n_in, n_out))


@dataclasses.dataclass(frozen=True)
class Normal(Random):
    """Normal with one mean and deviation, whatever the layer.

    Parameters
    ----------
    mean, deviation : float
        Mean and standard deviation (> 0).
    """

    mean: float = 0.0
    deviation: float = 0.05

    def __post_init__(self) -> None:
        """Check both."""
        checks.refuse([checks.number("mean", self.mean), checks.number("deviation", self.deviation, above=0)])

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Normal."""
        return generator.normal(self.mean, self.deviation, (n_in, n_out))


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Weights that somebody has already.

    Parameters
    ----------
    layer_weights : sequence of array_like (n_in, n_out)
        One matrix a layer, from the first to the last; copied.
    layer_biases : sequence of array_like (n_out,), optional
        One vector a layer; zeros if not given.
    """

    layer_weights: Any
    layer_biases: Any = None

    def _layer(self, what: str, arrays: Any, layer: int, shape: tuple[int, ...]) -> np.ndarray:
        found = np.array(arrays[layer], dtype=float) if layer < len(arrays) else None
        if found is None or found.shape != shape or not np.isfinite(found).all():
            raise ValueError(
                f"given {what} of layer {layer + 1}: needed finite numbers of shape {shape}, got "
                f"{'nothing' if found is None else f'shape {found.shape}'}."
            )
        return found

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """The given matrix."""
        return self._layer("weights", self.layer_weights, layer, (n_in, n_out))

    def biases(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """The given vector."""
        if self.layer_biases is None:
            return np.zeros(n_out)
        return self._layer("biases", self.layer_biases, layer, (n_out,))


INITIALIZERS: dict[str, type] = {
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LeCunUniform,
    "lecun_normal": LeCunNormal,
    "orthogonal": Orthogonal,
    "uniform": Uniform,
    "normal": Normal,
    "given": Given,
}

SUITED = {
    "relu": "he_uniform",
    "leaky_relu": "he_uniform",
    "elu": "he_uniform",
    "softplus": "he_uniform",
    "silu": "he_uniform",
    "gelu": "he_uniform",
    "mish": "he_uniform",
    "selu": "lecun_normal",
}
"""The initializer that `Network` takes for an activation when none is named; Glorot's for the others."""
