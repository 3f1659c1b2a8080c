"""Columns of a user's own table, in memory, as the numbers that prepared columns take."""

import datetime as dt
from typing import Any

import numpy as np

from mlp_xp.tables.files.columns import PLURAL
from mlp_xp.tables.preparation import Category, Column

NO_VALUE = ("None", "nan", "NaT", "<NA>")
"""How Python, NumPy and pandas write a gap."""

BOOLEANS = {"false": 0.0, "true": 1.0}


def raw_values(column: Column, given: Any) -> np.ndarray:
    """A column's values as its `fill` takes them: float64; codes for texts, days for dates, nan for gaps.

    Parameters
    ----------
    column : Number, Date, Category or Constant
    given : array_like (n_rows,)
        Of NumPy, pandas, polars, Arrow, or a list. Dates as datetime64, datetime, date or ISO text, in UTC
        unless they say otherwise.

    Raises
    ------
    ValueError
        A value is of another kind, or infinite.
    """
    # A list of texts and nan would become texts alone.
    is_list = isinstance(given, list | tuple) and column.kind != "number"
    values = np.asarray(given, dtype=object if is_list else None).reshape(-1)
    if column.n_features == 0:
        return np.zeros(len(values))
    try:
        if column.kind == "date":
            return _days(values)
        if isinstance(column, Category) and column.kind == "text":
            return _codes(column, values)
        if column.kind == "bool" and values.dtype.kind in "OUT":
            return np.array([np.nan if is_gap(value) else _truth(value) for value in values], dtype=float)
        numbers = _numbers(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {column.name!r} must hold {PLURAL[column.kind]}: {error}.") from None
    if np.isinf(numbers).any():
        row = int(np.argmax(np.isinf(numbers)))
        raise ValueError(
            f"row {row} (from 0), column {column.name!r} is {numbers[row]}; a finite number is needed. Mend "
            "the value or leave the row out."
        )
    return numbers


def is_gap(value: Any) -> bool:
    """Whether a value of any kind stands for none."""
    return not isinstance(value, str) and str(value) in NO_VALUE


def _numbers(values: np.ndarray) -> np.ndarray:
    texts = [value for value in values if isinstance(value, str)] if values.dtype.kind in "OUT" else []
    if texts:
        raise TypeError(f"{str(texts[0])!r} is a text")
    if values.dtype.kind == "O":
        return np.array([np.nan if is_gap(value) else float(value) for value in values], dtype=float)
    return values.astype(float)


def _truth(value: Any) -> float:
    return BOOLEANS[value.lower()] if isinstance(value, str) and value.lower() in BOOLEANS else float(value)


def _codes(column: Category, values: np.ndarray) -> np.ndarray:
    texts = values.tolist()
    for value in texts:
        if not isinstance(value, str) and not is_gap(value):
            raise TypeError(f"{value!r} is no text")
    codes = column.codes([str(value) for value in texts])
    codes[[not isinstance(value, str) for value in texts]] = -1
    return codes


def _days(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":
        values = np.array([_moment(value) for value in values], dtype="datetime64[us]")
    elif values.dtype.kind not in "MUT":
        raise TypeError(f"its dtype is {values.dtype}")
    moments = values.astype("datetime64[us]")
    days = moments.astype(np.int64) / 86_400e6
    return np.where(np.isnat(moments), np.nan, days)


def _moment(value: Any) -> np.datetime64:
    """A moment without a zone, UTC."""
    if is_gap(value):
        return np.datetime64("NaT")
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return np.datetime64(value, "us")
