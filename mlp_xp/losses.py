"""Each loss with its output link: value and δ = ∂L/∂z in one pass, from the last layer's z.

A loss starts from z, never from probabilities, so nothing is clipped and no pair of output activation and
loss is illegal: the loss owns its link, and `Network.predict` applies it.

    value = loss(backend, z, y, weight)      Σ_i s_i L_i, a 0-d array on the device; L_i sums over outputs

z (n_rows, n_outputs) is consumed: it becomes δ, with rows s_i ∂L_i/∂z_i. y is read: (n_rows, n_targets) of
the backend's dtype, or int32 class numbers (n_rows, 1). weight is read: s, (n_rows, 1), or None for all ones.
Of members z has an axis before these, and the value is (members,); y and weight have it, or are for all.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mlp_xp.activations import logistic, softplus
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import checks, fields


class Link(fields.Checked):
    """What makes predictions of the last z, and what they are.

    Attributes
    ----------
    probabilities : str or None
        "each" if every output is one, "together" if they sum to one, "grouped" if those of a group do.
    as_activation : str
        Its name as the activation of an output layer.
    n_quantiles : int
        Neighbouring columns that belong to one target.
    """

    probabilities: ClassVar[str | None] = None
    as_activation: ClassVar[str] = "identity"
    n_quantiles: int = 1

    def __call__(self, backend: Backend, z: Array) -> Array:
        """Predictions."""
        raise NotImplementedError

    def misfit(self, n_outputs: int) -> str | None:
        """Why a network with so many outputs cannot have it; None if it can."""
        return None


@dataclasses.dataclass(frozen=True)
class IdentityLink(Link):
    """Predictions are z."""

    def __call__(self, backend: Backend, z: Array) -> Array:
        """Return z."""
        return z


@dataclasses.dataclass(frozen=True)
class LogisticLink(Link):
    """Predictions are probabilities, one an output: 1 / (1 + e^−z)."""

    probabilities: ClassVar[str | None] = "each"
    as_activation: ClassVar[str] = "logistic"

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        return logistic(backend, z)


@dataclasses.dataclass(frozen=True)
class SoftmaxLink(Link):
    """Predictions are probabilities that sum to one over the outputs: e^z / Σ e^z."""

    probabilities: ClassVar[str | None] = "together"
    as_activation: ClassVar[str] = "softmax"

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        z -= _row_max(backend, z)
        backend.into(z, backend.xp.exp, z)
        z /= _row_sums(backend, z, _ones(backend, z.shape[-1]))
        return z


@dataclasses.dataclass(frozen=True)
class ExpLink(Link):
    """Predictions are rates: e^z."""

    as_activation: ClassVar[str] = "exp"

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        return backend.into(z, backend.xp.exp, z)


@dataclasses.dataclass(frozen=True)
class SortedLink(Link):
    """Predictions are quantiles, put in order for each target: column t · n_quantiles + q.

    Parameters
    ----------
    n_quantiles : int
        Neighbouring columns that belong to one target.
    """

    n_quantiles: int = fields.whole(1)

    def misfit(self, n_outputs: int) -> str | None:
        """Every target has all quantiles."""
        if n_outputs % self.n_quantiles:
            return f"{self.n_quantiles} quantiles do not fit {n_outputs} outputs"
        return None

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is read."""
        grouped = backend.xp.reshape(z, (*z.shape[:-1], -1, self.n_quantiles))
        return backend.xp.reshape(backend.xp.sort(grouped, axis=-1), z.shape)


@dataclasses.dataclass(frozen=True)
class GroupedSoftmaxLink(Link):
    """Predictions are probabilities that sum to one over each group of neighbouring outputs.

    Parameters
    ----------
    groups : tuple of int
        Outputs of each group, from the first on.
    """

    groups: tuple[int, ...] = (1,)
    probabilities: ClassVar[str | None] = "grouped"
    as_activation: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        """Check the groups; a list is as good as a tuple."""
        object.__setattr__(self, "groups", tuple(self.groups))
        checks.refuse(checks.whole("groups", size) for size in self.groups)

    def misfit(self, n_outputs: int) -> str | None:
        """Every output belongs to a group."""
        if sum(self.groups) != n_outputs:
            return f"groups={self.groups} do not fit {n_outputs} outputs"
        return None

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z is consumed."""
        for columns in group_columns(self.groups):
            SoftmaxLink()(backend, z[..., columns])
        return z


@dataclasses.dataclass(frozen=True)
class MeanOverMembers(Link):
    """Predictions are the mean of what members predict: of probabilities, rates, quantiles.

    Parameters
    ----------
    link : Link
        Makes predictions of each one's z.
    """

    link: Link

    def __call__(self, backend: Backend, z: Array) -> Array:
        """z (members, n_rows, n_outputs) is consumed."""
        return backend.xp.mean(self.link(backend, z), axis=0)


def group_columns(groups: tuple[int, ...]) -> list[slice]:
    """The columns of each group."""
    stops = list(itertools.accumulate(groups))
    return [slice(stop - size, stop) for size, stop in zip(groups, stops, strict=True)]


LINKS: dict[str, type[Link]] = {
    "identity": IdentityLink,
    "logistic": LogisticLink,
    "softmax": SoftmaxLink,
    "exp": ExpLink,
    "sorted": SortedLink,
    "grouped_softmax": GroupedSoftmaxLink,
}


def _total(backend: Backend, per_output: Array, weight: Array | None) -> Array:
    """Σ_i s_i Σ_j of an array (n_rows, n_outputs), or of each member's (members, n_rows, n_outputs)."""
    weighted = per_output if weight is None else per_output * weight
    # NumPy takes 4 µs longer where axes are named.
    return backend.xp.sum(weighted, axis=None if weighted.ndim == 2 else (-2, -1))


def _weigh(delta: Array, weight: Array | None) -> None:
    if weight is not None:
        delta *= weight


FEW_COLUMNS = 32


def _ones(backend: Backend, n: int) -> Array | None:
    """A column of ones, where a product with it is the better sum of so few columns; see `_row_sums`."""
    return backend.ones((n, 1)) if n <= FEW_COLUMNS else None


def _row_sums(backend: Backend, a: Array, ones: Array | None) -> Array:
    """Σ_j of an array (n_rows, n_outputs), (n_rows, 1); with `ones` (n_outputs, 1), by a product.

    Few columns are multiplied with ones, which takes a third of `sum`'s time (200 × 10: 2 instead of 7 µs);
    many are left to `sum`, whose pairwise order keeps digits that float32 needs.
    """
    return backend.xp.sum(a, axis=-1, keepdims=True) if ones is None else a @ ones


def _row_max(backend: Backend, a: Array) -> Array:
    """max_j of an array (n_rows, n_outputs), (n_rows, 1).

    Of few columns NumPy takes it in a fraction of the time where the values of a column are neighbours
    (1,797 × 10: 17 instead of 72 µs).
    """
    n_rows, n_columns = a.shape[-2:]
    if n_columns > FEW_COLUMNS or n_rows == 1:
        return backend.xp.max(a, axis=-1, keepdims=True)
    by_column = backend.empty((*a.shape[:-2], n_columns, n_rows))
    by_column[...] = a.mT
    return backend.xp.max(by_column, axis=-2)[..., None]


def _bounded(backend: Backend, eps: float, *minus_log_p: Array) -> tuple[Array, ...]:
    """−log p with p bounded to [ε, 1 − ε]: what scikit-learn reports; ε = 0 leaves it alone."""
    if not eps:
        return minus_log_p
    xp, most, least = backend.xp, -math.log(eps), -math.log1p(-eps)
    return tuple(xp.minimum(xp.maximum(each, least), most) for each in minus_log_p)


class Loss(fields.Checked):
    """What a loss is asked, and what most of them answer: targets are numbers, one output each.

    Attributes
    ----------
    link : Link
        What makes predictions of z.
    labels : bool
        Whether y holds class numbers (int32), not numbers of the backend's dtype.
    takes_two_classes : bool
        Whether two classes are as good as numbers to it: 0 and 1.
    standardises_target : bool
        Whether targets may be shifted and scaled before training.
    least, most : float
        Targets for which it has a meaning.
    needs : str
        The same in words: "the poisson loss needs targets >= 0".
    quantiles : tuple of float or None
        What is predicted of each target, where it is not one value.
    metric : str or None
        The name of what an evaluation adds to its metrics for numbers (`measure`).
    label_smoothing : float in [0, 1)
        ε, where labels are smoothed: a means of training alone.
    robust : str or None
        The name of a loss of the same kind that heeds rows far off less.
    heeds_far_rows : bool
        Whether a few rows far off may make most of it.
    n_sums : int
        Sums over rows that a mean follows from (`mean_of`): each call returns so many, on a last axis, where
        it is not 1.
    """

    link: Link = IdentityLink()
    labels: ClassVar[bool] = False
    takes_two_classes: ClassVar[bool] = False
    standardises_target: ClassVar[bool] = True
    least: ClassVar[float] = -math.inf
    most: ClassVar[float] = math.inf
    needs: ClassVar[str] = ""
    quantiles: tuple[float, ...] | None = None
    metric: ClassVar[str | None] = None
    label_smoothing: float = 0.0
    robust: ClassVar[str | None] = None
    heeds_far_rows: ClassVar[bool] = True
    n_sums: ClassVar[int] = 1

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        raise NotImplementedError

    @property
    def judge(self) -> "Loss":
        """What rows held out are judged by: the loss itself, without the smoothing of labels."""
        if self.label_smoothing and dataclasses.is_dataclass(self):
            return dataclasses.replace(self, label_smoothing=0.0)
        return self

    def mean_of(self, sums: Sequence[float], divisor: float) -> float:
        """What rows cost on average, of sums over all of them and Σ s, which is not 0."""
        return sums[0] / divisor

    def of_members(self, first: int, stop: int) -> "Loss":
        """The loss of some members, which all have the same."""
        return self

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
        if math.isinf(self.least) and math.isinf(self.most):
            return
        outside = (y < self.least) | (y > self.most)
        if outside.any():
            row, column = map(int, np.argwhere(outside)[0])
            raise ValueError(f"{self.needs}, but row {row}, column {column} has {y[row, column]:g}.")

    def measure(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """`metric` of each prediction (host arrays), to be averaged."""
        raise NotImplementedError


class Pointwise(Loss):
    """A sum over outputs of L(z, y): two formulas.

    Attributes
    ----------
    part : float
        What is taken of the sum.
    """

    part: ClassVar[float] = 1.0

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L of each output; z becomes ∂L/∂z."""
        raise NotImplementedError

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        value = _total(backend, self.differentiate(backend, z, y), weight)
        _weigh(z, weight)
        return value if self.part == 1.0 else self.part * value


@dataclasses.dataclass(frozen=True)
class SquaredError(Pointwise):
    """L = (y − z)², δ = 2 (z − y)."""

    robust: ClassVar[str | None] = "huber"

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        z -= y
        value = z * z
        z *= 2.0
        return value


@dataclasses.dataclass(frozen=True)
class HalfSquaredError(Pointwise):
    """L = (y − z)² / 2, δ = z − y; the half is taken of the sum."""

    part = 0.5

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return 2 L; z becomes ∂L/∂z."""
        z -= y
        return z * z


def _sign(backend: Backend, a: Array) -> Array:
    """−1, 0 or 1; array-api-compat's `sign` reads the device on CuPy."""
    xp = backend.xp
    return xp.astype(a > 0.0, backend.dtype) - xp.astype(a < 0.0, backend.dtype)


@dataclasses.dataclass(frozen=True)
class AbsoluteError(Pointwise):
    """L = |y − z|, δ = sign(z − y)."""

    heeds_far_rows: ClassVar[bool] = False

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        z -= y
        value = backend.xp.abs(z)
        z[...] = _sign(backend, z)
        return value


@dataclasses.dataclass(frozen=True)
class Huber(Pointwise):
    """With r = z − y: L = r²/2 where |r| ≤ d, else d (|r| − d/2); δ = r, bounded to [−d, d].

    Parameters
    ----------
    delta : float > 0
        d, in units of the target (on the command line: of the standardised target).

    References
    ----------
    Huber, Robust estimation of a location parameter, 1964.
    """

    delta: float = fields.number(1.0, above=0)
    heeds_far_rows: ClassVar[bool] = False

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        xp = backend.xp
        z -= y
        bounded = xp.minimum(xp.maximum(z, -self.delta), self.delta)
        value = bounded * (z - 0.5 * bounded)  # r²/2, or ±d (r ∓ d/2)
        z[...] = bounded
        return value


@dataclasses.dataclass(frozen=True)
class Pinball(Pointwise):
    """With r = y − z and a quantile q: L = max(q r, (q − 1) r); δ = −q where r > 0, 1 − q where r < 0.

    Outputs are grouped by target: column t · n_quantiles + q. L sums over targets and quantiles. What
    becomes of an element depends on its column: this is no formula of one element (`machine.symbolic`),
    so the fused kernel is written by hand, and compiled steps do without.

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

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        xp = backend.xp
        q = backend.asarray([[self.quantiles]])  # (1, 1, n_quantiles)
        shape = (*z.shape[:-1], -1, len(self.quantiles))
        r = xp.reshape(y, (*y.shape, 1)) - xp.reshape(z, shape)
        value = xp.reshape(xp.maximum(q * r, (q - 1.0) * r), z.shape)
        above, below = xp.astype(r > 0.0, backend.dtype), xp.astype(r < 0.0, backend.dtype)
        z[...] = xp.reshape((1.0 - q) * below - q * above, z.shape)
        return value


@dataclasses.dataclass(frozen=True)
class Poisson(Pointwise):
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
    link: Link = dataclasses.field(default=ExpLink(), init=False)
    standardises_target: ClassVar[bool] = False
    least: ClassVar[float] = 0.0
    needs: ClassVar[str] = "the poisson loss needs targets >= 0"
    metric: ClassVar[str | None] = "poisson_deviance"

    def measure(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """The deviance; a rate of 0 counts as the least that float32 has."""
        rate = np.maximum(predicted, np.finfo(np.float32).tiny)
        return 2 * (y * np.log(np.where(y > 0, y, 1.0) / np.where(y > 0, rate, 1.0)) - y + rate)

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        rate = backend.xp.exp(z)
        value = rate - y * z
        if self.deviance:
            xp = backend.xp
            value += y * xp.log(xp.where(y > 0.0, y, xp.ones_like(y))) - y
        z[...] = rate - y
        return value


@dataclasses.dataclass(frozen=True)
class BinaryCrossEntropy(Pointwise):
    """L = log(1 + e^z) − y z, δ = (1 − y) σ(z) − y σ(−z) = σ(z) − y; y in [0, 1], one column a label.

    Several columns are a multilabel problem: independent labels whose losses are summed. With label smoothing
    ε, (1 − ε) y + ε / 2 takes the place of y. Written so that neither value nor δ loses digits at any z.

    Parameters
    ----------
    eps : float in [0, 1/2)
        What the value takes for the least probability of anything; δ is that of 0.
    label_smoothing : float in [0, 1), or one for each member
        ε above.
    """

    eps: float = fields.number(0.0, least=0, below=0.5)
    label_smoothing: fields.OneOrEach = fields.number(0.0, least=0, below=1, of_each=True)
    link: Link = dataclasses.field(default=LogisticLink(), init=False)
    takes_two_classes: ClassVar[bool] = True
    standardises_target: ClassVar[bool] = False
    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 1.0
    needs: ClassVar[str] = "binary_cross_entropy needs two classes, or targets in [0, 1]"

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        if self.label_smoothing:
            y = (1.0 - self.label_smoothing) * y + 0.5 * self.label_smoothing
        # y log(1 + e^−z) + (1 − y) log(1 + e^z): no difference of large numbers.
        if_one, if_zero = _bounded(backend, self.eps, softplus(backend, -z), softplus(backend, z))
        value = y * if_one + (1.0 - y) * if_zero
        miss = logistic(backend, -z)
        z[...] = (1.0 - y) * logistic(backend, z) - y * miss
        return value


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """L = −Σ_j t_j log p_j, δ = p − t, with p = softmax(z) and t one for the row's class, else zero.

    y holds class numbers 0 … n_outputs − 1 (int32, one column). With label smoothing ε,
    t = (1 − ε) onehot(y) + ε / n_outputs. Written so that neither value nor δ loses digits at any z: with
    d = z − max z, log Σ e^d is log1p of Σ_{j≠y} e^d_j + expm1 d_y, in which nothing cancels (where class y
    does not lead, the sum is at least 1), and p_y − 1 is minus the sum of the other probabilities.

    The outputs of a row depend on each other, through two sums and a maximum: this is no formula of one
    element (`machine.symbolic`), and its compiled loop and fused kernel are written by hand.

    Parameters
    ----------
    label_smoothing : float in [0, 1), or one for each member
        ε above.
    eps : float in [0, 1/2)
        What the value takes for the least probability of anything; δ is that of 0.

    References
    ----------
    Szegedy et al., Rethinking the Inception architecture, CVPR 2016, section 7 (label smoothing).
    """

    label_smoothing: fields.OneOrEach = fields.number(0.0, least=0, below=1, of_each=True)
    eps: float = fields.number(0.0, least=0, below=0.5)
    link: Link = dataclasses.field(default=SoftmaxLink(), init=False)
    labels: ClassVar[bool] = True
    standardises_target: ClassVar[bool] = False

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
        wrong = (y < 0) | (y >= n_outputs)
        if y.dtype.kind == "f":
            wrong |= y != np.floor(y)
        if wrong.any():
            row = int(np.argmax(wrong[:, 0]))
            raise ValueError(
                f"softmax cross-entropy needs class numbers 0 ... {n_outputs - 1} for a network with "
                f"{n_outputs} outputs, but row {row} has {y[row, 0]:g}."
            )

    def __call__(self, backend: Backend, z: Array, y: Array, weight: Array | None) -> Array:
        """Return Σ s L; z becomes δ."""
        xp, smoothing, n_classes = backend.xp, self.label_smoothing, z.shape[-1]
        ones = _ones(backend, n_classes)
        hit = xp.astype(y == backend.arange(n_classes), backend.dtype)
        z -= _row_max(backend, z)
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
class GroupedCrossEntropy(Loss):
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
        link = GroupedSoftmaxLink(self.groups)
        object.__setattr__(self, "link", link)
        object.__setattr__(self, "groups", link.groups)
        self.of_one()

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
            total = total + loss(backend, z[..., columns], y[..., target : target + 1], weight)
        return total


LOSSES: dict[str, type[Loss]] = {
    "squared_error": SquaredError,
    "half_squared_error": HalfSquaredError,
    "absolute_error": AbsoluteError,
    "huber": Huber,
    "pinball": Pinball,
    "poisson": Poisson,
    "binary_cross_entropy": BinaryCrossEntropy,
    "softmax_cross_entropy": SoftmaxCrossEntropy,
}


def loss_behind(link: Link) -> Loss | None:
    """The loss that a network with this output was trained for; None if that does not follow."""
    if link.n_quantiles > 1:
        return None
    kinds: dict[type, type[Loss]] = {
        ExpLink: Poisson,
        LogisticLink: BinaryCrossEntropy,
        SoftmaxLink: SoftmaxCrossEntropy,
    }
    return kinds.get(type(link), SquaredError)()
