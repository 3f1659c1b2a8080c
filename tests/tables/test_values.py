"""Columns in memory, of any library, as the numbers that prepared columns take."""

import datetime as dt
import decimal

import numpy as np
import pytest

from mlp_xp.tables.files.one_value import Gaps
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
        (TEXT, np.array(["y", "nan"]), [1, -1]),
        (NUMBER, ["1", " 2.5", "", "NA", "true"], [1, 2.5, NAN, NAN, 1]),
        (
            Category("a", "text", ("1", "2.5", "x")),
            [1, 1.0, "1.0", 2.5, "x", 8, "01"],
            [0, 0, 0, 1, 2, 3, 3],
        ),
        (Category("a", "text", ("true", "2020-01-05")), [True, "True", dt.date(2020, 1, 5)], [0, 0, 1]),
        (Category("a", "text", ("0.1", "2")), np.array([0.1, 2], "float32"), [0, 1]),
        (Category("a", "text", ("0.1", "2")), [float(np.float32(0.1)), 0.1, 1e300], [0, 0, 2]),
        (Category("a", "text", ("1e-7", "1e+22")), [1e-7, 1e22], [0, 1]),
        (Category("a", "text", ("2020-01-05 01:00:00Z",)), np.array(["2020-01-05T01"], "M8[ns]"), [0]),
        (Category("a", "text", ("0 days 00:00:05", "5000")), np.array([5000], "m8[ms]"), [0]),
        (Category("a", "text", ("PT5S",)), [dt.timedelta(seconds=5), "0:00:05"], [0, 0]),
        (Category("a", "text", ("10:30",)), [dt.time(10, 30), "10:30:00.000"], [0, 0]),
        (NUMBER, [decimal.Decimal("0.1"), 2**53], [0.1, 2**53]),
        (NUMBER, [dt.timedelta(seconds=1.5), np.timedelta64(250, "ms"), None], [1.5, 0.25, NAN]),
        (NUMBER, np.array([1_500_000_001, 2_000], "m8[ns]"), [1.500000001, 2e-6]),
        (NUMBER, [dt.time(1, 0, 0, 5)], [3600.000005]),
        (DATE, ["2024-03-01T12:00", None], [NOON, NAN]),
        (DATE, [dt.datetime(2024, 3, 1, 12), dt.date(2024, 3, 1), NAN], [NOON, NOON - 0.5, NAN]),
        (DATE, [dt.datetime(2024, 3, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2)))], [NOON]),
        (DATE, np.array(["2024-03-01T12", "NaT"], dtype="M8[h]"), [NOON, NAN]),
        (Constant("a", "text"), ["anything", 3], [0, 0]),
        # Scalars of NumPy in a list, as the rows of an array are.
        (YES, [np.True_, np.False_, None], [1, 0, NAN]),
        (NUMBER, [np.True_, np.int8(3), np.float32(0.5)], [1, 3, 0.5]),
        (Category("a", "text", ("0.1", "2")), [np.float64(0.1), np.float64(2), np.int16(2)], [0, 1, 1]),
        (Category("a", "text", ("0.1", "2")), [np.float32(0.1), np.float32("nan")], [0, -1]),
        (Category("a", "text", ("1.5", "2")), [np.timedelta64(1500, "ms"), np.timedelta64(2, "s")], [0, 1]),
        (
            Category("a", "text", ("2020-01-05",)),
            [np.datetime64("2020-01-05"), np.datetime64("NaT", "D")],
            [0, -1],
        ),
        (Category("a", "text", ("10:30:00",)), [dt.time(10, 30, tzinfo=dt.UTC)], [0]),
        (Category("a", "text", ("0", "1")), [-0.0, np.float64(-0.0), 0.0], [0, 0, 0]),
        # What a mask hides is a gap.
        (NUMBER, np.ma.array([1.0, 7.0], mask=[False, True]), [1, NAN]),
        (TEXT, np.ma.array(["y", "x"], mask=[True, False]), [-1, 0]),
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
        (NUMBER, ["1", "x"], r"column 'a' must hold numbers: row 1 \(from 0\) is 'x' \('x' is no number"),
        (NUMBER, [dt.date(2020, 1, 1)], r"column 'a' must hold numbers: row 0 \(from 0\) is '2020-01-01'"),
        (NUMBER, np.array(["2020-01-01"], "M8[us]"), "column 'a' must hold numbers: row 0"),
        (NUMBER, [2**53 + 1], "beyond 2\\^53"),
        (NUMBER, np.array([2**63], np.uint64) + 1, "beyond 2\\^53"),
        (YES, [1, 2], r"column 'a' must hold true and false: row 1 \(from 0\) is '2'"),
        (Category("a", "text", ("00015", "10115")), [15], "15 is no text"),
        (NUMBER, [1, object()], "column 'a' must hold numbers"),
        (NUMBER, [1.0, np.inf], r"row 1 \(from 0\), column 'a' is inf; a finite number is needed"),
        (YES, ["maybe"], "column 'a' must hold true and false"),
        (TEXT, [3], "column 'a' must hold texts: .*3 is no text"),
        (DATE, [3.5], "column 'a' must hold dates"),
        (DATE, np.array([1.0]), "column 'a' must hold dates: its dtype is float64"),
        (DATE, ["soon"], "column 'a' must hold dates"),
    ],
)
def test_values_of_another_kind_are_refused(column, given, said):
    with pytest.raises(ValueError, match=said):
        raw_values(column, given)


@pytest.mark.parametrize(
    ("reading", "column", "given", "expected"),
    [
        ("number with a decimal comma", NUMBER, ["1,5", 2.5], [1.5, 2.5]),
        (
            "date, day first",
            DATE,
            ["01/03/2024 12:00", "2024-03-01T12", dt.date(2024, 3, 1)],
            [NOON, NOON, NOON - 0.5],
        ),
        ("duration, in seconds", NUMBER, ["0 days 00:00:01.5", "PT2S", "1:00:00", 3], [1.5, 2, 3600, 3]),
        ("time of day, in seconds", NUMBER, ["10:30", "9:30:00.5", 7.0], [37800, 34200.5, 7]),
        ("boolean", YES, ["1", "False", 0.0], [1, 0, 0]),
    ],
)
def test_texts_are_read_as_in_the_training_table(reading, column, given, expected):
    np.testing.assert_array_equal(raw_values(column, given, reading), expected)


@pytest.mark.parametrize(
    ("reading", "given"),
    [
        ("number with a decimal comma", "1.5"),
        ("number with a decimal point", "1,5"),
        ("number with a decimal point", dt.timedelta(1)),
        ("number with a decimal point", dt.time(1)),
        ("duration, in seconds", dt.time(1)),
        ("time of day, in seconds", dt.timedelta(1)),
        ("date, year first", "01/03/2024"),
    ],
)
def test_values_that_are_written_otherwise_are_refused(reading, given):
    with pytest.raises(ValueError, match=r"column 'a' must hold .*: row 1 \(from 0\) is "):
        raw_values(DATE if "date" in reading else NUMBER, [None, given], reading)


def test_gaps_that_a_user_named():
    gaps = Gaps(("-9", "none"), words=False)
    np.testing.assert_array_equal(raw_values(NUMBER, [-9, "-9", "none", "NA", 3], gaps=gaps), [NAN] * 4 + [3])
    column = Category("a", "text", ("NA", "x"))
    np.testing.assert_array_equal(raw_values(column, ["NA", "none", "", "x"], gaps=gaps), [0, -1, -1, 1])
