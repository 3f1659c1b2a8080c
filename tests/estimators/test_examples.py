"""What scikit-learn's examples do with its two classes, done with ours: the same numbers.

The calls of each example, on data that need no download.
"""

import numpy as np
import pytest
import sklearn.neural_network as peers
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_circles, make_moons
from sklearn.inspection import DecisionBoundaryDisplay, PartialDependenceDisplay, partial_dependence
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler

from mlp_xp import MLPClassifier, MLPRegressor

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

CLASSIFIERS, REGRESSORS = (MLPClassifier, peers.MLPClassifier), (MLPRegressor, peers.MLPRegressor)

STRATEGIES = [
    {"solver": "sgd", "learning_rate": "constant", "momentum": 0, "learning_rate_init": 0.2},
    {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False, "learning_rate_init": 0.2},
    {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True, "learning_rate_init": 0.2},
    {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0, "learning_rate_init": 0.2},
    {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "nesterovs_momentum": False,
        "learning_rate_init": 0.2,
    },
    {"solver": "adam", "learning_rate_init": 0.01},
]
SETS = {
    "iris": (load_iris(return_X_y=True), 400),
    "digits": (load_digits(return_X_y=True), 15),
    "circles": (make_circles(noise=0.2, factor=0.5, random_state=1), 400),
    "moons": (make_moons(noise=0.3, random_state=0), 400),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: "-".join(map(str, s.values())))
def test_training_curves_of_strategies(name, strategy):
    """plot_mlp_training_curves"""
    (x, y), max_iter = SETS[name]
    x = MinMaxScaler().fit_transform(x)
    ours, theirs = (
        kind(random_state=0, max_iter=max_iter, verbose=0, **strategy).fit(x, y) for kind in CLASSIFIERS
    )
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)
    assert ours.score(x, y) == theirs.score(x, y)


@pytest.mark.parametrize("alpha", np.logspace(-1, 1, 5))
def test_decision_functions_of_penalties(alpha):
    """plot_mlp_alpha: L-BFGS, which ends in one minimum or the other by rounding where alpha is small"""
    x, y = make_moons(noise=0.3, random_state=0)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.4, random_state=42)
    ours, theirs = (
        make_pipeline(
            StandardScaler(),
            kind(
                solver="lbfgs",
                alpha=alpha,
                random_state=1,
                max_iter=2000,
                early_stopping=True,
                hidden_layer_sizes=[10, 10],
            ),
        ).fit(x_train, y_train)
        for kind in CLASSIFIERS
    )
    mesh = np.stack(np.meshgrid(np.linspace(-2, 3, 20), np.linspace(-2, 2, 20)), axis=-1).reshape(-1, 2)
    assert not hasattr(ours, "decision_function")
    assert ours.predict_proba(mesh)[:, 1].shape == (400,)
    assert abs(ours.score(x_test, y_test) - theirs.score(x_test, y_test)) < 0.1
    assert ours[-1].loss_ <= 1.05 * theirs[-1].loss_


def test_filters_of_the_first_layer(capsys):
    """plot_mnist_filters"""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16.0, y, random_state=0, test_size=0.7)
    said, models = [], []
    for kind in CLASSIFIERS:
        model = kind(
            hidden_layer_sizes=(40,),
            max_iter=8,
            alpha=1e-4,
            solver="sgd",
            verbose=10,
            random_state=1,
            learning_rate_init=0.2,
        )
        models.append(model.fit(x_train, y_train))
        said.append(capsys.readouterr().out)
    ours, theirs = models
    assert said[0] == said[1]
    assert ours.score(x_test, y_test) == theirs.score(x_test, y_test)
    for mine, other in zip(ours.coefs_[0].T, theirs.coefs_[0].T, strict=True):
        np.testing.assert_allclose(mine.reshape(8, 8), other.reshape(8, 8), atol=1e-9)


@pytest.mark.needs("matplotlib")
def test_partial_dependence():
    """plot_partial_dependence"""
    import matplotlib as mpl

    mpl.use("agg")
    data = load_diabetes()
    names = data.feature_names
    models = [
        make_pipeline(
            QuantileTransformer(n_quantiles=100),
            kind(
                hidden_layer_sizes=(30, 15),
                learning_rate_init=0.01,
                early_stopping=True,
                random_state=0,
            ),
        ).fit(data.data, data.target)
        for kind in REGRESSORS
    ]
    for features in ([2], [2, 3]):
        found, expected = (
            partial_dependence(model, data.data, features, kind="average", grid_resolution=10)["average"]
            for model in models
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    options = {"feature_names": names, "kind": "both", "subsample": 20, "grid_resolution": 10}
    shown = PartialDependenceDisplay.from_estimator(models[0], data.data, ["bmi", "bp"], **options)
    assert shown.lines_.shape[:2] == (1, 2)


@pytest.mark.needs("matplotlib")
def test_decision_boundaries_of_a_pipeline():
    """plot_classifier_comparison"""
    import matplotlib as mpl

    mpl.use("agg")
    x, y = make_circles(noise=0.2, factor=0.5, random_state=1)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.4, random_state=42)
    responses = []
    for kind in CLASSIFIERS:
        model = make_pipeline(StandardScaler(), kind(alpha=1, max_iter=1000, random_state=42))
        model.fit(x_train, y_train)
        shown = DecisionBoundaryDisplay.from_estimator(model, x, alpha=0.8, eps=0.5, grid_resolution=20)
        responses.append((model.score(x_test, y_test), shown.response))
    (ours, mine), (theirs, other) = responses
    assert ours == theirs
    np.testing.assert_allclose(mine, other, atol=1e-6)
