"""The softmax cross-entropy, which is more than a formula, from z of shape (n_units, n_rows)."""

import functools
import math
from typing import Any

from mlp_xp.fast.compiled.compiler import ANY_ORDER, carray, for_c, in_any_order, pointer, types
from mlp_xp.fast.compiled.elementary import IN_DOUBLE
from mlp_xp.machine.array_api import Array

exp, log1p = IN_DOUBLE["exp"], IN_DOUBLE["log1p"]


def signature(dtype: str) -> Any:
    """Of what a compiled step calls for its loss."""
    real, labels, wide = pointer(dtype), pointer("int32"), pointer("float64")
    return types.float64(real, real, labels, real, real, wide, wide, wide, *[types.int64] * 4)


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
def weight_of(weight: Array, n_weights: int, row: int, member: int) -> Any:
    """A row's s: 1 without weights, and one for all members or one for each."""
    if n_weights == 0:
        return 1.0
    return 1.0 * weight[row * n_weights + (member if n_weights > 1 else 0)]


@functools.cache
def softmax(dtype: str, *, of_members: bool = False) -> Any:
    """Write Σ s L; z becomes factor · s · ∂L/∂z: a function of C.

    As `SoftmaxCrossEntropy`, no digits lost: d = z − max z, rest = Σ e^d but for the largest.

    Parameters
    ----------
    z : (n_outputs, n_rows, members)
        Consumed.
    y, labels : (n_rows, n_outputs), (n_rows,)
        Read: one of them has the targets, of the network's dtype or int32.
    weight : (n_rows, n_weights)
        s.
    rest : (n_rows, members)
        To be written on.
    numbers : (2, members)
        Label smoothing, and what the value takes for the least probability (0 for no bound).
    factor : (members,)
        1 / Σ s, or 1.
    totals : (members,)
        Where Σ s L goes.
    n_outputs, n_rows : int
    n_weights : int
        Of each row: none, one for all members, or one for each.
    members : int
        How many; 1 if not `of_members`.
    """

    @for_c(signature(dtype), ANY_ORDER)
    def loss(
        z_: Array,
        _y: Array,
        labels: Array,
        weight: Array,
        rest: Array,
        numbers: Array,
        factor: Array,
        totals: Array,
        n_outputs: int,
        n_rows: int,
        n_weights: int,
        members: int,
    ) -> float:
        c, eps, n, total = numbers[0], numbers[members], n_rows * members, 0.0
        z = carray(z_, (n_outputs, n))
        n_outer, n_inner = (n_rows, members) if of_members else (1, n_rows)
        for m in range(members):
            totals[m] = 0.0
        for i in range(n):
            rest[i] = z[0, i]
        for j in range(1, n_outputs):
            for i in range(n):
                rest[i] = max(z[j, i], rest[i])
        for j in range(n_outputs):
            for i in range(n):
                z[j, i] -= rest[i]
        for i in range(n):
            rest[i] = 0.0
        for j in range(n_outputs):
            for i in range(n):
                rest[i] += 0.0 if z[j, i] == 0.0 else exp(z[j, i])
        for i in range(n):
            ties = -1.0
            for j in range(n_outputs):
                ties += 1.0 if z[j, i] == 0.0 else 0.0
            rest[i] += ties
        for outer in range(n_outer):
            for inner in range(n_inner):
                row, i = (outer if of_members else inner), outer * n_inner + inner
                s = weight_of(weight, n_weights, row, inner if of_members else 0)
                if of_members:
                    c, eps = numbers[inner], numbers[members + inner]
                log_sum = log1p(rest[i])
                value = (1.0 - c) * _bounded(log_sum - z[labels[row], i], eps)
                if c:
                    for j in range(n_outputs):
                        value += c / n_outputs * _bounded(log_sum - z[j, i], eps)
                if of_members:
                    totals[inner] += s * value
                else:
                    total += s * value
        for j in range(n_outputs):
            for i in range(n):
                z[j, i] = exp(z[j, i]) / (1.0 + rest[i])
        for outer in range(n_outer):
            for inner in range(n_inner):
                row, i = (outer if of_members else inner), outer * n_inner + inner
                s = weight_of(weight, n_weights, row, inner if of_members else 0)
                s *= factor[inner if of_members else 0]
                if of_members:
                    c = numbers[inner]
                k = labels[row]
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
        if not of_members:
            totals[0] = total
        return 0.0

    return loss
