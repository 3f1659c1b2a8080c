"""The threads of OpenBLAS, which NumPy's and SciPy's wheels bring, without a library that knows them all."""

import contextlib
import ctypes
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ["".join(parts) for parts in itertools.product(("scipy_", ""), ("openblas",), ("{}",), ("64_", ""))]
"""How builds call their functions: scipy_openblas_get_num_threads64_, openblas_get_num_threads."""


class OpenBlas:
    """A library that is loaded.

    Raises AttributeError: it is no OpenBLAS; OSError: it cannot be opened.
    """

    def __init__(self, filepath: str) -> None:
        self.filepath = filepath
        library = ctypes.CDLL(filepath)
        self._get = _function(library, "_get_num_threads")
        self.set_num_threads = _function(library, "_set_num_threads")
        self._get.restype, self.set_num_threads.restype = ctypes.c_int, None

    @property
    def num_threads(self) -> int:
        """Threads that it may use now."""
        return int(self._get())


def _function(library: ctypes.CDLL, what: str) -> Any:
    for name in _NAMES:
        with contextlib.suppress(AttributeError):
            return getattr(library, name.format(what))
    raise AttributeError(what)


def loaded() -> list[OpenBlas]:
    """Those of NumPy and SciPy that are loaded."""
    found = []
    for file in sorted(set(_files())):
        with contextlib.suppress(AttributeError, OSError):
            found.append(OpenBlas(file))
    return found


def _files() -> Iterator[str]:
    maps = Path("/proc/self/maps")
    if maps.exists():
        yield from (
            line.split(maxsplit=5)[5]
            for line in maps.read_text().splitlines()
            if "blas" in line.rpartition("/")[2] and "/" in line
        )
        return
    for package in ("numpy", "scipy"):
        if package in sys.modules:
            folder = Path(str(sys.modules[package].__file__)).parent
            for beside in (folder / ".dylibs", folder.with_name(f"{package}.libs")):
                yield from map(str, beside.glob("*openblas*"))
