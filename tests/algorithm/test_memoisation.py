"""Memoised backprop against derivatives found by walking every path by itself, remembering nothing."""

import itertools
import math

import numpy as np
import pytest
from arrays import readonly

from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import Backend
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L1, L2
from mlp_xp.rows.loader import Loader
from mlp_xp.run.full_batch import AllRows

SEED_NETWORK = (4, 3, 2, 1)
SLOPES = {
    "identity": (lambda z: z, lambda z: 1.0),
    "tanh": (math.tanh, lambda z: 1.0 / math.cosh(z) ** 2),
    "logistic": (
        lambda z: 1.0 / (1.0 + math.exp(-z)),
        lambda z: 1.0 / (2.0 + math.exp(z) + math.exp(-z)),
    ),
    "relu": (lambda z: z if z > 0 else 0.0, lambda z: 1.0 if z > 0 else 0.0),
}


class PathWalker:
    """A network without biases in plain Python: no unit's value is ever kept.

    W[k][i][j] joins unit i of layer k to unit j of layer k + 1; layer 0 is the inputs, and the last
    layer has no activation.
    """

    def __init__(self, sizes, weights, activation):
        self.sizes, self.weights = sizes, weights
        self.f, self.slope = SLOPES[activation]
        self.n_paths = 0

    def z(self, layer, unit, x):
        """The sum that goes into a unit: asks its inputs, and they ask theirs, every time anew."""
        return sum(
            self.a(layer - 1, i, x) * self.weights[layer - 1][i][unit] for i in range(self.sizes[layer - 1])
        )

    def a(self, layer, unit, x):
        return x[unit] if layer == 0 else self.f(self.z(layer, unit, x))

    def derivative(self, layer, i, j, output, x):
        """∂z_output/∂w: the sum over all paths from unit j of `layer` + 1 to the output."""
        last = len(self.sizes) - 1
        between = [range(self.sizes[k]) for k in range(layer + 2, last)]
        if layer + 1 == last:
            return self.a(layer, i, x) if j == output else 0.0
        total = 0.0
        for steps in itertools.product(*between):
            self.n_paths += 1
            path, product = (j, *steps, output), self.a(layer, i, x)
            for offset, (here, there) in enumerate(itertools.pairwise(path)):
                k = layer + 1 + offset
                product *= self.slope(self.z(k, here, x)) * self.weights[k][here][there]
            total += product
        return total

    def gradient(self, x, y):
        """∂/∂w of Σ (y − z)² over rows and outputs, for every weight by itself."""
        last = len(self.sizes) - 1
        return [
            sum(
                2.0 * (self.z(last, o, row) - target[o]) * self.derivative(layer, i, j, o, row)
                for row, target in zip(x, y, strict=True)
                for o in range(self.sizes[-1])
            )
            for layer in range(last)
            for i in range(self.sizes[layer])
            for j in range(self.sizes[layer + 1])
        ]


def test_the_seed_network_has_twenty_weights():
    network = Network(SEED_NETWORK, bias=False)
    assert network.n_weights == network.parameters.flat.shape[0] == 20
    assert [w.shape for w in network.parameters.weights] == [(4, 3), (3, 2), (2, 1)]
    assert [w.size for w in network.parameters.weights] == [12, 6, 2]
    assert network.parameters.biases == []


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("sizes", [SEED_NETWORK, (2, 1), (2, 3, 2), (1, 2, 3, 2, 2)])
def test_memoised_derivatives_are_the_sums_over_paths(sizes, activation, rng):
    network = Network(sizes, activation=activation, bias=False, dtype="float64", seed=3)
    x, y = readonly(rng.normal(size=(3, sizes[0]))), readonly(rng.normal(size=(3, sizes[-1])))
    walker = PathWalker(sizes, [w.tolist() for w in network.parameters.weights], activation)
    expected = walker.gradient(x.tolist(), y.tolist())
    objective = Objective(network, SquaredError(), reduction="sum")
    _, gradient = AllRows(objective, Loader(x, y, batch_size="full")).value_and_gradient(
        network.parameters.to_host()
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_the_penalty_of_the_seed_network(rng):
    """Point 2 of the lesson: L = Σ L_i + reg, with reg the sum of squares or of absolute values."""
    network = Network(SEED_NETWORK, activation="tanh", bias=False, dtype="float64", seed=3)
    x, y = readonly(rng.normal(size=(3, 4))), readonly(rng.normal(size=(3, 1)))
    w = [v for matrix in network.parameters.weights for row in matrix.tolist() for v in row]
    walker = PathWalker(SEED_NETWORK, [m.tolist() for m in network.parameters.weights], "tanh")
    paths = walker.gradient(x.tolist(), y.tolist())
    loss = sum((t[0] - walker.z(3, 0, row)) ** 2 for row, t in zip(x.tolist(), y.tolist(), strict=True))
    for regularizer, penalty, slopes in (
        (L2(0.5), 0.5 * sum(v * v for v in w), w),
        (L1(0.5), 0.5 * sum(map(abs, w)), [math.copysign(0.5, v) for v in w]),
    ):
        objective = Objective(network, SquaredError(), regularizer, reduction="sum")
        value, gradient = AllRows(objective, Loader(x, y, batch_size="full")).value_and_gradient(
            network.parameters.to_host()
        )
        assert value == pytest.approx(loss + penalty, rel=1e-13)
        np.testing.assert_allclose(gradient, np.add(paths, slopes), rtol=1e-12)


class CountedProducts:
    """NumPy, counting its matrix products."""

    def __init__(self):
        self.n_products = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def matmul(self, *arguments, **named):
        self.n_products += 1
        return np.matmul(*arguments, **named)


def count(sizes):
    """Matrix products of one gradient by mlp_xp, and paths that one without a memo walks."""
    xp = CountedProducts()
    network = Network(sizes, activation="tanh", bias=False, device=Backend(xp, "cpu", "float64", "counted"))
    objective = Objective(network, SquaredError())
    loader = Loader(np.ones((2, sizes[0])), np.ones((2, sizes[-1])), batch_size="full")
    (step,) = loader.batches(0, network.backend)
    assert network.backend.into  # bound once, by trying products
    xp.n_products = 0
    objective.differentiate(step)
    return xp.n_products, math.prod(sizes)


def test_the_cost_grows_with_depth_and_not_with_paths():
    """L products forward, L for the weights and L − 1 for δ, whatever the number of paths."""
    for n_hidden in (0, 1, 2, 5):
        n_layers = n_hidden + 1
        products, paths = count((2, *[3] * n_hidden, 2))
        assert products == 3 * n_layers - 1
        assert paths == 4 * 3**n_hidden
