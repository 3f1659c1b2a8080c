"""e^x and what is made of it, without branches, so that the compiler computes several at once.

Numbers are float64 whatever the arrays hold, and right to a few units of the last place of that. NaN stays
NaN: comparisons are written so that it fails them all (`max` would hide it).
"""

import math

import numpy as np

from mlp_xp.fast.compiled.compiler import as_written

LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # their sum is ln 2 to 100 bits
ROUNDER = 1.5 * 2.0**52
"""Added to a number and taken away again it rounds; in between the lowest bits are the whole number."""

BIAS = 1023 << 52
"""The bits of 1.0."""

ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of √½."""

LEAST, MOST = -708.0, 710.0
"""2^n is a normal number from here on, and infinite there."""


@as_written
def exp_parts(x: float) -> tuple[float, float]:
    """s and q with e^x = s + s q: s = 2^n, q = e^r − 1 by its series, x = n ln 2 + r."""
    if x < LEAST:
        x = LEAST
    if x > MOST:
        x = MOST
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    bits = (np.float64(shifted).view(np.int64) << 52) + BIAS
    s = np.int64(bits).view(np.float64)
    q = 1.0 / 6227020800 * r + 1.0 / 479001600
    q = q * r + 1.0 / 39916800
    q = q * r + 1.0 / 3628800
    q = q * r + 1.0 / 362880
    q = q * r + 1.0 / 40320
    q = q * r + 1.0 / 5040
    q = q * r + 1.0 / 720
    q = q * r + 1.0 / 120
    q = q * r + 1.0 / 24
    q = q * r + 1.0 / 6
    q = q * r + 0.5
    q = q * r + 1.0
    return s, q * r


@as_written
def exp(x: float) -> float:
    """e^x."""
    s, q = exp_parts(x)
    return s + s * q


@as_written
def expm1(x: float) -> float:
    """e^x − 1."""
    s, q = exp_parts(x)
    return s * q + (s - 1.0)


@as_written
def tanh(x: float) -> float:
    """−(e^−2|x| − 1) / (e^−2|x| + 1), with the sign of x."""
    size = abs(x)
    s, q = exp_parts(-2.0 * size)
    less = s * q + (s - 1.0)
    t = -less / (2.0 + less)
    return -t if x < 0.0 else t


@as_written
def log1p(u: float) -> float:
    """log(1 + u) = n ln 2 + log(1 + f), 1 + u = 2^n (1 + f), √½ ≤ 1 + f < √2.

    log(1 + f) = 2 artanh(w) with w = f / (2 + f), by its series; what rounding 1 + u loses is added to f.
    """
    x = 1.0 + u
    lost = u - (x - 1.0) if u < 1.0 else 1.0 - (x - u)
    bits = np.float64(x).view(np.int64)
    n = (bits - ROOT_HALF) >> 52
    f = np.int64(bits - (n << 52)).view(np.float64) - 1.0
    f += lost * np.int64(BIAS - (n << 52)).view(np.float64)
    w = f / (2.0 + f)
    square = w * w
    series = square / 21 + 1.0 / 19
    series = series * square + 1.0 / 17
    series = series * square + 1.0 / 15
    series = series * square + 1.0 / 13
    series = series * square + 1.0 / 11
    series = series * square + 1.0 / 9
    series = series * square + 1.0 / 7
    series = series * square + 1.0 / 5
    series = series * square + 1.0 / 3
    series = series * square + 1.0
    found = n * LN2_HIGH + (2.0 * w * series + n * LN2_LOW)
    if not x < math.inf:  # NaN, too
        return x
    return found if x > 0.0 else -math.inf if x == 0.0 else math.nan
