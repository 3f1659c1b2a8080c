"""Estimators whose prediction is the mean of several networks: each of them is what it would be alone."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import Loader, MLPClassifier, MLPRegressor, load, save
from mlp_xp.estimators import fitting
from mlp_xp.fast import on_cuda
from mlp_xp.machine.array_api import Backend
from mlp_xp.optimizers import AdamW

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

K = 3
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(90, 4))
Y = X[:, 0] - np.sin(X[:, 1])
QUICK = {"hidden_layer_sizes": (6, 5), "batch_size": 30, "max_iter": 8, "random_state": 0}


def regressor(**more):
    return MLPRegressor(**{**QUICK, "members": K, **more})


def starts():
    """Weights and biases with an axis of members first."""
    shapes = [(4, 6), (6, 5), (5, 1)]
    weights = [GENERATOR.normal(size=(K, *shape)) / 3 for shape in shapes]
    return weights, [np.zeros((K, 1, shape[1])) for shape in shapes]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"solver": "sgd", "momentum": 0.9, "learning_rate": "invscaling", "alpha": 0.1},
        {"clip_norm": 0.1, "l1": 0.01, "learning_rate": "cosine"},
    ],
)
def test_each_is_what_an_estimator_alone_is(more):
    weights, biases = starts()
    options = {"shuffle": False, "n_iter_no_change": np.inf, **more}
    together = regressor(**options).fit(X, Y, coef_init=weights, intercept_init=biases)
    alone = [
        regressor(**{**options, "members": None}).fit(
            X, Y, coef_init=[each[n] for each in weights], intercept_init=[each[n, 0] for each in biases]
        )
        for n in range(K)
    ]
    for n, one in enumerate(alone):
        for layer in range(3):
            np.testing.assert_array_equal(together.coefs_[layer][n], one.coefs_[layer])
            np.testing.assert_array_equal(together.intercepts_[layer][n, 0], one.intercepts_[layer])
    np.testing.assert_allclose(together.loss_curve_, np.mean([one.loss_curve_ for one in alone], axis=0))
    np.testing.assert_allclose(together.predict(X), np.mean([one.predict(X) for one in alone], axis=0))
    gradient = np.mean([one.input_gradient(X) for one in alone], axis=0)
    np.testing.assert_allclose(together.input_gradient(X), gradient)
    hidden = [one.hidden_activations(X)[1] for one in alone]
    np.testing.assert_allclose(together.hidden_activations(X)[1], hidden)


def test_they_end_together_by_the_mean_of_their_losses():
    options = {"n_iter_no_change": 1, "tol": 0.02, "solver": "sgd", "learning_rate": "adaptive"}
    model = regressor(**options, max_iter=200).fit(X, Y)
    assert model.n_iter_ < 200
    assert "Training loss did not improve" in model.stopped_
    assert model.loss_ == model.loss_curve_[-1]


def test_members_start_differently_and_drop_out_differently():
    model = regressor(dropout=0.5, max_iter=1).fit(X, Y)
    assert len({each.tobytes() for each in model.coefs_[0]}) == K
    same = [np.stack([each[0]] * K) for each in starts()[0]]
    model.fit(X, Y, coef_init=same)
    assert len({each.tobytes() for each in model.coefs_[0]}) == K
    again = clone(model).fit(X, Y, coef_init=same)
    np.testing.assert_array_equal(model.coefs_[0], again.coefs_[0])
    named = regressor(initializer="he_normal").fit(X, Y)
    assert len({each.tobytes() for each in named.coefs_[0]}) == K


def test_predictions_come_with_their_spread():
    model = regressor().fit(X, np.stack([Y, -Y], axis=1))
    of_each = model.network.predict(X, members="all")
    mean, deviation, quantiles = model.predict(X, return_std=True, quantiles=[0.1, 0.5])
    np.testing.assert_allclose(mean, model.predict(X))
    np.testing.assert_allclose(deviation, of_each.std(axis=0))
    np.testing.assert_allclose(quantiles, np.quantile(of_each, [0.1, 0.5], axis=0))
    alone = regressor(members=None).fit(X, Y)
    assert alone.predict(X, return_std=True)[1].shape == (90,)
    assert not alone.predict(X, return_std=True)[1].any()
    with pytest.raises(ValueError, match="quantiles"):
        model.predict(X, quantiles=[-1])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "multioutput"])
def test_probabilities_are_averaged(kind):
    x, y = load_iris(return_X_y=True)
    if kind == "binary":
        y = y > 0
    elif kind == "multilabel":
        x, y = make_multilabel_classification(60, 4, n_classes=3, random_state=0)
    elif kind == "multioutput":
        y = np.stack([y, y > 0], axis=1)
    model = MLPClassifier(**QUICK, members=K).fit(x, y)
    p, deviation = model.predict_proba(x, return_std=True)
    pairs = zip(p, deviation, model.predict_proba(x), strict=True)
    for mean, spread, own in pairs if kind == "multioutput" else [(p, deviation, model.predict_proba(x))]:
        np.testing.assert_allclose(mean, own, atol=1e-12)
        assert spread.shape == own.shape
        assert spread.max() > 0
    assert 0 <= model.score(x, y) <= 1


def test_what_is_held_out_is_judged_by_their_mean():
    model = regressor(early_stopping=True, n_iter_no_change=2, max_iter=40).fit(X, Y)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    given = regressor(scoring="loss", early_stopping=True).fit(X, Y, X_val=X[:20], y_val=Y[:20])
    errors = np.square(given.network.predict(X[:20], members="all")[..., 0] - Y[:20])
    assert given.best_validation_loss_ == pytest.approx(errors.mean() / 2)


def test_fits_go_on():
    whole = regressor(warm_start="continue", n_iter_no_change=np.inf).fit(X, Y)
    parts = regressor(warm_start="continue", max_iter=4, n_iter_no_change=np.inf).fit(X, Y).fit(X, Y)
    np.testing.assert_array_equal(whole.coefs_[0], parts.coefs_[0])
    steps = regressor().partial_fit(X, Y).partial_fit(X, Y)
    assert steps.coefs_[0].shape == (K, 4, 6)
    with pytest.raises(ValueError, match="members=3, not of members=2"):
        parts.set_params(members=2).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(whole))
    np.testing.assert_array_equal(loaded.predict(X), whole.predict(X))
    whole.coefs_[0] = whole.coefs_[0] * 0
    assert not np.array_equal(loaded.predict(X), whole.predict(X))


def test_one_file_and_one_graph(tmp_path):
    x, y = load_iris(return_X_y=True)
    for model in (regressor().fit(X, Y), MLPClassifier(**QUICK, members=K).fit(x, y)):
        save(model, tmp_path / "m.safetensors")
        loaded = load(tmp_path / "m.safetensors")
        assert loaded.members == K
        np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    runtime = pytest.importorskip("onnxruntime")
    from mlp_xp.saved.onnx_file.model import onnx_bytes

    session = runtime.InferenceSession(onnx_bytes(model, matrix_input=True))
    _, found = session.run(None, {"X": x.astype(np.float32)})
    np.testing.assert_allclose(found, model.predict_proba(x), rtol=1e-4, atol=1e-6)


def test_members_are_searched_for_and_streamed():
    search = GridSearchCV(regressor(), {"members": [None, 2]}, cv=2).fit(X, Y)
    assert search.best_params_["members"] in (None, 2)
    streamed = regressor().fit(Loader(X, Y, batch_size=30))
    assert streamed.coefs_[0].shape == (K, 4, 6)


def test_long_fits_are_compiled_for_members_too(monkeypatch):
    pytest.importorskip("numba")
    slow = regressor(max_iter=30).fit(X, Y)
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    fast = regressor(max_iter=30).fit(X, Y)
    np.testing.assert_allclose(fast.coefs_[0], slow.coefs_[0], rtol=1e-6, atol=1e-9)


def test_on_a_gpu_their_steps_are_captured(monkeypatch):
    """NumPy and a stand-in for the GPU's kernels are in its place."""
    options = {"clip_norm": 0.5, "alpha": 0.1, "dropout": 0.2, "learning_rate": "cosine"}
    expected, engine = regressor(**options).fit(X, Y), StandInEngine(members=K)
    monkeypatch.setattr(on_cuda, "engine_of", lambda *_: engine)
    monkeypatch.setattr(fitting, "device_for", lambda *_: Backend(np, "cpu", "float64", "cuda:0"))
    model = regressor(**options).fit(X, Y)
    assert (engine.graphs, engine.calls.count("launch")) == (1, 3 * 8 - on_cuda.EAGER_STEPS)
    for found, layer in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(found, layer, rtol=1e-9)
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_)


@pytest.mark.parametrize(
    ("more", "message"), [({"members": 0}, "members"), ({"solver": "lbfgs"}, "members=None")]
)
def test_what_members_cannot_be_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        regressor(**more).fit(X, Y)
    with pytest.raises(ValueError, match="axis of so many"):
        regressor().fit(X, Y, coef_init=[each[0] for each in starts()[0]])
    with pytest.warns(ConvergenceWarning):
        regressor().fit(X, Y)


def test_numbers_of_each_are_refused_by_estimators():
    for more in ({"solver": AdamW(weight_decay=[0.1, 0.2])}, {"solver": "adamw:weight_decay=0.1/0.2"}):
        with pytest.raises(
            ValueError, match=r"solver: weight_decay=\(0.1, 0.2\) are numbers for each member"
        ):
            MLPRegressor(members=2, **more).fit(X, Y)
