"""Tables with many columns: what is done for each, and that columns read together are as if read alone."""

import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest

from mlp_xp.rows.files import local_file
from mlp_xp.settings.checks import did_you_mean
from mlp_xp.tables.encoding import quantiles
from mlp_xp.tables.files import columns, csv_files, records
from mlp_xp.tables.files.arrow_files import block_rows
from mlp_xp.tables.files.columns import meant, select
from mlp_xp.tables.files.csv_files import CsvForm, CsvTable
from mlp_xp.tables.files.opening import open_source
from mlp_xp.tables.preparation import Inputs
from mlp_xp.tables.statistics import measure

pytestmark = pytest.mark.needs("pyarrow", "pandas")


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


def n_calls(function, *arguments, **named):
    """Calls of Python and C functions in a call."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function(*arguments, **named)
    finally:
        sys.setprofile(None)
    return count


def wide(n_columns, n_rows=30):
    columns = {f"c{i}": np.sin(np.arange(n_rows) + i).round(6) for i in range(n_columns)}
    return pd.DataFrame(columns | {"y": np.arange(n_rows) * 0.5})


def describe_and_read_back(path):
    source = open_source(path, "y", dtype="float64", gaps="keep")
    inputs, _ = measure(source, source.columns, ["y"], scaling="encoded")
    Inputs.of(inputs.description())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_work_for_a_column_does_not_grow_with_the_columns(tmp_path, form):
    calls = {}
    for n_columns in (20, 200, 400):
        path = tmp_path / f"t{n_columns}.{form}"
        table = wide(n_columns)
        table.to_csv(path, index=False) if form == "csv" else table.to_parquet(path)
        calls[n_columns] = n_calls(describe_and_read_back, path)
    assert calls[400] < 2.2 * calls[200]


def test_names_are_looked_up_and_not_searched():
    n = 2000
    known = [Counted(f"column {i}") for i in range(n)]
    Counted.compared = 0
    select(known, "t.csv", target=[Counted("column 7")], exclude=[Counted(f"column {i}") for i in range(500)])
    select(known, "t.csv", columns=[Counted(f"column {i} ") for i in range(1, n)], target=Counted("column 0"))
    assert Counted.compared < 40 * n


@pytest.mark.parametrize("name", ["colum 17", "nothing like it"])
def test_of_many_names_the_nearest_are_said_and_how_many_there_are(name):
    known = [f"column {i}" for i in range(20_000)]
    sentence = did_you_mean(name, known)
    assert len(sentence) < 400
    assert "20,000" in sentence
    assert ("'column 17'" in sentence) == (name == "colum 17")


def test_many_wrong_names_are_not_all_listed():
    with pytest.raises(ValueError, match=r"\(5,000 in all\)") as refused:
        select(["a", "b"], "t.csv", columns=[f"x{i}" for i in range(5000)])
    assert len(str(refused.value).splitlines()) < 30


def test_a_name_with_blanks_around_it_is_meant_where_there_is_one():
    assert meant([" a", "b", "c"], ["a", " b", "b ", "c"]) == {" a": "a", "b": "b", "c": "c"}


MIXED = """a,b,c,d,e,f,g,y
1,2.5, 3 ,2020-01-05,x,true,10:30,1
2,,4,2020/1/6,y,False,11:30:15.5,2
NA,-1e3,5,,z,,9:05,3
4,0.25,+6,2020-01-07 10:30,x,true,,4
"""


@pytest.mark.parametrize("gaps", ["keep", "refuse"])
@pytest.mark.parametrize("replaced", [("z", "y"), ("-1e3", "inf"), ("+6", "99999999999999999")])
def test_columns_that_are_converted_together_are_as_if_converted_alone(tmp_path, monkeypatch, gaps, replaced):
    (tmp_path / "t.csv").write_text(MIXED.replace(*replaced))

    def read():
        source = open_source(tmp_path / "t.csv", "y", text="code", gaps=gaps, dtype="float64")
        return source.records.tobytes(), source.columns

    def result():
        try:
            return read()
        except ValueError as error:
            return str(error)

    together = result()
    monkeypatch.setattr(records, "_TOGETHER", 1)
    assert result() == together


class OneByOne:
    """A batch of Arrow's of which nobody asks for all columns, as it makes them anew each time."""

    def __init__(self, batch):
        self._batch = batch

    def __getattr__(self, name):
        assert name != "columns"
        return getattr(self._batch, name)


def test_no_group_of_columns_costs_a_look_at_all(tmp_path, monkeypatch):
    """Else the time grows with the square of the columns."""
    convert = records.Converter.records

    def watched(self, block):
        return convert(self, dataclasses.replace(block, batch=OneByOne(block.batch)))

    monkeypatch.setattr(records.Converter, "records", watched)
    (tmp_path / "t.csv").write_text("a,b,c,y\n" + "1,2,3,4\n" * 9)
    assert open_source(tmp_path / "t.csv", "y").n_rows == 9


def test_blocks_of_wide_tables_have_fewer_rows():
    assert block_rows(3) == 65_536
    assert block_rows(100_000) * 100_000 * 8 <= 64 << 20


def test_quantiles_are_those_of_numpy(rng):
    for n in (1, 2, 3, 50, 999):
        for values in (rng.normal(size=n) * 1e6, rng.integers(0, 5, n).astype(float)):
            ordered, parts = np.sort(values), (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
            assert quantiles(ordered, parts) == np.quantile(ordered, parts).tolist()


def test_rows_of_a_stream_are_shuffled_within_a_buffer_of_bytes(tmp_path):
    for n_columns, n_rows in ((3, 65_536), (3000, (64 << 20) // (3001 * 4))):
        wide(n_columns).to_csv(tmp_path / "t.csv", index=False)
        source = open_source(tmp_path / "t.csv", "y", cache=False, memory_limit=0)
        assert source.buffer_rows == n_rows
        assert f"within {n_rows:,};" in "".join(source.notes)


def test_many_columns_have_the_gaps_and_names_of_few(tmp_path, monkeypatch):
    """pyarrow is spared the names and the words for a gap, which take memory for each column."""
    path = tmp_path / "t.csv"
    path.write_text('"a b",b,"c\nc",y\n1,NA,x,0\n\n,2,NA,1\n"",3,"",2\n-9,?,nan,3\n', encoding="utf-8-sig")
    form = CsvForm(null=("-9",))

    def read_all():
        table = CsvTable([local_file(path)], form)
        return [table.names, [block.batch.to_pylist() for block in table.blocks(table.names)]]

    few = read_all()
    assert few[0] == ["a b", "b", "c\nc", "y"]
    monkeypatch.setattr(csv_files, "_MANY_CHARACTERS", 2)
    monkeypatch.setattr(csv_files, "_LONG_NAMES", 1)
    assert read_all() == few


@pytest.mark.parametrize("null", [["x" * 400_000], [f"w{n:09}" for n in range(50_000)]], ids=["long", "many"])
def test_what_stands_for_a_gap_may_be_long_or_many(tmp_path, null):
    """pyarrow's reader would end the process."""
    path = tmp_path / "t.csv"
    path.write_text(f"a,b,y\n1,,2\n{null[-1]},3,4\n5,6,7\n", encoding="utf-8")
    source = open_source(path, "y", gaps="keep", csv=CsvForm(null=tuple(null)))
    x = np.empty((3, 2))
    source.rows(np.arange(3), x, None, None)
    np.testing.assert_array_equal(x, [[1, np.nan], [np.nan, 3], [5, 6]])


def test_columns_for_which_there_is_no_memory_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,2\n3,4\n", encoding="utf-8")
    monkeypatch.setattr(csv_files, "_COLUMN_BYTES", 1 << 60)
    with pytest.raises(MemoryError, match="reading 2 columns of a CSV file takes"):
        open_source(path, "y")


def test_of_very_many_columns_that_there_are_not_few_are_looked_for(monkeypatch):
    """Only those that an error shows: what is written nearly as a name takes long to find."""
    asked = []
    monkeypatch.setattr(columns, "nearest", lambda name, known: asked.append(name))
    with pytest.raises(ValueError, match=r"no columns 'c0', .* \(20,000 in all\); known: a, y"):
        select(["a", "y"], "t", columns=[f"c{n}" for n in range(20_000)])
    assert len(asked) <= 100
