"""The orders: every row exactly once, pure functions of seed and epoch, as random as they say."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlp_xp.rows import order
from mlp_xp.rows.order import (
    ORDERS,
    Blocks,
    Sequential,
    Shuffled,
    WithReplacement,
    computed_permutation,
    stored_permutation,
)
from mlp_xp.settings.catalogue import resolve

pytestmark = pytest.mark.needs("scipy")


PERMUTATIONS = {
    "sequential": Sequential(),
    "blocks": Blocks(block_rows=7, window_blocks=3),
    "shuffled": Shuffled(),
    "stored": stored_permutation,
    "computed": computed_permutation,
}
AWKWARD = [1, 2, 3, 4, 5, 16, 17, 127, 128, 129, 65_535, 65_536, 65_537, 131_071, 200_003]


def in_steps(rows, n_rows, step):
    return np.concatenate([rows[start : start + step] for start in range(0, n_rows, step)])


@pytest.mark.parametrize("name", PERMUTATIONS)
@pytest.mark.parametrize("n_rows", AWKWARD)
def test_each_row_comes_exactly_once(name, n_rows):
    rows = in_steps(PERMUTATIONS[name](n_rows, 3, 5), n_rows, 10_000)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(rows), np.arange(n_rows))


@given(
    name=st.sampled_from(sorted(PERMUTATIONS)),
    n_rows=st.integers(1, 3_000),
    step=st.integers(1, 700),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=200)
def test_each_row_comes_exactly_once_in_steps_of_any_size(name, n_rows, step, seed, epoch):
    make = PERMUTATIONS[name]
    rows = in_steps(make(n_rows, seed, epoch), n_rows, step)
    np.testing.assert_array_equal(np.sort(rows), np.arange(n_rows))
    # Whole, in steps, or from the middle: a pure function of its arguments.
    again = make(n_rows, seed, epoch)
    np.testing.assert_array_equal(again[n_rows // 2 : n_rows], rows[n_rows // 2 :])
    np.testing.assert_array_equal(again[0:n_rows], rows)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("n_rows", [1_000, 10_000_000])
def test_another_seed_or_epoch_is_another_order(name, n_rows):
    make = resolve("order", ORDERS, name)
    first = make(n_rows, 1, 1)[0:500]
    for seed, epoch in [(1, 2), (2, 1)]:
        same = np.array_equal(first, make(n_rows, seed, epoch)[0:500])
        assert same == (name == "sequential")
    assert np.array_equal(first, make(n_rows, 1, 1)[0:500])


def test_orders_stay_what_they_are():
    """A checkpoint names an epoch and a position: the row there must be the same for ever."""
    assert Shuffled()(10, 0, 0)[0:10].tolist() == STORED
    assert computed_permutation(10**9, 0, 0)[0:4].tolist() == COMPUTED
    assert WithReplacement()(1_000, 0, 0)[0:5].tolist() == REPLACED
    assert Blocks(4, 2)(20, 0, 0)[0:20].tolist() == BLOCKS


STORED = [9, 2, 6, 1, 4, 8, 7, 5, 3, 0]
COMPUTED = [148334607, 819054465, 86585220, 663270349]
REPLACED = [268, 609, 624, 573, 438]
BLOCKS = [8, 7, 15, 16, 14, 5, 13, 6, 19, 9, 12, 11, 10, 17, 0, 18, 3, 4, 1, 2]


def test_slices_are_like_those_of_a_list():
    rows = Sequential()(10, 0, 0)
    assert len(rows) == 10
    assert rows[8:20].tolist() == [8, 9]
    assert rows[-2:].tolist() == [8, 9]
    assert rows[5:5].tolist() == rows[12:15].tolist() == []
    with pytest.raises(ValueError, match="leave the stride out"):
        rows[0:4:2]


def test_rows_can_not_be_written_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        Shuffled()(10, 0, 0)[0:5][0] = 3


def p_of_table(left, right, n_bins):
    """Chi-square of two sequences of bins against independence."""
    table = np.bincount(left * n_bins + right, minlength=n_bins**2).reshape(n_bins, n_bins)
    return stats.chi2_contingency(table, correction=False).pvalue


@pytest.mark.parametrize("n_rows", [order.STORED_ROWS + 17, 2**22 + 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_computed_permutation_looks_uniform(n_rows, seed):
    rows = computed_permutation(n_rows, seed, 1)[0:n_rows]
    positions = np.arange(n_rows)
    bins = 32
    p_values = {
        "position and row": p_of_table(positions * bins // n_rows, rows * bins // n_rows, bins),
        "low bits": p_of_table(positions % bins, rows % bins, bins),
        "low bits of position": p_of_table(positions % bins, rows * bins // n_rows, bins),
        "next row": p_of_table(rows[:-1] * bins // n_rows, rows[1:] * bins // n_rows, bins),
        "low bits of the next": p_of_table(rows[:-1] % bins, rows[1:] % bins, bins),
    }
    for lag in (1, 2, 64, 4096):
        p_values[f"lag {lag}"] = p_of_correlation(rows[:-lag], rows[lag:])
    p_values["position"] = p_of_correlation(positions, rows)
    p_values["epochs"] = p_of_correlation(computed_permutation(n_rows, seed, 2)[0:n_rows], rows)
    # 11 values a case, 44 in all: one below 2e-4 would come in one run of a hundred.
    assert min(p_values.values()) > 2e-4, p_values
    # Fixed points of a uniform permutation are Poisson(1).
    assert np.count_nonzero(rows == positions) < 8


def p_of_correlation(left, right):
    correlation = np.corrcoef(left, right)[0, 1]
    return 2 * stats.norm.sf(abs(correlation) * np.sqrt(len(left)))


def test_two_billion_rows_shuffle_in_megabytes():
    n_rows = 2_000_000_000
    tracemalloc.start()
    rows = Shuffled()(n_rows, 0, 0)
    seen = np.concatenate([rows[at : at + 65_536] for at in range(0, n_rows, n_rows // 7)])
    peak = tracemalloc.get_traced_memory()[1] - seen.nbytes
    tracemalloc.stop()
    assert peak < 32e6
    assert seen.min() >= 0
    assert seen.max() < n_rows
    assert len(np.unique(seen)) == len(seen)
    counts = np.bincount(seen * 100 // n_rows, minlength=100)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_stored_permutation_and_the_next_epoch_s_fit_32_megabytes():
    tracemalloc.start()
    rows = [Shuffled()(order.STORED_ROWS, 0, epoch) for epoch in (0, 1)]
    for each in rows:
        each[0:256]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6


def test_draws_with_replacement_are_uniform_and_independent():
    n_rows = 300_000
    rows = WithReplacement()(n_rows, 0, 0)[0:n_rows]
    assert abs(len(np.unique(rows)) / n_rows - (1 - np.exp(-1))) < 0.003
    assert p_of_table(rows[:-1] % 16, rows[1:] % 16, 16) > 1e-4
    # Blocks of positions draw from streams of their own.
    assert not np.array_equal(rows[:1000], rows[order.BLOCK : order.BLOCK + 1000])


def test_blocks_read_runs_of_rows_window_by_window():
    rows = Blocks(block_rows=10, window_blocks=4)(1_000, 0, 0)
    windows = [np.sort(rows[start : start + 40]) for start in range(0, 1_000, 40)]
    for window in windows:
        # Four runs of ten consecutive rows, counted round the end.
        assert np.count_nonzero(np.diff(window) > 1) <= 4
    assert not np.array_equal(rows[0:40], windows[0])


def test_blocks_leave_no_row_for_the_end():
    """The short block holds other rows each epoch."""
    last = [Blocks(block_rows=64, window_blocks=2)(100, 0, epoch)[90:100] for epoch in range(50)]
    assert len(np.unique(last)) > 90


def test_blocks_refuse_a_window_beyond_memory():
    with pytest.raises(ValueError, match=r"window of 4,194,304 rows; at most 1,048,576"):
        Blocks(block_rows=4096, window_blocks=1024)
    with pytest.raises(ValueError, match="block_rows=0 must be a whole number >= 1"):
        Blocks(block_rows=0)


def test_threads_share_an_order():
    rows = Shuffled()(500_000, 0, 0)
    expected = in_steps(Shuffled()(500_000, 0, 0), 500_000, 1_000)
    wrong = []

    def check(seed):
        generator = np.random.default_rng(seed)
        for _ in range(300):
            start = int(generator.integers(499_000))
            if not np.array_equal(rows[start : start + 1_000], expected[start : start + 1_000]):
                wrong.append(start)

    threads = [threading.Thread(target=check, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_few_rows_are_drawn_as_many_are():
    # 8 bytes a row up to 2^19 rows, 4 above: the same draws of the same generator.
    n_rows = 2**19
    few, more = (
        stored_permutation(n_rows, 3, 4)[0:n_rows],
        stored_permutation(n_rows + 1, 3, 4)[0 : n_rows + 1],
    )
    generator = [np.random.default_rng(np.random.SeedSequence((3, 4, 0x0DE0))) for _ in range(2)]
    np.testing.assert_array_equal(few, generator[0].permutation(n_rows))
    np.testing.assert_array_equal(more, generator[1].permutation(n_rows + 1))
