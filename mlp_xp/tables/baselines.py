"""What a model must beat: a constant, and a linear model of the same features.

    numbers    W = (XᵀX + I)⁻¹ XᵀY
    classes    W ← W + (XᵀX / 2 + I)⁻¹ (Xᵀ(Y − P) − W),    P = softmax(XW)

The latter from a little ahead (Nesterov's momentum). Both with a column of ones in X, whose weights
are not penalised. A step never overshoots: the matrix bounds the second derivative of the cross-entropy, for
labels by themselves too.

References
----------
Böhning, Multinomial logistic regression algorithm, Annals of the Institute of Statistical Mathematics, 1992.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mlp_xp.machine import blas
from mlp_xp.rows.source import Source
from mlp_xp.tables.evaluation import Evaluation, Running
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.sample import Sample

Predict = Callable[[np.ndarray], np.ndarray]
"""From raw rows to predictions in the user's units."""

MOST_MULTIPLICATIONS = 3e9
"""In XᵀX, and in all steps: less than a second each. Of more rows than that allows, some are taken."""

STEPS = 60
"""Towards the linear model of classes."""

FEWEST_ROWS = 1000
"""Rows below which a linear model of a part of the rows says nothing."""


def baselines(model: TableModel, parts: Sequence[tuple[Sample, Source]]) -> dict[str, Evaluation]:
    """How good the baselines of a model are on rows that they were not fitted to, where there are such.

    Parameters
    ----------
    parts : sequence of (Sample, Source)
        Raw rows that a baseline is fitted to, and those that it is measured on: one pair, or one a fold.

    Returns
    -------
    dict of str to Evaluation
        "mean" ("majority" for classes, whose probabilities are their shares; for quantiles those of the
        training rows), and "linear" where there is one; of all rows that are measured on together.
    """
    name, n_rows = "mean" if model.levels is None else "majority", sum(rows.n_rows for _, rows in parts)
    found = {name: Running(model, n_rows), "linear": Running(model, n_rows)}
    with np.errstate(all="ignore"):  # what is not finite is undefined in the end
        for training, rows in parts:
            for each, predict in ((name, constant(model, training)), ("linear", linear(model, training))):
                if predict is None:
                    found.pop(each, None)
                elif each in found:
                    found[each].add_all(rows, predict)
    return {each: running.evaluation() for each, running in found.items()}


def constant(model: TableModel, training: Sample) -> Predict:
    """The best prediction for rows of which nothing is known."""
    y = training.y
    if model.levels is not None:
        always = np.bincount(y[:, 0].astype(int), training.weight, len(model.levels))
        always = always / always.sum()
    elif model.quantiles is not None:
        always = np.quantile(y, model.quantiles, axis=0).T.reshape(-1)
    else:
        always = np.average(y, axis=0, weights=training.weight)
    return lambda x: np.broadcast_to(always, (len(x), len(always)))


def linear(model: TableModel, training: Sample) -> Predict | None:
    """The linear model of the same features; None for quantiles, and where there are too many features."""
    n_features, n_outputs = model.inputs.n_features + 1, len(model.output_names)
    affordable = MOST_MULTIPLICATIONS / max(n_features**2, 2 * STEPS * n_features * n_outputs)
    n_rows = min(training.n_rows, int(affordable))
    if model.quantiles is not None or n_rows < min(training.n_rows, FEWEST_ROWS):
        return None
    index = np.linspace(0, training.n_rows - 1, n_rows).astype(np.int64)
    weight = np.ones(n_rows) if training.weight is None else training.weight[index]
    weight = weight / weight.mean()
    raw, y = training.x[index], training.y[index]
    if model.levels is not None:
        return _of_classes(model, raw, np.eye(n_outputs)[y[:, 0].astype(int)], weight, _softmax)
    if model.loss is not None and model.loss.link.probabilities == "each":
        return _of_classes(model, raw, y, weight, lambda z: 1 / (1 + np.exp(-z)))
    x = _features(model, raw)
    with blas.multiplying(x.size * n_features):
        w = np.linalg.solve(_curvature(x, weight, 1.0), x.T @ (weight[:, None] * y))
    least, most = y.min(axis=0), y.max(axis=0)
    return lambda x: np.clip(_features(model, x) @ w, least, most)


def _of_classes(
    model: TableModel, raw: np.ndarray, y: np.ndarray, weight: np.ndarray, link: Predict
) -> Predict:
    """In float32: all rows are read twice a step, and reading them takes the time."""
    x, y, weight = _features(model, raw, np.float32), y.astype(np.float32), weight.astype(np.float32)
    with blas.multiplying(x.size * x.shape[1]):
        step = np.linalg.inv(_curvature(x, weight, 0.5).astype(float)).astype(np.float32)
    w = ahead = np.zeros((x.shape[1], y.shape[1]), np.float32)
    penalised = _penalty(x.shape[1]).astype(np.float32)[:, None]
    with blas.multiplying(x.size * y.shape[1]):
        for n in range(STEPS):
            new = ahead + step @ (x.T @ (weight[:, None] * (y - link(x @ ahead))) - penalised * ahead)
            w, ahead = new, new + np.float32(n / (n + 3)) * (new - w)
    return lambda x: link(_features(model, x) @ w)


def _features(model: TableModel, raw: np.ndarray, dtype: npt.DTypeLike = float) -> np.ndarray:
    """What the network sees of raw rows, levels as 1, after a column of ones."""
    x: np.ndarray = np.ones((len(raw), 1 + model.inputs.n_features), dtype)
    model.inputs.fill(raw, x[:, 1:])
    x[:, 1:] /= model.inputs.scales.astype(dtype)
    return x


def _curvature(x: np.ndarray, weight: np.ndarray, factor: float) -> np.ndarray:
    found = factor * (x.T @ (weight[:, None] * x))
    found[np.diag_indices_from(found)] += _penalty(len(found)) + 1e-9
    return found


def _penalty(n: int) -> np.ndarray:
    return np.append(0.0, np.ones(n - 1))


def _softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
