"""Prepared columns: what each kind fills, against libraries and closed forms, and their JSON."""

import datetime as dt
import json

import numpy as np
import pytest
from arrays import readonly
from hypothesis import given as property_given
from hypothesis import settings
from hypothesis import strategies as st

from mlp_xp.tables.preparation import Category, Constant, Date, Inputs, Number, Targets

NAN = np.nan


def filled(column, values):
    """What a column fills, into memory that was something else."""
    values = readonly(np.array(values, dtype=float))
    x = np.full((len(values), column.n_features), 77.0)
    column.fill(values, x)
    assert column.n_features == len(column.feature_names)
    return x


# One column at a time


def test_a_number_is_standardised_and_its_gaps_are_the_median():
    column = Number("a", 10.0, 4.0, median=12.0)
    assert filled(column, [10, 14, NAN]).tolist() == [[0.0], [1.0], [0.5]]
    column = Number("a", 10.0, 4.0, median=12.0, gaps=True)
    assert filled(column, [10, NAN]).tolist() == [[0.0, 0.0], [0.5, 1.0]]
    assert column.feature_names == ("a", "a missing")


def test_a_clipped_number_is_itself_near_the_centre_and_never_beyond_3():
    column = Number("a", 0.0, 2.0, clipped=True)
    z = filled(column, [0.002, 6.0, 1e9, -1e200]).ravel()
    assert z[0] == pytest.approx(0.001, rel=1e-6)
    assert z[1] == pytest.approx(3 / np.sqrt(2))
    assert z[2:] == pytest.approx([3.0, -3.0])
    many = filled(column, np.linspace(-50, 50, 101)).ravel()
    assert (np.diff(many) > 0).all()


def day(*date):
    return (dt.datetime(*date) - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1)


def test_a_date_is_days_and_where_it_is_in_its_cycles():
    column = Date("d", day(2000, 1, 1), 10.0, cycles=("day", "week"), median=day(2000, 1, 1))
    x = filled(column, [day(2000, 1, 6), day(2000, 1, 6, 6), day(2000, 1, 13, 12), NAN])
    assert x[:, 0] == pytest.approx([0.5, 0.525, 1.25, 0.0])
    assert x[:, 1:3] == pytest.approx(np.array([[0, 1], [1, 0], [0, -1], [0, 1]]), abs=1e-6)
    weekly = filled(column, [day(2024, 2, 5, 7), day(2024, 2, 12, 7)])  # two Mondays
    assert weekly[0, 3:] == pytest.approx(weekly[1, 3:])
    assert column.feature_names == ("d", "d sin of day", "d cos of day", "d sin of week", "d cos of week")


def test_the_same_day_of_two_years_is_near_in_the_cycle_of_the_year():
    column = Date("d", cycles=("year",), gaps=True)
    x = filled(column, [day(1999, 7, 1), day(2023, 7, 1), day(2023, 12, 30), NAN])
    assert x[0, 2:] == pytest.approx(x[1, 2:], abs=0.02)
    assert np.linalg.norm(x[1, 2:] - x[2, 2:]) == pytest.approx(2.0, abs=0.01)
    assert x[:, 1].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("other", "gaps", "unseen", "gap"),
    [
        (False, False, [0, 0], [0, 0]),
        (True, False, [0, 0, 1], [0, 0, 1]),
        (False, True, [0, 0, 0], [0, 0, 1]),
        (True, True, [0, 0, 1, 0], [0, 0, 0, 1]),
    ],
)
def test_a_category_has_a_feature_for_each_level_one_for_others_and_one_for_gaps(other, gaps, unseen, gap):
    column = Category("kind", "text", ("a", "b"), other, gaps)
    codes = [*column.codes(["b", "a", "c"]), -1, NAN]
    found = filled(column, codes).tolist()
    rest = [0] * (other + gaps)
    assert found == [[0, 1, *rest], [1, 0, *rest], unseen, gap, gap]


def test_a_boolean_is_its_own_code():
    column = Category("yes", "bool", ("false", "true"), gaps=True)
    assert filled(column, [0, 1, NAN]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.needs("sklearn")
@property_given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_one_hot_is_scikit_learns(texts):
    from sklearn.preprocessing import OneHotEncoder

    column = Category("kind", "text", ("a", "b", "d"))
    encoder = OneHotEncoder(categories=[["a", "b", "d"]], handle_unknown="ignore", sparse_output=False)
    expected = encoder.fit_transform([[text] for text in texts])
    np.testing.assert_array_equal(filled(column, column.codes(texts)), expected)


def test_a_constant_column_has_no_feature():
    assert filled(Constant("a", "text"), [1, 2, 3]).shape == (3, 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Number("a", scale=0.0), "the scale of column 'a'=0.0 must be a finite number > 0"),
        (lambda: Number("a", centre=NAN), "the centre of column 'a'=nan must be a finite number"),
        (lambda: Number("a", median=np.inf), "the median of column 'a'=inf"),
        (lambda: Number(3), "name=3 of a column is no str"),
        (lambda: Number("a", gaps=1), "gaps=1 of a column is no bool"),
        (lambda: Date("a", cycles=("moth",)), "unknown cycle 'moth'; .*known: day, week, year"),
        (lambda: Category("a", "number", ()), "unknown kind of category 'number'"),
        (lambda: Category("a", "text", ("b", "b")), "has a level twice"),
        (lambda: Category("a", "text", (1,)), "a level of column 'a' is no text"),
        (lambda: Constant("a", "colour"), "unknown kind of column 'colour'"),
        (lambda: Inputs((Number("a"), Number("a"))), "named twice: a, a"),
    ],
)
def test_columns_that_make_no_sense_are_refused(make, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make()


# All columns


EVERY_KIND = Inputs(
    (
        Number("a", 1.0, 2.0),
        Number("b", -1.0, 3.0, median=5.0),
        Number("c", 0.5, 2.0, clipped=True),
        Number("d", 0.5, 2.0, clipped=True, median=1.0),
        Constant("e", "date"),
        Number("f", 3.0, 0.1, median=2.0, gaps=True),
        Number("k", -3.0, 0.5, median=-2.0, gaps=True),
        Number("l", -3.0, 0.5, clipped=True, median=-2.0, gaps=True),
        Date("g", 100.0, 50.0, cycles=("day", "year"), median=70.0, gaps=True),
        Category("h", "text", ("x", "ÿ \U0001f600"), other=True),
        Category("i", "bool", ("false", "true"), gaps=True),
        Number("j"),
    )
)


def values_of_every_kind(rng, n_rows):
    values = rng.normal(size=(n_rows, 12))
    values[:, 9] = rng.integers(-1, 4, n_rows)
    values[:, 10] = rng.integers(0, 2, n_rows)
    at = rng.integers(0, n_rows, 40), rng.integers(0, 12, 40)
    values[at] = NAN
    return values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_columns_together_are_each_alone(rng, dtype):
    values = values_of_every_kind(rng, 50)
    x = np.full((50, EVERY_KIND.n_features), 77.0, dtype)
    EVERY_KIND.fill(readonly(values), x)
    alone = [filled(column, values[:, at]) for at, column in enumerate(EVERY_KIND.columns)]
    np.testing.assert_array_equal(x, np.hstack(alone).astype(dtype))
    assert len(EVERY_KIND.feature_names) == EVERY_KIND.n_features == x.shape[1]


def test_large_means_cost_no_digits_in_float32():
    x = np.empty((3, 2), np.float32)
    inputs = Inputs((Number("a", 1e9 + 2, 1.0), Number("b", 1e9 + 2, 0.5)))
    inputs.fill(np.array([[1e9 + 1] * 2, [1e9 + 2] * 2, [1e9 + 3] * 2]), x)
    assert x.tolist() == [[-1, -2], [0, 0], [1, 2]]


def test_columns_come_back_from_json():
    written = json.loads(json.dumps(EVERY_KIND.description(), allow_nan=False))
    assert Inputs.of(written) == EVERY_KIND


@pytest.mark.parametrize(
    "described",
    [
        None,
        7,
        [{}],
        [{"treatment": "pickle", "name": "a"}],
        [{"treatment": "number"}],
        [{"treatment": "number", "name": "a", "colour": 1}],
        [{"treatment": "number", "name": "a", "scale": "1"}],
        [{"treatment": "number", "name": "a", "centre": None}],
        [{"treatment": "date", "name": "a", "cycles": "day"}],
        [{"treatment": "category", "name": "a", "kind": "text", "levels": "abc", "other": 1}],
        [{"treatment": ["number"], "name": "a"}],
    ],
)
def test_json_that_describes_no_columns_is_refused(described):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Inputs.of(described)


def test_columns_of_format_1_are_numbers():
    described = {"names": ["a", "b"], "means": [0.0, 1.0], "scales": [1.0, 2.0], "constant": [True, False]}
    assert Inputs.of(described) == Inputs((Number("a"), Number("b", 1.0, 2.0, median=1.0)))


# Targets


@settings(max_examples=50, deadline=None)
@property_given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3)), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_restore_undoes_standardise(columns, n_each):
    means, scales = zip(*columns, strict=True)
    known = Targets(tuple(f"c{i}" for i in range(len(means))), means, scales)
    values = np.arange(5.0 * len(means)).reshape(5, -1)
    standardised = values.copy()
    known.standardise(standardised)
    expected = (values - np.array(means)) / np.array(scales)
    np.testing.assert_allclose(standardised, expected, rtol=1e-9, atol=1e-9)
    restored = known.restore(np.repeat(standardised, n_each, axis=1))
    np.testing.assert_allclose(restored, np.repeat(values, n_each, axis=1), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"means": (1.0,)}, "2 targets have 1 means and 2 scales"),
        ({"names": ("a", "a")}, "named twice: a, a"),
        ({"scales": (1.0, 0.0)}, "the scale of target 'b'=0.0 must be a finite number > 0"),
        ({"means": (NAN, 0.0)}, "the mean of target 'a'=nan must be a finite number"),
    ],
)
def test_targets_that_do_not_fit_are_refused(changed, said):
    given = {"names": ("a", "b"), "means": (0.0, 0.0), "scales": (1.0, 1.0)} | changed
    with pytest.raises(ValueError, match=said):
        Targets(**given)
