"""Random options of the estimators, and of scikit-learn's: the same losses, weights and predictions.

python -m tests.campaigns.peers --times 200
python -m tests.campaigns.peers --minutes 5 --seed 3
"""

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn.neural_network as theirs

from mlp_xp import MLPClassifier, MLPRegressor
from tests.campaigns import draws

CLOSE = 1e-7


def check(drawn: random.Random, _: Path) -> None:
    """One set of options."""
    rng = np.random.default_rng(drawn.randrange(2**32))
    n_rows, n_features = drawn.choice((20, 75, 240)), drawn.choice((1, 4, 11))
    x = rng.normal(size=(n_rows, n_features))
    kind = drawn.choice(("one", "two", "binary", "several", "labels"))
    y = {
        "one": lambda: np.sin(x[:, 0]),
        "two": lambda: np.column_stack([x[:, 0], x.sum(axis=1)]),
        "binary": lambda: np.where(x[:, 0] > 0, "yes", "no"),
        "several": lambda: rng.integers(0, 4, n_rows) * 10,
        "labels": lambda: (rng.random((n_rows, 3)) < 0.4).astype(int),
    }[kind]()
    solver = drawn.choice(("sgd", "adam"))
    options = {
        "hidden_layer_sizes": tuple(drawn.choice((1, 5, 20)) for _ in range(drawn.randint(0, 3))),
        "activation": drawn.choice(("identity", "logistic", "tanh", "relu")),
        "solver": solver,
        "alpha": drawn.choice((0.0, 1e-4, 0.1)),
        "batch_size": drawn.choice(("auto", 1, 7, 64)) if n_rows < 100 else drawn.choice(("auto", 32)),
        "learning_rate_init": drawn.choice((1e-3, 1e-2)),
        "max_iter": drawn.choice((1, 4, 9)),
        "shuffle": drawn.random() < 0.7,
        "tol": drawn.choice((1e-4, 1e-2)),
        "n_iter_no_change": drawn.choice((2, 10)),
        "random_state": drawn.randrange(1000),
    }
    if solver == "sgd":
        options |= {
            "learning_rate": drawn.choice(("constant", "invscaling", "adaptive")),
            "momentum": drawn.choice((0.0, 0.9)),
            "nesterovs_momentum": drawn.random() < 0.5,
            "power_t": drawn.choice((0.5, 0.2)),
        }
    else:
        options |= {"beta_1": drawn.choice((0.9, 0.5)), "epsilon": drawn.choice((1e-8, 1e-3))}
    if kind != "labels" and n_rows > 20 and drawn.random() < 0.3:
        options |= {"early_stopping": True, "validation_fraction": drawn.choice((0.1, 0.3))}
    name = "MLPRegressor" if kind in ("one", "two") else "MLPClassifier"
    ours = {"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}[name](**options)
    peer = getattr(theirs, name)(**options)
    what = f"{kind}, {n_rows} rows, {options}"
    (refused, why), (refused_too, _) = (diverges(each, x, y) for each in (ours, peer))
    assert refused == refused_too, f"{what}: {why}"
    if refused:
        return
    assert ours.n_iter_ == peer.n_iter_, what
    same(ours.loss_curve_, peer.loss_curve_, what)
    for one, other in zip((*ours.coefs_, *ours.intercepts_), (*peer.coefs_, *peer.intercepts_), strict=True):
        same(one, other, what)
    if name == "MLPRegressor":
        same(ours.predict(x), peer.predict(x), what)
    else:
        same(ours.predict_proba(x), peer.predict_proba(x), what)
        assert np.mean(ours.predict(x) == peer.predict(x)) > 0.99, what


def diverges(estimator, x: np.ndarray, y: np.ndarray) -> tuple[bool, str]:
    """Fit; whether that was refused as it diverged, and how."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            estimator.fit(x, y)
        except ValueError as error:
            return True, str(error)
    return False, ""


def same(ours: np.ndarray, other: np.ndarray, what: str) -> None:
    """Compare relative to the largest."""
    ours, other = np.asarray(ours, float), np.asarray(other, float)
    most = float(np.abs(other).max(initial=0.0))
    np.testing.assert_allclose(ours, other, rtol=CLOSE, atol=CLOSE * most, err_msg=what)


if __name__ == "__main__":
    sys.exit(draws.main(check, "peers", "The estimators agree with scikit-learn in"))
