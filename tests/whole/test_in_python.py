"""What a model of a table may be asked in Python: metrics, a page, files, what notebooks show."""

import copy
import pickle

import numpy as np
import pytest

from mlp_xp import TableModel, TableRegressor, fit_table, load

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture
def houses(rng):
    size = rng.uniform(20, 200, 300).round(1)
    city = np.array(["here", "there"])[rng.integers(0, 2, 300)]
    price = size * np.where(city == "here", 3.0, 2.0) + rng.normal(0, 5, 300)
    return {"size": size, "city": city, "price": price.round(2), "cheap": np.where(price < 250, "yes", "no")}


@pytest.fixture(params=["price", "cheap"])
def model(request, houses):
    other = {"price": "cheap", "cheap": "price"}[request.param]
    return fit_table(houses, request.param, exclude=[other], epochs=20)


def rows_of(columns):
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*(c.tolist() for c in columns.values()), strict=True)
    ]


def test_metrics_of_a_table_and_of_rows(model, houses, tmp_path):
    found = model.evaluate(houses)
    assert found == pytest.approx(model.evaluate(rows_of(houses)))
    assert (found["r2"] if "r2" in found else found["accuracy"]) > 0.9
    path = tmp_path / "houses.csv"
    path.write_text(
        "\n".join([",".join(houses), *(",".join(map(str, row.values())) for row in rows_of(houses))])
    )
    assert found == pytest.approx(model.evaluate(path))


def test_metrics_are_weighted_where_one_says_by_what(houses, tmp_path):
    model = fit_table(houses, "price", exclude=["cheap"], epochs=5)
    weight = np.arange(300) % 3
    weighted = {**houses, "w": weight}
    found = model.evaluate(weighted, weight_column="w")
    errors = model.predict(houses)[:, 0] - houses["price"]
    assert found["mae"] == pytest.approx(np.average(abs(errors), weights=weight), rel=1e-5)
    assert model.evaluate(weighted)["mae"] == pytest.approx(abs(errors).mean(), rel=1e-5)
    model.report(tmp_path / "page.html", weighted, weight_column="w")
    assert f"{found['mae']:.4g}" in (tmp_path / "page.html").read_text()


def test_one_row_and_rows_are_predicted(model, houses):
    rows = rows_of(houses)
    assert model.predict(rows[0]).shape[0] == 1
    assert model.predict(rows).shape[0] == 300
    if model.levels:
        p = model.predict_proba(rows[:3])
        np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-6)


def test_history_is_there_until_the_model_is_saved(model, tmp_path):
    assert len(model.history.train_losses) == len(model.history.validation_losses) == 20
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert isinstance(again, TableModel)
    assert again.history is None
    assert again.training == model.training


@pytest.mark.needs("onnx")
def test_an_onnx_file(model, tmp_path):
    model.export_onnx(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size > 1000


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_page(model, houses, tmp_path, is_loaded):
    if is_loaded:
        model.save(tmp_path / "m")
        model = load(tmp_path / "m")
    model.report(tmp_path / "r.html", houses)
    page = (tmp_path / "r.html").read_text()
    assert "What each column is worth" in page
    assert "300 given rows" in page
    assert ("<h2>Curves</h2>" in page) != is_loaded
    assert ("<span>time</span>" in page) != is_loaded
    assert "Columns of the given rows" in page


def test_a_page_about_a_training_needs_no_rows_where_it_was_made(model, tmp_path):
    model.report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    for said in (
        "50 held-out rows",
        "<h2>Curves</h2>",
        "linear",
        "Learning rate",
        "recipe",
        "fit_table(data",
    ):
        assert said in page
    assert "test=0.1 keeps rows apart" in page
    assert "--" not in page.partition("Do it again")[0].partition("<h1>")[2].replace("--share", "")
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert copied.advice == []
        with pytest.raises(ValueError, match=r"neither the rows nor the losses.* report\(path, data\)"):
            copied.report(tmp_path / "no.html")


@pytest.mark.needs("sklearn")
def test_the_model_of_an_estimator_does_all_that_a_model_does(houses, tmp_path):
    inputs = {"size": houses["size"], "city": houses["city"]}
    estimator = TableRegressor(epochs=5).fit(inputs, houses["price"])
    estimator.model_.save(tmp_path / "m")
    estimator.model_.report(tmp_path / "r.html")
    assert load(tmp_path / "m").evaluate({**inputs, "target": houses["price"]})["rmse"] > 0
    assert pickle.loads(pickle.dumps(estimator)).model_.advice == []


def test_advice_is_in_pythons_words(houses):
    model = fit_table(houses, "price", exclude=["cheap"], epochs=2, recipe="plain")
    assert "The last epoch was the best one: more may be better, epochs=4." in model.advice
    assert "epochs=4" in model._repr_html_()


def test_a_notebook_shows_what_was_measured(model):
    page = model._repr_html_()
    assert "<table><tr><td>50 held-out rows</td>" in page
    assert "linear" in page
    model.training.clear()
    assert "<table>" not in model._repr_html_()
