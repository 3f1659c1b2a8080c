"""Streams of batches: every row exactly once an epoch, whatever the buffer and the step."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.rows.streams import BatchSource


def batches_of(sizes):
    """Rows 0, 1, 2, ... in batches of these sizes: x is the number, y twice, the weight thrice it."""
    ends = np.cumsum([0, *sizes])
    numbers = [np.arange(a, b, dtype=float) for a, b in itertools.pairwise(ends)]
    return [(n[:, None], 2 * n, 3 * n) for n in numbers]


def epoch(source, step, seed=0, number=0, start=0):
    rows = source.order(source.n_rows, seed, number)
    source, seen = source.in_order(rows), []
    for at in range(start, source.n_rows, step):
        index = rows[at : at + step]
        x = np.empty((len(index), source.n_features))
        y, weight = np.empty((len(index), source.n_targets)), np.empty(len(index))
        source.rows(index, x, y, weight)
        if source.n_targets:
            np.testing.assert_array_equal(y[:, 0], 2 * x[:, 0])
        if source.has_weights:
            np.testing.assert_array_equal(weight, 3 * x[:, 0])
        seen.append(x[:, 0])
    return np.concatenate(seen)


def read(source, order, start, stop, x, weight=None):
    """Fill x with the rows at positions start ... stop of an order."""
    source.in_order(order).rows(order[start:stop], x, None, weight)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    buffer_rows=st.integers(1, 60),
    step=st.integers(1, 50),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=80)
def test_each_row_comes_exactly_once(sizes, buffer_rows, step, seed):
    source = BatchSource(batches_of(sizes), buffer_rows=buffer_rows)
    assert (source.n_rows, source.n_features, source.n_targets) == (sum(sizes), 1, 1)
    first = epoch(source, step, seed)
    np.testing.assert_array_equal(np.sort(first), np.arange(sum(sizes)))
    # The same in other steps; from the middle it replays.
    np.testing.assert_array_equal(epoch(source, step + 3, seed), first)
    middle = source.n_rows // 2
    np.testing.assert_array_equal(epoch(source, step, seed, start=middle), first[middle:])


def test_epochs_and_seeds_differ():
    source = BatchSource(batches_of([100] * 5), buffer_rows=50)
    orders = [epoch(source, 32, seed, number) for seed, number in [(0, 0), (0, 1), (1, 0)]]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    np.testing.assert_array_equal(epoch(source, 32, 0, 0), orders[0])


def test_rows_are_mixed_as_far_as_the_buffer_reaches():
    seen = epoch(BatchSource(batches_of([64] * 100), buffer_rows=1_000), 64)
    positions = np.argsort(seen)
    # A row waits in the buffer for as many rows as it holds, on average.
    delay = positions - np.arange(6_400)
    assert 400 < np.abs(delay[:5_000] - delay[:5_000].mean()).mean() < 1_500
    assert abs(np.corrcoef(seen[:-1], seen[1:])[0, 1]) < 0.9
    whole = epoch(BatchSource(batches_of([64] * 100), buffer_rows=10_000), 64)
    assert abs(np.corrcoef(whole[:-1], whole[1:])[0, 1]) < 0.05


class LikeXGBoost:
    """What XGBoost calls a DataIter."""

    def __init__(self, batches):
        self.batches, self.at = batches, 0

    def reset(self):
        self.at = 0

    def next(self, input_data):
        if self.at == len(self.batches):
            return 0
        x, y, weight = self.batches[self.at]
        input_data(data=x, label=y, weight=weight)
        self.at += 1
        return 1


class Restartable:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


@pytest.mark.parametrize(
    "style",
    [
        list,
        Restartable,
        LikeXGBoost,
        lambda batches: lambda: iter(batches),
        lambda batches: [{"x": x, "y": y, "sample_weight": w} for x, y, w in batches],
        lambda batches: [{"data": x, "label": y, "weight": w} for x, y, w in batches],
    ],
)
def test_every_style_of_stream(style):
    source = BatchSource(style(batches_of([5, 7, 3])), buffer_rows=4)
    for number in range(3):
        assert sorted(epoch(source, 4, 0, number)) == list(range(15))
    assert source.has_weights


def test_targets_and_weights_may_be_left_out():
    source = BatchSource([np.arange(3.0)[:, None], np.arange(3.0, 5)[:, None]])
    assert source.n_targets == 0
    assert not source.has_weights
    x, weight = np.empty((5, 1)), np.zeros(5)
    read(source, source.order(5, 0, 0), 0, 5, x, weight)
    assert sorted(x[:, 0]) == [0, 1, 2, 3, 4]
    assert weight.tolist() == [1] * 5


def test_ranks_may_read_parts_of_each_step():
    """Rows between are read and dropped, so two ranks see all of them."""
    source = [BatchSource(batches_of([10] * 10), buffer_rows=16) for _ in range(2)]
    seen = []
    for at in range(0, 100, 20):
        for rank in range(2):
            x, first = np.empty((10, 1)), at + 10 * rank
            read(source[rank], source[rank].order(100, 0, 0), first, first + 10, x)
            seen.append(x[:, 0])
    np.testing.assert_array_equal(np.concatenate(seen), epoch(source[0], 10))


def test_a_known_number_of_rows_is_not_counted():
    reads = []

    def stream():
        for batch in batches_of([5] * 4):
            reads.append(1)
            yield batch

    source = BatchSource(stream, n_rows=20)
    assert source.n_rows == 20
    assert len(reads) == 1


def test_a_stream_that_shuffles_its_batches_is_asked_to():
    class Parts(Restartable):
        def shuffled(self, generator):
            order = generator.permutation(len(self.batches))
            yield from (self.batches[at] for at in order)

    source = BatchSource(Parts(batches_of([1] * 200)), buffer_rows=1)
    first, second = epoch(source, 10), epoch(source, 10, 0, 1)
    assert not np.array_equal(first, np.arange(200))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.arange(200))


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "the stream has no rows"),
        ([np.zeros((0, 2))], ValueError, "the stream has no rows"),
        (iter([np.zeros((1, 2))]), TypeError, "must start anew each epoch, and list_iterator can"),
        (3, TypeError, "must start anew each epoch, and int can"),
        ([np.zeros(3)], ValueError, r"batch 1 of the stream: x has shape \(3,\)"),
        ([np.zeros((3, 1)), [["a"]]], TypeError, "batch 2 of the stream: x holds text"),
        ([[[np.nan]]], ValueError, r"batch 1 of the stream: x\[0, 0\] is nan"),
        ([np.zeros((3, 1)), np.zeros((3, 2))], ValueError, r"batch 2 .*: x is .* shape \(2,\), and was"),
        ([(np.zeros((3, 1)), [1, 2, 3]), np.zeros((3, 1))], ValueError, "batch 2 .*: y is missing"),
        ([np.zeros((3, 1), int), np.zeros((3, 1))], TypeError, "x is float64, and was int64"),
        ([(1, 2, 3, 4)], TypeError, r"a batch is x, \(x, y\) or"),
        ([{"x": [[1]], "z": 3}], TypeError, r"it names \['z'\]"),
    ],
)
def test_what_can_not_be_used_is_refused(batches, error, message):
    with pytest.raises(error, match=message):
        BatchSource(batches)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"(?s)buffer_rows=0.*n_rows=-1"):
        BatchSource([np.zeros((1, 1))], buffer_rows=0, n_rows=-1)


@pytest.mark.parametrize(("n_now", "message"), [(9, "ended after 9 rows"), (11, "went on after 10 rows")])
def test_a_stream_that_changes_its_length_is_noticed(n_now, message):
    batches = batches_of([10])
    source = BatchSource(batches)
    batches[:] = batches_of([n_now])
    with pytest.raises(RuntimeError, match=message):
        epoch(source, 4)


def test_an_error_in_the_stream_is_that_of_the_stream():
    fails = []

    def stream():
        yield from batches_of([10])
        if fails:
            raise OSError("the tape tore")

    source = BatchSource(stream, buffer_rows=4)
    fails.append(True)
    for _ in range(2):
        with pytest.raises(OSError, match="the tape tore"):
            epoch(source, 4)
    fails.clear()
    assert sorted(epoch(source, 4)) == list(range(10))


def test_other_orders_are_refused():
    source = BatchSource(batches_of([10]))
    with pytest.raises(ValueError, match="can only be read forwards: give the Loader order=source"):
        source.rows(np.array([3, 1]), np.empty((2, 1)), None, None)


def test_threads_may_share_a_stream():
    source = BatchSource(batches_of([50] * 4), buffer_rows=32)
    expected = {number: epoch(source, 20, 0, number) for number in range(3)}
    wrong = []

    def read(number):
        seen = [epoch(source, 20, 0, number) for _ in range(5)]
        wrong.extend(each for each in seen if not np.array_equal(each, expected[number]))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_has_an_order_of_its_own():
    source = BatchSource(batches_of([5, 3, 4]), buffer_rows=4)
    x = np.empty((5, 1))
    source.rows(np.array([0, 1, 4, 7, 11]), x, None, None)  # nothing was sliced before
    assert x[:, 0].tolist() == [0, 1, 4, 7, 11]
    read(source, source.order(12, 0, 0), 0, 5, x)
    assert x[:, 0].tolist() != [0, 1, 2, 3, 4]
    read(source, source.sequential(12, 0, 0), 2, 7, x)
    assert x[:, 0].tolist() == [2, 3, 4, 5, 6]


@given(
    sizes=st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda sizes: sum(sizes) > 20),
    part=st.floats(0.2, 0.8),
    seed=st.integers(0, 2**40),
)
@settings(deadline=None, max_examples=60)
def test_both_parts_of_a_stream_have_the_same_rows_in_each_epoch(sizes, part, seed):
    source = BatchSource(batches_of(sizes), buffer_rows=16)
    two = source.split(part, seed)
    assert source.split(part, seed) == two
    rows = [{tuple(sorted(epoch(each, 7, 0, number).tolist())) for number in range(3)} for each in two]
    assert [len(each) for each in rows] == [1, 1]
    both = sorted(rows[0].pop() + rows[1].pop())
    assert both == list(range(sum(sizes)))
    assert sum(each.n_rows for each in two) == source.n_rows
    assert [each.has_weights for each in two] == [True, True]


def test_about_the_part_that_is_asked_for_is_held_out():
    source = BatchSource(batches_of([5_000, 5_000]))
    held = [source.split(0.1, seed)[1] for seed in range(5)]
    assert all(abs(each.n_rows - 1_000) < 5 * np.sqrt(900) for each in held)
    rows = [frozenset(epoch(each, 500).tolist()) for each in held]
    assert len(set(rows)) == 5
    assert all(abs(np.mean(list(each)) - 5_000) < 5 * 5_000 / np.sqrt(3 * 1_000) for each in rows)  # anywhere


def test_equal_rows_are_held_out_together():
    x = np.repeat(np.arange(100.0), 10)[:, None]
    training, held_out = BatchSource([(x, x[:, 0])], buffer_rows=32).split(0.3, 0)
    seen = []
    for each in (training, held_out):
        found = np.empty((each.n_rows, 1))
        read(each, each.sequential(each.n_rows, 0, 0), 0, each.n_rows, found)
        seen.append(set(found[:, 0].tolist()))
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 100


def test_a_part_without_rows_is_refused():
    source = BatchSource([(np.zeros((50, 1)), np.zeros(50))])
    with pytest.raises(ValueError, match=r"a part of 0\.5 of this stream has (0|50) of its 50 rows"):
        source.split(0.5, 0)
