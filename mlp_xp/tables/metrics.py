"""What is measured of predictions: every metric by its name, with scikit-learn's definitions.

Some add up over the rows, and so over parts of them; the others look at all rows at once. Each of the four
kinds below has both: `sums` of a part, `of_sums` their metrics, and `of_rows` the others, as a function of
their weight: rows drawn again and again are sorted once. `losses` are what each row costs, (n_rows,).
y, predicted and weight are arrays (n_rows, n_targets), (n_rows, n_outputs) and (n_rows, 1).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from mlp_xp.losses import Loss

T = TypeVar("T")

Sums = dict[str, np.ndarray]

OfWeight = Callable[[np.ndarray], dict[str, float]]
"""Metrics of some rows, from their weight (n_rows, 1)."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What people call a metric, and whether more is better."""

    words: str
    higher: bool = False


METRICS: Mapping[str, Metric] = {
    "r2": Metric("R²", higher=True),
    "rmse": Metric("RMSE"),
    "mae": Metric("MAE"),
    "median_error": Metric("median absolute error"),
    "accuracy": Metric("accuracy", higher=True),
    "balanced_accuracy": Metric("balanced accuracy", higher=True),
    "roc_auc": Metric("ROC AUC", higher=True),
    "log_loss": Metric("log loss"),
    "pinball_loss": Metric("pinball loss"),
    "coverage": Metric("coverage"),
    "poisson_deviance": Metric("Poisson deviance"),
}
"""Every metric that a model can have, by its name in JSON."""

ORDER = {name: place for place, name in enumerate(METRICS)}


def in_order(metrics: Mapping[str, T]) -> dict[str, T]:
    """Metrics in the order of `METRICS`; after them those of each of several targets."""
    return dict(sorted(metrics.items(), key=lambda item: ORDER.get(item[0], len(ORDER))))


DECIDING = ("log_loss", "pinball_loss", "poisson_deviance", "rmse")
"""Of the metrics of a model the one that it was trained for, the first of these that it has."""


def deciding(metrics: Mapping[str, object]) -> str:
    """The metric that models are compared by."""
    return next(name for name in DECIDING if name in metrics)


class Kind(Protocol):
    """What is measured of one kind of predictions."""

    def sums(self, y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> Sums:
        """What adds up, of some rows."""

    def of_sums(self, sums: Sums) -> dict[str, float]:
        """Metrics of what was added up."""

    def of_rows(self, y: np.ndarray, predicted: np.ndarray) -> OfWeight:
        """The other metrics, of all rows."""

    def losses(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """What each row costs."""


class Numbers:
    """R², RMSE, MAE, median absolute error, and the loss's own metric: means over targets, then of each.

    Squares are taken from a number near each target (n_targets,); `scales` are the units in which errors of
    several targets are alike.
    """

    def __init__(
        self, names: Sequence[str], loss: Loss, centres: np.ndarray, scales: Sequence[float]
    ) -> None:
        self.names, self.loss, self._centres, self._scales = names, loss, centres, np.asarray(scales)

    def sums(self, y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> Sums:
        """What adds up, of some rows."""
        error, distance = predicted - y, y - self._centres
        found = {
            "weight": weight.sum(),
            "squared": (weight * error * error).sum(axis=0),
            "absolute": (weight * np.abs(error)).sum(axis=0),
            "distance": (weight * distance).sum(axis=0),
            "distance²": (weight * distance * distance).sum(axis=0),
        }
        if self.loss.metric is not None:
            found["measured"] = (weight * self.loss.measure(y, predicted)).sum()
        return found

    def of_sums(self, sums: Sums) -> dict[str, float]:
        """Metrics of what was added up."""
        total = sums["weight"]
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = sums["distance²"] - sums["distance"] ** 2 / total
            has_spread = spread > 1e-12 * sums["distance²"]
            each = {
                "r2": np.where(has_spread, 1.0 - sums["squared"] / spread, np.nan),
                "rmse": np.sqrt(sums["squared"] / total),
                "mae": sums["absolute"] / total,
            }
        found = self._over_targets(each)
        if self.loss.metric is not None:
            found[self.loss.metric] = _ratio(sums["measured"] / len(self.names), total)
        return found

    def of_rows(self, y: np.ndarray, predicted: np.ndarray) -> OfWeight:
        """The other metrics, of all rows."""
        medians = [median(each) for each in np.abs(predicted - y).T]
        return lambda weight: self._over_targets(
            {"median_error": np.array([of_weight(weight[:, 0]) for of_weight in medians])}
        )

    def losses(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """What each row costs: the square of its error."""
        return np.asarray((((predicted - y) / self._scales) ** 2).sum(axis=1))

    def _over_targets(self, each: Mapping[str, np.ndarray]) -> dict[str, float]:
        found = {metric: float(values.mean()) for metric, values in each.items()}
        if len(self.names) > 1:
            for at, name in enumerate(self.names):
                found |= {f"{metric}_{name}": float(values[at]) for metric, values in each.items()}
        return found


class Classes:
    """Accuracy, balanced accuracy, log loss (nats), ROC AUC; precision, recall and F1 of each class.

    Of more than two classes the AUC is the mean of those of each class against the rest, of the classes that
    there are. Predictions are probabilities, y class numbers.
    """

    def sums(self, y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> Sums:
        """What adds up, of some rows."""
        label, guess, n_classes = y[:, 0].astype(int), predicted.argmax(axis=1), predicted.shape[1]
        of_row, is_right = weight[:, 0], label == guess
        return {
            "surprise": (of_row * self.losses(y, predicted)).sum(),
            "true": np.bincount(label, of_row, n_classes),
            "guessed": np.bincount(guess, of_row, n_classes),
            "both": np.bincount(label[is_right], of_row[is_right], n_classes),
        }

    def of_sums(self, sums: Sums) -> dict[str, float]:
        """Metrics of what was added up."""
        true, both = sums["true"], sums["both"]
        there, total = true > 0, true.sum()
        return {
            "accuracy": _ratio(both.sum(), total),
            "balanced_accuracy": float((both[there] / true[there]).mean()) if there.any() else math.nan,
            "log_loss": _ratio(sums["surprise"], total),
        }

    def of_rows(self, y: np.ndarray, predicted: np.ndarray) -> OfWeight:
        """The other metrics, of all rows."""
        label = y[:, 0].astype(int)
        tried = [1] if predicted.shape[1] == 2 else np.unique(label)
        return _mean_area([roc_auc(label == one, predicted[:, one]) for one in tried])

    def losses(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """What each row costs: −log p of its class."""
        return minus_log(np.take_along_axis(predicted, y.astype(int), axis=1))[:, 0]

    def of_each(self, sums: Sums, levels: Sequence[str]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and rows (their weight) of each class; 0 where nothing was predicted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            both, true, guessed = sums["both"], sums["true"], sums["guessed"]
            each = {
                "precision": both / guessed,
                "recall": both / true,
                "f1": 2 * both / (true + guessed),
            }
        numbers = {name: np.nan_to_num(values).tolist() for name, values in each.items()}
        return {
            level: {name: values[at] for name, values in numbers.items()} | {"rows": float(true[at])}
            for at, level in enumerate(levels)
        }


class Labels:
    """Accuracy and log loss (nats) of labels that are 0 or 1, each predicted by itself: means over them."""

    def sums(self, y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> Sums:
        """What adds up, of some rows."""
        right = ((predicted > 0.5) == (y > 0.5)).mean(axis=1, keepdims=True)
        return {
            "weight": weight.sum(),
            "right": (weight * right).sum(),
            "surprise": (weight[:, 0] * self.losses(y, predicted)).sum(),
        }

    def of_sums(self, sums: Sums) -> dict[str, float]:
        """Metrics of what was added up."""
        total = sums["weight"]
        return {"accuracy": _ratio(sums["right"], total), "log_loss": _ratio(sums["surprise"], total)}

    def of_rows(self, y: np.ndarray, predicted: np.ndarray) -> OfWeight:
        """The other metrics, of all rows."""
        return _mean_area([roc_auc(y[:, at] > 0.5, predicted[:, at]) for at in range(y.shape[1])])

    def losses(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """What each row costs."""
        surprise = y * minus_log(predicted) + (1 - y) * minus_log(1 - predicted)
        return np.asarray(surprise.mean(axis=1))


class Quantiles:
    """Pinball loss, a mean over quantiles and targets; coverage, the part of rows between the outer ones."""

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.quantiles = np.asarray(quantiles)

    def sums(self, y: np.ndarray, predicted: np.ndarray, weight: np.ndarray) -> Sums:
        """What adds up, of some rows."""
        grouped = predicted.reshape(*y.shape, len(self.quantiles))
        inside = (grouped[:, :, 0] <= y) & (y <= grouped[:, :, -1])
        return {
            "weight": weight.sum(),
            "pinball": (weight[:, 0] * self.losses(y, predicted)).sum(),
            "inside": (weight[:, 0] * inside.mean(axis=1)).sum(),
        }

    def of_sums(self, sums: Sums) -> dict[str, float]:
        """Metrics of what was added up."""
        found = {"pinball_loss": _ratio(sums["pinball"], sums["weight"])}
        if len(self.quantiles) == 1:
            return found
        return found | {"coverage": _ratio(sums["inside"], sums["weight"])}

    def of_rows(self, y: np.ndarray, predicted: np.ndarray) -> OfWeight:
        """There are none."""
        return lambda weight: {}

    def losses(self, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """What each row costs."""
        q = self.quantiles
        error = y[:, :, None] - predicted.reshape(*y.shape, len(q))
        return np.asarray(np.maximum(q * error, (q - 1) * error).mean(axis=(1, 2)))


def minus_log(p: np.ndarray) -> np.ndarray:
    """−log p; a probability that rounds to 0 counts as the least one that float32 has."""
    return -np.log(np.maximum(p, np.finfo(np.float32).tiny))


Weighted = Callable[[np.ndarray], float]
"""A number of some rows, from their weight (n_rows,)."""


def median(values: np.ndarray) -> Weighted:
    """The weighted median (n,): the mean of the two in the middle where the weight is halved between them."""
    order = np.argsort(values)
    ordered = values[order]

    def of(weight: np.ndarray) -> float:
        until = np.cumsum(weight[order])
        if not len(until) or not until[-1] > 0:
            return math.nan
        middle = [np.searchsorted(until, until[-1] / 2, side) for side in ("left", "right")]
        return float(ordered[np.minimum(middle, len(ordered) - 1)].mean())

    return of


def roc_auc(is_one: np.ndarray, score: np.ndarray) -> Weighted:
    """The chance that a row of the class has a higher score than another, (n,) each; a tie counts half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    of_class = is_one[order]

    def of(weight: np.ndarray) -> float:
        ordered = weight[order]
        ones = np.add.reduceat(np.where(of_class, ordered, 0.0), starts)
        others = np.add.reduceat(np.where(of_class, 0.0, ordered), starts)
        pairs = ones.sum() * others.sum()
        return _ratio((ones * (np.cumsum(others) - others / 2)).sum(), pairs)

    return of


def _mean_area(areas: Sequence[Weighted]) -> OfWeight:
    def of(weight: np.ndarray) -> dict[str, float]:
        found = [area(weight[:, 0]) for area in areas]
        return {"roc_auc": float(np.mean(found)) if found else math.nan}

    return of


def _ratio(part: float | np.ndarray, whole: float | np.ndarray) -> float:
    return float(part / whole) if whole > 0 else math.nan
