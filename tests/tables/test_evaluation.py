"""Metrics against scikit-learn's, on rows that come in parts and with weights."""

import math

import numpy as np
import pytest
from arrays import readonly

from mlp_xp import Network, fit_table
from mlp_xp.losses import (
    BinaryCrossEntropy,
    Huber,
    Pinball,
    Poisson,
    SoftmaxCrossEntropy,
    SortedLink,
    SquaredError,
)
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.tables import evaluation
from mlp_xp.tables.evaluation import assess, evaluate
from mlp_xp.tables.metrics import Classes, roc_auc
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Inputs, Targets

N_ROWS = 53


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(evaluation, "PREDICT_ROWS", 10)


@pytest.fixture(params=[False, True], ids=["plain", "weighted"])
def weight(request, rng):
    return rng.integers(0, 4, N_ROWS) * 0.5 if request.param else None


def model_of(loss, n_targets=1, levels=None, targets=None, dtype="float64"):
    """An untrained network with the loss's link: as good as any to be measured."""
    n_classes = len(levels) if levels and loss.labels else None
    network = Network((3, 5, loss.n_outputs(n_targets, n_classes)), dtype=dtype, seed=1)
    network.output = loss.link
    names = [f"t{i}" for i in range(n_targets)]
    return TableModel(network, Inputs.plain("abc"), targets or Targets.unscaled(names), levels, loss=loss)


def source_of(x, y, weight):
    return ArraySource(readonly(x), readonly(y), None if weight is None else readonly(weight))


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("loss", [SquaredError(), Huber(2.0)])
def test_numbers(rng, weight, loss, n_targets):
    from sklearn.metrics import (
        mean_absolute_error,
        median_absolute_error,
        r2_score,
        root_mean_squared_error,
    )

    targets = Targets(tuple(f"t{i}" for i in range(n_targets)), (1e4,) * n_targets, (3.0,) * n_targets)
    model = model_of(loss, n_targets, targets=targets)
    x = rng.normal(size=(N_ROWS, 3))
    y = 1e4 + rng.normal(size=(N_ROWS, n_targets)) * np.arange(1, n_targets + 1)
    found = evaluate(model, source_of(x, y, weight))
    predicted = model.predict(x)
    for name, metric in (
        ("r2", r2_score),
        ("rmse", root_mean_squared_error),
        ("mae", mean_absolute_error),
        ("median_error", median_absolute_error),
    ):
        assert found.pop(name) == pytest.approx(metric(y, predicted, sample_weight=weight), rel=1e-9)
        each = metric(y, predicted, sample_weight=weight, multioutput="raw_values")
        for target, value in zip(targets.names, each, strict=True) if n_targets > 1 else ():
            assert found.pop(f"{name}_{target}") == pytest.approx(value, rel=1e-9)
    assert found == {}


@pytest.mark.needs("sklearn")
def test_counts(rng, weight):
    from sklearn.metrics import mean_poisson_deviance, mean_squared_error

    model = model_of(Poisson())
    x, y = rng.normal(size=(N_ROWS, 3)), rng.poisson(1.0, N_ROWS).astype(float)
    assert (y == 0).any()
    found = evaluate(model, source_of(x, y, weight))
    predicted = model.predict(x)[:, 0]
    assert list(found) == ["r2", "rmse", "mae", "median_error", "poisson_deviance"]
    assert found["poisson_deviance"] == pytest.approx(
        mean_poisson_deviance(y, predicted, sample_weight=weight), rel=1e-12
    )
    assert found["rmse"] ** 2 == pytest.approx(mean_squared_error(y, predicted, sample_weight=weight))


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes(rng, weight, dtype):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score

    model = model_of(SoftmaxCrossEntropy(), levels=("a", "b", "c"), dtype=dtype)
    x, y = rng.normal(size=(N_ROWS, 3)), rng.integers(0, 3, N_ROWS)
    found = evaluate(model, source_of(x, y, weight))
    names = np.array(["a", "b", "c"])[y]
    probabilities = model.predict_raw(x)
    assert list(found) == ["accuracy", "balanced_accuracy", "roc_auc", "log_loss"]
    assert found["accuracy"] == pytest.approx(accuracy_score(names, model.predict(x), sample_weight=weight))
    balanced = balanced_accuracy_score(names, model.predict(x), sample_weight=weight)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    area = roc_auc_score(y, probabilities, sample_weight=weight, multi_class="ovr")
    assert found["roc_auc"] == pytest.approx(area, rel=1e-9)
    expected = log_loss(y, probabilities, sample_weight=weight, labels=[0, 1, 2])
    assert found["log_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.needs("sklearn")
def test_two_classes_with_one_output(rng, weight):
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    model = model_of(BinaryCrossEntropy(), levels=("no", "yes"))
    x, y = rng.normal(size=(N_ROWS, 3)), rng.integers(0, 2, N_ROWS)
    found = evaluate(model, source_of(x, y, weight))
    names = np.array(["no", "yes"])[y]
    assert found["accuracy"] == pytest.approx(accuracy_score(names, model.predict(x), sample_weight=weight))
    p = model.network.predict(x)[:, 0]
    assert found["log_loss"] == pytest.approx(log_loss(y, p, sample_weight=weight), rel=1e-9)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=weight), rel=1e-9)


@pytest.mark.needs("sklearn")
def test_each_class(rng, weight):
    from sklearn.metrics import precision_recall_fscore_support

    model = model_of(SoftmaxCrossEntropy(), levels=("a", "b", "c", "never predicted"))
    model.network.parameters.biases[-1][3] = -99.0
    x, y = rng.normal(size=(N_ROWS, 3)), rng.integers(0, 4, N_ROWS)
    found = assess(model, source_of(x, y, weight)).classes
    guess = model.predict_raw(x).argmax(axis=1)
    expected = precision_recall_fscore_support(y, guess, sample_weight=weight, zero_division=0)
    assert list(found) == ["a", "b", "c", "never predicted"]
    for name, values in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        assert [found[level][name] for level in found] == pytest.approx(values.tolist()), name


@pytest.mark.needs("sklearn")
def test_scores_that_are_alike(rng):
    from sklearn.metrics import roc_auc_score

    score, is_one, weight = rng.integers(0, 4, 60) / 4, rng.integers(0, 2, 60) == 1, rng.random(60)
    assert roc_auc(is_one, score)(weight) == pytest.approx(roc_auc_score(is_one, score, sample_weight=weight))
    assert math.isnan(roc_auc(is_one | True, score)(weight))


@pytest.mark.needs("scipy")
def test_intervals(rng):
    from scipy.stats import bootstrap

    model = model_of(SquaredError())
    x, y = rng.normal(size=(N_ROWS, 3)), rng.normal(size=N_ROWS)
    found = assess(model, source_of(x, y, None), seed=3)
    assert found.intervals == assess(model, source_of(x, y, None), seed=3).intervals
    assert list(found.intervals) == ["r2", "rmse", "mae", "median_error"]
    error = np.abs(model.predict(x)[:, 0] - y)
    known = bootstrap([error], np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    low, high = found.intervals["mae"]
    width = known.high - known.low
    assert abs(low - known.low) < 0.15 * width
    assert abs(high - known.high) < 0.15 * width


def test_intervals_of_many_rows_are_found_on_some(rng, monkeypatch):
    model = model_of(SquaredError())
    x, y = rng.normal(size=(4000, 3)), rng.normal(size=4000)
    all_rows = assess(model, source_of(x, y, None), seed=3)
    monkeypatch.setattr(evaluation, "MOST_RESAMPLED", 500)
    monkeypatch.setattr(evaluation, "MOST_NUMBERS", 3 * 1000)
    some = assess(model, source_of(x, y, None), seed=3)
    assert some.metrics["rmse"] == all_rows.metrics["rmse"]
    assert some.metrics["median_error"] == pytest.approx(all_rows.metrics["median_error"], rel=0.1)
    widths = [np.subtract(*each.intervals["rmse"]) for each in (some, all_rows)]
    assert widths[0] == pytest.approx(widths[1], rel=0.4)
    assert some.intervals["rmse"][0] < some.metrics["rmse"] < some.intervals["rmse"][1]


def test_what_needs_an_order_of_each_class_has_no_interval_where_there_are_many(rng, monkeypatch):
    kind, y, weight = Classes(), np.arange(60.0)[:, None] % 3, np.ones((60, 1))
    predicted = rng.dirichlet(np.ones(3), 60)
    found = kind.of_sums(kind.sums(y, predicted, weight)) | kind.of_rows(y, predicted)(weight)
    few = evaluation._intervals(kind, found, (y, predicted, weight), 60, 0)
    monkeypatch.setattr(evaluation, "MOST_ORDERS", 2)
    many = evaluation._intervals(kind, found, (y, predicted, weight), 60, 0)
    assert few.keys() - many.keys() == {"roc_auc"}
    assert many == {name: few[name] for name in many}


@pytest.mark.needs("sklearn")
def test_labels(rng, weight):
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    model = model_of(BinaryCrossEntropy(), n_targets=2)
    x, y = rng.normal(size=(N_ROWS, 3)), rng.integers(0, 2, (N_ROWS, 2))
    found = evaluate(model, source_of(x, y, weight))
    p = model.predict(x)
    each = range(2)
    expected = {
        "accuracy": np.mean([accuracy_score(y[:, i], p[:, i] > 0.5, sample_weight=weight) for i in each]),
        "roc_auc": np.mean([roc_auc_score(y[:, i], p[:, i], sample_weight=weight) for i in each]),
        "log_loss": np.mean([log_loss(y[:, i], p[:, i], sample_weight=weight) for i in each]),
    }
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("quantiles", [(0.5,), (0.1, 0.5, 0.9)])
def test_quantiles(rng, weight, quantiles, n_targets):
    from sklearn.metrics import mean_pinball_loss

    model = model_of(Pinball(quantiles), n_targets)
    x, y = rng.normal(size=(N_ROWS, 3)), rng.normal(size=(N_ROWS, n_targets))
    found = evaluate(model, source_of(x, y, weight))
    predicted = model.predict(x).reshape(N_ROWS, n_targets, len(quantiles))
    expected = np.mean(
        [
            mean_pinball_loss(y, predicted[:, :, i], alpha=q, sample_weight=weight)
            for i, q in enumerate(quantiles)
        ]
    )
    assert found.pop("pinball_loss") == pytest.approx(expected, rel=1e-9)
    if len(quantiles) > 1:
        inside = ((predicted[:, :, 0] <= y) & (y <= predicted[:, :, -1])).mean(axis=1)
        assert found.pop("coverage") == pytest.approx(np.average(inside, weights=weight))
    assert found == {}


def test_a_perfect_model():
    model = model_of(SquaredError())
    x = np.arange(36.0).reshape(12, 3)
    found = evaluate(model, source_of(x, model.predict(x), None))
    assert found == {"r2": 1.0, "rmse": 0.0, "mae": 0.0, "median_error": 0.0}


def test_metrics_without_a_meaning_are_nan():
    model, x = model_of(SquaredError()), np.zeros((4, 3))
    constant = evaluate(model, source_of(x, np.ones(4), None))
    assert math.isnan(constant["r2"])
    assert constant["rmse"] == pytest.approx(1.0)
    weightless = evaluate(model, source_of(x, np.arange(4.0), np.zeros(4)))
    assert all(math.isnan(value) for value in weightless.values())
    classes = model_of(SoftmaxCrossEntropy(), levels=("a", "b"))
    assert all(map(math.isnan, evaluate(classes, source_of(x, np.zeros(4), np.zeros(4))).values()))


def test_a_probability_that_rounds_to_zero_costs_a_finite_loss():
    model = model_of(SoftmaxCrossEntropy(), levels=("a", "b"), dtype="float32")
    model.network.parameters.flat[...] = 0.0
    model.network.parameters.biases[-1][...] = [1e4, 0.0]
    found = evaluate(model, source_of(np.zeros((2, 3)), [0, 1], None))
    assert found["accuracy"] == 0.5
    assert 40 < found["log_loss"] < 50


def test_quantiles_of_a_network_alone_are_not_known():
    network = Network((3, 3))
    network.output = SortedLink(3)
    model = TableModel.of_network(network, "abc")
    with pytest.raises(ValueError, match="does not say which quantiles"):
        evaluate(model, source_of(np.zeros((4, 3)), np.zeros(4), None))


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (1e300, 1.0, "1 of 2 rows have no finite prediction: their values are too far from those"),
        (1.0, 1e300, "some targets are so far from their predictions that the squares of errors overflow"),
    ],
)
def test_what_overflows_is_said_in_our_words(x, y, said):
    """Warnings of NumPy's would be errors here."""
    rows = [float(n) for n in range(40)]
    model = fit_table({"x": rows, "y": rows}, "y", recipe="plain", epochs=1)
    with pytest.warns(UserWarning, match=said):
        found = model.evaluate({"x": [1.0, x], "y": [1.0, y]})
    assert not np.isfinite(found["rmse"])
