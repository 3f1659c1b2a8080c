"""What is watched on the rows held out is what is reported of them, by NumPy from the predictions alone."""

import numpy as np
import pytest

from mlp_xp import fit_table
from mlp_xp.rows.source import numbers_in_file, passes
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
from mlp_xp.tables.options import TrainingOptions

pytestmark = pytest.mark.needs("pyarrow")

SMOOTHED = "softmax_cross_entropy:label_smoothing=0.2"


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300))
    kind = np.where(a + rng.normal(size=300) > 0.8, "rare", np.where(b > 0, "more", "most"))
    columns = {
        "a": a,
        "b": b,
        "w": rng.uniform(0.1, 4, 300),
        "y": 3 * a - b + rng.normal(size=300),
        "kind": kind,
    }
    rows = zip(*columns.values(), strict=True)
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, row)) for row in [columns.keys(), *rows]))
    return tmp_path / "t.csv"


def trained(table, target, **options):
    """The last epoch, the rows, metrics, and what was held out: targets, weights and predictions."""
    given = {"data": str(table), "target": target, "epochs": 6, "average": 0.0, "hidden": "8", **options}
    rows = read_data(TrainingOptions.of(given))
    model = new_model(rows)
    for epoch in fit(rows, model.network, loader_for(rows.options, rows.parts.training)):
        last = epoch
    held_out = rows.parts.raw_held_out
    x, y = np.empty((held_out.n_rows, held_out.n_features)), np.empty((held_out.n_rows, 1))
    weight = np.ones(held_out.n_rows)
    held_out.rows(np.arange(held_out.n_rows), x, y, weight)
    return last, rows, evaluate(model, held_out), y[:, 0], weight, model.predict_raw(x).astype(float)


def labels_of(source):
    return np.concatenate([y[:, 0].astype(int) for _, _, y, _ in passes(source)])


def calibrated(p, label, weight, smoothing):
    """Nats of each row with probabilities of the temperature, of those 0.001 apart, that costs least."""
    n = weight.sum() ** 2 / np.square(weight).sum()

    def nats(log):
        powers = p ** np.exp(-log)
        return -np.log(powers[np.arange(len(p)), label] / powers.sum(axis=1))

    def cost(log):
        return n * np.average(nats(log), weights=weight) + 3 * (log + 2 * smoothing) ** 2

    return nats(min(np.arange(-2, 2, 0.001), key=cost))


@pytest.mark.parametrize("recipe", ["tables", "plain"])
@pytest.mark.parametrize("weighted", [{}, {"weight_column": "w"}], ids=["", "weights"])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
@pytest.mark.parametrize("loss", [SMOOTHED, None])
def test_of_classes_it_is_the_log_loss_with_the_class_weights_of_training(
    table, recipe, weighted, class_weight, loss
):
    options = {"recipe": recipe, "class_weight": class_weight, "keep": "last", **weighted}
    options |= {"exclude": "y" if weighted else "y,w"} | ({} if loss is None else {"loss": loss})
    last, rows, metrics, label, weight, p = trained(table, "kind", **options)
    nats, label = -np.log(p[np.arange(len(p)), label.astype(int)]), label.astype(int)
    assert metrics["log_loss"] == pytest.approx(np.average(nats, weights=weight), rel=1e-4)
    if recipe == "tables":
        nats = calibrated(p, label, weight, rows.loss.label_smoothing)
    elif class_weight == "balanced":  # the other recipe shifts what was learned without
        weight = weight / np.bincount(labels_of(rows.parts.raw_training))[label]
    assert last.validation_loss == pytest.approx(np.average(nats, weights=weight), rel=1e-3)


def test_what_is_watched_of_classes_is_reported_of_them_in_the_end(table):
    model = fit_table(table, "kind", exclude="y,w", epochs=6, average=0.0, hidden="8", keep="last")
    assert model.history.validation_losses[-1] == pytest.approx(
        model.training["metrics"]["log_loss"], rel=2e-3
    )


@pytest.mark.parametrize("recipe", ["tables", "plain"])
@pytest.mark.parametrize("weighted", [{}, {"weight_column": "w"}], ids=["", "weights"])
def test_of_numbers_it_is_the_squared_error_within_the_limits(table, recipe, weighted):
    options = {"recipe": recipe, "keep": "last", "exclude": "kind" if weighted else "kind,w", **weighted}
    last, rows, metrics, y, weight, predicted = trained(table, "y", **options)
    expected = np.average(np.square(predicted[:, 0] - y), weights=weight)
    assert last.validation_loss * rows.parts.targets.scales[0] ** 2 == pytest.approx(expected, rel=1e-4)
    assert metrics["rmse"] ** 2 == pytest.approx(expected, rel=1e-4)


def test_a_held_out_number_beyond_the_limits_counts_as_one_at_the_limit(table):
    header, *lines = table.read_text().split("\n")
    number = header.split(",").index("y")
    spoilt = [line.split(",") for line in lines]
    rows = trained(table, "y", recipe="tables", exclude="kind,w")[1]
    spoilt[int(numbers_in_file(rows.parts.raw_held_out, np.array([0]))[0])][number] = "1e6"
    table.write_text("\n".join([header, *map(",".join, spoilt)]))
    last, rows, metrics, y, _, predicted = trained(table, "y", recipe="tables", exclude="kind,w", keep="last")
    nearer = np.clip(y, *rows.parts.targets.limits[0])
    expected = np.mean(np.square(predicted[:, 0] - nearer))
    assert y.max() == 1e6
    assert metrics["rmse"] > 1e5
    assert last.validation_loss * rows.parts.targets.scales[0] ** 2 == pytest.approx(expected, rel=1e-4)
