"""Tables that can not be used: one clear error that names file, row and column."""

import contextlib
import gzip
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from mlp_xp.tables.files import csv_files
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import open_source

pytestmark = pytest.mark.needs("pyarrow")


ROWS = "a,b,c\n1,2,3\n4,5,6\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"t\.csv is empty: a line of column names and at least one row"),
        ("\n \n", r"t\.csv is empty"),
        ("a,b,c\n", r"t\.csv has a line of column names and no rows below it"),
        (ROWS + "7,8\n", r"t\.csv, row 3 \(line 4\) has 2 values, but there are 3 columns \(the first that"),
        (ROWS + "\n7,8,9,10\n", r"t\.csv, row 3 \(line 5\) has 4 values, but there are 3 columns: '7,8,9"),
        ('a,b,c\n"1\n1",x,2\n1,2\n', r"t\.csv, row 2 \(line 4\) has 2 values"),
        (ROWS + "7,abc,9\n", r"t\.csv, row 3 \(line 4\), column 'b' holds 'abc', where a number is needed"),
        (ROWS + "7,,9\n", r"t\.csv, row 3 \(line 4\), column 'b' holds nothing, where a value is needed"),
        (ROWS + "7,NaN,9\n", r"t\.csv, row 3 \(line 4\), column 'b' holds nothing, where a value"),
        (ROWS + "7,inf,9\n", r"t\.csv, row 3 \(line 4\), column 'b' holds 'inf', which is infinite"),
        (ROWS + "7,-1e999,9\n", r"t\.csv, row 3 \(line 4\), column 'b' holds '-1e999', which is infinite"),
        (ROWS + "7,1e200,9\n", r"column 'b' holds '1e200', which is too large for float32"),
        (ROWS + "7,8,\n", r"row 3 \(line 4\), column 'c' holds nothing, where a value is needed"),
        (ROWS + "9007199254740993,8,9\n", r"row 3 \(line 4\), column 'a' holds '900719925474"),
        (ROWS + "01/02/2003,1,2\n", r"row 3 \(line 4\), column 'a' holds '01/02/2003', where a number"),
        ("a,b,c\n01/02/2003,1,2\n", r"column 'a': all of its dates can be read as 'date, day"),
        (ROWS + '7,8,"9\n10,11,12\n', r"row 3, column 'c': a quoted text begins here that is never closed"),
        (ROWS.encode() + b"7,\xff,9\n", r"row 3 \(line 4\), column 'b' holds b'\\xff', which is no UTF-8"),
        (b"a,b\xff,c\n1,2,3\n", r"t\.csv is not written in the encoding"),
        (b"a\0b\0c\n\0", r"t\.csv is no text in UTF-8: it holds zero bytes"),
        (b"\xff\xfea,b,c\n1,2,3\n", r"t\.csv has no row below its first line"),
        ("a,b,b,c\n1,2,3,4\n", r"more than one column named 'b'"),
    ],
)  # fmt: skip
def test_csv(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        open_source(path, target="c")


def test_the_first_text_after_half_a_million_numbers_is_named(tmp_path):
    rows = "".join(f"{i % 10},1\n" for i in range(1_500_000))
    (tmp_path / "t.csv").write_text("a,b\n" + rows + "oops,1\n" + rows[:400])
    with pytest.raises(
        ValueError, match=r"t\.csv, row 1,500,001 \(line 1,500,002\), column 'a' holds 'oops'"
    ):
        open_source(tmp_path / "t.csv", target="b")


def test_a_line_longer_than_a_block_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 1 << 20)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n" + "3" * (5 << 20) + ",4\n")
    with pytest.raises(ValueError, match=r"t\.csv: line 3 is longer than 1 MiB"):
        open_source(tmp_path / "t.csv", target="b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "d"}, r"t\.csv has no column 'd'; known: a, b, c"),
        ({"target": "price"}, "has no column 'price'"),
        ({"target": ["a", "z"], "exclude": "y"}, "no columns 'z', 'y'; known: a, b"),
        ({"target": "a", "columns": ["a", "b"]}, "column 'a' is named twice among"),
        ({"target": "a", "weight_column": "a"}, "column 'a' is named twice among"),
        ({"columns": ["b", "b"]}, "column 'b' is named twice among"),
        ({"target": "a", "exclude": ["b", "c"]}, r"no column of .*t\.csv is left as a feature"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"text": "yes", "gaps": "no"}, "(?s)unknown text 'yes'.*unknown gaps 'no'"),
        ({"memory_limit": -1}, "memory_limit=-1 must be a whole number >= 0"),
    ],
)
def test_options(tmp_path, options, message):
    (tmp_path / "t.csv").write_text(ROWS)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "t.csv", **options)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"delimiter": ";;"}, "delimiter=';;' must be one character"),
        ({"decimal": "!"}, "unknown decimal '!'"),
        ({"encoding": "utf-9"}, "encoding='utf-9' is not known"),
        ({"date_format": "%d"}, "unknown date_format '%d'"),
    ],
)
def test_forms(form, message):
    with pytest.raises(ValueError, match=message):
        CsvForm(**form)


def test_weights_must_be_numbers_that_are_not_negative(tmp_path):
    (tmp_path / "t.csv").write_text("a,w,v\n1,2,x\n4,-5,x\n")
    with pytest.raises(ValueError, match=r"row 2 \(line 3\), column 'w' holds '-5', but a sample"):
        open_source(tmp_path / "t.csv", columns="a", weight_column="w")
    with pytest.raises(ValueError, match=r"sample weights must be numbers, but .* holds 'x'"):
        open_source(tmp_path / "t.csv", columns="a", weight_column="v")


def test_a_gap_in_a_target_is_refused_even_where_features_may_have_them(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n,1\n2,\n")
    with pytest.raises(ValueError, match=r"row 2 \(line 3\), column 'b' holds nothing"):
        open_source(tmp_path / "t.csv", target="b", gaps="keep")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, None, 2.0], "row 2, column 'a' holds nothing, where a value is needed"),
        ([1.0, 2.0, float("nan")], "row 3, column 'a' holds nan, which is no number"),
        ([1.0, float("-inf"), 2.0], "row 2, column 'a' holds -inf, which is infinite"),
        ([1.0, 1e39, 2.0], r"row 2, column 'a' holds 1e\+39, which is too large for float32"),
        ([1, 2**53 + 1, 2], "row 2, column 'a' holds 9007199254740993, which is beyond"),
        ([[1], [2], [3]], "column 'a' is of type list"),
        (["x", "y", "z"], "column 'a' is text, where a number is needed"),
    ],
)
def test_typed(tmp_path, form, values, message):
    table = pa.table({"a": values, "b": [1, 2, 3]})
    path = tmp_path / f"t.{form}"
    (parquet.write_table if form == "parquet" else feather.write_feather)(table, path)
    with pytest.raises(ValueError, match=rf"t\.{form}.*{message}"):
        open_source(path, target="b")


@pytest.mark.parametrize("scale", [1000, -1000])
def test_decimals_that_end_nowhere_are_refused(tmp_path, scale):
    values = pa.Array.from_buffers(pa.decimal128(22, scale), 2, [None, pa.py_buffer(bytes(32))])
    feather.write_feather(pa.table({"a": values, "b": [1.0, 2.0]}), tmp_path / "t.arrow")
    for options in ({"target": "b"}, {"target": "a"}, {"target": "b", "text": "code"}):
        with pytest.raises(ValueError, match=rf"t\.arrow, column 'a' is of type decimal128\(22, {scale}\)"):
            open_source(tmp_path / "t.arrow", **options)


def damaged(path, how):
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut short": content[: len(content) // 2],
            "without its end": content[:-3],
            "other": b"nonsense " * 100,
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "cut short", "without its end", "other"])
@pytest.mark.parametrize("form", ["parquet", "arrow", "csv.gz"])
def test_damaged_files(tmp_path, form, how):
    path = tmp_path / f"t.{form}"
    table = pa.table({"a": np.arange(10_000) * 7, "b": np.arange(10_000) * 3})
    if form == "csv.gz":
        path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000))
    else:
        (parquet.write_table if form == "parquet" else feather.write_feather)(table, path)
    damaged(path, how)
    with pytest.raises(ValueError, match=rf"t\.{form} (can not be read to the end|is empty)") as caught:
        open_source(path, target="b")
    assert "name end in" not in str(caught.value)  # it does


@given(seed=st.integers(0, 2**32), form=st.sampled_from(["csv", "parquet"]))
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_end_in_rows_or_in_our_error(tmp_path_factory, seed, form):
    path = tmp_path_factory.mktemp("damaged") / f"t.{form}"
    table = pa.table({"a": np.arange(50.0), "t": ["x", "y"] * 25, "b": np.arange(50)})
    if form == "csv":
        path.write_text("a,t,b\n" + "".join(f"{i},x,{i}\n" for i in range(50)))
    else:
        parquet.write_table(table, path)
    generator = np.random.default_rng(seed)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    for _ in range(generator.integers(1, 5)):
        content[generator.integers(len(content))] = generator.integers(256)
    path.write_bytes(content.tobytes())
    with contextlib.suppress(ValueError, RuntimeError):
        open_source(path, text="code", gaps="keep")


def test_files_of_one_table_that_differ(tmp_path):
    (tmp_path / "a.csv").write_text(ROWS)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv has no column 'c', which .*a\.csv has"):
        open_source(tmp_path)
    folder = tmp_path / "typed"
    folder.mkdir()
    parquet.write_table(pa.table({"a": [1], "b": [1]}), folder / "1.parquet")
    parquet.write_table(pa.table({"a": ["x"], "c": [1]}), folder / "2.parquet")
    with pytest.raises(ValueError, match=r"column 'a' has different types: number in .*1\.parquet"):
        open_source(folder, columns="a")
    with pytest.raises(ValueError, match=r"2\.parquet has no column 'b'"):
        open_source(folder, columns="b")


def test_places_without_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no data file in"):
        open_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no data file in"):
        open_source(tmp_path / "*.csv")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_source(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="there is no file 'file://"):
        open_source((tmp_path / "t.csv").as_uri())
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"t\.xlsx is of no known format; .* Save the sheet as CSV\."):
        open_source(tmp_path / "t.xlsx")
    (tmp_path / "a.csv").write_text(ROWS)
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"several formats in one table: CSV .*Parquet"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.arrow", "t.npy", "t.npz", "folder"])
def test_no_permission(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text(ROWS)
    path.chmod(0)
    if getattr(os, "geteuid", int)() == 0:  # root may read everything, and is told that it may not
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=rf"no permission to read .*{name}"):
        open_source(path)


@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_a_file_that_changes_while_it_is_converted(tmp_path, memory_limit):
    path = tmp_path / "t.csv"
    path.write_text(ROWS)

    def append(doing, share):
        if doing == "converting":
            path.write_text(ROWS + "7,8,9\n")

    with pytest.raises(RuntimeError, match=r"t\.csv was changed while it was in use \(18 bytes"):
        open_source(path, memory_limit=memory_limit, cache_dir=tmp_path / "cache", progress=append)
    assert list((tmp_path / "cache").glob("*")) == []


def test_a_file_that_changes_while_it_is_used(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(ROWS)
    for cache in (True, False):
        source = open_source(path, memory_limit=0, cache=cache, cache_dir=tmp_path / "cache")
        source.check_unchanged()
        path.write_text(ROWS + "7,8,9\n")
        with pytest.raises(RuntimeError, match=r"t\.csv was changed while it was in use"):
            source.check_unchanged()
    path.unlink()
    with pytest.raises(RuntimeError, match=r"t\.csv was deleted or moved"):
        source.check_unchanged()


def test_data_files_are_never_written(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "t.csv").write_text(ROWS)
    (folder / "t.csv").chmod(0o444)
    folder.chmod(0o555)
    before = (folder / "t.csv").stat()
    open_source(folder, memory_limit=0, cache_dir=tmp_path / "cache")
    after = (folder / "t.csv").stat()
    folder.chmod(0o755)
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert [each.name for each in folder.iterdir()] == ["t.csv"]


def test_without_pyarrow_the_error_says_what_to_install(tmp_path):
    (tmp_path / "t.csv").write_text(ROWS)
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from mlp_xp.tables.files.opening import open_source\n"
        "try: open_source(sys.argv[1])\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "t.csv")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 'pip install "mlp-xp[files]"' in done.stdout


def test_importing_sources_does_not_import_pyarrow():
    program = "import sys, mlp_xp.tables.files.opening; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
