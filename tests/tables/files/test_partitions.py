"""Folders that hold columns in their names, and remote places: the same rows as from one local file."""

import functools
import http.server
import math
import socket
import threading
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mlp_xp.tables.files.opening import open_source

pytestmark = pytest.mark.needs("pyarrow")


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    else:
        {".parquet": parquet.write_table, ".arrow": feather.write_feather}[path.suffix](
            pa.table(columns), path
        )


def rows_of(source):
    x, y = np.empty((source.n_rows, source.n_features)), np.empty((source.n_rows, source.n_targets))
    source.rows(np.arange(source.n_rows), x, y, None)
    return x.tolist(), y.tolist()


@pytest.fixture(params=["parquet", "csv", "arrow"])
def sales(request, tmp_path):
    folder = tmp_path / "sales"
    write(folder / "year=2023" / "shop=a%2Fb" / f"0.{request.param}", n=[1, 2], price=[10, 20])
    write(folder / "year=2024" / "shop=c" / f"0.{request.param}", n=[3], price=[30])
    write(folder / "year=2024" / "shop=c" / f"1.{request.param}", n=[4], price=[40])
    return folder


@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_the_names_of_folders_are_columns(sales, memory_limit, tmp_path):
    options = {"text": "code", "memory_limit": memory_limit, "cache_dir": tmp_path / "cache"}
    for _ in range(2):  # the second time from the cache, if there is one
        source = open_source(sales, "price", **options)
        kinds = {column.name: (column.kind, column.levels) for column in source.columns}
        assert kinds == {"n": ("number", ()), "year": ("number", ()), "shop": ("text", ("a/b", "c"))}
        assert rows_of(source) == (
            [[1, 2023, 0], [2, 2023, 0], [3, 2024, 1], [4, 2024, 1]],
            [[10], [20], [30], [40]],
        )
    assert rows_of(open_source(sales, "year", columns="shop", **options)) == (
        [[0], [0], [1], [1]],
        [[2023], [2023], [2024], [2024]],
    )


def test_they_are_there_where_a_table_is_streamed(sales, tmp_path):
    source = open_source(sales, "price", exclude="shop", memory_limit=0, cache=False)
    x, y = np.empty((4, 2)), np.empty((4, 1))
    order = source.order(4, 0, 0)
    source.in_order(order).rows(order[0:4], x, y, None)
    assert sorted(zip(y[:, 0], *x.T, strict=True)) == [
        (10, 1, 2023),
        (20, 2, 2023),
        (30, 3, 2024),
        (40, 4, 2024),
    ]


def test_values_are_numbers_if_all_are(tmp_path):
    folder = tmp_path / "t"
    for value in ("1", "2.5", "__HIVE_DEFAULT_PARTITION__"):
        write(folder / f"a={value}" / "0.parquet", b=[1.0])
    found, _ = rows_of(open_source(folder, "b", gaps="keep"))
    assert found[:2] == [[1.0], [2.5]]
    assert math.isnan(found[2][0])
    with pytest.raises(
        ValueError, match=r"a=__HIVE.*row 1, column 'a' holds nothing, where a value is needed"
    ):
        open_source(folder, "b")
    write(folder / "a=x" / "0.parquet", b=[1.0])
    with pytest.raises(ValueError, match="column 'a' holds 'x', where a number is needed"):
        open_source(folder, "b")


def test_a_column_that_begins_with_nothing_is_still_one_of_numbers(tmp_path):
    folder = tmp_path / "t"
    for a, b in (("1", "__HIVE_DEFAULT_PARTITION__"), ("2", "5")):
        write(folder / f"a={a}" / f"b={b}" / "c=__HIVE_DEFAULT_PARTITION__" / "0.parquet", y=[1.0])
    source = open_source(folder, "y", gaps="keep")
    assert [column.kind for column in source.columns] == ["number"] * 3
    np.testing.assert_array_equal(rows_of(source)[0], [[1, np.nan, np.nan], [2, 5, np.nan]])


def test_folders_of_different_columns_are_refused(sales):
    file = next(sales.glob("year=2024/shop=c/0.*"))
    file.rename(sales / "year=2024" / file.name)
    with pytest.raises(ValueError, match=r"lies in folders that say year, .* say year, shop: all files"):
        open_source(sales, "price")


def test_a_column_both_in_files_and_in_the_name_of_their_folder_is_refused(tmp_path):
    write(tmp_path / "t" / "a=1" / "0.parquet", a=[1], b=[2])
    with pytest.raises(ValueError, match="more than one column named 'a'"):
        open_source(tmp_path / "t", "b")


def test_a_glob_names_files_alone(sales):
    suffix = next(path for path in sales.rglob("*") if path.is_file()).suffix
    source = open_source(sales / "*" / "*" / f"*{suffix}", "price")
    assert [column.name for column in source.columns] == ["n"]
    assert source.n_rows == 4


@pytest.mark.parametrize("memory_limit", [0, 10**9])
def test_an_address_of_a_folder_is_that_folder(sales, memory_limit, tmp_path):
    options = {"text": "code", "memory_limit": memory_limit, "cache_dir": tmp_path / "cache"}
    expected = rows_of(open_source(sales, "price", text="code"))
    source = open_source(sales.as_uri(), "price", **options)
    assert rows_of(source) == expected
    assert [column.name for column in source.columns] == ["n", "year", "shop"]


def test_an_address_may_be_a_glob(tmp_path):
    for name in ("a-1", "a-2", "b-1"):
        write(tmp_path / "t" / f"{name}.csv", x=[1], y=[2])
    address = (tmp_path / "t").as_uri()
    assert open_source(f"{address}/a-*.csv", "y").n_rows == 2
    assert open_source(f"{address}/*", "y").n_rows == 3
    with pytest.raises(FileNotFoundError, match="there is no data file in 'file://"):
        open_source(f"{address}/c-*.csv", "y")


def test_addresses_that_lead_nowhere(tmp_path):
    with pytest.raises(ValueError, match=r"'nowhere://a/b\.csv' can not be reached: "):
        open_source("nowhere://a/b.csv", "y")
    with pytest.raises(FileNotFoundError, match="there is no file 'file://"):
        open_source((tmp_path / "none").as_uri(), "y")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A file system that is not local: pyarrow's own, whose files exist under its root alone."""
    from pyarrow import fs

    from mlp_xp.rows import files

    root = tmp_path / "remote"
    root.mkdir()
    remote = fs.SubTreeFileSystem(str(root), fs.LocalFileSystem())
    monkeypatch.setattr(files, "file_system", lambda address: (remote, address.partition("://")[2]))
    return root


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("cache", [True, False])
def test_files_that_are_not_local(elsewhere, suffix, cache, tmp_path):
    write(elsewhere / "bucket" / "t" / f"0.{suffix}", x=[1, 2], y=[3, 4])
    write(elsewhere / "bucket" / "t" / f"1.{suffix}", x=[5], y=[6])
    write(elsewhere / "bucket" / "t" / "_temporary" / f"0.{suffix}", x=[9], y=[9])
    where = "away://bucket/t"
    source = open_source(where, "y", memory_limit=0, cache=cache, cache_dir=tmp_path / "cache")
    assert rows_of(source) == ([[1], [2], [5]], [[3], [4], [6]])
    write(elsewhere / "bucket" / "t" / f"1.{suffix}", x=[5, 7], y=[6, 8])
    with pytest.raises(RuntimeError, match=rf"away://bucket/t/1\.{suffix} was changed while it was in use"):
        source.check_unchanged()
    (elsewhere / "bucket" / "t" / f"1.{suffix}").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"away://bucket/t/1\.{suffix}"):
        open_source(where, "y")


@pytest.mark.needs("fsspec")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("cache", [True, False])
def test_addresses_that_fsspec_knows(tmp_path, suffix, cache):
    import fsspec

    write(tmp_path / f"0.{suffix}", x=[1, 2], y=[3, 4])
    place = f"memory://{tmp_path.name}-{cache}"
    fsspec.filesystem("memory").pipe(f"{place}/t/0.{suffix}", (tmp_path / f"0.{suffix}").read_bytes())
    for where in (f"{place}/t/0.{suffix}", f"{place}/t", f"{place}/t/*.{suffix}"):
        source = open_source(where, "y", memory_limit=0, cache=cache, cache_dir=tmp_path / "cache")
        assert rows_of(source) == ([[1], [2]], [[3], [4]])


@pytest.mark.needs("aiohttp", "fsspec")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_of_the_web(tmp_path, suffix):
    write(tmp_path / f"t.{suffix}", x=[1, 2], y=[3, 4])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert rows_of(open_source(f"{address}/t.{suffix}", "y")) == ([[1], [2]], [[3], [4]])
        with pytest.raises((FileNotFoundError, ValueError), match=rf"{address}/none\.{suffix}"):
            open_source(f"{address}/none.{suffix}", "y")
        server.shutdown()


@pytest.mark.needs("aiohttp", "fsspec")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_server_that_gives_no_parts_or_breaks_off_is_named(tmp_path, suffix):
    write(tmp_path / f"t.{suffix}", x=list(range(30_000)), y=[3, 4] * 15_000)

    class Server(http.server.SimpleHTTPRequestHandler):
        breaks_off = False

        def copyfile(self, source, outputfile):
            outputfile.write(source.read()[: 100 if self.breaks_off else None])

    handler = functools.partial(Server, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/t.{suffix}"
        for Server.breaks_off in (False, True):
            if suffix == "csv" and not Server.breaks_off:  # it is read from its beginning alone
                assert open_source(address, "y").n_rows == 30_000
                continue
            with pytest.raises(ValueError, match=rf"{address} can not be read .*download it first"):
                open_source(address, "y")
        server.shutdown()


@pytest.mark.needs("aiohttp", "fsspec")
def test_a_server_that_is_not_there_is_no_file_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/t.csv"
    with pytest.raises(ValueError, match=rf"'{address}' can not be reached: Cannot connect"):
        open_source(address, "y")


def test_without_fsspec_the_message_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"can not be reached: .*pip install fsspec"):
        open_source("https://example.org/t.csv", "y")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["007", "010"], "text"),
        (["01", "1"], "number"),
        (["2024-01-05", "2023-12-31 10%3A00%3A00"], "date"),
        (["true", "False"], "bool"),
        (["10%3A30", "11%3A45"], "number"),
        (["0x10", "0x11"], "text"),
        (["NA", "DE"], "text"),
        (["", "a"], "text"),
        (["", "7"], "number"),
    ],
)
def test_a_column_in_the_names_of_folders_is_what_it_is_inside_of_a_file(tmp_path, values, kind):
    flat = "k,b\n" + "".join(f"{unquote(value)},{at}\n" for at, value in enumerate(values))
    (tmp_path / "flat.csv").write_text(flat, encoding="utf-8")
    for at, value in enumerate(values):
        for form in ("csv", "parquet"):
            (tmp_path / form / f"{at}" / f"k={value}").mkdir(parents=True)
        write(tmp_path / "parquet" / f"{at}" / f"k={value}" / "0.parquet", b=[at])
        (tmp_path / "csv" / f"{at}" / f"k={value}" / "0.csv").write_text(f"b\n{at}\n", encoding="utf-8")
    found = []
    for name in ("flat.csv", "csv", "parquet"):
        source = open_source(tmp_path / name, "b", gaps="keep", text="code")
        found.append((source.columns[0], rows_of(source)))
    assert found[0][0].kind == kind
    assert repr(found[1]) == repr(found[2]) == repr(found[0])
