"""Columns in memory, of any library, as the numbers that prepared columns take."""

import datetime as dt

import numpy as np
import pytest

from mlp_xp.tables.preparation import Category, Constant, Date, Number
from mlp_xp.tables.values import raw_values

NAN = np.nan
NUMBER, DATE = Number("a"), Date("a")
TEXT, YES = Category("a", "text", ("x", "y")), Category("a", "bool", ("false", "true"))
UTC = dt.UTC
NOON = 19_783.5  # days from 1970 to 2024-03-01 12:00


@pytest.mark.parametrize(
    ("column", "given", "expected"),
    [
        (NUMBER, [1, 2.5, None, NAN], [1, 2.5, NAN, NAN]),
        (NUMBER, np.array([1, 2], dtype=np.int8), [1, 2]),
        (NUMBER, [True, False], [1, 0]),
        (NUMBER, np.array([[1.0], [2.0]]), [1, 2]),
        (YES, [True, None, False], [1, NAN, 0]),
        (YES, ["true", "FALSE", NAN], [1, 0, NAN]),
        (YES, [1, 0, NAN], [1, 0, NAN]),
        (TEXT, ["y", "z", None, NAN, "x"], [1, 2, -1, -1, 0]),
        (TEXT, np.array(["y", "nan"]), [1, 2]),
        (DATE, ["2024-03-01T12:00", None], [NOON, NAN]),
        (DATE, [dt.datetime(2024, 3, 1, 12), dt.date(2024, 3, 1), NAN], [NOON, NOON - 0.5, NAN]),
        (DATE, [dt.datetime(2024, 3, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2)))], [NOON]),
        (DATE, np.array(["2024-03-01T12", "NaT"], dtype="M8[h]"), [NOON, NAN]),
        (Constant("a", "text"), ["anything", 3], [0, 0]),
    ],
)
def test_values_become_floats(column, given, expected):
    np.testing.assert_array_equal(raw_values(column, given), expected)


@pytest.mark.needs("pandas")
@pytest.mark.parametrize(
    ("column", "values", "dtype", "expected"),
    [
        (NUMBER, [1, None, 3], "Int64", [1, NAN, 3]),
        (NUMBER, [1.5, None], "float32", [1.5, NAN]),
        (YES, [True, None], "boolean", [1, NAN]),
        (TEXT, ["y", None, "z"], "category", [1, -1, 2]),
        (TEXT, ["y", None, "z"], "string", [1, -1, 2]),
        (DATE, ["2024-03-01 12:00", None], "datetime64[ns]", [NOON, NAN]),
        (DATE, ["2024-03-01 13:00+01:00"], "datetime64[ns, Europe/Paris]", [NOON]),
    ],
)
def test_columns_of_pandas(column, values, dtype, expected):
    import pandas as pd

    given = pd.Series(values) if "datetime" not in dtype else pd.Series(pd.to_datetime(values))
    np.testing.assert_array_equal(raw_values(column, given.astype(dtype)), expected)


@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("polars", "pyarrow")]
)
@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (NUMBER, [1, None, 3], [1, NAN, 3]),
        (YES, [True, None], [1, NAN]),
        (TEXT, ["y", None, "z"], [1, -1, 2]),
        (DATE, [dt.datetime(2024, 3, 1, 12), None], [NOON, NAN]),
        (DATE, [dt.date(2024, 3, 1), None], [NOON - 0.5, NAN]),
    ],
)
def test_columns_of_other_libraries(library, column, values, expected):
    if library == "polars":
        import polars as pl

        given = pl.Series(values)
    else:
        import pyarrow as pa

        given = pa.chunked_array([values[:1], values[1:]])
    np.testing.assert_array_equal(raw_values(column, given), expected)


@pytest.mark.parametrize(
    ("column", "given", "said"),
    [
        (NUMBER, ["1"], "column 'a' must hold numbers: '1' is a text"),
        (NUMBER, [1, object()], "column 'a' must hold numbers"),
        (NUMBER, [1.0, np.inf], r"row 1 \(from 0\), column 'a' is inf; a finite number is needed"),
        (YES, ["maybe"], "column 'a' must hold true and false"),
        (TEXT, [3], "column 'a' must hold texts: 3 is no text"),
        (DATE, [3.5], "column 'a' must hold dates"),
        (DATE, np.array([1.0]), "column 'a' must hold dates: its dtype is float64"),
        (DATE, ["soon"], "column 'a' must hold dates"),
    ],
)
def test_values_of_another_kind_are_refused(column, given, said):
    with pytest.raises(ValueError, match=said):
        raw_values(column, given)
