"""Arrays that are on a device already, of any library, are trained on and predicted for where they are."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import host, no_device_reads, tolerance

from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.rows import device_arrays
from mlp_xp.rows.device_arrays import ResidentSource, is_elsewhere
from mlp_xp.rows.loader import Loader
from mlp_xp.training import train

X = np.arange(36.0).reshape(12, 3)
Y, WEIGHT = np.arange(12) % 3, np.arange(12) + 1.0


@pytest.fixture
def elsewhere(backend, given):
    """A backend of another library than NumPy, with the data on its device."""
    if isinstance(backend.zeros((1,)), np.ndarray):
        pytest.skip("NumPy's arrays are on the host")
    return backend, given(X), given(Y, "int32"), given(WEIGHT)


def read(steps):
    chunks = [chunk for step in steps for chunk in step]
    return [np.concatenate([host(part) for part in parts]) for parts in zip(*chunks, strict=True)]


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"batch_size": "full", "chunk_rows": 4}])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("prefetch", ["auto", "always"])
def test_rows_come_from_the_device(options, labels, prefetch, elsewhere):
    backend, x, y, weight = elsewhere
    loader = Loader(x, y, weight, seed=3, prefetch=prefetch, **options)
    on_host = Loader(X, Y, WEIGHT, seed=3, **options)
    assert isinstance(loader.source, ResidentSource)
    assert loader.n_rows == 12
    for dtype in {backend.dtype_name, "float32"}:
        there = backend.with_dtype(dtype)
        loader.source.rows = None  # the host has no part in it
        for step, expected in zip(
            loader.batches(1, there, labels=labels), on_host.batches(1, there, labels=labels), strict=True
        ):
            assert (step.n_rows, step.divisor) == (expected.n_rows, expected.divisor)
            for chunk, known in zip(step, expected, strict=True):
                for part, other in zip(chunk, known, strict=True):
                    assert (part.dtype, part.device) == (other.dtype, other.device)
                    np.testing.assert_array_equal(host(part), host(other))


def test_steps_read_nothing(elsewhere):
    backend, x, y, weight = elsewhere
    loader = Loader(x, y, weight, batch_size=5)
    with no_device_reads(backend):
        for step in loader.batches(0, backend, labels=True):
            list(step)


def test_for_another_device_rows_go_through_the_host(elsewhere):
    _, x, y, weight = elsewhere
    cpu = find_backend("cpu", "float32")
    found = read(Loader(x, y, weight, batch_size=5, seed=3).batches(0, cpu))
    expected = read(Loader(X, Y, WEIGHT, batch_size=5, seed=3).batches(0, cpu))
    for part, known in zip(found, expected, strict=True):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, known)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_same_training(weighted, elsewhere):
    backend, x, y, weight = elsewhere
    found = []
    for data in ((x, y, weight), (X, Y, WEIGHT)):
        network = Network((3, 5, 3), device=backend, dtype=backend.dtype_name)
        loader = Loader(*(data if weighted else data[:2]), batch_size=5)
        losses = [
            epoch.train_loss
            for epoch in train(network, loader, loss="softmax_cross_entropy", validation=loader, max_epochs=3)
        ]
        found.append([losses, host(network.parameters.flat)])
    for there, here in zip(*found, strict=True):
        np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("chunk_rows", [5, 4096])
@pytest.mark.parametrize("output", ["raw", "link"])
def test_predictions_stay_on_the_device(output, chunk_rows, elsewhere):
    backend, x, *_ = elsewhere
    network = Network((3, 5, 3), device=backend, dtype=backend.dtype_name)
    next(train(network, Loader(X, Y), loss="softmax_cross_entropy"))
    with no_device_reads(backend):
        found = network.predict(x, output=output, chunk_rows=chunk_rows)
    assert (type(found), found.dtype, found.device) == (type(x), backend.dtype, x.device)
    expected = network.predict(X, output=output)
    assert type(expected) is np.ndarray
    np.testing.assert_allclose(host(found), expected, rtol=tolerance(backend))
    integers = network.predict(backend.asarray(X, "int32"), output=output)
    np.testing.assert_allclose(host(integers), expected, rtol=tolerance(backend))
    on_cpu = Network((3, 5, 3)).predict(x)
    assert type(on_cpu) is np.ndarray


def test_what_is_refused(elsewhere):
    backend, x, y, _ = elsewhere
    broken = X.copy()
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"x\[7, 1\] is nan \(row 7, column 1"):
        Loader(backend.asarray(broken), y)
    with pytest.raises(ValueError, match=r"y has shape \(5,\)"):
        Loader(x, y[:5])
    with pytest.raises(ValueError, match=r"sample_weight\[0\]=-1"):
        Loader(x, y, backend.asarray(WEIGHT - 2.0))
    with pytest.raises(ValueError, match="needs two axes"):
        Loader(x[:, 0], y)
    with pytest.raises(ValueError, match=r"class numbers 0 \.\.\. 1"):
        train(Network((3, 2), device=backend), Loader(x, y), loss="softmax_cross_entropy")
    with pytest.raises(ValueError, match="x has 3 columns, but this network was built for 2"):
        train(Network((2, 1), device=backend), Loader(x, y))
    with pytest.raises(ValueError, match=r"x has shape \(12, 3\)"):
        Network((2, 1), device=backend, dtype=backend.dtype_name).predict(x)


def test_a_device_that_the_host_cannot_read(elsewhere, monkeypatch):
    """As CuPy's: DLPack says so, and only copies of blocks are read."""
    backend, x, *_ = elsewhere
    monkeypatch.setattr(type(x), "__dlpack_device__", lambda self: (2, 0))
    from mlp_xp.rows import device_arrays as resident

    sizes = []

    def copied(array):
        sizes.append(array.shape)
        if array.shape == x.shape:
            raise AssertionError("x as a whole is copied to the host")
        return np.array(array.tolist() if hasattr(array, "tolist") else array._array)

    monkeypatch.setattr(resident, "to_host", copied)
    broken = backend.xp.asarray(x, copy=True)
    broken[3, 2] = float("inf")
    with pytest.raises(ValueError, match=r"x\[3, 2\] is inf"):
        ResidentSource(broken, Y)
    source = ResidentSource(x, Y)
    found = np.empty((4, 3)), np.empty((4, 1)), np.empty(4)
    source.rows(np.array([3, 1, 1, 0]), *found)
    np.testing.assert_array_equal(found[0], X[[3, 1, 1, 0]])
    np.testing.assert_array_equal(found[1][:, 0], Y[[3, 1, 1, 0]])
    np.testing.assert_array_equal(found[2], 1.0)
    assert (4, 3) in sizes


def test_what_is_elsewhere():
    for here in (X, X.tolist(), 3.0, None, np.float64(1.0), X[:0]):
        assert not is_elsewhere(here)


def test_rows_are_taken_with_their_device_current(monkeypatch):
    """A library with a current device computes there and nowhere else."""
    array, entered = np.arange(12.0).reshape(6, 2), []

    class Current(contextlib.nullcontext):
        def __enter__(self):
            entered.append("there")

    taken = []
    xp = SimpleNamespace(
        asarray=lambda values, **_: values,
        take=lambda values, rows, axis: taken.append(len(entered)) or np.take(values, rows, axis),
    )
    monkeypatch.setattr(device_arrays.array_api_compat, "array_namespace", lambda x: xp)
    monkeypatch.setattr(device_arrays.array_api_compat, "device", lambda x: Current())
    np.testing.assert_array_equal(device_arrays.take_rows(array, np.array([4, 1])), array[[4, 1]])
    assert taken == [1]
