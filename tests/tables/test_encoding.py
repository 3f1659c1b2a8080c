"""Numbers at several scales: limits, ranks and ramps, against scikit-learn, SciPy and closed forms."""

import json

import numpy as np
import pytest

from mlp_xp.rows.source import Source
from mlp_xp.tables.encoding import Encoding, Encodings, encoding_of, limits_of, n_ramps
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.preparation import Date, Inputs, Number
from mlp_xp.tables.statistics import measure

NAN = np.nan


def filled(encoding, values):
    """The features of one column."""
    x = np.full((len(values), encoding.n_features), 77.0)
    together = Encodings([encoding], [0])
    together.fill(together.bounded(np.array(values, dtype=float)[:, None]), x)
    return x


def test_ramps_rise_from_edge_to_edge():
    encoding = Encoding((0.0, 8.0), edges=(0.0, 2.0, 4.0, 8.0))
    found = filled(encoding, [-1, 0, 1, 2, 3, 6, 8, 99])
    expected = [[0, 0, 0], [0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 0.5], [1, 1, 1], [1, 1, 1]]
    assert found.tolist() == expected
    assert encoding.feature_names("a") == ("a from 0 to 2", "a from 2 to 4", "a from 4 to 8")


def test_edges_are_quantiles_of_the_values(rng):
    values = rng.exponential(size=801)
    edges = encoding_of(values, 8).edges
    counts, _ = np.histogram(values, edges)
    assert counts.sum() == 801
    assert counts.min() >= 99
    assert set(edges) <= set(values.tolist())


@pytest.mark.needs("scipy")
def test_ranks_are_scipys_and_spread_evenly(rng):
    from scipy.stats import rankdata

    values = rng.exponential(size=500) ** 3
    found = filled(encoding_of(values, 0), values)[:, 0]
    assert np.abs(found.mean()) < 0.05
    assert found.std() == pytest.approx(1.0, abs=0.02)
    expected = np.sqrt(12) * ((rankdata(values) - 0.5) / 500 - 0.5)
    assert np.abs(found - expected).max() < np.sqrt(12) / 64


def test_many_equal_values_share_the_middle_of_their_ranks():
    values = np.r_[np.zeros(60), np.arange(1.0, 41)]
    encoding = encoding_of(values, 10)
    assert filled(encoding, [0.0])[0, 0] == pytest.approx(np.sqrt(12) * (0.3 - 0.5))
    assert len(encoding.edges) == 1 + 4  # zero is the quantile of six ramps out of ten


def test_two_values_have_no_ranks_and_one_no_encoding():
    assert encoding_of(np.array([0.0, 1, 1, 0]), 32) == Encoding((0.0, 1.0))
    assert encoding_of(np.array([3.0, 3.0]), 32) is None


def test_a_value_far_outside_counts_as_one_at_the_limit(rng):
    values = rng.normal(size=1000)
    assert limits_of(values) == (values.min(), values.max())  # nothing there is wrong
    heavy = rng.standard_cauchy(1000)
    values[7] = 1e12
    least, most = limits_of(values)
    assert least == values.min()
    assert 40 < most < 60
    column = measured(values)
    x = np.empty((1000, column.n_features))
    column.fill(values, x)
    assert np.abs(x).max() < 50
    assert np.delete(x[:, 0], 7).std() > 0.4  # the others are still told apart
    column = measured(heavy)
    x = np.empty((1000, column.n_features))
    column.fill(heavy, x)
    assert x[:, 0].std() == pytest.approx(1.0)


def test_there_are_as_many_ramps_as_the_rows_allow():
    assert [n_ramps(n, 8) for n in (100, 159, 160, 400, 10_000)] == [0, 0, 4, 10, 32]
    assert n_ramps(10**6, 0) == 32


class Raw(Source):
    """A source of raw rows."""

    has_weights = False

    def __init__(self, x):
        self.x, self.n_rows, self.n_features, self.n_targets = x, len(x), x.shape[1], 1

    def rows(self, index, x, y, weight):
        x[...] = self.x[index]
        y[...] = index[:, None]


def measured(values, kind="number"):
    inputs, _ = measure(Raw(np.c_[values]), [RawColumn("a", kind)], "t", scaling="encoded")
    return inputs.columns[0]


def test_a_measured_column_has_mean_0_and_deviation_1_and_ramps(rng):
    values = rng.normal(50, 9, size=400)
    values[::10] = NAN
    column = measured(values)
    x = np.empty((400, column.n_features))
    column.fill(values, x)
    present = ~np.isnan(values)
    assert x[present, 0].mean() == pytest.approx(0.0, abs=1e-12)
    assert x[present, 0].std() == pytest.approx(1.0)
    assert x[~present, 0] == pytest.approx((np.nanmedian(values) - np.nanmean(values)) / np.nanstd(values))
    np.testing.assert_array_equal(x[:, 1], ~present)
    assert column.n_features == 1 + 1 + 1 + 32
    assert len(column.feature_names) == column.n_features


def test_a_date_after_all_others_is_like_the_last_one():
    column = measured(np.arange(19_000.0, 19_400.0), "date")
    assert isinstance(column, Date)
    x = np.empty((2, column.n_features))
    column.fill(np.array([19_399.0, 19_399.0 + 14 * 365.2425]), x)
    n_waves = 2 * len(column.cycles)
    np.testing.assert_array_equal(*x[:, : x.shape[1] - n_waves])


def test_columns_side_by_side_are_filled_as_one_by_one(rng):
    values = rng.exponential(size=(300, 4))
    values[::5, 1] = NAN
    values[:, 2] = rng.integers(0, 2, 300)
    inputs, _ = measure(Raw(values), [RawColumn(name, "number") for name in "abcd"], "t", scaling="encoded")
    x = np.full((300, inputs.n_features), 77.0)
    inputs.fill(values, x)
    first = 0
    for at, column in enumerate(inputs.columns):
        alone = np.full((300, column.n_features), 77.0)
        column.fill(values[:, at], alone)
        np.testing.assert_array_equal(x[:, first : first + column.n_features], alone)
        first += column.n_features
    assert inputs.columns[2].n_features == 1
    described = json.loads(json.dumps(inputs.description()))
    assert Inputs.of(described) == inputs
    assert "encoding" not in Inputs.plain(["a"]).description()[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"limits": (1.0, 1.0)},
        {"limits": (1.0,)},
        {"limits": (0.0, NAN)},
        {"limits": (0.0, 1.0), "edges": (0.0, 0.0, 1.0)},
        {"limits": (0.0, 1.0), "edges": (1.0,)},
        {"limits": (0.0, 1.0), "knots": (0.0, 1.0)},
        {"limits": (0.0, 1.0), "knots": (0.0, 1.0), "ranks": (0.5, 0.1)},
    ],
)
def test_what_an_encoding_refuses(wrong):
    with pytest.raises(ValueError, match=r"ascend|finite|number|ranks"):
        Encoding(**wrong)


def test_a_plain_number_is_described_as_before():
    fields = {"name", "centre", "scale", "clipped", "median", "gaps", "treatment"}
    assert Inputs((Number("a"),)).description()[0].keys() == fields
