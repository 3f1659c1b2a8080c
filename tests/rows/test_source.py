"""The contract of sources: whatever wraps one loses nothing of it that it does not change."""

import types

import numpy as np
import pytest
from arrays import host, no_device_reads, readonly

from mlp_xp import Loader
from mlp_xp.cli.progress import Counted
from mlp_xp.estimators.data import Encoded
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.member_weights import MemberWeighted, StreamBootstrap
from mlp_xp.rows.order import Shuffled
from mlp_xp.rows.own_rows import OwnRows
from mlp_xp.rows.source import PASS_BYTES, Source, Subset, Wrapped, as_source, passes
from mlp_xp.rows.streams import BatchSource
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.folds import Folded, StreamFolds
from mlp_xp.tables.interpretation import Interpretation
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.tables.prepared import Coded, Prepared, Recoded, Selected
from mlp_xp.tables.unlike import Watched
from mlp_xp.tables.written import Written

X = readonly(np.arange(60.0).reshape(20, 3))
Y = readonly(np.arange(20) % 2)
MEANING = Interpretation(Inputs.plain("abc"), Targets.unscaled(["y"]), None, None, Written())
PARITY = StreamFolds(2, lambda x, y: x[:, 0].astype(int) % 2)

WRAPPERS = {
    "Wrapped": Wrapped,
    "Subset": lambda source: Subset(source, np.arange(source.n_rows)),
    "ClassWeighted": lambda source: ClassWeighted(source, {1: 3.0}),
    "Coded": lambda source: Coded(source, {0.0: 1, 1.0: 0}, "y"),
    "Selected": lambda source: Selected(source, [2, 0]),
    "Recoded": lambda source: Recoded(source, {}),
    "Prepared": lambda source: Prepared(source, Inputs.plain("abc"), Targets.unscaled(["y"])),
    "Counted": lambda source: Counted(source, lambda n_rows: None),
    "MemberWeighted": lambda source: MemberWeighted(source, np.ones((source.n_rows, 2))),
    "StreamBootstrap": lambda source: StreamBootstrap(source, 2),
    "OwnRows": lambda source: OwnRows(source, np.arange(source.n_rows) % 2, 2, left_out=False),
    "Folded": lambda source: Folded(source, PARITY, 1, left_out=False),
    "Watched": lambda source: Watched(source, MEANING),
    "Encoded": lambda source: Encoded(source, True, lambda y: y),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request):
    return WRAPPERS[request.param]


class Everything(ArraySource):
    """A source with an answer of its own to each question."""

    columns = tuple(RawColumn(name, "number") for name in "abc")
    targets = (RawColumn("y", "number"),)
    notes = ("said",)

    def check_unchanged(self):
        raise RuntimeError("changed")

    def check_finite(self, *, gaps=False):
        raise ValueError(f"not finite, gaps={gaps}")


def test_every_wrapper_is_tried():
    def below(kind):
        return {kind, *(each for sub in kind.__subclasses__() for each in below(sub))}

    known = {each.__name__ for each in below(Wrapped) if each.__module__.startswith("mlp_xp")}
    assert known - {"_Epoch", "EachWeighted"} == set(WRAPPERS)


def test_no_answer_is_lost(wrap):
    wrapped = wrap(Everything(X, Y))
    assert wrapped.threads_may_share
    assert wrapped.labels
    assert wrapped.dtype == "float64"
    assert wrapped.notes == ("said",)
    assert wrapped.targets == Everything.targets
    with pytest.raises(RuntimeError, match="changed"):
        wrapped.check_unchanged()
    with pytest.raises(ValueError, match="gaps=True"):
        wrapped.check_finite(gaps=True)


def test_targets_at_hand_are_those_of_the_rows(wrap):
    wrapped = wrap(ArraySource(X, Y))
    if wrapped.y is not None:
        seen = np.concatenate([y for _, _, y, _ in passes(wrapped)])
        np.testing.assert_array_equal(seen, wrapped.y)


def test_a_wrapped_stream_is_read_in_its_order(wrap):
    stream = BatchSource([(X[:11], Y[:11]), (X[11:], Y[11:])], buffer_rows=6)
    wrapped = wrap(stream)
    if isinstance(wrapped, Subset | OwnRows):
        pytest.skip("rows of a stream have no numbers")
    expected = [np.concatenate([x for _, x, _, _ in passes(wrapped)])]
    np.testing.assert_array_equal(expected[0][:, 0], np.concatenate(list(first_column(wrapped, None))))
    epochs = [np.concatenate(list(first_column(wrapped, (seed, 2)))) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], epochs[2])
    np.testing.assert_array_equal(np.sort(epochs[0]), np.sort(expected[0][:, 0]))
    both = wrapped.split(0.4, 0)
    assert sum(each.n_rows for each in both) == 20
    assert {type(each) for each in both} == {type(wrapped)}
    found = np.concatenate([x[:, 0] for each in both for _, x, _, _ in passes(each)])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected[0][:, 0]))


def first_column(source, epoch):
    order = (source.order(20, *epoch)) if epoch else source.sequential(20, 0, 0)
    ordered = source.in_order(order)
    for start in (0, 7, 14):
        index = order[start : start + 7]
        x, y = np.empty((len(index), source.n_features)), np.empty((len(index), 1))
        ordered.rows(index, x, y, None)
        yield x[:, 0].copy()


def test_two_epochs_of_a_stream_may_be_read_in_turn():
    stream = BatchSource([(X[:11], Y[:11]), (X[11:], Y[11:])], buffer_rows=6)
    alone = [np.concatenate(list(first_column(stream, (0, number)))) for number in range(2)]
    together = list(zip(first_column(stream, (0, 0)), first_column(stream, (0, 1)), strict=True))
    for number in range(2):
        np.testing.assert_array_equal(np.concatenate([each[number] for each in together]), alone[number])


def test_class_weights_leave_labels_labels():
    for options in ({}, {"class_weight": "balanced"}):
        (chunk,) = next(iter(Loader(X, Y, batch_size=20, **options)))
        assert chunk.y.dtype == np.int32


@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_of_rows_on_a_device_stay_there(weighted, backend, given):
    if isinstance(backend.zeros((1,)), np.ndarray):
        pytest.skip("NumPy's arrays are on the host")
    weight = np.arange(20) + 1.0 if weighted else None
    loader = Loader(
        given(X),
        given(Y, "int32"),
        None if weight is None else given(weight),
        class_weight={1: 3.0},
        batch_size=6,
    )
    loader.source.source.rows = None  # the host has no part in it
    with no_device_reads(backend):
        chunks = [(step.divisor, chunk) for step in loader.batches(0, backend, labels=True) for chunk in step]
    own = np.ones(20) if weight is None else weight
    rows = Shuffled()(20, 0, 0)[0:20]
    expected = (own * np.where(Y == 1, 3.0, 1.0))[rows]
    np.testing.assert_allclose(
        np.concatenate([host(chunk.weight)[:, 0] for _, chunk in chunks]), expected, 1e-6
    )
    np.testing.assert_allclose([divisor for divisor, _ in chunks], np.add.reduceat(expected, [0, 6, 12, 18]))


def object_source(**more):
    """What a user may write: the least that a source is, and more."""

    def rows(index, x, y, weight):
        x[...], y[...] = X[index], Y[index, None]
        if weight is not None:
            weight[...] = index

    return types.SimpleNamespace(n_rows=20, n_features=3, n_targets=1, rows=rows, **more)


def test_a_users_own_object_is_a_source():
    (chunk,) = next(iter(Loader(object_source(), batch_size=20, order="sequential")))
    np.testing.assert_array_equal(chunk.x, X)
    assert chunk.y.dtype == np.float32
    assert chunk.weight is None
    loader = Loader(object_source(has_weights=True), batch_size=20, order="sequential", class_weight={1: 2.0})
    (chunk,) = next(iter(loader))
    np.testing.assert_array_equal(chunk.weight[:, 0], np.arange(20) * (1 + Y))
    (chunk,) = next(iter(Loader(object_source(), batch_size=20, order="sequential", class_weight={1: 2.0})))
    np.testing.assert_array_equal(chunk.weight[:, 0], 1 + Y)


def test_what_a_users_object_has_is_used():
    stream = BatchSource([(X[:11], Y[:11]), (X[11:], Y[11:])], buffer_rows=6)

    def changed():
        raise RuntimeError("changed")

    own = as_source(
        object_source(order=stream.order, threads_may_share=True, check_unchanged=changed, y=Y[:, None])
    )
    assert (own.order, own.threads_may_share, own.labels) == (stream.order, True, True)
    with pytest.raises(RuntimeError, match="changed"):
        next(iter(Loader(own)))
    assert as_source(own) is own


def test_wide_rows_are_read_few_at_a_time():
    class Wide(Source):
        n_rows, n_features, n_targets = 1_000, 100_000, 1

        def rows(self, index, x, y, weight):
            x[...], y[...] = 0, index[:, None]

    sizes = [x.nbytes for _, x, _, _ in passes(Wide())]
    assert max(sizes) <= PASS_BYTES
    assert sum(sizes) == 1_000 * 100_000 * 8


def test_the_loader_is_where_an_object_is_asked_for_what_it_has():
    loader = Loader(object_source(), batch_size=20)
    assert isinstance(loader.source, Source)
    list(loader.batches(0, find_backend("cpu", "float64")))
