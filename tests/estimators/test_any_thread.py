"""A thread starts on the first of several devices: whatever computes on another one selects it first."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.estimators import fitting
from mlp_xp.machine.array_api import Backend
from mlp_xp.machine.staging import Runtime

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

x = np.random.default_rng(0).normal(size=(40, 3))
real, label = x[:, 0] * x[:, 1], (x[:, 0] > 0).astype(int)


class Current(Runtime):
    """Knows which threads have selected the device."""

    def __init__(self):
        self.of_thread = threading.local()

    def select(self):
        self.of_thread.selected = True


class Watched:
    """NumPy, whose functions ask whether the calling thread has selected the device."""

    def __init__(self, runtime):
        self.runtime = runtime

    def __getattr__(self, name):
        found = getattr(np, name)
        if callable(found) and not isinstance(found, type) and not name.startswith("__"):
            assert hasattr(self.runtime.of_thread, "selected"), f"{name} on the device that was current"
        return found


@pytest.fixture
def another_device(monkeypatch):
    runtime = Current()
    backend = Backend(Watched(runtime), "cpu", "float64", "another", runtime=runtime)
    monkeypatch.setattr(fitting, "device_for", lambda x, wanted: backend)
    runtime.select()  # as making a network there does


def in_a_new_thread(f, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f, *arguments).result()


OPTIONS = [{"solver": "lbfgs"}, {}, {"early_stopping": True}, {"dropout": 0.2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "y"), [(MLPRegressor, real), (MLPClassifier, label)])
def test_a_fit_goes_on(kind, y, options, another_device):
    model = kind(hidden_layer_sizes=(4,), max_iter=3, random_state=0, warm_start=True, **options).fit(x, y)
    in_a_new_thread(model.fit, x, y)


@pytest.mark.parametrize(("kind", "y"), [(MLPRegressor, real), (MLPClassifier, label)])
def test_what_a_fit_is_asked(kind, y, another_device):
    model = kind(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(x, y)
    for ask in (model.predict, model.hidden_activations, model.input_gradient):
        np.testing.assert_array_equal(in_a_new_thread(ask, x), ask(x))
    in_a_new_thread(model.partial_fit, x, y)
