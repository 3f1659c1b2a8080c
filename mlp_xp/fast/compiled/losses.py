"""The softmax cross-entropy, which is more than a formula, from z of shape (n_units, n_rows)."""

import functools
import math
from typing import Any

from mlp_xp.fast.compiled.compiler import ANY_ORDER, for_c, in_any_order, pieces
from mlp_xp.fast.compiled.elementary import exp, log1p
from mlp_xp.machine.array_api import Array


def signature(dtype: str) -> Any:
    """Of what a compiled step calls for its loss."""
    types, _ = pieces()
    array, whole, wide = types.CPointer(getattr(types, dtype)), types.int64, types.float64
    labels, numbers = types.CPointer(types.int32), types.CPointer(wide)
    return wide(array, array, labels, array, array, numbers, whole, whole, whole, wide)


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
def _softmax(
    c: float, eps: float, z: Array, labels: Array, weight: Array, factor: float, rest: Array
) -> float:
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
        s = weight[i] if weight.size else 1.0
        log_sum = log1p(rest[i])
        value = (1.0 - c) * _bounded(log_sum - z[labels[i], i], eps)
        if c:
            for j in range(n_outputs):
                value += c / n_outputs * _bounded(log_sum - z[j, i], eps)
        total += s * value
    for j in range(n_outputs):
        for i in range(n_rows):
            z[j, i] = exp(z[j, i]) / (1.0 + rest[i])
    for i in range(n_rows):
        s = factor * (weight[i] if weight.size else 1.0)
        k = labels[i]
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


@functools.cache
def softmax(dtype: str) -> Any:
    """Return Σ s L; z becomes factor · s · ∂L/∂z: a function of C.

    Parameters
    ----------
    z : (n_outputs, n_rows)
        Consumed.
    y, labels : (n_rows, n_outputs), (n_rows,)
        Read: one of them has the targets, of the network's dtype or int32.
    weight : (n_rows,)
        s, if `is_weighted`.
    rest : (n_rows,)
        To be written on.
    numbers : (2,)
        Label smoothing, and what the value takes for the least probability (0 for no bound).
    n_outputs, n_rows, is_weighted : int
    factor : float
        1 / Σ s, or 1.
    """
    _, carray = pieces()

    @for_c(signature(dtype), ANY_ORDER)
    def loss(
        z: Array,
        _y: Array,
        labels: Array,
        weight: Array,
        rest: Array,
        numbers: Array,
        n_outputs: int,
        n_rows: int,
        is_weighted: int,
        factor: float,
    ) -> float:
        s = carray(weight, n_rows * is_weighted)
        delta = carray(z, (n_outputs, n_rows))
        return _softmax(
            numbers[0], numbers[1], delta, carray(labels, n_rows), s, factor, carray(rest, n_rows)
        )

    return loss
