"""`mlp-xp predict`, `evaluate` and `show`: from a model file and a table to numbers that people read."""

import csv
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, runner

from mlp_xp import Network, load, save
from mlp_xp.cli.predict import Predictions
from mlp_xp.losses import BinaryCrossEntropy, Pinball, SoftmaxLink, SortedLink
from mlp_xp.tables import evaluation
from mlp_xp.tables.datasets import load_dataset
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Inputs, Number, Targets

run = pytest.fixture(runner)

FILES = ROOT / "tests" / "saved" / "model_files"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder):
    """A model of two columns, a and b, with known predictions: 10 (a − 1) + b + 100."""
    network = Network((2, 1), bias=False, dtype="float64")
    network.parameters.weights[0][...] = [[10.0], [4.0]]
    inputs = Inputs((Number("a", 1.0, 1.0), Number("b", 0.0, 4.0)))
    table = TableModel(network, inputs, Targets(("t",), (100.0,), (1.0,)))
    save(table, "m.safetensors")
    return table


def table_of(text):
    header, *rows = csv.reader(text.splitlines())
    return header, rows


def numbers(text):
    header, rows = table_of(text)
    return header, np.array(rows, dtype=float)


def good(outcome):
    assert (outcome.status, outcome.errors) == (0, [])
    return outcome.out


# Predictions


@pytest.mark.needs("pyarrow")
def test_columns_in_any_order_and_further_ones_ignored(run, model):
    Path("d.csv").write_text("note,b,t,a\nx,5,0,1\n,6,?,2\n")
    assert good(run("predict", "m.safetensors", "d.csv")) == "prediction\n105\n116\n"


@pytest.mark.needs("pyarrow")
def test_a_missing_column_is_an_error(run, model):
    Path("d.csv").write_text("A,b\n1,5\n")
    outcome = run("predict", "m.safetensors", "d.csv", "--out", "p.csv")
    assert outcome.status == 2
    assert "d.csv has no column 'a'" in outcome.errors[0]
    assert not Path("p.csv").exists()


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "＝1", "-2+3+cmd|' /C calc'!A0"]
HARMLESS = ["-5", "+1.5e-3", "-1.234,5", "+49 30 1", "-", "a=1", "'=1", "1-1", ""]


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("safe", [True, False])
def test_texts_that_a_spreadsheet_would_compute(run, model, safe):
    texts = [*FORMULAS, *HARMLESS]
    with Path("d.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["a", "b", "=n"], *([0, 0, text] for text in texts)])
    predict = ("predict", "m.safetensors", "d.csv", "--keep", "=n", "--out", "p.csv")
    outcome = run(*predict, *["--safe-csv"] * safe)
    good(outcome)
    with Path("p.csv").open(newline="", encoding="utf-8") as file:
        (first, _), *rows = csv.reader(file)
    mark = "'" * safe
    assert [first, *(text for text, _ in rows)] == [
        f"{mark}=n",
        *(mark + text.replace("\t=", f"\t{mark}=") for text in FORMULAS),
        *HARMLESS,
    ]
    assert ("8 texts would be computed by a spreadsheet" in outcome.err) is not safe


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a;=1+1", "a;'=1+1"),
        ("a\t@SUM(A1)", "a\t'@SUM(A1)"),
        ("=1;-2+3", "'=1;'-2+3"),
        ("-1;2", "'-1;2"),
        ("a;b|c", "a;b|c"),
    ],
)
def test_texts_that_a_spreadsheet_cuts_elsewhere_than_at_commas(text, safe):
    written = Predictions(None, None, safe=True)
    assert written._text(text) == safe
    assert written.n_formulas == (safe != text)


def test_array_files_by_position(run, model):
    x = np.array([[1.0, 5.0], [2.0, 6.0]])
    np.save("x.npy", x)
    np.savez("d.npz", x=x, y=np.zeros(2))
    for data in ("x.npy", "d.npz"):
        assert good(run("predict", "m.safetensors", data)) == "prediction\n105\n116\n"


def test_a_shipped_data_set(run):
    path = FILES / "format_1_table.safetensors"
    header, found = numbers(good(run("predict", path, "--dataset", "diabetes")))
    assert header == ["prediction"]
    expected = load(path).predict(load_dataset("diabetes").x)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_a_file_is_written_whole(run, model):
    np.save("x.npy", np.array([[1.0, 5.0]]))
    outcome = run("predict", "m.safetensors", "x.npy", "--out", "p.csv")
    assert (good(outcome), outcome.err) == ("", "p.csv: 1 prediction\n")
    assert Path("p.csv").read_bytes() == b"prediction\n105\n"
    assert run("predict", "m.safetensors", "x.npy", "--out", "p.csv", "--quiet").err == ""
    assert {path.name for path in Path().iterdir()} == {"x.npy", "m.safetensors", "p.csv"}


@pytest.mark.needs("sklearn")
def test_classes_have_probabilities_and_then_a_name(run):
    path = FILES / "format_1_classes.safetensors"
    header, rows = table_of(good(run("predict", path, "--dataset", "iris")))
    assert header == [
        "probability_setosa",
        "probability_versicolor",
        "probability_virginica",
        "prediction",
    ]
    x = load_dataset("iris").x
    found = np.array([row[:3] for row in rows], dtype=float)
    np.testing.assert_allclose(found, load(path).predict_raw(x), rtol=1e-6)
    assert [row[3] for row in rows] == load(path).predict(x).tolist()


NAMES = {
    "several targets": (("s", "t, u"), None, "squared_error", ["prediction_s", "prediction_t, u"]),
    "quantiles": (("t",), None, Pinball((0.1, 0.5)), ["prediction_0.1", "prediction_0.5"]),
    "one quantile": (("t",), None, Pinball((0.1,)), ["prediction"]),
    "quantiles of targets": (
        ("s", "t"),
        None,
        Pinball((0.1, 0.9)),
        ["prediction_s_0.1", "prediction_s_0.9", "prediction_t_0.1", "prediction_t_0.9"],
    ),
    "two classes": (
        ("t",),
        ("no", 'y"es'),
        BinaryCrossEntropy(),
        ["probability_no", 'probability_y"es', "prediction"],
    ),
    "labels": (("s", "t"), None, BinaryCrossEntropy(), ["prediction_s", "prediction_t"]),
}


@pytest.mark.parametrize(("targets", "levels", "loss", "expected"), NAMES.values(), ids=NAMES)
def test_names_of_columns(run, folder, targets, levels, loss, expected):
    n_each = len(loss.quantiles) if isinstance(loss, Pinball) else 1
    network = Network((1, n_each * len(targets)))
    network.output = getattr(loss, "link", network.output)
    save(TableModel(network, Inputs.plain(["a"]), Targets.unscaled(targets), levels, loss=loss), "m")
    np.save("x.npy", np.zeros((2, 1)))
    header, rows = table_of(good(run("predict", "m", "x.npy")))
    assert header == expected
    assert [len(row) for row in rows] == [len(expected)] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_digit_is_lost(run, folder, rng, dtype):
    network = Network((3, 8, 2), activation="tanh", dtype=dtype, seed=1)
    save(network, "n")
    x = rng.normal(size=(50, 3))
    np.save("x.npy", x)
    header, found = numbers(good(run("predict", "n", "x.npy")))
    assert header == ["prediction_y0", "prediction_y1"]
    np.testing.assert_array_equal(found.astype(dtype), network.predict(x))


@pytest.mark.parametrize(
    ("n_outputs", "link", "expected"),
    [
        (1, None, ["prediction"]),
        (3, SoftmaxLink(), ["probability_0", "probability_1", "probability_2", "prediction"]),
        (1, BinaryCrossEntropy().link, ["probability_0", "probability_1", "prediction"]),
        (2, SortedLink(2), ["prediction_0", "prediction_1"]),
    ],
)
@pytest.mark.needs("pyarrow")
def test_a_network_alone(run, folder, n_outputs, link, expected):
    network = Network((2, n_outputs), seed=1)
    network.output = link or network.output
    save(network, "n")
    Path("d.csv").write_text("a,b,t\n1,5,0\n2,6,1\n")
    header, rows = table_of(good(run("predict", "n", "d.csv", "--exclude", "t")))
    assert header == expected
    predicted = network.predict(np.array([[1.0, 5.0], [2.0, 6.0]]))
    last = -2 if header[0].startswith("probability") else -1  # before the name of a class
    written = [float(row[last]) for row in rows]
    np.testing.assert_allclose(written, predicted[:, -1], rtol=1e-6)


def peak(run, *arguments):
    tracemalloc.start()
    try:
        good(run(*arguments))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(run, model, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_NUMBERS", 20_000)
    monkeypatch.setattr(evaluation, "RESAMPLES", 2)
    peaks = []
    for n_rows in (60_000, 180_000):  # of both more than may be read ahead, however threads take turns
        np.save("x.npy", np.zeros((n_rows, 2)))
        np.save("y.npy", np.arange(n_rows, dtype=float))
        predict = peak(run, "predict", "m.safetensors", "x.npy", "--out", "p.csv")
        evaluate = peak(run, "evaluate", "m.safetensors", "x.npy", "--target", "y.npy")
        peaks.append((predict, evaluate))
        assert Path("p.csv").read_bytes().count(b"\n") == n_rows + 1
    few, many = np.array(peaks)
    assert (many < few + 900_000).all()  # 120,000 rows of float64 are 960,000 bytes a column


# Evaluation


def test_metrics_as_text_and_json(run, model):
    np.savez("d.npz", x=np.array([[1.0, 5.0], [2.0, 6.0], [1.0, 1.0]]), y=[105.0, 117.0, 100.0])
    out = good(run("evaluate", "m.safetensors", "d.npz"))
    assert [line.split()[0] for line in out.splitlines()] == ["3", "r2", "rmse", "mae", "median_error"]
    found = json.loads(good(run("evaluate", "m.safetensors", "d.npz", "--json")))
    assert found["rows_measured"] == 3
    assert found["metrics"]["mae"] == pytest.approx(2 / 3)
    assert found["metrics"]["rmse"] == pytest.approx((2 / 3) ** 0.5)


def test_the_metrics_of_the_training_come_back(run, folder):
    trained = json.loads(good(run("train", "--validation", "0", "--epochs", "5", "--json", "--out", "m")))
    found = json.loads(good(run("evaluate", "m", "--dataset", "diabetes", "--json")))
    assert found["metrics"] == pytest.approx(trained["metrics"], rel=1e-12)


@pytest.mark.needs("sklearn", "pyarrow")
def test_classes_are_found_by_name_in_another_table(run, folder):
    iris = load_dataset("iris")
    path = FILES / "format_1_classes.safetensors"
    shipped = json.loads(good(run("evaluate", path, "--dataset", "iris", "--json")))
    names = [",".join([*(f'"{name}"' for name in iris.feature_names), "class"])]
    lines = [
        ",".join([*map(str, row), iris.levels[label]])
        for row, label in zip(iris.x, iris.y[:, 0], strict=True)
    ]
    # Backwards, so that classes are met in another order; and without the last class.
    Path("all.csv").write_text("\n".join(names + lines[::-1]))
    Path("two.csv").write_text("\n".join(names + lines[50:150]))
    own = json.loads(good(run("evaluate", path, "all.csv", "--json")))
    assert own["metrics"] == pytest.approx(shipped["metrics"], rel=1e-9)
    two = json.loads(good(run("evaluate", path, "two.csv", "--json")))
    expected = (load(path).predict(iris.x[50:]) == np.array(iris.levels)[iris.y[50:, 0]]).mean()
    assert two["metrics"]["accuracy"] == pytest.approx(expected)
    Path("other.csv").write_text("\n".join([*names, *lines, lines[0].replace("setosa", "setosum")]))
    outcome = run("evaluate", path, "other.csv")
    assert outcome.status == 2
    assert "classes that the model does not know: setosum" in outcome.errors[0]
    assert "did you mean 'setosa'" in outcome.errors[0]


@pytest.mark.needs("pyarrow")
def test_weights_and_another_target(run, model):
    Path("d.csv").write_text("a,b,t,u,w\n1,5,105,106,1\n2,6,116,118,3\n")
    found = json.loads(good(run("evaluate", "m.safetensors", "d.csv", "--json")))
    assert found["metrics"]["mae"] == 0.0
    arguments = ["--target", "u", "--weight-column", "w", "--json"]
    found = json.loads(good(run("evaluate", "m.safetensors", "d.csv", *arguments)))
    assert found["metrics"]["mae"] == pytest.approx((1 * 1 + 3 * 2) / 4)


def test_a_network_alone_is_evaluated(run, folder):
    network = Network((2, 3), seed=1)
    network.output = SoftmaxLink()
    save(network, "n")
    x = np.array([[1.0, 5.0], [2.0, -6.0], [0.0, 0.0]])
    labels = network.predict(x).argmax(axis=1)
    np.savez("d.npz", x=x, y=labels)
    found = json.loads(good(run("evaluate", "n", "d.npz", "--json")))
    assert found["metrics"]["accuracy"] == 1.0
    np.savez("d.npz", x=x, y=labels + 0.5)
    outcome = run("evaluate", "n", "d.npz")
    assert outcome.status == 2
    assert "which is none of the classes: 0, 1, 2" in outcome.errors[0]


def test_quantiles_of_a_network_alone_are_refused(run, folder):
    network = Network((1, 2))
    network.output = SortedLink(2)
    save(network, "n")
    np.savez("d.npz", x=np.zeros((3, 1)), y=np.zeros(3))
    outcome = run("evaluate", "n", "d.npz")
    assert outcome.status == 2
    assert "does not say which quantiles" in outcome.errors[0]


# Estimators


@pytest.fixture
def estimators(folder, need):
    need("pandas")
    need("sklearn")
    import pandas as pd

    from mlp_xp import MLPClassifier, MLPRegressor

    x = np.arange(40.0).reshape(20, 2) / 40
    named = pd.DataFrame(x, columns=["a", "b"])
    kinds = np.array(["no", "yes"])[np.arange(20) % 2]
    options = {
        "hidden_layer_sizes": (3,),
        "max_iter": 5,
        "tol": 1e9,
        "n_iter_no_change": 2,
        "random_state": 0,
    }
    models = {
        "r": MLPRegressor(**options).fit(named, x[:, 0]),
        "c": MLPClassifier(**options).fit(named, kinds),
        "n": MLPClassifier(**options).fit(x, np.arange(20) % 3),
        "l": MLPClassifier(**options).fit(x, (x > 0.5).astype(int)),
    }
    for name, model in models.items():
        save(model, name)
    named[["b", "a"]].assign(t=x[:, 0], kind=kinds, further="x").to_csv("d.csv", index=False)
    np.savez("d.npz", x=x, y=np.arange(20) % 3)
    np.savez("labels.npz", x=x, y=(x > 0.5).astype(int))
    return models, x, named, kinds


@pytest.mark.needs("sklearn", "pandas", "pyarrow")
def test_estimators_predict(run, estimators):
    models, x, named, _ = estimators
    _, found = numbers(good(run("predict", "r", "d.csv")))
    np.testing.assert_allclose(found[:, 0], models["r"].predict(named), rtol=1e-7)
    header, rows = table_of(good(run("predict", "c", "d.csv")))
    assert header == ["probability_no", "probability_yes", "prediction"]
    assert [row[2] for row in rows] == models["c"].predict(named).tolist()
    probabilities = np.array([row[:2] for row in rows], dtype=float)
    np.testing.assert_allclose(probabilities, models["c"].predict_proba(named), rtol=1e-5)
    header, rows = table_of(good(run("predict", "n", "d.npz")))
    assert [int(row[3]) for row in rows] == models["n"].predict(x).tolist()
    header, found = numbers(good(run("predict", "l", "labels.npz")))
    assert header == ["prediction_y0", "prediction_y1"]
    np.testing.assert_allclose(found, models["l"].predict_proba(x), rtol=1e-5)


@pytest.mark.needs("sklearn", "pandas", "pyarrow")
def test_estimators_are_evaluated(run, estimators):
    models, x, named, kinds = estimators
    found = json.loads(good(run("evaluate", "r", "d.csv", "--target", "t", "--json")))["metrics"]
    assert found["r2"] == pytest.approx(models["r"].score(named, x[:, 0]), rel=1e-5)
    found = json.loads(good(run("evaluate", "c", "d.csv", "--target", "kind", "--json")))["metrics"]
    assert found["accuracy"] == pytest.approx(models["c"].score(named, kinds))
    found = json.loads(good(run("evaluate", "n", "d.npz", "--json")))["metrics"]
    assert found["accuracy"] == pytest.approx(models["n"].score(x, np.arange(20) % 3))
    found = json.loads(good(run("evaluate", "l", "labels.npz", "--json")))["metrics"]
    expected = (models["l"].predict(x) == (x > 0.5)).mean()
    assert found["accuracy"] == pytest.approx(expected)


@pytest.mark.needs("sklearn", "pandas", "pyarrow")
def test_estimators_are_shown(run, estimators):
    out = good(run("show", "c"))
    assert "estimator: MLPClassifier\n" in out
    assert re.search(r"\n  hidden_layer_sizes +\(3,\)\n", out)
    assert re.search(r"\n  classes +no, yes\n", out)


# What a file holds


def test_show_a_table_model(run):
    out = good(run("show", FILES / "format_1_table.safetensors"))
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("network: 49 parameters, with biases, float32, output identity\n")
    for expected in (
        ["10", "->", "4", "relu"],
        ["epochs", "3"],
        ["loss", "squared_error"],
        ["optimizer", "adam"],
        ["inputs:", "10", "columns"],
    ):
        assert expected in lines
    assert "  age  (value - 48." in out
    assert "  progression  (value - 15" in out


def test_show_classes(run):
    out = good(run("show", FILES / "format_1_classes.safetensors"))
    assert "  class  one of 3 classes: setosa, versicolor, virginica\n" in out


def test_show_a_network(run):
    out = good(run("show", FILES / "format_1_network.safetensors"))
    assert out.splitlines() == [
        "network: 21 parameters, with biases, float32, output softmax",
        "  2 -> 3  leaky_relu",
        "  3 -> 3  identity",
    ]


def test_show_needs_no_functions_of_the_users(run):
    out = good(run("show", FILES / "format_1_own_activation.safetensors"))
    assert "  2 -> 3  square\n" in out


def test_show_as_json(run):
    found = json.loads(good(run("show", FILES / "format_1_classes.safetensors", "--json")))
    assert found["format"] == 1
    assert found["table"]["levels"] == ["setosa", "versicolor", "virginica"]


def test_show_many_columns_and_names_that_steer_terminals(run, folder):
    names = [f"column {i}" for i in range(29)] + ["\x1b[2J"]
    inputs = Inputs.plain(names[::-1])
    save(
        TableModel(Network((30, 1)), inputs, Targets.unscaled(["t\n"]), training={"\x1b": "\x07" * 200}), "m"
    )
    out = good(run("show", "m"))
    assert "\x1b" not in out
    assert "\x07" not in out
    assert re.search(r"\n  \\x1b\[2J +as it is\n", out)
    assert out.endswith("  ... and 10 more\n")
    assert max(map(len, out.splitlines())) < 400
