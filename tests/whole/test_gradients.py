"""Every gradient against finite differences and against libraries that differentiate by themselves.

Every activation with every loss, and each of these pairs at some of all depths × regularizers × dropout ×
weights, in float64, relative error 1e-7 or less. The catalogues are the parameters, so that nothing is added
untested.
"""

import dataclasses
import functools
import itertools
import math
import zlib

import numpy as np
import pytest
from arrays import host, readonly
from drawn import sizes_of, targets
from oracles import textbook

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.backprop import backprop
from mlp_xp.dropout import Dropout
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import LOSSES, GroupedCrossEntropy
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.rows.loader import Loader
from mlp_xp.run.full_batch import AllRows
from mlp_xp.settings.catalogue import resolve

CPU = find_backend("cpu", "float64")
WIDTHS = {0: (), 1: (4,), 2: (4, 3), 3: (4, 3, 5)}
N_ROWS, N_INPUTS = 5, 3

# Each loss, some with more than their defaults: name, parameters, targets, outputs.
LOSS_CASES = {name: (name, {}, *sizes_of(loss())) for name, loss in LOSSES.items()} | {
    "huber": ("huber", {"delta": 0.7}, 2, 2),
    "pinball, 3 quantiles": ("pinball", {"quantiles": (0.1, 0.5, 0.8)}, 2, 6),
    "softmax_cross_entropy, smoothed": ("softmax_cross_entropy", {"label_smoothing": 0.2}, 1, 3),
    "grouped_cross_entropy": ("grouped_cross_entropy", {"groups": (2, 3)}, 2, 5),
}
ALL_LOSSES = {**LOSSES, "grouped_cross_entropy": GroupedCrossEntropy}
PENALTIES = {
    "none": None,
    "l1": ("l1", {"strength": 0.3}),
    "l2": ("l2", {"strength": 0.3}),
    "elastic_net": ("elastic_net", {"l1": 0.2, "l2": 0.4}),
}
KINK_MARGIN = 2e-4
"""No z and no residual is nearer to a kink than this: the stencil of differences stays on one side."""

LARGEST_Z = 8.0
"""Beyond it the textbook's formulas lose digits: 1 − p has an error of 1e-16 e^z."""


def test_every_name_has_an_oracle():
    assert ACTIVATIONS.keys() == textbook.ACTIVATIONS.keys()
    assert ALL_LOSSES.keys() == textbook.LOSSES.keys() == {name for name, *_ in LOSS_CASES.values()}
    assert REGULARIZERS.keys() == textbook.REGULARIZERS.keys() == PENALTIES.keys() - {"none"}


@dataclasses.dataclass
class Problem:
    """One objective: by mlp_xp, and its parts for the oracles."""

    activations: list  # names, one a layer
    loss: tuple  # name, parameters
    penalty: tuple | None
    layer_sizes: tuple
    bias: bool
    reduction: str
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    vector: np.ndarray
    masks: list  # one a layer, 1.0 where nothing is dropped
    objective: Objective
    loader: Loader

    def value_and_gradient(self, vector=None):
        vector = self.vector if vector is None else vector
        return AllRows(self.objective, self.loader).value_and_gradient(readonly(vector))

    def textbook(self, np, flat):
        """J, from definitions alone."""
        f = [textbook.ACTIVATIONS[name] for name in self.activations]
        weights, biases = textbook.unpack(flat, self.layer_sizes, self.bias)
        z = textbook.forward(np, weights, biases, self.x, f, self.masks)[-1]
        name, parameters = self.loss
        per_output = textbook.LOSSES[name](np, z, self.y, **parameters)
        s = np.ones(N_ROWS) if self.weight is None else self.weight
        total = np.sum(per_output * s[:, None])
        if self.penalty is not None:
            name, parameters = self.penalty
            n_weights = sum(w.size for w in weights)
            total = total + textbook.REGULARIZERS[name](np, flat[:n_weights], **parameters)
        return total / np.sum(s) if self.reduction == "mean" else total

    def split(self, flat):
        """The parts of a vector by layer, for errors relative to each."""
        weights, biases = textbook.unpack(flat, self.layer_sizes, self.bias)
        return weights + (biases if self.bias else [])


def make(activations, loss_case, depth, penalty=None, dropout=False, weighted=False, *, bias, reduction):
    """Draw data and parameters at random, as often as it takes to be off all kinks."""
    name, parameters, n_targets, n_outputs = LOSS_CASES[loss_case]
    sizes = (N_INPUTS, *WIDTHS[depth], n_outputs)
    network = Network(sizes, activation=activations, bias=bias, dtype="float64")
    masks_of = Dropout((0.4,) * depth, seed=7) if dropout else None
    loss = resolve("loss", ALL_LOSSES, {"name": name, **parameters})
    regularizer = penalty and resolve("regularizer", REGULARIZERS, {"name": penalty[0], **penalty[1]})
    key = zlib.crc32(repr((activations, loss_case, depth)).encode())
    for attempt in range(100):
        rng = np.random.default_rng((key, attempt))
        x = readonly(rng.normal(size=(N_ROWS, N_INPUTS)))
        y = readonly(targets(rng, loss, (N_ROWS, n_targets), n_outputs))
        weight = readonly(rng.uniform(0.2, 3.0, N_ROWS)) if weighted else None
        loader = Loader(x, y, weight, batch_size="full", chunk_rows=3)
        problem = Problem(
            activations=activations,
            loss=(name, parameters),
            penalty=penalty,
            layer_sizes=sizes,
            bias=bias,
            reduction=reduction,
            x=x,
            y=y,
            weight=weight,
            vector=readonly(rng.normal(scale=0.6, size=network.parameters.size)),
            masks=[
                masks_of.mask(CPU, (N_ROWS, width), 0, layer, 0) if dropout else 1.0
                for layer, width in enumerate(WIDTHS[depth])
            ]
            + [1.0],
            objective=Objective(network, loss, regularizer, masks_of, reduction),
            loader=loader,
        )
        distance, largest = look_at_z(problem)
        if distance > KINK_MARGIN and largest < LARGEST_Z:
            return problem
    raise AssertionError("no draw is off the kinks")


def look_at_z(problem):
    """How near to a kink any z, residual or penalised weight is, and the largest |z|."""
    f = [textbook.ACTIVATIONS[name] for name in problem.activations]
    weights, biases = textbook.unpack(problem.vector, problem.layer_sizes, problem.bias)
    all_z = textbook.forward(np, weights, biases, problem.x, f, problem.masks)
    near = [*all_z[:-1], *(weights if problem.penalty else [])]
    if problem.activations[-1] != "identity":
        near.append(all_z[-1])
    name, parameters = problem.loss
    if name in ("absolute_error", "huber", "pinball"):
        z = all_z[-1]
        r = np.repeat(problem.y, z.shape[1] // problem.y.shape[1], axis=1) - z
        near += [r, np.abs(r) - parameters.get("delta", math.inf)]
    # Exactly 0 is what a unit gets of which all inputs were dropped or dead: it stays there.
    nearest = min((np.abs(v[v != 0]).min(initial=math.inf) for v in near), default=math.inf)
    return nearest, max(np.abs(z).max() for z in all_z)


def difference_quotient(f, at, direction, h=1e-5):
    """The derivative of f along a direction, but for terms in h²."""
    return (f(at + h * direction) - f(at - h * direction)) / (2 * h)


def assert_close(problem, gradient, oracle, relative=1e-7):
    """Close for each layer's weights and biases by themselves."""
    noise = 1e-13 * np.linalg.norm(oracle)
    for part, expected in zip(problem.split(gradient), problem.split(oracle), strict=True):
        error = np.linalg.norm(part - expected)
        assert error <= relative * np.linalg.norm(expected) + noise


def check_by_differences(problem, rng, elements=0):
    value, gradient = problem.value_and_gradient()
    size = problem.vector.size
    directions = [rng.normal(size=size)] + [np.eye(size)[i] for i in rng.permutation(size)[:elements]]
    for direction in directions:
        direction = direction / np.linalg.norm(direction)
        quotient = difference_quotient(lambda v: problem.value_and_gradient(v)[0], problem.vector, direction)
        noise = 1e-10 * abs(value)  # the rounding of J, over h
        assert abs(gradient @ direction - quotient) <= 1e-7 * np.linalg.norm(gradient) + noise


def check_by_autograd(problem):
    import autograd
    import autograd.numpy as anp

    value, gradient = problem.value_and_gradient()
    flat = np.array(problem.vector)
    expected, derivative = autograd.value_and_grad(lambda v: problem.textbook(anp, v))(flat)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert_close(problem, gradient, derivative)


PAIRS = list(itertools.product(ACTIVATIONS, LOSS_CASES))
REST = [
    (depth, penalty, dropout, weighted)
    for depth in WIDTHS
    for penalty, dropout, weighted in itertools.product(PENALTIES, (False, True), (False, True))
    if depth or not dropout  # only hidden units are dropped
]
IN_TURN = 5
"""Every pair has a fifth of the rest; each of the rest comes with every activation and every loss."""


def cases(activation, loss_case, first):
    """Depths × regularizers × dropout × weights in turn; so are biases and reductions."""
    turn = first + PAIRS.index((activation, loss_case))
    for number, (depth, penalty, dropout, weighted) in enumerate(REST):
        if (number + turn) % IN_TURN:
            continue
        yield make(
            [activation] * depth + ["identity"],
            loss_case,
            depth,
            PENALTIES[penalty],
            dropout,
            weighted,
            bias=(number + turn) % 3 > 0,
            reduction="mean" if (number + turn) % 4 else "sum",
        )


@pytest.mark.parametrize(("activation", "loss_case"), PAIRS)
def test_against_finite_differences(activation, loss_case, rng):
    for problem in cases(activation, loss_case, 0):
        check_by_differences(problem, rng)


@pytest.mark.needs("autograd")
@pytest.mark.parametrize(("activation", "loss_case"), PAIRS)
def test_against_autograd(activation, loss_case):
    for problem in cases(activation, loss_case, 1):
        check_by_autograd(problem)


@pytest.mark.parametrize(("activation", "loss_case"), PAIRS)
def test_element_by_element(activation, loss_case, rng):
    problem = make(
        [activation] * 2 + ["identity"], loss_case, 2, PENALTIES["l2"], bias=True, reduction="mean"
    )
    check_by_differences(problem, rng, elements=8)


def mixed():
    """A different activation in every layer, the last one too."""
    names = list(ACTIVATIONS)
    for number, name in enumerate(names):
        layers = [names[(number + step) % len(names)] for step in (3, 7)] + [name]
        for loss_case in LOSS_CASES:
            yield layers, loss_case


MIXED = list(mixed())


@pytest.mark.parametrize(("activations", "loss_case"), MIXED)
def test_a_different_activation_in_every_layer(activations, loss_case, rng):
    problem = make(activations, loss_case, 2, weighted=True, bias=True, reduction="mean")
    check_by_differences(problem, rng)


@pytest.mark.needs("autograd")
@pytest.mark.parametrize(("activations", "loss_case"), MIXED)
def test_a_different_activation_in_every_layer_against_autograd(activations, loss_case):
    check_by_autograd(make(activations, loss_case, 2, dropout=True, bias=True, reduction="mean"))


def torch_activations():
    """PyTorch's own, by our names; a textbook's in PyTorch where it has none."""
    import torch
    import torch.nn.functional as f

    return {name: functools.partial(plain, torch) for name, plain in textbook.ACTIVATIONS.items()} | {
        "identity": lambda z: z,
        "logistic": f.sigmoid,
        "tanh": f.tanh,
        "relu": f.relu,
        "leaky_relu": f.leaky_relu,
        "elu": f.elu,
        "selu": f.selu,
        "softplus": f.softplus,
        "silu": f.silu,
        "gelu": lambda z: f.gelu(z, approximate="tanh"),
        "mish": f.mish,
    }


def torch_losses():
    """The same of losses: L of each row and output (of each row for softmax)."""
    import torch
    import torch.nn.functional as f

    def pinball(z, y, quantiles=(0.5,)):
        q = torch.tensor(quantiles, dtype=z.dtype).repeat(y.shape[1])
        r = y.repeat_interleave(len(quantiles), dim=1) - z
        return q * f.relu(r) + (1 - q) * f.relu(-r)

    def softmax_cross_entropy(z, y, label_smoothing=0.0):
        return f.cross_entropy(z, y[:, 0], label_smoothing=label_smoothing, reduction="none")[:, None]

    def grouped_cross_entropy(z, y, groups):
        parts = zip(z.split(groups, dim=1), y.split(1, dim=1), strict=True)
        return torch.cat([softmax_cross_entropy(part, target) for part, target in parts], dim=1)

    return {name: functools.partial(plain, torch) for name, plain in textbook.LOSSES.items()} | {
        "squared_error": lambda z, y: f.mse_loss(z, y, reduction="none"),
        "half_squared_error": lambda z, y: f.mse_loss(z, y, reduction="none") / 2,
        "absolute_error": lambda z, y: f.l1_loss(z, y, reduction="none"),
        "huber": lambda z, y, delta=1.0: f.huber_loss(z, y, delta=delta, reduction="none"),
        "pinball": pinball,
        "poisson": lambda z, y: f.poisson_nll_loss(z, y, log_input=True, reduction="none"),
        "binary_cross_entropy": lambda z, y: f.binary_cross_entropy_with_logits(z, y, reduction="none"),
        "softmax_cross_entropy": softmax_cross_entropy,
        "grouped_cross_entropy": grouped_cross_entropy,
    }


@pytest.mark.needs("torch")
def test_torch_is_an_oracle_for_every_name():
    assert torch_activations().keys() == ACTIVATIONS.keys()
    assert torch_losses().keys() == ALL_LOSSES.keys()


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("activation", "loss_case"), PAIRS)
@pytest.mark.parametrize("depth", WIDTHS)
def test_against_torch(activation, loss_case, depth):
    import torch

    problem = make(
        [activation] * depth + ["identity"],
        loss_case,
        depth,
        PENALTIES["l2"],
        dropout=depth > 0,
        weighted=True,
        bias=True,
        reduction="mean",
    )
    flat = torch.tensor(problem.vector, requires_grad=True)
    a = torch.tensor(problem.x)
    weights, biases = textbook.unpack(flat, problem.layer_sizes, problem.bias)
    for w, b, name, mask in zip(weights, biases, problem.activations, problem.masks, strict=True):
        z = torch.nn.functional.linear(a, w.T, b)
        a = torch_activations()[name](z) * torch.as_tensor(mask)
    name, parameters = problem.loss
    s = torch.tensor(problem.weight)[:, None]
    total = (torch_losses()[name](a, torch.tensor(problem.y), **parameters) * s).sum()
    penalty = problem.penalty[1]["strength"] * sum((w**2).sum() for w in weights)
    j = (total + penalty) / s.sum()
    j.backward()
    value, gradient = problem.value_and_gradient()
    np.testing.assert_allclose(value, j.item(), rtol=1e-12)
    assert_close(problem, gradient, flat.grad.numpy())


# JAX takes long to compile each: every activation and every loss, but not each with each.
JAX_PAIRS = list(itertools.zip_longest(ACTIVATIONS, LOSS_CASES, fillvalue="tanh"))


@pytest.mark.needs("jax")
@pytest.mark.parametrize(("activation", "loss_case"), JAX_PAIRS)
def test_against_jax(activation, loss_case):
    import jax

    problem = make(
        [activation] * 2 + ["identity"],
        loss_case,
        2,
        PENALTIES["elastic_net"],
        dropout=True,
        weighted=True,
        bias=True,
        reduction="mean",
    )
    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(lambda v: problem.textbook(jax.numpy, v)))
        expected, derivative = both(jax.numpy.asarray(problem.vector))
    value, gradient = problem.value_and_gradient()
    np.testing.assert_allclose(value, float(expected), rtol=1e-12)
    assert_close(problem, gradient, np.asarray(derivative))


def test_a_users_own_activation_against_its_twin_in_the_catalogue(rng):
    pair = (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2)
    own = make(["tanh", "tanh", "identity"], "squared_error", 2, bias=True, reduction="mean")
    twin = make(["tanh", "tanh", "identity"], "squared_error", 2, bias=True, reduction="mean")
    network = Network(own.layer_sizes, activation=pair, dtype="float64")
    own.objective = Objective(network, own.objective.loss)
    value, gradient = own.value_and_gradient()
    expected, derivative = twin.value_and_gradient()
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    assert_close(own, gradient, derivative, relative=1e-13)
    check_by_differences(own, rng)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_derivative_with_respect_to_x(activation, rng):
    """What backprop returns: δ_1, and δ_1 W_1ᵀ is ∂L/∂x."""
    problem = make([activation, "identity"], "squared_error", 1, weighted=True, bias=True, reduction="sum")
    network, loss = problem.objective.network, problem.objective.loss
    network.parameters.flat[...] = problem.vector
    memo, gradient = Memo(network, N_ROWS), network.parameters.zeros_like()
    s = problem.weight[:, None]

    def value_and_delta(x):
        z = forward(network, x, memo)
        return float(loss(CPU, z, problem.y, s)), z

    delta = backprop(network, memo, value_and_delta(problem.x)[1], gradient)
    by_x = host(delta @ network.parameters.weights[0].T)
    direction = rng.normal(size=problem.x.shape)
    quotient = difference_quotient(lambda x: value_and_delta(x)[0], problem.x, direction)
    assert abs(np.sum(by_x * direction) - quotient) <= 1e-7 * np.linalg.norm(by_x)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5])
def test_chunks_of_a_step_add_up(chunk_rows):
    """Whatever the chunks, one step has one gradient; dropout does not see where they begin."""
    problem = make(
        ["gelu", "tanh", "identity"],
        "softmax_cross_entropy",
        2,
        PENALTIES["l2"],
        dropout=True,
        weighted=True,
        bias=True,
        reduction="mean",
    )
    value, gradient = problem.value_and_gradient()
    problem.loader = Loader(problem.x, problem.y, problem.weight, batch_size="full", chunk_rows=chunk_rows)
    again, in_chunks = problem.value_and_gradient()
    np.testing.assert_allclose(again, value, rtol=1e-14)
    assert_close(problem, in_chunks, gradient, relative=1e-13)


def test_weights_of_zero_are_rows_left_out():
    problem = make(["tanh", "identity"], "huber", 1, weighted=True, bias=True, reduction="mean")
    weight = np.array(problem.weight)
    weight[[1, 4]] = 0.0
    problem.loader = Loader(problem.x, problem.y, readonly(weight), batch_size="full", chunk_rows=2)
    value, gradient = problem.value_and_gradient()
    rows = [0, 2, 3]
    problem.loader = Loader(problem.x[rows], problem.y[rows], readonly(weight[rows]), batch_size="full")
    without, expected = problem.value_and_gradient()
    np.testing.assert_allclose(value, without, rtol=1e-14)
    assert_close(problem, gradient, expected, relative=1e-13)
