"""How good a table model is, in the user's units, over any number of rows in bounded memory."""

import dataclasses
import heapq
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mlp_xp.rows.source import Source, passes
from mlp_xp.tables.metrics import METRICS, Classes, Kind, Labels, Numbers, Quantiles, Sums, in_order
from mlp_xp.tables.model import PREDICT_ROWS, TableModel

Value = TypeVar("Value")

MOST_NUMBERS = 2**22
"""Targets and predictions that are kept for what looks at all rows at once; of more, evenly spread rows."""

RESAMPLES, MOST_RESAMPLED = 200, 10_000
"""Times that rows are drawn again for an interval, and rows that it is found on."""

MOST_ORDERS = 100
"""Classes or targets up to which medians and AUCs, which sort the rows for each, have an interval."""

WORST = 10
"""Rows that are named."""

CONFIDENCE = 0.95
"""How often an interval covers the metric on rows without end."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured of a model.

    Attributes
    ----------
    metrics : mapping of str to float
        In the order of `METRICS`; of several targets the means over them, and then those of each, with its
        name. nan where a metric has no meaning.
    intervals : mapping of str to (float, float)
        Where each metric may be on rows without end: the middle 95% of 200 resamples. None if not asked for.
    classes : mapping of str to mapping, or None
        Precision, recall, F1 and rows of each class.
    worst : sequence of (int, float, float)
        The rows that cost most: what each costs, and which part of the whole that is.
    """

    metrics: Mapping[str, float]
    n_rows: int
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, Mapping[str, float]] | None = None
    worst: Sequence[tuple[int, float, float]] = ()

    def description(self) -> dict[str, object]:
        """As JSON values: a number that is not finite is None."""
        return {
            "metrics": {name: finite(value) for name, value in self.metrics.items()},
            "intervals": {name: [*map(finite, ends)] for name, ends in self.intervals.items()},
            "classes": self.classes,
        }


def finite(value: Value) -> Value | None:
    """A value as JSON has it, which knows neither infinities nor nan."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def kind_of(model: TableModel, near: np.ndarray) -> Kind:
    """What is measured of a model's predictions; `near` is a target (n_targets,) like the others.

    Raises ValueError: the model predicts quantiles and does not say which (a network alone).
    """
    if model.levels is not None:
        return Classes()
    if model.quantiles is not None:
        return Quantiles(model.quantiles)
    if model.loss is None:
        raise ValueError(
            "this file holds a network alone, which does not say which quantiles it predicts: only a model "
            "that mlp-xp train wrote can be evaluated."
        )
    if model.loss.link.probabilities == "each":
        return Labels()
    return Numbers(model.targets.names, model.loss, near, model.targets.scales)


def evaluate(model: TableModel, source: Source) -> dict[str, float]:
    """The metrics of `assess` alone."""
    return dict(assess(model, source).metrics)


def assess(model: TableModel, source: Source, *, seed: int | None = None) -> Evaluation:
    """Measure a model on the raw rows of a source.

    Raises ValueError: the model predicts quantiles and does not say which (a network alone).

    Parameters
    ----------
    source : source
        Raw inputs, and targets in the user's units (class numbers for a classifier).
    seed : int, optional
        Of the rows that are drawn for intervals; without it there are none. Medians and AUCs of more than 100
        targets or classes have none either.

    Notes
    -----
    Numbers: R² (1 is perfect, 0 no better than the mean of these rows), RMSE, MAE, median absolute error.
    Quantiles: pinball loss, coverage. Counts also the Poisson deviance. Classes: accuracy, balanced accuracy,
    ROC AUC, log loss in nats. All weighted where the source has weights. Medians and AUCs of very many rows
    are those of 4 million targets and predictions.

    References
    ----------
    Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13; Kleiner, Talwalkar, Sarkar and
    Jordan, A scalable bootstrap for massive data, 2014 (as many draws as rows, from fewer rows).
    """
    found, n_lost = Running(model, source.n_rows), 0

    def predict(x: np.ndarray) -> np.ndarray:
        nonlocal n_lost
        predicted = model.predict_raw(x)
        n_lost += int(np.count_nonzero(~np.isfinite(predicted).all(axis=1)))
        return predicted

    with np.errstate(all="ignore"):  # said below, or undefined
        found.add_all(source, predict)
        evaluation = found.evaluation(seed)
    if n_lost:
        warnings.warn(
            f"{n_lost:,} of {source.n_rows:,} rows have no finite prediction: their values are too far from "
            f"those of training for {model.network.backend.dtype_name}. What cannot be measured with them is "
            "undefined.",
            stacklevel=2,
        )
    elif not found.is_finite:
        warnings.warn(
            "some targets are so far from their predictions that the squares of errors overflow: what cannot "
            "be measured with them is undefined.",
            stacklevel=2,
        )
    return evaluation


class Running:
    """An evaluation under way, of a model's predictions for so many rows in all."""

    def __init__(self, model: TableModel, n_rows: int) -> None:
        self.model, self.n_rows = model, n_rows
        self._kind: Kind | None = None
        self._total: Sums = {}
        self._kept: list[tuple[np.ndarray, ...]] = []
        self._worst: list[tuple[float, int]] = []
        self._cost, self._n_seen = 0.0, 0

    def add_all(self, source: Source, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take the rows of a source, and what is predicted of them."""
        for index, x, y, given in passes(source, PREDICT_ROWS, n_more=self.model.n_numbers):
            self.add(index, y, predict(x), given)

    def add(self, index: np.ndarray, y: np.ndarray, predicted: np.ndarray, given: np.ndarray) -> None:
        """Take the numbers of some rows, their targets, what is predicted of them, and their weights."""
        predicted, weight = predicted.astype(float), given[:, None]
        self._kind = kind = self._kind or kind_of(self.model, y.mean(axis=0))
        sums = kind.sums(y, predicted, weight)
        self._total = {name: self._total.get(name, 0.0) + value for name, value in sums.items()}
        every = -(-self.n_rows * (y.shape[1] + 1 + predicted.shape[1]) // MOST_NUMBERS)
        spread = slice(-self._n_seen % every, None, every)
        self._kept.append(tuple(part[spread].copy() for part in (y, predicted, weight)))
        self._n_seen += len(y)
        costs = given * kind.losses(y, predicted)
        self._cost += costs.sum()
        most = np.argsort(-costs, kind="stable")[:WORST]
        worst = zip(costs[most].tolist(), index[most].tolist(), strict=True)
        self._worst = heapq.nlargest(WORST, [*self._worst, *worst])

    @property
    def is_finite(self) -> bool:
        """Whether the costs of all rows can be added up."""
        return math.isfinite(self._cost)

    def evaluation(self, seed: int | None = None) -> Evaluation:
        """What was found; with a seed also intervals."""
        kind = self._kind
        if kind is None:
            raise ValueError("there are no rows to measure.")
        rows = tuple(np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        self._kept, (y, predicted, weight) = [rows], rows
        found, levels = kind.of_sums(self._total) | kind.of_rows(y, predicted)(weight), self.model.levels
        return Evaluation(
            in_order(found),
            self.n_rows,
            {} if seed is None else _intervals(kind, found, rows, self.n_rows, seed),
            kind.of_each(self._total, levels) if isinstance(kind, Classes) and levels else None,
            [(at, each, each / self._cost) for each, at in self._worst if 0 < each < math.inf],
        )


def _intervals(
    kind: Kind, found: Mapping[str, float], rows: tuple[np.ndarray, ...], n_rows: int, seed: int
) -> dict[str, tuple[float, float]]:
    """The middle of what is measured when rows are drawn again."""
    generator = np.random.default_rng([seed, 4])
    n_kept = min(len(rows[0]), MOST_RESAMPLED)
    y, predicted, weight = (part[np.linspace(0, len(part) - 1, n_kept).astype(int)] for part in rows)
    of_rows = kind.of_rows(y, predicted) if predicted.shape[1] <= MOST_ORDERS else None

    def measured(weight: np.ndarray) -> dict[str, float]:
        again = kind.of_sums(kind.sums(y, predicted, weight)) | (of_rows(weight) if of_rows else {})
        return {name: again[name] for name in METRICS if name in again}

    here = measured(weight)
    drawn = [
        measured(weight * generator.multinomial(n_rows, np.full(n_kept, 1 / n_kept))[:, None])
        for _ in range(RESAMPLES)
    ]
    intervals = {}
    for name, value in here.items():
        has_meaning = [again[name] for again in drawn if math.isfinite(again[name])]
        if has_meaning and math.isfinite(value) and math.isfinite(found[name]):
            shift = found[name] - value  # the rows that are drawn from stand for all
            low, high = np.quantile(has_meaning, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
            intervals[name] = (low + shift, high + shift)
    return intervals
