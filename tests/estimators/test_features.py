"""What users asked scikit-learn for: the estimators' own options."""

import math
import pickle

import numpy as np
import pytest
from scikit_learn_checks import SINCE_1_9
from sklearn.datasets import load_diabetes, load_iris, make_classification
from sklearn.metrics import log_loss, mean_absolute_error, r2_score

import mlp_xp.optimizers
from mlp_xp import MLPClassifier, MLPRegressor
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.schedules import SCHEDULES, Cosine

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

x, y = make_classification(200, 8, n_informative=5, n_classes=3, random_state=0)
real = np.column_stack([np.sin(x[:, 0]) + x[:, 1], np.tanh(x[:, 2])])


def regressor(**parameters):
    return MLPRegressor(**({"random_state": 0, "hidden_layer_sizes": (20,), "max_iter": 60} | parameters))


def classifier(**parameters):
    return MLPClassifier(**({"random_state": 0, "hidden_layer_sizes": (20,), "max_iter": 60} | parameters))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    model = regressor(activation=activation, learning_rate_init=0.01).fit(x, real[:, 0])
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]


def test_one_activation_a_layer_and_a_users_own_pair():
    pair = (lambda z: np.sqrt(1 + z * z), lambda z: z / np.sqrt(1 + z * z))
    model = classifier(
        hidden_layer_sizes=(9, 8, 7), activation=["tanh", pair, "gelu"], learning_rate_init=0.02
    )
    assert model.fit(x, y).score(x, y) > 0.85
    with pytest.raises(ValueError, match="activation"):
        classifier(hidden_layer_sizes=(9, 8), activation=["tanh"] * 5).fit(x, y)


@pytest.mark.parametrize("solver", [*OPTIMIZERS, "adamw:weight_decay=0.1", mlp_xp.optimizers.RMSprop(0.9)])
def test_every_solver_by_name_or_object(solver):
    first, model = (
        regressor(solver=solver, learning_rate_init=0.005, **more).fit(x, real[:, 0])
        for more in ({"max_iter": 1}, {})
    )
    assert model.loss_ < first.loss_


@pytest.mark.parametrize("schedule", [*SCHEDULES, Cosine(30), "step:every=10,factor=0.5"])
def test_every_schedule_by_name_or_object(schedule):
    model = regressor(learning_rate=schedule, learning_rate_init=0.01, max_iter=80).fit(x, real[:, 0])
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_a_schedule_changes_the_rate():
    seen = []
    regressor(
        learning_rate="step:every=2,factor=0.5", max_iter=6, callback=lambda p: seen.append(p.learning_rate)
    ).fit(x, real)
    np.testing.assert_allclose(seen, np.array([1, 1, 0.5, 0.5, 0.25, 0.25]) * 1e-3)


def test_absolute_error_estimates_the_median():
    target = np.exp(3 * np.random.RandomState(0).rand(400))
    constant = np.zeros((400, 1))
    model = regressor(loss="absolute_error", learning_rate_init=0.05, max_iter=300).fit(constant, target)
    least = np.abs(target - np.median(target)).mean()
    assert mean_absolute_error(target, model.predict(constant)) == pytest.approx(least, rel=0.01)


def test_pinball_gives_several_quantiles_in_order():
    generator = np.random.RandomState(0)
    data = generator.uniform(-1, 1, (2000, 1))
    target = data[:, 0] + generator.normal(size=2000) * 0.5
    quantiles = (0.1, 0.5, 0.9)
    model = regressor(loss="pinball:quantiles=0.1/0.5/0.9", learning_rate_init=0.01, max_iter=100).fit(
        data, target
    )
    predicted = model.predict(data)
    assert predicted.shape == (2000, 3)
    assert (np.diff(predicted, axis=1) >= 0).all()
    for column, quantile in zip(predicted.T, quantiles, strict=True):
        assert np.mean(target <= column) == pytest.approx(quantile, abs=0.05)
    assert 0.2 < model.score(data, target) < 1
    assert regressor(loss="pinball:quantiles=0.25/0.75").fit(x, real).predict(x).shape == (200, 4)


def test_huber_and_poisson():
    target = real[:, 0].copy()
    target[:20] += 100
    model = regressor(loss="huber:delta=1", learning_rate_init=0.01, max_iter=200).fit(x, target)
    assert mean_absolute_error(real[20:, 0], model.predict(x)[20:]) < 0.6
    counts = np.random.RandomState(0).poisson(np.exp(real[:, 0] / 2))
    assert (regressor(loss="poisson").fit(x, counts).predict(x) > 0).all()


def test_label_smoothing_keeps_probabilities_from_0_and_1():
    for target in (y, y > 0):
        sharp = classifier(max_iter=400, learning_rate_init=0.02).fit(x, target).predict_proba(x)
        smooth = classifier(max_iter=400, learning_rate_init=0.02, label_smoothing=0.2).fit(x, target)
        assert smooth.predict_proba(x).max() < 0.995 < sharp.max()
        assert smooth.score(x, target) > 0.9


TWO, SEVERAL = (y > 0).astype(int), np.column_stack([y > 0, y > 1]).astype(int)
HELD_OUT = {  # targets, and from their probabilities those of what is there
    "two classes": (TWO, lambda p: p[np.arange(len(x)), TWO]),
    "several": (y, lambda p: p[np.arange(len(x)), y]),
    "labels": (SEVERAL, lambda p: np.where(SEVERAL, p, 1 - p).prod(axis=1)),
}


@pytest.mark.parametrize(("target", "of_right_ones"), HELD_OUT.values(), ids=HELD_OUT)
def test_rows_held_out_are_judged_without_the_smoothing_of_labels(target, of_right_ones):
    options = {"max_iter": 3, "label_smoothing": 0.3, "early_stopping": True, "scoring": "loss"}
    model = classifier(**options, tol=0, n_iter_no_change=99).fit(x, target, X_val=x, y_val=target)
    expected = np.mean(-np.log(of_right_ones(model.predict_proba(x))))
    assert min(model.validation_loss_curve_) == pytest.approx(expected, rel=1e-5)


def test_dropout_changes_training_only():
    plain, dropped = (classifier(dropout=p).fit(x, y) for p in (0.0, 0.3))
    assert not np.allclose(plain.coefs_[0], dropped.coefs_[0])
    np.testing.assert_array_equal(dropped.predict_proba(x), dropped.predict_proba(x))
    again = classifier(dropout=[0.3]).fit(x, y)
    np.testing.assert_array_equal(again.coefs_[0], dropped.coefs_[0])


def test_l1_beside_alpha_drives_weights_to_zero():
    plain, sparse = (
        regressor(l1=l1, max_iter=300, learning_rate_init=0.01).fit(x, real[:, 0]) for l1 in (0.0, 2.0)
    )
    assert np.mean(np.abs(sparse.coefs_[0]) < 1e-2) > 0.5 > np.mean(np.abs(plain.coefs_[0]) < 1e-2)


def test_class_weight_is_sample_weight():
    weights = {0: 1.0, 1: 5.0, 2: 0.5}
    by_class = classifier(class_weight=weights).fit(x, y)
    by_row = classifier().fit(x, y, sample_weight=[weights[k] for k in y])
    np.testing.assert_array_equal(by_class.coefs_[0], by_row.coefs_[0])
    rare = np.where(np.arange(200) % 40, 0, 1)
    counted = [classifier(class_weight=w).fit(x, rare).predict(x).sum() for w in (None, "balanced")]
    assert counted[0] < counted[1]
    with pytest.raises(ValueError, match="balanced"):
        classifier(class_weight="balanced").partial_fit(x, y, classes=[0, 1, 2])


def test_gradient_clipping():
    free = regressor(solver="sgd", learning_rate_init=0.01, max_iter=3).fit(x, 1e3 * real)
    clipped = regressor(solver="sgd", learning_rate_init=0.01, max_iter=3, clip_norm=1.0).fit(x, 1e3 * real)
    moved = [np.abs(m.coefs_[1]).max() for m in (free, clipped)]
    assert moved[1] < 1 < moved[0]


def test_own_validation_set_and_loss_curves():
    model = classifier(max_iter=10).fit(x[:150], y[:150], X_val=x[150:], y_val=y[150:])
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == 10
    expected = log_loss(y[150:], model.predict_proba(x[150:]))
    assert model.validation_loss_curve_[-1] == pytest.approx(expected)
    assert model.validation_scores_[-1] == pytest.approx(model.score(x[150:], y[150:]))
    weight = np.linspace(0, 1, 50)
    weighted = classifier(max_iter=10).fit(
        x[:150], y[:150], X_val=x[150:], y_val=y[150:], sample_weight_val=weight
    )
    expected = log_loss(y[150:], weighted.predict_proba(x[150:]), sample_weight=weight)
    assert weighted.validation_loss_curve_[-1] == pytest.approx(expected)
    with pytest.raises(ValueError, match="X_val and y_val go together"):
        classifier().fit(x, y, X_val=x)


def own_scorer(model, x, y):
    return -abs(r2_score(y, model.predict(x)) - 1)


@pytest.mark.parametrize("scoring", ["loss", None, "neg_mean_absolute_error", own_scorer])
def test_early_stopping_on_loss_score_or_scorer(scoring):
    model = regressor(
        early_stopping=True, scoring=scoring, max_iter=500, learning_rate_init=0.02, n_iter_no_change=5
    ).fit(x[:150], real[:150], X_val=x[150:], y_val=real[150:])
    assert model.n_iter_ < 500
    assert "did not improve" in model.stopped_
    if scoring == "loss":
        best = min(model.validation_loss_curve_)
        assert model.best_validation_loss_ == best
        assert np.mean((model.predict(x[150:]) - real[150:]) ** 2) / 2 == pytest.approx(best)
    else:
        best = max(model.validation_scores_)
        assert model.best_validation_score_ == best
    if scoring == "neg_mean_absolute_error":
        assert -mean_absolute_error(real[150:], model.predict(x[150:])) == pytest.approx(best)


def test_partial_fit_with_early_stopping_keeps_the_best_and_goes_on_from_the_latest():
    model = classifier(early_stopping=True, learning_rate_init=0.1)
    plain = classifier(learning_rate_init=0.1)
    for _ in range(40):
        model.partial_fit(x[:150], y[:150], classes=[0, 1, 2], X_val=x[150:], y_val=y[150:])
        plain.partial_fit(x[:150], y[:150], classes=[0, 1, 2])
    np.testing.assert_allclose(model.loss_curve_, plain.loss_curve_)
    assert model.score(x[150:], y[150:]) == max(model.validation_scores_) == model.best_validation_score_
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True without"):
        classifier(early_stopping=True).partial_fit(x, y, classes=[0, 1, 2])


def test_partial_fit_of_multilabel():
    labels = (x[:, :3] > 0).astype(int)
    model = classifier(learning_rate_init=0.05)
    for _ in range(60):
        model.partial_fit(x, labels)
    assert model.score(x, labels) > 0.7
    assert model.predict(x).shape == labels.shape


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
        {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "learning_rate_init": 0.3},
        {"solver": "nadam", "learning_rate": "cosine:n_epochs=20", "dropout": 0.2},
        {"learning_rate": "reduce_on_plateau:patience=2"},
        {"early_stopping": True, "learning_rate_init": 0.01},
        {"early_stopping": True, "scoring": "loss", "learning_rate_init": 0.05},
        {"shuffle": False},
    ],
    ids=str,
)
def test_warm_start_continue_really_goes_on(options):
    whole, parts = in_one_fit_and_in_many(24, options)
    assert parts.loss_curve_ == whole.loss_curve_
    for mine, other in zip(parts.coefs_ + parts.intercepts_, whole.coefs_ + whole.intercepts_, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert parts.t_ == whole.t_


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_300_fits_of_one_epoch_are_one_of_300(solver):
    whole, parts = in_one_fit_and_in_many(300, {"solver": solver})
    assert len(parts.loss_curve_) == 300
    assert parts.loss_curve_ == whole.loss_curve_
    np.testing.assert_array_equal(parts.coefs_[0], whole.coefs_[0])


def in_one_fit_and_in_many(n_epochs, options):
    """A fit of so many epochs, and so many of one, with a pickle between."""
    settings = {"n_iter_no_change": 1000, "batch_size": 32} | options | {"warm_start": "continue"}
    whole = classifier(max_iter=n_epochs, **settings).fit(x, y)
    parts = classifier(max_iter=1, **settings)
    for turn in range(n_epochs):
        parts.fit(x, y)
        if turn == 10:
            parts = pickle.loads(pickle.dumps(parts))
    return whole, parts


def test_warm_start_continue_with_lbfgs_starts_from_the_weights():
    model = regressor(solver="lbfgs", max_iter=10, warm_start="continue").fit(x, real)
    first = model.loss_
    assert model.fit(x, real).loss_ < first


def test_starting_from_given_weights():
    first = regressor(max_iter=50).fit(x, real)
    start = regressor(max_iter=1, learning_rate_init=1e-9).fit(
        x, real, coef_init=first.coefs_, intercept_init=first.intercepts_
    )
    np.testing.assert_allclose(start.predict(x), first.predict(x), atol=1e-6)
    with pytest.raises(ValueError, match="given weights of layer 1"):
        regressor().fit(x, real, coef_init=[np.zeros((3, 3))] * 2)
    with pytest.raises(ValueError, match="more layers are given than the network has"):
        regressor().fit(x, real, coef_init=[*first.coefs_, first.coefs_[-1]])
    first.coefs_ = first.coefs_[:1]
    with pytest.raises(ValueError, match="more layers are given than the network has"):
        first.predict(x)
    other = regressor(initializer="orthogonal", max_iter=1, learning_rate_init=1e-12).fit(x, real)
    np.testing.assert_allclose(other.coefs_[0] @ other.coefs_[0].T, np.eye(8), atol=1e-6)


def test_multiclass_multioutput():
    iris, kind = load_iris(return_X_y=True)
    size = np.digitize(iris[:, 2], [2, 5])
    target = np.column_stack([np.array(["a", "b", "c"])[kind], np.array(["x", "y", "z"])[size]])
    model = classifier(max_iter=300, learning_rate_init=0.01).fit(iris, target)
    assert model.predict(iris).shape == (150, 2)
    assert model.score(iris, target) > 0.9
    probabilities = model.predict_proba(iris)
    assert [p.shape for p in probabilities] == [(150, 3), (150, 3)]
    for p in probabilities:
        np.testing.assert_allclose(p.sum(axis=1), 1)
    assert [list(c) for c in model.classes_] == [["a", "b", "c"], ["x", "y", "z"]]
    step = classifier()
    for rows in (slice(0, 60), slice(60, 150)):
        step.partial_fit(iris[rows], target[rows], classes=[["a", "b", "c"], ["x", "y", "z"]])
    assert step.predict(iris).shape == (150, 2)


def test_hidden_activations():
    model = classifier(hidden_layer_sizes=(7, 5), activation="tanh").fit(x, y)
    first, second = model.hidden_activations(x)
    np.testing.assert_allclose(first, np.tanh(x @ model.coefs_[0] + model.intercepts_[0]))
    np.testing.assert_allclose(second, np.tanh(first @ model.coefs_[1] + model.intercepts_[1]))
    assert classifier(hidden_layer_sizes=()).fit(x, y).hidden_activations(x) == []


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_input_gradient(hidden):
    model = regressor(hidden_layer_sizes=hidden, activation="tanh").fit(x, real)
    gradient = model.input_gradient(x)
    assert gradient.shape == (200, 2, 8)
    h = 1e-6
    for feature in range(8):
        step = h * np.eye(8)[feature]
        slope = (model.predict(x + step) - model.predict(x - step)) / (2 * h)
        np.testing.assert_allclose(gradient[:, :, feature], slope, atol=1e-7)
    assert regressor().fit(x, real[:, 0]).input_gradient(x).shape == (200, 8)


def test_time_budget_and_callable():
    model = regressor(time_budget=0.05, max_iter=10**6, n_iter_no_change=math.inf).fit(x, real)
    assert "time budget" in model.stopped_
    seen = []

    def watch(progress):
        seen.append(progress)
        return progress.number == 4

    model = regressor(callback=watch).fit(x, real)
    assert [p.number for p in seen] == [1, 2, 3, 4]
    assert [p.loss for p in seen] == model.loss_curve_
    np.testing.assert_array_equal(seen[-1].snapshot().predict(x), model.predict(x))
    lbfgs = regressor(solver="lbfgs", callback=lambda p: p.number == 3).fit(x, real)
    assert lbfgs.n_iter_ == 3
    lbfgs = regressor(solver="lbfgs", time_budget=1e-9).fit(x, real, X_val=x, y_val=real)
    assert lbfgs.n_iter_ == len(lbfgs.validation_loss_curve_) == 1
    assert "time budget" in lbfgs.stopped_
    assert lbfgs.validation_scores_[0] == pytest.approx(lbfgs.score(x, real))


@SINCE_1_9
def test_scikit_learns_callbacks():
    from sklearn import callback

    monitor = callback.ScoringMonitor(scoring="r2")
    model = regressor(max_iter=7).set_callbacks(monitor)
    model.fit(x, real)
    scores = [row["r2"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 7
    assert scores[-1] == pytest.approx(model.score(x, real))


@SINCE_1_9
def test_progress_bar_of_scikit_learn():
    from sklearn import callback

    regressor(max_iter=3).set_callbacks(callback.ProgressBar()).fit(x, real)


def test_ctrl_c_keeps_the_weights():
    def interrupt(progress):
        if progress.number == 3:
            raise KeyboardInterrupt

    for solver in ("adam", "lbfgs"):
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            model = regressor(solver=solver, callback=interrupt).fit(x, real)
        assert model.n_iter_ == 3
        assert model.predict(x).shape == (200, 2)
        assert model.stopped_ == "interrupted"


def test_dtype_is_computed_in():
    model = regressor(dtype="float32").fit(x, real)
    assert {c.dtype.name for c in model.coefs_} == {model.predict(x).dtype.name} == {"float32"}
    data, target = load_diabetes(return_X_y=True)
    double = regressor(dtype="float64").fit(data.astype("float32"), target)
    assert double.predict(data).dtype == "float64"


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_held_out_are_judged_by_their_own_weights_and_not_by_those_of_classes(weighted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = np.where(x[:, 0] > 1, "rare", "usual")
    weight = rng.uniform(1, 2, size=200) if weighted else None
    judged = []

    def scorer(estimator, held_x, held_y, sample_weight=None):
        judged.append((held_x, sample_weight))
        return estimator.score(held_x, held_y, sample_weight)

    settings = {"early_stopping": True, "max_iter": 3, "random_state": 0, "class_weight": "balanced"}
    MLPClassifier((4,), scoring=scorer, **settings).fit(x, y, sample_weight=weight)
    known = {row.tobytes(): at for at, row in enumerate(x)}
    for held_x, given in judged:
        own = None if weight is None else weight[[known[row.tobytes()] for row in np.asarray(held_x)]]
        assert (given is None) if own is None else np.array_equal(given, own)
    scored = MLPClassifier((4,), **settings).fit(x, y, sample_weight=weight).validation_scores_
    by_scorer = MLPClassifier((4,), scoring=scorer, **settings).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(scored, by_scorer.validation_scores_, rtol=1e-12)


def test_rows_of_a_file_held_out_are_judged_without_class_weights(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x[:, 0] > 1).astype(int)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    settings = {"early_stopping": True, "max_iter": 4, "random_state": 0, "class_weight": {0: 1, 1: 1e6}}
    scores = MLPClassifier((4,), **settings).fit(tmp_path / "t.npz", None).validation_scores_
    counts = np.asarray(scores) * 20  # of 20 rows that count alike
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
