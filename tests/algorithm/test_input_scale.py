"""A trained scale of each input: h = s ⊙ x before the first layer."""

import numpy as np
import pytest
from arrays import host
from oracles import textbook

from mlp_xp import Loader, Network, train
from mlp_xp.losses import LOSSES
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L2
from mlp_xp.run.full_batch import AllRows

SIZES = (4, 3, 2)
SCALE = np.array([2.0, -0.5, 1.0, 0.0])


def network_with(scale=SCALE, **options):
    network = Network(SIZES, activation="tanh", input_scale=True, seed=3, **options)
    network.parameters.set_input_scale(scale)
    return network


def data(rng, n_rows=12):
    return rng.normal(size=(n_rows, 4)), rng.normal(size=(n_rows, 2))


def test_it_is_the_last_part_of_the_vector_and_no_weight(backend):
    parameters = Network(SIZES, input_scale=True, device=backend).parameters
    assert parameters.size == Network(SIZES).parameters.size + 4
    assert parameters.n_weights == Network(SIZES).n_weights
    np.testing.assert_array_equal(host(parameters.flat)[-4:], np.ones(4))
    assert host(parameters.input_scale).shape == (4, 1)
    assert Network(SIZES, device=backend).parameters.input_scale is None


def test_predictions_are_those_for_scaled_inputs(backend, rng):
    x, _ = data(rng)
    plain = Network(SIZES, activation="tanh", seed=3, device=backend)
    scaled = network_with(device=backend)
    np.testing.assert_allclose(scaled.predict(x), plain.predict(x * SCALE), rtol=1e-5, atol=1e-6)


def test_it_starts_as_if_it_were_not_there(rng):
    x, _ = data(rng)
    ours = Network(SIZES, seed=3, input_scale=True).predict(x)
    assert ours.tobytes() == Network(SIZES, seed=3).predict(x).tobytes()


@pytest.mark.parametrize("chunk_rows", [5, 12])
def test_its_derivative_is_the_quotient_of_differences(rng, chunk_rows):
    x, y = data(rng)
    network = network_with(dtype="float64")
    n_weights, flat = network.n_weights, np.array(network.parameters.flat)
    objective = Objective(network, LOSSES["squared_error"](), L2(0.3))
    loader = Loader(x, y, batch_size="full", chunk_rows=chunk_rows)

    def by_definition(vector):
        weights, biases = textbook.unpack(vector[:-4], SIZES, True)
        f = [textbook.ACTIVATIONS[name] for name in ("tanh", "identity")]
        z = textbook.forward(np, weights, biases, x * vector[-4:], f, [1.0, 1.0])[-1]
        return (np.sum((y - z) ** 2) + 0.3 * np.sum(vector[:n_weights] ** 2)) / len(x)

    value, gradient = AllRows(objective, loader).value_and_gradient(flat)
    steps = 1e-6 * np.eye(flat.size)
    quotients = [(by_definition(flat + step) - by_definition(flat - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(value, by_definition(flat), rtol=1e-12)
    np.testing.assert_allclose(gradient, quotients, rtol=1e-6, atol=1e-8)


def test_it_learns_which_input_counts(rng):
    x = rng.normal(size=(200, 4))
    network = Network((4, 1), input_scale=True)
    loader = Loader(x, x[:, 1], batch_size=50)
    losses = [epoch.train_loss for epoch in train(network, loader, learning_rate=0.05, max_epochs=60)]
    assert losses[-1] < 1e-3 < losses[0]
    scale = np.array(network.parameters.input_scale)[:, 0]
    assert np.abs(scale[1] * network.parameters.weights[0][1, 0]) == pytest.approx(1.0, abs=0.05)


def test_the_fast_way_has_the_bits_of_the_plain_one(rng):
    x, y = data(rng, 64)
    ends = []
    for way in ("fast", "plain"):
        network = Network(SIZES, input_scale=True, seed=1)
        loader = Loader(x, y, batch_size=16)
        *_, _last = train(network, loader, max_epochs=5, way=way)
        ends.append(network.parameters.to_host().tobytes())
    assert ends[0] == ends[1]
