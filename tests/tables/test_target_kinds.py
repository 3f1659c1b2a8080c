"""What a target is, in every form of a table: the same classes, rows, weights and metrics; in ONNX, too."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pytest

from mlp_xp import export_onnx, fit_table, load, save
from mlp_xp.in_python.table_model import TableModel
from mlp_xp.rows.source import read
from mlp_xp.tables.files import opening
from mlp_xp.tables.fit_table import at_a_path
from mlp_xp.tables.fitting import new_model, read_data
from mlp_xp.tables.options import TrainingOptions

pa = pytest.importorskip("pyarrow")
csv, feather, parquet = (pytest.importorskip(f"pyarrow.{name}") for name in ("csv", "feather", "parquet"))
pytestmark = pytest.mark.needs("pandas", "polars")

N_ROWS = 40
BEYOND = 2**53 + 1

# By name: their type, two or three values, and what these classes are called.
KINDS = {
    "whole": (pa.int8(), [-1, 0, 7], ("-1", "0", "7")),
    "fractions": (pa.float64(), [0.1, 1.5, 2.0], ("0.1", "1.5", "2")),
    "fractions of 32 bits": (pa.float32(), [0.1, 0.7, 2.5], ("0.1", "0.7", "2.5")),
    "booleans": (pa.bool_(), [False, True], ("false", "true")),
    "texts": (pa.string(), ["b b", "a", "größe"], ("a", "b b", "größe")),
    "categories": (pa.dictionary(pa.int8(), pa.string()), ["u", "v", "w"], ("u", "v", "w")),
    "codes": (pa.string(), ["001", "010", "100"], ("001", "010", "100")),
    "01 and 1": (pa.string(), ["01", "1", "001"], ("001", "01", "1")),
    "words for a gap": (pa.string(), ["NA", "None", "null"], ("NA", "None", "null")),
    "decimals": (
        pa.decimal128(9, 2),
        [Decimal("1.10"), Decimal("2.00"), Decimal("-3.50")],
        ("-3.5", "1.1", "2"),
    ),
    "dates": (pa.date32(), [dt.date(2020, 1, 5), dt.date(1999, 1, 1)], ("1999-01-01", "2020-01-05")),
    "moments": (
        pa.timestamp("us"),
        [dt.datetime(2020, 1, 5, 1, 2, 3, 4), dt.datetime(1999, 1, 1)],
        ("1999-01-01", "2020-01-05 01:02:03.000004"),
    ),
    "times": (pa.time32("s"), [dt.time(1, 2, 3), dt.time(23)], ("3723", "82800")),
    "durations": (pa.duration("s"), [dt.timedelta(seconds=5), dt.timedelta(days=3)], ("5", "259200")),
    "floats beyond 2^53": (
        pa.int64(),
        [2**60, 2**61 + 2**20, -(2**57)],
        tuple(map(str, (-(2**57), 2**60, 2**61 + 2**20))),
    ),
    "beyond floats": (pa.uint64(), [BEYOND, BEYOND + 1, 2**60], tuple(map(str, (2**60, BEYOND, BEYOND + 1)))),
}

OPTIONS = {
    "words for a gap": {"null_words": False},
    "01 and 1": {"text": "y"},
    "beyond floats": {"text": "y"},
}


def as_written(value):
    if isinstance(value, bool):
        return str(value).lower()
    return f"PT{value.total_seconds():g}S" if isinstance(value, dt.timedelta) else str(value)


def forms(folder, kind):
    """The same table in nine forms."""
    import pandas as pd
    import polars as pl

    of_type, values, _ = KINDS[kind]
    y = [values[at % len(values)] for at in range(N_ROWS)]
    a, w = [float(at % 7) for at in range(N_ROWS)], [0.5 + at % 3 for at in range(N_ROWS)]
    columns = {"a": a, "w": w, "y": y}
    typed = pa.array(y, pa.string()).dictionary_encode() if kind == "categories" else pa.array(y, of_type)
    table = pa.table({"a": a, "w": w, "y": typed})
    text = pa.table({"a": a, "w": w, "y": [as_written(each) for each in y]})
    paths = {name: str(folder / f"t.{name}") for name in ("csv", "parquet", "arrow")}
    csv.write_csv(text, paths["csv"], csv.WriteOptions(quoting_style="needed"))
    parquet.write_table(table, paths["parquet"])
    feather.write_feather(table, paths["arrow"])
    return paths | {
        "Arrow": table,
        "pandas": table.to_pandas(),
        "objects of pandas": pd.DataFrame({**columns, "y": pd.Series(y, dtype=object)}),
        "polars": pl.from_arrow(table),
        "columns": columns,
        "rows": [dict(zip(columns, row, strict=True)) for row in zip(a, w, y, strict=True)],
    }


def learned(form, kind):
    """What training is given of a form: an untrained model, and all rows to train on."""
    options = {
        "target": "y",
        "weight_column": "w",
        "class_weight": "balanced",
        "validation": 0.2,
        "hidden": "3",
    }
    options |= {"task": "classification", "recipe": "plain", "dtype": "float64", **OPTIONS.get(kind, {})}
    with at_a_path(form) as path:
        data = read_data(TrainingOptions.of({"data": path, **options}))
        training = data.parts.training
        return TableModel.from_plain(new_model(data)), read(training, np.arange(training.n_rows))


@pytest.fixture(autouse=True)
def without_trials(monkeypatch):
    """No process of its own for each of these small good files."""
    monkeypatch.setattr(opening, "read_in_sandbox", lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_has_the_same_target(kind, tmp_path):
    given = forms(tmp_path, kind)
    model, rows = learned(given["parquet"], kind)
    assert model.levels == KINDS[kind][2]
    metrics = model.evaluate(given["parquet"])
    for name, form in given.items():
        other, found = learned(form, kind)
        assert other.levels == model.levels, name
        for expected, each in zip(rows, found, strict=True):
            np.testing.assert_array_equal(each, expected, err_msg=name)
        assert model.evaluate(form) == metrics, name


CLASSES = {
    "whole": [-1, 0, 7],
    "fractions": [0.1, 1.5, 2.0],
    "booleans": [False, True],
    "texts": ["a", "b b", "größe"],
    "categories": ["u", "v", "w"],
    "codes": ["001", "010", "100"],
    "01 and 1": ["001", "01", "1"],
    "decimals": [-3.5, 1.1, 2.0],
    "dates": [dt.date(1999, 1, 1), dt.date(2020, 1, 5)],
    "moments": [dt.datetime(1999, 1, 1), dt.datetime(2020, 1, 5, 1, 2, 3, 4)],
    "floats beyond 2^53": [-(2**57), 2**60, 2**61 + 2**20],
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_come_back_as_they_went_in(kind, tmp_path):
    for name, form in forms(tmp_path, kind).items():
        model, _ = learned(form, kind)
        save(model, tmp_path / "m.safetensors")
        for each in (model, load(tmp_path / "m.safetensors")):
            found = each.classes.tolist()
            assert found == CLASSES[kind], name
            assert list(map(type, found)) == list(map(type, CLASSES[kind])), name
            assert set(each.predict({"a": np.arange(7.0)}).tolist()) <= set(found)


@pytest.mark.needs("onnx", "onnxruntime")
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_names_the_same_classes(kind, tmp_path):
    import onnxruntime

    model, _ = learned(forms(tmp_path, kind)["parquet"], kind)
    export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    x = np.arange(7.0)
    feed = {
        each.name: x[:, None].astype("f4" if "float)" in each.type else "f8") for each in session.get_inputs()
    }
    label, probabilities = session.run(None, feed)
    chosen = np.argmax(model.predict_proba({"a": x}), axis=1)
    np.testing.assert_array_equal(label.ravel(), np.array(model.levels)[chosen])
    np.testing.assert_allclose(probabilities, model.predict_proba({"a": x}), rtol=1e-5)


@pytest.mark.parametrize(
    ("of_type", "values"),
    [
        (pa.timestamp("us", "UTC"), [dt.datetime(2020, 1, 5, 1, 2, 3, 4), dt.datetime(1999, 1, 1)]),
        (pa.time32("s"), [dt.time(1, 2, 3), dt.time(4)]),
        (pa.duration("us"), [dt.timedelta(seconds=5), dt.timedelta(days=2)]),
        (pa.float64(), [1e-7, 1e22]),
        (pa.bool_(), [True, False]),
        (pa.date32(), [dt.date(2020, 1, 5), dt.date(1999, 1, 1)]),
    ],
    ids=str,
)
def test_typed_columns_that_are_read_as_text_are_those_of_a_csv_file(tmp_path, of_type, values):
    column = pa.array([values[at % 2] for at in range(N_ROWS)], of_type)
    table = pa.table({"d": column, "a": [float(at % 7) for at in range(N_ROWS)]}).append_column(
        "y", pa.array([float(at % 2) for at in range(N_ROWS)])
    )
    paths = [str(tmp_path / f"t.{name}") for name in ("csv", "parquet")]
    table.to_pandas().to_csv(paths[0], index=False)
    parquet.write_table(table, paths[1])
    for path in paths:
        model = fit_table(
            path, target="y", text="d", task="regression", recipe="plain", activation="tanh", epochs=1
        )
        found = [model.predict(each) for each in (*paths, table, table.to_pandas(), table.to_pylist())]
        for other in found:
            np.testing.assert_array_equal(other, found[0])
        assert len(np.unique(found[0])) > 7  # d tells rows apart


def test_texts_like_dates_that_name_each_row_are_read_as_in_training(tmp_path):
    days = [str(dt.date(2020, 1, 1) + dt.timedelta(days=at)) for at in range(N_ROWS)]
    a = [float(at % 7) for at in range(N_ROWS)]
    parquet.write_table(pa.table({"d": days, "a": a, "y": a}), tmp_path / "t.parquet")
    model = fit_table(str(tmp_path / "t.parquet"), "y", text="d", task="regression", epochs=1)
    np.testing.assert_array_equal(
        model.predict(str(tmp_path / "t.parquet")), model.predict({"d": days, "a": a})
    )


def test_a_negative_zero_that_is_read_as_text_is_zero():
    values = [(-0.0, 0.0, 1.0)[at % 3] for at in range(N_ROWS)]
    table = {"d": values, "y": [float(at % 3) for at in range(N_ROWS)]}
    model = fit_table(table, "y", text="d", task="regression", recipe="plain", epochs=1)
    assert model.inputs.columns[0].levels == ("0", "1")


def test_floats_of_16_bits_that_are_read_as_text_are_named_by_their_own_digits(tmp_path):
    values = np.array([0.1, 0.2, 65504, 3], np.float16)[np.arange(N_ROWS) % 4]
    y = [float(at % 4) for at in range(N_ROWS)]
    table = pa.table({"d": pa.array(values, pa.float16()), "a": y[::-1], "y": y})
    feather.write_feather(table, tmp_path / "t.arrow")
    model = fit_table(str(tmp_path / "t.arrow"), "y", text="d", task="regression", recipe="plain", epochs=1)
    assert model.inputs.columns[0].levels == ("0.1", "0.2", "3", "65504")
    texts = [("0.1", "0.2", "65504", "3")[at % 4] for at in range(N_ROWS)]
    found = model.predict(table)
    for given in (values, texts):
        np.testing.assert_array_equal(model.predict({"d": given, "a": y[::-1]}), found)


def test_classes_that_are_floats_of_16_bits_are_named_by_their_own_digits(tmp_path):
    values = np.array([0.1, 0.2], np.float16)[np.arange(N_ROWS) % 2]
    table = pa.table({"a": np.arange(N_ROWS) % 7, "y": pa.array(values, pa.float16())})
    feather.write_feather(table, tmp_path / "t.arrow")
    model = fit_table(str(tmp_path / "t.arrow"), "y", task="classification", recipe="plain", epochs=1)
    assert model.levels == ("0.1", "0.2")
    assert model.evaluate(str(tmp_path / "t.arrow"))["accuracy"] >= 0.5
