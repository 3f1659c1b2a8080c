"""Class labels come back as they went in: of any type, from memory and files, through files and ONNX."""

import numpy as np
import pytest

pytestmark = [
    pytest.mark.needs("sklearn"),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
]

LABELS = {
    "beyond 2^24": np.array([20_000_001, 20_000_002, 20_000_003]),
    "beyond 2^53": np.array([2**53 + 1, 2**53 + 2, 2**62 + 1]),
    "below -2^53": np.array([-(2**53) - 1, -(2**53) - 2, 7]),
    "unsigned": np.array([1, 2**63 + 1, 2**64 - 1], np.uint64),
    "small integers": np.array([-3, 0, 100], np.int8),
    "floats": np.array([-1.0, 2.0, 1e6]),
    "truth values": np.array([False, True]),
    "texts": np.array(["01", "1", "NA"]),
    "objects": np.array(["b", "a", "é🎉"], dtype=object),
    "days": np.array(["1969-12-31", "2020-02-29", "9999-12-31"], "datetime64[D]"),
    "durations": np.array([5, 90, -3], "timedelta64[ms]"),
    "moments": np.array(["2020-01-01T00:00:00.000001", "2020-01-01T00:00:00.000002"], "datetime64[us]"),
}

N_ROWS = 60


def rows(labels):
    which = np.arange(N_ROWS) % len(labels)
    x = np.eye(len(labels))[which] + np.random.default_rng(0).normal(0, 0.01, (N_ROWS, len(labels)))
    return x, labels[which]


def classifier():
    from mlp_xp import MLPClassifier

    return MLPClassifier((8,), max_iter=60, learning_rate_init=0.05, random_state=0, tol=0.0)


def fitted(x, y):
    return classifier().fit(x, y)


def check_same(found, expected):
    assert found.dtype == expected.dtype or expected.dtype == object  # whose texts are an array of texts then
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_in_memory_and_through_a_file(labels, tmp_path):
    from mlp_xp import load, save

    x, y = rows(labels)
    model = fitted(x, y)
    save(model, tmp_path / "m")
    for each in (model, load(tmp_path / "m")):
        check_same(each.classes_, np.unique(labels))
        check_same(each.predict(x), y)


IN_ARRAYS = [name for name in LABELS if name not in ("objects", "durations")]


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize("name", IN_ARRAYS)
def test_labels_in_array_files(name, form, tmp_path):
    x, y = rows(LABELS[name])
    if form == "npy":
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        model = fitted(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    else:
        np.savez(tmp_path / "rows.npz", x=x, y=y)
        model = fitted(str(tmp_path / "rows.npz"), "y")
    np.testing.assert_array_equal(model.classes_, np.unique(LABELS[name]))
    np.testing.assert_array_equal(model.predict(x), y)


def test_names_in_array_files_are_no_numbers(tmp_path):
    from mlp_xp import MLPRegressor

    x, y = rows(LABELS["texts"])
    np.savez(tmp_path / "rows.npz", x=x, y=y, t=np.array(["2020-01-01", "NaT"] * (N_ROWS // 2), "M8[D]"))
    with pytest.raises(ValueError, match="are text: MLPRegressor needs numbers"):
        MLPRegressor().fit(str(tmp_path / "rows.npz"), "y")
    with pytest.raises(ValueError, match=r"y\[1\] is NaT"):
        fitted(str(tmp_path / "rows.npz"), "t")
    np.savez(tmp_path / "rows.npz", x=x, y=np.full(N_ROWS, 2**31 - 1, np.int32).view("<U1"))
    with pytest.raises(ValueError, match="y holds texts that are none"):
        fitted(str(tmp_path / "rows.npz"), "y")


@pytest.mark.needs("pyarrow", "pandas")
@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["beyond 2^24", "beyond 2^53", "below -2^53", "unsigned", "days"])
def test_labels_in_tables(name, form, tmp_path):
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv, parquet

    x, y = rows(LABELS[name])
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": pa.array(y)})
    path = tmp_path / f"t.{form}"
    (csv.write_csv if form == "csv" else parquet.write_table)(table, path)
    model = fitted(str(path), "y")
    check_texts(model.classes_, np.unique(LABELS[name]))
    check_texts(model.predict(pd.DataFrame(x, columns=list("abc"))), y)


def check_texts(found, expected):
    """Equal as they are written, down to the last digit."""
    assert [str(value)[:10] if "T" in str(value) else str(value) for value in found.tolist()] == [
        str(value) for value in expected.tolist()
    ]


@pytest.mark.needs("onnx", "onnxruntime")
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_onnx(labels, tmp_path):
    import onnxruntime

    from mlp_xp.saved.onnx_file import onnx_bytes

    x, y = rows(labels)
    session = onnxruntime.InferenceSession(onnx_bytes(fitted(x, y)))
    found = session.run(["label"], {each.name: x.astype(np.float32) for each in session.get_inputs()})[0]
    kind = y.dtype.kind
    if kind in "ib":
        np.testing.assert_array_equal(found, y.astype(np.int64))
    elif kind == "f":
        np.testing.assert_array_equal(found.astype(float), y)
    else:  # ONNX has no labels of that kind: they are written as texts
        assert found.tolist() == [str(value) for value in y]


def test_one_class():
    with pytest.warns(RuntimeWarning, match="^y has a single class, only: there is nothing to learn"):
        model = fitted(np.linspace(0, 1, 30)[:, None], ["only"] * 30)
    assert model.classes_.tolist() == ["only"]
    np.testing.assert_array_equal(model.predict_proba([[0.5], [9.0]]), [[1.0], [1.0]])
    assert model.predict([[0.5]]).tolist() == ["only"]


def test_one_class_in_one_of_several_columns_and_in_a_file(tmp_path):
    x, three = np.linspace(0, 1, 30)[:, None], np.arange(30) % 3
    with pytest.warns(RuntimeWarning, match="^column 1 of y has a single class, 0: there is nothing"):
        fitted(x, np.column_stack([three, 0 * three]))
    np.savez(tmp_path / "d.npz", x=x, y=0 * three + 7)
    with pytest.warns(RuntimeWarning, match="^y has a single class, 7: there is nothing to learn"):
        fitted(tmp_path / "d.npz", None)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score"])
def test_a_path_is_for_fit_alone(method):
    model = fitted(np.linspace(0, 1, 30)[:, None], np.arange(30) % 2)
    with pytest.raises(
        TypeError, match=rf"{method}\(\) takes arrays or frames, not 'd.csv': fit alone reads paths"
    ):
        getattr(model, method)("d.csv", *(["y"] if method == "score" else []))


def test_a_row_that_float32_has_no_room_for():
    from mlp_xp import MLPRegressor

    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    bad = np.array([[0.0, 0.0, 0.0], [1e300, 0.0, 0.0]])
    narrow, wide = (
        MLPRegressor(hidden_layer_sizes=(5,), max_iter=5, random_state=0).fit(each, x[:, 0])
        for each in (x, x.astype(float))
    )
    with pytest.raises(ValueError, match=r"row 1 \(from 0\) of X has a value beyond 3\.4e\+38"):
        narrow.predict(bad)
    assert np.isfinite(wide.predict(bad)).all()


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (["a", None, "b"], ValueError, r"y holds None in row 1 \(from 0\)"),
        ([2, 1, None], ValueError, r"y holds None in row 2 \(from 0\)"),
        (["a", 1, "b"], TypeError, "y mixes labels of the types int, str"),
    ],
)
@pytest.mark.parametrize("name", ["MLPClassifier", "TableClassifier"])
def test_labels_that_are_none_or_have_no_order_are_refused(name, labels, error, said):
    import mlp_xp

    y = np.array(labels * 10, dtype=object)
    with pytest.raises(error, match=said):
        getattr(mlp_xp, name)().fit(np.ones((30, 2)), y)


def test_targets_of_another_kind_are_refused_with_what_to_do():
    from mlp_xp import MLPRegressor, TableRegressor

    x, pd = np.ones((6, 1)), pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="y holds texts, where numbers are needed: TableClassifier"):
        TableRegressor().fit(x, ["a", "b"] * 3)
    with pytest.raises(TypeError, match="y holds dates"):
        MLPRegressor().fit(x, pd.Series(pd.date_range("2020-01-01", periods=6)))
