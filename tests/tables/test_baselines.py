"""Baselines against scikit-learn's linear models, and constants."""

import numpy as np
import pytest

from mlp_xp import Network
from mlp_xp.losses import BinaryCrossEntropy, Pinball, SoftmaxCrossEntropy, SquaredError
from mlp_xp.tables import baselines
from mlp_xp.tables.baselines import constant, linear
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Category, Inputs, Targets
from mlp_xp.tables.sample import Sample


def model_of(loss, n_columns, n_targets=1, levels=None, inputs=None):
    names = [f"y{at}" for at in range(n_targets)]
    n_outputs = loss.n_outputs(n_targets, len(levels) if levels and loss.labels else None)
    network = Network((n_columns, n_outputs))
    network.output = loss.link
    inputs = inputs or Inputs.plain([f"x{at}" for at in range(n_columns)])
    return TableModel(network, inputs, Targets.unscaled(names), levels, loss=loss)


@pytest.fixture(params=[False, True], ids=["plain", "weighted"])
def weight(request, rng):
    return rng.uniform(0, 2, 400) if request.param else None


@pytest.mark.needs("sklearn")
def test_numbers(rng, weight):
    from sklearn.linear_model import Ridge

    x = rng.normal(size=(400, 4))
    y = x @ rng.normal(size=(4, 2)) + rng.normal(size=(400, 2))
    rows = Sample(x, y, None if weight is None else weight / weight.mean())
    found = linear(model_of(SquaredError(), 4, 2), rows)(x)
    expected = Ridge(1.0).fit(x, y, rows.weight).predict(x)
    np.testing.assert_allclose(found, np.clip(expected, y.min(axis=0), y.max(axis=0)), rtol=1e-6)


@pytest.mark.parametrize("loss", [SquaredError(), SoftmaxCrossEntropy()])
def test_levels_are_what_they_are_whatever_the_network_sees(rng, loss):
    codes = rng.integers(0, 8, size=(400, 1)).astype(float)
    rows = Sample(codes, (codes + rng.normal(size=(400, 1)) > 4).astype(float), None)
    found = []
    for scale in (1.0, 0.5):
        inputs = Inputs((Category("a", "text", tuple("abcdefgh"), scale=scale),))
        model = model_of(loss, 8, levels=["no", "yes"] if loss.labels else None, inputs=inputs)
        found.append(linear(model, rows)(codes))
    np.testing.assert_array_equal(*found)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy()])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes(rng, weight, loss, n_classes):
    from sklearn.linear_model import LogisticRegression

    if n_classes == 3 and isinstance(loss, BinaryCrossEntropy):
        return
    x = rng.normal(size=(400, 4))
    label = (x[:, 0] + rng.normal(size=400) > 0).astype(int) + (n_classes == 3) * (
        x[:, 1] + rng.normal(size=400) > 1
    )
    rows = Sample(x, label[:, None].astype(float), None if weight is None else weight / weight.mean())
    found = linear(model_of(loss, 4, levels=[str(at) for at in range(n_classes)]), rows)(x)
    # Ours penalises Σ w² / 2 of both classes' weights, which are each other's negative: half as much.
    strength = 2.0 if n_classes == 2 else 1.0
    expected = LogisticRegression(C=strength).fit(x, label, rows.weight).predict_proba(x)
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.needs("sklearn")
def test_labels(rng, weight):
    from sklearn.linear_model import LogisticRegression

    x = rng.normal(size=(400, 4))
    y = (x[:, :2] + rng.normal(size=(400, 2)) > 0).astype(float)
    rows = Sample(x, y, None if weight is None else weight / weight.mean())
    found = linear(model_of(BinaryCrossEntropy(), 4, 2), rows)(x)
    for at in range(2):
        expected = LogisticRegression().fit(x, y[:, at], rows.weight).predict_proba(x)[:, 1]
        np.testing.assert_allclose(found[:, at], expected, atol=0.01)


def test_constants(rng, weight):
    x, y = np.zeros((400, 1)), rng.integers(0, 3, (400, 1)).astype(float)
    rows = Sample(x, y, weight)
    assert constant(model_of(SquaredError(), 1), rows)(x[:2]) == pytest.approx(
        np.average(y[:, 0], weights=weight)
    )
    shares = [np.average(y[:, 0] == at, weights=weight) for at in range(3)]
    classes = model_of(SoftmaxCrossEntropy(), 1, levels=["a", "b", "c"])
    assert constant(classes, rows)(x[:1])[0] == pytest.approx(shares)
    quantiles = model_of(Pinball((0.25, 0.75)), 1)
    assert constant(quantiles, rows)(x[:1])[0] == pytest.approx(np.quantile(y, [0.25, 0.75]))
    assert linear(quantiles, rows) is None


def test_many_features_are_fitted_on_fewer_rows_or_not_at_all(rng, monkeypatch):
    x = rng.normal(size=(5000, 4))
    model, rows = model_of(SquaredError(), 4), Sample(x, x[:, :1], None)
    monkeypatch.setattr(baselines, "MOST_MULTIPLICATIONS", 2 * 60 * 5 * 2000)
    np.testing.assert_allclose(linear(model, rows)(x[:9]), x[:9, :1], atol=0.01)
    monkeypatch.setattr(baselines, "MOST_MULTIPLICATIONS", 2 * 60 * 5 * 900)
    assert linear(model, rows) is None
