"""CSV files cut at line ends: every row once, with its own number, wherever the cuts are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.rows.files import local_file
from mlp_xp.tables.files.csv_files import CsvForm, CsvTable
from mlp_xp.tables.files.csv_parts import parts_of
from mlp_xp.tables.files.opening import open_source

pytestmark = pytest.mark.needs("pyarrow")


value = st.text("abcé0123 ", max_size=5)
line_end = st.sampled_from(["\n", "\r\n", "\n\n", "\n\r\n\n"])


@given(
    rows=st.lists(st.tuples(value, value, line_end), min_size=1, max_size=30),
    start=st.sampled_from(["", "\n\n", "\ufeff"]),
    last_end=st.booleans(),
    n_bytes=st.integers(1, 60),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=200)
def test_every_row_is_in_one_part_and_keeps_its_number(
    tmp_path_factory, rows, start, last_end, n_bytes, seed
):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    text = start + "a,b\n" + "".join(f"{a},{b}{end}" for a, b, end in rows)
    path.write_bytes((text if last_end else text.rstrip("\r\n")).encode())
    file = local_file(path)
    table, parts = CsvTable([file], CsvForm(delimiter=",")), parts_of(file, n_bytes)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == file.size
    seen = {}
    for part in np.random.default_rng(seed).permutation(len(parts)):
        for block in table.blocks(["b", "a"], [parts[part]]):
            for position, row in enumerate(zip(*block.batch.to_pydict().values(), strict=True)):
                assert block.first_row + position not in seen
                seen[block.first_row + position] = row
    assert sorted(seen) == list(range(1, len(rows) + 1))
    (whole,) = table.blocks(["b", "a"])
    assert [seen[number] for number in sorted(seen)] == list(
        zip(*whole.batch.to_pydict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", b'a,b\n"1\n2",3\n' * 9), ("t.csv.gz", b""), ("t.csv", b"a,b\r1,2\r3,4\r" * 9)],
)
def test_what_can_not_be_cut_is_one_part(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (part,) = parts_of(local_file(tmp_path / name), 8)
    assert (part.start, part.first_row) == (0, 1)


def test_a_large_file_is_cut_and_shuffled_by_parts(tmp_path):
    n_rows = 250_000
    numbers = np.arange(n_rows)
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i:012},{2 * i}\n" for i in numbers))
    source = open_source(
        *(tmp_path / "t.csv", "b"),
        columns="a",
        dtype="float64",
        kinds={"a": "number"},
        memory_limit=0,
        cache=False,
    )
    assert len(source.batches.table.parts) == 5
    x, y = np.empty((n_rows, 1)), np.empty((n_rows, 1))
    begins = []
    for epoch in range(5):
        order = source.order(n_rows, 0, epoch)
        source.in_order(order).rows(order[0:n_rows], x, y, None)
        np.testing.assert_array_equal(y, 2 * x)
        np.testing.assert_array_equal(np.sort(x[:, 0]), numbers)
        begins.append(np.median(x[: n_rows // 10]))
    assert np.ptp(begins) > n_rows / 4  # an epoch begins anywhere in the file
    source.rows(source.sequential(n_rows, 0, 0)[0:n_rows], x, y, None)
    np.testing.assert_array_equal(x[:, 0], numbers)


def test_a_gap_in_a_late_part_is_named_by_its_row(tmp_path):
    rows = [f"{i:012},{2 * i}" for i in range(120_000)]
    rows[110_000] = "7,"
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *rows]))
    source = open_source(tmp_path / "t.csv", "b", kinds={"a": "number"}, memory_limit=0, cache=False)
    x, y = np.empty((source.n_rows, 1)), np.empty((source.n_rows, 1))
    for order in (source.order, source.sequential):
        with pytest.raises(
            ValueError, match=r"t\.csv, row 110,001 \(line 110,002\), column 'b' holds nothing"
        ):
            source.rows(order(source.n_rows, 0, 0)[0 : source.n_rows], x, y, None)
