"""What a report finds out about data and model: columns, confusions, calibration, what columns are worth."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlp_xp.report.charts import counts_in_bins, number
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.metrics import METRICS, deciding
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Column
from mlp_xp.tables.sample import Sample

REPEATS = 3
"""Times that each column is permuted."""

MOST_MULTIPLICATIONS = 1e11
"""In all predictions for the importance of columns: some ten seconds on two cores."""

PREPARATION = 200
"""What it takes to prepare one value, in multiplications of a matrix product (20 ns against 0.1 ns)."""

FEWEST_ROWS = 40
"""Rows below which the importance of columns is not measured."""

BINS = 10
"""Of the probabilities whose calibration is shown."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """A column in a few words: its gaps are a share of the rows, `counts` a histogram.

    Numbers: "mean 5 ± 2, median 4, 0 to 12", dates without a mean; texts: the most frequent with their
    shares, and how often each of these is.
    """

    name: str
    kind: str
    gaps: float
    words: str
    counts: list[int]


def summary_of(name: str, kind: str, values: np.ndarray, levels: Sequence[str] | None = None) -> Summary:
    """A column in a few words.

    Parameters
    ----------
    values : array (n,)
        nan is a gap; of texts and booleans the numbers of their levels, and another for other texts.
    levels : sequence of str, optional
        Names of texts and booleans.
    """
    is_gap = np.isnan(values) if levels is None else ~(values >= 0)
    known, gaps = values[~is_gap], float(is_gap.mean())
    if not len(known):
        return Summary(name, kind, gaps, "no values", [])
    if levels is None and kind in ("text", "bool"):
        return Summary(name, kind, gaps, "a single value", [])  # whose name is not known: it has no feature
    if levels is not None:
        counts = collections.Counter(known.astype(int).tolist()).most_common()
        shown = [f"{_level(levels, code)} {count / len(known):.0%}" for code, count in counts[:5]]
        more = f" and {len(counts) - 5:,} more" if len(counts) > 5 else ""
        return Summary(name, kind, gaps, ", ".join(shown) + more, [count for _, count in counts[:12]])
    low, middle, high = np.quantile(known, [0, 0.5, 1]).tolist()
    say = number if kind != "date" else functools.partial(_date, unit="m" if high - low < 10 else "D")
    if low == high:
        return Summary(name, kind, gaps, f"always {say(low)}", [])
    words = f"median {say(middle)}, {say(low)} to {say(high)}"
    if kind != "date":
        words = f"mean {say(float(known.mean()))} ± {say(float(known.std()))}, {words}"
    return Summary(name, kind, gaps, words, counts_in_bins(known, 12)[0].tolist())


def _level(levels: Sequence[str], code: int) -> str:
    return levels[code] if code < len(levels) else "(others)"


def value_of(column: Column, value: float) -> str:
    """A raw value of a column, for people."""
    levels = getattr(column, "levels", None)
    if np.isnan(value) or (levels is not None and value < 0):
        return "missing"
    if levels is not None:
        return _level(levels, int(value))
    is_day = value == round(value)
    return _date(value, "D" if is_day else "m") if column.kind == "date" else number(value)


def _date(days: float, unit: str) -> str:
    """A moment to the minute ("m") or the day ("D")."""
    moment = np.datetime64(round(days * 86_400), "s")
    return str(moment.astype(f"datetime64[{unit}]")).replace("T", " ")


def summaries(model: TableModel, rows: Sample) -> list[Summary]:
    """All columns of the inputs in a few words, and the targets after them."""
    found = [
        summary_of(column.name, column.kind, rows.x[:, at], getattr(column, "levels", None))
        for at, column in enumerate(model.inputs.columns)
    ]
    for at, name in enumerate(model.targets.names):
        kind = "number" if model.levels is None else "text"
        found.append(summary_of(name, f"target, {kind}", rows.y[:, at], model.levels))
    return found


class Importance(NamedTuple):
    """How much worse the metric gets when a column is shuffled some times: the mean, and the deviation."""

    name: str
    loss: float
    spread: float


def affordable(model: TableModel, rows: Sample) -> Sample | None:
    """Rows, evenly spread, on which the importance of columns is soon measured; None if those are too few."""
    of_a_row = model.network.n_weights + PREPARATION * rows.n_features
    n_rows = int(MOST_MULTIPLICATIONS / (REPEATS * rows.n_features * of_a_row))
    if n_rows < FEWEST_ROWS:
        return None
    n_rows = min(n_rows, rows.n_rows)
    index = np.linspace(0, rows.n_rows - 1, n_rows).astype(np.int64)
    return Sample(rows.x[index], rows.y[index], None if rows.weight is None else rows.weight[index])


def importance_of_columns(model: TableModel, rows: Sample, seed: int) -> tuple[str, list[Importance]]:
    """What each column is worth to a model: how much worse it predicts when the column's values are shuffled.

    Parameters
    ----------
    rows : Sample
        Raw rows that the model was not trained on; *read*.

    Returns
    -------
    str, list of Importance
        The metric (the deciding one; "mae" of a loss that heeds no far rows, "r2" of several targets), and
        the columns, the most important first.

    References
    ----------
    Breiman, Random forests, Machine Learning 45, 2001, section 10.
    """
    generator = np.random.default_rng([seed, 3])
    x = rows.x.copy()
    here = Sample(x, rows.y, rows.weight)
    before = evaluate(model, here)
    metric = "r2" if "r2" in before and len(model.targets.names) > 1 else deciding(before)
    if metric == "rmse" and model.loss is not None and not model.loss.heeds_far_rows:
        metric = "mae"
    sign = -1.0 if METRICS[metric].higher else 1.0
    found = []
    for at, name in enumerate(model.inputs.names):
        column, losses = x[:, at].copy(), []
        for _ in range(REPEATS):
            x[:, at] = generator.permutation(column)
            losses.append(sign * (evaluate(model, here)[metric] - before[metric]))
        x[:, at] = column
        found.append(Importance(name, float(np.mean(losses)), float(np.std(losses))))
    return metric, sorted(found, key=lambda each: -each.loss)


class Calibration(NamedTuple):
    """Of each bin that has rows: the mean probability, how often it was so, and predictions."""

    said: list[float]
    found: list[float]
    counts: list[int]


def calibration_of(probabilities: np.ndarray, happened: np.ndarray) -> Calibration:
    """Compare probabilities (n,) with what happened (n,), in bins of equal width."""
    at = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    counts = np.bincount(at, minlength=BINS)
    filled = np.flatnonzero(counts)
    said, found = (
        (np.bincount(at, weights=each, minlength=BINS)[filled] / counts[filled]).tolist()
        for each in (probabilities.astype(float), happened.astype(float))
    )
    return Calibration(said, found, counts[filled].tolist())


def confusions(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """How often each class (a row) was taken for each (a column): (n_classes, n_classes) int."""
    pairs = np.bincount(true.astype(np.int64) * n_classes + predicted, minlength=n_classes * n_classes)
    return pairs.reshape(n_classes, n_classes)


def worst_confusions(true: np.ndarray, predicted: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: a class, what it was taken for, how often; for any number of classes."""
    wrong = np.flatnonzero(true != predicted)
    mistakes = collections.Counter(zip(true[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    return [(class_, taken_for, count) for (class_, taken_for), count in mistakes.most_common(most)]
