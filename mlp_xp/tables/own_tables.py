"""Tables of a user's own in memory, of any library, as columns by name."""

import collections
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

from mlp_xp.settings import checks


def columns_of(x: Any) -> dict[str, Any] | None:
    """The columns of a table by name, each (n_rows,); None for what has no names.

    Raises ImportError: a table of another library needs pyarrow to be read, which is not installed;
    ValueError: rows by name do not have the same names, or two columns have the same.

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
    x, library = collected(x), library_of(x)
    if library not in ("pandas", "polars", "pyarrow") or not hasattr(x, "__getitem__"):
        if not hasattr(x, "__arrow_c_stream__"):
            return None
        x = _through_arrow(x)
    names = getattr(x, "column_names", None) or getattr(x, "columns", None)
    if names is None:
        return None
    counts = collections.Counter(map(str, names))
    checks.refuse(
        f"the table has more than one column named {name!r}: rename one, or leave one out."
        for name, count in counts.items()
        if count > 1
    )
    return {str(name): x[name] for name in names}


def arrow_table(x: Any) -> Any:
    """A table of a user's own as one of Arrow; the index of a frame of pandas is no column.

    Raises TypeError: it is no table, or a column holds what no table can; ValueError: as `columns_of`, and
    columns have different numbers of rows.
    """
    import pyarrow as pa

    by_name = isinstance(x, Mapping) or library_of(x) == "pandas" or (isinstance(x, list | tuple) and bool(x))
    columns = columns_of(x) if by_name else None
    if columns is None:
        try:
            return pa.table(collected(x))
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise TypeError(
                f"data is a {type(x).__name__} that is no table: give a path, a table of pandas, polars or "
                "Arrow, a mapping of columns, or a list of rows as dicts."
            ) from error
    found = {name: _arrow_column(name, values) for name, values in columns.items()}
    check_lengths(found)
    return pa.table(found)


def _arrow_column(name: str, values: Any) -> Any:
    import pyarrow as pa

    values = values.sparse.to_dense() if hasattr(values, "sparse") else values  # of pandas
    try:
        return pa.chunked_array(values) if library_of(values) == "polars" else pa.array(values)
    except OverflowError:
        raise ValueError(
            f"column {name!r} of data holds whole numbers of 2^63 or more: give it as texts, or as floats."
        ) from None
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise TypeError(
            f"column {name!r} of data can not be read: {str(error).rstrip('.')}. Make all its values "
            "numbers, texts, booleans or dates, with None for a gap, or leave it out."
        ) from error


def check_lengths(columns: Mapping[str, Sized]) -> None:
    """Raise ValueError unless all columns have as many rows."""
    if len({len(column) for column in columns.values()}) > 1:
        lengths = [f"{name} {len(column)}" for name, column in columns.items()]
        raise ValueError(f"columns must have the same number of rows, but have: {checks.listed(lengths)}.")


def library_of(x: object) -> str:
    """The name of the library that an object is of."""
    return type(x).__module__.partition(".")[0]


def collected(x: Any) -> Any:
    """A lazy table of polars as one; anything else as it is."""
    return x.collect() if library_of(x) == "polars" and hasattr(x, "collect") else x


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
