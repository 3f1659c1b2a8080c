"""Numbers, dates and codes as people write them: read as they are meant, said, or refused."""

import datetime as dt

import numpy as np
import pytest

from mlp_xp import fit_table
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import open_source

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
parquet = pytest.importorskip("pyarrow.parquet")


def read(folder, content, **options):
    (folder / "t.csv").write_text(content, encoding="utf-8")
    return open_source(
        folder / "t.csv", **{"text": "code if clear", "gaps": "keep", "dtype": "float64", **options}
    )


def values(source):
    x = np.empty((source.n_rows, source.n_features))
    source.rows(np.arange(source.n_rows), x, None, None)
    return x


@pytest.mark.parametrize(
    ("content", "expected", "said"),
    [
        # Another column says that the comma is the decimal mark.
        ("a;b\n2.596;370,86\n987;1,5\n", [[2596, 370.86], [987, 1.5]], "points between thousands"),
        ("a;b\n1.234,5;1\n12,5;2\n", [[1234.5, 1], [12.5, 2]], "points between thousands"),
        ("a;b\n1.234.567;1\n12;2\n", [[1234567, 1], [12, 2]], "points between thousands"),
        ("a;b\n2,596;370.86\n987;1.5\n", [[2596, 370.86], [987, 1.5]], "commas between thousands"),
        ('a,b\n"1,234.50",1\n12,2\n', [[1234.5, 1], [12, 2]], "commas between thousands"),
        ("a;b\n1 234,50;1\n12;2\n", [[1234.5, 1], [12, 2]], "blanks between thousands"),
        ("a;b\n1'234.50;1\n12;2\n", [[1234.5, 1], [12, 2]], "apostrophes between thousands"),
        # Nothing says so: the usual mark, and a word about it.
        ("a;b\n2.596;3\n987;1\n", [[2.596, 3], [987, 1]], "if it is 1234, say decimal=','"),
        ("a;b\n0.125;3,5\n0.250;1,5\n", [[0.125, 3.5], [0.25, 1.5]], ""),
    ],
)
def test_marks_of_numbers(tmp_path, content, expected, said):
    source = read(tmp_path, content)
    np.testing.assert_array_equal(values(source), expected)
    assert said in "\n".join(source.notes)


@pytest.mark.parametrize(
    ("line", "is_said"), [("5.1,3.5,setosa", True), ("2019,2020,town", False), ("5.1,a,b", False)]
)
def test_a_first_line_of_numbers_is_said_to_be_taken_for_names(tmp_path, line, is_said):
    notes = "".join(read(tmp_path, f"{line}\n1,2,x\n").notes)
    assert (f"first line is taken for names of columns ({line.replace(',', ', ')})" in notes) == is_said


def test_marks_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"column 'a': its values, such as 1\.234, .* Say which"):
        read(tmp_path, "a;b;c\n2.596;1,5;1.5\n987;1,5;2.5\n")
    source = read(tmp_path, "a;b;c\n2.596;1,5;1.5\n987;1,5;2.5\n", csv=CsvForm(decimal="."), exclude="b")
    np.testing.assert_array_equal(values(source)[:, 0], [2.596, 987])


def test_thousands_that_come_late(tmp_path):
    rows = "".join(f"{i};{i}\n" for i in range(200_000))
    source = read(tmp_path, f"a;b\n{rows}1.234,5;1\n")
    assert values(source)[-1, 0] == 1234.5
    with pytest.raises(ValueError, match=r"row 200,002 .* column 'a' holds '1\.234,5', where a number"):
        read(tmp_path, f"a;b\n1e3;1\n{rows}1.234,5;1\n")


@pytest.mark.parametrize(
    ("texts", "levels"),
    [
        (["00015", "10115", "00015"], ("00015", "10115")),
        (["15", "10115", "007"], ()),
        (["0", "1", "0"], ()),
        (["01.5", "02.5", "03.5"], ()),
    ],
)
def test_leading_zeros_of_one_length_are_codes(tmp_path, texts, levels):
    source = read(tmp_path, "a,b\n" + "".join(f"{text},1\n" for text in texts))
    assert source.columns[0].levels == levels
    assert ("column 'a' is read as text: its values are codes" in "\n".join(source.notes)) == bool(levels)


@pytest.mark.parametrize(
    ("texts", "like"),
    [
        (["$1,234.50", "$2.00", "free"], "numbers, such as '$1,234.50'"),
        (["12%", "7 %", "100%"], "numbers"),
        (["3\u20ac", "\u22124", "(5.5)"], "numbers"),
        (["29 Jan 2023", "1 March 2024", "2 Okt. 2021"], "dates, such as '1 March 2024'"),
        (["January 29, 2023", "May 1, 2024", "?"], "dates"),
        (["1:30 PM", "11:05 am", "2:00 p.m."], "dates"),
        (["2023-W05", "2023-W06-3", "2024-01"], "dates"),
        (["18-25", "26-40", "41-"], None),
        (["a 1", "b 2", "C3"], None),
        (["007", "008", "009"], None),
        (["mary 1", "may b", "10 marks"], None),
    ],
)
def test_what_people_would_read_is_said_where_it_is_read_as_text(tmp_path, texts, like):
    source = read(tmp_path, "a|b\n" + "".join(f"{text}|1\n" for text in texts))
    assert source.columns[0].kind == "text"
    said = [note for note in source.notes if "though most of its values look like" in note]
    assert len(said) == (like is not None)
    assert (
        like is None or f"column 'a' is read as text, though most of its values look like {like}" in said[0]
    )


def test_codes_in_the_names_of_folders(tmp_path):
    for code in ("007", "123"):
        (tmp_path / f"code={code}").mkdir()
        parquet.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / f"code={code}" / "t.parquet")
    source = open_source(tmp_path, text="code")
    assert source.columns[1].levels == ("007", "123")


@pytest.mark.parametrize(
    ("content", "form", "expected"),
    [
        ("2023/01/05", None, "2023-01-05"),
        ("2023/1/5", None, "2023-01-05"),
        ("2023-01-05 10:30:15.123456789", None, "2023-01-05T10:30:15.123456"),
        ("25/1/2023", None, "2023-01-25"),
        ("5-1-2023 10:30", "day first", "2023-01-05T10:30"),
        ("1/25/2023", None, "2023-01-25"),
    ],
)
def test_dates(tmp_path, content, form, expected):
    source = read(tmp_path, f"a,b\n{content},1\nNaT,2\n", csv=CsvForm(date_format=form))
    assert source.columns[0].kind == "date"
    days = np.datetime64(expected, "us").astype(np.int64) / 86_400e6
    np.testing.assert_array_equal(values(source)[:, 0], [days, np.nan])


@pytest.mark.parametrize("between", "-/.")
def test_months_and_days_of_one_digit_and_two(tmp_path, between):
    days = [(1, 5), (1, 15), (11, 5), (11, 15)]
    for order in ("{2}{1}{0}{1}{3}", "{3}{1}{0}{1}{2}", "{0}{1}{3}{1}{2}"):
        texts = [order.format(month, between, 2023, day) for month, day in days]
        source = read(tmp_path, "a,b\n" + "".join(f"{text},1\n" for text in texts))
        expected = [np.datetime64(f"2023-{month:02}-{day:02}").astype(int) for month, day in days]
        assert source.columns[0].kind == "date", texts
        np.testing.assert_array_equal(values(source)[:, 0], expected, err_msg=str(texts))


@pytest.mark.parametrize("bad", ["2024-02-30", "soon"])
def test_one_bad_date_among_many_is_refused_with_its_row(tmp_path, bad):
    days = np.datetime64("2023-01-01") + np.arange(400)
    rows = "".join(f"{bad if i == 7 else day},{i}\n" for i, day in enumerate(days))
    with pytest.raises(ValueError, match=rf"row 8 \(line 9\), column 'd' holds '{bad}', where a"):
        read(tmp_path, f"d,b\n{rows}")


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["0 days 00:00:01", "-1 days +23:59:59.500000"], [1, -0.5]),
        (["PT1S", "-PT0.5S"], [1, -0.5]),
        (["P1DT2H", "PT3M"], [93600, 180]),
        (["9:30", "10:30:15.5"], [34200, 37815.5]),
    ],
)
def test_durations_and_times(tmp_path, texts, seconds):
    source = read(tmp_path, "a,b\n" + "".join(f"{text},1\n" for text in texts))
    np.testing.assert_array_equal(values(source)[:, 0], seconds)


def test_dates_of_spark_beyond_2262(tmp_path):
    dates = [dt.datetime(2020, 1, 1), dt.datetime(9999, 12, 31)]
    table = pa.table({"d": pa.array(dates, pa.timestamp("us"))})
    parquet.write_table(table, tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
    days = values(open_source(tmp_path / "t.parquet", dtype="float64"))[:, 0]
    np.testing.assert_array_equal(days, np.array(dates, "M8[D]").astype(int))


def test_the_index_of_a_frame_is_left_out_and_said(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "__index_level_0__": [5, 7]})
    parquet.write_table(table, tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert [column.name for column in source.columns] == ["a"]
    assert "column '__index_level_0__', the index of a pandas frame, is left out" in source.notes
    assert open_source(tmp_path / "t.parquet", columns="__index_level_0__").n_features == 1


@pytest.mark.needs("polars")
@pytest.mark.parametrize("kind", ["Categorical", "Enum"])
def test_categories_of_polars(tmp_path, kind):
    import polars as pl

    dtype = pl.Categorical() if kind == "Categorical" else pl.Enum(["a", "b", "c"])
    pl.DataFrame({"c": ["a", "b", None, "c"]}).with_columns(pl.col("c").cast(dtype)).write_ipc(
        tmp_path / "t.arrow"
    )
    source = open_source(tmp_path / "t.arrow", text="code", gaps="keep")
    assert source.columns[0].levels == ("a", "b", "c")
    np.testing.assert_array_equal(values(source)[:, 0], [0, 1, -1, 2])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_words_for_a_gap_are_alike_in_every_form(tmp_path, form):
    def opened(**options):
        if form == "csv":
            return read(tmp_path, 'c,a\nNA,1\n"",NA\nEU,3\n', **options)
        parquet.write_table(pa.table({"c": ["NA", "", "EU"], "a": ["1", "NA", "3"]}), tmp_path / "t.parquet")
        return open_source(tmp_path / "t.parquet", gaps="keep", dtype="float64", text="code", **options)

    known = {"kinds": {"a": "number with a decimal point"}}
    np.testing.assert_array_equal(values(opened(**known)), [[-1, 1], [-1, np.nan], [0, 3]])
    kept = opened(csv=CsvForm(null_words=False), **known)
    assert kept.columns[0].levels == ("EU", "NA")
    np.testing.assert_array_equal(values(kept), [[1, 1], [-1, np.nan], [0, 3]])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_nothing_but_words_for_a_gap_is_text_where_they_are_texts(tmp_path, form):
    words, late = ["NA", "null", "", "NA"], ["", "", "NA", "x"]
    if form == "csv":
        text = "c,l\n" + "".join(f'"{a}","{b}"\n' for a, b in zip(words, late, strict=True))
        source = read(tmp_path, text, csv=CsvForm(null_words=False))
    else:
        parquet.write_table(pa.table({"c": words, "l": late}), tmp_path / "t.parquet")
        options = {"gaps": "keep", "dtype": "float64", "text": "code", "csv": CsvForm(null_words=False)}
        source = open_source(tmp_path / "t.parquet", **options)
    assert [column.levels for column in source.columns] == [("NA", "null"), ("NA", "x")]
    np.testing.assert_array_equal(values(source), [[0, -1], [1, -1], [-1, 0], [0, 1]])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_numbers_beyond_floats_are_names_as_the_refusal_says(tmp_path, form):
    names = [2**60 + at % 3 for at in range(60)]
    table = pa.table({"a": np.sin(np.arange(60)), "k": names, "y": [2**53 + 1 + at % 2 for at in range(60)]})
    path = tmp_path / f"t.{form}"
    csv.write_csv(table, path) if form == "csv" else parquet.write_table(table, path)
    options = {"epochs": 1, "task": "classification"}
    with pytest.raises(ValueError, match=r"beyond 2.53.* have it read as text, text='k'"):
        fit_table(path, "y", text="y", **options)
    model = fit_table(path, "y", text="y,k", **options)
    assert model.levels == ("9007199254740993", "9007199254740994")
    assert model.inputs.columns[1].levels == tuple(map(str, sorted(set(names))))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_classes_that_are_numbers_have_their_shortest_names(tmp_path, form):
    table = pa.table({"a": np.sin(np.arange(60)), "y": [(0.1, 0.3, 2.0)[at % 3] for at in range(60)]})
    path = tmp_path / f"t.{form}"
    csv.write_csv(table, path) if form == "csv" else parquet.write_table(table, path)
    model = fit_table(path, "y", epochs=1, task="classification")
    assert model.levels == ("0.1", "0.3", "2")


def test_a_spread_below_the_squares_of_floats_is_no_single_value(tmp_path):
    values = np.arange(60) * 1e-310
    parquet.write_table(pa.table({"a": values, "y": np.arange(60.0)}), tmp_path / "t.parquet")
    for recipe in ("tables", "plain"):
        model = fit_table(tmp_path / "t.parquet", "y", epochs=1, recipe=recipe, task="regression")
        assert np.ptp(model.predict({"a": values})) > 0


def test_values_that_differ_by_a_little_of_a_large_mean_are_learnt_and_rounding_is_named(tmp_path):
    a = np.sin(np.arange(400.0))
    parquet.write_table(pa.table({"a": a, "y": 1e15 + 8 * a}), tmp_path / "t.parquet")
    model = fit_table(tmp_path / "t.parquet", "y", epochs=40)
    assert model.training["metrics"]["r2"] > 0.9
    parquet.write_table(pa.table({"a": a, "y": 1.0 + 2.0**-52 * (a > 0)}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="values that differ by rounding alone"):
        fit_table(tmp_path / "t.parquet", "y", epochs=1, task="regression")
