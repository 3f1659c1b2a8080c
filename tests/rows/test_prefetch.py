"""Gathering in the background: the same rows in the same order, no thread that stays, errors that arrive."""

import gc
import signal
import sys
import threading
import time

import numpy as np
import pytest
from arrays import host, readonly
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp import Loader, Network, train
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import backend
from mlp_xp.rows import prefetch as prefetching
from mlp_xp.rows.prefetch import Pace, prefetched


def threads():
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


class Numbered:
    """A source whose rows are their numbers; it fails at one of them."""

    n_features, n_targets, has_weights = 1, 1, False

    def __init__(self, n_rows, fails_at=None):
        self.n_rows, self.fails_at = n_rows, fails_at

    def rows(self, index, x, y, weight):
        if self.fails_at is not None and self.fails_at in index:
            raise OSError("the disk is gone")
        x[:, 0] = y[:, 0] = index


def passed(loader, epoch):
    steps = loader.batches(epoch, backend("cpu", "float64"))
    return np.concatenate([host(x)[:, 0] for step in steps for x, _, _ in step])


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 300),
    batch=st.integers(1, 300),
    chunk_rows=st.integers(1, 300),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
)
def test_every_mode_passes_every_row_once_in_the_same_order(n_rows, batch, chunk_rows, seed, epoch):
    found = [
        passed(
            Loader(
                Numbered(n_rows),
                batch_size=min(batch, n_rows),
                chunk_rows=chunk_rows,
                seed=seed,
                prefetch=mode,
            ),
            epoch,
        )
        for mode in ("never", "always", "auto")
    ]
    assert sorted(found[0]) == list(range(n_rows))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert threads() == []


def test_an_error_in_the_thread_arrives_and_the_thread_ends():
    loader = Loader(Numbered(500, fails_at=321), batch_size=4, chunk_rows=8, prefetch="always")
    with pytest.raises(OSError, match="the disk is gone"):
        passed(loader, 0)
    assert threads() == []


def test_leaving_in_the_middle_ends_the_thread():
    loader = Loader(Numbered(500), batch_size=4, chunk_rows=8, prefetch="always")
    steps = loader.batches(0, backend("cpu", "float64"))
    next(steps)
    assert threads() != []
    steps.close()
    assert threads() == []


def test_thousands_of_short_epochs_leave_nothing(device):
    loader = Loader(Numbered(6), batch_size=2, chunk_rows=2, prefetch="always")
    network = Network((1, 1), device=device)
    for number, epoch in enumerate(train(network, loader, learning_rate=1e-6, max_epochs=2000), 1):
        assert epoch.number == number
    assert number == 2000
    assert threads() == []


@pytest.fixture
def mapped(tmp_path, rng):
    x = rng.normal(size=(203, 3))
    y = np.tanh(x[:, :1]) + 0.1 * rng.normal(size=(203, 1))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    maps = [np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "y.npy")]
    return (readonly(x), readonly(y)), maps


@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("lbfgs", marks=pytest.mark.needs("scipy"))])
def test_full_batches_from_disk_train_what_arrays_train(optimizer, mapped, device):
    results = []
    for (x, y), prefetch in zip(mapped, ("never", "always"), strict=True):
        network = Network((3, 8, 1), activation="tanh", device=device, dtype="float64", seed=2)
        loader = Loader(x, y, batch_size="full", chunk_rows=32, prefetch=prefetch)
        list(train(network, loader, optimizer=optimizer, learning_rate=0.05, max_epochs=30))
        results.append(network.parameters.to_host())
    np.testing.assert_array_equal(*results)


def test_a_file_that_changes_under_way_is_noticed(tmp_path, device):
    np.save(tmp_path / "x.npy", np.zeros((40, 2)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    epochs = train(Network((2, 1), device=device), Loader(x, readonly(np.ones(40)), batch_size=8))
    next(epochs)
    np.save(tmp_path / "x.npy", np.ones((41, 2)))
    with pytest.raises(RuntimeError, match=r"x\.npy"):
        next(epochs)


def within(seconds, work):
    """The result of work, which must come within so many seconds."""
    results = []
    worker = threading.Thread(target=lambda: results.append(work()), daemon=True)
    worker.start()
    worker.join(seconds)
    assert not worker.is_alive(), "it hangs"
    return results[0]


paces = st.lists(st.floats(1e-4, 1.0), max_size=prefetching.MEASURED_BLOCKS)


@settings(max_examples=150, deadline=None)
@given(
    n_blocks=st.integers(0, 60),
    mode=st.sampled_from(["auto", "always", "never"]),
    share=st.floats(0.0, 1.0),
    in_line=paces,
    in_background=paces,
)
def test_blocks_come_once_and_in_order_whatever_is_known(n_blocks, mode, share, in_line, in_background):
    pace = Pace()
    pace.in_line.extend(in_line)
    pace.gathering.extend(share * each for each in in_line)
    pace.in_background.extend(in_background)
    blocks = [[(i, i + 1)] for i in range(n_blocks)]
    found = within(20, lambda: list(prefetched(lambda ranges, slot: ranges, iter(blocks), pace, mode)))
    assert found == blocks
    assert threads() == []


def measured(gathering, in_line, in_background=None):
    pace, n = Pace(), prefetching.MEASURED_BLOCKS
    pace.gathering.extend([gathering] * n)
    pace.in_line.extend([in_line] * n)
    if in_background is not None:
        pace.in_background.extend([in_background] * n)
    return pace


@pytest.mark.parametrize(
    ("pace", "plan"),
    [
        (Pace(), (False, prefetching.MEASURED_BLOCKS)),  # measure first
        (measured(0.01, 1.0), (False, None)),  # rows in memory: nothing to win
        (measured(0.5, 1.0), (True, prefetching.MEASURED_BLOCKS)),  # try
        (measured(0.5, 1.0, 0.6), (True, None)),
        (measured(0.9, 1.0, 1.1), (False, None)),  # nothing to do beside gathering
        (measured(0.5, 1.0, 0.98), (False, None)),
    ],
)
def test_whether_a_thread_pays_is_measured(pace, plan):
    assert pace.plan() == plan


def used_threads(loader, pace, monkeypatch, n_epochs=1):
    """Whether each block of some epochs came from a thread, where all measurements but one are known."""
    for known in (pace.gathering, pace.in_line):
        known.pop()
    used = []
    monkeypatch.setattr(loader, "_pace", pace)
    monkeypatch.setattr(
        loader.source, "rows", lambda *given, rows=loader.source.rows: (used.append(threads()), rows(*given))
    )
    for epoch in range(n_epochs):
        passed(loader, epoch)
    return list(map(bool, used))


def test_a_thread_is_tried_where_rows_are_waited_for(monkeypatch):
    used = used_threads(Loader(Numbered(100), batch_size=1, chunk_rows=1), measured(0.5, 1.0), monkeypatch)
    assert used[: 1 + prefetching.MEASURED_BLOCKS] == [False] + [True] * prefetching.MEASURED_BLOCKS
    assert len(used) == 100
    assert threads() == []


@pytest.mark.parametrize(("mode", "by_thread"), [("auto", False), ("always", True)])
def test_no_thread_starts_where_an_epoch_is_one_block(mode, by_thread, monkeypatch):
    loader = Loader(Numbered(100), batch_size=10, prefetch=mode)
    used = used_threads(loader, measured(0.5, 1.0), monkeypatch, n_epochs=3)
    assert used == [by_thread] * 3


def test_no_thread_starts_where_rows_are_there(monkeypatch):
    used = used_threads(Loader(Numbered(100), batch_size=1, chunk_rows=1), measured(0.01, 1.0), monkeypatch)
    assert used == [False] * 100


class Moody(Numbered):
    """A source that is slow now and then, and fails now and then."""

    def __init__(self, n_rows, seed):
        super().__init__(n_rows)
        self.generator = np.random.default_rng(seed)

    def rows(self, index, x, y, weight):
        mood = self.generator.random()
        if mood < 0.02:
            time.sleep(0.001)
        if mood > 0.98:
            raise OSError("the disk is gone")
        super().rows(index, x, y, weight)


@pytest.mark.parametrize("mode", ["always", "never", "auto"])
def test_slow_and_failing_sources_leave_no_thread_and_no_growth(mode):
    loader = Loader(Moody(24, seed=3), batch_size=2, chunk_rows=4, seed=1, prefetch=mode)
    expected = [passed(Loader(Numbered(24), batch_size=2, chunk_rows=4, seed=1), epoch) for epoch in range(8)]

    def epochs(n_epochs):
        n_failed = 0
        for number in range(n_epochs):
            try:
                found = passed(loader, number % 8)
            except OSError:
                n_failed += 1
            else:
                np.testing.assert_array_equal(found, expected[number % 8])
        return n_failed

    within(300, lambda: epochs(100))
    gc.collect()
    n_objects, n_blocks = len(gc.get_objects()), sys.getallocatedblocks()
    n_failed = within(300, lambda: epochs(400))
    gc.collect()
    assert 10 < n_failed < 120
    assert threads() == []
    assert len(gc.get_objects()) < n_objects + 100
    assert sys.getallocatedblocks() < n_blocks + 200  # of memory, half a one an epoch


def test_leaving_at_any_step_ends_the_thread():
    loader = Loader(Numbered(40), batch_size=2, chunk_rows=4, prefetch="always")
    for n_steps in range(21):
        steps = loader.batches(0, backend("cpu", "float64"))
        for _ in range(n_steps):
            next(steps)
        within(20, steps.close)
        assert threads() == []


class Interrupted(SquaredError):
    """Somebody presses Ctrl-C while the loss is computed."""

    def __call__(self, *given):
        signal.raise_signal(signal.SIGINT)
        return super().__call__(*given)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, whatever was set before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_step_trains_ends_the_thread(ctrl_c, device):
    loader = Loader(Numbered(500), batch_size=4, chunk_rows=8, prefetch="always")
    with pytest.raises(KeyboardInterrupt):
        next(train(Network((1, 1), device=device), loader, loss=Interrupted(), way="plain"))
    assert threads() == []


def test_ctrl_c_while_rows_are_waited_for_ends_the_thread(ctrl_c, device):
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("this system sends no signals to threads")

    class Stuck(Numbered):
        waited = 0

        def rows(self, index, x, y, weight):
            if self.waited == 0:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            self.waited += 1
            time.sleep(0.2)
            super().rows(index, x, y, weight)

    loader = Loader(Stuck(500), batch_size=4, chunk_rows=8, prefetch="always")
    with pytest.raises(KeyboardInterrupt):
        next(train(Network((1, 1), device=device), loader))
    assert threads() == []
