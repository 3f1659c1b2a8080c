"""Gathering in the background: the same rows in the same order, no thread that stays, errors that arrive."""

import threading

import numpy as np
import pytest
from arrays import host, readonly
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp import Loader, Network, train
from mlp_xp.array_api import backend


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mlp_xp")]


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
    steps = loader.steps(epoch, backend("cpu", "float64"))
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
    steps = loader.steps(0, backend("cpu", "float64"))
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
