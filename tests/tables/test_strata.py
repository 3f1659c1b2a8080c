"""Rows held out without a list of them: each row in one part, at random, from everywhere."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.tables.strata import MOST_ROWS, parted


@settings(max_examples=300, deadline=None)
@given(
    n_rows=st.integers(1, 400),
    held=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**40),
    shuffle=st.randoms(use_true_random=False),
)
def test_every_row_is_in_one_part_and_in_file_order(n_rows, held, seed, shuffle):
    n_held = min(round(held * n_rows), n_rows - 1)
    training, held_out = parted(n_rows, n_held, seed)
    assert (len(training), len(held_out)) == (n_rows - n_held, n_held)
    rows = [part[np.arange(len(part))] for part in (training, held_out)]
    for part, known in zip((training, held_out), rows, strict=True):
        assert known.dtype == np.int64
        assert (np.diff(known) > 0).all()
        positions = list(range(len(part)))
        shuffle.shuffle(positions)
        np.testing.assert_array_equal(part[np.array(positions)], known[positions])
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(n_rows))


@pytest.mark.parametrize("n_held", [1, 37, 50, 63, 99])
def test_every_row_is_held_out_as_often_as_any_other(n_held):
    n_rows, n_seeds = 100, 4000
    counts = np.zeros(n_rows)
    for seed in range(n_seeds):
        _, held_out = parted(n_rows, n_held, seed)
        counts[held_out[np.arange(n_held)]] += 1
    p = n_held / n_rows
    # Strata of unequal length (here by one row) make no row's chance differ from p by more than half.
    assert counts.sum() == n_held * n_seeds
    if n_rows % min(n_held, n_rows - n_held) == 0:
        z = (counts - p * n_seeds) / np.sqrt(p * (1 - p) * n_seeds)
        assert np.abs(z).max() < 5
    assert np.abs(counts / n_seeds - p).max() < 0.5 * min(p, 1 - p) + 0.02


def test_seeds_draw_other_rows_and_neighbours_are_independent():
    n = 10_000
    offsets = [parted(10 * n, n, seed)[1][np.arange(n)] % 10 for seed in range(2)]
    assert abs(np.corrcoef(*offsets)[0, 1]) < 0.05
    assert abs(np.corrcoef(offsets[0][:-1], offsets[0][1:])[0, 1]) < 0.05
    assert np.abs(np.bincount(offsets[0], minlength=10) - n / 10).max() < 5 * np.sqrt(n * 0.09)


@pytest.mark.parametrize("n_held", [1, 400_000_000, MOST_ROWS - 1])
def test_billions_of_rows_take_no_memory(n_held):
    tracemalloc.start()
    try:
        training, held_out = parted(MOST_ROWS, n_held, seed=5)
        ends = [part[np.array([0, len(part) - 1])] for part in (training, held_out)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert min(end[0] for end in ends) == 0
    assert max(end[1] for end in ends) == MOST_ROWS - 1
    if n_held == 400_000_000:
        index = np.random.default_rng(0).integers(len(training), size=100_000)
        inside = held_out[index % n_held]
        assert not np.isin(inside, training[index]).any()


@pytest.mark.parametrize(("n_rows", "n_held"), [(5, -1), (5, 5), (MOST_ROWS + 1, 5)])
def test_parts_that_cannot_be_are_refused(n_rows, n_held):
    with pytest.raises(ValueError, match=f"n_held={n_held} of n_rows={n_rows}"):
        parted(n_rows, n_held, 0)
