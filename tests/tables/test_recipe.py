"""What a training on a table does where no option says otherwise, and that nothing makes it collapse."""

import json
import math

import numpy as np
import pytest
from command_line import runner

from mlp_xp import load
from mlp_xp.losses import SoftmaxCrossEntropy, SquaredError
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.array_api import to_host
from mlp_xp.tables import recipe
from mlp_xp.tables.calibration import temperature
from mlp_xp.tables.fitting import read_data
from mlp_xp.tables.holding_out import stratified
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.recipe import PLAIN, TABLES, settled
from mlp_xp.tables.watched import Bounded, Calibrated


def settle(n_rows=1000, has_classes=False, **named):
    return settled(TrainingOptions.of(named), n_rows=n_rows, has_classes=has_classes)


# What is settled


def test_plain_is_what_it_was():
    found = settle(recipe="plain")
    assert {name: getattr(found, name) for name in PLAIN} == PLAIN
    determining = found.determining(ahead=True)
    assert "recipe" not in determining
    assert not set(recipe.NEW_IN_RECIPES) & determining.keys()


def test_every_setting_can_be_read():
    for name in recipe.RECIPES:
        assert not settle(recipe=name).problems()


@pytest.mark.parametrize(
    ("n_rows", "batch", "epochs"),
    [(30, 32, 256), (500, 32, 54), (2000, 128, 54), (20_000, 128, 40), (10**5, 256, 30), (2 * 10**6, 256, 7)],
)
def test_batch_and_epochs_follow_from_the_rows(n_rows, batch, epochs):
    found = settle(n_rows)
    assert found.read("batch_size") == batch
    assert found.read("epochs") == epochs
    assert settle(n_rows, has_classes=True).read("epochs") <= epochs


@pytest.mark.parametrize(("n_rows", "part"), [(30, 0.2), (400, 0.125), (10**6, 0.1)])
def test_fifty_rows_are_held_out_where_there_are_enough(n_rows, part):
    assert settle(n_rows).validation == part


@pytest.mark.parametrize("name", sorted(PLAIN.keys() - {"optimizer", "hidden"}))
def test_an_option_overrides_its_part_and_no_other(name):
    given = settle(**{name: PLAIN[name]})
    left = settle()
    for other in PLAIN.keys() - {name, "epochs", "batch_size"}:
        assert getattr(given, other) == getattr(left, other)
    assert getattr(given, name) == PLAIN[name]


def test_another_rule_comes_with_the_steps_of_the_plain_recipe():
    found = settle(optimizer="lbfgs")
    assert (found.dropout, found.average, found.rate_factors) == ("0", 0.0, "none")
    assert (found.scaling, found.hidden) == (TABLES["scaling"], TABLES["hidden"])
    assert settle(learning_rate=1e-3).optimizer == TABLES["optimizer"]
    assert settle(hidden="").dropout == "0"


def test_classes_have_a_rate_of_their_own():
    assert (settle().learning_rate, settle(has_classes=True).learning_rate) == (0.035, 0.02)


@pytest.mark.parametrize(
    ("n_rare", "options", "smoothing"),
    [
        (150, {}, 0.1),
        (3, {}, 0.001),
        (3, {"class_weight": "balanced"}, 0.001),
        (3, {"class_weight": "balanced", "bias": False}, 0.1),
        (3, {"weight_column": "w"}, (3 / 50) ** 2 * 10),
        (3, {"loss": "softmax_cross_entropy"}, 0.0),
        (3, {"recipe": "plain"}, 0.0),
    ],
)
def test_labels_are_hardly_smoothed_where_most_rows_are_of_one_class(tmp_path, n_rare, options, smoothing):
    rows = [f"{at % 7},{10 if at < 3 else 470 / 297},{'no' if at < n_rare else 'yes'}" for at in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["x,w,y", *rows]))
    given = {"data": str(tmp_path / "t.csv"), "target": "y", "validation": 0.0, "columns": "x", **options}
    loss = read_data(TrainingOptions.of(given)).loss
    assert loss.label_smoothing == pytest.approx(smoothing)


# Parts


def test_each_class_has_its_share_of_the_held_out_rows(rng):
    labels = np.repeat([0.0, 1, 2, 3], [900, 80, 19, 1])
    rng.shuffle(labels)
    training, held_out = stratified(labels, 0.1, seed=3)
    assert np.array_equal(np.sort(np.r_[training, held_out]), np.arange(1000))
    found = [np.count_nonzero(labels[held_out] == one) for one in range(4)]
    assert found[:2] == [90, 8]
    assert found[2] in (1, 2)
    assert found[3] == 0
    again = stratified(labels, 0.1, seed=3)
    np.testing.assert_array_equal(again[1], held_out)
    assert len(stratified(labels, 0.0, seed=3)[1]) == 0


def test_a_bounded_loss_does_not_count_how_far_out_a_prediction_is():
    backend = find_backend("cpu", "float64")
    z, y = np.array([[0.5, 99.0], [-99.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])
    found = Bounded(SquaredError(), (-1.0, -2.0), (1.0, 2.0))(backend, z.copy(), y, None)
    assert float(found) == pytest.approx(0.25 + 1.0)


def test_a_temperature_mends_probabilities_that_are_too_sure(rng):
    z = rng.normal(size=(3000, 3))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = (rng.random((3000, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    ones = np.ones(3000)
    assert temperature(4 * z, labels, ones) == pytest.approx(4.0, rel=0.1)
    assert temperature(z / 3, labels, ones) == pytest.approx(1 / 3, rel=0.1)
    assert temperature(np.zeros((1, 3)), labels[:1], ones[:1]) == pytest.approx(1.0)
    assert temperature(np.zeros((1, 3)), labels[:1], ones[:1], 0.1) == pytest.approx(np.exp(-0.2))
    assert temperature(np.empty((0, 3)), labels[:0], ones[:0], 0.1) == pytest.approx(np.exp(-0.2))
    of_one, is_one = temperature(4 * z, labels, 1.0 * (labels == 1)), labels == 1
    assert of_one == temperature(4 * z[is_one], labels[is_one], ones[is_one])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_calibrated_loss_is_that_at_the_temperature_of_the_rows(backend, given, rng, weighted):
    known = rng.normal(size=(300, 3))
    labels = (known + rng.normal(size=(300, 3))).argmax(axis=1)
    z = np.stack([scale * (known + 0.2 * rng.normal(size=(300, 3))) for scale in (0.3, 1.0, 4.0)])
    s = rng.uniform(0, 2, size=300) if weighted else np.ones(300)
    wanted = []
    for of_member in z:
        scaled = of_member / temperature(of_member, labels, s, 0.05)
        p = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
        wanted.append(-s @ np.log(p[np.arange(300), labels]))
    watched = Calibrated(SoftmaxCrossEntropy(), 0.05)

    def sums(z, rows):
        y, weight = given(labels[rows, None].astype(np.int32), "int32"), given(s[rows, None])
        return to_host(watched(backend, given(z[..., rows, :]), y, weight if weighted else None))

    parts = slice(0, 100), slice(100, 300)
    for of_rows in (sums(z, slice(None)), sum(sums(z, part) for part in parts)):  # rows add up
        found = [s.sum() * watched.mean_of(own, s.sum()) for own in of_rows.tolist()]
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
    of_one = s.sum() * watched.mean_of(sums(z[2], slice(None)).tolist(), s.sum())
    assert of_one == pytest.approx(wanted[2], rel=1e-3)


# Whole trainings


@pytest.fixture
def mlp_xp(capsys):
    run = runner(capsys)

    def go(*arguments):
        outcome = run(*arguments)
        assert outcome.status == 0, outcome.err
        return outcome

    return go


def write(path, columns):
    names = list(columns)
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(seed, n_rows=400):
    """Two numbers and a text that say the target, with some noise."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n_rows))
    kind = rng.choice(["red", "green", "blue"], n_rows)
    y = 3 * np.sin(a) + b + (kind == "red") + rng.normal(scale=0.3, size=n_rows)
    return {"a": a, "b": b, "kind": kind, "y": y}


def heavy(columns, rng, n):
    return columns | {"a": np.sinh(4 * columns["a"]), "b": np.sinh(4 * columns["b"])}


def wrong_number(columns, rng, n):
    for name in "ab":
        values = columns[name].copy()
        values[rng.integers(n)] = 10 * np.abs(values).max()
        columns = columns | {name: values}
    return columns


def far_too_large(columns, rng, n):
    values = columns["a"].copy()
    values[rng.integers(n)] = 1e9
    return columns | {"a": values}


def useless(columns, rng, n):
    return {
        "id": np.arange(10**6, 10**6 + n),
        "constant": np.ones(n, int),
        "name": [f"n{number}" for number in rng.integers(0, 5000, n)],
        **columns,
    }


def wrong_target(columns, rng, n):
    y = columns["y"].copy()
    y[7] = 1000 * np.abs(y).max()
    return columns | {"y": y}


def outliers_in_the_target(columns, rng, n):
    y = columns["y"].copy()
    y[rng.integers(n, size=2)] *= 20
    return columns | {"y": y}


SPOILED = [heavy, wrong_number, far_too_large, useless, wrong_target, outliers_in_the_target]


@pytest.mark.parametrize("spoil", SPOILED)
def test_no_row_and_no_column_makes_a_model_collapse(mlp_xp, tmp_path, spoil):
    columns = spoil(table(1), np.random.default_rng(5), 400)
    model = tmp_path / "m.safetensors"
    path = write(tmp_path / "t.csv", columns)
    mlp_xp(*("train", path, "--target", "y", "--out", model, "--recipe", "tables", "--epochs", "25"))
    fresh = table(2)
    new = spoil(fresh, np.random.default_rng(6), 400)
    del new["y"]
    predicted = load(model).predict(new)[:, 0]
    errors = np.sort(np.square(predicted - fresh["y"]))
    least = 0.5 if spoil is outliers_in_the_target else 0.8
    assert 1 - errors[:396].mean() / fresh["y"].var() > least
    assert np.abs(predicted).max() <= np.abs(columns["y"]).max() * (1 + 1e-6)


def test_thirty_rows(mlp_xp, tmp_path):
    path = write(tmp_path / "t.csv", table(3, 30))
    out = mlp_xp("train", path, "--target", "y", "--recipe", "tables", "--json", "--quiet").out
    result = json.loads(out)
    assert result["rows_measured"] == 6
    assert math.isfinite(result["metrics"]["rmse"])


def test_one_class_of_a_hundred(mlp_xp, tmp_path):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1500, 3))
    y = np.where(np.argsort(np.argsort(x[:, 0] + x[:, 1])) >= 1485, "fraud", "fine")
    path = write(tmp_path / "t.csv", {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})
    model = tmp_path / "m.safetensors"
    mlp_xp("train", path, "--target", "y", "--out", model, "--recipe", "tables", "--quiet")
    likely = load(model).predict_raw(x)[:, 1]
    order = np.argsort(-likely)
    assert np.mean(y[order[:15]] == "fraud") > 0.8
    assert np.mean((likely > 0.5) == (y == "fraud")) > 0.99


def test_a_date_column_that_rows_are_held_out_by(mlp_xp, tmp_path):
    days = np.arange("2022-01-01", "2023-02-05", dtype="datetime64[D]")
    columns = {"when": days, **table(6, len(days))}
    out = mlp_xp(
        *("train", write(tmp_path / "t.csv", columns), "--target", "y", "--time", "when"),
        *("--recipe", "tables", "--json", "--quiet"),
    ).out
    assert json.loads(out)["metrics"]["r2"] > 0.7


def test_the_same_training_gives_the_same_bytes_and_says_what_it_was(mlp_xp, tmp_path):
    path, files = write(tmp_path / "t.csv", table(7)), [tmp_path / "1", tmp_path / "2"]
    for file in files:
        mlp_xp("train", path, "--target", "y", "--out", file, "--recipe", "tables", "--epochs", "3")
    assert files[0].read_bytes() == files[1].read_bytes()
    said = mlp_xp("show", files[0]).out
    assert "recipe" in said
    assert "a scale of each input" in said
    assert "ramps" in said


def test_a_resumed_run_has_the_bits_of_one_that_was_not_cut_off(mlp_xp, tmp_path):
    path = write(tmp_path / "t.csv", table(8))
    common = ["train", path, "--target", "y", "--recipe", "tables", "--epochs", "4", "--quiet"]
    mlp_xp(*common, "--out", tmp_path / "whole")
    folder = tmp_path / "checkpoints"
    kept = ["--checkpoint-dir", folder, "--checkpoint-every", "1epoch"]
    mlp_xp(*common, *kept, "--out", tmp_path / "first")
    mlp_xp(*common, *kept, "--resume", "--out", tmp_path / "resumed")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.needs("onnx", "onnxruntime")
def test_an_onnx_file_predicts_the_same(mlp_xp, tmp_path):
    import onnxruntime

    columns = table(9)
    model = tmp_path / "m.safetensors"
    mlp_xp("train", write(tmp_path / "t.csv", columns), "--target", "y", "--out", model, "--recipe", "tables")
    mlp_xp("export", model, "--out", tmp_path / "m.onnx")
    del columns["y"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    given = {
        name: np.asarray(values, dtype=object if name == "kind" else np.float32)[:, None]
        for name, values in columns.items()
    }
    expected = load(model).predict(columns)
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-3, atol=1e-3)
