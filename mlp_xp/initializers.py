"""Starting weights, drawn at random on the host by one generator, so that every backend starts alike.

An initializer is asked for each layer in turn: `weights(generator, layer, n_in, n_out)` -> (n_in, n_out) and
`biases(generator, layer, n_in, n_out)` -> (n_out,), float64 host arrays. Biases start at zero unless given.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.settings import checks, fields


class Initializer(Protocol):
    """What an initializer is asked, for each layer in turn."""

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Weights (n_in, n_out)."""

    def biases(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Biases (n_out,)."""


@dataclasses.dataclass(frozen=True)
class Random(fields.Checked):
    """What the random initializers share: biases.

    Parameters
    ----------
    bias_deviation : float >= 0
        Standard deviation of the biases, which are normal with mean 0; zeros if it is 0.
    """

    bias_deviation: float = fields.number(0.0, least=0, kw_only=True)

    def biases(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Zeros, or normal; nothing is drawn for zeros."""
        if not self.bias_deviation:
            return np.zeros(n_out)
        return generator.normal(0.0, self.bias_deviation, n_out)


class Zeros(Random):
    """Weights of zero: for an output layer, whose first predictions are then the same for all rows.

    A hidden layer of them learns nothing, since all of its units stay alike.
    """

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Zeros; nothing is drawn."""
        return np.zeros((n_in, n_out))


class Scaled(Random):
    """Variance gain / fan, so that a and δ keep their size from layer to layer; uniform or normal."""

    gain: ClassVar[float] = 1.0
    is_uniform: ClassVar[bool] = True

    def fan(self, n_in: int, n_out: int) -> float:
        """What the variance falls with: the number of inputs."""
        return n_in

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Uniform or normal with that variance."""
        variance = self.gain / self.fan(n_in, n_out)
        if self.is_uniform:
            bound = math.sqrt(3.0 * variance)
            return generator.uniform(-bound, bound, (n_in, n_out))
        return generator.normal(0.0, math.sqrt(variance), (n_in, n_out))


class GlorotUniform(Scaled):
    """Variance 2 / (n_in + n_out): for layers that are linear near 0 (tanh), there and on the way back.

    References
    ----------
    Glorot and Bengio, Understanding the difficulty of training deep networks, 2010, equation 16.
    """

    def fan(self, n_in: int, n_out: int) -> float:
        """The mean of inputs and outputs."""
        return (n_in + n_out) / 2.0


class GlorotNormal(GlorotUniform):
    """Variance 2 / (n_in + n_out); Glorot and Bengio 2010, equation 12."""

    is_uniform = False


class HeUniform(Scaled):
    """Variance 2 / n_in: for relu and its kin, which pass on half of the variance.

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015, equation 10.
    """

    gain = 2.0


class HeNormal(HeUniform):
    """Variance 2 / n_in; He et al. 2015, equation 10."""

    is_uniform = False


class LeCunUniform(Scaled):
    """Variance 1 / n_in: for selu.

    References
    ----------
    LeCun et al., Efficient backprop, 1998, equation 16.
    """


class LeCunNormal(LeCunUniform):
    """Variance 1 / n_in; LeCun et al. 1998, equation 16."""

    is_uniform = False


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

    gain: float = fields.number(1.0, above=0)

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

    low: float = fields.number(-0.05)
    high: float = fields.number(0.05)

    def __post_init__(self) -> None:
        """Check the bounds, and that they are in order."""
        super().__post_init__()
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

    mean: float = fields.number(0.0)
    deviation: float = fields.number(0.05, above=0)

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

    layer_weights: Sequence[ArrayLike]
    layer_biases: Sequence[ArrayLike] | None = None

    def _layer(
        self, what: str, arrays: Sequence[ArrayLike], layer: int, shape: tuple[int, ...]
    ) -> np.ndarray:
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


INITIALIZERS: dict[str, type[Initializer]] = {
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LeCunUniform,
    "lecun_normal": LeCunNormal,
    "orthogonal": Orthogonal,
    "uniform": Uniform,
    "normal": Normal,
    "zeros": Zeros,
    "given": Given,
}
