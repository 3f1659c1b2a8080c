"""Values between Arrow and NumPy without pandas, which pyarrow's own ways import where it is installed.

That takes a third of a second, as long as it takes to train on a small table.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_xp.rows.files import Arrow
from mlp_xp.tables.files.one_value import name_of_number

Array = npt.NDArray[Any]


def is_gap(values: Arrow) -> Array:
    """Where an Arrow array has no value."""
    if values.null_count in (0, len(values)):  # of a column of nothing there are no bits
        return np.full(len(values), values.null_count > 0)
    end = values.offset + len(values)
    bits = np.frombuffer(values.buffers()[0], np.uint8)
    return np.unpackbits(bits, count=end, bitorder="little")[values.offset :] == 0


def numbers_of(values: Arrow, kind: npt.DTypeLike, gap: float) -> Array:
    """An Arrow array of integers or floats, which it holds as `kind`, as NumPy's; it may be its own memory.

    `gap` stands where it has no value.
    """
    if values.null_count == len(values):
        return np.full(len(values), gap, kind)
    size = np.dtype(kind).itemsize
    held = np.frombuffer(values.buffers()[1], kind, len(values), values.offset * size)
    return np.where(is_gap(values), held.dtype.type(gap), held) if values.null_count else held


def seconds_counted(count: Array, unit: str) -> Array:
    """Seconds from counts of "s", "ms", "us" or "ns", as `one_value.seconds_of` has them."""
    if unit != "ns":
        return count / {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
    micro = count // 1000
    return np.where(count == micro * 1000, micro / 1e6, count / 1e9)


def strings_from(texts: Sequence[str], kind: Any = None) -> Arrow:
    """Texts as an Arrow array of strings, of the given type of strings."""
    import pyarrow as pa

    written = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, written)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(written))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers).cast(kind or pa.string())


def texts_of_halves(values: Arrow) -> Arrow:
    """Floats of 16 bits as strings: in the digits that they need, where Arrow has those of 32."""
    import pyarrow as pa

    found, at = np.unique(numbers_of(values, np.float16, np.nan), return_inverse=True)
    # -0.0 is 0.0; 65504 would be 65500.
    texts = [name_of_number(float(x)) if x == np.rint(x) else str(x) for x in found + np.float16(0)]
    return strings_from(texts).take(pa.array(at.reshape(-1), mask=is_gap(values)))
