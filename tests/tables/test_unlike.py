"""Rows that are unlike those of training are counted, and refused where that is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import runner

from mlp_xp import Network, load, save
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.source import passes
from mlp_xp.saved import model_file
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Category, Constant, Date, Inputs, Number, Targets
from mlp_xp.tables.unlike import Watched, refuse_unlike

gap = np.nan


@pytest.fixture
def model():
    columns = (
        Number("n"),
        Number("with gaps", gaps=True),
        Date("day"),
        Category("kind", "text", ("a", "b")),
        Category("rare", "text", ("a",), other=True, gaps=True),
        Category("flag", "bool", ("false", "true")),
        Constant("unused", "number"),
    )
    inputs = Inputs(columns, {"n": (0.0, 10.0), "day": (19_000.0, 19_010.5)})
    network = Network((inputs.n_features, 1), seed=1)
    return TableModel(network, inputs, Targets.unscaled(["y"]))


def test_what_is_unlike_is_counted(model):
    like = [0.0, gap, 19_010.5, 1, -1, 1, gap]
    rows = [
        like,
        [10.0, 1e9, 19_000.0, 0, 0, 0, 5.0],
        [11.0, 0, 18_999.0, 2, 1, gap, 0],
        [gap, 0, gap, -1, 0, 1, 0],
    ]
    watched = Watched(ArraySource(np.array(rows), np.zeros(4), check=False), model)
    for _ in passes(watched, 3):
        pass
    assert watched.found() == {
        "n": {"missing": 1, "outside": 1},
        "day": {"missing": 1, "outside": 1},
        "kind": {"unseen": 1, "missing": 1},
        "rare": {"unseen": 1},
        "flag": {"missing": 1},
    }
    said = watched.sentences()
    assert "column 'n': 1 of 4 rows have a value outside 0 to 10, the range in training" in said
    assert any("outside 2022-01-08 00:00:00 to 2022-01-18 12:00:00, the range" in each for each in said)
    assert "column 'kind': 1 of 4 rows have a text that it does not know" in said


def test_rows_alike_are_not_refused(model):
    like = np.array([[0.0, gap, 19_010.5, 1, -1, 1, gap]])
    refuse_unlike(ArraySource(like, np.zeros(1), check=False), model)
    like[0, 0] = -1.0
    with pytest.raises(ValueError, match="column 'n': 1 of 1 rows have a value outside 0 to 10"):
        refuse_unlike(ArraySource(like, np.zeros(1), check=False), model)


def test_ranges_come_back_from_a_file(model, tmp_path):
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").inputs.ranges == model.inputs.ranges
    model.inputs = Inputs(model.inputs.columns)
    save(model, tmp_path / "old")
    assert load(tmp_path / "old").inputs.ranges == {}


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_commands_count_and_refuse(run, recipe):
    rows = [
        f"{day:02}/{month:02}/2023,{'AB'[day % 2]},{day},{day + month}"
        for month in (3, 4)
        for day in range(1, 29)
    ]
    Path("d.csv").write_text("\n".join(["when,city,n,y", *rows]))
    trained = run(
        "train", "d.csv", "--target", "y", "--epochs", "2", "--recipe", recipe, "--out", "m", "--quiet"
    )
    assert trained.status == 0
    Path("new.csv").write_text("when,city,n,y\n05/04/2023,C,400,1\n06/04/2023,A,,1\n")
    outcome = run("predict", "m", "new.csv", "--out", "p.csv", "--json")
    found = {"city": {"unseen": 1}, "n": {"missing": 1, "outside": 1}}
    assert json.loads(outcome.out)["unlike"] == found  # 05/04 is the fifth of April, as in training
    assert "column 'n': 1 of 2 rows have a value outside 1 to 28, the range in training" in outcome.err
    assert json.loads(run("evaluate", "m", "new.csv", "--json").out)["unlike"] == found
    for command in ("predict", "evaluate"):
        Path("q.csv").unlink(missing_ok=True)
        to = ("--out", "q.csv") if command == "predict" else ()
        outcome = run(command, "m", "new.csv", "--strict", *to)
        assert outcome.status == 2
        assert len(outcome.errors) == 3
        assert not Path("q.csv").exists()


@pytest.mark.needs("pyarrow")
def test_a_model_tells_where_it_comes_from(run):
    trained = ("train", "--epochs", "2", "--quiet", "--out")
    for name, options in {"m": (), "n": (), "other": ("--dataset", "wine")}.items():
        assert run(*trained, name, *options).status == 0
    assert Path("m").read_bytes() == Path("n").read_bytes()
    notes = [model_file.read(name).document["table"]["training"] for name in ("m", "other")]
    assert notes[0]["mlp_xp"] == notes[1]["mlp_xp"]
    assert notes[0]["data"] != notes[1]["data"]
    out = run("show", "m").out
    assert notes[0]["data"] in out
    assert "44 held-out rows" in out


@pytest.mark.needs("onnx")
def test_an_onnx_file_says_the_same(run):
    import onnx

    assert run("train", "--epochs", "2", "--quiet", "--out", "m").status == 0
    assert run("export", "m", "--out", "m.onnx").status == 0
    known = {each.key: each.value for each in onnx.load("m.onnx").metadata_props}
    assert json.loads(known["training"]) == load("m").training
    assert json.loads(known["ranges"])["age"] == list(load("m").inputs.ranges["age"])
