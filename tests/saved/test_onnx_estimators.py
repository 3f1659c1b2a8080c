"""Fitted estimators as ONNX files: onnxruntime gives what `predict` and `predict_proba` give."""

import numpy as np
import pytest
from saved.test_onnx import check_same, run, signature

from mlp_xp.saved.onnx_file import onnx_bytes

pytestmark = pytest.mark.needs("onnx", "onnxruntime", "sklearn")

X = np.float32(np.random.default_rng(0).normal(size=(150, 3)))
SUMS = X.sum(axis=1)


def fitted(kind, x, y, **options):
    import mlp_xp

    return getattr(mlp_xp, kind)(hidden_layer_sizes=(5,), max_iter=3, random_state=0, **options).fit(x, y)


@pytest.fixture(autouse=True)
def _short_training():
    """Three epochs are enough here, and scikit-learn's warning says that they are few."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.mark.parametrize("targets", [SUMS, np.column_stack([SUMS, -SUMS])], ids=["one", "two"])
def test_regressor(targets):
    model = fitted("MLPRegressor", X, targets)
    found = run(onnx_bytes(model), {"X": X})
    check_same(found["prediction"].reshape(model.predict(X).shape), model.predict(X))


@pytest.mark.parametrize("loss", ["poisson", "huber", "absolute_error"])
def test_regressor_of_another_loss(loss):
    model = fitted("MLPRegressor", X, np.abs(SUMS), loss=loss)
    check_same(run(onnx_bytes(model), {"X": X})["prediction"][:, 0], model.predict(X))


LABELS = {
    "two of text": np.where(SUMS > 0, "plus", "mínus"),
    "two of bool": SUMS > 0,
    "three of int": np.digitize(SUMS, [-1, 1]) * 10 - 5,
    "three of text": np.array(["a", "b", "c"], dtype=object)[np.digitize(SUMS, [-1, 1])],
    "two of float": np.where(SUMS > 0, 1.0, 2.0),
}


@pytest.mark.parametrize("labels", LABELS)
def test_classifier(labels):
    model = fitted("MLPClassifier", X, LABELS[labels])
    found = run(onnx_bytes(model), {"X": X})
    assert list(found) == ["label", "probabilities"]
    assert found["label"].tolist() == model.predict(X).tolist()
    check_same(found["probabilities"], model.predict_proba(X))


def test_several_labels_a_row():
    model = fitted("MLPClassifier", X, (X > 0).astype(int))
    found = run(onnx_bytes(model), {"X": X})
    assert found["label"].tolist() == model.predict(X).tolist()
    check_same(found["probabilities"], model.predict_proba(X))


def test_several_targets_with_classes():
    model = fitted("MLPClassifier", X, np.column_stack([np.digitize(SUMS, [-1, 1]), SUMS > 0]))
    found = run(onnx_bytes(model), {"X": X})
    assert found["label"].tolist() == model.predict(X).tolist()
    check_same(found["probabilities"], np.hstack(model.predict_proba(X)))


@pytest.mark.needs("pandas")
def test_columns_with_names_are_inputs_of_their_own():
    import pandas as pd

    frame = pd.DataFrame(X, columns=["a", "b c", "d"])
    content = onnx_bytes(fitted("MLPRegressor", frame, SUMS))
    assert [name for name, *_ in signature(content)[0]] == ["a", "b c", "d"]


def test_a_single_class_is_refused():
    with pytest.warns(RuntimeWarning, match="y has a single class, only"):
        model = fitted("MLPClassifier", X, np.full(len(X), "only"))
    with pytest.raises(ValueError, match="knows a single class, 'only'"):
        onnx_bytes(model)
