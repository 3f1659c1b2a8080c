"""Penalties: value and gradient against NumPy and finite differences."""

import dataclasses

import numpy as np
import pytest
from arrays import host, tolerance

from mlp_xp.losses import SquaredError
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L1, L2, REGULARIZERS, ElasticNet
from mlp_xp.rows.loader import Loader

# A penalty and its strengths (λ1, λ2).
SAMPLES = [
    (L1(0.3), 0.3, 0.0),
    (L2(0.7), 0.0, 0.7),
    (ElasticNet(0.2, 0.5), 0.2, 0.5),
    (ElasticNet(l1=0.2), 0.2, 0.0),
    (ElasticNet(), 0.0, 0.0),
    (L1(0), 0.0, 0.0),
]

# No weight is nearer to the kink at 0 than the step of the difference quotient.
W = np.array([0.5, -1.5, 2.0, -0.25, 1e-3, -3.0, 0.125])


def test_every_regularizer_is_sampled():
    assert {type(penalty) for penalty, *_ in SAMPLES} == set(REGULARIZERS.values())


@pytest.mark.parametrize(("penalty", "l1", "l2"), SAMPLES)
def test_value(backend, given, penalty, l1, l2):
    value = float(penalty.value(backend, given(W)))
    assert value == pytest.approx(l1 * np.abs(W).sum() + l2 * (W**2).sum(), rel=tolerance(backend))


@pytest.mark.parametrize(("penalty", "l1", "l2"), SAMPLES)
def test_gradient_is_added_and_scaled(backend, given, penalty, l1, l2):
    gradient = backend.ones(W.shape)
    penalty.add_gradient(backend, given(W), gradient, 0.25)
    h = 1e-4
    slope = [
        (
            l1 * (np.abs(W + step).sum() - np.abs(W - step).sum())
            + l2 * ((W + step) @ (W + step) - (W - step) @ (W - step))
        )
        / (2 * h)
        for step in h * np.eye(W.size)
    ]
    expected = 1 + 0.25 * np.array(slope)
    np.testing.assert_allclose(host(gradient), expected, rtol=tolerance(backend, 1e-9))


def test_l1_does_not_push_a_weight_off_zero(backend, given):
    gradient = backend.zeros((3,))
    ElasticNet(l1=1.0, l2=1.0).add_gradient(backend, given([0.0, -0.0, 2.0]), gradient, 1.0)
    np.testing.assert_array_equal(host(gradient), [0, 0, 5])


@pytest.mark.parametrize(("penalty", "l1", "l2"), SAMPLES)
def test_blocks_give_the_bits_of_the_whole_vector(backend, given, penalty, l1, l2):
    whole, parts = backend.ones(W.shape), backend.ones(W.shape)
    penalty.add_gradient(backend, given(W), whole, 0.3)
    penalty.add_gradient(dataclasses.replace(backend, block=3), given(W), parts, 0.3)
    np.testing.assert_array_equal(host(parts), host(whole))


def test_biases_are_never_penalised(device):
    # Where x = 0 and y is what the biases give, the loss has no gradient: what is left is the penalty's.
    network = Network((2, 3, 1), activation="identity", device=device, dtype="float64")
    network.parameters.biases[0][...] = 2.0
    x = np.zeros((4, 2))
    loader = Loader(x, network.predict(x), batch_size="full")
    objective = Objective(network, SquaredError(), L2(0.5))
    for step in loader.batches(0, network.backend):
        objective.differentiate(step)
    flat, n_weights = host(network.parameters.flat), network.n_weights
    np.testing.assert_array_equal(host(objective.gradient.flat)[n_weights:], np.zeros(4))
    np.testing.assert_allclose(host(objective.gradient.flat)[:n_weights], flat[:n_weights] / 4)


@pytest.mark.parametrize(
    ("penalty", "bad", "message"),
    [
        (L1, {"strength": -1}, "strength=-1 must be a finite number >= 0"),
        (L2, {"strength": float("nan")}, "strength=nan"),
        (ElasticNet, {"l1": -1, "l2": "x"}, "l1=-1 .*\nl2='x'"),
    ],
)
def test_bad_strengths_are_refused(penalty, bad, message):
    with pytest.raises(ValueError, match=message):
        penalty(**bad)
