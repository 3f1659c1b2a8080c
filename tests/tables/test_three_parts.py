"""Rows to train on, held-out rows that choose the epoch, and rows that are only measured on."""

import csv

import numpy as np
import pytest

from mlp_xp import fit_table
from mlp_xp.rows.source import passes
from mlp_xp.tables.fitting import read_data
from mlp_xp.tables.options import TrainingOptions

N_ROWS = 400

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture
def path(tmp_path, rng):
    path = tmp_path / "d.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "day", "who", "kind", "y"])
        for row in range(N_ROWS):
            kind = "rare" if row % 20 == 0 else "common"
            writer.writerow([row, 1000 + row // 4, f"p{row % 40}", kind, f"{rng.normal():.6f}"])
    return path


def ids(source):
    """The numbers of a part's rows, which are their first column."""
    return {int(each) for _, x, _, _ in passes(source) for each in x[:, 0]}


def parts_of(path, target="y", **options):
    parts = read_data(TrainingOptions.of({"data": str(path), "target": target, **options})).parts
    return [ids(part) for part in (parts.raw_training, parts.raw_held_out, parts.raw_test)], parts


SOME_STREAM = {"memory_limit": "1kB", "cache": False}


@pytest.mark.parametrize("recipe", ["plain", "tables"])
@pytest.mark.parametrize(
    "more", [{}, {"group": "who"}, {"time": "day"}, SOME_STREAM], ids=["random", "group", "time", "stream"]
)
def test_every_row_is_in_one_part(path, recipe, more):
    (training, held_out, test), parts = parts_of(path, validation=0.2, test=0.1, recipe=recipe, **more)
    assert training | held_out | test == set(range(N_ROWS))
    assert len(training) + len(held_out) + len(test) == N_ROWS
    assert len(test) == pytest.approx(40, abs=20 if more is SOME_STREAM else 4)
    assert len(held_out) == pytest.approx(80, abs=30 if more is SOME_STREAM else 4)
    if "time" in more:
        assert max(training) < min(held_out)
        assert max(held_out) < min(test)
    if "group" in more:
        groups = [{row % 40 for row in part} for part in (training, held_out, test)]
        assert not groups[0] & groups[1] | groups[1] & groups[2] | groups[0] & groups[2]
    assert parts.measured == ("test", parts.raw_test)


def test_rows_to_test_on_have_each_class(path):
    (_, _, test), _ = parts_of(path, target="kind", test=0.1)
    assert sum(row % 20 == 0 for row in test) == 2


def test_rows_to_test_on_without_held_out_rows(path):
    parts = read_data(TrainingOptions.of({"data": path, "target": "y", "validation": 0, "test": 0.25})).parts
    assert parts.raw_held_out is None
    assert (parts.raw_training.n_rows, parts.raw_test.n_rows) == (300, 100)


def test_what_is_measured_on_which_rows(path):
    model = fit_table(path, "y", test=0.1, epochs=2)
    assert (model.training["metrics_on"], model.training["rows_measured"]) == ("test", 40)
    assert model.training["test_rows"] == 40
    assert model.training["held_out_metrics"].keys() == model.training["training_metrics"].keys()
    assert set(model.training["baselines"]) == {"mean", "linear"}


def test_parts_that_leave_nothing_are_refused(path):
    with pytest.raises(ValueError, match=r"validation=0\.5 and test=0\.5 leave no rows to train on"):
        fit_table(path, "y", validation=0.5, test=0.5)


@pytest.mark.parametrize("more", [{}, SOME_STREAM], ids=["memory", "stream"])
@pytest.mark.parametrize("target", ["number", "kind"])
def test_rows_without_a_target_are_left_out_where_that_is_asked_for(tmp_path, target, more):
    lines = [
        f"{row},{'' if row % 3 == 0 else row / 7},{'' if row % 3 == 0 else 'ab'[row % 2]}"
        for row in range(60)
    ]
    path = tmp_path / "d.csv"
    path.write_text("\n".join(["x,number,kind", *lines]))
    other = {"number": "kind", "kind": "number"}[target]
    options = {"data": str(path), "target": target, "exclude": other, **more}
    with pytest.raises(
        ValueError, match=r"row 1 .* holds nothing.* or all such rows with drop_missing_target"
    ):
        read_data(TrainingOptions.of(options))
    data = read_data(TrainingOptions.of({**options, "drop_missing_target": True, "validation": 0}))
    assert ids(data.parts.raw_training) == {row for row in range(60) if row % 3}
    assert "20 of 60 rows have no target, and are left out" in data.table.notes


def test_a_typed_file_has_rows_without_a_target(tmp_path):
    import pyarrow as pa
    from pyarrow import feather

    x = np.arange(60.0)
    y = np.where(x % 3 == 0, np.nan, x)
    path = str(tmp_path / "d.arrow")
    feather.write_feather(pa.table({"x": x, "y": y}), path, compression="uncompressed")
    options = {"data": path, "target": "y", "memory_limit": "1kB", "validation": 0}
    with pytest.raises(ValueError, match=r"holds nan.* or all such rows with drop_missing_target"):
        read_data(TrainingOptions.of(options))
    data = read_data(TrainingOptions.of({**options, "drop_missing_target": True}))
    assert ids(data.parts.raw_training) == {row for row in range(60) if row % 3}
