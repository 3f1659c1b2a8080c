"""Arrays on a device that computes are fitted, scored and predicted where they are.

Other libraries' arrays stand for CuPy's on a GPU: the estimators are told that they stay.
"""

import threading

import numpy as np
import pytest
from arrays import host
from sklearn.datasets import make_classification

from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.estimators import fitting, perceptron
from mlp_xp.machine import array_api
from mlp_xp.machine.staging import Runtime
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.device_arrays import ResidentSource

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

x, y = make_classification(60, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
real = np.column_stack([x[:, 0] + np.sin(x[:, 1]), x[:, 2]])
weight = np.linspace(0.5, 2, 60)


@pytest.fixture
def there(backend, given, monkeypatch):
    """What sends an array to a device where it stays; the host may read anything but rows of x."""
    sample = backend.zeros((1,))
    if isinstance(sample, np.ndarray):
        pytest.skip("NumPy's arrays are on the host")

    def stays(each):
        return isinstance(each, type(sample))

    def to_host(each, read=array_api.to_host):
        assert not stays(each) or each.shape[1:] != x.shape[1:], "rows of x were brought to the host"
        return read(each)

    for module in (fitting, perceptron):
        monkeypatch.setattr(module, "stays", stays)
    monkeypatch.setattr(fitting, "device_for", lambda each, wanted: backend)
    monkeypatch.setattr(ResidentSource, "rows", None)
    monkeypatch.setattr(array_api, "to_host", to_host)
    return given


def same(found, expected, rtol):
    np.testing.assert_allclose(host(found), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_what_stands_for_rows_that_stay_takes_no_memory(there, monkeypatch):
    """A copy would be n_rows × n_features bytes at every fit."""
    seen, inner = [], fitting.validate_data
    monkeypatch.setattr(
        fitting, "validate_data", lambda *given, **named: seen.append(inner(*given, **named)) or seen[-1]
    )
    MLPRegressor(hidden_layer_sizes=(3,), max_iter=1).fit(there(x), there(real))
    assert seen[0][0].strides == (0, 0)


@pytest.mark.parametrize("overlaps", [False, True])
def test_rows_in_memory_are_gathered_ahead_for_a_device_that_works_beside_the_host(overlaps, monkeypatch):
    threads, rows = set(), ArraySource.rows
    monkeypatch.setattr(Runtime, "overlaps", overlaps)
    monkeypatch.setattr(
        ArraySource, "rows", lambda *given: threads.add(threading.current_thread().name) or rows(*given)
    )
    model = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, batch_size=10, random_state=0).fit(x, real)
    assert ("mlp_xp prefetch" in threads) == overlaps
    monkeypatch.undo()
    again = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, batch_size=10, random_state=0).fit(x, real)
    np.testing.assert_array_equal(model.coefs_[0], again.coefs_[0])


OPTIONS = [{"early_stopping": True, "validation_fraction": 0.2}, {"solver": "lbfgs"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "target"), [(MLPClassifier, y), (MLPRegressor, real)])
def test_the_fit_is_that_of_the_host(kind, target, options, there, backend):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 3, "batch_size": 16, "random_state": 0} | options
    send = there(x), there(target, "int32" if kind is MLPClassifier else None), there(weight)
    model = kind(**settings).fit(*send)
    on_host = kind(dtype=backend.dtype_name, **settings).fit(host(send[0]), host(send[1]), host(send[2]))
    rtol = 1e-9 if backend.dtype_name == "float64" else 1e-3
    assert isinstance(model.coefs_[0], type(send[0]))
    same(model.coefs_[0], on_host.coefs_[0], rtol)
    for method in (model.predict_proba if kind is MLPClassifier else model.predict, model.input_gradient):
        found = method(send[0])
        assert isinstance(found, type(send[0]))
        same(found, getattr(on_host, method.__name__)(host(send[0])), rtol)
    same(model.hidden_activations(send[0])[0], on_host.hidden_activations(host(send[0]))[0], rtol)
    assert model.score(*send) == pytest.approx(on_host.score(*map(host, send)), rel=rtol)


def test_numpy_in_numpy_out_wherever_it_is_computed(there, backend):
    options = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "dtype": backend.dtype_name}
    data = x.astype(backend.dtype_name)
    model = MLPClassifier(**options).fit(data, y)
    assert isinstance(model.network.parameters.flat, type(backend.zeros((1,))))
    for found in (*model.coefs_, model.predict(data), model.predict_proba(data), model.input_gradient(data)):
        assert isinstance(found, np.ndarray)
    with pytest.raises(ValueError, match="read-only"):
        model.coefs_[0][0, 0] = 1.0  # a copy: writing it would change nothing
    with pytest.raises(ValueError, match="go on with the same library and device"):
        model.partial_fit(there(x), there(y, "int32"))


def test_partial_fit_and_validation_rows_of_ones_own(there, backend):
    options = {"hidden_layer_sizes": (6,), "random_state": 0}
    model, on_host = MLPRegressor(**options), MLPRegressor(dtype=backend.dtype_name, **options)
    for each, send in ((model, there), (on_host, lambda a: host(there(a)))):
        for _ in range(3):
            each.partial_fit(send(x), send(real), X_val=send(x), y_val=send(real))
    found, expected = model.validation_loss_curve_, on_host.validation_loss_curve_
    np.testing.assert_allclose(found, expected, rtol=1e-9 if backend.dtype_name == "float64" else 1e-4)


def test_bad_arrays_are_refused_where_they_are(there):
    hole = x.copy()
    hole[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"x\[3, 2\] is nan"):
        MLPRegressor().fit(there(hole), there(real))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MLPRegressor().fit(there(x), there(real[:5]))
    with pytest.raises(ValueError, match="Expected 2D array"):
        MLPRegressor().fit(there(x[:, 0]), there(real))
    model = MLPRegressor(max_iter=2).fit(there(x), there(real))
    with pytest.raises(ValueError, match=r"x\[3, 2\] is nan"):
        model.predict(there(hole))
    with pytest.raises(ValueError, match="has 3 features, but MLPRegressor is expecting 5"):
        model.predict(there(x[:, :3]))
