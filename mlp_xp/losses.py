"""Each loss with its output link: value and δ = ∂L/∂z in one pass, from the last layer's z.

A loss starts from z, never from probabilities, so nothing is clipped and no pair of output activation and
loss is illegal: the loss owns its link, and `Network.predict` applies it.

    value = loss(backend, z, y, weight)      Σ_i s_i L_i, a 0-d array on the device; L_i sums over outputs

z (n_rows, n_outputs) is consumed: it becomes δ, with rows s_i ∂L_i/∂z_i. y is read: (n_rows, n_targets) of
the backend's dtype, or int32 class numbers (n_rows, 1). weight is read: s, (n_rows, 1), or None for all ones.
"""

import dataclasses
import itertools
import math
from typing import Any, ClassVar

import numpy as np

from mlp_xp.activations import logistic, softplus
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import checks


@dataclasses.dataclass(frozen=True)
class IdentityLink:
    """Predictions are z."""

    def __call__(self, backend: Backend, z: Array) -> Array:
        """Return z."""
        return z


@dataclasses.dataclass(frozen=True)
class LogisticLink:
    """Predictions are probabilities, one an output: 1 / (1 + e^−z)."""

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        return logistic(backend, z)


@dataclasses.dataclass(frozen=True)
class SoftmaxLink:
    """Predictions are probabilities that sum to one over the outputs: e^z / Σ e^z."""

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        xp = backend.xp
        z -= xp.max(z, axis=-1, keepdims=True)
        backend.into(z, xp.exp, z)
        z /= xp.sum(z, axis=-1, keepdims=True)
        return z


@dataclasses.dataclass(frozen=True)
class ExpLink:
    """Predictions are rates: e^z."""

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        return backend.into(z, backend.xp.exp, z)


@dataclasses.dataclass(frozen=True)
class SortedLink:
    """Predictions are quantiles, put in order for each target: column t · n_quantiles + q.

    Parameters
    ----------
    n_quantiles : int
        Neighbouring columns that belong to one target.
    """

    n_quantiles: int = 1

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is read."""
        grouped = backend.xp.reshape(z, (z.shape[0], -1, self.n_quantiles))
        return backend.xp.reshape(backend.xp.sort(grouped, axis=-1), z.shape)


@dataclasses.dataclass(frozen=True)
class GroupedSoftmaxLink:
    """Predictions are probabilities that sum to one over each group of neighbouring outputs.

    Parameters
    ----------
    groups : tuple of int
        Outputs of each group, from the first on.
    """

    groups: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        """Check the groups; a list is as good as a tuple."""
        object.__setattr__(self, "groups", tuple(self.groups))
        checks.refuse(checks.whole("groups", size) for size in self.groups)

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        for columns in group_columns(self.groups):
            SoftmaxLink()(backend, z[:, columns])
        return z


def group_columns(groups: tuple[int, ...]) -> list[slice]:
    """The columns of each group."""
    stops = list(itertools.accumulate(groups))
    return [slice(stop - size, stop) for size, stop in zip(groups, stops, strict=True)]


LINKS: dict[str, type] = {
    "identity": IdentityLink,
    "logistic": LogisticLink,
    "softmax": SoftmaxLink,
    "exp": ExpLink,
    "sorted": SortedLink,
    "grouped_softmax": GroupedSoftmaxLink,
}


def _total(backend: Backend, per_output: Array, weight: Array | None) -> Array:
    """Σ_i s_i Σ_j of an array (n_rows, n_outputs)."""
    return backend.xp.sum(per_output if weight is None else per_output * weight)


def _weigh(delta: Array, weight: Array | None) -> None:
    if weight is not None:
        delta *= weight


def _row_sums(backend: Backend, a: Array, ones: Array | None) -> Array:
    """Σ_j of an array (n_rows, n_outputs), (n_rows, 1); with `ones` (n_outputs, 1), by a product.

    Few columns are multiplied with ones, which takes a third of `sum`'s time (200 × 10: 2 instead of 7 µs);
    many are left to `sum`, whose pairwise order keeps digits that float32 needs.
    """
    return backend.xp.sum(a, axis=-1, keepdims=True) if ones is None else a @ ones


FEW_COLUMNS = 32


def _bounded(backend: Backend, eps: float, *minus_log_p: Array) -> tuple[Array, ...]:
    """−log p with p bounded to [ε, 1 − ε]: what scikit-learn reports; ε = 0 leaves it alone."""
    if not eps:
        return minus_log_p
    xp, most, least = backend.xp, -math.log(eps), -math.log1p(-eps)
    return tuple(xp.minimum(xp.maximum(each, least), most) for each in minus_log_p)


class Regression:
    """What the losses on real targets share: as many outputs as targets, predictions that are z."""

    link: Any = IdentityLink()
    labels: ClassVar[bool] = False
    standardises_target: ClassVar[bool] = True

    def n_outputs(self, n_targets: int, n_classes: int | None) -> int:
        """Outputs that a network needs for this loss."""
        return n_targets

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse targets (host array) for which the loss has no meaning."""
        needed = self.n_outputs(y.shape[1], None)
        if needed != n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} target columns, for which this loss needs a network with {needed} "
                f"outputs, but it has {n_outputs}."
            )


@dataclasses.dataclass(frozen=True)
class SquaredError(Regression):
    """L = (y − z)², δ = 2 (z − y)."""

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        z -= y
        value = _total(backend, z * z, weight)
        z *= 2.0
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class HalfSquaredError(Regression):
    """L = (y − z)² / 2, δ = z − y."""

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        z -= y
        value = 0.5 * _total(backend, z * z, weight)
        _weigh(z, weight)
        return value


def _sign(backend: Backend, a: Array) -> Array:
    """−1, 0 or 1; array-api-compat's `sign` reads the device on CuPy."""
    xp = backend.xp
    return xp.astype(a > 0.0, backend.dtype) - xp.astype(a < 0.0, backend.dtype)


@dataclasses.dataclass(frozen=True)
class AbsoluteError(Regression):
    """L = |y − z|, δ = sign(z − y)."""

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        z -= y
        value = _total(backend, backend.xp.abs(z), weight)
        z[...] = _sign(backend, z)
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class Huber(Regression):
    """With r = z − y: L = r²/2 where |r| ≤ d, else d (|r| − d/2); δ = r, bounded to [−d, d].

    Parameters
    ----------
    delta : float > 0
        d, in units of the target (on the command line: of the standardised target).

    References
    ----------
    Huber, Robust estimation of a location parameter, 1964.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        """Check d."""
        checks.refuse([checks.number("delta", self.delta, above=0)])

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        xp = backend.xp
        z -= y
        bounded = xp.minimum(xp.maximum(z, -self.delta), self.delta)
        value = _total(backend, bounded * (z - 0.5 * bounded), weight)  # r²/2, or ±d (r ∓ d/2)
        z[...] = bounded
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class Pinball(Regression):
    """With r = y − z and a quantile q: L = max(q r, (q − 1) r); δ = −q where r > 0, 1 − q where r < 0.

    Outputs are grouped by target: column t · n_quantiles + q. L sums over targets and quantiles.

    Parameters
    ----------
    quantiles : tuple of float in (0, 1), ascending
        The quantiles to estimate, all by one network.

    References
    ----------
    Koenker and Bassett, Regression quantiles, 1978.
    """

    quantiles: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        """Check the quantiles; one number stands for a tuple of one."""
        given = self.quantiles if isinstance(self.quantiles, tuple | list) else (self.quantiles,)
        problems = [checks.number("quantiles", q, above=0, below=1) for q in given]
        if not any(problems) and (not given or sorted(set(given)) != list(given)):
            problems = [f"quantiles={given!r} must be ascending, each once, and at least one."]
        checks.refuse(problems)
        object.__setattr__(self, "quantiles", tuple(map(float, given)))
        object.__setattr__(self, "link", SortedLink(len(given)))

    def n_outputs(self, n_targets: int, n_classes: int | None) -> int:
        """Targets × quantiles."""
        return n_targets * len(self.quantiles)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        xp = backend.xp
        q = backend.asarray([[self.quantiles]])  # (1, 1, n_quantiles)
        shape = (z.shape[0], -1, len(self.quantiles))
        r = xp.reshape(y, (*y.shape, 1)) - xp.reshape(z, shape)
        value = _total(backend, xp.reshape(xp.maximum(q * r, (q - 1.0) * r), z.shape), weight)
        above, below = xp.astype(r > 0.0, backend.dtype), xp.astype(r < 0.0, backend.dtype)
        z[...] = xp.reshape((1.0 - q) * below - q * above, z.shape)
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class Poisson(Regression):
    """L = e^z − y z, δ = e^z − y: counts or rates y ≥ 0, of which e^z is the expectation.

    The Poisson negative log-likelihood without log y!, which does not depend on z. It is infinite only where
    e^z is (z > 88 in float32).

    Parameters
    ----------
    deviance : bool
        Whether the value has y log y − y added (0 where y = 0), which makes it half the deviance: 0 where
        e^z = y.
    """

    deviance: bool = False
    link: Any = dataclasses.field(default=ExpLink(), init=False)
    standardises_target: ClassVar[bool] = False

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse negative targets."""
        super().check_targets(y, n_outputs)
        if y.size and y.min() < 0:
            raise ValueError(
                f"the Poisson loss needs targets >= 0, but row {int(np.argmin(y.min(axis=1)))} has "
                f"{y.min():g}."
            )

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        rate = backend.xp.exp(z)
        per_output = rate - y * z
        if self.deviance:
            xp = backend.xp
            per_output += y * xp.log(xp.where(y > 0.0, y, xp.ones_like(y))) - y
        value = _total(backend, per_output, weight)
        z[...] = rate - y
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Regression):
    """L = log(1 + e^z) − y z, δ = (1 − y) σ(z) − y σ(−z) = σ(z) − y; y in [0, 1], one column a label.

    Several columns are a multilabel problem: independent labels whose losses are summed. Written so that
    neither value nor δ loses digits at any z.

    Parameters
    ----------
    eps : float in [0, 1/2)
        What the value takes for the least probability of anything; δ is that of ε = 0.
    """

    eps: float = 0.0
    link: Any = dataclasses.field(default=LogisticLink(), init=False)
    standardises_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check ε."""
        checks.refuse([checks.number("eps", self.eps, least=0, below=0.5)])

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse targets outside [0, 1]."""
        super().check_targets(y, n_outputs)
        outside = (y < 0) | (y > 1)
        if outside.any():
            row, column = map(int, np.argwhere(outside)[0])
            raise ValueError(
                f"binary cross-entropy needs targets in [0, 1], but row {row}, column {column} has "
                f"{y[row, column]:g}. Code the two classes as 0 and 1."
            )

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        # y log(1 + e^−z) + (1 − y) log(1 + e^z): no difference of large numbers.
        if_one, if_zero = _bounded(backend, self.eps, softplus(backend, -z), softplus(backend, z))
        value = _total(backend, y * if_one + (1.0 - y) * if_zero, weight)
        miss = logistic(backend, -z)
        z[...] = (1.0 - y) * logistic(backend, z) - y * miss
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """L = −Σ_j t_j log p_j, δ = p − t, with p = softmax(z) and t one for the row's class, else zero.

    y holds class numbers 0 … n_outputs − 1 (int32, one column). With label smoothing ε,
    t = (1 − ε) onehot(y) + ε / n_outputs. Written so that neither value nor δ loses digits at any z: with
    d = z − max z, log Σ e^d is log1p of Σ_{j≠y} e^d_j + expm1 d_y, in which nothing cancels (where class y
    does not lead, the sum is at least 1), and p_y − 1 is minus the sum of the other probabilities.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        ε above.
    eps : float in [0, 1/2)
        What the value takes for the least probability of anything; δ is that of 0.

    References
    ----------
    Szegedy et al., Rethinking the Inception architecture, CVPR 2016, section 7 (label smoothing).
    """

    label_smoothing: float = 0.0
    eps: float = 0.0
    link: Any = dataclasses.field(default=SoftmaxLink(), init=False)
    labels: ClassVar[bool] = True
    standardises_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check both."""
        checks.refuse(
            [
                checks.number("label_smoothing", self.label_smoothing, least=0, below=1),
                checks.number("eps", self.eps, least=0, below=0.5),
            ]
        )

    def n_outputs(self, n_targets: int, n_classes: int | None) -> int:
        """One output a class."""
        return n_classes or n_targets

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse what is not a class number of this network."""
        if y.shape[1] != 1:
            raise ValueError(
                f"softmax cross-entropy needs one column of class numbers, but y has {y.shape[1]} columns. "
                "For several labels a row use binary cross-entropy."
            )
        wrong = (y < 0) | (y >= n_outputs) | (y != np.floor(y))
        if wrong.any():
            row = int(np.argmax(wrong[:, 0]))
            raise ValueError(
                f"softmax cross-entropy needs class numbers 0 ... {n_outputs - 1} for a network with "
                f"{n_outputs} outputs, but row {row} has {y[row, 0]:g}."
            )

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        xp, smoothing, n_classes = backend.xp, self.label_smoothing, z.shape[1]
        ones = backend.ones((n_classes, 1)) if n_classes <= FEW_COLUMNS else None
        hit = xp.astype(y == backend.arange(n_classes), backend.dtype)
        z -= xp.max(z, axis=-1, keepdims=True)
        of_class = _row_sums(backend, hit * z, ones)
        e = xp.exp(z)
        e -= hit * e  # those of the other classes
        others = _row_sums(backend, e, ones)
        rest = others + xp.expm1(of_class)
        minus_log_p = xp.log1p(rest) - of_class
        if smoothing and self.eps:
            (of_each,) = _bounded(backend, self.eps, xp.log1p(rest) - z)
            target = (1.0 - smoothing) * hit + smoothing / n_classes
            per_row = _row_sums(backend, target * of_each, ones)
        elif smoothing:
            per_row = minus_log_p + smoothing * (of_class - _row_sums(backend, z, ones) / n_classes)
        else:
            (per_row,) = _bounded(backend, self.eps, minus_log_p)
        value = _total(backend, per_row, weight)
        e -= hit * others
        rest += 1.0
        backend.into(z, xp.divide, e, rest)
        if smoothing:
            z += smoothing * (hit - 1.0 / n_classes)
        _weigh(z, weight)
        return value


@dataclasses.dataclass(frozen=True)
class GroupedCrossEntropy:
    """Several classifications by one network: the sum of a softmax cross-entropy for each target.

    Target t of a row (column t of y, int32) has groups[t] classes and as many outputs, side by side.

    Parameters
    ----------
    groups : tuple of int
        Classes of each target.
    label_smoothing, eps : float
        As in `SoftmaxCrossEntropy`.
    """

    groups: tuple[int, ...]
    label_smoothing: float = 0.0
    eps: float = 0.0
    labels: ClassVar[bool] = True
    standardises_target: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check groups and the rest."""
        object.__setattr__(self, "groups", self.link.groups)
        self.of_one()

    @property
    def link(self) -> GroupedSoftmaxLink:
        """Softmax over each group."""
        return GroupedSoftmaxLink(self.groups)

    def of_one(self) -> SoftmaxCrossEntropy:
        """The loss of one target."""
        return SoftmaxCrossEntropy(self.label_smoothing, self.eps)

    def n_outputs(self, n_targets: int, n_classes: int | None) -> int:
        """One output a class of each target."""
        return sum(self.groups)

    def check_targets(self, y: np.ndarray, n_outputs: int) -> None:
        """Refuse what are not class numbers of each target."""
        if y.shape[1] != len(self.groups) or n_outputs != sum(self.groups):
            raise ValueError(
                f"groups={self.groups!r} need {len(self.groups)} columns of class numbers and "
                f"{sum(self.groups)} outputs, but y has {y.shape[1]} columns and the network {n_outputs} "
                "outputs."
            )
        for target, size in enumerate(self.groups):
            self.of_one().check_targets(y[:, target : target + 1], size)

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        total, loss = 0.0, self.of_one()
        for target, columns in enumerate(group_columns(self.groups)):
            total = total + loss(backend, z[:, columns], y[:, target : target + 1], weight)
        return total


LOSSES: dict[str, type] = {
    "squared_error": SquaredError,
    "half_squared_error": HalfSquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "pinball": Pinball,
    "poisson": Poisson,
    "binary_cross_entropy": BinaryCrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}
