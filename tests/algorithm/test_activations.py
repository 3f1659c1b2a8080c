"""Every activation: its value and derivative to the last digits, at any z; and users' own pairs."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from arrays import host, readonly
from drawn import drawn
from oracles import exact

from mlp_xp.activations import ACTIVATIONS, Custom, Elu, LeakyRelu, resolve_activation
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network

# Where e^z overflows and underflows in float32 and in float64, and both sides of every kink.
MODERATE = [1e-8, 1e-3, 0.3, 0.99, 1.01, 2.5, 5.0, 9.0, 17.0, 30.0]
EXTREME = [87.0, 88.8, 104.0, 709.0, 746.0, 1e3, 1e4]
Z = np.array([sign * z for z in MODERATE + EXTREME for sign in (-1, 1)], dtype="float32")
DTYPES = ("float32", "float64")


def test_every_name_has_an_oracle():
    assert ACTIVATIONS.keys() == exact.ACTIVATIONS.keys()


def compute(activation, backend, values):
    """f(z) and f'(z) of a column, as host arrays."""
    z = backend.asarray(np.reshape(values, (-1, 1)))
    kept = z if activation.keeps_output else backend.empty(z.shape)
    activation.forward(backend, z, kept)
    a = host(z)[:, 0]
    slope = activation.derivative(backend, kept)
    return a, np.ones_like(a) * (slope if isinstance(slope, float) else host(slope)[:, 0])


def dtypes_of(backend):
    return [dtype for dtype in DTYPES if dtype == "float32" or backend.dtype_name == dtype]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_value_and_derivative_to_the_last_digits(name, backend):
    expected = np.array([exact.activation(name, z) for z in Z])
    for dtype in dtypes_of(backend):
        a, slope = compute(ACTIVATIONS[name](), backend.with_dtype(dtype), Z)
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(a, expected[:, 0], rtol=8 * eps, atol=8 * eps)
        np.testing.assert_allclose(slope, expected[:, 1], rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize("name", [name for name, kind in ACTIVATIONS.items() if dataclasses.fields(kind)])
def test_the_derivative_is_that_of_the_value_whatever_its_numbers(name, rng):
    f, backend, step = drawn(ACTIVATIONS[name], rng), find_backend("cpu", "float64"), 1e-6
    assert f != ACTIVATIONS[name]()
    z = np.array([sign * z for z in (0.3, 0.99, 2.5, 5.0) for sign in (-1, 1)])
    after, before = (compute(f, backend, z + change)[0] for change in (step, -step))
    slope = compute(f, backend, z)[1]
    np.testing.assert_allclose(slope, (after - before) / (2 * step), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "softplus", "silu", "logistic"])
def test_small_values_keep_their_digits(name, backend):
    """Far from 1 the error is relative to the value."""
    for dtype in dtypes_of(backend):
        z = Z[(np.abs(Z) < 80)]
        a, _ = compute(ACTIVATIONS[name](), backend.with_dtype(dtype), z)
        expected = [exact.activation(name, each)[0] for each in z]
        np.testing.assert_allclose(a, expected, rtol=16 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "softplus", "logistic"])
def test_small_derivatives_keep_their_digits(name, backend):
    for dtype in dtypes_of(backend):
        z = Z[(Z < 0) & (Z > -80)]
        _, slope = compute(ACTIVATIONS[name](), backend.with_dtype(dtype), z)
        expected = [exact.activation(name, each)[1] for each in z]
        np.testing.assert_allclose(slope, expected, rtol=16 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dtype_and_device_stay(name, backend):
    backend = backend.with_dtype("float32")
    activation = ACTIVATIONS[name]()
    z = backend.ones((3, 2))
    kept = z if activation.keeps_output else backend.empty((3, 2))
    activation.forward(backend, z, kept)
    slope = activation.derivative(backend, kept)
    like = backend.ones((3, 2))
    assert z.dtype == backend.dtype
    assert z.device == like.device
    if not isinstance(slope, float):
        assert slope.dtype == backend.dtype
        assert slope.device == like.device


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nothing_is_kept_for_predictions(name, backend):
    z, again = backend.asarray(Z[:, None]), backend.asarray(Z[:, None])
    activation = ACTIVATIONS[name]()
    activation.forward(backend, z, None)
    activation.forward(backend, again, again if activation.keeps_output else backend.empty(z.shape))
    np.testing.assert_array_equal(host(z), host(again))


@functools.cache
def exactly(name):
    """z, biases, and the value and the derivative of each z + b: the oracle takes a while."""
    rng = np.random.default_rng(5)
    z, biases = (rng.normal(size=shape).astype("float32") for shape in ((25, 3), 3))
    return z, biases, np.array([exact.activation(name, each) for each in (z + biases).flat]).T


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_many_rows_are_computed_some_at_a_time(name, backend):
    values, biases, (value, slope) = exactly(name)
    activation, tolerances = ACTIVATIONS[name](), {"rtol": 1e-5, "atol": 1e-6}
    for block, keeps in itertools.product([1, 4, 2**62], [True, False]):
        in_blocks, z = dataclasses.replace(backend, block=block), backend.asarray(values)
        kept = (z if activation.keeps_output else backend.empty(z.shape)) if keeps else None
        activation.activate(in_blocks, z, backend.asarray(biases), kept)
        np.testing.assert_allclose(host(z).flatten(), value, **tolerances)
        if keeps:
            delta = backend.ones(z.shape)
            activation.chain(in_blocks, delta, kept)
            np.testing.assert_allclose(host(delta).flatten(), slope, **tolerances)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu"])
def test_at_the_kink_the_derivative_is_that_of_the_left(name, backend):
    _, (at_zero, left) = compute(ACTIVATIONS[name](), backend, [0.0, -1e-30])
    assert at_zero == pytest.approx(left, rel=1e-6)


def test_parameters_of_an_activation(backend):
    z = [-2.0, 3.0]
    a, slope = compute(LeakyRelu(slope=0.25), backend, z)
    np.testing.assert_allclose([*a, *slope], [-0.5, 3.0, 0.25, 1.0])
    a, slope = compute(Elu(alpha=2.0), backend, z)
    e = np.exp(-2.0)
    np.testing.assert_allclose([*a, *slope], [2 * (e - 1), 3.0, 2 * e, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        ("leaky_relu:slope=0", "slope"),
        ("leaky_relu:slope=1", "slope"),
        ("elu:alpha=-1", "alpha"),
        ("elu:alpha=nan", "alpha"),
        ("rleu", "did you mean 'relu'"),
    ],
)
def test_refused_names_and_parameters(given, sign):
    with pytest.raises(ValueError, match=sign):
        resolve_activation(given)


# A user's own pair (value, derivative)

RIGHT = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "operators alone": (lambda z: z / (1 + z * z), lambda z: (1 - z * z) / (1 + z * z) ** 2),
    "kink at 0": (lambda z: abs(z), lambda z: np.sign(z)),
    "kinks at round numbers": (lambda z: np.clip(z, -1, 1), lambda z: 1.0 * (abs(z) < 1)),
    "jumps": (np.floor, lambda z: 0.0 * z),
    "cusp": (lambda z: np.sqrt(abs(z)), lambda z: np.sign(z) / (2 * np.sqrt(abs(z)))),
    "steep": (lambda z: np.tanh(50 * z), lambda z: 50 / np.cosh(50 * z) ** 2),
    "large": (lambda z: np.exp(4 * z), lambda z: 4 * np.exp(4 * z)),
    "constant": (lambda z: 0.0 * z + 3.0, lambda z: 0.0 * z),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_pair_is_accepted(name):
    assert isinstance(resolve_activation(RIGHT[name]), Custom)


WRONG = {
    "sign": (np.cos, np.sin),
    "factor": (lambda z: z**2, lambda z: z),
    "forgotten part": (lambda z: z + 1e-3 * np.sin(z), lambda z: 1.0 + 0.0 * z),
    "only where z > 3": (lambda z: z * z, lambda z: np.where(z > 3, 2.01 * z, 2 * z)),
    "besides a kink": (lambda z: abs(z), lambda z: np.where(z > 0, 1.0, 1.0)),
    "constant": (lambda z: 2.0 * z, lambda z: 0.0 * z),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_derivative_is_refused_with_place_and_difference(name):
    value, derivative = WRONG[name]
    with pytest.raises(ValueError, match="is not that of its value") as refusal:
        resolve_activation((value, derivative))
    words = str(refusal.value).replace(",", " ").replace(")", " ").split()
    z = float(words[words.index("z") + 2])
    returned = float(words[words.index("returns") + 1])
    rate = float(words[words.index("of", words.index("rate")) + 1])
    difference = float(words[words.index("(difference") + 1])
    assert returned == pytest.approx(float(derivative(np.array([z]))[0]), rel=1e-4)
    h = 1e-4
    assert rate == pytest.approx(float(value(z + h) - value(z - h)) / (2 * h), rel=1e-3, abs=1e-6)
    assert difference == pytest.approx(returned - rate, rel=0.01, abs=1e-5)


UNUSABLE = {
    "no derivative": (np.tanh, TypeError, "derivative"),
    "None for a derivative": ((np.tanh, None), TypeError, "derivative is None"),
    "None for a value": ((None, np.tanh), TypeError, "value is None"),
    "a name for a derivative": ((np.tanh, "relu"), TypeError, "derivative is 'relu'"),
    "one number": ((np.tanh, lambda z: 1.0), ValueError, r"shape \(\)"),
    "nan": ((np.log, lambda z: 1 / z), ValueError, "not finite"),
    "whole numbers": ((np.tanh, lambda z: (z > 0).astype(int)), ValueError, "int64"),
    "a number": (3, TypeError, "activation=3"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_pair_is_refused(name):
    given, error, sign = UNUSABLE[name]
    with np.errstate(all="ignore"), pytest.raises(error, match=sign):
        resolve_activation(given)


def test_a_pair_in_a_network(device):
    """Written with operators, a pair runs on every device; a tuple of two is no list of two."""
    pair = (lambda z: z / (1 + z * z), lambda z: (1 - z * z) / (1 + z * z) ** 2)
    network = Network((2, 3, 3, 1), activation=pair, device=device)
    mixed = Network((2, 3, 3, 1), activation=[pair, "tanh"], device=device)
    x = readonly(np.ones((4, 2), dtype="float32"))
    assert network.predict(x).shape == mixed.predict(x).shape == (4, 1)


@pytest.mark.parametrize("activation", [("tanh", "relu"), ["tanh", "relu"]])
def test_a_tuple_of_names_is_one_a_layer(activation):
    network = Network((2, 3, 3, 1), activation=activation)
    names = [type(f).__name__ for f in network.activations]
    assert names == ["Tanh", "Relu", "Identity"]
