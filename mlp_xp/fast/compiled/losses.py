"""Losses with their δ = ∂L/∂z, from z of shape (n_units, n_rows)."""

import math
from typing import Any

from mlp_xp.fast.compiled.compiler import in_any_order
from mlp_xp.fast.compiled.elementary import exp, log1p, logistic, softplus

LOSSES = (
    "squared_error",
    "half_squared_error",
    "absolute_error",
    "huber",
    "poisson",
    "binary_cross_entropy",
    "softmax_cross_entropy",
)
(
    SQUARED_ERROR,
    HALF_SQUARED_ERROR,
    ABSOLUTE_ERROR,
    HUBER,
    POISSON,
    BINARY_CROSS_ENTROPY,
    SOFTMAX_CROSS_ENTROPY,
) = range(len(LOSSES))


@in_any_order
def _bounded(minus_log_p: float, eps: float) -> float:
    """−log p with p bounded to [ε, 1 − ε]; ε = 0 leaves it alone. NaN stays NaN."""
    if eps > 0.0:
        least, most = -math.log1p(-eps), -math.log(eps)
        if minus_log_p < least:
            minus_log_p = least
        if minus_log_p > most:
            minus_log_p = most
    return minus_log_p


@in_any_order
def differentiate(
    loss: int, c: float, eps: float, z: Any, y: Any, labels: Any, weight: Any, factor: float, rest: Any
) -> float:
    """Return Σ s L; z becomes factor · s · ∂L/∂z.

    Parameters
    ----------
    loss, c : int, float
        Which one, and its parameter: Huber's δ, or label smoothing.
    eps : float
        What the value of a cross-entropy takes for the least probability; 0 for no bound.
    z : array (n_outputs, n_rows)
        Consumed.
    y, labels : arrays (n_rows, n_outputs), (n_rows, 1)
        Read: one of them has the targets, of the network's dtype or int32.
    weight : array (n_rows, 1)
        s; empty for all ones.
    factor : float
        1 / Σ s, or 1.
    rest : array (n_rows,)
        To be written on.
    """
    total = 0.0
    n_outputs, n_rows = z.shape
    if loss == SOFTMAX_CROSS_ENTROPY:
        return _softmax(c, eps, z, labels, weight, factor, rest)
    for j in range(n_outputs):
        row = z[j]
        for i in range(n_rows):
            s = weight[i, 0] if weight.size else 1.0
            x, target = 1.0 * row[i], 1.0 * y[i, j]  # float64
            if loss == SQUARED_ERROR:
                value, delta = (x - target) * (x - target), 2.0 * (x - target)
            elif loss == HALF_SQUARED_ERROR:
                value, delta = 0.5 * (x - target) * (x - target), x - target
            elif loss == ABSOLUTE_ERROR:
                value = abs(x - target)
                delta = 1.0 if x > target else -1.0 if x < target else 0.0
            elif loss == HUBER:
                r = delta = x - target
                if delta < -c:
                    delta = -c
                if delta > c:
                    delta = c
                value = delta * (r - 0.5 * delta)
            elif loss == POISSON:
                rate = exp(x)
                value, delta = rate - target * x, rate - target
            else:
                if_one, if_zero = _bounded(softplus(-x), eps), _bounded(softplus(x), eps)
                value = target * if_one + (1.0 - target) * if_zero
                delta = (1.0 - target) * logistic(x) - target * logistic(-x)
            total += s * value
            row[i] = factor * s * delta
    return total


@in_any_order
def _softmax(c: float, eps: float, z: Any, labels: Any, weight: Any, factor: float, rest: Any) -> float:
    """As `SoftmaxCrossEntropy`, no digits lost: d = z − max z, rest = Σ e^d but for the largest."""
    n_outputs, n_rows = z.shape
    total = 0.0
    for i in range(n_rows):
        rest[i] = z[0, i]
    for j in range(1, n_outputs):
        for i in range(n_rows):
            rest[i] = max(z[j, i], rest[i])
    for j in range(n_outputs):
        for i in range(n_rows):
            z[j, i] -= rest[i]
    for i in range(n_rows):
        rest[i] = 0.0
    for j in range(n_outputs):
        for i in range(n_rows):
            rest[i] += 0.0 if z[j, i] == 0.0 else exp(z[j, i])
    for i in range(n_rows):
        ties = -1.0
        for j in range(n_outputs):
            ties += 1.0 if z[j, i] == 0.0 else 0.0
        rest[i] += ties
    for i in range(n_rows):
        s = weight[i, 0] if weight.size else 1.0
        log_sum = log1p(rest[i]) if rest[i] <= 1.0 else math.log(1.0 + rest[i])
        value = (1.0 - c) * _bounded(log_sum - z[labels[i, 0], i], eps)
        if c:
            for j in range(n_outputs):
                value += c / n_outputs * _bounded(log_sum - z[j, i], eps)
        total += s * value
    for j in range(n_outputs):
        for i in range(n_rows):
            z[j, i] = exp(z[j, i]) / (1.0 + rest[i])
    for i in range(n_rows):
        s = factor * (weight[i, 0] if weight.size else 1.0)
        k = labels[i, 0]
        others = 0.0
        for j in range(n_outputs):
            others += 0.0 if j == k else z[j, i]
        z[k, i] = -others
        if c:
            for j in range(n_outputs):
                z[j, i] -= c / n_outputs
            z[k, i] += c
        for j in range(n_outputs):
            z[j, i] *= s
    return total
