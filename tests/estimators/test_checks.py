"""scikit-learn's own checks of estimators, Array API checks included: none fails, none is skipped but those
for libraries and devices that this machine has not, and of a `decision_function`, which its own classes have
not either."""

import os
import subprocess
import sys
import unittest

import backends
import pytest
import sklearn
from scikit_learn_checks import with_checks

from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.machine import cuda

pytestmark = pytest.mark.needs("sklearn")

INSTANCES = [
    MLPClassifier(),
    MLPRegressor(),
    MLPClassifier(
        members=2,
        solver="adamw",
        learning_rate="cosine",
        activation=["gelu"],
        initializer="he_normal",
        learning_rate_init=0.01,
        clip_norm=10.0,
        l1=1e-6,
        label_smoothing=0.01,
        n_iter_no_change=50,
        max_iter=60,
    ),
    MLPRegressor(
        members=2,
        loss="huber:delta=10",
        solver="nadam",
        learning_rate="reduce_on_plateau",
        activation=["silu"],
        learning_rate_init=0.05,
        max_iter=60,
    ),
    MLPClassifier(solver="lbfgs", alpha=0.1, max_iter=30),
]


SKLEARN = tuple(map(int, sklearn.__version__.split(".")[:2]))
MAY_SKIP = ("cupy", "dpnp", "cuda", "xpu", "mps", "decision_function")


@with_checks(INSTANCES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:y has a single class:RuntimeWarning")  # as one check wants it
def test_scikit_learns_checks(estimator, check):
    if getattr(check, "keywords", {}).get("array_namespace") == "cupy" and (problem := cuda.problem()):
        pytest.skip(problem.reason)  # scikit-learn asks only whether CuPy is installed
    if "array_namespace" in getattr(check, "keywords", {}) and SKLEARN < (1, 9):
        pytest.skip("scikit-learn before 1.9 wants even class labels in the library of X")
    try:
        check(estimator)
        return
    except (unittest.SkipTest, pytest.skip.Exception) as skipped:
        why = str(skipped)
    needed = [*MAY_SKIP, *(each for each in ("torch", "pandas") if not backends.is_here(each))]
    assert any(library in why.lower() for library in needed), why
    pytest.skip(why)


OF_PRIVATE_ATTRIBUTES = ("test_gradient", "test_learning_rate_warmstart", "test_adaptive_learning_rate")


@pytest.mark.skipif(not sklearn.__version__.startswith("1.9."), reason="the tests of scikit-learn 1.9")
def test_scikit_learns_own_tests_of_its_two_classes_pass_with_ours(tmp_path):
    code = """
import sys
import sklearn.neural_network
import mlp_xp
import pytest

sklearn.neural_network.MLPClassifier = mlp_xp.MLPClassifier
sklearn.neural_network.MLPRegressor = mlp_xp.MLPRegressor
sys.exit(pytest.main(sys.argv[1:]))
"""
    module = "sklearn.neural_network.tests.test_mlp"
    private = " or ".join(OF_PRIVATE_ATTRIBUTES)
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-c", code, *options, "-k", f"not ({private})", "--pyargs", module],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
