"""e^x and what is made of it, without branches, so that the compiler computes several at once.

Each in two precisions, float32 and float64, right to three units of the last place. NaN stays NaN:
comparisons are written so that it fails them all (`max` would hide it).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlp_xp.fast.compiled.compiler import inlined

Function = Callable[[Any], Any]
"""Of one number, which has the precision that it is for."""


def _functions(
    real: Any,
    whole: Any,
    bits: Function,
    of_bits: Function,
    ln2: tuple[float, float],
    n_terms: int,
    n_odd: int,
) -> Mapping[str, Function]:
    """Those of a precision.

    Parameters
    ----------
    real, whole : type
        NumPy's, of one size.
    bits, of_bits : callable
        The one as the other.
    ln2 : (float, float)
        Their sum is ln 2; the first, times any exponent, is exact.
    n_terms, n_odd : int
        Of the series of e^r − 1 and artanh w.
    """
    of, bits, of_bits = np.finfo(real), inlined(bits), inlined(of_bits)
    digits, zero, half, one, two = int(of.nmant), *map(real, (0.0, 0.5, 1.0, 2.0))
    log2_e, ln2_high, ln2_low = real(1.0 / math.log(2.0)), real(ln2[0]), real(ln2[1])
    least, most = real(np.log(of.smallest_subnormal) - one), real(np.log(of.max) + one)
    # Added to a number and taken away again it rounds; in between the lowest bits are the whole number.
    rounder = real(1.5 * 2.0**digits)
    bits_of_rounder, bits_of_one, bits_of_root_half = (
        n.view(whole) for n in (rounder, one, np.sqrt(half, dtype=real))
    )
    infinity, nan, most_shifted = real(math.inf), real(math.nan), 2 * digits
    of_exp = tuple(real(1.0 / math.factorial(n)) for n in range(n_terms, 0, -1))
    of_artanh = tuple(real(1.0 / n) for n in range(2 * n_odd - 1, 0, -2))

    @inlined
    def series(coefficients: Any, x: Any) -> Any:
        total = coefficients[0]
        for coefficient in coefficients[1:]:
            total = total * x + coefficient
        return total

    @inlined
    def power_of_two(n: Any) -> Any:
        return of_bits((n << digits) + bits_of_one)

    @inlined
    def parts(x: Any) -> Any:
        """N and q = e^r − 1 with x = n ln 2 + r."""
        if x < least:
            x = least
        if x > most:
            x = most
        shifted = x * log2_e + rounder
        n = shifted - rounder
        r = (x - n * ln2_high) - n * ln2_low
        return whole(bits(shifted) - bits_of_rounder), r * series(of_exp, r)

    @inlined
    def exp(x: Any) -> Any:
        """e^x, 2^n in two steps: it may be infinite, or below the normal numbers, where e^x is not."""
        n, q = parts(x)
        first = whole(n >> 1)
        s = power_of_two(first)
        return (s + s * q) * power_of_two(n - first)

    @inlined
    def expm1(x: Any) -> Any:
        """e^x − 1, in the same two steps."""
        n, q = parts(x)
        first = whole(n >> 1)
        s = power_of_two(first)
        return (s * q + (s - power_of_two(first - n))) * power_of_two(n - first)

    @inlined
    def tanh(x: Any) -> Any:
        """−(e^−2|x| − 1) / (e^−2|x| + 1), with the sign of x."""
        less = expm1(-two * abs(x))
        t = -less / (two + less)
        return -t if x < zero else t

    @inlined
    def log1p(u: Any) -> Any:
        """log(1 + u) = n ln 2 + log(1 + f), 1 + u = 2^n (1 + f), √½ ≤ 1 + f < √2.

        log(1 + f) = 2 artanh(w), w = f / (2 + f); what rounding 1 + u loses is added to f.
        """
        x = one + u
        lost = u - (x - one) if u < one else one - (x - u)
        n = whole((bits(x) - bits_of_root_half) >> digits)
        f = of_bits(bits(x) - (n << digits)) - one
        f += lost * power_of_two(-min(n, most_shifted))  # beyond, nothing that counts
        w = f / (two + f)
        exponent = real(n)
        found = exponent * ln2_high + (two * w * series(of_artanh, w * w) + exponent * ln2_low)
        if not x < infinity:  # NaN, too
            return x
        return found if x > zero else -infinity if x == zero else nan

    return {"exp": exp, "expm1": expm1, "tanh": tanh, "log1p": log1p}


IN_SINGLE = _functions(
    np.float32,
    np.int32,
    lambda x: np.float32(x).view(np.int32),
    lambda n: np.int32(n).view(np.float32),
    ln2=(0.693145751953125, 1.42860682030941723212e-06),
    n_terms=7,
    n_odd=5,
)
IN_DOUBLE = _functions(
    np.float64,
    np.int64,
    lambda x: np.float64(x).view(np.int64),
    lambda n: np.int64(n).view(np.float64),
    ln2=(0.693147180369123816490, 1.90821492927058770002e-10),
    n_terms=13,
    n_odd=11,
)
"""By name; each of a number of that precision."""
