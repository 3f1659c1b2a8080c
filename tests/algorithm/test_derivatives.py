"""Gradients, input gradients and hidden activations for a user's rows."""

import numpy as np
import pytest
from arrays import host

from mlp_xp import Loader, Network, train

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(6, 4))
WEIGHT = GENERATOR.uniform(0.5, 2.0, 6)
CASES = {
    "squared_error": GENERATOR.normal(size=6),
    "softmax_cross_entropy": GENERATOR.integers(0, 3, 6),
    "poisson": GENERATOR.poisson(2.0, 6),
}


def network_for(loss, device="cpu", **options):
    n_outputs = 3 if loss.startswith("softmax") else 1
    return Network((4, 5, n_outputs), activation="tanh", dtype="float64", seed=2, device=device, **options)


def loss_of(network, x, y, loss, weight):
    """The mean loss that a training with the rate of nothing states."""
    rows = Loader(x, y, sample_weight=weight, batch_size="full")
    epoch = next(train(network, rows, loss=loss, optimizer="sgd", learning_rate=1e-300, way="plain"))
    return epoch.train_loss


@pytest.mark.parametrize("loss", CASES)
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("input_scale", [False, True])
def test_they_are_difference_quotients_of_the_loss(loss, weight, input_scale):
    network, y, h = network_for(loss, input_scale=input_scale), CASES[loss], 1e-6
    value, gradient = network.gradient(X, y, loss=loss, sample_weight=weight)
    assert value == pytest.approx(loss_of(network, X, y, loss, weight), rel=1e-12)
    flat = network.parameters.flat
    for at in range(0, flat.size, 3):
        kept, ends = flat[at], []
        for step in (h, -h):
            flat[at] = kept + step
            ends.append(loss_of(network, X, y, loss, weight))
        flat[at] = kept
        assert gradient.flat[at] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-7)
    of_inputs = network.input_gradient(X, y, loss=loss, sample_weight=weight)
    assert of_inputs.shape == X.shape
    for row, column in ((0, 0), (3, 2), (5, 3)):
        step = np.zeros_like(X)
        step[row, column] = h
        ends = [loss_of(network, X + sign * step, y, loss, weight) for sign in (1, -1)]
        assert of_inputs[row, column] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-7)


def test_hidden_activations(device):
    network = Network((4, 5, 6, 2), activation=["tanh", "relu"], device=device, seed=2)
    first, second = network.hidden(X)
    w, b = map(host, (network.parameters.weights[0], network.parameters.biases[0]))
    np.testing.assert_allclose(first, np.tanh(X @ w + b), rtol=1e-5, atol=1e-6)
    w, b = map(host, (network.parameters.weights[1], network.parameters.biases[1]))
    np.testing.assert_allclose(second, np.maximum(first @ w + b, 0), rtol=1e-5, atol=1e-6)


def test_an_own_loss_has_a_gradient_too():
    network, y = network_for("squared_error"), CASES["squared_error"]
    own = (lambda z, y: (z - y) ** 2, lambda z, y: 2 * (z - y))
    found, expected = network.gradient(X, y, loss=own), network.gradient(X, y)
    assert found[0] == pytest.approx(expected[0])
    np.testing.assert_allclose(found[1].flat, expected[1].flat)


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (
            X[:, :2],
            CASES["squared_error"],
            None,
            r"x has shape \(6, 2\), but .* needs \(n_rows, 4\)",
        ),
        (X, CASES["squared_error"][:3], None, r"y has shape \(3, 1\), but x has 6 rows"),
        (X, CASES["squared_error"], np.zeros(6), "sample_weight must be one finite number >= 0"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, weight, message):
    with pytest.raises(ValueError, match=message):
        network_for("squared_error").gradient(x, y, sample_weight=weight)


def test_targets_that_are_texts_are_refused_by_name():
    """NumPy's error named its loop instead."""
    with pytest.raises(TypeError, match="y holds text"):
        network_for("squared_error").gradient(X, ["a"] * len(X))
    with pytest.raises(TypeError, match="sample_weight holds text"):
        network_for("squared_error").gradient(X, CASES["squared_error"], sample_weight=["a"] * len(X))


@pytest.mark.parametrize("input_scale", [False, True])
def test_members_have_derivatives_each(input_scale, device):
    options = {"input_scale": input_scale, "device": device, "dtype": "float64", "activation": "tanh"}
    several = Network((4, 5, 1), members=3, seed=2, **options)
    if input_scale:
        several.parameters.input_scale[...] = several.backend.asarray(
            np.linspace(0.5, 2, 12).reshape(3, 4, 1)
        )
    y = X[:, :1]
    values, gradient = several.gradient(X, y)
    of_inputs = several.input_gradient(X, y)
    assert of_inputs.shape == (3, *X.shape)
    for n, alone in enumerate(several.each()):
        value, own = alone.gradient(X, y)
        assert values[n] == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(host(gradient.flat)[n], host(own.flat), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(of_inputs[n], alone.input_gradient(X, y), rtol=1e-10, atol=1e-14)
