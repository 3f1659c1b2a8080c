"""Columns of a user's own table, in memory, as the numbers that prepared columns take.

Texts are read as in a file (`files.one_value`); typed values as the same values in a Parquet file.
"""

import datetime as dt
import decimal
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.tables.files.arrow_values import seconds_counted
from mlp_xp.tables.files.columns import PLURAL
from mlp_xp.tables.files.one_value import (
    ANY,
    SECONDS,
    Gaps,
    are_names_of_numbers,
    is_name_of_number,
    meaning,
    name_of_number,
    seconds_of,
)
from mlp_xp.tables.preparation import Category, Column
from mlp_xp.tables.written import TEXT

NO_VALUE = ("None", "nan", "NaT", "<NA>")
"""How Python, NumPy and pandas write a gap."""

OLD = {"number": ANY, "bool": "boolean", "date": "date, year first"}
"""How texts are read where a model does not say."""

TIME_OF_DAY, DURATION = SECONDS

# Integers above this have no float64 of their own.
_EXACT = 2**53

_DAY = 86_400e6


def class_values(names: Sequence[str], reading: str = "") -> np.ndarray:
    """What the names of classes stand for in a target of this reading.

    Examples
    --------
    >>> class_values(["-1", "7"]), class_values(["false", "true"]), class_values(["01", "1"], "text")
    (array([-1,  7]), array([False,  True]), array(['01', '1'], dtype=object))
    """
    if reading in TEXT:
        return np.array(names, dtype=object)
    if tuple(names) == ("false", "true"):
        return np.array([False, True])
    if reading.startswith("date"):
        return np.array(names, dtype="datetime64")
    if not all(map(is_name_of_number, names)):
        return np.array(names, dtype=object)
    if not all(name.removeprefix("-").isdigit() for name in names):
        return np.array([float(name) for name in names])
    whole = [int(name) for name in names]
    return np.array(whole, dtype=np.int64 if max(map(abs, whole)) < 2**63 else object)


def raw_values(column: Column, given: ArrayLike, reading: str = "", gaps: Gaps | None = None) -> np.ndarray:
    """A column's values as its `fill` takes them: float64; codes for texts, days for dates, nan for gaps.

    Raises ValueError: a value is of another kind, or infinite; with its row.

    Parameters
    ----------
    given : array_like (n_rows,)
        Of NumPy, pandas, polars, Arrow, or a list. Dates as datetime64, datetime, date or text, in UTC
        unless they say otherwise.
    reading : str
        How its texts are read and what its numbers count, if that is known.
    gaps : Gaps, optional
        Which texts and numbers are gaps.
    """
    gaps = gaps or Gaps()
    values = as_array(given)
    if column.n_features == 0:
        return np.zeros(len(values))
    if isinstance(column, Category) and column.kind == "text":
        return _codes(column, values, gaps)
    read = _dates if column.kind == "date" else _numbers
    found = read(column, values, reading, gaps)
    if column.kind == "bool":
        _refuse_first(column, values, ~np.isin(found, (0.0, 1.0)) & ~np.isnan(found))
    elif column.kind == "number" and gaps.numbers:
        found[np.isin(found, gaps.numbers)] = np.nan
    if np.isinf(found).any():
        row = int(np.argmax(np.isinf(found)))
        raise ValueError(
            f"row {row} (from 0), column {column.name!r} is {found[row]}; a finite number is needed. Mend "
            "the value or leave the row out."
        )
    return found


def as_array(given: ArrayLike) -> np.ndarray:
    """A column of any library as a NumPy array (n_rows,), of objects where values are of several types."""
    library = type(given).__module__.partition(".")[0]
    if library == "pyarrow":
        return _of_arrow(given)
    if library == "polars":
        return _of_polars(given)
    if isinstance(given, np.ma.MaskedArray):  # of which np.asarray takes what the mask hides
        given = np.ma.filled(given.astype(object), None)
    # A list of texts and nan would become texts alone.
    values = np.asarray(given, dtype=object if isinstance(given, list | tuple) else None)
    return values.astype(object).reshape(-1) if values.dtype.kind in "UT" else values.reshape(-1)


def _of_arrow(given: ArrayLike) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_dictionary(given.type):
        given = given.cast(pa.dictionary(given.type.index_type, pa.string()))
        given = given.cast(pa.string())
    if pa.types.is_time(given.type):  # Python's times have microseconds at most
        given = given.cast(pa.time64("us"), safe=False)
    is_plain = pa.types.is_floating(given.type) or not given.null_count
    if pa.types.is_timestamp(given.type) or pa.types.is_duration(given.type) or is_plain:
        return np.asarray(
            given.to_numpy(zero_copy_only=False) if isinstance(given, pa.Array) else given.to_numpy()
        )
    return np.array([*given.to_pylist(), None], dtype=object)[:-1]


def _of_polars(given: ArrayLike) -> np.ndarray:
    kind = given.dtype
    if kind.is_temporal() and str(kind) != "Time":
        return np.asarray(given.to_numpy())
    if kind.is_float() or (kind.is_integer() and not given.null_count()):
        return np.asarray(given.to_numpy())
    return np.array([*given.to_list(), None], dtype=object)[:-1]


def is_gap(value: object) -> bool:
    """Whether a value of any kind but text stands for none."""
    return not isinstance(value, str) and str(value) in NO_VALUE


def _refuse_first(column: Column, values: np.ndarray, is_bad: np.ndarray) -> None:
    if is_bad.any():
        raise _wrong(column, values, int(np.argmax(is_bad)))


def _wrong(column: Column, values: np.ndarray, row: int, why: object = "") -> ValueError:
    because = f" ({why})" if str(why) else ""
    return ValueError(
        f"column {column.name!r} must hold {PLURAL[column.kind]}: row {row} (from 0) is "
        f"{str(values[row])!r}{because}."
    )


def _each(column: Column, values: np.ndarray, read: Callable[[Any], float]) -> np.ndarray:
    """What `read` makes of each value that is no gap."""
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values.tolist() if values.dtype.kind not in "mM" else values):
        if not is_gap(value):
            try:
                found[row] = read(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise _wrong(column, values, row, error) from None
    return found


def _numbers(column: Column, values: np.ndarray, reading: str, gaps: Gaps) -> np.ndarray:
    kind = values.dtype.kind
    known = reading or OLD[column.kind]

    def of_text(text: str) -> float:
        return np.nan if text.strip() in gaps.elsewhere else meaning(known, text)

    def number(value: object) -> float:
        if isinstance(value, str):
            return of_text(value)
        if isinstance(value, dt.time) and reading in ("", TIME_OF_DAY):
            clock = dt.timedelta(
                hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
            )
            return clock // dt.timedelta(microseconds=1) / 1e6
        if isinstance(value, dt.timedelta | np.timedelta64) and reading in ("", DURATION):
            return seconds_of(_nanoseconds(value))
        if _is_number(value):
            return _exact(value)
        raise TypeError(f"it is a {type(value).__name__}")

    if kind == "m" and reading in ("", DURATION) and column.kind == "number":
        return _seconds(values)
    if kind in "biuf":
        is_wide = kind in "iu" and values.dtype.itemsize == 8 and len(values) > 0
        if not (is_wide and max(int(values.max()), -int(values.min())) >= _EXACT):
            return values.astype(float)
    return _each(column, values, number)


def _is_number(value: object) -> bool:
    """Whether it is a number or boolean of Python or NumPy, whose durations count as integers, too."""
    known = isinstance(value, numbers.Number | decimal.Decimal | np.bool_)
    return known and not isinstance(value, np.timedelta64)


def _exact(value: Any) -> float:
    found = float(value)
    if isinstance(value, int) and abs(value) >= _EXACT and int(found) != value:
        raise ValueError("beyond 2^53 it has no exact float64: such numbers are names rather than amounts")
    return found


def of_32_bits(value: float) -> np.float32:
    """The nearest float32, which may be infinite."""
    with np.errstate(over="ignore"):
        return np.float32(value)


def _nanoseconds(value: Any) -> int:
    if isinstance(value, np.timedelta64):
        return int(value.astype("m8[ns]").astype(np.int64))
    found = getattr(value, "value", None)  # pandas counts nanoseconds, Python microseconds
    if found is not None and getattr(value, "unit", "ns") == "ns":
        return int(found)
    return value // dt.timedelta(microseconds=1) * 1000 + getattr(value, "nanoseconds", 0)


def _seconds(values: np.ndarray) -> np.ndarray:
    """Durations: the same float in whatever unit they are counted."""
    unit = np.datetime_data(values.dtype)[0]
    if unit not in ("ns", "us", "ms", "s"):
        values = values.astype("m8[s]")
        unit = "s"
    return np.where(np.isnat(values), np.nan, seconds_counted(values.astype(np.int64), unit))


def _text_of(value: object) -> str:
    """How a typed value is written."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, np.datetime64):
        value = value.astype("M8[us]").item()
    if isinstance(value, dt.time):
        return str(value.replace(tzinfo=None))  # as Arrow has it
    if isinstance(value, dt.date):
        return str(value)
    if _is_number(value):
        return repr(float(value) + 0.0) if isinstance(value, float) else str(value)  # -0.0 is 0.0
    if isinstance(value, dt.timedelta | np.timedelta64):
        return name_of_number(seconds_of(_nanoseconds(value)))
    raise TypeError(f"a {type(value).__name__} is no text")


def _codes(column: Category, values: np.ndarray, gaps: Gaps) -> np.ndarray:
    names = column.names
    takes_numbers = are_names_of_numbers(column.levels)
    narrow = np.float16 if values.dtype == np.float16 else of_32_bits

    def code(value: object) -> float:
        if isinstance(value, str):
            if value in gaps.in_text and value not in names.exact:
                return -1.0
            return names.find(value)
        found = names.find(_text_of(value))
        if found == len(column.levels) and isinstance(value, float) and float(narrow(value)) == value:
            found = names.find(str(narrow(value)))  # 0.1 is 0.10000000149011612 if it had 32 bits
        if found == len(column.levels) and isinstance(value, numbers.Number) and not takes_numbers:
            raise TypeError(f"{value!r} is no text")
        return found

    if values.dtype.kind == "M":
        values = values.astype("M8[us]").astype(object)  # of nanoseconds it would become integers
    elif values.dtype.kind == "m":
        values = _seconds(values)
    found = _each(column, values, code)
    return np.where(np.isnan(found), -1.0, found)


def _dates(column: Column, values: np.ndarray, reading: str, gaps: Gaps) -> np.ndarray:
    known = reading or OLD["date"]

    def moment(value: object) -> float:
        if isinstance(value, str):
            return np.nan if value.strip() in gaps.elsewhere else meaning(known, value)
        if isinstance(value, dt.datetime) and value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        if not isinstance(value, dt.date | np.datetime64):
            raise TypeError(f"it is a {type(value).__name__}")
        return float(np.array(value, dtype="datetime64[us]").astype(np.int64)) / _DAY

    if values.dtype.kind == "M":
        moments = values.astype("datetime64[us]")
        return np.where(np.isnat(moments), np.nan, moments.astype(np.int64) / _DAY)
    if values.dtype.kind != "O":
        raise ValueError(f"column {column.name!r} must hold dates: its dtype is {values.dtype}.")
    return _each(column, values, moment)
