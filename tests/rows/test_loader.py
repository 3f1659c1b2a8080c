"""The loader: every row exactly once an epoch, in steps and chunks of the sizes asked for."""

import threading
import warnings

import numpy as np
import pytest
from arrays import host, readonly
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.source import Subset
from mlp_xp.training import train

CPU = find_backend("cpu", "float64")

sizes = st.integers(1, 70)


def rows(n_rows, n_features=3):
    """x whose first column is the row's number, y and weights that follow from it."""
    number = np.arange(n_rows, dtype=float)
    x = number[:, None] + np.arange(n_features) * 1000.0
    return readonly(x), readonly(10.0 * number + 1), readonly((number + 1) % 4)


class Rows:
    """A source of the least kind, which records what it is asked for."""

    def __init__(self, n_rows, has_weights=False):
        self.n_rows, self.n_features, self.n_targets = n_rows, 3, 1
        self.has_weights = has_weights
        self.asked = []

    def rows(self, index, x, y, weight):
        assert index.dtype == np.int64
        assert x.shape == (*index.shape, 3)
        assert y.shape == (*index.shape, 1)
        self.asked.append(index.copy())
        given_x, given_y, given_weight = rows(self.n_rows)
        x[...], y[...] = given_x[index], given_y[index, None]
        assert (weight is not None) == self.has_weights
        if weight is not None:
            assert weight.shape == index.shape
            weight[...] = given_weight[index]


def quiet_loader(*args, **options):
    """A loader whose warning of a large batch is not looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Loader(*args, **options)


def read(steps):
    """Each step as (rows of its chunks, x, y, weight or None, divisor), copied to the host."""
    found = []
    for step in steps:
        known_before = step.divisor
        chunks = [[None if part is None else host(part) for part in chunk] for chunk in step]
        assert known_before in (None, step.divisor)
        x, y, weight = zip(*chunks, strict=True)
        whole = None if weight[0] is None else np.concatenate(weight)
        lengths = [len(part) for part in x]
        assert step.n_rows == sum(lengths)
        found.append((lengths, np.concatenate(x), np.concatenate(y), whole, step.divisor))
    return found


def numbers(found):
    return np.concatenate([step[1][:, 0] for step in found]).astype(int)


@settings(max_examples=150, deadline=None)
@given_any(
    n_rows=sizes,
    batch=st.one_of(sizes, st.sampled_from(["full", "auto"])),
    chunk_rows=sizes,
    order=st.sampled_from(["shuffled", "sequential", "blocks:block_rows=4,window_blocks=3"]),
    weighted=st.booleans(),
    as_source=st.booleans(),
    prefetch=st.sampled_from(["auto", "always", "never"]),
    epoch=st.integers(0, 10),
)
def test_every_row_exactly_once(n_rows, batch, chunk_rows, order, weighted, as_source, prefetch, epoch):
    x, y, weight = rows(n_rows)
    given = (Rows(n_rows, weighted),) if as_source else (x, y, weight if weighted else None)
    sizes = {"batch_size": batch, "chunk_rows": chunk_rows}
    loader = quiet_loader(*given, **sizes, order=order, prefetch=prefetch)
    found = read(loader.batches(epoch, CPU))
    batch_rows = min({"full": n_rows, "auto": max(1, n_rows // 32)}.get(batch, batch), n_rows)
    assert loader.batch_size == batch_rows
    assert loader.steps_per_epoch == len(found) == -(-n_rows // batch_rows)
    np.testing.assert_array_equal(np.sort(numbers(found)), np.arange(n_rows))
    for i, (lengths, *arrays, divisor) in enumerate(found):
        asked = min(batch_rows, n_rows - i * batch_rows)  # the last step is ragged
        assert sum(lengths) == asked
        assert max(lengths) <= chunk_rows
        assert len(lengths) == -(-asked // chunk_rows)
        # What belongs to a row travels with it.
        row = arrays[0][:, 0].astype(int)
        np.testing.assert_array_equal(arrays[0], x[row])
        np.testing.assert_array_equal(arrays[1], y[row, None])
        if weighted:
            np.testing.assert_array_equal(arrays[2], weight[row, None])
            assert divisor == weight[row].sum()
        else:
            assert arrays[2] is None
            assert divisor == asked


@settings(max_examples=60, deadline=None)
@given_any(
    n_rows=sizes,
    batch=sizes,
    chunk_rows=sizes,
    first=st.integers(0, 70),
    weighted=st.booleans(),
    prefetch=st.sampled_from(["always", "never"]),
)
def test_a_later_step_is_reached_without_the_earlier_ones(
    n_rows, batch, chunk_rows, first, weighted, prefetch
):
    source = Rows(n_rows, weighted)
    loader = quiet_loader(source, batch_size=batch, chunk_rows=chunk_rows, seed=3, prefetch=prefetch)
    whole = read(loader.batches(2, CPU))
    source.asked.clear()
    rest = read(loader.batches(2, CPU, first_step=first))
    assert len(rest) == max(0, len(whole) - first)
    for found, expected in zip(rest, whole[first:], strict=True):
        assert found[0] == expected[0]
        assert found[4] == expected[4]
        np.testing.assert_array_equal(found[1], expected[1])
    assert sum(map(len, source.asked)) == max(0, n_rows - first * batch)


def test_chunks_are_on_the_backend_in_its_dtype(backend):
    x, y, weight = rows(10)
    for labels, y_dtype in ((False, backend.dtype), (True, backend.xp.int32)):
        loader = Loader(x, y, weight, batch_size=4)
        for step in loader.batches(0, backend, labels=labels):
            for chunk in step:
                assert chunk.x.dtype == chunk.weight.dtype == backend.dtype
                assert chunk.y.dtype == y_dtype
                assert chunk.x.shape == (step.n_rows, 3)
                assert chunk.y.shape == chunk.weight.shape == (step.n_rows, 1)
                kind = type(backend.zeros((1,)))
                assert all(isinstance(part, kind) for part in chunk)


@pytest.mark.parametrize(
    ("n_rows", "members", "options", "expected"),
    [
        (40_000, 1, {}, 20),
        (40_000, 8, {}, 80),
        (5000, 8, {}, 25),
        (40_000, 8, {"chunk_rows": 4096}, 20),
        (40_000, 8, {"chunk_rows": 1000}, 5),
    ],
)
def test_members_take_more_batches_at_a_time(n_rows, members, options, expected):
    x = np.arange(n_rows, dtype=float)[:, None]
    loader = Loader(x, x, batch_size=200, prefetch="never", **options)
    blocks = loader.blocks(0, CPU, members=members)
    assert next(blocks).n_batches == expected
    rows = [[*batch] for batch in loader.batches(1, CPU, members=members)]
    assert len(rows) == n_rows // 200


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": "full", "chunk_rows": 3}])
def test_the_same_rows_on_every_backend(backend, options):
    x, y, weight = rows(10)
    loader = Loader(x, y, weight, seed=5, **options)
    here, on_cpu = read(loader.batches(1, backend)), read(loader.batches(1, CPU))
    for found, expected in zip(here, on_cpu, strict=True):
        assert found[0] == expected[0]
        for part, expected_part in zip(found[1:4], expected[1:4], strict=True):
            np.testing.assert_array_equal(part, expected_part)


def test_many_small_steps_are_gathered_together():
    source = Rows(4096)
    read(Loader(source, batch_size=1).batches(0, CPU))
    assert len(source.asked) == 1
    source = Rows(4096)
    read(Loader(source, batch_size=1, chunk_rows=64).batches(0, CPU))
    assert max(map(len, source.asked)) == 64  # no more on the device than that


def test_full_is_all_rows_in_chunks():
    x, y, _ = rows(10)
    found = read(Loader(x, y, batch_size="full", chunk_rows=4).batches(0, CPU))
    assert [step[0] for step in found] == [[4, 4, 2]]
    np.testing.assert_array_equal(found[0][1], x)


@pytest.mark.parametrize(
    ("n_rows", "batch"), [(1, 1), (31, 1), (64, 2), (442, 8), (10_000, 256), (131_072, 4096), (10**6, 4096)]
)
def test_auto_is_a_power_of_two(n_rows, batch):
    loader = Loader(np.zeros((n_rows, 1)), np.zeros(n_rows), batch_size="auto")
    assert loader.batch_size == batch


def test_epochs_and_seeds_have_orders_of_their_own():
    x, y, _ = rows(50)

    def order(seed, epoch):
        return numbers(read(Loader(x, y, batch_size=8, seed=seed).batches(epoch, CPU))).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_every_position_holds_every_row_equally_often():
    # 4! orders of four rows, 2,400 epochs: chi-square with 23 degrees of freedom.
    x, y, _ = rows(4)
    loader = Loader(x, y, batch_size=2)
    drawn = [tuple(numbers(read(loader.batches(epoch, CPU)))) for epoch in range(2400)]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert abs(((counts - 100) ** 2 / 100).sum() - 23) < 5 * np.sqrt(46)


def test_with_replacement_draws_rows_again():
    x, y, _ = rows(1000)
    drawn = numbers(read(Loader(x, y, batch_size=64, order="with_replacement").batches(0, CPU)))
    assert drawn.size == 1000
    missing = 1000 - np.unique(drawn).size
    assert abs(missing - 1000 / np.e) < 5 * np.sqrt(1000 * 0.097)  # variance of the number of empty boxes


def test_an_order_of_ones_own():
    x, y, _ = rows(5)
    calls = []

    def backwards(n_rows, seed, epoch):
        calls.append((n_rows, seed, epoch))
        return [4, 3, 2, 1, 0]

    found = read(Loader(x, y, batch_size=2, order=backwards, seed=8).batches(3, CPU))
    assert numbers(found).tolist() == [4, 3, 2, 1, 0]
    assert calls == [(5, 8, 0), (5, 8, 3)]  # the first when it is checked


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 5], [0, 1, -1, 3, 4], [0, 1, 2], np.zeros((5, 1), dtype=int)])
def test_an_order_that_names_no_rows_is_refused(order):
    x, y, _ = rows(5)
    with pytest.raises(ValueError, match="the order gives"):
        Loader(x, y, batch_size=5, order=lambda n_rows, seed, epoch: order)
    good = [0, 1, 2, 3, 4]
    loader = Loader(x, y, batch_size=5, order=lambda n_rows, seed, epoch: order if epoch else good)
    with pytest.raises(ValueError, match="the order gives"):
        read(loader.batches(1, CPU))


def test_an_order_of_halves_is_refused():
    x, y, _ = rows(5)
    with pytest.raises(ValueError, match="the order gives float64, where whole numbers are needed"):
        Loader(x, y, order=lambda n_rows, seed, epoch: np.arange(n_rows) / 2)


def test_a_loader_says_what_it_is():
    x, y, _ = rows(5)
    loader = Loader(x, y, batch_size=2)
    assert len(loader) == len(list(loader)) == 3
    assert repr(loader).startswith(f"Loader(n_rows=5, n_features={x.shape[1]}, n_targets=1, batch_size=2, ")
    assert "order=Shuffled()" in repr(loader)


@pytest.mark.parametrize(("prefetch", "buffers"), [("never", 1), ("always", 3)])
def test_steps_reuse_their_buffers(prefetch, buffers):
    x, y, weight = rows(36)
    loader = Loader(x, y, weight, batch_size=6, chunk_rows=3, prefetch=prefetch)
    chunks = [chunk for step in loader.batches(0, CPU) for chunk in step]
    assert len(chunks) == 12
    for part in range(3):
        assert len({chunk[part].__array_interface__["data"][0] for chunk in chunks}) == buffers


@pytest.mark.parametrize("prefetch", ["always", "never"])
def test_an_error_of_the_source_reaches_who_iterates(prefetch):
    class Broken(Rows):
        def rows(self, index, x, y, weight):
            if len(self.asked) == 2:
                raise OSError("the disk is gone")
            super().rows(index, x, y, weight)

    loader = Loader(Broken(10), batch_size=4, chunk_rows=2, prefetch=prefetch)
    steps = loader.batches(0, CPU)
    assert len(list(next(steps))) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        list(next(steps))


def test_the_thread_ends_with_the_epoch_or_a_break():
    def gathering():
        return [thread for thread in threading.enumerate() if "prefetch" in thread.name]

    x, y, _ = rows(40)
    loader = Loader(x, y, batch_size=2, chunk_rows=2, prefetch="always")
    for n_steps in (1, 5, 15):
        steps = loader.batches(0, CPU)
        for _ in range(n_steps):
            next(steps)
        assert gathering()
        steps.close()
        assert not gathering()
    read(loader.batches(0, CPU))
    assert not gathering()


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 6, "chunk_rows": 2}])
def test_a_user_gets_arrays_of_their_own(backend, options):
    x, y, weight = rows(12)
    loader = Loader(x, y, weight, device=backend, dtype=backend.dtype_name, **options)
    steps = list(loader)
    chunks = [chunk for step in steps for chunk in step]
    assert [len(list(step)) for step in steps] == [len(list(step)) for step in steps]  # again and again
    row = np.concatenate([host(chunk.x)[:, 0] for chunk in chunks]).astype(int)
    np.testing.assert_array_equal(np.sort(row), np.arange(12))
    np.testing.assert_array_equal(np.concatenate([host(chunk.y) for chunk in chunks]), y[row, None])
    for step in steps:
        assert step.divisor == sum(float(backend.xp.sum(chunk.weight)) for chunk in step)
    chunks[0].x[...] = 7.0  # theirs to write
    assert all(not (host(chunk.x) == 7).all() for chunk in chunks[1:])


def test_iterating_again_is_the_next_epoch():
    x, y, _ = rows(20)
    loader, same = Loader(x, y, batch_size=4, seed=2), Loader(x, y, batch_size=4, seed=2)
    for epoch in range(3):
        np.testing.assert_array_equal(numbers(read(loader)), numbers(read(same.batches(epoch, CPU))))


def test_class_numbers_stay_integers_and_other_targets_become_floats():
    x, _, _ = rows(4)
    for y, kind in (([0, 1, 2, 1], "i"), ([True, False, True, True], "i"), ([0.5, 1, 2, 1], "f")):
        for step in Loader(x, y, batch_size=4):
            for chunk in step:
                assert chunk.y.dtype.kind == kind
                np.testing.assert_array_equal(chunk.y, np.reshape(y, (4, 1)))


def test_several_targets_and_none():
    x, y, _ = rows(4)
    both = Loader(x, np.stack([y, -y], axis=1), batch_size=4, order="sequential")
    np.testing.assert_array_equal(read(both)[0][2], np.stack([y, -y], axis=1))
    assert read(Loader(x, batch_size=4))[0][2].shape == (4, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "bool", ">f8"])
def test_values_are_converted_while_they_are_gathered(dtype):
    x = readonly(np.arange(12).reshape(6, 2) % 2, dtype=dtype)
    loader = Loader(x, np.arange(6), batch_size=4, dtype="float32", order="sequential")
    found = np.concatenate([step[1] for step in read(loader)])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.arange(12).reshape(6, 2) % 2)


def test_more_rows_than_there_are_means_all_and_says_so():
    x, y, _ = rows(5)
    with pytest.warns(UserWarning, match="batch_size=6 is more than the 5 rows there are") as warned:
        loader = Loader(x, y, batch_size=6)
    assert warned[0].filename == __file__
    assert loader.batch_size == 5
    Loader(x, y, batch_size=5)
    Loader(x, y, batch_size="full")
    Loader(x, y, batch_size="auto")


def test_device_and_dtype_are_those_of_the_network(device):
    x, y, _ = rows(5)
    network = Network((3, 1), device=device, dtype="float64")
    plain = Loader(x, y, batch_size=5)
    assert plain.backend_for(network.backend) is network.backend
    assert plain.backend_for().name == "cpu"
    assert plain.backend_for().dtype_name == "float32"
    agreeing = Loader(x, y, batch_size=5, device=device, dtype="float64")
    assert agreeing.backend_for(network.backend) is network.backend
    with pytest.raises(ValueError, match=r"made for .* and float32, but the network is on .* in float64"):
        Loader(x, y, batch_size=5, dtype="float32").backend_for(network.backend)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0 must be a whole number >= 1"),
        ({"batch_size": 2.0}, ValueError, "batch_size=2.0 must be a whole number"),
        ({"batch_size": True}, ValueError, "batch_size=True"),
        ({"batch_size": "ful"}, ValueError, "unknown batch_size 'ful'; did you mean 'full'"),
        (
            {"batch_size": -1, "chunk_rows": 0, "seed": -1},
            ValueError,
            "chunk_rows=0 .*\nseed=-1 .*\nbatch_size=-1",
        ),
        ({"order": "shufled"}, ValueError, "unknown order 'shufled'; did you mean 'shuffled'"),
        ({"order": 3}, TypeError, "order=3 must be a name"),
        ({"x": np.ones((4, 3))}, ValueError, r"y has shape \(5,\); with 4 rows in x"),
        ({"sample_weight": np.ones(4)}, ValueError, r"sample_weight has shape \(4,\)"),
        ({"sample_weight": [1, 1, -1, 1, 1]}, ValueError, r"sample_weight\[2\]=-1"),
        ({"x": [[0.0, np.nan, 0]] * 5}, ValueError, "row 0, column 1"),
        ({"y": [0, 1, np.inf, 3, 4]}, ValueError, "row 2"),
        ({"x": np.ones((0, 3)), "y": np.ones(0)}, ValueError, "at least one row"),
        ({"x": np.ones(5)}, ValueError, "needs two axes"),
        ({"x": [["a"]] * 5}, TypeError, "text"),
        ({"x": lambda: iter([])}, TypeError, r"x is a function: .*BatchSource\(x\)"),
        ({"x": iter([])}, TypeError, "x is a list_iterator"),
        ({"x": Rows(5)}, ValueError, "a source brings its own targets"),
    ],
)
def test_what_a_loader_refuses(arguments, error, message):
    x, y, _ = rows(5)
    with pytest.raises(error, match=message):
        Loader(**{"x": x, "y": y, "batch_size": 5, **arguments})


class Unseen:
    """A source that shows its targets only row by row."""

    n_rows, n_features, n_targets, has_weights = 40, 2, 1, False

    def rows(self, index, x, y, weight):
        x[...] = index[:, None]
        y[:, 0] = np.where(index == 17, 5, index % 3)


def test_a_target_without_meaning_is_named_by_its_row_in_the_source(device):
    network = Network((2, 3), device=device)
    with pytest.raises(ValueError, match=r"class numbers 0 \.\.\. 2 .* row 17 has 5"):
        list(train(network, Loader(Unseen(), batch_size=8), loss="softmax_cross_entropy"))


def changing_run(loss, optimizer, monkeypatch, **how):
    """A run whose targets are the caller's own array, and that array."""
    monkeypatch.setattr("mlp_xp.rows.arrays._COPIED_BYTES", 0)
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    network = Network((3, 4, 2 if loss.startswith("softmax") else 1), seed=0)
    return train(network, Loader(x, y, **how), loss=loss, optimizer=optimizer, max_epochs=5), y


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "poisson"])
@pytest.mark.parametrize(
    ("optimizer", "how"),
    [
        ("adam", {"batch_size": 10, "order": "sequential"}),
        pytest.param("lbfgs", {"batch_size": "full", "chunk_rows": 8}, marks=pytest.mark.needs("scipy")),
    ],
)
def test_targets_that_change_after_they_were_looked_at(loss, optimizer, how, monkeypatch):
    run, y = changing_run(loss, optimizer, monkeypatch, **how)
    next(run)
    y[17] = -(10**6)
    with pytest.raises(ValueError, match="row 17"):
        list(run)


@pytest.mark.needs("scipy")
def test_lbfgs_has_rows_of_its_own_where_they_are_one_chunk(monkeypatch):
    as_they_were, changed = [], []
    for losses in (as_they_were, changed):
        run, y = changing_run("softmax_cross_entropy", "lbfgs", monkeypatch, batch_size="full")
        losses.append(next(run).train_loss)
        y[17] = -(10**6) if losses is changed else y[17]
        losses += [epoch.train_loss for epoch in run]
    assert len(changed) > 2
    assert changed == as_they_were


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (np.zeros(4), "sample_weight: all 4 rows have weight 0"),
        (np.array([1.0, -2.0, 1.0, 1.0]), r"sample_weight\[1\]=-2.0 is negative"),
        (np.array([1.0, np.nan, 1.0, 1.0]), r"sample_weight\[1\] is nan"),
        (np.array([1.0, np.inf, 1.0, 1.0]), r"sample_weight\[1\] is inf"),
        (np.full(4, 1e38), r"sample_weight: the weights of the 4 rows add up to 4e\+38"),
        (np.full(4, 1e-44), "sample_weight: the weights of the 4 rows add up to .*, too little for float32"),
    ],
)
def test_weights_that_are_none_are_refused(weight, said):
    with pytest.raises(ValueError, match=said):
        train(Network((1, 1)), Loader(np.ones((4, 1)), np.ones(4), weight))


def test_weights_of_a_step_are_summed_in_double():
    """In float32 the ones would be lost beside the large one, and what J is divided by would be wrong."""
    x, weight = np.ones((16, 2)), np.array([2.0**24, *[1.0] * 7] * 2)
    for chunk_rows in (8, 3):
        loader = Loader(
            x, x, weight, batch_size=8, chunk_rows=chunk_rows, order="sequential", dtype="float32"
        )
        assert [batch.divisor for batch in loader] == [2.0**24 + 7] * 2


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="there are no rows"):
        Loader(Subset(ArraySource(np.ones((3, 2)), np.ones(3)), np.arange(0)))


def test_weights_of_no_members_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 0\): needed are numbers of shape \(3, members\)"):
        Loader(np.ones((3, 2)), np.ones(3), member_weight=np.ones((3, 0)))
