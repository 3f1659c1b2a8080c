"""`fit_table`: the model of `mlp-xp train`, from a path or a table in memory, in one call."""

import copy
import csv
import html
import pickle

import numpy as np
import pytest
from command_line import runner

from mlp_xp import fit_table, load
from mlp_xp.tables.files.sandbox import Sandbox

pytestmark = pytest.mark.needs("pyarrow")


def columns(n_rows=160):
    rng = np.random.default_rng(3)
    size, kind = rng.normal(size=n_rows), rng.choice(["flat", "house"], n_rows)
    price = 3 * size + np.where(kind == "house", 2.0, -1.0) + 0.1 * rng.normal(size=n_rows)
    return {"size": size.tolist(), "kind": kind.tolist(), "price": price.tolist()}


@pytest.fixture
def path(tmp_path):
    table = columns()
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return tmp_path / "t.csv"


@pytest.mark.parametrize("options", [{}, {"recipe": "plain", "hidden": (9, 4), "seed": 2}])
def test_the_same_bits_as_the_command_line(path, tmp_path, capsys, options):
    words = [
        word
        for name, value in {"recipe": "tables", **options}.items()
        for word in (f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else value)
    ]
    out = tmp_path / "m.safetensors"
    done = runner(capsys)("train", path, "--target", "price", "--epochs", 5, *words, "--out", out)
    assert done.status == 0, done.err
    model = fit_table(path, "price", epochs=5, **options)
    by_command = load(out)
    assert model.network.parameters.to_host().tobytes() == by_command.network.parameters.to_host().tobytes()
    assert model.predict(columns()).tobytes() == by_command.predict(columns()).tobytes()
    assert model.training["metrics"] == by_command.training["metrics"]


@pytest.mark.parametrize("kind", ["mapping", "arrow", "pandas", "polars", "polars, lazy"])
def test_tables_in_memory_are_read_as_files(path, kind, need):
    table = columns()
    library, _, lazy = kind.partition(", ")
    if kind == "arrow":
        table = pytest.importorskip("pyarrow").table(table)
    elif kind != "mapping":
        need(library)
        table = pytest.importorskip(library).DataFrame(table)
    if lazy:
        table = table.lazy()
    of_path, of_table = (fit_table(each, "price", epochs=3).predict(columns()) for each in (path, table))
    np.testing.assert_allclose(of_table, of_path, rtol=1e-6)


def test_the_index_of_a_frame_is_no_column_whether_it_has_a_name_or_not(need):
    need("pandas")
    frame = pytest.importorskip("pandas").DataFrame(columns())
    expected = fit_table(frame, "price", epochs=1).predict(frame)
    for index in (frame.index[::-1], frame.index.rename("number"), frame["size"]):
        indexed = frame.set_index(index)
        model = fit_table(indexed, "price", epochs=1)
        assert model.inputs.names == ("size", "kind")
        np.testing.assert_array_equal(model.predict(indexed), expected)


def test_a_table_in_memory_starts_no_process_to_be_read_on_trial(path, tmp_path, monkeypatch):
    pa, feather = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.feather")
    feather.write_feather(pa.table(columns()), tmp_path / "t.arrow")
    monkeypatch.setattr(Sandbox, "read", None)
    fit_table(columns(), "price", epochs=1)
    with pytest.raises(TypeError, match="not callable"):
        fit_table(tmp_path / "t.arrow", "price", epochs=1)


def test_dates_that_a_frame_holds_as_texts_are_dates_as_in_a_file(tmp_path):
    days, colours = [f"2024-{1 + at % 12:02}-{1 + at % 28:02}" for at in range(60)], ["red", "blue"] * 30
    table = {"when": days, "colour": colours, "y": [float(at % 12) for at in range(60)]}
    lines = [
        ",".join(table),
        *(f"{day},{colour},{y}" for day, colour, y in zip(*table.values(), strict=True)),
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    found, expected = (fit_table(data, "y", epochs=2) for data in (table, tmp_path / "t.csv"))
    assert [column.kind for column in found.inputs.columns] == ["date", "text"]
    np.testing.assert_array_equal(found.predict(table), expected.predict(table))
    assert fit_table(table, "y", epochs=1, text="when").inputs.columns[0].kind == "text"


def test_numbers_that_a_frame_holds_as_texts_are_refused_with_what_to_do():
    table = {"a": [str(at / 2) for at in range(20)], "y": list(range(20))}
    with pytest.raises(ValueError, match=r"a number is needed(.|\n)*or store them as dates .* to_numeric"):
        fit_table(table, "y")
    table["a"][3] = "n.v."
    with pytest.raises(ValueError, match=r"column 'a' holds 'n.v.'(.|\n)*\(null='n.v.'\)"):
        fit_table(table, "y")


def test_what_is_refused(path):
    with pytest.raises(ValueError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        fit_table(path, "price", epoch=3)
    with pytest.raises(ValueError, match="'prise'"):
        fit_table(path, "prise")
    with pytest.raises(ValueError, match="data has no column 'prise'; did you mean 'price'"):
        fit_table(columns(), "prise")
    with pytest.raises(ValueError, match="data has columns, and no rows"):
        fit_table({"a": [], "y": []}, "y")
    with pytest.raises(TypeError, match="data is a int that is no table"):
        fit_table(3, "price")
    with pytest.raises(ValueError, match="numbers of 2\\^63 or more: give it as texts"):
        fit_table({"x": [2**63, 1], "y": [1.0, 2.0]}, "y")
    with pytest.raises(TypeError, match=r"column 'm' of data can not be read: .*'a' with type str"):
        fit_table({"m": [1, "a"], "y": [1.0, 2.0]}, "y")
    with pytest.raises(ValueError, match="same number of rows, but have: x 1, y 2"):
        fit_table({"x": [1], "y": [1.0, 2.0]}, "y")


def test_one_row_without_names_is_answered_with_how_to_give_it():
    model = fit_table(columns(), "price", epochs=1)
    with pytest.raises(ValueError, match=r"the columns size, kind\. One row is a dict by name"):
        model.predict(["1.0", "flat"])


def test_sparse_columns_of_pandas_are_read(need):
    need("pandas")
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [0, 0, 1, 2] * 9, "y": [0.0, 0.0, 2.0, 4.0] * 9})
    dense, sparse = (
        fit_table(each, "y", epochs=2).predict(each)
        for each in (frame, frame.assign(a=pd.arrays.SparseArray(frame["a"])))
    )
    np.testing.assert_array_equal(sparse, dense)


def test_two_columns_of_a_name_are_refused_in_training_and_after(need):
    need("pandas")
    frame = pytest.importorskip("pandas").DataFrame([[1.0, 2.0, 3.0]] * 9, columns=["a", "a", "y"])
    with pytest.raises(ValueError, match="more than one column named 'a'"):
        fit_table(frame, "y")
    model = fit_table(columns(), "price", epochs=1)
    with pytest.raises(ValueError, match="more than one column named 'a'"):
        model.predict(frame)


def test_a_table_in_memory_has_no_path_of_its_own():
    with pytest.raises(ValueError, match=r"^data, row 0 \(from 0\), column 'y' holds nothing"):
        fit_table({"a": [1.0, 2.0], "y": [None, 1.0]}, "y")
    with pytest.raises(ValueError, match=r"^data has no column 'z'; known: a, y\.$"):
        fit_table({"a": [1.0, 2.0], "y": [0.0, 1.0]}, "z")


def test_a_report_calls_a_table_in_memory_data(tmp_path):
    table = {"a": list(range(30)), "y": [2.0 * at for at in range(30)]}
    model = fit_table(table, "y", epochs=1, recipe="plain")
    for rows in (None, table):
        model.report(tmp_path / "report.html", rows)
        page = (tmp_path / "report.html").read_text()
        assert "<h1>y from data</h1>" in page
        assert ".arrow" not in page


def test_a_report_says_how_classes_are_called(tmp_path):
    table = {"a": list(range(30)), "y": [at % 2 for at in range(30)]}
    model = fit_table(table, "y", levels=["no", "yes"], task="classification", epochs=1, recipe="plain")
    model.report(tmp_path / "report.html")
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "fit_table(data, 'y', levels=['no', 'yes'], task='classification', epochs=1" in page


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_a_target_of_nothing_is_refused(task):
    with pytest.raises(ValueError, match=r"data, row 0 \(from 0\), column 'y' holds nothing, where"):
        fit_table({"a": [1.0, 2.0], "y": [None, None]}, "y", task=task)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied(path, copied):
    model = fit_table(path, "price", epochs=2)
    before = model.predict(columns())
    assert copied(model).predict(columns()).tobytes() == before.tobytes()


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_numbers_stand_for_options_that_may_be_words(recipe):
    table = {"x": list(range(60)), "y": [3.0 * each for each in range(60)]}
    number, text = (
        fit_table(table, "y", recipe=recipe, epochs=2, hidden=hidden, batch_size=size)
        for hidden, size in ((6, 16), ("6", "16"))
    )
    np.testing.assert_array_equal(number.network.parameters.flat, text.network.parameters.flat)


def test_balanced_classes_are_the_same_network_with_its_probabilities_shifted(rng):
    x = rng.normal(size=(300, 2))
    kind = np.where(x[:, 0] + rng.normal(size=300) > 2, "rare", np.where(x[:, 1] > 0, "more", "most"))
    table = {"a": x[:, 0], "b": x[:, 1], "kind": kind}
    p, shifted = (
        np.asarray(
            fit_table(table, "kind", epochs=4, hidden="8", validation=0.0, class_weight=weight).predict_proba(
                {"a": x[:, 0], "b": x[:, 1]}
            )
        )
        for weight in ("none", "balanced")
    )
    expected = p / np.unique(kind, return_counts=True)[1]
    np.testing.assert_allclose(shifted, expected / expected.sum(axis=1, keepdims=True), rtol=2e-4)
