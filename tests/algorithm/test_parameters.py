"""One flat vector and its views; libraries that copy are refused."""

import types

import numpy as np
import pytest
from arrays import host

from mlp_xp.machine.array_api import Backend
from mlp_xp.parameters import Parameters

SIZES = (4, 3, 2, 1)


@pytest.mark.parametrize(("bias", "size"), [(False, 20), (True, 26)])
def test_sizes(backend, bias, size):
    parameters = Parameters(backend, SIZES, bias)
    assert parameters.n_weights == 20
    assert parameters.size == size
    assert parameters.flat.shape == (size,)
    assert parameters.flat_weights.shape == (20,)
    assert [weights.shape for weights in parameters.weights] == [(4, 3), (3, 2), (2, 1)]
    assert [biases.shape for biases in parameters.biases] == ([(3,), (2,), (1,)] if bias else [])
    assert parameters.flat.dtype == backend.dtype
    np.testing.assert_array_equal(host(parameters.flat), np.zeros(size))


def test_layout_is_weights_then_biases_layer_by_layer(backend):
    parameters = Parameters(backend, SIZES, True)
    parameters.flat[...] = backend.asarray(np.arange(26))
    np.testing.assert_array_equal(host(parameters.weights[0]), np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(host(parameters.weights[1]), np.arange(12, 18).reshape(3, 2))
    np.testing.assert_array_equal(host(parameters.weights[2]), [[18], [19]])
    np.testing.assert_array_equal(host(parameters.biases[0]), [20, 21, 22])
    np.testing.assert_array_equal(host(parameters.biases[1]), [23, 24])
    np.testing.assert_array_equal(host(parameters.biases[2]), [25])
    np.testing.assert_array_equal(host(parameters.flat_weights), np.arange(20))


def test_views_write_through(backend):
    parameters = Parameters(backend, SIZES, True)
    for number, view in enumerate([*parameters.weights, *parameters.biases], start=1):
        view += float(number)
    expected = np.repeat([1, 2, 3, 4, 5, 6], [12, 6, 2, 3, 2, 1])
    np.testing.assert_array_equal(host(parameters.flat), expected)
    weights = parameters.flat_weights
    weights *= 10.0
    np.testing.assert_array_equal(host(parameters.weights[2]), [[30], [30]])


def test_zeros_like_has_the_layout_and_memory_of_its_own(backend):
    parameters = Parameters(backend, SIZES, True)
    gradient = parameters.zeros_like()
    gradient.weights[1][...] = 1.0
    assert gradient.flat.shape == parameters.flat.shape
    np.testing.assert_array_equal(host(parameters.flat), np.zeros(26))


def test_set_layer_copies(backend):
    parameters = Parameters(backend, (2, 2), True)
    weights, biases = np.array([[1.0, 2], [3, 4]]), np.array([5.0, 6])
    parameters.set_layer(0, weights, biases)
    weights[:], biases[:] = 0, 0
    np.testing.assert_array_equal(host(parameters.flat), [1, 2, 3, 4, 5, 6])
    bare = Parameters(backend, (2, 2), False)
    bare.set_layer(0, np.ones((2, 2)), np.ones(2))
    np.testing.assert_array_equal(host(bare.flat), np.ones(4))


def test_to_host_is_a_copy(backend):
    parameters = Parameters(backend, (2, 2), True)
    copied = parameters.to_host()
    copied[:] = 9
    np.testing.assert_array_equal(host(parameters.flat), np.zeros(6))


def copying_library():
    """NumPy whose reshape copies whatever it is told."""
    library = types.ModuleType("copying_library")
    library.__dict__.update({name: getattr(np, name) for name in ("float64", "zeros", "ones")})
    library.reshape = lambda a, shape, copy=None: np.reshape(a, shape).copy()
    return library


def immutable_library():
    """NumPy whose arrays cannot be assigned to, as JAX's."""

    class Immutable(np.ndarray):
        def __setitem__(self, key, value):
            raise TypeError("arrays are immutable")

    library = types.ModuleType("immutable_library")
    library.float64 = np.float64
    library.zeros = lambda shape, dtype, device: np.zeros(shape, dtype).view(Immutable)
    library.ones = lambda shape, dtype, device: np.ones(shape, dtype).view(Immutable)
    library.reshape = lambda a, shape, copy=None: np.reshape(a, shape)
    return library


@pytest.mark.parametrize("library", [copying_library(), immutable_library()])
def test_a_library_that_copies_is_refused_by_name(library):
    with pytest.raises(TypeError, match=f"{library.__name__} copies where mlp_xp needs views"):
        Parameters(Backend(library, "cpu", "float64", "copies"), SIZES, True)


@pytest.mark.needs("jax")
def test_jax_is_refused_by_name():
    import jax

    jax_backend = Backend(jax.numpy, jax.devices("cpu")[0], "float32", "jax")
    with pytest.raises(TypeError, match=r"jax\.numpy copies where mlp_xp needs views"):
        Parameters(jax_backend, SIZES, True)
