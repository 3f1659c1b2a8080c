"""The update rules as one pass over memory each, with the bits of the plain rules.

What is computed, and in which order, is what `optimizers` says; the numbers h are those of
`fast.rule_numbers`.
"""

import math
from typing import Any

from mlp_xp.fast.compiled.compiler import as_written

RULES = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "nadam")
SGD, MOMENTUM, NESTEROV, RMSPROP, ADAM, ADAMW, NADAM = range(len(RULES))
N_NUMBERS = 6


@as_written
def apply_rule(rule: int, h: Any, p: Any, g: Any, m: Any, v: Any, n_weights: int) -> None:
    """One step of a rule on slices of the vectors, of which the first `n_weights` elements are weights.

    p, m and v are updated, as far as the rule has them: what momentum calls v is m here. g is read.
    """
    number = p.dtype.type
    h0, h1, h2, h3 = number(h[0]), number(h[1]), number(h[2]), number(h[3])
    h4, h5 = number(h[4]), number(h[5])
    if rule == SGD:
        for i in range(p.size):
            p[i] -= h0 * g[i]
    elif rule == MOMENTUM:
        for i in range(p.size):
            m[i] = m[i] * h1 - h0 * g[i]
            p[i] += m[i]
    elif rule == NESTEROV:
        for i in range(p.size):
            m[i] = m[i] * h1 - h0 * g[i]
            p[i] += h1 * m[i] - h0 * g[i]
    elif rule == RMSPROP:
        for i in range(p.size):
            m[i] = m[i] * h1 + h2 * (g[i] * g[i])
            p[i] -= h0 * g[i] / (number(math.sqrt(m[i])) + h3)
    elif rule == NADAM:
        for i in range(p.size):
            m[i] = m[i] * h1 + g[i]
            v[i] = v[i] * h2 + g[i] * g[i]
            p[i] -= h0 * (h4 * m[i] + h5 * g[i]) / (number(math.sqrt(v[i])) + h3)
    else:
        if rule == ADAMW:
            for i in range(n_weights):
                p[i] *= h4
        for i in range(p.size):
            m[i] = m[i] * h1 + g[i]
            v[i] = v[i] * h2 + g[i] * g[i]
            p[i] -= h0 * m[i] / (number(math.sqrt(v[i])) + h3)
