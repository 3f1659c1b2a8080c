"""Columns to numbers and back: statistics, classes, the held-out part, and models that know their columns."""

import dataclasses
import importlib
import os
import types
from pathlib import Path

import numpy as np
import pytest
from arrays import readonly
from hypothesis import given as property_given
from hypothesis import settings
from hypothesis import strategies as st

from mlp_xp import Network
from mlp_xp.cli.progress import Counted
from mlp_xp.losses import (
    BinaryCrossEntropy,
    Pinball,
    Poisson,
    SoftmaxCrossEntropy,
    SoftmaxLink,
    SortedLink,
    SquaredError,
)
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.source import Subset, as_source
from mlp_xp.tables import prepared
from mlp_xp.tables.datasets import load_dataset
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.fitting import read_data
from mlp_xp.tables.holding_out import at_random, latest, whole_groups
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import HoldOut, TableOptions, TrainingOptions
from mlp_xp.tables.preparation import Category, Inputs, Number, Targets
from mlp_xp.tables.prepared import Coded, Prepared
from mlp_xp.tables.reading import Table, check_targets, for_model, for_task, open_inputs, open_table
from mlp_xp.tables.split import split


def rows(source, index=None):
    """All rows of a source, or some, as arrays of their own."""
    index = np.arange(source.n_rows) if index is None else np.asarray(index)
    x, y = np.empty((len(index), source.n_features)), np.empty((len(index), source.n_targets))
    weight = np.empty(len(index)) if source.has_weights else None
    source.rows(index, x, y, weight)
    return x, y, weight


def source_of(x, y, weight=None):
    return ArraySource(readonly(x), readonly(y), None if weight is None else readonly(weight))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Sources around sources


def test_prepared_rows_keep_their_digits_in_float32():
    source = source_of([[1e9 + 1], [1e9 + 2], [1e9 + 3]], [10.0, 20.0, 30.0])
    inputs, targets = Inputs((Number("a", 1e9 + 2, 0.5),)), Targets(("t",), (20.0,), (5.0,))
    out_x, out_y = np.empty((3, 1), np.float32), np.empty((3, 1), np.float32)
    Prepared(source, inputs, targets).rows(np.arange(3), out_x, out_y, None)
    assert (out_x.ravel().tolist(), out_y.ravel().tolist()) == ([-2, 0, 2], [-2, 0, 2])


def test_rows_are_prepared_some_at_a_time(rng, monkeypatch):
    x, y, weight = rng.normal(size=(50, 3)), rng.normal(size=50), rng.random(50)
    inputs = Inputs((Number("a", 1.0, 2.0), Number("b", clipped=True), Number("c", 0.5, 3.0)))
    features = Prepared(source_of(x, y, weight), inputs, Targets(("t",), (1.0,), (2.0,)))
    index = rng.permutation(50)[:37]
    whole = rows(features, index)
    monkeypatch.setattr(prepared, "BLOCK_NUMBERS", 20)
    monkeypatch.setattr(prepared, "LEAST_ROWS", 1)
    for part, expected in zip(rows(features, index), whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(whole[2], weight[index])


def test_rows_of_very_many_columns_are_not_prepared_one_by_one(rng, monkeypatch):
    """Else the time grows with the square of the columns: each costs a call however few rows there are."""
    inputs, calls = Inputs((Number("a"), Number("b"), Number("c"))), []
    fill = Inputs.fill
    monkeypatch.setattr(Inputs, "fill", lambda *given: (calls.append(given), fill(*given)))
    monkeypatch.setattr(prepared, "BLOCK_NUMBERS", 3)
    source = source_of(rng.normal(size=(64, 3)), rng.normal(size=64), None)
    rows(Prepared(source, inputs, Targets.unscaled(["t"])), np.arange(64))
    assert len(calls) == 2


def test_a_subset_has_its_rows_and_their_weights(rng):
    x, y, weight = rng.normal(size=(9, 2)), rng.normal(size=(9, 1)), rng.random(9)
    subset = Subset(source_of(x, y, weight), np.array([7, 2, 5]))
    assert (subset.n_rows, subset.has_weights) == (3, True)
    for found, expected in zip(rows(subset, [2, 0]), (x, y, weight), strict=True):
        np.testing.assert_array_equal(found, expected[[5, 7]])


def test_coded_targets_are_class_numbers():
    coded = Coded(source_of(np.zeros((4, 1)), [5.0, -1.0, 2.5, 5.0]), {5.0: 2, -1.0: 0, 2.5: 7}, "t")
    assert rows(coded)[1].ravel().tolist() == [2, 0, 7, 2]


def test_a_value_that_is_no_class_is_named_with_its_row():
    coded = Coded(source_of(np.zeros((3, 1)), [0.0, 1.0, 1.5]), {0.0: 0, 1.0: 1}, "kind")
    with pytest.raises(ValueError, match=r"row 3, target 'kind' is 1\.5, which is none of the classes: 0, 1"):
        rows(coded)


def test_sources_around_a_source_notice_that_its_file_was_changed(folder):
    np.save("x.npy", np.arange(6.0).reshape(3, 2))
    np.save("y.npy", np.arange(3))
    source = open_table(TableOptions(data="x.npy", target="y.npy")).source
    subset = Subset(source, np.arange(2))
    counted = Counted(Prepared(subset, Inputs.plain(["a", "b"]), Targets.unscaled(["t"])), print)
    coded = Coded(source, {0.0: 0}, "t")
    for each in (counted, coded):
        each.check_unchanged()
    np.save("x.npy", np.arange(8.0).reshape(4, 2))
    for each in (counted, coded):
        with pytest.raises(RuntimeError, match=r"x\.npy was changed while it was in use"):
            each.check_unchanged()
    Counted(as_source(object_source()), print).check_unchanged()


def object_source():
    """The least that a source is."""
    return types.SimpleNamespace(n_rows=1, n_features=1, n_targets=1, has_weights=False)


# The held-out part


@settings(max_examples=100, deadline=None)
@property_given(st.integers(2, 500), st.floats(0, 0.9), st.integers(0, 2**32))
def test_every_row_is_in_exactly_one_part(n_rows, part, seed):
    n_held = round(part * n_rows) or (1 if part else 0)
    if n_held >= n_rows:
        with pytest.raises(ValueError, match="too few to hold out"):
            at_random(n_rows, part, seed)
        return
    training, held = at_random(n_rows, part, seed)
    assert sorted([*training, *held]) == list(range(n_rows))
    assert len(held) == n_held
    assert list(training) == sorted(training)
    again = at_random(n_rows, part, seed)
    assert [part.tolist() for part in again] == [training.tolist(), held.tolist()]


def test_another_seed_holds_out_other_rows():
    assert at_random(100, 0.1, 0)[1].tolist() != at_random(100, 0.1, 1)[1].tolist()


@pytest.mark.parametrize(("n_rows", "said"), [(1, "1 row is too few"), (2, "2 rows are too few")])
def test_too_few_rows(n_rows, said):
    with pytest.raises(ValueError, match=f"{said}.*or validation=0"):
        at_random(n_rows, 0.9, 0)


def test_the_split_is_that_of_the_first_release():
    assert at_random(20, 0.2, 0)[1].tolist() == [0, 10, 13, 15]


def test_beyond_3_million_rows_the_parts_take_no_memory():
    training, held = at_random(5_000_000, 0.2, 0)
    assert (len(training), len(held)) == (4_000_000, 1_000_000)
    assert not isinstance(training, np.ndarray)
    some = np.arange(0, 1_000_000, 997)
    assert not set(training[some].tolist()) & set(held[some].tolist())


@settings(max_examples=60, deadline=None)
@property_given(
    st.lists(st.integers(0, 9), min_size=2, max_size=80), st.floats(0.01, 0.9), st.integers(0, 2**32)
)
def test_groups_are_never_cut(groups, part, seed):
    values = np.array(groups, dtype=float)
    if len(set(groups)) < 2 or round(part * len(values)) >= len(values):
        with pytest.raises(ValueError, match=r"all rows are of one group|too few"):
            whole_groups(values, part, seed, "g")
        return
    training, held = whole_groups(values, part, seed, "g")
    assert sorted([*training, *held]) == list(range(len(values)))
    assert len(training)
    assert len(held)
    assert not set(values[training]) & set(values[held])
    again = whole_groups(values, part, seed, "g")
    assert [rows.tolist() for rows in again] == [training.tolist(), held.tolist()]


def test_as_many_groups_are_held_out_as_come_nearest_to_the_part():
    values = np.repeat(np.arange(20.0), 10)
    sizes = [len(whole_groups(values, part, 3, "g")[1]) for part in (0.01, 0.1, 0.52, 0.94)]
    assert sizes == [10, 20, 100, 190]
    assert whole_groups(values, 0.1, 3, "g")[1].tolist() != whole_groups(values, 0.1, 4, "g")[1].tolist()


@settings(max_examples=60, deadline=None)
@property_given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.floats(0.01, 0.9))
def test_what_is_held_out_by_time_comes_after_all_else(times, part):
    values = np.array(times, dtype=float)
    if len(set(times)) < 2 or round(part * len(values)) >= len(values):
        with pytest.raises(ValueError, match=r"all rows have the same time|too few"):
            latest(values, part, "t")
        return
    training, held = latest(values, part, "t")
    assert sorted([*training, *held]) == list(range(len(values)))
    assert values[training].max() < values[held].min()
    most = max(1, round(part * len(values)))
    assert len(held) <= most or len(set(values[held])) == 1


# Task and classes


def table_of(y, levels=None, names=("t",), x=None):
    y = np.asarray(y, dtype=float)
    x = np.arange(len(y), dtype=float)[:, None] if x is None else x
    return Table("data", source_of(x, y), (RawColumn("a", "number"),), names, levels)


FEW = np.repeat([3.0, 1.0, 7.0], 20)


@pytest.mark.parametrize(
    ("y", "task", "loss", "expected"),
    [
        (FEW, "auto", None, ("1", "3", "7")),
        (FEW[1:], "auto", None, None),  # 59 rows are too few for three classes
        (FEW + 0.5, "auto", None, None),  # no whole numbers
        (np.zeros(60), "auto", None, None),  # one value only
        (np.arange(500) % 21, "auto", None, None),  # more than 20 values
        (FEW, "regression", None, None),
        (FEW, "auto", SquaredError(), None),
        (FEW[10:30], "auto", SoftmaxCrossEntropy(), ("1", "3")),
        (FEW + 0.5, "classification", None, ("1.5", "3.5", "7.5")),
        (FEW[:40], "auto", BinaryCrossEntropy(), ("1", "3")),
        (np.linspace(0, 1, 9), "auto", BinaryCrossEntropy(), None),
    ],
)
def test_the_task_follows_from_target_and_loss(y, task, loss, expected):
    table, about = for_task(table_of(y), task, loss)
    assert table.levels == expected
    assert about.startswith("regression" if expected is None else f"classification: {len(expected)} classes")
    if expected is not None:
        codes = rows(table.source)[1].ravel()
        assert [expected[int(code)] for code in codes] == [f"{value:g}" for value in y]


def test_several_targets_are_numbers():
    table, about = for_task(table_of(np.zeros((60, 2)), names=("s", "t")), "auto", None)
    assert (table.levels, about) == (None, "regression: 2 targets")


@pytest.mark.parametrize(
    ("table", "task", "loss", "said"),
    [
        (table_of(FEW), "guess", None, "unknown task 'guess'"),
        (table_of(FEW), "regression", SoftmaxCrossEntropy(), "softmax_cross_entropy, which is for classes"),
        (table_of(FEW), "classification", SquaredError(), "the loss squared_error is for numbers"),
        (table_of(FEW), "classification", BinaryCrossEntropy(), "for two classes, but target 't' has 3"),
        (
            table_of([0, 1], ("a", "b")),
            "regression",
            None,
            "target 't' holds classes: .*task is classification",
        ),
        (table_of([0, 1], ("a", "b")), "auto", Poisson(), "the loss poisson is for numbers"),
        (table_of([0, 1, 2], ("1", "2", "n.a.")), "auto", None, "holds text among numbers"),
        (
            table_of(np.arange(30), tuple(f"row {i}" for i in range(30))),
            "auto",
            None,
            "30 different texts in 30 rows: such texts name rows",
        ),
        (table_of(np.zeros((60, 2)), names=("s", "t")), "classification", None, "needs one target column"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(table, task, loss, said):
    with pytest.raises(ValueError, match=said):
        for_task(table, task, loss)


@pytest.mark.parametrize("levels", [("1", "2", "n.a."), tuple(f"row {i}" for i in range(30))])
def test_what_looks_wrong_is_right_where_it_is_asked_for(levels):
    table, _ = for_task(table_of(np.arange(len(levels)), levels), "classification", None)
    assert table.levels == levels


@pytest.mark.parametrize(
    ("loss", "y", "said"),
    [
        (Poisson(), [3, 0, -0.5], r"targets >= 0, but row 3, target 't' is -0\.5"),
        (BinaryCrossEntropy(), [0.0, 2.0, 0.5], r"targets in \[0, 1\], but row 2, target 't' is 2\."),
        (BinaryCrossEntropy(), [[0, 1], [1, -1]], r"row 2, target 'u' is -1\."),
    ],
)
def test_targets_without_a_meaning_are_named(loss, y, said):
    with pytest.raises(ValueError, match=said):
        check_targets(table_of(y, names=("t", "u")), loss)


@pytest.mark.parametrize("loss", [Poisson(), BinaryCrossEntropy(), SquaredError(), SoftmaxCrossEntropy()])
def test_targets_with_a_meaning_pass(loss):
    check_targets(table_of([0.0, 1.0, 0.5]), loss)


# Files


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.needs("pyarrow")
def test_a_csv_has_features_targets_and_weights(folder):
    write(folder / "t.csv", "b,t,w,a,c\n1,10,1,4,7\n2,20,0.5,5,8\n")
    table = open_table(TableOptions(data="t.csv", target="t", weight_column="w", exclude="c"))
    assert (table.feature_names, table.target_names, table.levels) == (("b", "a"), ("t",), None)
    x, y, weight = rows(table.source)
    assert (x.tolist(), y.tolist(), weight.tolist()) == ([[1, 4], [2, 5]], [[10], [20]], [1, 0.5])
    table = open_table(TableOptions(data="t.csv", target="t"), columns=["a", "b"])
    assert rows(table.source)[0].tolist() == [[4, 1], [5, 2]]


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
def test_formats_of_tables(folder, suffix):
    import pyarrow as pa
    from pyarrow import csv, feather, parquet

    columns = {"a": [1.5, 2.5, 3.5], "yes": [True, False, True], "kind": ["x", "ÿ", "x"]}
    arrow = pa.table(columns)
    writers = {"csv": csv.write_csv, "parquet": parquet.write_table, "feather": feather.write_feather}
    writers[suffix](arrow, f"t.{suffix}")
    table = open_table(TableOptions(data=f"t.{suffix}", target="kind"))
    assert table.levels == ("x", "ÿ")
    x, y, _ = rows(table.source)
    assert (x.tolist(), y.ravel().tolist()) == ([[1.5, 1], [2.5, 0], [3.5, 1]], [0, 1, 0])
    assert open_table(TableOptions(data=f"t.{suffix}", target="yes", exclude="kind")).levels == (
        "false",
        "true",
    )


def test_arrays_in_files(folder):
    x, y = np.arange(6.0).reshape(3, 2), np.arange(3)
    np.savez("d.npz", x=x, y=y, other=y * 10, sample_weight=np.ones(3))
    np.save("x.npy", x)
    np.save("y.npy", y)
    np.save("w.npy", np.array([1.0, 2.0, 3.0]))
    for place in (TableOptions(data="d.npz"), TableOptions(data="x.npy", target="y.npy")):
        table = open_table(place)
        assert (table.feature_names, table.target_names) == (("x0", "x1"), ("y",))
        assert [part.tolist() for part in rows(table.source)[:2]] == [x.tolist(), [[0], [1], [2]]]
    assert rows(open_table(TableOptions(data="d.npz", target="other")).source)[1].ravel().tolist() == [
        0,
        10,
        20,
    ]
    weighted = open_table(TableOptions(data="x.npy", target="y.npy", weight_column="w.npy"))
    assert rows(weighted.source)[2].tolist() == [1, 2, 3]
    np.savez("two.npz", x=x, y=np.zeros((3, 2)))
    assert open_table(TableOptions(data="two.npz")).target_names == ("y0", "y1")


def test_inputs_alone_are_enough_to_predict(folder):
    np.save("x.npy", np.zeros((3, 2)))
    model = TableModel(Network((2, 1)), Inputs.plain(["a", "b"]), Targets.unscaled(["t"]))
    assert open_inputs(TableOptions(data="x.npy"), model).source.n_targets == 0
    np.save("x.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"x\.npy has 3 columns, but the model needs 2: a, b"):
        open_inputs(TableOptions(data="x.npy"), model)


def test_an_array_has_no_texts_for_a_model_that_needs_them(folder):
    np.save("x.npy", np.zeros((3, 2)))
    inputs = Inputs((Number("a"), Category("b", "text", ("u", "v"))))
    model = TableModel(Network((3, 1)), inputs, Targets.unscaled(["t"]))
    with pytest.raises(ValueError, match=r"x\.npy, column 'x1' holds numbers, where texts are needed"):
        open_inputs(TableOptions(data="x.npy"), model)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (TableOptions(data="a.csv", dataset="iris"), "both data='a.csv' and dataset='iris' are given"),
        (TableOptions(data=None, target="t"), "target: name the data that it belongs to"),
        (
            TableOptions(data=None, dataset="iris", weight_column="w", exclude="a"),
            "weight_column, exclude: name the data",
        ),
        (TableOptions(data="x.npy", target="y.npy", exclude="x0"), "the columns of x.npy have no names"),
        (TableOptions(data="x.npy"), r"holds inputs alone: name the file with targets, target='y\.npy'"),
        (TableOptions(data="x.npy", target="price"), "the targets of x.npy are another file"),
        (TableOptions(data="x.npy", target="y.npy,z.npy"), "one array holds all targets of x.npy"),
        (TableOptions(data="x.npy", target="none.npy"), "no file .*none.npy"),
        (
            TableOptions(data="x.npy", target="short.npy"),
            r"x\.npy, short\.npy: y has shape \(2,\); with 3 rows in x",
        ),
        (
            TableOptions(data="gap.npy", target="y.npy"),
            r"gap\.npy, y\.npy: x\[1, 0\] is nan \(row 1, column 0",
        ),
        (TableOptions(data="alone.npz"), "alone.npz has no targets"),
        (TableOptions(data="good.npz", target="z"), "has no array 'z'"),
        (TableOptions(data="text.npz"), r"text\.npz: x holds text"),
        (TableOptions(data="none.npz"), "there is no file .*none.npz"),
        (TableOptions(data="t.csv", target="wen"), "no column 'wen'; did you mean 'when'"),
        (TableOptions(data="t.csv"), r"t\.csv has named columns: say which to predict with target='NAME'"),
        (
            TableOptions(data="t.csv", target="kind,when", exclude="day"),
            "with several targets all must be numbers",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value.data),
)
@pytest.mark.needs("pyarrow")
def test_places_that_are_refused(folder, place, said):
    x = np.arange(6.0).reshape(3, 2)
    np.save("x.npy", x)
    np.save("y.npy", np.arange(3))
    np.save("short.npy", np.arange(2))
    np.save("gap.npy", np.where(x == 2, np.nan, x))
    np.savez("alone.npz", x=x)
    np.savez("good.npz", x=x, y=np.arange(3))
    np.savez("text.npz", x=np.array([["a", "b"]]), y=np.arange(1))
    write(folder / "t.csv", "day,when,kind,n\n2024-01-01,1,a,1\n2024-01-02,2,b,2\n")
    with pytest.raises((ValueError, TypeError, OSError), match=said):
        open_table(place)


def test_shipped_columns_by_name():
    table = open_table(TableOptions(data=None, dataset="diabetes"), columns=["bmi", "age"])
    diabetes = load_dataset("diabetes")
    np.testing.assert_array_equal(rows(table.source)[0], diabetes.x[:, [2, 0]])
    with pytest.raises(ValueError, match="diabetes has no column 'bmj'; did you mean 'bmi'"):
        open_table(TableOptions(data=None, dataset="diabetes"), columns=["bmj"])


# Targets of other tables, for the evaluation of a model


def classifier(levels):
    return TableModel(
        Network((1, len(levels))),
        Inputs.plain(["a"]),
        Targets.unscaled(["t"]),
        levels,
        loss="softmax_cross_entropy",
    )


@pytest.mark.parametrize(
    ("model_levels", "y", "table_levels", "expected"),
    [
        (("a", "b", "c"), [0, 1, 1], ("a", "c"), [0, 2, 2]),
        (("b", "a"), [0, 1, 0], ("a", "b"), [1, 0, 1]),
        (("1", "2", "10"), [10, 1, 2], None, [2, 0, 1]),
        (("1.5", "x"), [1.5, 1.5, 1.5], None, [0, 0, 0]),
        (("0", "1"), [0, 1, 1], ("false", "true"), [0, 1, 1]),
        (("true", "false"), [0, 1, 1], ("false", "true"), [1, 0, 0]),
    ],
)
def test_classes_are_known_by_name(model_levels, y, table_levels, expected):
    table = for_model(table_of(y, table_levels), classifier(model_levels))
    assert rows(table.source)[1].ravel().tolist() == expected


@pytest.mark.parametrize(
    ("model_levels", "table", "said"),
    [
        (("a", "b"), table_of([0, 1], ("a", "d")), "does not know: d"),
        (("a", "b"), table_of([0, 1]), "holds numbers, but the model's classes are a, b"),
        (("a", "b"), table_of([[0, 1]], names=("t", "u")), "has 2 targets, but the model predicts 1: t"),
        (None, table_of([0, 1], ("a", "b")), "holds text .a, b., but the model predicts numbers"),
    ],
)
def test_targets_that_are_not_the_models_are_refused(model_levels, table, said):
    numbers = TableModel(Network((1, 1)), Inputs.plain(["a"]), Targets.unscaled(["t"]))
    with pytest.raises(ValueError, match=said):
        for_model(table, classifier(model_levels) if model_levels else numbers)


# Models


def linear(weights):
    """A model whose network is x ↦ x W, around columns that are standardised."""
    weights = np.array(weights, dtype=float)
    network = Network(weights.shape, bias=False, dtype="float64")
    network.parameters.weights[0][...] = weights
    names = "abcdef"[: len(weights)]
    inputs = Inputs(tuple(Number(name, float(at), 2.0) for at, name in enumerate(names)))
    return network, inputs


def test_predictions_are_in_the_users_units():
    network, inputs = linear([[1.0], [10.0]])
    model = TableModel(network, inputs, Targets(("t",), (100.0,), (3.0,)))
    x = readonly([[4.0, 1.0], [0.0, 3.0]])
    # ((4 − 0)/2 + 10 (1 − 1)/2) · 3 + 100, ((0 − 0)/2 + 10 (3 − 1)/2) · 3 + 100
    np.testing.assert_allclose(model.predict(x), [[106.0], [130.0]], rtol=1e-14)


@pytest.mark.parametrize(
    "kind",
    [
        "dict",
        *(pytest.param(name, marks=pytest.mark.needs(name)) for name in ("pandas", "polars", "pyarrow")),
    ],
)
def test_tables_are_read_by_name(kind):
    network, inputs = linear([[1.0], [10.0]])
    model = TableModel(network, inputs, Targets.unscaled(["t"]))
    table = {"b": [1.0, 3.0], "further": ["x", "y"], "a": [4, 0]}
    if kind == "pyarrow":
        table = importlib.import_module(kind).table(table)
    elif kind != "dict":
        table = importlib.import_module(kind).DataFrame(table)
    np.testing.assert_allclose(model.predict(table), [[2.0], [10.0]], rtol=1e-14)


@pytest.mark.needs("pyarrow")
def test_a_path_is_read_by_name(folder):
    network, inputs = linear([[1.0], [10.0]])
    model = TableModel(network, inputs, Targets.unscaled(["t"]))
    write(folder / "t.csv", "b,further,a\n1,x,4\n3,y,0\n")
    np.testing.assert_allclose(model.predict(folder / "t.csv"), [[2.0], [10.0]], rtol=1e-14)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([[1.0]], r"x has shape \(1, 1\), but this model needs \(n_rows, 2\): the columns a, b"),
        ([1.0, 2.0], r"x has shape \(2,\)"),
        ([["x", "2"]], r"column 'a' must hold numbers: row 0 \(from 0\) is 'x'"),
        ([[np.inf, 2.0]], "column 'a' is inf"),
        ({"a": [1.0], "B": [2.0]}, "x has no column 'b'"),
        ({"a": [1.0], "b": ["two"]}, "column 'b' must hold numbers"),
        ({"a": [1.0, 2.0], "b": [1.0, np.inf]}, r"row 1 \(from 0\), column 'b' is inf"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "must have the same number of rows, but have: a 2, b 1"),
    ],
)
def test_inputs_that_are_refused(x, said):
    network, inputs = linear([[1.0], [10.0]])
    with pytest.raises(ValueError, match=said):
        TableModel(network, inputs, Targets.unscaled(["t"])).predict(x)


def test_two_classes_with_one_output():
    network, inputs = linear([[1.0]])
    network.output = BinaryCrossEntropy().link
    model = TableModel(network, inputs, Targets.unscaled(["t"]), ("no", "yes"))
    p = 1 / (1 + np.exp(-1.5))
    np.testing.assert_allclose(model.predict_raw(np.array([[3.0]])), [[1 - p, p]], rtol=1e-12)
    assert model.predict([[3.0], [-3.0]]).tolist() == ["yes", "no"]
    assert isinstance(model.loss, BinaryCrossEntropy)


@pytest.mark.parametrize(
    ("loss", "n_targets", "levels", "expected"),
    [
        ("squared_error", 1, None, ("t0",)),
        ("poisson", 2, None, ("t0", "t1")),
        ("softmax_cross_entropy", 1, ("a", "b"), ("a", "b")),
        ("binary_cross_entropy", 1, ("a", "b"), ("a", "b")),
        (Pinball((0.5,)), 1, None, ("0.5",)),
        (Pinball((0.1, 0.9)), 1, None, ("0.1", "0.9")),
        (Pinball((0.1, 0.9)), 2, None, ("t0_0.1", "t0_0.9", "t1_0.1", "t1_0.9")),
    ],
)
def test_names_of_outputs(loss, n_targets, levels, expected):
    from mlp_xp.losses import LOSSES
    from mlp_xp.settings.catalogue import resolve

    resolved = resolve("loss", LOSSES, loss)
    network = Network((1, resolved.n_outputs(n_targets, len(levels) if levels else None)))
    targets = Targets.unscaled([f"t{i}" for i in range(n_targets)])
    model = TableModel(network, Inputs.plain(["a"]), targets, levels, loss=resolved)
    assert model.output_names == expected
    assert model.predict_raw(np.zeros((3, 1))).shape == (3, len(expected))


def test_quantiles_are_brought_back_target_by_target():
    network = Network((1, 4), bias=False, dtype="float64")
    network.parameters.weights[0][...] = [[1.0, 2.0, 3.0, 4.0]]
    targets = Targets(("s", "t"), (100.0, 0.0), (1.0, 10.0))
    model = TableModel(network, Inputs.plain(["a"]), targets, loss=Pinball((0.1, 0.9)))
    np.testing.assert_allclose(model.predict([[1.0]]), [[101, 102, 30, 40]])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": Inputs.plain(["a", "b"])}, "2 columns are 2 features, but the network has 1 inputs"),
        ({"targets": Targets.unscaled(["s", "t"])}, "2 targets do not fit a network with 1 outputs"),
        ({"levels": ("a",)}, "at least two names"),
        ({"levels": ("a", "a")}, "each once"),
        ({"levels": ("a", "b", "c")}, "3 classes are named for a network with 1 outputs"),
        ({"loss": Pinball((0.1, 0.9))}, "do not fit a network with 1 outputs and this loss"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_models_that_do_not_fit_are_refused(changed, said):
    given = {"inputs": Inputs.plain(["a"]), "targets": Targets.unscaled(["t"])} | changed
    with pytest.raises(ValueError, match=said):
        TableModel(Network((1, 1)), **given)


@pytest.mark.parametrize(
    ("n_outputs", "link", "levels", "names"),
    [
        (1, None, None, ("y",)),
        (2, None, None, ("y0", "y1")),
        (3, SoftmaxLink(), ("0", "1", "2"), ("0", "1", "2")),
        (1, BinaryCrossEntropy().link, ("0", "1"), ("0", "1")),
        (2, BinaryCrossEntropy().link, None, ("y0", "y1")),
        (3, SortedLink(3), None, ("0", "1", "2")),
        (1, SortedLink(1), None, ("y",)),
        (1, Poisson().link, None, ("y",)),
    ],
)
def test_a_network_alone_gets_numbers_for_names(n_outputs, link, levels, names):
    network = Network((2, n_outputs), seed=4)
    network.output = link or network.output
    model = TableModel.of_network(network, ["a", "b"])
    assert (model.levels, model.output_names) == (levels, names)
    x = np.array([[0.5, -1.5], [0.1, 0.2]])
    np.testing.assert_allclose(model.predict_raw(x)[:, -1], network.predict(x)[:, -1], rtol=1e-6)


def test_what_a_model_says_of_itself_makes_it_again():
    network, inputs = linear([[1.0, 2.0]])
    model = TableModel(network, inputs, Targets.unscaled(["s", "t"]), training={"epochs": 3})
    again = TableModel.of(model.description(), network)
    assert again.description() == model.description()


def test_memory_does_not_grow_with_the_rows():
    network, inputs = linear([[1.0]])
    model = TableModel(network, inputs, Targets.unscaled(["t"]))
    source = source_of(np.zeros((20_000, 1)), np.zeros(20_000))
    assert [len(part) for part in model.predict_parts(source)] == [8192, 8192, 3616]


@pytest.mark.needs("pyarrow")
def test_dates_are_a_target_only_as_names_of_classes(folder):
    write(folder / "t.csv", "day,n\n" + "2024-01-01,1\n2024-01-02 12:00,2\n" * 3)
    table = open_table(TableOptions(data="t.csv", target="day"))
    with pytest.raises(ValueError, match=r"target 'day' holds dates; .* Say task='classification'"):
        for_task(table, "auto", None)
    assert for_task(table, "classification", None)[0].levels == ("2024-01-01", "2024-01-02 12:00:00")


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (np.zeros(20), "column_w: all 10 rows to train on have weight 0"),
        (np.arange(20) < 10, "column_w: all 10 rows held out have weight 0"),
        (np.arange(20) >= 10, "column_w: all 10 rows to train on have weight 0"),
        (np.full(20, 1e38), r"column_w: the weights of the 10 rows to train on add up to 1e\+39"),
        (
            np.full(20, 1e-44),
            r"column_w: the weights of the 10 rows to train on add up to .*e-43, too little",
        ),
    ],
)
@pytest.mark.needs("pyarrow")
def test_weights_of_a_part_that_are_none_are_refused(weight, said, folder):
    lines = [f"{t},{t % 7},{float(w)!r}" for t, w in enumerate(weight)]
    Path("t.csv").write_text("t,y,column_w\n" + "\n".join(lines))
    options = TableOptions(data="t.csv", target="y", weight_column="column_w")
    table = open_table(options)
    with pytest.raises(ValueError, match=said):
        split(dataclasses.replace(table, split_column=(table.source, 0, "number")), HoldOut(0.5, "time", "t"))


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("by", ["random", "group"])
def test_folds_whose_rows_have_no_weight_are_refused(by, folder):
    Path("t.csv").write_text("g,y,w\n" + "\n".join(f"{t % 6},{t},{int(t == 7)}" for t in range(30)))
    table = open_table(TableOptions(data="t.csv", target="y", weight_column="w"))
    table = dataclasses.replace(table, split_column=(table.source, 0, "number"))
    with pytest.raises(ValueError, match=r"w: all rows of fold \d of 3 have weight 0"):
        split(table, HoldOut(0.0, by, "g", folds=3))


@pytest.mark.needs("pyarrow")
def test_a_file_whose_rows_are_in_memory_may_be_touched(folder):
    Path("t.csv").write_text("a,y\n1,2\n3,4\n")
    table = open_table(TableOptions(data="t.csv", target="y"))
    os.utime("t.csv", (0, 0))
    table.source.check_unchanged()
    assert rows(table.source)[0].ravel().tolist() == [1.0, 3.0]


def test_an_npz_is_within_the_memory_limit(folder):
    np.savez("t.npz", x=np.zeros((1000, 4)), y=np.zeros(1000))
    with pytest.raises(ValueError, match="over the memory limit of 10,000"):
        open_table(TableOptions(data="t.npz", memory_limit="10kB"))


def test_a_model_that_names_no_loss_is_nothing_to_go_on_from():
    network = Network((10, 3))
    network.output = SortedLink(3)
    model = TableModel.of_network(network, load_dataset("diabetes").feature_names)
    with pytest.raises(ValueError, match=r"m\.safetensors.* does not say which quantiles"):
        read_data(TrainingOptions(dataset="diabetes", init=Path("m.safetensors")), model)
