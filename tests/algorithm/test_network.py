"""The network: sizes, activations, starting state, predictions, refusals."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from arrays import host, readonly, tolerance

from mlp_xp.activations import Identity, LeakyRelu, Relu, Tanh
from mlp_xp.losses import ExpLink, IdentityLink, LogisticLink, SoftmaxLink, SortedLink
from mlp_xp.network import Network


def plain_forward(network, x, *functions):
    """z_l = a_{l−1} W_l + b_l, a_l = f_l(z_l) in NumPy."""
    biases = network.parameters.biases or [0.0] * network.n_layers
    for weights, bias, f in zip(network.parameters.weights, biases, functions, strict=True):
        x = f(x @ host(weights) + (bias if isinstance(bias, float) else host(bias)))
    return x


def identity(z):
    return z


def relu(z):
    return np.maximum(z, 0)


def fill(network, seed=0):
    """Random weights and biases, none of them zero."""
    values = np.random.default_rng(seed).normal(size=network.parameters.size)
    network.parameters.flat[...] = network.backend.asarray(values)
    return network


def test_the_seeds_network_has_twenty_weights(device):
    network = Network((4, 3, 2, 1), activation="tanh", bias=False, device=device)
    assert network.n_weights == 20
    assert network.parameters.size == 20
    assert network.parameters.biases == []
    assert network.n_layers == 3
    with_biases = Network((4, 3, 2, 1), device=device)
    assert with_biases.n_weights == 20
    assert with_biases.parameters.size == 26


def test_one_activation_for_all_hidden_layers():
    network = Network((2, 3, 3, 1), activation="tanh")
    assert network.activations == [Tanh(), Tanh(), Identity()]
    assert network.output_is_linear


@pytest.mark.parametrize("kind", [list, tuple])
def test_one_activation_for_each_hidden_layer(kind):
    network = Network((2, 3, 3, 1), activation=kind(["tanh", "leaky_relu:slope=0.2"]))
    assert network.activations == [Tanh(), LeakyRelu(0.2), Identity()]
    assert Network((2, 1), activation=kind([])).activations == [Identity()]


def test_an_activation_for_the_output_layer():
    network = Network((2, 3, 1), activation=[Relu, Tanh()])
    assert network.activations == [Relu(), Tanh()]
    assert not network.output_is_linear


def test_predictions_follow_the_formula(backend, rng):
    network = fill(
        Network((4, 5, 3, 2), activation=["tanh", "relu", "tanh"], device=backend, dtype=backend.dtype_name)
    )
    x = rng.normal(size=(11, 4))
    np.testing.assert_allclose(
        network.predict(x),
        plain_forward(network, x, np.tanh, relu, np.tanh),
        rtol=tolerance(backend, 1e-12, 1e-4),
        atol=1e-5 if backend.dtype_name == "float32" else 1e-14,
    )


def test_a_users_own_activation(backend, rng):
    def square(z):
        return z * z

    def twice(z):
        return 2 * z

    network = fill(
        Network((3, 4, 1), activation=(square, twice), bias=False, device=backend, dtype=backend.dtype_name)
    )
    x = rng.normal(size=(6, 3))
    np.testing.assert_allclose(
        network.predict(x), plain_forward(network, x, square, identity), rtol=tolerance(backend, 1e-12, 1e-3)
    )
    assert "square" in repr(network)


@pytest.mark.parametrize("chunk_rows", [1, 7, 10, 64, 1000])
def test_predictions_in_chunks_equal_the_whole(backend, rng, chunk_rows):
    network = fill(Network((3, 8, 2), activation="gelu", device=backend, dtype=backend.dtype_name))
    x = rng.normal(size=(23, 3))
    whole = network.predict(x)
    chunked = network.predict(x, chunk_rows=chunk_rows)
    assert chunked.shape == (23, 2)
    assert chunked.dtype == np.dtype(backend.dtype_name)
    np.testing.assert_allclose(chunked, whole, rtol=tolerance(backend), atol=tolerance(backend) / 10)


def test_no_rows_give_no_predictions(device):
    assert Network((3, 2), device=device).predict(np.empty((0, 3))).shape == (0, 2)


def test_a_flag_of_an_invalid_value_is_no_warning():
    """A BLAS sets it now and then for nothing; here ∞ − ∞ does."""
    network = Network((2, 2, 1), activation="identity", bias=False)
    network.parameters.flat[...] = [1, 1, -1, -1, 1, 1]
    with np.errstate(invalid="raise"):
        assert np.isnan(network.predict([[np.inf, np.inf]])).all()
        assert np.isnan(network.input_gradient([[np.inf, np.inf]], [1.0])).all()
        assert np.isnan(network.gradient([[np.inf, np.inf]], [1.0])[0])


def test_x_is_read_only_and_may_be_anything_with_columns(device):
    network = Network((2, 3, 1), device=device)
    x = readonly([[1, 2], [3, 4]], dtype="int64")
    expected = network.predict(x)
    for same in (x.tolist(), x.astype("float32"), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        np.testing.assert_array_equal(network.predict(same), expected)


@pytest.mark.parametrize(
    ("link", "apply"),
    [
        (IdentityLink(), identity),
        (LogisticLink(), lambda z: 1 / (1 + np.exp(-z))),
        (SoftmaxLink(), lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)),
        (ExpLink(), np.exp),
        (SortedLink(3), lambda z: np.sort(z.reshape(-1, 2, 3)).reshape(-1, 6)),
    ],
)
def test_raw_gives_z_and_the_link_applies_to_it(backend, rng, link, apply):
    network = fill(Network((4, 5, 6), activation="tanh", device=backend, dtype=backend.dtype_name))
    x = rng.normal(size=(9, 4))
    raw = plain_forward(network, x, np.tanh, identity)
    assert network.output == IdentityLink()
    network.output = link
    close = {"rtol": tolerance(backend, 1e-12, 1e-4), "atol": tolerance(backend, 1e-13, 1e-5)}
    np.testing.assert_allclose(network.predict(x, output="raw"), raw, **close)
    np.testing.assert_allclose(network.predict(x), apply(raw), **close)


def test_a_kept_memo_serves_any_few_rows_and_keeps_neither_them_nor_the_network(rng):
    network = fill(Network((3, 8, 5, 2), activation="gelu"))
    x = rng.normal(size=(40, 3)).astype("float32")
    expected = copy.deepcopy(network).predict(x)
    for n_rows in (1, 40, 7, 1, 23):
        found = copy.deepcopy(network).predict(x[:n_rows])
        np.testing.assert_array_equal(network.predict(x[:n_rows]), found)
        np.testing.assert_allclose(found, expected[:n_rows], rtol=1e-5, atol=1e-6)
    assert len(network.memos) == 1
    kept = [weakref.ref(x), weakref.ref(network)]
    gc.disable()
    try:
        del x
        assert kept[0]() is None
        del network
        assert kept[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("chunk_rows", [8, None])
def test_eight_threads_predict_at_once(device, chunk_rows):
    network = fill(Network((6, 32, 32, 3), activation="tanh", device=device, dtype="float64"))
    inputs = [np.random.default_rng(i).normal(size=(50 + i, 6)) for i in range(8)]
    expected = [network.predict(x, chunk_rows=chunk_rows) for x in inputs]
    found = [[] for _ in inputs]
    together = threading.Barrier(8)

    def work(i):
        together.wait()
        found[i].extend(network.predict(inputs[i], chunk_rows=chunk_rows) for _ in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert len(found[i]) == 10
        for predictions in found[i]:
            np.testing.assert_array_equal(predictions, expected[i])


def test_sizes_may_be_any_sequence_of_whole_numbers():
    assert Network(np.array([3, 2, 1])).layer_sizes == (3, 2, 1)
    assert Network(range(3, 0, -1)).layer_sizes == (3, 2, 1)


def test_repr_says_what_it_is(device):
    said = repr(Network((4, 3, 1), activation="relu", bias=False, device=device))
    assert said.startswith("Network((4, 3, 1), activation=['relu', 'identity'], bias=False, device=")


def test_the_activation_decides_how_weights_start():
    suited, named = Network((5, 4, 3)), Network((5, 4, 3), initializer="he_uniform")
    np.testing.assert_array_equal(host(suited.parameters.weights[0]), host(named.parameters.weights[0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer_sizes": 5}, TypeError, r"layer_sizes=5 must be a sequence .* \(10, 64, 1\)"),
        ({"layer_sizes": (3,)}, ValueError, r"layer_sizes=\(3,\) must name at least inputs and outputs"),
        ({"layer_sizes": (3, 0, -1)}, ValueError, r"layer_sizes\[1\]=0 .*\nlayer_sizes\[2\]=-1"),
        ({"layer_sizes": (3, 2.5, 1)}, ValueError, r"layer_sizes\[1\]=2.5 must be a whole number"),
        ({"activation": "rleu"}, ValueError, "unknown activation 'rleu'; did you mean 'relu'"),
        ({"activation": ["relu"] * 4}, ValueError, "activation has 4 entries, but this network has 2 hidden"),
        ({"activation": []}, ValueError, "activation has 0 entries"),
        ({"activation": np.tanh}, TypeError, "without its derivative: give the pair"),
        ({"activation": (np.tanh, None)}, TypeError, "the derivative is None"),
        ({"activation": (np.tanh, np.cos)}, ValueError, "is not that of its value: at z = "),
        ({"activation": 3}, TypeError, "activation=3 must be a name"),
        ({"initializer": "heuniform"}, ValueError, "did you mean 'he_uniform'"),
        ({"device": "gpu"}, ValueError, "unknown device 'gpu'; known: 'cpu', 'cuda', 'cuda:N'"),
        ({"device": 0}, ValueError, "unknown device 0"),
        ({"dtype": "float16"}, ValueError, "unknown dtype 'float16'"),
        ({"seed": -1}, ValueError, "seed=-1 must be a whole number >= 0"),
        ({"seed": None}, ValueError, "seed=None"),
    ],
)
def test_what_a_network_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Network(**{"layer_sizes": (3, 4, 4, 1), **arguments})


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((2, 12)), {}, r"x has shape \(2, 12\), but this network was built for \(n_rows, 10\)"),
        (np.ones(10), {}, r"x has shape \(10,\)"),
        (np.ones((2, 10)), {"output": "probabilities"}, "unknown output 'probabilities'"),
        (np.ones((2, 10)), {"chunk_rows": 0}, "chunk_rows=0"),
    ],
)
def test_what_predict_refuses(x, options, message):
    with pytest.raises(ValueError, match=message):
        Network((10, 64, 3)).predict(x, **options)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
@pytest.mark.parametrize("input_scale", [False, True])
def test_a_copy_is_a_network_of_its_own(device, copied, input_scale):
    network = Network((2, 3, 1), activation="mish", input_scale=input_scale, device=device, seed=3)
    x = np.array([[0.5, -1.0], [2.0, 0.25]], dtype="float32")
    before = network.predict(x)
    other = copied(network)
    assert other.predict(x).tobytes() == before.tobytes()
    other.parameters.flat[...] = 0.0
    assert not other.predict(x).any()
    assert network.predict(x).tobytes() == before.tobytes()
    assert other.backend.device == network.backend.device
