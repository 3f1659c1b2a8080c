"""Estimators of tables: scikit-learn's contract, mixed columns, and the very model of `fit_table`."""

import pickle

import numpy as np
import pytest
from scikit_learn_checks import SINCE_1_9, with_checks
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from mlp_xp import (
    MLPClassifier,
    MLPRegressor,
    TableClassifier,
    TableRegressor,
    export_onnx,
    fit_table,
    save,
)

pytestmark = pytest.mark.needs("sklearn", "pyarrow")

SMALL = {"epochs": 40, "hidden": (32,), "dtype": "float64"}

NOT_PROMISED = {
    "check_sample_weight_equivalence_on_dense_data": "rows are drawn for the held-out part one by one, "
    "whatever they weigh"
}


@with_checks(
    [TableRegressor(**SMALL), TableClassifier(**SMALL)], expected_failed_checks=lambda _: NOT_PROMISED
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def columns(n_rows=200):
    """A mixed table, and a target that depends on numbers, a text and a gap."""
    draw = np.random.default_rng(0)
    size = draw.normal(100, 20, n_rows)
    table = {
        "size": np.where(np.arange(n_rows) % 17 == 0, np.nan, size),
        "kind": draw.choice(["flat", "house"], n_rows).astype(object),
        "new": draw.random(n_rows) < 0.3,
        "built": np.datetime64("2001-01-01") + draw.integers(0, 8000, n_rows),
        "town": np.where(np.arange(n_rows) % 5 == 0, None, draw.choice(["Bonn", "Köln"], n_rows)),
    }
    return table, 2 * size + 30 * (table["kind"] == "house")


def pandas_frame(table):
    import pandas as pd

    return pd.DataFrame(table).assign(kind=lambda frame: frame["kind"].astype("category"))


def polars_frame(table):
    import polars as pl

    return pl.from_pandas(pandas_frame(table))


FRAMES = [
    pytest.param(pandas_frame, marks=pytest.mark.needs("pandas"), id="pandas"),
    pytest.param(polars_frame, marks=[pytest.mark.needs("pandas", "polars"), SINCE_1_9], id="polars"),
]


@pytest.mark.parametrize("frame_of", FRAMES)
def test_is_the_model_of_fit_table_to_the_bit(frame_of):
    table, price = columns()
    frame = frame_of(table)
    model = TableRegressor(epochs=5, random_state=3).fit(frame, price)
    same = fit_table({**table, "target": price}, "target", epochs=5, seed=3)
    np.testing.assert_array_equal(model.predict(frame), same.predict(table)[:, 0])
    assert list(model.feature_names_in_) == list(table)
    assert model.n_iter_ == 5


@pytest.mark.needs("pandas")
def test_learns_from_mixed_columns_and_is_searched_cloned_and_pickled():
    table, price = columns()
    frame = pandas_frame(table)
    search = GridSearchCV(TableRegressor(epochs=60), {"hidden": [(8,), (32, 32)]}, cv=2).fit(frame, price)
    assert search.best_score_ > 0.7
    best = search.best_estimator_
    assert clone(best).get_params() == best.get_params()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(best)).predict(frame), best.predict(frame))


@pytest.mark.parametrize(
    "classes",
    [
        ["a", "NA"],
        ["01", "1"],
        [True, False],
        [2**60, 2**60 + 1, 2**60 + 2],
        [np.uint64(2**64 - 1), np.uint64(2**64 - 2)],
        [np.datetime64("2020-01-01"), np.datetime64("2021-01-01")],
    ],
    ids=str,
)
def test_classes_come_back_as_they_came(classes):
    classes = np.array(classes)
    which = np.arange(120) % len(classes)
    x = np.random.default_rng(0).normal(size=(120, 2)) + 4 * which[:, None]
    model = TableClassifier(**SMALL).fit(x, classes[which])
    assert model.classes_.dtype == classes.dtype
    np.testing.assert_array_equal(model.classes_, np.unique(classes))
    found = model.predict(x)
    assert found.dtype == classes.dtype
    assert (found == classes[which]).mean() > 0.9
    assert model.predict_proba(x).shape == (120, len(classes))
    assert model.model_.levels == tuple(map(str, model.classes_))


def test_many_classes_keep_their_order():
    """As texts, "10" comes before "2"."""
    labels = np.arange(240) % 12
    x = np.eye(12)[labels]
    model = TableClassifier(epochs=60, hidden=(32,)).fit(x, labels)
    assert (model.predict(x) == labels).mean() > 0.9


def test_weights_of_rows_and_of_classes_are_one():
    table, price = columns()
    x, label = np.column_stack([table["size"], table["new"]]), price > np.median(price)
    heavy = np.where(label, 5.0, 1.0)
    by_class = TableClassifier(**SMALL, class_weight={False: 1, True: 5}).fit(x, label)
    by_row = TableClassifier(**SMALL).fit(x, label, heavy)
    np.testing.assert_array_equal(by_class.predict_proba(x), by_row.predict_proba(x))
    without = TableClassifier(**SMALL).fit(x, label)
    assert not np.array_equal(without.predict_proba(x), by_row.predict_proba(x))


def test_several_targets():
    x = np.random.default_rng(0).normal(size=(100, 2))
    y = x @ [[1.0, 2.0], [3.0, -1.0]]
    model = TableRegressor(epochs=60).fit(x, y)
    assert model.predict(x).shape == (100, 2)
    assert model.score(x, y) > 0.9
    assert model.fit(x, y[:, :1]).predict(x).shape == (100, 1)
    assert model.fit(x, y[:, 0]).predict(x).shape == (100,)


@pytest.mark.needs("pandas")
def test_names_that_are_taken():
    import pandas as pd

    x = pd.DataFrame({"target": np.arange(50.0), "weight": np.arange(50.0) % 7})
    model = TableRegressor(epochs=2).fit(x, np.arange(50.0), np.ones(50))
    assert set(model.model_.inputs.names) == set(x)


def test_leaves_columns_out():
    table, price = columns()
    model = TableRegressor(exclude="id", epochs=2).fit({**table, "id": np.arange(len(price))}, price)
    assert list(model.model_.inputs.names) == list(table)


def test_unknown_parameters_are_refused_with_a_hint():
    with pytest.raises(TypeError, match="no parameter 'epoch'; did you mean 'epochs'"):
        TableRegressor(epoch=3)


@pytest.mark.needs("pandas")
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_estimators_of_numbers_name_the_columns_of_texts(kind):
    table, _ = columns()
    frame = pandas_frame(table)[["size", "kind", "town"]].fillna({"size": 0.0})
    numbers = np.arange(len(frame)) % 2
    with pytest.raises(ValueError, match=r"texts in column 'kind', 'town', .* use Table"):
        kind().fit(frame, numbers)
    fitted = kind(solver="lbfgs", max_iter=5000).fit(frame[["size"]], numbers)
    with pytest.raises(ValueError, match="texts in column 'size'"):
        fitted.predict(frame[["kind"]].rename(columns={"kind": "size"}))
    with pytest.raises(ValueError, match="texts in column '1'"):
        kind().fit([[1.0, "a"], [2.0, "b"]], [0, 1])


def test_folds_come_with_their_spread():
    x = np.random.default_rng(0).normal(size=(90, 2))
    model = TableRegressor(folds=3, epochs=3, hidden="8", recipe="plain").fit(x, x[:, 0])
    mean, deviation, quantiles = model.predict(x, return_std=True, quantiles=[0.0, 1.0])
    np.testing.assert_allclose(mean, model.predict(x), rtol=1e-4, atol=1e-5)
    assert mean.shape == deviation.shape == (90,)
    assert quantiles.shape == (2, 90)
    assert (deviation > 0).all()
    assert model.model_.training["cross_validation"]["rmse"]["deviation"] > 0


@pytest.mark.needs("pandas")
def test_folds_are_stratified_and_whole_groups_and_members_have_probabilities():
    table, _ = columns()
    labels = np.where(table["kind"] == "house", "b", "a")
    quick = {"epochs": 3, "hidden": "8", "recipe": "plain"}
    model = TableClassifier(folds=3, group="town_", **quick)
    groups = {**table, "town_": np.arange(200) % 9}
    model.fit(pandas_frame(groups), labels)
    assert model.model_.network.members == 3
    assert set(model.model_.training["cross_validation"]) >= {"accuracy", "log_loss"}
    assert "town_" not in model.model_.inputs.names
    p, deviation = TableClassifier(members=2, **quick).fit(pandas_frame(table), labels).predict_proba(
        pandas_frame(table), return_std=True
    )  # fmt: skip
    assert p.shape == deviation.shape == (200, 2)
    assert deviation.max() > 0
    assert (
        TableRegressor(time_budget="1e-9s", **quick).fit(pandas_frame(table), np.arange(200.0)).n_iter_ == 1
    )


def test_classes_with_a_gap_are_refused_with_their_row():
    with pytest.raises(ValueError, match=r"y holds None in row 1 \(from 0\)"):
        TableClassifier().fit([[1.0], [2.0], [3.0]], np.array(["a", None, "b"], dtype=object))


@pytest.mark.parametrize("write", [save, export_onnx])
def test_a_search_is_told_to_give_its_best_estimator(write, tmp_path):
    search = GridSearchCV(MLPRegressor(max_iter=1), {"alpha": [0.1]}, cv=2)
    with pytest.raises(TypeError, match="give its best_estimator_"), pytest.warns(ConvergenceWarning):
        write(search.fit(np.eye(8), np.arange(8.0)), tmp_path / "model")
