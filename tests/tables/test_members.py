"""Members of a table's network: folds, bootstraps, and how far they differ."""

import math

import numpy as np
import pytest

from mlp_xp import Loader, Network, fit_table, load, save, train
from mlp_xp.rows.member_weights import StreamBootstrap, bootstrap, folds
from mlp_xp.rows.streams import BatchSource

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=150)
TABLE = {"a": X, "b": GENERATOR.normal(size=150), "y": 100 * X + GENERATOR.normal(size=150)}
CLASSES = {**TABLE, "y": np.where(X > 0, "up", "down")}
QUICK = {"epochs": 4, "hidden": (8,), "recipe": "plain"}


def test_folds_leave_each_row_out_once():
    seen = folds(17, 4, seed=3)
    assert seen.shape == (17, 4)
    np.testing.assert_array_equal((~seen).sum(axis=1), 1)
    assert set((~seen).sum(axis=0)) == {4, 5}
    np.testing.assert_array_equal(seen, folds(17, 4, seed=3))
    with pytest.raises(ValueError, match="3 rows"):
        folds(3, 4)


def test_a_bootstrap_draws_as_many_rows():
    with pytest.raises(ValueError, match="members=0"):
        bootstrap(200, 0)
    counts = bootstrap(200, 5, seed=1)
    np.testing.assert_array_equal(counts.sum(axis=0), 200)
    assert 0.3 < np.mean(counts == 0) < 0.45


def stream(weight=None):
    """Batches of 30 rows; with weights of their own where a test has drawn them."""
    rows = np.column_stack([X, TABLE["b"]])
    parts = [slice(start, start + 30) for start in range(0, 150, 30)]
    return [(rows[p], TABLE["y"][p], *(() if weight is None else (weight[p],))) for p in parts]


def drawn(source, n_rows):
    x, y, weight = np.empty((n_rows, 2)), np.empty((n_rows, 1)), np.empty((n_rows, source.n_weights))
    source.rows(np.arange(n_rows), x, y, weight)
    return weight


def test_a_bootstrap_of_a_stream_draws_from_poisson():
    rows = np.random.default_rng(0).normal(size=(20_000, 3))
    source = BatchSource([(rows[:, :2], rows[:, 2])])
    counts = drawn(StreamBootstrap(source, 4, seed=5), 20_000)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.03)
    for k in range(5):  # the standard error of each is at most 0.0035
        np.testing.assert_allclose(np.mean(counts == k, axis=0), np.exp(-1) / math.factorial(k), atol=0.014)
    np.testing.assert_allclose(np.corrcoef(counts.T), np.eye(4), atol=0.03)
    assert not np.array_equal(counts, drawn(StreamBootstrap(source, 4, seed=6), 20_000))


@pytest.mark.parametrize("members", [1, 3])
def test_members_of_a_streams_bootstrap_are_those_of_its_draws(members):
    options = {"seed": 2, "batch_size": 16}
    counts = drawn(StreamBootstrap(BatchSource(stream()), members, seed=5), 150)
    together = Network((2, 6, 1), members=members, dtype="float64", seed=7)
    rows = Loader(StreamBootstrap(BatchSource(stream(), buffer_rows=50), members, seed=5), **options)
    list(train(together, rows, max_epochs=3))
    for n in range(members):
        alone = Network((2, 6, 1), dtype="float64", seed=7 + n)
        list(train(alone, Loader(BatchSource(stream(counts[:, n]), buffer_rows=50), **options), max_epochs=3))
        np.testing.assert_array_equal(together.each()[n].parameters.flat, alone.parameters.flat)


def test_one_member_has_weights_of_its_own():
    rows, weight = np.column_stack([X, TABLE["b"]]), bootstrap(150, 1, seed=3)
    found = []
    for members, given in ((1, {"member_weight": weight}), (None, {"sample_weight": weight[:, 0]})):
        network = Network((2, 6, 1), members=members, dtype="float64", seed=7)
        loader, held_out = (Loader(rows, TABLE["y"], batch_size=size, **given) for size in (16, "full"))
        losses = [
            epoch.validation_loss for epoch in train(network, loader, validation=held_out, max_epochs=3)
        ]
        found.append((losses, network.parameters.to_host().ravel()))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-14)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("name", ["folds", "members"])
def test_a_search_for_one_network_is_none_for_members(name):
    with pytest.raises(ValueError, match=f"optimizer='lbfgs' searches for one network: leave {name} out"):
        fit_table(TABLE, "y", optimizer="lbfgs", **{name: 3}, **QUICK)


def test_folds_cross_validate():
    pytest.importorskip("pyarrow")
    model = fit_table(TABLE, "y", folds=3, **QUICK)
    assert model.network.members == 3
    found = model.training["cross_validation"]
    seen, errors, squares = folds(150, 3), [], []
    rows = np.column_stack([TABLE["a"], TABLE["b"]])
    for n, alone in enumerate(model.each()):
        out = ~seen[:, n]
        squares.extend((alone.predict(rows[out])[:, 0] - TABLE["y"][out]) ** 2)
        errors.append(np.sqrt(np.mean(squares[-out.sum() :])))
    assert found["rmse"]["mean"] == pytest.approx(np.mean(errors))
    assert found["rmse"]["deviation"] == pytest.approx(np.std(errors, ddof=1))
    assert model.training["folds"] == 3
    assert model.training["metrics_on"] == "left-out"
    assert model.training["metrics"]["rmse"] == pytest.approx(np.sqrt(np.mean(squares)))
    low, high = model.training["intervals"]["rmse"]
    assert low < model.training["metrics"]["rmse"] < high


def test_predictions_come_with_their_spread(tmp_path):
    pytest.importorskip("pyarrow")
    model = fit_table(TABLE, "y", members=4, bootstrap=True, **QUICK)
    save(model, tmp_path / "m.safetensors")
    model = load(tmp_path / "m.safetensors")
    rows = np.column_stack([TABLE["a"], TABLE["b"]])
    each = np.stack([alone.predict(rows) for alone in model.each()])
    mean, deviation, quantiles = model.predict(rows, return_std=True, quantiles=[0.1, 0.9])
    np.testing.assert_allclose(mean, model.predict(rows), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(deviation, each.std(axis=0))
    assert quantiles.shape == (2, 150, 1)
    assert (quantiles[0] <= quantiles[1]).all()
    with pytest.raises(ValueError, match="quantiles"):
        model.predict(rows, quantiles=[2])


def test_probabilities_are_averaged():
    pytest.importorskip("pyarrow")
    model = fit_table(CLASSES, "y", members=3, epochs=3, hidden=(8,), recipe="tables")
    rows = np.column_stack([TABLE["a"], TABLE["b"]])
    p, deviation = model.predict_proba(rows, return_std=True)
    np.testing.assert_allclose(p, model.predict_proba(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-5)
    assert deviation.max() > 0
    with pytest.raises(ValueError, match="predict_proba"):
        model.predict(rows, return_std=True)


@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_the_losses_of_left_out_rows_are_means(recipe):
    pytest.importorskip("pyarrow")
    from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
    from mlp_xp.tables.options import TrainingOptions

    options = TrainingOptions.of({"dataset": "diabetes", "folds": 4, "recipe": recipe, "epochs": 2})
    data = read_data(options)
    model = new_model(data)
    *_, last = fit(data, model.network, loader_for(data.options, data.parts.training))
    assert all(0.1 < member.validation_loss < 10 for member in last.members)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 3, "members": 4}, "folds"),
        ({"folds": 3, "validation": 0.2}, "leave validation out"),
        ({"bootstrap": True}, "members=8"),
        ({"folds": 1}, "folds=1"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_table(TABLE, "y", **QUICK, **options)


def test_members_may_smooth_labels_differently():
    loss = "softmax_cross_entropy:label_smoothing=0.0/0.1"
    model = fit_table(CLASSES, "y", members=2, loss=loss, **QUICK | {"recipe": "tables"})
    assert model.training["metrics"]["accuracy"] > 0.5
