"""Networks with members: each computes what it would compute alone, bit for bit."""

import numpy as np
import pytest
from arrays import host

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.backprop import backprop
from mlp_xp.dropout import Dropout
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import LOSSES, GroupedCrossEntropy, GroupedSoftmaxLink, Pinball, SortedLink
from mlp_xp.network import Network
from mlp_xp.optimizers import OPTIMIZERS, Optimizer, RateFactors, clip_by_global_norm
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.settings.catalogue import resolve

K, N_ROWS = 3, 37
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N_ROWS, 5))


def same(together, alone):
    """Check that an array of all members has each one's."""
    assert [each.shape for each in host(together)] == [host(each).shape for each in alone]
    np.testing.assert_array_equal(host(together), np.stack([host(each) for each in alone]))


def differentiated(network, x, y, loss, weight=None, dropout=None):
    """The loss's value, z, and the gradient of a chunk, whose memo is larger."""
    backend, gradient = network.backend, network.parameters.zeros_like()
    memo = Memo(network, 50).of(N_ROWS)
    z = forward(network, backend.asarray(x), memo, dropout, 3, 4)
    kept = backend.xp.asarray(z, copy=True)
    on_device = backend.asarray(y, "int32" if loss.labels else None)
    value = loss(backend, z, on_device, None if weight is None else backend.asarray(weight))
    backprop(network, memo, z, gradient)
    backprop(network, memo, z, gradient, add=True)
    return value, kept, gradient


def pair(sizes, **options):
    """A network with members, and the same networks alone."""
    return Network(sizes, members=K, seed=7, **options), [
        Network(sizes, seed=7 + n, **options) for n in range(K)
    ]


def targets_for(loss, n_outputs):
    """Some targets that a loss can learn."""
    if loss.labels:
        return GENERATOR.integers(0, n_outputs, (N_ROWS, 1))
    n_targets = n_outputs // loss.n_outputs(1, None)
    return GENERATOR.uniform(0, 1, (N_ROWS, n_targets))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_member_computes_what_it_would_alone(backend, activation, dtype):
    if backend.name != "cpu" and dtype != backend.dtype_name:
        pytest.skip("other libraries compute in one precision here")
    options = {"activation": activation, "device": backend, "dtype": dtype, "input_scale": True}
    network, alone = pair((5, 40, 3), **options)
    same(network.parameters.flat, [each.parameters.flat for each in alone])
    assert network.parameters.weights[0].shape == (K, 5, 40)
    loss, y = resolve("loss", LOSSES, "squared_error"), GENERATOR.normal(size=(N_ROWS, 3))
    value, z, gradient = differentiated(network, X, y, loss)
    found = [differentiated(each, X, y, loss) for each in alone]
    if backend.name == "cpu":
        same(z, [each[1] for each in found])
        same(value, [each[0] for each in found])
        same(gradient.flat, [each[2].flat for each in found])
    else:
        for n, each in enumerate(found):
            np.testing.assert_allclose(host(gradient.flat)[n], host(each[2].flat), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [*LOSSES, Pinball((0.1, 0.5)), "softmax_cross_entropy:label_smoothing=0.1"],
)
@pytest.mark.parametrize("weighted", [False, True, "each"])
def test_every_loss(loss, weighted):
    loss = resolve("loss", LOSSES, loss)
    network, alone = pair((5, 8, 1 if not loss.quantiles else len(loss.quantiles)), dtype="float64")
    check(network, alone, loss, weighted)
    network, alone = pair((5, 8, 40 if loss.labels else 4), dtype="float32", bias=False)
    check(network, alone, loss, weighted)


def check(network, alone, loss, weighted):
    """Compare a loss's value and gradient, with weights for all or for each."""
    y = targets_for(loss, network.layer_sizes[-1])
    weight = GENERATOR.uniform(0, 2, (K, N_ROWS, 1)) * (GENERATOR.uniform(size=(K, N_ROWS, 1)) > 0.3)
    own = [None if not weighted else weight[n if weighted == "each" else 0] for n in range(K)]
    together = None if not weighted else weight if weighted == "each" else weight[0]
    value, _, gradient = differentiated(network, X, y, loss, together)
    found = [differentiated(each, X, y, loss, s) for each, s in zip(alone, own, strict=True)]
    same(value, [each[0] for each in found])
    same(gradient.flat, [each[2].flat for each in found])
    network.output = loss.link
    for each in alone:
        each.output = loss.link
    same(network.predict(X, members="all"), [each.predict(X) for each in alone])
    mean = np.mean([each.predict(X) for each in alone], axis=0)
    np.testing.assert_allclose(network.predict(X), mean, rtol=1e-6)
    same(network.predict(X, members="all", output="raw"), [each.predict(X, output="raw") for each in alone])


def test_groups_of_classes():
    loss = GroupedCrossEntropy((2, 3))
    network, alone = pair((5, 8, 5))
    y = np.stack([GENERATOR.integers(0, 2, N_ROWS), GENERATOR.integers(0, 3, N_ROWS)], axis=1)
    value, _, gradient = differentiated(network, X, y, loss)
    found = [differentiated(each, X, y, loss) for each in alone]
    same(value, [each[0] for each in found])
    same(gradient.flat, [each[2].flat for each in found])
    for link in (GroupedSoftmaxLink((2, 3)), SortedLink(5)):
        for each in (network, *alone):
            each.output = link
        same(network.predict(X, members="all"), [each.predict(X) for each in alone])


@pytest.mark.parametrize("rule", [name for name in OPTIMIZERS if name != "lbfgs"])
@pytest.mark.parametrize("factors", [None, RateFactors()])
def test_every_rule_updates_each_as_alone(rule, factors, monkeypatch):
    network, alone = pair((5, 8, 3))
    object.__setattr__(network.backend, "block", 50)
    optimizers = [Optimizer(resolve("optimizer", OPTIMIZERS, rule), n.parameters, factors) for n in alone]
    together = Optimizer(resolve("optimizer", OPTIMIZERS, rule), network.parameters, factors)
    for _ in range(3):
        g = GENERATOR.normal(size=network.parameters.flat.shape).astype(np.float32)
        gradient = network.parameters.zeros_like()
        gradient.flat[...] = g
        clip_by_global_norm(gradient, 2.0)
        together.step(gradient, 0.01)
        for n, optimizer in enumerate(optimizers):
            own = alone[n].parameters.zeros_like()
            own.flat[...] = g[n]
            clip_by_global_norm(own, 2.0)
            optimizer.step(own, 0.01)
    same(network.parameters.flat, [each.parameters.flat for each in alone])


@pytest.mark.parametrize("penalty", REGULARIZERS)
def test_every_penalty(penalty):
    network, alone = pair((5, 8, 3))
    regularizer = resolve("regularizer", REGULARIZERS, penalty)
    w, backend = network.parameters.flat_weights, network.backend
    same(
        regularizer.value(backend, w), [regularizer.value(backend, n.parameters.flat_weights) for n in alone]
    )
    gradient, own = network.parameters.zeros_like(), [n.parameters.zeros_like() for n in alone]
    regularizer.add_gradient(backend, w, gradient.flat_weights, 0.5)
    for n, each in zip(alone, own, strict=True):
        regularizer.add_gradient(backend, n.parameters.flat_weights, each.flat_weights, 0.5)
    same(gradient.flat, [each.flat for each in own])


def test_each_shares_the_weights():
    network, _ = pair((5, 8, 3))
    network.each()[1].parameters.flat[...] = 2.0
    assert host(network.parameters.weights[0])[1].min() == 2.0
    assert host(network.parameters.weights[0])[0].max() < 2.0


def test_one_dropout_mask_serves_all():
    network, alone = pair((5, 8, 3))
    loss, y = resolve("loss", LOSSES, "squared_error"), GENERATOR.normal(size=(N_ROWS, 3))
    masks = Dropout((0.5,), 3)
    _, z, gradient = differentiated(network, X, y, loss, dropout=masks)
    found = [differentiated(each, X, y, loss, dropout=masks) for each in alone]
    same(z, [each[1] for each in found])
    same(gradient.flat, [each[2].flat for each in found])


@pytest.mark.parametrize("given", [0, -1, 1.5, "2"])
def test_a_number_of_members_that_is_none_is_refused(given):
    with pytest.raises((ValueError, TypeError), match="members"):
        Network((2, 1), members=given)


def test_seeds_are_given_one_by_one():
    network = Network((5, 8, 3), members=2, seed=(9, 4))
    same(network.parameters.flat, [Network((5, 8, 3), seed=seed).parameters.flat for seed in (9, 4)])
    with pytest.raises(ValueError, match="seed has 3 numbers for 2 members"):
        Network((5, 8, 3), members=2, seed=(1, 2, 3))
    with pytest.raises(ValueError, match="seed"):
        Network((5, 8, 3), seed=-1)
