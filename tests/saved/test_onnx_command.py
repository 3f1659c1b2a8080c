"""`mlp-xp export`: from a table on disk to an ONNX file that predicts what `mlp-xp predict` does."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from command_line import environment, runner
from saved.test_onnx import run

pytestmark = pytest.mark.needs("onnx", "onnxruntime", "pyarrow")


@pytest.fixture
def mlp_xp(capsys):
    return runner(capsys)


N_ROWS = 200


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file with columns of every kind and gaps in each, and the same as an ONNX file takes it."""
    rng = np.random.default_rng(0)
    width = rng.normal(3, 1, N_ROWS).round(3)
    is_gap = rng.random((N_ROWS, 4)) < 0.1
    colour = rng.choice(["red", "grün", "blue"], N_ROWS)
    garden = rng.random(N_ROWS) < 0.5
    sold = np.datetime64("2021-03-01T00:00:00") + rng.integers(0, 10**8, N_ROWS).astype("timedelta64[s]")
    price = 10 * width + 5 * (colour == "red") + 3 * garden + rng.normal(size=N_ROWS)
    written = {
        "width": [f"{value}" for value in width],
        "colour": colour.tolist(),
        "garden": ["true" if value else "false" for value in garden],
        "sold": [str(value) for value in sold],
    }
    path = tmp_path_factory.mktemp("table") / "houses of today.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*written, "price", "dear"])
        for row in range(N_ROWS):
            cells = [texts[row] * (not is_gap[row, at]) for at, texts in enumerate(written.values())]
            writer.writerow([*cells, f"{price[row]:.6g}", "dear" if price[row] > 33 else "cheap"])
    seconds = np.where(is_gap[:, 3], -(2**63), sold.astype("datetime64[s]").astype(np.int64))
    columns = {
        "width": np.float32(np.where(is_gap[:, 0], np.nan, width)),
        "colour": np.where(is_gap[:, 1], "", colour).astype(object),
        "garden": np.float32(np.where(is_gap[:, 2], np.nan, garden)),
        "sold": seconds,
    }
    return path, {name: column[:, None] for name, column in columns.items()}


def trained(mlp_xp, path, target, folder, *further):
    model = folder / f"a model of {target}.safetensors"
    other = "dear" if target == "price" else "price"
    options = ("--hidden", "8", "--epochs", "5", "--exclude", other, "--quiet")
    assert mlp_xp("train", path, "--target", target, "--out", model, *options, *further).status == 0
    return model


def predicted(mlp_xp, model, path):
    said = mlp_xp("predict", model, path, "--quiet")
    assert said.status == 0, said.err
    return list(csv.DictReader(said.out.splitlines()))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--scaling", "robust", "--dtype", "float64"),
        ("--scaling", "none", "--loss", "huber"),
        ("--max-levels", "1", "--activation", "mish"),
    ],
    ids=str,
)
def test_numbers(mlp_xp, table, tmp_path, options):
    path, columns = table
    model = trained(mlp_xp, path, "price", tmp_path, *options)
    said = mlp_xp("export", model, "--out", tmp_path / "houses.onnx")
    assert (said.status, said.out) == (0, "")
    assert "4 inputs (width float32 [N, 1], colour str [N, 1]" in said.err
    assert said.err.endswith("to prediction\n")
    found = run((tmp_path / "houses.onnx").read_bytes(), columns)["prediction"]
    expected = [[float(row["prediction"])] for row in predicted(mlp_xp, model, path)]
    assert np.std(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes(mlp_xp, table, tmp_path):
    path, columns = table
    model = trained(mlp_xp, path, "dear", tmp_path)
    document = json.loads(mlp_xp("export", model, "--json").out)
    assert document["out"] == str(model.with_suffix(".onnx"))
    assert [(value["name"], value["shape"]) for value in document["outputs"]] == [
        ("label", ["N"]),
        ("probabilities", ["N", 2]),
    ]
    found = run(model.with_suffix(".onnx").read_bytes(), columns)
    rows = predicted(mlp_xp, model, path)
    assert found["label"].tolist() == [row["prediction"] for row in rows]
    expected = [[float(row["probability_cheap"]), float(row["probability_dear"])] for row in rows]
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5, atol=1e-5)


def test_one_matrix(mlp_xp, tmp_path):
    model = tmp_path / "diabetes.safetensors"
    assert mlp_xp("train", "--epochs", "3", "--quiet", "--out", model).status == 0
    said = mlp_xp("export", model, "--matrix-input", "--json")
    assert said.status == 0, said.err
    assert json.loads(said.out)["inputs"] == [{"name": "X", "dtype": "float32", "shape": ["N", 10]}]


def test_a_model_goes_to_standard_output(mlp_xp, tmp_path):
    model = tmp_path / "diabetes.safetensors"
    assert mlp_xp("train", "--epochs", "2", "--quiet", "--out", model).status == 0
    assert mlp_xp("export", model, "--quiet", "--out", tmp_path / "model.onnx").status == 0
    command = [sys.executable, "-m", "mlp_xp", "export", model, "--out", "-"]
    written = subprocess.run(command, env=environment(), capture_output=True, timeout=120, check=True)
    assert written.stdout == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model.safetensors",), "there is no model file model.safetensors"),
        (("{model}", "--out", "{model}"), "is a file that is read: name another"),
        (("{model}", "--out", "nowhere/model.onnx"), "there is no folder nowhere"),
        (("net.onnx",), "net.onnx is what its ONNX file would be called: give another, --out"),
        (("{model}", "--out", "-", "--json"), "both write to standard output"),
        (
            ("{model}", "--matrix-input", "--out", "m.onnx"),
            "--matrix-input: one matrix of numbers cannot hold 'colour' (text), 'sold' (date)",
        ),
    ],
)
def test_refusals(mlp_xp, table, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    model = trained(mlp_xp, table[0], "price", tmp_path)
    said = mlp_xp("export", *(str(argument).replace("{model}", str(model)) for argument in arguments))
    assert said.status == 2
    assert message in said.err
    assert not list(tmp_path.glob("*.onnx"))
