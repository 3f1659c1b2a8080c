"""Statistics of the training part: exact against libraries, in bounded memory, and from nothing else."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from arrays import readonly

from mlp_xp.rows import source as rows_source
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.order import Shuffled
from mlp_xp.rows.source import Source, Subset
from mlp_xp.rows.streams import BatchSource
from mlp_xp.tables import statistics
from mlp_xp.tables.datasets import load_dataset
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.holding_out import at_random
from mlp_xp.tables.preparation import Category, Constant, Date, Number
from mlp_xp.tables.statistics import measure

NAN = np.nan


@pytest.fixture
def small_parts(monkeypatch):
    """Passes over a table take 7 rows at a time."""
    monkeypatch.setattr(rows_source, "PASS_ROWS", 7)


class Raw(ArraySource):
    """Raw rows with gaps, which an ArraySource alone would refuse."""

    def __init__(self, x, y=None):
        super().__init__(readonly(x), readonly(np.zeros(len(x)) if y is None else y), check=False)


def numbers(*names):
    return [RawColumn(name, "number") for name in names]


def inputs_of(values, kind="number", levels=(), **options):
    """The prepared column of one column, beside one that varies."""
    values = np.asarray(values, dtype=float)
    x = np.column_stack([values, np.arange(len(values))])
    columns = [RawColumn("a", kind, levels), RawColumn("other", "number")]
    return measure(Raw(x), columns, "t", **options)[0].columns[0]


def standard_scaler(x):
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(x)


# Numbers


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize("name", ["diabetes", "linnerud", "digits", "breast_cancer"])
def test_means_and_deviations_are_scikit_learns(name, small_parts):
    found = load_dataset(name)
    inputs, targets = measure(Raw(found.x, found.y), numbers(*found.feature_names), found.target_names)
    varies = np.ptp(found.x, axis=0) > 0
    assert [isinstance(column, Number) for column in inputs.columns] == varies.tolist()
    used = [column for column in inputs.columns if isinstance(column, Number)]
    scaler = standard_scaler(found.x[:, varies])
    np.testing.assert_allclose([column.centre for column in used], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose([column.scale for column in used], scaler.scale_, rtol=1e-12)
    assert not any(column.clipped or column.gaps for column in used)
    scaler = standard_scaler(found.y.astype(float))
    np.testing.assert_allclose(targets.means, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(targets.scales, scaler.scale_, rtol=1e-12)


@pytest.mark.needs("sklearn")
def test_digits_are_kept_where_the_mean_is_large(rng, small_parts):
    x = rng.normal(size=(1000, 3)) * [1e-3, 1.0, 1e3] + [1e6, -1e9, 0.0]
    inputs, _ = measure(Raw(x), numbers(*"abc"), "t")
    scaler = standard_scaler(x)
    np.testing.assert_allclose([column.centre for column in inputs.columns], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose([column.scale for column in inputs.columns], scaler.scale_, rtol=1e-6)


@pytest.mark.needs("sklearn")
def test_with_gaps_they_are_those_of_the_values(rng, small_parts):
    x = np.where(rng.random((200, 4)) < [0.0, 0.1, 0.9, 0.5], NAN, rng.normal(size=(200, 4)) * 3 + 7)
    x[:50, 3] = NAN  # whole parts without a value
    inputs, _ = measure(Raw(x), numbers(*"abcd"), "t")
    scaler = standard_scaler(x)
    np.testing.assert_allclose([column.centre for column in inputs.columns], scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose([column.scale for column in inputs.columns], scaler.scale_, rtol=1e-12)
    assert [column.gaps for column in inputs.columns] == [False, True, True, True]
    medians = np.nanmedian(x, axis=0)
    np.testing.assert_allclose([column.median for column in inputs.columns[1:]], medians[1:], rtol=1e-12)


@pytest.mark.needs("sklearn")
def test_robust_scaling_is_scikit_learns(rng, small_parts):
    from sklearn.preprocessing import RobustScaler

    x = rng.standard_cauchy(size=(301, 3)) * [1, 10, 100]
    inputs, _ = measure(Raw(x), numbers(*"abc"), "t", scaling="robust")
    scaler = RobustScaler().fit(x)
    np.testing.assert_allclose([column.centre for column in inputs.columns], scaler.center_, rtol=1e-12)
    np.testing.assert_allclose([column.scale for column in inputs.columns], scaler.scale_, rtol=1e-12)
    assert all(column.clipped for column in inputs.columns)


def test_where_quartiles_coincide_the_deviation_scales():
    column = inputs_of([0] * 30 + [10, 20], scaling="robust")
    assert (column.centre, column.scale) == (0.0, pytest.approx(np.std([0] * 30 + [10, 20])))


def test_numbers_can_be_left_as_they_are():
    assert inputs_of([1, 2, NAN, 9], scaling="none") == Number("a", 0.0, 1.0, False, 2.0, True)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e9, 1e-300, NAN])
@pytest.mark.parametrize("kind", ["number", "date", "bool"])
def test_a_column_with_a_single_value_is_not_used(value, kind, small_parts):
    if kind == "bool" and value == value:
        value = float(value > 0)
    assert inputs_of(np.full(50, value), kind) == Constant("a", kind)


@pytest.mark.parametrize("centre", [1e15, -1e15, 1.7e9])
def test_a_spread_of_a_few_digits_is_a_spread(rng, centre, small_parts):
    x = centre + 3 * rng.normal(size=(80, 1))
    inputs, targets = measure(Raw(x, x), numbers("a"), "y", scaling="standard")
    assert not targets.constant[0]
    exact = [Fraction(value) for value in x[:, 0].tolist()]
    mean = sum(exact) / len(exact)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in exact) / len(exact))
    for scale in (targets.scales[0], inputs.columns[0].scale):
        assert scale == pytest.approx(deviation, rel=0.01)


def test_noise_in_the_last_digits_is_no_spread(small_parts):
    x = np.tile([0.1 + 0.2, 0.3], 20)[:, None]
    assert x[0] != x[1]
    _, targets = measure(Raw(np.arange(40.0)[:, None], x), numbers("a"), "y", scaling="standard")
    assert targets.constant[0]


def test_a_single_value_among_gaps_says_where_the_gaps_are():
    assert inputs_of([3.0, NAN, 3.0]) == Number("a", 3.0, 1.0, median=3.0, gaps=True)
    assert inputs_of([1.0, NAN, 1.0], "bool") == Category("a", "bool", ("false", "true"), gaps=True)


def test_values_whose_squares_overflow_are_refused():
    x = np.array([[1.0, 1e200], [2.0, -1e200], [3.0, 0.0]])
    with pytest.raises(ValueError, match="column 'b' has values so large that its deviation overflows"):
        measure(Raw(x), numbers(*"ab"), "t")


def test_nothing_that_varies_is_refused():
    with pytest.raises(ValueError, match="every column has a single value in the 4 rows"):
        measure(Raw(np.ones((4, 2))), numbers(*"ab"), "t")


@pytest.mark.parametrize("place", [3, 39])
def test_a_lone_target_counts_as_one_that_is_nearer(rng, place, small_parts):
    y = np.column_stack([rng.uniform(-1, 1, 40), rng.normal(size=40)])
    y[:3, 0] = -1, -1, 1  # the range of the others is 2
    spoilt, nearer = y.copy(), y.copy()
    spoilt[place, 0], nearer[place, 0] = 1e6, 3.0
    x = np.arange(40.0)[:, None]
    _, found = measure(Raw(x, spoilt), numbers("x"), ["a", "b"], bound_targets=True)
    np.testing.assert_allclose(found.means, nearer.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scales, nearer.std(axis=0), rtol=1e-12)
    assert found.limits[0] == (-1.0, 3.0)
    assert found.limits[1] == (y[:, 1].min(), y[:, 1].max())
    found.standardise(spoilt)
    np.testing.assert_allclose(spoilt, (nearer - nearer.mean(axis=0)) / nearer.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("y", [[0.0] * 39 + [1.0], np.arange(40.0), np.exp(np.arange(40) / 8)])
def test_other_targets_count_as_they_are(y, small_parts):
    rows = Raw(np.arange(40.0)[:, None], np.reshape(y, (40, 1)))
    bounded, free = (measure(rows, numbers("x"), "y", bound_targets=each)[1] for each in (True, False))
    assert bounded == free


# Texts, booleans, dates


def test_levels_are_the_frequent_texts():
    codes = [0] * 3 + [1] + [2] * 5 + [3] * 2 + [4] * 2
    levels = ("a", "b", "c", "d", "e")
    assert inputs_of(codes, "text", levels) == Category("a", "text", ("a", "c", "d", "e"), other=True)
    assert inputs_of(codes, "text", levels, max_levels=2) == Category("a", "text", ("a", "c"), other=True)
    assert inputs_of([*codes[:3], *codes[4:]], "text", levels).other is False
    assert inputs_of([0, 0, 2, 2, -1], "text", levels) == Category("a", "text", ("a", "c"), gaps=True)


@pytest.mark.parametrize("scaling", ["encoded", "standard"])
def test_each_of_many_levels_weighs_little(scaling):
    codes, gaps = np.repeat(np.arange(7.0), 3), [-1.0] * 2
    found = inputs_of([*codes, *gaps], "text", tuple("abcdefg"), scaling=scaling)
    assert found.n_features == 8
    assert found.scale == (0.5 if scaling == "encoded" else 1.0)
    x = np.full((3, 8), np.nan)
    found.fill(np.array([2.0, NAN, 9.0]), x)
    np.testing.assert_array_equal(x / found.scale, np.eye(8)[[2, 7, 0]] * [[1], [1], [0]])
    assert inputs_of([0.0, 1.0] * 3, "text", ("a", "b"), scaling=scaling).scale == 1.0


@pytest.mark.parametrize("codes", [[1, 1, 1], [-1, -1, -1], [0, 1, 2]])
def test_a_text_that_does_not_group_rows_is_not_used(codes):
    assert inputs_of(codes, "text", ("a", "b", "c")) == Constant("a", "text")


def test_dates_have_the_cycles_that_come_often():
    assert inputs_of(np.arange(30.0), "date").cycles == ("week",)
    assert inputs_of(np.arange(0, 3, 0.1), "date").cycles == ("day",)
    assert inputs_of(np.arange(800.0) + 0.25, "date").cycles == ("week", "year")
    assert inputs_of(np.arange(0.0, 800, 7), "date").cycles == ("year",)
    column = inputs_of([0, 1, 2, NAN, 9], "date", scaling="none")
    assert isinstance(column, Date)
    assert (column.centre, column.scale, column.median) == (3.0, pytest.approx(np.std([0, 1, 2, 9])), 1.5)


# A sample where there are many rows


def test_medians_of_many_rows_are_those_of_a_sample_that_the_order_draws(rng, monkeypatch, small_parts):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(statistics, "SAMPLE_BYTES", 2 * 8 * 100)
    x = rng.normal(size=(1000, 3))
    drawn = Shuffled()(1000, 5, 0)[0:100]
    inputs, _ = measure(Raw(x), numbers(*"abc"), "t", scaling="robust", seed=5)
    np.testing.assert_allclose([column.median for column in inputs.columns], np.median(x[drawn], axis=0))
    other, _ = measure(Raw(x), numbers(*"abc"), "t", scaling="robust", seed=6)
    assert other != inputs


def test_a_column_whose_sample_is_gaps_has_its_mean_for_a_median(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 10)
    values = np.full(500, NAN)
    values[[i for i in range(500) if i not in set(Shuffled()(500, 0, 0)[0:10].tolist())][:2]] = [4.0, 8.0]
    column = inputs_of(values, scaling="robust")
    assert (column.median, column.centre, column.scale) == (6.0, 6.0, 2.0)


def test_a_stream_has_the_statistics_of_its_rows(rng, monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 300)
    x = rng.normal(size=(1000, 2))
    stream = BatchSource([(x[at : at + 100], np.zeros(100)) for at in range(0, 1000, 100)], buffer_rows=64)
    found = [measure(source, numbers(*"ab"), "t", scaling="robust")[0] for source in (stream, Raw(x), stream)]
    assert found[0] == found[2]
    for streamed, whole in zip(found[0].columns, found[1].columns, strict=True):
        assert streamed.median == pytest.approx(whole.median, abs=0.2)


class Rows(Source):
    """A million rows of four columns, made when they are asked for."""

    n_rows, n_features, n_targets, has_weights = 1_000_000, 4, 1, False

    def rows(self, index, x, y, weight):
        x[:, 0] = index
        x[:, 1] = np.where(index % 3, index % 1000, NAN)
        x[:, 2] = index % 5
        x[:, 3] = index / 1000
        y[:, 0] = index


def test_memory_does_not_grow_with_the_rows():
    """A sample of two columns that need one takes 1.6 MB; all rows would take 32 MB."""
    columns = [*numbers("a", "b"), RawColumn("t", "text", tuple("abcde")), RawColumn("d", "date")]
    rows = Rows()
    tracemalloc.start()
    inputs, _ = measure(rows, columns, "y", scaling="robust")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12e6
    assert inputs.columns[0].median == pytest.approx(500_000, rel=0.01)
    assert inputs.columns[1].median == pytest.approx(500, rel=0.02)


def test_memory_of_very_many_targets():
    """Rows of a pass are held a few times at most, and none of them afterwards."""
    y = np.random.default_rng(0).normal(size=(2000, 500))
    source = ArraySource(readonly(y[:, :1]), readonly(y))
    tracemalloc.start()
    measure(source, numbers("a"), [f"y{n}" for n in range(500)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.5 * y.nbytes


# Nothing but the training part


@pytest.mark.parametrize("scaling", ["standard", "robust", "none"])
def test_held_out_rows_do_not_change_the_statistics(rng, scaling):
    """Poison in the held-out rows: other values, texts, dates and gaps leave every number as it was."""
    n_rows, levels = 200, ("a", "b", "c", "poison")
    columns = [
        RawColumn("n", "number"),
        RawColumn("d", "date"),
        RawColumn("t", "text", levels),
        RawColumn("b", "bool"),
        RawColumn("constant", "number"),
    ]
    x = np.column_stack(
        [
            rng.normal(size=n_rows),
            rng.integers(0, 40, n_rows),
            rng.integers(0, 3, n_rows),
            rng.integers(0, 2, n_rows),
            np.ones(n_rows),
        ]
    ).astype(float)
    y = rng.normal(size=n_rows)
    training, held = at_random(n_rows, 0.3, 0)
    poisoned, poisoned_y = x.copy(), y.copy()
    poisoned[held] = [1e6, 1e5, 3, NAN, 5]
    poisoned[held[::2]] = [NAN, NAN, -1, 0, NAN]
    poisoned_y[held] = 1e9
    found = [
        measure(Subset(Raw(*rows), training), columns, "y", scaling=scaling)
        for rows in ((x, y), (poisoned, poisoned_y))
    ]
    assert found[0] == found[1]
    assert found[0] != measure(Raw(poisoned, poisoned_y), columns, "y", scaling=scaling)
