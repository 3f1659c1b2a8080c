"""How good a table model is, in the user's units, over any number of rows in bounded memory."""

import math
from collections.abc import Iterator

import numpy as np

from mlp_xp.losses import Loss
from mlp_xp.rows.source import Source, passes
from mlp_xp.tables.model import PREDICT_ROWS, TableModel


def evaluate(model: TableModel, source: Source) -> dict[str, float]:
    """Metrics of a model on the raw rows of a source, its most telling metric first.

    Parameters
    ----------
    model : TableModel
    source : source
        Raw inputs, and targets in the user's units (class numbers for a classifier).

    Returns
    -------
    dict of str to float
        Classes: "accuracy", "log_loss" (nats). Numbers: "r2" (1 is perfect, 0 no better than the mean of
        these rows), "rmse", "mae" (in the target's units); with several targets the means over them, and then
        the same of each as "r2_NAME", ... Quantiles: "pinball_loss" (target's units, mean over quantiles and
        targets), and "coverage" (part of rows between the outer ones) where there are two or more. Counts
        also "poisson_deviance". Labels of a binary cross-entropy without classes: "accuracy", "log_loss",
        means over labels. All weighted where the source has weights; nan where a metric has no meaning.

    Raises
    ------
    ValueError
        The model predicts quantiles and does not say which (a network alone).
    """
    if model.levels is not None:
        return _of_classes(model, source)
    if model.quantiles is not None:
        return _of_quantiles(model, source, model.quantiles)
    if model.loss is None:
        raise ValueError(
            "this file holds a network alone, which does not say which quantiles it predicts: only a model "
            "that mlp-xp train wrote can be evaluated."
        )
    if model.loss.link.probabilities == "each":
        return _of_labels(model, source)
    return _of_numbers(model, source, model.loss)


def _parts(model: TableModel, source: Source) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Targets (m, n_targets), predictions (m, n_outputs) and weights (m, 1), part by part."""
    for _, x, y, weight in passes(source, PREDICT_ROWS, n_more=model.n_numbers):
        yield y, model.predict_raw(x).astype(float), weight[:, None]


def _minus_log(p: np.ndarray) -> np.ndarray:
    """−log p; a probability that rounds to 0 counts as the least one that float32 has."""
    return -np.log(np.maximum(p, np.finfo(np.float32).tiny))


def _of_classes(model: TableModel, source: Source) -> dict[str, float]:
    total = right = surprise = 0.0
    for y, p, weight in _parts(model, source):
        label = y.astype(int)
        total += weight.sum()
        right += weight[np.argmax(p, axis=1, keepdims=True) == label].sum()
        surprise += (weight * _minus_log(np.take_along_axis(p, label, axis=1))).sum()
    return {"accuracy": _ratio(right, total), "log_loss": _ratio(surprise, total)}


def _of_labels(model: TableModel, source: Source) -> dict[str, float]:
    total = right = surprise = 0.0
    for y, p, weight in _parts(model, source):
        total += weight.sum()
        right += (weight * ((p > 0.5) == (y > 0.5)).mean(axis=1, keepdims=True)).sum()
        surprise += (
            weight * (y * _minus_log(p) + (1 - y) * _minus_log(1 - p)).mean(axis=1, keepdims=True)
        ).sum()
    return {"accuracy": _ratio(right, total), "log_loss": _ratio(surprise, total)}


def _of_numbers(model: TableModel, source: Source, loss: Loss) -> dict[str, float]:
    n_targets = source.n_targets
    total = measured = 0.0
    mean, squares = np.zeros(n_targets), np.zeros(n_targets)  # of y about its running mean
    squared, absolute = np.zeros(n_targets), np.zeros(n_targets)
    for y, predicted, weight in _parts(model, source):
        error = predicted - y
        squared += (weight * error * error).sum(axis=0)
        absolute += (weight * np.abs(error)).sum(axis=0)
        here = weight.sum()
        if here > 0:
            part_mean = (weight * y).sum(axis=0) / here
            shift, total_after = part_mean - mean, total + here
            squares += (weight * np.square(y - part_mean)).sum(axis=0)
            squares += shift * shift * (total * here / total_after)
            mean += shift * (here / total_after)
            total = total_after
        if loss.metric is not None:
            measured += (weight * loss.measure(y, predicted)).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        each = {
            "r2": np.where(squares > 0, 1.0 - squared / squares, np.nan),
            "rmse": np.sqrt(squared / total),
            "mae": absolute / total,
        }
    metrics = {metric: float(values.mean()) for metric, values in each.items()}
    if loss.metric is not None:
        metrics[loss.metric] = _ratio(measured / n_targets, total)
    if n_targets > 1:
        for column, name in enumerate(model.targets.names):
            metrics |= {f"{metric}_{name}": float(values[column]) for metric, values in each.items()}
    return metrics


def _of_quantiles(model: TableModel, source: Source, quantiles: tuple[float, ...]) -> dict[str, float]:
    q = np.asarray(quantiles)
    total = pinball = covered = 0.0
    for y, predicted, weight in _parts(model, source):
        grouped = predicted.reshape(*y.shape, len(q))
        error = y[:, :, None] - grouped
        pinball += (weight[:, :, None] * np.maximum(q * error, (q - 1) * error)).mean(axis=(1, 2)).sum()
        inside = (grouped[:, :, 0] <= y) & (y <= grouped[:, :, -1])
        covered += (weight[:, 0] * inside.mean(axis=1)).sum()
        total += weight.sum()
    metrics = {"pinball_loss": _ratio(pinball, total)}
    return metrics if len(q) == 1 else metrics | {"coverage": _ratio(covered, total)}


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else math.nan
