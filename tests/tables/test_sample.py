"""Some rows of a table in memory."""

import numpy as np

from mlp_xp.rows.arrays import ArraySource
from mlp_xp.tables.sample import MOST_ROWS, most_rows, sample


def test_very_many_classes_or_columns_are_looked_at_on_fewer_rows():
    assert most_rows(100_000) == 41
    assert most_rows(1) == MOST_ROWS


def test_more_rows_than_are_looked_at_are_drawn():
    source = ArraySource(np.arange(1000.0)[:, None], np.arange(1000.0), np.arange(1000.0))
    rows = sample(source, 0, most=100)
    assert rows.n_rows == len(np.unique(rows.x)) == 100
    assert rows.x.min() < 100
    assert rows.x.max() > 900
    np.testing.assert_array_equal(rows.x[:, 0], rows.y[:, 0])
    np.testing.assert_array_equal(rows.x[:, 0], rows.weight)
    np.testing.assert_array_equal(rows.x, sample(source, 0, most=100).x)
