"""Training on rows that stay where they are: the same as in memory, in memory that does not grow."""

import threading
import time
import tracemalloc

import numpy as np
import pytest
from arrays import readonly

from mlp_xp import Loader, Network, train
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import backend
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L2
from mlp_xp.rows.streams import BatchSource
from mlp_xp.run.full_batch import AllRows
from mlp_xp.tables.files.opening import open_source

CPU = backend("cpu", "float64")


@pytest.fixture
def arrays(rng):
    x = rng.normal(size=(203, 3))
    y = np.tanh(x[:, :1]) + 0.1 * rng.normal(size=(203, 1))
    return readonly(x), readonly(y), readonly(rng.uniform(0.1, 2.0, 203))


def as_maps(folder, arrays):
    for name, array in zip("xyw", arrays, strict=True):
        np.save(folder / f"{name}.npy", array)
    return Loader(
        *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xyw"), batch_size="full", chunk_rows=32
    )


def as_table(folder, arrays):
    x, y, weight = arrays
    columns = {f"x{i}": x[:, i] for i in range(3)} | {"y": y[:, 0], "w": weight}
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), folder / "table.parquet", row_group_size=50)
    source = open_source(
        folder / "table.parquet",
        target="y",
        weight_column="w",
        dtype="float64",
        memory_limit=0,
        cache_dir=folder / "cache",
    )
    assert source.cache is not None
    return Loader(source, batch_size="full", chunk_rows=32)


def as_function(folder, arrays):
    class Slow:
        """Rows that somebody computes, now and then slowly."""

        n_rows, n_features, n_targets, has_weights = 203, 3, 1, True

        def rows(self, index, x, y, weight):
            if index[0] % 7 == 0:
                time.sleep(1e-4)
            x[...], y[...], weight[...] = (array[index] for array in arrays)

    return Loader(Slow(), batch_size="full", chunk_rows=32, prefetch="always")


def in_memory(arrays):
    return Loader(*arrays, batch_size="full", chunk_rows=32, prefetch="never")


STREAMS = [as_maps, pytest.param(as_table, marks=pytest.mark.needs("pyarrow")), as_function]


def trained(loader, optimizer, device, max_epochs=25):
    network = Network((3, 8, 1), activation="tanh", device=device, dtype="float64", seed=2)
    epochs = train(network, loader, optimizer=optimizer, learning_rate=0.05, max_epochs=max_epochs)
    losses = [epoch.train_loss for epoch in epochs]
    return losses, network.parameters.to_host()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("lbfgs", marks=pytest.mark.needs("scipy"))])
def test_whole_runs_on_streams_are_those_in_memory_bit_for_bit(stream, optimizer, arrays, tmp_path, device):
    expected_losses, expected = trained(in_memory(arrays), optimizer, device)
    losses, parameters = trained(stream(tmp_path, arrays), optimizer, device)
    assert len(losses) > 5
    assert losses == expected_losses
    np.testing.assert_array_equal(parameters, expected)


def as_batches(folder, arrays):
    x, y, weight = arrays
    parts = [slice(start, start + 23) for start in range(0, len(x), 23)]
    source = BatchSource([(x[part], y[part], weight[part]) for part in parts], buffer_rows=50)
    return Loader(source, batch_size="full", chunk_rows=32)


def test_gradient_descent_on_a_shuffled_stream_is_that_in_memory(arrays, tmp_path, device):
    expected_losses, expected = trained(in_memory(arrays), "sgd", device)
    losses, parameters = trained(as_batches(tmp_path, arrays), "sgd", device)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    np.testing.assert_allclose(parameters, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_rows", [1, 7, 203])
@pytest.mark.parametrize("prefetch", ["always", "never"])
@pytest.mark.parametrize("stream", [*STREAMS, as_batches])
def test_value_and_gradient_are_those_in_memory(stream, prefetch, chunk_rows, arrays, tmp_path, device):
    network = Network((3, 8, 1), activation="tanh", device=device, dtype="float64", seed=2)
    objective, at = Objective(network, SquaredError(), L2(0.3)), network.parameters.to_host()
    value, gradient = AllRows(objective, Loader(*arrays, batch_size="full")).value_and_gradient(at)
    loader = stream(tmp_path, arrays)
    loader.prefetch, loader.chunk_rows = prefetch, chunk_rows
    found_value, found_gradient = AllRows(objective, loader).value_and_gradient(at)
    assert found_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found_gradient, gradient, rtol=1e-12, atol=1e-12 * np.abs(gradient).max())


class Endless:
    """Rows made of their numbers, as many as one likes, in no memory."""

    n_features, n_targets, has_weights = 32, 1, True

    def __init__(self, n_rows):
        self.n_rows = n_rows

    def rows(self, index, x, y, weight):
        np.remainder(index[:, None], 7, out=x, casting="unsafe")
        np.remainder(index[:, None], 5, out=y, casting="unsafe")
        weight[...] = 1


@pytest.mark.parametrize("prefetch", ["always", "never"])
def test_the_memory_of_a_full_batch_is_that_of_its_chunks(prefetch):
    network = Network((32, 4, 1), dtype="float64")
    objective, at = Objective(network, SquaredError()), network.parameters.to_host()
    peaks = []
    for n_rows in (2_000, 40_000):
        loader = Loader(Endless(n_rows), batch_size="full", chunk_rows=512, prefetch=prefetch)
        tracemalloc.start()
        try:
            AllRows(objective, loader).value_and_gradient(at)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 600_000  # row numbers, of which a block of 65,536 is kept: here 320 kB


@pytest.mark.parametrize("prefetch", ["always", "never", "auto"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_steps_allocate_nothing_once_they_run(prefetch, is_mapped, tmp_path):
    # Steps of 256 kB: one that is allocated would show. NumPy copies the row numbers of 3,072 rows, 24 kB.
    x, y = np.zeros((20_000, 64), np.float32), np.zeros((20_000, 1), np.float32)
    if is_mapped:
        np.save(tmp_path / "x.npy", x)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    loader, float32 = Loader(x, y, batch_size=1024, prefetch=prefetch), backend("cpu", "float32")
    for epoch in range(8):  # buffers are made, and "auto" has made up its mind
        for step in loader.batches(epoch, float32):
            list(step)
    steps = loader.batches(8, float32)
    list(next(steps))  # the row numbers of the epoch are there
    tracemalloc.start()
    try:
        n_steps = 1
        for step in steps:
            for _ in step:
                n_steps += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_steps == 20
    assert peak < 100_000


def test_training_allocates_no_rows_once_it_runs(device):
    # 8 MB are gathered an epoch; its order takes 8 bytes a row, twice.
    x, y = np.ones((8_192, 256), np.float32), np.ones((8_192, 1), np.float32)
    loader = Loader(x, y, batch_size=64, prefetch="never")  # "auto" makes more buffers when it tries a thread
    epochs = train(Network((256, 4, 1), device=device), loader, learning_rate=1e-6)
    next(epochs), next(epochs)
    tracemalloc.start()
    try:
        next(epochs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("prefetch", ["always", "never"])
def test_a_file_that_is_cut_in_the_middle_of_an_epoch_is_noticed(prefetch, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((400, 2)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    loader = Loader(x, np.zeros(400), batch_size=8, chunk_rows=8, prefetch=prefetch)
    steps = loader.batches(0, CPU)
    for _ in range(3):
        list(next(steps))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(RuntimeError, match=r"x\.npy was changed while it was in use"):
        list(map(list, steps))
    assert gathering() == []


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("which", ["table", "cache"])
def test_a_table_or_its_cache_that_changes_while_training_is_noticed(which, arrays, tmp_path, device):
    loader = as_table(tmp_path, arrays)
    epochs = train(Network((3, 1), device=device), Loader(loader.source, batch_size=16))
    next(epochs)
    path = tmp_path / "table.parquet" if which == "table" else next((tmp_path / "cache").iterdir())
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RuntimeError, match=f"{path.name} was changed while it was in use"):
        list(epochs)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_streamed_table_that_changes_while_training_is_noticed(suffix, arrays, tmp_path, device):
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = tmp_path / f"table.{suffix}"
    table = pa.table({f"x{i}": arrays[0][:, i] for i in range(3)} | {"y": arrays[1][:, 0]})
    (csv.write_csv if suffix == "csv" else parquet.write_table)(table, path)
    source = open_source(path, target="y", memory_limit=0, cache=False)
    epochs = train(Network((3, 1), device=device), Loader(source, batch_size=16))
    next(epochs)
    with path.open("ab") as file:
        file.write(b"1,2,3,4\n")
    with pytest.raises(RuntimeError, match=f"{path.name} was changed while it was in use"):
        list(epochs)


def gathering():
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


def test_an_epoch_keeps_24_bytes_a_step():
    objective = Objective(Network((2, 1)), SquaredError())
    n_steps = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            objective.losses.room(2048)
            objective.losses.filled(*[1.0] * 2048)
            n_steps += 2048
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(objective.losses.steps()) == n_steps
    assert kept < 30 * n_steps
