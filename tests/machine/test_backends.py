"""One code, any library: what a Backend does, and that the same training comes out everywhere."""

import dataclasses
import functools

import numpy as np
import pytest
from arrays import host, readonly, tolerance

from mlp_xp.dropout import Dropout
from mlp_xp.losses import GroupedSoftmaxLink
from mlp_xp.machine import cuda
from mlp_xp.machine.array_api import CACHE_BLOCK, DTYPES, Backend, to_host
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.optimizers import LBFGS, OPTIMIZERS
from mlp_xp.rows.loader import Loader
from mlp_xp.training import train

pytestmark = pytest.mark.every_backend

CPU = find_backend("cpu", "float64")


# into(out, f, *args): the one spelling of "without a temporary"


def cases(backend):
    """f, the arrays and numbers it is given, and which of them is also what is filled (or None)."""
    xp = backend.xp
    a = np.array([[1.5, -2.0, 0.25], [0.0, 3.0, -0.5]])
    b = np.array([[2.0, 0.5, -1.0], [4.0, -3.0, 1.0]])
    m = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
    return [
        (xp.exp, [a], None, np.exp(a)),
        (xp.exp, [a], 0, np.exp(a)),
        (xp.negative, [a], 0, -a),
        (xp.tanh, [a], None, np.tanh(a)),
        (xp.multiply, [a, b], None, a * b),
        (xp.multiply, [a, a], 0, a * a),
        (xp.subtract, [1.0, a], 1, 1 - a),
        (xp.divide, [1.0, b], 1, 1 / b),
        (xp.maximum, [a, 0.0], 0, np.maximum(a, 0)),
        (xp.multiply, [a, 2.0], None, a * 2),
        (xp.greater, [a, 0.0], 0, (a > 0).astype(float)),
        (xp.greater, [a, 0.0], None, (a > 0).astype(float)),
        (xp.matmul, [a, m], None, a @ m),
        (xp.matmul, [np.ones(2), a], None, np.ones(2) @ a),
    ]


@pytest.mark.parametrize("number", range(len(cases(CPU))))
def test_into_fills_what_it_is_given(number, backend):
    f, arguments, filled, expected = cases(backend)[number]
    arrays = [backend.asarray(v) if isinstance(v, np.ndarray) else v for v in arguments]
    if filled is not None and all(v is arguments[filled] for v in arguments):
        arrays = [arrays[filled]] * len(arrays)
    out = backend.empty(expected.shape) if filled is None else arrays[filled]
    result = backend.into(out, f, *arrays)
    assert result is out
    assert out.dtype == backend.dtype
    np.testing.assert_allclose(host(out), expected, rtol=tolerance(backend, 1e-14, 1e-6))
    for i, (array, value) in enumerate(zip(arrays, arguments, strict=True)):
        if isinstance(value, np.ndarray) and array is not out:
            np.testing.assert_array_equal(host(arrays[i]), value)


def test_into_writes_through_views(backend):
    """Of one flat vector, as parameters are, and of the first rows, as a ragged chunk is."""
    flat = backend.zeros((10,))
    matrix = backend.xp.reshape(flat[2:8], (2, 3), copy=False)
    x = backend.asarray(np.arange(8.0).reshape(4, 2))
    y = backend.asarray(np.arange(12.0).reshape(4, 3))
    backend.into(matrix, backend.xp.matmul, x.mT, y)
    expected = np.arange(8.0).reshape(4, 2).T @ np.arange(12.0).reshape(4, 3)
    np.testing.assert_allclose(host(flat), [0, 0, *expected.ravel(), 0, 0])
    tall = backend.zeros((5, 3))
    backend.into(tall[:2, ...], backend.xp.add, matrix, 1.0)
    np.testing.assert_allclose(host(tall), [*(expected + 1), *np.zeros((3, 3))])


# What else a Backend is


def test_host_arrays_are_copied_and_converted(backend):
    values = readonly([[1.0, 2.0], [3.0, 4.0]])
    a = backend.asarray(values)
    assert a.dtype == backend.dtype
    assert a.device == backend.zeros((1,)).device
    a += 1.0
    np.testing.assert_array_equal(values, [[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(host(a), values + 1)
    own = values.astype(backend.dtype_name)  # what is already of that dtype is copied too
    b = backend.asarray(own)
    b += 1.0
    np.testing.assert_array_equal(own, values)


def test_class_numbers_are_int32(backend):
    labels = backend.asarray(readonly([[0], [2]]), "int32")
    assert labels.dtype == backend.xp.int32
    assert backend.arange(3).dtype == backend.xp.int32
    np.testing.assert_array_equal(host(backend.arange(3)), [0, 1, 2])


def test_to_host_is_numpys_whatever_the_library(backend):
    for values, dtype in (([1.5, 2.5], None), ([[1, 2]], "int32"), ([], None)):
        read = to_host(backend.asarray(values, dtype))
        assert type(read) is np.ndarray
        assert read.dtype == (dtype or backend.dtype_name)
        np.testing.assert_array_equal(read, np.array(values))
    assert float(to_host(backend.xp.sum(backend.ones((3,))))) == 3.0
    transposed = to_host(backend.asarray([[1.0, 2.0], [3.0, 4.0]]).mT)
    np.testing.assert_array_equal(transposed, [[1.0, 3.0], [2.0, 4.0]])


def test_new_arrays_are_where_they_belong(backend):
    for array in (backend.empty((2, 3)), backend.zeros((2, 3)), backend.ones((2, 3))):
        assert array.shape == (2, 3)
        assert array.dtype == backend.dtype
        assert array.device == backend.asarray([1.0]).device
    assert host(backend.zeros((2,))).tolist() == [0.0, 0.0]
    assert host(backend.ones((2,))).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24])
def test_blocks_cover_a_vector_once(size):
    blocks = list(dataclasses.replace(CPU, block=8).blocks(size))
    assert [i for block in blocks for i in range(size)[block]] == list(range(size))
    assert all(0 < block.stop - block.start <= 8 for block in blocks)


def test_another_dtype(backend):
    other = backend.with_dtype("float32")
    assert other.ones((1,)).dtype == backend.xp.float32
    assert other.device == backend.device
    assert other.with_dtype("float32") is other


def test_device_strings(device):
    cpu = find_backend("cpu")
    assert (cpu.name, cpu.dtype_name, cpu.xp, cpu.block) == ("cpu", "float32", np, CACHE_BLOCK)
    assert find_backend(cpu, "float64").dtype_name == "float64"
    for dtype in DTYPES:
        there = find_backend(device, dtype)
        assert there.dtype_name == dtype
        assert there.name == ("cuda:0" if device == "cuda" else device)


@pytest.mark.parametrize("given", ["gpu", "cuda:", "cuda:-1", "cuda:1.5", "CPU", "", None, 0])
def test_other_devices_are_refused(given):
    with pytest.raises(ValueError, match="known: 'cpu', 'cuda', 'cuda:N'"):
        find_backend(given)


@pytest.mark.parametrize("given", ["float16", "double", "", 32, np.float32])
def test_other_dtypes_are_refused(given):
    with pytest.raises(ValueError, match=r"unknown dtype .*float32"):
        find_backend("cpu", given)


@pytest.mark.parametrize("index", [0, 999])
def test_a_gpu_that_cannot_be_used_is_refused_with_the_reason(index):
    problem = cuda.problem(index)
    if problem is None:
        assert find_backend(f"cuda:{index}").name == f"cuda:{index}"
        return
    with pytest.raises(RuntimeError) as refusal:
        find_backend(f"cuda:{index}")
    assert str(refusal.value) == str(problem)


# The same training everywhere


def problem(loss, rng):
    n_rows, n_features = 60, 5
    x = rng.normal(size=(n_rows, n_features))
    score = x @ rng.normal(size=(n_features, 3)) + 0.3 * rng.normal(size=(n_rows, 3))
    if loss == "softmax_cross_entropy":
        y = score.argmax(axis=1)
    elif loss == "binary_cross_entropy":
        y = (score > 0).astype(float)
    elif loss == "poisson":
        y = rng.poisson(np.exp(0.3 * score)).astype(float)
    else:
        y = score
    return readonly(x), readonly(y), readonly(rng.uniform(0.5, 2.0, n_rows))


RUNS = {
    "squared_error": {"optimizer": "adam", "activation": "tanh"},
    "softmax_cross_entropy": {"optimizer": "nadam", "activation": "gelu", "dropout": 0.25},
    "binary_cross_entropy": {"optimizer": "rmsprop", "activation": "silu", "clip_norm": 0.5},
    "poisson": {"optimizer": "momentum", "activation": "softplus", "regularizer": "l2:strength=0.1"},
    "huber": {"optimizer": "adamw", "activation": "elu", "schedule": "cosine", "dropout": (0.1, 0.2)},
    "pinball:quantiles=0.1/0.9": {"optimizer": "nesterov", "activation": "mish"},
    "half_squared_error": {"optimizer": "sgd", "activation": "leaky_relu", "reduction": "sum"},
    "absolute_error": {"optimizer": "adam", "activation": "selu", "regularizer": "l1:strength=0.1"},
}
NAMED = {OPTIMIZERS[run["optimizer"]] for run in RUNS.values()} | {LBFGS}
OTHERS = [name for name, rule in OPTIMIZERS.items() if rule not in NAMED]
RUNS |= {f"huber:delta={n}": {"optimizer": name, "activation": "tanh"} for n, name in enumerate(OTHERS, 2)}


def run(loss, device, dtype, *, max_epochs=6, chunk_rows=64):
    """Train a little: losses of all epochs, parameters, predictions."""
    x, y, weight = problem(loss, np.random.default_rng(12))
    named = dict(RUNS[loss])
    n_outputs = 6 if loss.startswith("pinball") else 3
    network = Network(
        (5, 8, 6, n_outputs), activation=named.pop("activation"), device=device, dtype=dtype, seed=2
    )
    loader = Loader(x, y, weight, batch_size=16, chunk_rows=chunk_rows, seed=4)
    validation = Loader(x, y, batch_size="full")
    epochs = train(
        network,
        loader,
        loss=loss,
        learning_rate=0.002,
        max_epochs=max_epochs,
        seed=9,
        validation=validation,
        **named,
    )
    losses = [(epoch.train_loss, epoch.validation_loss) for epoch in epochs]
    return np.array(losses), host(network.parameters.flat), network.predict(x)


@functools.cache
def on_the_cpu(loss):
    """What all others are compared with."""
    return run(loss, "cpu", "float64")


def assert_same(results, expected, rtol):
    """Relative to the size of each: losses, parameters, predictions."""
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=rtol, atol=rtol * np.abs(other).max())


@pytest.mark.parametrize("loss", RUNS)
def test_every_library_trains_to_the_same_parameters(loss, backend):
    expected = on_the_cpu(loss)
    assert np.isfinite(expected[0]).all()
    assert expected[0][-1, 0] < expected[0][0, 0]  # it learns
    for dtype in DTYPES:
        if backend.dtype_name == "float32" and dtype == "float64":
            continue
        results = run(loss, backend, dtype)
        assert results[1].dtype == results[2].dtype == dtype
        assert_same(results, expected, 1e-10 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("loss", RUNS)
def test_the_device_of_this_run_trains_to_the_same_parameters(loss, device):
    assert_same(run(loss, device, "float64"), on_the_cpu(loss), 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_seed_is_one_training_to_the_last_bit(dtype, device):
    for loss in RUNS:
        for first, second in zip(run(loss, device, dtype), run(loss, device, dtype), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("chunk_rows", [1, 6])
def test_chunks_do_not_matter(chunk_rows, backend):
    """Dropout's masks neither: they depend on the place in the step, not in the chunk."""
    whole = run("huber", backend, backend.dtype_name, max_epochs=2)
    parts = run("huber", backend, backend.dtype_name, max_epochs=2, chunk_rows=chunk_rows)
    assert_same(parts, whole, tolerance(backend, 1e-11, 1e-3))


@pytest.mark.parametrize(("rate", "seed", "step", "layer"), [(0.5, 0, 0, 0), (0.1, 2**40 + 1, 77, 1)])
def test_dropout_masks_are_the_same_everywhere_and_in_any_chunks(rate, seed, step, layer, backend):
    masks = Dropout((rate, rate), seed)
    expected = masks.mask(CPU, (40, 9), step, layer, 1000)
    assert 0.02 < np.mean(expected == 0) < 0.7
    there = backend.with_dtype("float32")
    for start, stop in ((0, 40), (0, 1), (1, 7), (39, 40), (7, 39)):
        part = masks.mask(there, (stop - start, 9), step, layer, 1000 + start)
        assert part.dtype == there.dtype
        np.testing.assert_array_equal(host(part), expected[start:stop].astype("float32"))


def test_links_leave_no_array_behind(backend, rng):
    """A link works in the arrays of its library: groups of columns are views there too."""
    z = rng.normal(size=(3, 4))
    here = GroupedSoftmaxLink((2, 2))(CPU, z.copy())
    there = GroupedSoftmaxLink((2, 2))(backend, backend.asarray(z))
    np.testing.assert_allclose(host(there), here, rtol=tolerance(backend))


def test_a_backend_of_ones_own_is_a_device(backend):
    network = Network((3, 2, 1), device=backend, dtype=backend.dtype_name)
    assert isinstance(network.backend, Backend)
    assert network.backend.device == backend.device
    assert network.parameters.flat.dtype == backend.dtype
