"""How a function of loops is compiled: for one thread, without Python's lock, kept on disk between runs.

One thread, because Numba's own threads beside those of the BLAS, which spin after every product, make a step
several times slower.
"""

from collections.abc import Callable
from typing import Any

ANY_ORDER = {"contract", "nsz", "reassoc"}
"""Sums may be taken in the order that is fastest; infinities and NaN stay what they are."""


def _compile(function: Callable[..., Any], fastmath: Any) -> Any:
    try:
        import numba
    except ImportError:
        return function
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder to keep it in
        return numba.njit(**options)(function)


def as_written(function: Callable[..., Any]) -> Any:
    """Compile; every operation is rounded as NumPy would round it."""
    return _compile(function, False)


def in_any_order(function: Callable[..., Any]) -> Any:
    """Compile; products may be fused with sums, and sums reordered."""
    return _compile(function, ANY_ORDER)
