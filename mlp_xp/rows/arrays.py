"""Rows from NumPy arrays, in memory or mapped from a file.

Values are converted to the batch's dtype while they are gathered; nothing else is copied, but for a few
class numbers.
"""

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.machine.maps import Guard
from mlp_xp.rows.files import File, local_file
from mlp_xp.rows.source import Source
from mlp_xp.settings import checks

Array = npt.NDArray[Any]

# Rows that wait to be converted stay in a core's second-level cache.
_SCRATCH_BYTES = 1 << 18

# Numbers looked at together by a check for NaN and infinity.
_CHECK_BYTES = 1 << 20

# Class numbers that are copied, in 50 µs at most, so that who made them may use their array for others.
_COPIED_BYTES = 1 << 20


class _Scratch(threading.local):
    """Memory for rows on their way to another dtype: each thread's own, reused."""

    def __init__(self) -> None:
        self.memory = np.empty(_SCRATCH_BYTES, np.uint8)

    def rows(self, like: Array, n_rows: int) -> Array:
        n_bytes = n_rows * _row_bytes(like)
        if n_bytes > len(self.memory):
            self.memory = np.empty(n_bytes, np.uint8)
        return self.memory[:n_bytes].view(like.dtype).reshape(n_rows, *like.shape[1:])


_scratch = _Scratch()


def _row_bytes(array: Array) -> int:
    return max(1, array.nbytes // max(1, len(array)))


def take(array: Array, index: Array) -> Array:
    """array[index] in this thread's scratch memory: valid until the next call in this thread."""
    rows = _scratch.rows(array, len(index))
    # "clip", because with the default mode NumPy fills a copy of `out` first.
    np.take(array, index, axis=0, out=rows, mode="clip")
    return rows


def parts(array: Array, n_rows: int) -> list[slice]:
    """Ranges of positions whose rows of `array` fit the scratch memory together."""
    step = max(1, _SCRATCH_BYTES // _row_bytes(array))
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def gather(array: Array, index: Array, out: Array) -> None:
    """Fill `out` with array[index], converted to its dtype, without allocating.

    Arrays that are not C-contiguous in native byte order are gathered element by element (5 to 10
    times slower, and with a temporary as large as `out`), as `np.take` would copy all of them
    first.
    """
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and array.dtype.isnative):
        _convert(array[index], out)
    elif array.dtype == out.dtype and out.flags.c_contiguous:
        np.take(array, index, axis=0, out=out, mode="clip")
    else:
        for part in parts(array, len(index)):
            _convert(take(array, index[part]), out[part])


def _convert(values: Array, out: Array) -> None:
    """Fill `out` with values of another dtype; class numbers that it has no room for are its outermost."""
    if out.dtype.kind == "i" and values.dtype.kind in "iu" and values.dtype.itemsize >= out.dtype.itemsize:
        room = np.iinfo(out.dtype)  # else 2^32 were 0, a class that there is
        values = np.minimum(values, room.max)
        if values.dtype.kind == "i":
            values = np.maximum(values, room.min)
    np.copyto(out, values, casting="unsafe")


def as_real(name: str, given: ArrayLike) -> Array:
    """`given` as an array of real numbers: itself where it is one, never written."""
    if hasattr(given, "tocsr"):
        raise TypeError(f"{name} is sparse ({type(given).__name__}); pass {name}.toarray().")
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise TypeError(f"{name} has masked values; fill them first, e.g. {name}.filled(0).")
    array = np.asarray(given)
    if array.dtype.kind in "biuf":
        return array
    held, remedy = {
        **dict.fromkeys("UST", ("text", "code each text as a number")),
        "O": ("Python objects", f"convert it with {name}.astype('float64'), or code its texts as numbers"),
        "M": ("dates", f"count seconds with {name}.astype('datetime64[s]').astype('int64')"),
        "m": ("time spans", f"count seconds with {name}.astype('timedelta64[s]').astype('int64')"),
        "c": ("complex numbers", "pass real numbers"),
        "V": ("structured records", "put its fields side by side as columns of numbers"),
    }.get(array.dtype.kind, ("values", "pass real numbers"))
    raise TypeError(f"{name} holds {held} (dtype {array.dtype}); numbers are needed: {remedy}.")


def _memory_map(array: Array) -> Any:
    """The np.memmap of a file that an array is, or is a view of; None if there is none."""
    below: Any = array
    while isinstance(below, np.ndarray) and not isinstance(below, np.memmap):
        below = below.base
    return below if isinstance(below, np.memmap) and below.filename is not None else None


def find_not_finite(values: Array) -> tuple[int, ...] | None:
    """Where the first NaN or infinity is, read a megabyte at a time; None if there is none."""
    if values.dtype.kind != "f":
        return None
    step = max(1, _CHECK_BYTES // _row_bytes(values))
    for start in range(0, len(values), step):
        bad = ~np.isfinite(values[start : start + step])
        if bad.any():
            first = np.unravel_index(int(np.argmax(bad)), bad.shape)
            return (start + int(first[0]), *map(int, first[1:]))
    return None


def find_in_batch(values: Array) -> tuple[int, ...] | None:
    """As `find_not_finite`, for rows just gathered: 0.1 ns a value and no memory, if nothing is wrong."""
    if values.dtype.kind != "f" or not values.size:
        return None
    # Both are nan where one value is.
    if math.isfinite(values.min()) and math.isfinite(values.max()):
        return None
    return find_not_finite(values)


class ArraySource(Source):
    """Rows of NumPy arrays, which are *read* only and never copied as a whole.

    Values are converted while they are gathered; where the dtype is that of the batch already,
    nothing is allocated. Integer targets in memory of 1 MB or less are copied: those of others are
    read as they are then. Threads may share a source. Arrays in memory are checked for NaN and
    infinity once, here; rows of memory maps when they are gathered, or all when `check_finite` is
    asked to.

    Raises ValueError: shapes that do not fit each other, no rows, NaN or infinity (row and column are named);
    TypeError: text, objects, dates, complex numbers, sparse matrices.

    Parameters
    ----------
    x : array (n_rows, n_features)
        Any real dtype.
    y : array (n_rows,) or (n_rows, n_targets), optional
        Any real dtype; (n_rows,) counts as one target.
    sample_weight : array (n_rows,), optional
        Finite numbers that are not negative.
    check : bool
        Whether to look for NaN and infinity in memory now.

    Examples
    --------
    >>> source = ArraySource(np.arange(6).reshape(3, 2), [0, 1, 1])
    >>> x, y = np.empty((2, 2), np.float32), np.empty((2, 1), np.int32)
    >>> source.rows(np.array([2, 0]), x, y, None)
    >>> x.tolist(), y.tolist()
    ([[4.0, 5.0], [0.0, 1.0]], [[1], [0]])
    """

    threads_may_share = True

    def __init__(
        self, x: ArrayLike, y: ArrayLike = None, sample_weight: ArrayLike = None, *, check: bool = True
    ) -> None:
        self.x = as_real("x", x)
        given_y = None if y is None else as_real("y", y)
        self.sample_weight = None if sample_weight is None else as_real("sample_weight", sample_weight)
        checks.refuse(_problems(self.x, given_y, self.sample_weight))
        self.y = given_y[:, None] if given_y is not None and given_y.ndim == 1 else given_y
        if self.y is not None and self.y.dtype.kind in "iub" and self.y.nbytes <= _COPIED_BYTES:
            self.y = self.y if _memory_map(self.y) is not None else self.y.copy()
        self.n_rows, self.n_features = self.x.shape
        self.n_targets = 0 if self.y is None else self.y.shape[1]
        self.has_weights = self.sample_weight is not None
        self.labels = self.y is not None and self.y.dtype.kind in "iub"
        self.dtype = "float64" if self.x.dtype == "float64" else "float32"
        maps = {name: _memory_map(array) for name, array in self._arrays().items()}
        self._maps = {name: each for name, each in maps.items() if each is not None}
        # The owner of a writable map changes its file by right: then only the size must stay.
        self._files: list[tuple[File, bool]] = [
            (local_file(each.filename), each.mode not in ("r", "c")) for each in self._maps.values()
        ]
        self._guard = Guard({each.filename: (each.ctypes.data, each.nbytes) for each in self._maps.values()})
        for name, array in self._arrays().items():
            if check and maps[name] is None:
                _check_finite(name, array)

    def _arrays(self) -> dict[str, Array]:
        """The arrays there are, as users index them: one target has no second axis."""
        y = self.y[:, 0] if self.y is not None and self.n_targets == 1 else self.y
        arrays = {"x": self.x, "y": y, "sample_weight": self.sample_weight}
        return {name: array for name, array in arrays.items() if array is not None}

    def rows(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Fill x (m, n_features), y (m, n_targets) and weight (m,) with the rows of `index` (m,).

        A y or weight of None is left out; without sample weights, `weight` is filled with ones.
        """
        if not self._maps:
            self._gather(index, x, y, weight)
            return
        self.check_unchanged()
        with self._guard:
            self._gather(index, x, y, weight)
        self._check_batch(index, {"x": x, "y": y, "sample_weight": weight})

    def _gather(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        gather(self.x, index, x)
        if y is not None and self.y is not None:
            gather(self.y, index, y)
        if weight is not None and self.sample_weight is not None:
            gather(self.sample_weight, index, weight)
            checks.refuse(_negative(weight, index))
        elif weight is not None:
            weight[...] = 1

    def _check_batch(self, index: Array, batch: Mapping[str, Array | None]) -> None:
        """Refuse rows of memory maps that are not finite, or too large for the dtype of the batch."""
        for name, mapped in self._maps.items():
            values = batch[name]
            place = None if values is None else find_in_batch(values)
            if values is not None and place is not None:
                at = (int(index[place[0]]), *place[1:])
                _refuse_value(mapped.filename, at, values[place])

    def check_finite(self, *, gaps: bool = False) -> None:
        """Raise ValueError that names row and column of the first NaN or infinity, if any."""
        with self._guard:
            for name, array in self._arrays().items():
                _check_finite(name, array)

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the file of a memory map was changed, truncated or deleted."""
        for file, only_size in self._files:
            file.check_unchanged(only_size=only_size)


def _problems(x: Array, y: Array | None, sample_weight: Array | None) -> list[str | None]:
    """What is wrong with the shapes, and with weights in memory."""
    if x.ndim != 2:
        remedy = (
            "For a single column use x.reshape(-1, 1), for a single row x.reshape(1, -1)."
            if x.ndim == 1
            else f"Flatten each row: x.reshape({len(x) if x.ndim else 1}, -1)."
        )
        return [f"x has shape {x.shape}; it needs two axes, rows and columns. {remedy}"]
    n_rows = len(x)
    problems: list[str | None] = []
    if n_rows == 0 or x.shape[1] == 0:
        problems.append(f"x has shape {x.shape}: at least one row and one column are needed.")
    if y is not None and (y.ndim not in (1, 2) or len(y) != n_rows or 0 in y.shape[1:]):
        problems.append(
            f"y has shape {y.shape}; with {n_rows} rows in x it must be ({n_rows},) or ({n_rows}, n_targets)."
        )
    if sample_weight is not None and sample_weight.shape != (n_rows,):
        problems.append(
            f"sample_weight has shape {sample_weight.shape}; with {n_rows} rows in x it must be ({n_rows},)."
        )
    elif sample_weight is not None:
        problems += _negative(sample_weight)
    return problems


def _negative(weight: Array, index: Array | None = None) -> list[str | None]:
    """What is wrong with weights, those of the rows `index`: they may have changed since they were given."""
    if not (len(weight) and weight.min() < 0):
        return []
    at = int(weight.argmin())
    row = at if index is None else index[at]
    return [f"sample_weight[{row}]={weight[at]!s} is negative; a weight is 0 or more."]


def _check_finite(name: str, array: Array) -> None:
    place = find_not_finite(array)
    if place is None:
        return
    _refuse_value(name, place, array[place])


def _refuse_value(name: str, place: tuple[int, ...], value: float) -> None:
    column = f", column {place[1]}" if len(place) == 2 else ""
    at = ", ".join(map(str, place))
    raise ValueError(
        f"{name}[{at}] is {value} (row {place[0]}{column}, counted from 0); finite numbers are needed. Fill "
        "the gaps or leave these rows out."
    )
