"""Rows of which each member of a network has its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_xp import Loader
from mlp_xp.cli.progress import Counted
from mlp_xp.estimators.data import Encoded
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.order import Blocks, Sequential, Shuffled, WithReplacement
from mlp_xp.rows.own_rows import OwnRows, _each_once

N_ROWS = 53
PARTS = np.random.default_rng(0).choice(4, N_ROWS, p=[0.1, 0.2, 0.3, 0.4])


def loader(*, left_out=False, copies=1, sample_weight=None, **more):
    rows = np.arange(float(N_ROWS))
    source = ArraySource(rows[:, None], 2 * rows, sample_weight)
    return Loader(OwnRows(source, PARTS, 4, copies, left_out=left_out), **{"batch_size": 8, **more})


def visits(own, epoch=0, *, first_step=0, share=(0, 1)):
    """Row number (or −1 where the weight is 0) of each member at each position, (members, n_positions)."""
    found = []
    for batch in own.batches(epoch, find_backend("cpu", "float64"), first_step=first_step, share=share):
        for x, y, weight in batch:
            np.testing.assert_array_equal(y, 2 * x)
            has = np.ones(x.shape, bool) if weight is None else weight > 0
            found.append(np.where(has, x, -1)[..., 0].astype(int))
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("order", [Shuffled(), Sequential(), Blocks(5)], ids=repr)
@pytest.mark.parametrize("more", [{}, {"batch_size": "full", "chunk_rows": 7}], ids=["small", "full"])
def test_each_member_has_its_rows_in_the_order_of_all(left_out, order, more):
    own = loader(left_out=left_out, order=order, seed=3, **more)
    for epoch in range(2):
        of_all = np.asarray(own.order(N_ROWS, 3, epoch)[:N_ROWS])
        for part, rows in enumerate(visits(own, epoch)):
            wanted = of_all[(PARTS[of_all] == part) == left_out]
            np.testing.assert_array_equal(rows[: len(wanted)], wanted)
            assert (rows[len(wanted) :] == -1).all()


def test_an_epoch_has_as_many_positions_as_the_member_with_most_rows():
    assert loader().n_rows == N_ROWS - np.bincount(PARTS).min()
    assert loader(left_out=True).n_rows == np.bincount(PARTS).max()


def test_what_is_around_them_keeps_them():
    own = loader(seed=3).source
    around = Loader(Encoded(Counted(own, lambda n_rows: None), False, lambda y: y), batch_size=8, seed=3)
    np.testing.assert_array_equal(visits(around, 1), visits(loader(seed=3), 1))


def test_copies_have_the_same_rows():
    rows = visits(loader(copies=2))
    np.testing.assert_array_equal(rows[:4], rows[4:])


def test_an_epoch_goes_on_from_any_step_and_is_shared_out():
    rows = visits(loader(), 5)
    np.testing.assert_array_equal(visits(loader(), 5, first_step=2), rows[:, 16:])
    parts = [visits(loader(), 5, share=(rank, 3)) for rank in range(3)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts, axis=1)), np.sort(rows))


def test_processes_agree_on_whether_the_sum_of_weights_is_known():
    ranks = [loader().batches(0, find_backend("cpu"), share=(rank, 2)) for rank in range(2)]
    for of_ranks in zip(*ranks, strict=True):
        assert [batch.divisor for batch in of_ranks] == [None, None]


def test_weights_of_rows_stay_theirs():
    weights = np.arange(N_ROWS) % 3 + 1.0
    for batch in loader(sample_weight=weights).batches(0, find_backend("cpu", "float64")):
        for x, _, weight in batch:
            own = weights[x.astype(int)]
            np.testing.assert_array_equal(np.where(weight > 0, own, 0.0), weight)
            np.testing.assert_array_equal(batch.divisor, weight.sum(axis=(1, 2)))


def test_rows_drawn_with_replacement_are_never_those_left_out():
    for part, rows in enumerate(visits(loader(order=WithReplacement(), seed=1))):
        assert (PARTS[rows[rows >= 0]] != part).all()
        assert (rows >= 0).sum() > 20


def test_a_row_that_several_members_have_is_read_once():
    class Counting(ArraySource):
        n_read = 0

        def rows(self, index, *arrays):
            self.n_read += len(index)
            super().rows(index, *arrays)

    source = Counting(np.zeros((1000, 3)), np.zeros(1000))
    own = OwnRows(source, np.arange(1000) % 5, 5, left_out=False)
    for _ in Loader(own, batch_size=100, chunk_rows=400).batches(0, find_backend("cpu")):
        pass
    assert source.n_read < 1300  # five members have 4,000


@given(st.lists(st.integers(-1, 50), min_size=1, max_size=60))
def test_each_number_is_found_once_and_again_at_its_places(numbers):
    index = np.array([numbers, numbers[::-1]])
    rows, place = _each_once(index)
    expected, inverse = np.unique(index, return_inverse=True)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(place, inverse.reshape(index.shape))
