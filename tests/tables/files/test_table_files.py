"""Tables of every format against pandas' reading of the same file."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from mlp_xp.rows.order import Sequential
from mlp_xp.rows.streams import BatchSource
from mlp_xp.tables.files import csv_files
from mlp_xp.tables.files.arrow_map import ArrowSource
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import open_source
from mlp_xp.tables.files.table_source import TableSource

pytestmark = pytest.mark.needs("pyarrow", "pandas")


def all_rows(source, dtype="float64"):
    x = np.empty((source.n_rows, source.n_features), dtype)
    y = np.empty((source.n_rows, source.n_targets), dtype)
    weight = np.empty(source.n_rows, dtype)
    order = (source.order or Sequential())(source.n_rows, 0, 0)
    source.in_order(order).rows(order[0 : source.n_rows], x, y, weight)
    return x, y, weight


def frame(n_rows=1_000, seed=0):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "size": generator.normal(size=n_rows).round(4),
            "rooms": generator.integers(1, 9, n_rows),
            "kind": generator.choice(["flat", "house", "größe 🏠", "a,b", 'say "hi"'], n_rows),
            "built": pd.Timestamp("1970-01-01") + pd.to_timedelta(generator.integers(0, 10**9, n_rows), "s"),
            "garden": generator.random(n_rows) < 0.5,
            "price": generator.normal(size=n_rows).round(4),
            "trust": generator.random(n_rows).round(4),
        }
    )


def write(table, folder, form):
    """One or several files; returns what to open."""
    if form == "csv":
        table.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    if form == "csv.gz":
        table.to_csv(folder / "t.csv.gz", index=False)
        return folder / "t.csv.gz"
    if form == "csv glob":
        for number, part in enumerate(np.array_split(np.arange(len(table)), 3)):
            table.iloc[part].to_csv(folder / f"part-{number}.csv", index=False)
        return folder / "part-*.csv"
    if form == "parquet":
        table.to_parquet(folder / "t.parquet", row_group_size=301)
        return folder / "t.parquet"
    if form == "parquet folder":
        (folder / "parts" / "more").mkdir(parents=True)
        (folder / "parts" / "_SUCCESS").touch()
        table.iloc[:700].to_parquet(folder / "parts" / "a.parquet")
        table.iloc[700:].to_parquet(folder / "parts" / "more" / "b.parquet")
        return folder / "parts"
    if form == "feather":
        feather.write_feather(table, folder / "t.feather", compression="zstd", chunksize=300)
        return folder / "t.feather"
    if form == "file://":
        table.to_parquet(folder / "t.parquet")
        return (folder / "t.parquet").as_uri()
    raise ValueError(form)


FORMS = ["csv", "csv.gz", "csv glob", "parquet", "parquet folder", "feather", "file://"]


@pytest.mark.parametrize("where", ["memory", "cache", "cache, again", "stream"])
@pytest.mark.parametrize("form", FORMS)
def test_values_are_those_that_pandas_wrote(tmp_path, form, where):
    table = frame()
    path = write(table, tmp_path, form)
    options = {
        "target": ["price", "kind"],
        "weight_column": "trust",
        "dtype": "float64",
        "memory_limit": 10**9 if where == "memory" else 0,
        "cache": where != "stream",
        "cache_dir": tmp_path / "cache",
    }
    source = open_source(path, **options)
    if where == "cache, again":
        source = open_source(path, **options)
    assert [c.name for c in source.columns] == ["size", "rooms", "built", "garden"]
    assert [c.kind for c in source.columns] == ["number", "number", "date", "bool"]
    assert [c.kind for c in source.targets] == ["number", "text"]
    assert source.targets[1].levels == tuple(sorted(set(table["kind"])))
    x, y, weight = all_rows(source)
    if where == "stream":
        assert isinstance(source, BatchSource)
        order = np.argsort(weight + 1e-9 * y[:, 0])
        x, y, weight = x[order], y[order], weight[order]
        table = table.iloc[np.argsort(table["trust"] + 1e-9 * table["price"])]
    built = table["built"].to_numpy().astype("M8[us]").astype(np.int64) / 86_400e6
    np.testing.assert_array_equal(x[:, 0], table["size"])
    np.testing.assert_array_equal(x[:, 1], table["rooms"])
    np.testing.assert_array_equal(x[:, 2], built)
    np.testing.assert_array_equal(x[:, 3], table["garden"])
    np.testing.assert_array_equal(y[:, 0], table["price"])
    np.testing.assert_array_equal(y[:, 1], pd.Categorical(table["kind"]).codes)
    np.testing.assert_array_equal(weight, table["trust"])
    has_cache = (tmp_path / "cache").exists() and len(list((tmp_path / "cache").iterdir())) == 1
    assert has_cache == where.startswith("cache")


def test_records_hold_every_column_by_kind(tmp_path):
    path = write(frame(), tmp_path, "parquet")
    source = open_source(path, target="price", text="code")
    assert isinstance(source, TableSource)
    record = source.records[[5, 3]]
    assert record["number"].dtype == np.float32
    assert record["date"].dtype == np.int64
    assert record["text"].dtype == np.int32
    kinds = source.columns[2].levels
    assert kinds[record["text"][0, 0]] == frame()["kind"][5]


def test_large_arrow_files_are_used_where_they_are(tmp_path):
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(5_000, 6)), columns=list("abcdef"))
    table["b"] = table["b"].abs().astype("float32")
    table["c"] = generator.integers(-9, 9, 5_000).astype("int16")
    for number, part in enumerate([table.iloc[:3_000], table.iloc[3_000:]]):
        feather.write_feather(part, tmp_path / f"{number}.arrow", compression="uncompressed", chunksize=700)
    options = {"target": ["f", "c"], "weight_column": "b", "memory_limit": 0, "gaps": "keep"}
    source = open_source(tmp_path, **options)
    assert isinstance(source, ArrowSource)
    index = generator.integers(0, 5_000, 3_000)
    x, y, weight = np.empty((3_000, 3)), np.empty((3_000, 2)), np.empty(3_000)
    source.rows(index, x, y, weight)
    there = table.iloc[index]
    np.testing.assert_array_equal(x, there[["a", "d", "e"]])
    np.testing.assert_array_equal(y, there[["f", "c"]])
    np.testing.assert_array_equal(weight, there["b"])
    source.check_finite()
    # Without weights and targets, and for a file that is gone.
    alone = open_source(tmp_path, memory_limit=0)
    x, weight = np.empty((1, 6), np.float32), np.zeros(1)
    alone.rows(np.array([4_999]), x, None, weight)
    np.testing.assert_array_equal(x[0], table.iloc[4_999].astype("f4"))
    assert weight == 1
    (tmp_path / "1.arrow").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"1\.arrow was changed while it was in use"):
        alone.rows(np.array([4_999]), x, None, weight)


def test_not_a_number_in_a_mapped_arrow_file_is_found(tmp_path):
    table = pa.table({"a": [1.0, 2.0, np.inf], "b": [1.0, 2.0, 3.0]})
    feather.write_feather(table, tmp_path / "t.arrow", compression="uncompressed")
    with pytest.raises(ValueError, match=r"t\.arrow, row 3, column 'a' is inf"):
        open_source(tmp_path / "t.arrow", memory_limit=0).check_finite()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("a", np.nan, "column 'a' is nan; finite numbers are needed"),
        ("a", np.inf, "column 'a' is inf; finite numbers are needed"),
        ("y", -np.inf, "column 'y' is -inf; finite numbers are needed"),
        ("y", np.nan, "column 'y' is nan; finite numbers are needed"),
        ("w", np.nan, "column 'w' is nan; sample weights are finite numbers >= 0"),
        ("w", -1.0, "column 'w' is -1.0; sample weights are finite numbers >= 0"),
    ],
)
@pytest.mark.parametrize("gaps", ["refuse", "keep"])
def test_rows_of_a_mapped_arrow_file_are_checked_when_they_are_gathered(
    tmp_path, column, value, message, gaps
):
    for number in range(2):
        columns = {name: np.ones(40) for name in ("a", "b", "y", "w")}
        if number:
            columns[column][17] = value
        path = tmp_path / f"{number}.arrow"
        feather.write_feather(pa.table(columns), path, compression="uncompressed", chunksize=15)
    source = open_source(tmp_path, "y", weight_column="w", memory_limit=0, gaps=gaps)
    assert isinstance(source, ArrowSource)
    x, y, weight = np.empty((5, 2)), np.empty((5, 1)), np.empty(5)
    source.rows(np.arange(5, 10), x, y, weight)
    index = np.array([3, 57, 4, 5, 6])
    if gaps == "keep" and column == "a" and np.isnan(value):
        source.rows(index, x, y, weight)
        assert np.isnan(x[1, 0])
    else:
        with pytest.raises(ValueError, match=rf"1\.arrow, row 18, {message}"):
            source.rows(index, x, y, weight)


numbers = st.floats(-1e6, 1e6, width=32)
text = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), max_size=6)


@given(rows=st.lists(st.tuples(numbers, st.integers(-99, 99), text), min_size=1, max_size=30))
@settings(deadline=None, max_examples=100)
def test_any_text_and_any_number_of_a_csv_file(tmp_path_factory, rows):
    """pandas writes and reads; gaps and kinds are told apart as it does."""
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    table = pd.DataFrame(rows, columns=["a", "b", "c"])
    table["c"] = "t" + table["c"]
    table.to_csv(path, index=False, lineterminator="\n")
    source = open_source(path, target="c", dtype="float64")
    known = pd.read_csv(path, keep_default_na=False)
    x, y, _ = all_rows(source)
    np.testing.assert_array_equal(x, known[["a", "b"]])
    levels = np.array(source.targets[0].levels)
    assert levels[y[:, 0].astype(int)].tolist() == known["c"].tolist()


def csv(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)
    return path


def read(tmp_path, content, encoding="utf-8", **options):
    path = csv(tmp_path, content, encoding)
    return open_source(path, **{"text": "code", "gaps": "keep", "dtype": "float64", **options})


@pytest.mark.parametrize(
    ("content", "kind", "values"),
    [
        ("a\n1\n2\n3.5\n", "number", [1, 2, 3.5]),
        ('a\n""\nNA\n7\n', "number", [np.nan, np.nan, 7]),
        ("a\n 1\n2 \n -3 \n", "number", [1, 2, -3]),
        ("a\n1e3\n.5\n5.\n+2\n", "number", [1000, 0.5, 5, 2]),
        ("a\ntrue\nFALSE\nNA\n", "bool", [1, 0, np.nan]),
        ("a\n0\n1\n", "number", [0, 1]),
        ("a\n2020-01-02\n1969-12-31 12:00\nNA\n", "date", [18263, -0.5, np.nan]),
        ("a\n2020-01-02T00:00:00Z\n2020-01-02T02:00:00+02:00\n", "date", [18263, 18263]),
        ("a\n16/12/2006\n01/02/2007\n", "date", [13498, 13545]),
        ("a\n12/16/2006 06:00\n01/02/2007 00:00\n", "date", [13498.25, 13515]),
        ("a\n16.12.2006\n01.02.2007\n", "date", [13498, 13545]),
        ("a\n17:24:00\n00:01\n", "number", [62640, 60]),
        ("a\nx\nNA\nb\nx\n", "text", [1, -1, 0, 1]),
        ("a\n1\n2\nx\n", "text", [0, 1, 2]),
        ("a\n1\n2020-01-01\n", "text", [0, 1]),
        ("a;b\n1,5;1\n2;1\n", "number", [1.5, 2]),
        ("a;b\n1.5;1\n2;1\n", "number", [1.5, 2]),
        ("a\tb\n1\t1\n", "number", [1]),
        ("a|b\n1|1\n", "number", [1]),
        ("a,b;c\n1,x;y\n", "number", [1]),
        ('a,"b;c"\r\n1,2\r\n', "number", [1]),
        ('\ufeffa,b\r\n1,"two\r\nlines"\r\n2,x', "number", [1, 2]),
        ("a\n1\n\n\n2\n", "number", [1, 2]),
        ("a\n9007199254740992\n1\n", "number", [2**53, 1]),
    ],
)
def test_what_the_text_of_a_csv_file_is_read_as(tmp_path, content, kind, values):
    source = read(tmp_path, content)
    assert source.columns[0].kind == kind
    np.testing.assert_array_equal(all_rows(source)[0][:, 0], values)


@pytest.mark.parametrize("late", ["3.5", "x", ""])
def test_types_are_settled_over_the_whole_file(tmp_path, monkeypatch, late):
    """Integers for twenty blocks, something else in the last."""
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 1 << 14)
    text = "a,b\n" + "\n".join(f"{i % 7},1" for i in range(80_000)) + f"\n{late},1\n"
    source = read(tmp_path, text, target="b")
    x = all_rows(source)[0][:, 0]
    assert source.n_rows == 80_001
    if late == "x":
        assert source.columns[0].levels == ("0", "1", "2", "3", "4", "5", "6", "x")
    np.testing.assert_array_equal(x[:-1], np.arange(80_000) % 7)
    np.testing.assert_array_equal(x[-1], {"3.5": 3.5, "x": 7, "": np.nan}[late])


def test_empty_for_many_blocks_then_a_number_is_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 1 << 14)
    source = read(tmp_path, "a,b\n" + ",1\n" * 50_000 + "7,1\n", target="b")
    assert source.columns[0].kind == "number"
    assert all_rows(source)[0][-1] == 7


@pytest.mark.parametrize(
    ("form", "content", "encoding", "first"),
    [
        (CsvForm(delimiter=":"), "a:b\n1:2\n", "utf-8", 1),
        (CsvForm(decimal=","), 'a,b\n"1,5",2\n', "utf-8", 1.5),
        (CsvForm(encoding="latin-1"), "a,b\né,2\n", "latin-1", 0),
        (CsvForm(null=("-9",)), "a,b\n-9,2\n", "utf-8", np.nan),
        (CsvForm(date_format="month first"), "a,b\n01/02/2007,2\n", "utf-8", 13515),
        (CsvForm(), "a,b\n1,2\n", "utf-16", 1),
    ],
)
def test_what_can_not_be_recognised_can_be_said(tmp_path, form, content, encoding, first):
    source = read(tmp_path, content, encoding, csv=form)
    np.testing.assert_array_equal(all_rows(source)[0][0, 0], first)


def test_what_was_recognised_is_said(tmp_path):
    source = read(tmp_path, "a;b\n1,5;16/12/2006\n")
    assert any("delimiter ';'" in note for note in source.notes)
    assert "column 'a' is read as number with a decimal comma" in source.notes
    assert "column 'b' is read as date, day first" in source.notes


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None, 3], pa.int8()),
        pa.array([1, 2, 3], pa.uint64()),
        pa.array([1.5, None, float("nan")], pa.float16()),
        pa.array([1, 2, None], pa.decimal128(9, 2)),
        pa.array([True, None, False]),
        pa.array([None, None, None]),
        pa.array([1, 2, 3]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_every_type_of_number(tmp_path, values, form):
    table = pa.table({"a": values, "b": [1, 2, 3]})
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        if values.type == pa.null():
            pytest.skip("Parquet has no such type of its own")
        parquet.write_table(table, path)
    else:
        feather.write_feather(table, path)
    source = open_source(path, target="b", gaps="keep", dtype="float64")
    expected = [np.nan if v is None else float(v) for v in values.to_pylist()]
    np.testing.assert_array_equal(all_rows(source)[0][:, 0], expected)


@pytest.mark.parametrize(
    ("values", "days"),
    [
        (pa.array([0, 86400, None], pa.timestamp("s")), [0, 1, np.nan]),
        (pa.array([0, 86_400_000_000_000, 999], pa.timestamp("ns")), [0, 1, 0]),
        (pa.array([0, 43200, -86400], pa.timestamp("s", "Europe/Berlin")), [0, 0.5, -1]),
        (pa.array([0, 1, None], pa.date32()), [0, 1, np.nan]),
        (pa.array([0, 86_400_000, None], pa.date64()), [0, 1, np.nan]),
    ],
    ids=lambda values: str(getattr(values, "type", "")),
)
def test_every_type_of_date(tmp_path, values, days):
    feather.write_feather(pa.table({"a": values, "b": [1, 2, 3]}), tmp_path / "t.arrow")
    source = open_source(tmp_path / "t.arrow", target="b", gaps="keep", dtype="float64")
    assert source.columns[0].kind == "date"
    np.testing.assert_allclose(all_rows(source)[0][:, 0], days)


def test_times_and_durations_are_seconds(tmp_path):
    table = pa.table(
        {
            "a": pa.array([dt.time(0, 1), None]),
            "b": pa.array([90_000, None], pa.duration("ms")),
            "c": pa.array([3, None], pa.time32("s")),
        }
    )
    feather.write_feather(table, tmp_path / "t.arrow")
    x, _, _ = all_rows(open_source(tmp_path / "t.arrow", gaps="keep"))
    np.testing.assert_array_equal(x, [[60, 90, 3], [np.nan] * 3])


def test_times_in_a_dictionary_are_read_as_others(tmp_path):
    times = pa.array([dt.time(0, 1), dt.time(0, 2)])
    feather.write_feather(pa.table({"a": times.dictionary_encode(), "b": times}), tmp_path / "t.arrow")
    source = open_source(tmp_path / "t.arrow")
    assert {column.reading for column in source.columns} == {"time of day, in seconds"}
    np.testing.assert_array_equal(all_rows(source)[0], [[60, 60], [120, 120]])


def test_durations_beside_numbers_are_texts_alone(tmp_path):
    for name, values in (("1.arrow", [5]), ("2.arrow", pa.array([6], pa.duration("s")))):
        feather.write_feather(pa.table({"a": values}), tmp_path / name)
    with pytest.raises(
        ValueError, match=r"number with a decimal point in .*1\.arrow, duration, in seconds in"
    ):
        open_source(tmp_path)
    source = open_source(tmp_path, text="code", kinds={"a": "text"})
    assert source.columns[0].levels == ("5", "6")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_every_type_of_text(tmp_path, kind):
    table = pa.table({"a": pa.array(["y", None, "x"]).cast(kind), "b": [1, 2, 3]})
    for path, write_table in [
        (tmp_path / "t.arrow", feather.write_feather),
        (tmp_path / "t.parquet", parquet.write_table),
    ]:
        write_table(table, path)
        source = open_source(path, target="b", text="code", gaps="keep")
        assert source.columns[0].levels == ("x", "y")
        assert source.records["text"][:, 0].tolist() == [1, -1, 0]


def test_columns_are_taken_by_name_from_every_file(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n")
    (tmp_path / "b.csv").write_text("z,extra,x,y\n30,x,10,20\n")
    source = open_source(tmp_path, target="y", columns=["z", "x"], dtype="float64")
    x, y, _ = all_rows(source)
    np.testing.assert_array_equal(x, [[3, 1], [30, 10]])
    np.testing.assert_array_equal(y, [[2], [20]])


def test_integers_in_one_file_and_decimals_in_another_are_numbers(tmp_path):
    parquet.write_table(pa.table({"a": [1, 2], "b": [True, False]}), tmp_path / "1.parquet")
    parquet.write_table(pa.table({"a": [1.5], "b": [7]}), tmp_path / "2.parquet")
    x, _, _ = all_rows(open_source(tmp_path))
    np.testing.assert_array_equal(x, [[1, 1], [2, 0], [1.5, 7]])


def test_progress_ends_at_one(tmp_path):
    said = []
    path = write(frame(), tmp_path, "csv glob")
    open_source(path, exclude=["kind"], progress=lambda *what: said.append(what))
    names = {name for name, _ in said}
    assert names == {"looking at the columns", "converting"}
    shares = [share for name, share in said if name == "converting"]
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("form", ["csv glob", "parquet", "parquet folder"])
def test_a_stream_differs_from_epoch_to_epoch_and_repeats_itself(tmp_path, form):
    path = write(frame(), tmp_path, form)
    source = open_source(path, exclude="kind", memory_limit=0, cache=False)

    def epoch(number):
        order = source.order(1_000, 3, number)
        x = np.empty((1_000, source.n_features))
        source.in_order(order).rows(order[0:1_000], x, None, None)
        return x

    first, second = epoch(0), epoch(1)
    np.testing.assert_array_equal(epoch(0), first)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_memory_of_a_conversion_does_not_grow_with_the_file(tmp_path):
    """Arrow's own memory while 60 MB of Parquet are converted to the cache."""
    table = pa.table({name: np.random.default_rng(0).normal(size=400_000) for name in "abcdefghijklmnopqrst"})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=50_000)
    del table
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), []
    open_source(
        tmp_path / "t.parquet",
        memory_limit=0,
        cache_dir=tmp_path / "cache",
        progress=lambda *_: peak.append(pool.bytes_allocated() - before),
    )
    assert max(peak) < 40e6
