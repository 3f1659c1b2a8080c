"""The estimators where scikit-learn's are used: parameters, clones, pickles, searches, inputs, errors."""

import concurrent.futures
import copy
import importlib
import inspect
import pickle
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network as peers
from scikit_learn_checks import SINCE_1_9
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.estimators.array_home import device_for
from mlp_xp.optimizers import LBFGS

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

PAIRS = [(MLPClassifier, peers.MLPClassifier), (MLPRegressor, peers.MLPRegressor)]
x, y = make_classification(120, 6, n_informative=4, n_classes=3, random_state=0)
real = x[:, 0] + np.sin(x[:, 1])


def fitted(kind=MLPClassifier, **parameters):
    target = y if kind is MLPClassifier else real
    return kind(**({"random_state": 0, "max_iter": 20} | parameters)).fit(x, target)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_parameters_begin_with_scikit_learns_in_its_order(ours, theirs):
    wanted = list(inspect.signature(theirs.__init__).parameters.values())
    found = list(inspect.signature(ours.__init__).parameters.values())[: len(wanted)]
    assert [(p.name, p.default, p.kind) for p in found] == [(p.name, p.default, p.kind) for p in wanted]
    for method in ("fit", "partial_fit", "predict", "score"):
        names = list(inspect.signature(getattr(theirs, method)).parameters)
        assert list(inspect.signature(getattr(ours, method)).parameters)[: len(names)] == names


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_the_docstring_has_every_parameter_and_attribute(kind):
    def named(section):
        text = re.search(rf"^{section}\n-+\n(.*?)\n\n", inspect.getdoc(kind), re.DOTALL | re.MULTILINE)[1]
        return [name for line in re.findall(r"^\S.*?(?= :)", text, re.MULTILINE) for name in line.split(", ")]

    assert sorted(named("Parameters")) == sorted(inspect.signature(kind).parameters)
    model = fitted(kind, early_stopping=True, max_iter=2)
    public = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    found = named("Attributes")
    assert len(found) == len(set(found))
    assert public <= set(found)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("solver", ["adam", "sgd", pytest.param("lbfgs", marks=SINCE_1_9)])
@pytest.mark.parametrize("early", [False, True])
def test_every_method_and_fitted_attribute(ours, theirs, solver, early):
    target = y if ours is MLPClassifier else real
    mine, other = (
        kind(solver=solver, early_stopping=early, max_iter=5).fit(x, target) for kind in (ours, theirs)
    )
    for name in dir(other):
        if name.startswith("_"):
            continue
        assert hasattr(mine, name), name
        if name.endswith("_") and not name.endswith("__"):
            assert isinstance(getattr(other, name), type(getattr(mine, name))), name


BAD = [
    ("hidden_layer_sizes", "no"),
    ("hidden_layer_sizes", -1),
    ("activation", "no"),
    ("solver", "no"),
    ("alpha", -1),
    ("batch_size", 0),
    ("learning_rate", "no"),
    ("learning_rate_init", 0),
    ("power_t", -1),
    ("max_iter", 0),
    ("shuffle", "no"),
    ("random_state", "no"),
    ("tol", -1),
    ("verbose", "no"),
    ("warm_start", "no"),
    ("momentum", 2),
    ("nesterovs_momentum", "no"),
    ("early_stopping", "no"),
    ("validation_fraction", 1),
    ("beta_1", 1),
    ("beta_2", -0.1),
    ("epsilon", 0),
    ("n_iter_no_change", 0),
    ("max_fun", 0),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize(("name", "value"), [*BAD, *((name, object()) for name, _ in BAD)])
def test_bad_parameters_are_refused_as_scikit_learn_refuses_them(ours, theirs, name, value):
    for kind in (ours, theirs):
        with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__} must be") as error:
            kind(**{name: value}).fit(x, y)
        assert isinstance(error.value, TypeError)
        assert str(error.value).count("' parameter of ") == 1  # no other one is blamed for it


def test_all_of_our_bad_options_are_refused_at_once():
    bad = {
        "device": 3,
        "dtype": "float16",
        "dropout": 1.0,
        "l1": -1,
        "regularizer": "ridge",
        "clip_norm": 0,
        "initializer": "glorot_unifrom",
        "scoring": 7,
        "time_budget": -1,
        "callback": "no",
        "activation": "rleu",
    }
    for kind, more in (
        (MLPClassifier, {"class_weight": "balance", "label_smoothing": 1}),
        (MLPRegressor, {"loss": "hubert"}),
    ):
        with pytest.raises(ValueError, match="must be") as error:
            kind(**bad, **more).fit(x, y)
        for name in {**bad, **more}:
            assert f"The '{name}' parameter of {kind.__name__} must be" in str(error.value)
        for remedy in ("did you mean 'relu'", "did you mean 'glorot_uniform'"):
            assert remedy in str(error.value)


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="lbfgs"):
        MLPRegressor(solver="lbfgs", dropout=0.5).fit(x, real)
    for solver in ("lbfgs:max_evaluations=5", LBFGS()):  # however it is named
        for more in ({"dropout": 0.5}, {"clip_norm": 1.0}, {"members": 2}):
            with pytest.raises(ValueError, match="works on all rows at once"):
                MLPRegressor(solver=solver, **more).fit(x, real)
    with pytest.raises(ValueError, match="dropout has 2 rates"):
        MLPRegressor(dropout=[0.5, 0.5]).fit(x, real)
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        MLPRegressor(hidden_layer_sizes=(3, -1)).fit(x, real)
    for size in (5.5, np.nan, "5", (5,)):
        with pytest.raises(ValueError, match="whole numbers of units"):
            MLPRegressor(hidden_layer_sizes=[size, 3]).fit(x, real)
    for held in ({"sample_weight_val": np.ones(len(x))}, {"X_val": x}, {"y_val": real}):
        with pytest.raises(ValueError, match="go together"):
            MLPRegressor().fit(x, real, **held)
    with pytest.raises(ValueError, match="intercept_init goes with coef_init"):
        MLPRegressor().fit(x, real, intercept_init=[np.zeros(100), np.zeros(1)])
    with pytest.raises(RuntimeError, match="cuda"):
        MLPRegressor(device="cuda:99").fit(x, real)
    with pytest.raises(ValueError, match="device"):
        MLPRegressor(device="gpu").fit(x, real)


@SINCE_1_9
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_bad_data_are_refused_as_scikit_learn_refuses_them(ours, theirs):
    target = y if ours is MLPClassifier else real
    holes = x.copy()
    holes[3, 2] = np.nan
    cases = [
        (holes, target, None),
        (x[:50], target, None),
        (x[:0], target[:0], None),
        (x[0], target, None),
        (x.astype(complex), target, None),
        (x, None, None),
        (x, target, np.ones(3)),
        (x, target, np.zeros(len(x))),
        (x, target, np.full(len(x), np.nan)),
    ]
    for data, wanted, weight in cases:
        errors = []
        for kind in (ours, theirs):
            with pytest.raises((ValueError, TypeError)) as error:
                kind(max_iter=2).fit(data, wanted, weight)
            errors.append(error.value)
        assert type(errors[0]) is type(errors[1])
        assert str(errors[0])[:40] == str(errors[1])[:40]
    for kind in (ours, theirs):
        with pytest.raises(NotFittedError):
            kind().predict(x)
        with pytest.raises(ValueError, match="has 3 features, but"):
            kind(max_iter=2).fit(x, target).predict(x[:, :3])
    with pytest.raises(ValueError, match="is negative"):
        ours().fit(x, target, -np.ones(len(x)))
    with pytest.raises(ValueError, match="X holds texts in column '0'"):
        ours().fit([["a"]] * len(x), target)


def test_bad_targets():
    with pytest.raises(ValueError, match="Unknown label type"):
        MLPClassifier().fit(x, real)
    with pytest.raises(ValueError, match=r"a name of their own: hidden_layer_sizes=\(10,\)"):
        MLPRegressor((10,)).fit(x, real)
    with pytest.raises(ValueError, match="needs targets >= 0"):
        MLPRegressor(loss="poisson").fit(x, real)
    model = MLPClassifier(warm_start=True, max_iter=2).fit(x, y)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        model.fit(x, y % 2)
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier().partial_fit(x, y)
    model = MLPClassifier().partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="`y` has classes not in"):
        model.partial_fit(x, y + 1)
    with pytest.warns(DataConversionWarning):
        MLPClassifier(max_iter=2).fit(x, y[:, None])
    with pytest.raises(ValueError, match="layer sizes"):
        model.set_params(hidden_layer_sizes=(3,)).partial_fit(x, y)
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
    assert hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True).fit(x[:5], real[:5])


def state_of(model):
    kept = sorted(set(vars(model)) - {"_built", "callback"})
    return pickle.dumps([(name, vars(model)[name]) for name in kept])


@pytest.mark.parametrize("options", [{}, {"warm_start": True}, {"warm_start": "continue"}, {"solver": "sgd"}])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(kind, options):
    target = y if kind is MLPClassifier else real

    def fail(progress):
        raise ZeroDivisionError

    never = kind(callback=fail)
    before = dict(vars(never))
    with pytest.raises(ZeroDivisionError):
        never.fit(x, target)
    assert vars(never) == before
    model = fitted(kind, **options)
    for method in ("fit", "partial_fit"):
        model.set_params(callback=fail)
        before, predicted = state_of(model), model.predict(x)
        with pytest.raises(ZeroDivisionError):
            getattr(model, method)(x[:90], target[:90])
        assert state_of(model) == before
        np.testing.assert_array_equal(model.predict(x), predicted)
        with pytest.raises(ValueError, match="NaN"):
            getattr(model, method)(np.full_like(x, np.nan), target)
        assert state_of(model) == before
        model.set_params(callback=None)
        getattr(model, method)(x, target)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_what_was_taken_from_a_fit_stays_as_it_was(kind):
    model = fitted(kind, warm_start="continue")
    other, weights, curve = copy.copy(model), model.coefs_[0], list(model.loss_curve_)
    predicted = model.predict(x)
    for method in (model.fit, model.partial_fit):
        method(x, y if kind is MLPClassifier else real)
        assert np.abs(model.coefs_[0] - weights).max() > 0
        assert other.loss_curve_ == curve
        np.testing.assert_array_equal(other.predict(x), predicted)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_clone_copy_and_pickle(kind):
    for solver in ("adam", "sgd", "lbfgs"):
        model = fitted(kind, solver=solver, early_stopping=solver == "adam")
        for other in (
            pickle.loads(pickle.dumps(model)),
            copy.deepcopy(model),
            copy.copy(model),
            clone(model).fit(x, y if kind is MLPClassifier else real),
        ):
            np.testing.assert_array_equal(other.predict(x), model.predict(x))
            assert other.get_params() == model.get_params()
        if solver != "lbfgs":
            target = y if kind is MLPClassifier else real
            model.set_params(early_stopping=False)
            other = pickle.loads(pickle.dumps(model)).partial_fit(x, target)
            np.testing.assert_array_equal(other.coefs_[0], model.partial_fit(x, target).coefs_[0])


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_pickles_are_no_larger(ours, theirs, solver):
    data, target = load_digits(return_X_y=True)
    for options in ({}, {"early_stopping": True}, {"hidden_layer_sizes": (10,)}):
        sizes = [
            len(pickle.dumps(kind(solver=solver, max_iter=10, **options).fit(data, target)))
            for kind in (ours, theirs)
        ]
        assert sizes[0] <= sizes[1]


def test_a_pickle_of_a_gpu_model_works_without_one():
    state = fitted().__getstate__()
    state["device_"] = "cuda:7"
    model = MLPClassifier.__new__(MLPClassifier)
    model.__setstate__(state)
    np.testing.assert_array_equal(model.predict(x), fitted().predict(x))
    assert model.device_ == "cpu"


def test_pipeline_and_search():
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=20, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.5
    theirs = make_pipeline(StandardScaler(), peers.MLPClassifier(max_iter=20, random_state=0))
    np.testing.assert_allclose(cross_val_score(pipeline, x, y, cv=3), cross_val_score(theirs, x, y, cv=3))


@pytest.mark.parametrize("library", ["pandas", pytest.param("polars", marks=SINCE_1_9)])
def test_feature_names(library, need):
    need(library)
    frames = importlib.import_module(library)
    names = list("abcdef")
    frame = frames.DataFrame({name: x[:, place] for place, name in enumerate(names)})
    model = MLPClassifier(random_state=0, max_iter=20).fit(frame, y)
    assert list(model.feature_names_in_) == names
    np.testing.assert_array_equal(model.predict(frame), fitted().predict(x))
    turned = frame[names[::-1]]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(turned)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(x)
    series = frames.Series(y)
    np.testing.assert_array_equal(MLPClassifier(random_state=0, max_iter=20).fit(frame, series).coefs_[0],
                                  model.coefs_[0])  # fmt: skip


@pytest.mark.parametrize("convert", [scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array])
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
def test_sparse_input(convert, options):
    thin = np.where(np.abs(x) > 1, x, 0)
    dense = MLPClassifier(random_state=0, max_iter=15, **options).fit(thin, y)
    model = MLPClassifier(random_state=0, max_iter=15, **options).fit(convert(thin), y)
    np.testing.assert_allclose(model.coefs_[0], dense.coefs_[0])
    np.testing.assert_allclose(model.predict_proba(convert(thin)), dense.predict_proba(thin))
    np.testing.assert_allclose(model.input_gradient(convert(thin)), dense.input_gradient(thin))


def test_sparse_multilabel_targets_give_sparse_predictions():
    labels = scipy.sparse.csr_matrix((x[:, :3] > 0).astype(int))
    ours, theirs = (kind(random_state=0, max_iter=30).fit(x, labels) for kind in PAIRS[0])
    assert scipy.sparse.issparse(theirs.predict(x))
    assert (ours.predict(x) != theirs.predict(x)).nnz == 0


def test_sparse_rows_are_made_dense_batch_by_batch():
    wide = scipy.sparse.random(40_000, 400, density=0.002, format="csr", random_state=0)
    target = np.arange(40_000) % 2
    tracemalloc.start()
    try:
        model = MLPClassifier((5,), max_iter=1, random_state=0).fit(wide, target)
        model.predict(wide)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6 < 8 * 40_000 * 400


def test_predictions_take_bounded_memory():
    model = fitted(MLPRegressor, hidden_layer_sizes=(500,), max_iter=2)
    many = np.zeros((100_000, 6))
    tracemalloc.start()
    try:
        model.predict(many)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6 < 8 * 100_000 * 500


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_float32_stays_float32(kind, solver):
    model = kind(solver=solver, max_iter=3).fit(x.astype("float32"), y)
    assert {each.dtype.name for each in model.coefs_ + model.intercepts_} == {"float32"}
    assert (model.predict_proba if kind is MLPClassifier else model.predict)(x).dtype == "float32"
    assert all(vector.dtype == "float32" for vector in model.hidden_activations(x))


def test_user_data_are_only_read():
    data, target, weight = x.copy(), y.copy(), np.ones(len(x))
    for array in (data, target, weight):
        array.flags.writeable = False
    MLPClassifier(max_iter=2).fit(data, target, weight).predict(data)


def test_eight_threads_predict_at_once():
    model = fitted(max_iter=50)
    parts = [x[turn % 7 :: 1 + turn % 3] for turn in range(64)]
    expected = [model.predict_proba(part) for part in parts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.predict_proba, parts))
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    restored = pickle.loads(pickle.dumps(model))
    restored.coefs_ = [c.copy() for c in restored.coefs_]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(restored.predict_proba, parts))
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_weights_that_a_user_writes_or_assigns_predict():
    model, theirs = (kind(random_state=0, max_iter=20).fit(x, real) for kind in PAIRS[1])
    for each in (model, theirs):
        each.coefs_[0][...] *= 2
    np.testing.assert_allclose(model.predict(x), theirs.predict(x))
    for each in (model, theirs):
        each.intercepts_ = [b + 1 for b in each.intercepts_]
    np.testing.assert_allclose(model.predict(x), theirs.predict(x))
    for each in (model, theirs):
        each.intercepts_[0][...] -= 3
    np.testing.assert_allclose(model.predict(x), theirs.predict(x))


@pytest.mark.needs("torch")
def test_arrays_of_other_libraries_need_no_dispatch():
    import array_api_strict as strict
    import torch

    expected = fitted()
    device = strict.Device("device1")
    for home, send in (
        (torch.Tensor, torch.asarray),
        (type(strict.zeros(1)), lambda a: strict.asarray(a, device=device)),
    ):
        model = MLPClassifier(random_state=0, max_iter=20).fit(send(x), send(y))
        for method in (model.predict, model.predict_proba, model.input_gradient):
            assert isinstance(method(send(x)), home)
        assert isinstance(model.coefs_[0], home)
        np.testing.assert_array_equal(np.asarray(model.predict(x)), expected.predict(x))
        assert model.score(send(x), send(y)) == expected.score(x, y)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict_proba(x), expected.predict_proba(x))


def test_a_clash_of_devices_is_an_error():
    class OnGpu:
        """What is asked of an array on a GPU before anything is computed."""

        def __array_namespace__(self, api_version=None):
            return np

        device = "gpu"

        def __dlpack_device__(self):
            return (2, 1)

    assert device_for(OnGpu(), None) == "cuda:1"
    assert device_for(OnGpu(), "cuda") == "cuda:1"
    assert device_for(x, "cuda") == "cuda"
    for wanted in ("cpu", "cuda:0"):
        with pytest.raises(ValueError, match="X is on cuda:1"):
            device_for(OnGpu(), wanted)


def test_verbose_says_what_scikit_learn_says(capsys):
    said = []
    for kind in PAIRS[0]:
        kind(random_state=0, max_iter=40, verbose=True, tol=0.05, n_iter_no_change=3).fit(x, y)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    for early in (False, True):
        said = []
        for kind in PAIRS[1]:
            kind(
                solver="sgd",
                learning_rate="adaptive",
                random_state=0,
                max_iter=60,
                verbose=True,
                tol=0.05,
                n_iter_no_change=3,
                early_stopping=early,
            ).fit(x, real)
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]


def test_without_scikit_learn_the_error_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
import mlp_xp
try:
    from mlp_xp import MLPClassifier
except ModuleNotFoundError as error:
    assert 'pip install "mlp-xp[sklearn]"' in str(error), error
else:
    raise SystemExit("it was imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
