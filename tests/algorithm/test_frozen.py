"""Layers that stay as they are, and layers with a rate of their own."""

import dataclasses

import numpy as np
import pytest
from arrays import host

from mlp_xp import Loader, Network, objective, train
from mlp_xp.backprop import backprop
from mlp_xp.fast import on_cpu
from mlp_xp.forward import Memo, forward
from mlp_xp.optimizers import NO_FACTORS, OPTIMIZERS, Adam, AdamW, Optimizer, RateFactors
from mlp_xp.parameters import Parameters

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.sin(X[:, :1]) + X[:, 1:2]


def network(**named):
    return Network((3, 6, 4, 1), dtype="float64", seed=1, **named)


def layers(net):
    """Weights and biases of each layer, copied."""
    parameters = net.parameters
    return [
        np.hstack([host(w).ravel(), host(b).ravel()])
        for w, b in zip(parameters.weights, parameters.biases, strict=True)
    ]


def moved(frozen, **named):
    """Which layers a training has moved."""
    net = network()
    before = layers(net)
    named = {"max_epochs": 3, "learning_rate": 0.01, "regularizer": "l2", "clip_norm": 1.0, **named}
    losses = [epoch.train_loss for epoch in train(net, Loader(X, Y, batch_size=10), frozen=frozen, **named)]
    assert losses[-1] < losses[0]
    return [not np.array_equal(one, other) for one, other in zip(before, layers(net), strict=True)]


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "lbfgs"])
@pytest.mark.parametrize("way", ["plain", "fast"])
def test_frozen_layers_stay(optimizer, way, monkeypatch):
    monkeypatch.setattr(on_cpu, "first_compiled_step", lambda *_: 3)
    assert moved([0], optimizer=optimizer, way=way) == [False, True, True]
    assert moved([-1, 1], optimizer=optimizer, way=way) == [True, False, False]


@pytest.mark.needs("scipy")
def test_frozen_layers_stay_with_l_bfgs():
    net = network()
    before = layers(net)
    losses = [e.train_loss for e in train(net, Loader(X, Y), optimizer="lbfgs", frozen=[1], max_epochs=20)]
    assert losses[-1] < 0.5 * losses[0]
    assert [np.array_equal(a, b) for a, b in zip(before, layers(net), strict=True)] == [False, True, False]


def test_members_freeze_the_same_layers():
    net = Network((3, 4, 1), members=3, dtype="float64", seed=1)
    before = host(net.parameters.weights[0]).copy()
    list(train(net, Loader(X, Y, batch_size=10), frozen=[0], clip_norm=0.5, max_epochs=2))
    np.testing.assert_array_equal(host(net.parameters.weights[0]), before)


def test_the_norm_is_that_of_what_moves():
    """Clipping with a frozen layer is clipping of a gradient without it."""
    net = network()
    _, gradient = net.gradient(X, Y)
    parts = layers(dataclasses.make_dataclass("Net", ["parameters"])(gradient))
    norm = np.linalg.norm(np.hstack(parts[1:]))
    expected = [before - 0.1 * part * (0.01 / norm) for before, part in zip(layers(net), parts, strict=True)]
    list(
        train(
            net,
            Loader(X, Y, batch_size="full"),
            optimizer="sgd",
            learning_rate=0.1,
            clip_norm=0.01,
            frozen=[0],
            max_epochs=1,
        )
    )
    for found, wanted in zip(layers(net)[1:], expected[1:], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_frozen_run_that_goes_on_from_another_keeps_its_layer():
    net = network()
    loader = Loader(X, Y, batch_size=10)
    for epoch in train(net, loader, max_epochs=2):
        state = epoch.state()
    before = layers(net)[0]
    list(train(net, loader, max_epochs=4, state=state, frozen=[0]))
    np.testing.assert_array_equal(layers(net)[0], before)


def test_each_layer_has_its_rate(rng):
    parameters, gradient = (
        Parameters(network().backend, (3, 4, 2), True, input_scale=True) for _ in range(2)
    )
    gradient.flat[:] = 1.0
    factors = RateFactors(by_fan_in=False, biases=0.5, input_scale=3.0, layers=[2.0, 0.0])
    Optimizer(OPTIMIZERS["sgd"](), parameters, factors).step(gradient, 0.1)
    for view, factor in (
        (parameters.weights[0], 2.0),
        (parameters.weights[1], 0.0),
        (parameters.biases[0], 1.0),
        (parameters.biases[1], 0.0),
        (parameters.input_scale, 6.0),
    ):
        np.testing.assert_allclose(host(view), -0.1 * factor)


def test_frozen_weights_do_not_decay():
    parameters = Parameters(network().backend, (3, 4, 2), True)
    parameters.flat[:] = 1.0
    gradient = parameters.zeros_like()
    Optimizer(AdamW(weight_decay=0.5), parameters, NO_FACTORS.freezing([0], 2)).step(gradient, 0.1)
    assert host(parameters.weights[0]).tolist() == np.ones((3, 4)).tolist()
    np.testing.assert_allclose(host(parameters.weights[1]), 0.95)
    assert host(parameters.biases[1]).tolist() == [1.0, 1.0]


def test_factors_of_one_are_no_factors():
    runs = []
    for factors in (None, dataclasses.replace(NO_FACTORS, layers=(1.0, 1.0, 1.0))):
        net = network()
        list(train(net, Loader(X, Y, batch_size=10), optimizer=Adam(), rate_factors=factors, max_epochs=3))
        runs.append(host(net.parameters.flat))
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"frozen": [3]}, "frozen=3 is no layer of this network: 0 is its first, 2 or -1 its last"),
        ({"frozen": [-4]}, "frozen=-4 is no layer"),
        ({"frozen": [True]}, "frozen=True is no layer"),
        ({"frozen": [0.0]}, "frozen=0.0 is no layer"),
        ({"frozen": 3}, "frozen=3 is no layer"),
        ({"frozen": "0"}, "frozen='0' is no layer"),
        ({"frozen": [0, 1, 2]}, "not all of them 0"),
        ({"rate_factors": RateFactors(layers=(1.0,))}, "a factor for each of the network's 3 layers"),
    ],
)
def test_what_cannot_be_frozen(named, message):
    with pytest.raises(ValueError, match=message):
        train(network(), Loader(X, Y), **named)


@pytest.mark.parametrize("frozen", [0, [0], np.array([0])])
def test_a_frozen_layer_may_be_the_first_however_it_is_given(frozen):
    """0 and an array of it are false: nothing was frozen."""
    net = network()
    before = host(net.parameters.weights[0]).copy()
    list(train(net, Loader(X, Y, batch_size=10), frozen=frozen, max_epochs=1))
    np.testing.assert_array_equal(host(net.parameters.weights[0]), before)


def test_the_derivatives_of_frozen_layers_are_not_computed(monkeypatch):
    """Those of the others are the same."""
    asked = []

    def seen(net, memo, delta, gradient, *, add, frozen):
        asked.append(sorted(frozen))
        return backprop(net, memo, delta, gradient, add=add, frozen=frozen)

    monkeypatch.setattr(objective, "backprop", seen)
    each = ([], [0], [0, 1], [1], [2], [0, 2])
    for frozen in each:
        moved(frozen, way="plain")
        net = network()
        memo, found, expected = Memo(net, len(X)), net.parameters.zeros_like(), net.parameters.zeros_like()
        for gradient, left_out in ((expected, []), (found, frozen)):
            gradient.flat[:] = np.nan
            backprop(net, memo, 2.0 * (forward(net, X, memo) - Y), gradient, frozen=left_out)
        for layer in range(net.n_layers):
            for one, other in ((found.weights, expected.weights), (found.biases, expected.biases)):
                wanted = np.nan if layer in frozen else host(other[layer])
                np.testing.assert_array_equal(host(one[layer]), np.broadcast_to(wanted, one[layer].shape))
    assert list(map(list, dict.fromkeys(map(tuple, asked)))) == [*each]


def test_factors_are_checked():
    with pytest.raises(ValueError, match=r"layers=-1\.0 must be a finite number >= 0"):
        RateFactors(layers=(1.0, -1.0))
