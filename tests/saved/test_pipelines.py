"""Pipelines of scikit-learn as ONNX files: onnxruntime gives what the pipeline gives."""

import numpy as np
import pytest
from saved.test_onnx import run

import mlp_xp
from mlp_xp.saved.onnx_file import onnx_bytes

pytestmark = pytest.mark.needs("sklearn", "onnx", "onnxruntime")


def standardised(last):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), last)


LINEAR = {"solver": "lbfgs", "hidden_layer_sizes": (), "max_iter": 5000}
X = np.random.default_rng(0).normal(5, 3, size=(80, 3))
SUMS = X.sum(axis=1)


@pytest.mark.needs("skl2onnx")
def test_a_matrix_through_a_scaler():
    pipeline = standardised(mlp_xp.MLPRegressor(**LINEAR)).fit(X, SUMS)
    found = run(onnx_bytes(pipeline), {"X": np.float32(X)})
    np.testing.assert_allclose(found["prediction"][:, 0], pipeline.predict(X), rtol=1e-5)


@pytest.mark.needs("skl2onnx", "pandas")
def test_columns_through_a_transformer():
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = pd.DataFrame({"size": X[:, 0], "kind": np.where(X[:, 1] > 5, "u", "v")})
    by_column = make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["kind"]))
    pipeline = make_pipeline(by_column, mlp_xp.MLPClassifier(**LINEAR))
    pipeline.fit(frame, np.where(SUMS > 15, "much", "little"))
    inputs = {name: frame[[name]].to_numpy() for name in frame}
    found = run(onnx_bytes(pipeline, example=frame[:1]), inputs)
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(frame), atol=1e-6)
    assert list(found["label"]) == list(pipeline.predict(frame))
    with pytest.raises(ValueError, match="columns have names; give a few"):
        onnx_bytes(pipeline)


@pytest.mark.needs("skl2onnx", "pyarrow")
def test_a_table_estimator_at_the_end():
    pipeline = standardised(mlp_xp.TableRegressor(epochs=5)).fit(X, SUMS)
    found = run(onnx_bytes(pipeline), {"X": np.float32(X)})
    np.testing.assert_allclose(found["prediction"][:, 0], pipeline.predict(X), rtol=1e-5)


@pytest.mark.needs("pyarrow")
def test_a_table_estimator_is_saved_and_exported_as_its_model(tmp_path):
    model = mlp_xp.TableRegressor(epochs=2).fit(X, SUMS)
    mlp_xp.save(model, tmp_path / "m.safetensors")
    again = mlp_xp.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(X)[:, 0], model.predict(X))
    assert onnx_bytes(model) == onnx_bytes(model.model_)


@pytest.mark.needs("skl2onnx")
def test_save_writes_an_onnx_file(tmp_path):
    pipeline = standardised(mlp_xp.MLPRegressor(**LINEAR)).fit(X, SUMS)
    mlp_xp.save(pipeline, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == onnx_bytes(pipeline)


def test_a_pipeline_is_no_model_file_and_a_model_no_onnx_file(tmp_path):
    pipeline = standardised(mlp_xp.MLPRegressor())
    with pytest.raises(ValueError, match=r"steps before the last are code.*name a file that ends in \.onnx"):
        mlp_xp.save(pipeline, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"export_onnx writes \*\.onnx"):
        mlp_xp.save(mlp_xp.Network((2, 1)), tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_without_skl2onnx_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    pipeline = standardised(mlp_xp.MLPRegressor(**LINEAR)).fit(X, SUMS)
    with pytest.raises(ModuleNotFoundError, match="pip install skl2onnx"):
        mlp_xp.save(pipeline, tmp_path / "m.onnx")
