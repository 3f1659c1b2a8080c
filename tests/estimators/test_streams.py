"""fit from a path, a source or a loader; estimators in model files."""

import numpy as np
import pytest
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError

from mlp_xp import Loader, MLPClassifier, MLPRegressor, TableClassifier, load, save
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.streams import BatchSource

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

x, y = make_classification(300, 6, n_informative=4, n_classes=3, random_state=0)
real = np.column_stack([x[:, 0] + np.sin(x[:, 1]), x[:, 2]])
NAMES = np.array(["ant", "bee", "cat"])


def classifier(**parameters):
    return MLPClassifier(**({"random_state": 0, "max_iter": 40, "learning_rate_init": 0.01} | parameters))


def regressor(**parameters):
    return MLPRegressor(**({"random_state": 0, "max_iter": 40, "learning_rate_init": 0.01} | parameters))


@pytest.fixture
def table(tmp_path, need):
    need("pyarrow")
    path = tmp_path / "insects.csv"
    lines = ["a,b,c,d,e,f,kind,size"]
    lines += [
        ",".join([*map(repr, map(float, row)), NAMES[k], repr(float(r))])
        for row, k, r in zip(x, y, real[:, 0], strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


def source(targets, **more):
    return ArraySource(x, targets, **more)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_fit_from_a_source(solver):
    model = classifier(solver=solver, learning_rate_init=0.05).fit(source(y))
    assert model.score(x, y) > 0.8
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.coefs_[0].dtype == "float64"
    model = regressor(solver=solver).fit(source(real))
    assert model.score(x, real) > 0.8
    assert model.n_features_in_ == 6


def test_lbfgs_on_a_source_is_lbfgs_on_arrays():
    weight = np.linspace(0.5, 1, 300)
    options = {"solver": "lbfgs", "max_iter": 10}
    streamed = regressor(**options).fit(source(real, sample_weight=weight))
    held = regressor(**options).fit(x, real, weight)
    assert streamed.loss_ == pytest.approx(held.loss_)
    np.testing.assert_allclose(streamed.coefs_[0], held.coefs_[0], rtol=1e-6)


@pytest.mark.needs("pandas")
def test_fit_from_a_path_takes_the_names_of_columns_and_classes(table):
    import pandas as pd

    frame = pd.read_csv(table)
    drop = table.with_name("features.csv")
    frame.drop(columns="size").to_csv(drop, index=False)
    model = classifier(max_iter=60).fit(drop, "kind", X_val=drop)
    assert model.classes_.tolist() == NAMES.tolist()
    assert model.feature_names_in_.tolist() == list("abcdef")
    assert model.score(frame[list("abcdef")], frame["kind"]) > 0.8
    assert len(model.validation_loss_curve_) == model.n_iter_
    assert model.validation_scores_[-1] == pytest.approx(model.score(frame[list("abcdef")], frame["kind"]))
    frame.drop(columns="kind").to_csv(drop, index=False)
    assert regressor().fit(str(drop), "size").score(frame[list("abcdef")], frame["size"]) > 0.8
    with pytest.raises(ValueError, match="are text"):
        regressor().fit(table, "kind")


def test_fit_from_a_stream_of_batches():
    parts = [(x[start : start + 64], y[start : start + 64]) for start in range(0, 300, 64)]
    stream = BatchSource(parts, buffer_rows=100)
    model = classifier(learning_rate_init=0.02).fit(stream)
    assert model.score(x, y) > 0.8
    with pytest.raises(ValueError, match="a stream of batches does not support early_stopping=True"):
        classifier(early_stopping=True).fit(stream)
    model = classifier(early_stopping=True, max_iter=200).fit(stream, X_val=x, y_val=y)
    assert model.best_validation_score_ == model.score(x, y)


def test_fit_from_a_loader_takes_its_order_and_batches():
    options = {"max_iter": 5, "learning_rate_init": 0.02, "callback": None}
    model = classifier(**options).fit(Loader(x, y, batch_size=300, order="sequential"))
    whole = classifier(**options, batch_size=300, shuffle=False).fit(x, y)
    np.testing.assert_allclose(model.coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("scoring", [None, "loss"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_early_stopping_holds_rows_of_a_source_out(scoring, solver):
    model = classifier(early_stopping=True, scoring=scoring, max_iter=300, solver=solver).fit(source(y))
    assert model.n_iter_ < 300
    assert len(model.validation_loss_curve_) == model.n_iter_
    with pytest.raises(ValueError, match="needs validation rows in memory"):
        classifier(early_stopping=True, scoring="f1_macro").fit(source(y))


def test_warm_start_continue_goes_on_over_a_source():
    for more in ({}, {"early_stopping": True}):
        options = {"warm_start": "continue", "batch_size": 64, "n_iter_no_change": 100} | more
        whole = classifier(max_iter=10, **options).fit(source(y))
        parts = classifier(max_iter=1, **options)
        for _ in range(10):
            parts.fit(source(y))
        assert parts.loss_curve_ == whole.loss_curve_
        np.testing.assert_array_equal(parts.coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5}])
@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_over_a_source(class_weight, classes):
    target = np.minimum(y, classes - 1)
    weight = np.linspace(0.5, 2, 300)
    options = {"class_weight": class_weight, "batch_size": 300, "max_iter": 5, "label_smoothing": 0.1}
    streamed = classifier(**options).fit(source(target, sample_weight=weight))
    held = classifier(**options).fit(x, target, weight)
    if class_weight == "balanced":
        assert streamed.loss_ == pytest.approx(held.loss_, rel=1e-6)
    else:
        np.testing.assert_allclose(streamed.loss_curve_, held.loss_curve_, rtol=1e-6)


def test_several_columns_of_targets():
    labels = (x[:, :3] > 0).astype(int)
    assert classifier(max_iter=100).fit(source(labels)).score(x, labels) > 0.8
    several = np.column_stack([y, y % 2 + 5])
    model = classifier(max_iter=100).fit(source(several))
    assert model.predict(x).shape == (300, 2)
    assert model.score(x, several) > 0.8


def test_bad_sources():
    with pytest.raises(ValueError, match="brings its own targets"):
        classifier().fit(source(y), y)
    with pytest.raises(ValueError, match="no targets"):
        classifier().fit(ArraySource(x))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier().fit(source(real[:, 0]))
    with pytest.raises(TypeError, match="partial_fit takes arrays"):
        regressor().partial_fit(source(real), None)
    with pytest.raises(TypeError, match="leave sample_weight out"):
        regressor().fit(source(real), sample_weight=np.ones(300))
    model = classifier(warm_start=True).fit(source(y))
    with pytest.raises(ValueError, match="same classes"):
        model.fit(source(y % 2))
    with pytest.raises(ValueError, match="has 3 features"):
        model.fit(ArraySource(x[:, :3], y))
    with pytest.raises(FileNotFoundError):
        classifier().fit("no/such/file.csv", "kind")


iris, species = load_iris(return_X_y=True)


TO_SAVE = [
    (classifier(), x, y),
    (classifier(early_stopping=True, hidden_layer_sizes=[5, 4], activation=["gelu", "tanh"]), x, y > 0),
    (classifier(solver="adamw:weight_decay=0.1", learning_rate="cosine"), x, NAMES[y]),
    (classifier(), x, (x[:, :3] > 0).astype(int)),
    (classifier(), iris, np.column_stack([species, species % 2 + 3])),
    (classifier(class_weight={0: 2.0}, random_state=np.random.RandomState(3)), x, y),
    (regressor(loss="pinball:quantiles=0.1/0.9", dtype="float32"), x, real),
    (regressor(loss="poisson", n_iter_no_change=np.inf), x, np.abs(real)),
    (regressor(solver="lbfgs", hidden_layer_sizes=()), x, real[:, 0]),
]


@pytest.mark.parametrize(("model", "data", "target"), TO_SAVE, ids=range(len(TO_SAVE)))
def test_save_and_load(model, data, target, tmp_path):
    model.fit(data, target)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    np.testing.assert_array_equal(again.predict(data), model.predict(data))
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "loss_", "stopped_"):
        assert getattr(again, name) == getattr(model, name)
    for name, value in model.get_params().items():
        if name != "random_state":
            assert again.get_params()[name] == value
    again.fit(data, target)


def square(z):
    return z * z


def double(z):
    return 2 * z


def test_a_users_own_activation_is_asked_for_again(tmp_path):
    model = regressor(activation=(square, double), max_iter=3).fit(x, real)
    save(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="square"):
        load(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors", activations={"square": (square, double)})
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    again.fit(x, real)


def test_an_estimator_that_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        save(classifier(), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("pyarrow")
def test_class_weights_of_classes_that_are_not_there_are_refused_from_a_path_too(tmp_path):
    path, x = tmp_path / "d.csv", np.sin(np.arange(60.0))
    texts = np.where(x > 0, "yes", "no")
    path.write_text("a,t\n" + "\n".join(f"{a},{t}" for a, t in zip(x, texts, strict=True)))
    model = MLPClassifier((5,), max_iter=2, class_weight={"Yes": 5})
    for data in ((path, "t"), (x[:, None], texts)):
        with pytest.raises(ValueError, match="names 'Yes', which no row is of; did you mean 'yes'"):
            model.fit(*data)
    table = TableClassifier(epochs=1, class_weight={"Yes": 5})
    with pytest.raises(ValueError, match="names 'Yes', which no row is of; did you mean 'yes'"):
        table.fit({"a": x}, texts)


def test_class_weights_hold_for_batches_that_lack_a_class():
    x, y = np.sin(np.arange(60.0))[:, None], np.arange(60) // 30
    options = {"hidden_layer_sizes": (5,), "random_state": 0}
    weighted = MLPClassifier(**options, class_weight={0: 3.0})
    plain = MLPClassifier(**options)
    for part in (slice(0, 30), slice(30, 60)):
        weighted.partial_fit(x[part], y[part], classes=[0, 1])
        plain.partial_fit(x[part], y[part], classes=[0, 1], sample_weight=np.where(y[part] == 0, 3.0, 1.0))
    np.testing.assert_array_equal(weighted.predict_proba(x), plain.predict_proba(x))
