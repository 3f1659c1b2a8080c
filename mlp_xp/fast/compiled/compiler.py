"""How a function of loops is compiled: for one thread, without Python's lock, kept on disk between runs.

One thread, because Numba's own threads beside those of the BLAS, which spin after every product, make a step
several times slower.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir as _ir
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.np import arrayobj

_numba: Any = numba
types, carray = _numba.types, _numba.carray
ir: Any = _ir
building: Any = cgutils
arrays: Any = arrayobj
"""Numba as mypy, which knows it halfway, does not stumble over it."""

ANY_ORDER = {"contract", "nsz", "reassoc"}
"""Sums may be taken in the order that is fastest; infinities and NaN stay what they are."""


EXACT: set[str] = set()
"""Every operation is rounded as NumPy would round it."""


@functools.cache
def state_of(folder: Path) -> str:
    """A text that changes with any file of Python in a folder."""
    sources = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


def _kept_on_disk(make: Callable[..., Any], *signature: Any, fastmath: set[str]) -> Callable[..., Any]:
    def compiled(function: Callable[..., Any]) -> Any:
        options = {"error_model": "numpy", "fastmath": fastmath}
        # Numba finds it by name and its file's text; what it calls lies in other files here.
        function.__qualname__ += f"_{state_of(Path(__file__).parent)}"
        try:
            return make(*signature, cache=True, **options)(function)
        except RuntimeError:  # there is no folder to keep it in
            return make(*signature, **options)(function)

    return compiled


def inlined(function: Callable[..., Any]) -> Any:
    """Compile what is part of its callers and kept on disk with them; products may be fused with sums."""
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)


def in_any_order(function: Callable[..., Any]) -> Any:
    """Compile; products may be fused with sums, and sums reordered."""
    return _kept_on_disk(functools.partial(numba.njit, nogil=True), fastmath=ANY_ORDER)(function)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """What compiled functions call, from its types and a function that writes LLVM's instructions."""
    return _intrinsic(function)


def intrinsic_of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, told the text that it is given first."""
    return _intrinsic(prefer_literal=True)(function)


def pointer(dtype: str) -> Any:
    """The type of where an array begins."""
    return types.CPointer(getattr(types, dtype))


def for_c(signature: Any, fastmath: set[str]) -> Callable[..., Any]:
    """Compile to a function of C, which has an address."""
    return _kept_on_disk(numba.cfunc, signature, fastmath=fastmath)
