"""Tables of a user's own in memory, of any library, as columns by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def columns_of(x: Any) -> dict[str, Any] | None:
    """The columns of a table by name, each (n_rows,); None for what has no names.

    Raises ImportError: a table of another library needs pyarrow to be read, which is not installed;
    ValueError: rows by name do not have the same names.

    Parameters
    ----------
    x : table, mapping or sequence of mappings
        A table of pandas, polars or Arrow, or one that has `__arrow_c_stream__`; columns by name, each an
        array or a list; one row by name; rows by name.
    """
    if isinstance(x, Mapping):
        if all(np.ndim(value) == 0 for value in x.values()):
            return {str(name): [value] for name, value in x.items()}
        return {str(name): column for name, column in x.items()}
    if isinstance(x, list | tuple) and x and all(isinstance(row, Mapping) for row in x):
        return _of_rows(x)
    x, library = collected(x), type(x).__module__.partition(".")[0]
    if library not in ("pandas", "polars", "pyarrow") or not hasattr(x, "__getitem__"):
        if not hasattr(x, "__arrow_c_stream__"):
            return None
        x = _through_arrow(x)
    names = getattr(x, "column_names", None) or getattr(x, "columns", None)
    return None if names is None else {str(name): x[name] for name in names}


def collected(x: Any) -> Any:
    """A lazy table of polars as one; anything else as it is."""
    is_lazy = type(x).__module__.partition(".")[0] == "polars" and hasattr(x, "collect")
    return x.collect() if is_lazy else x


def _of_rows(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    names = list(rows[0])
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            other = sorted(map(str, row.keys() ^ rows[0].keys()))
            raise ValueError(
                f"row {number} (from 0) has other names than the first: {', '.join(map(repr, other))}. Give "
                "each row all columns, None for a gap."
            )
    return {str(name): [row[name] for row in rows] for name in names}


def _through_arrow(x: object) -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise ImportError(
            f"a {type(x).__name__} is read through pyarrow, which is not installed: pip install "
            "'mlp-xp[files]', or give columns as a dict of lists."
        ) from None
    return pa.table(x)
