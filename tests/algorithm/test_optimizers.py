"""Update rules against torch's, scikit-learn's and closed forms, over one list that every rule joins."""

import contextlib
import dataclasses
import functools

import numpy as np
import pytest
from arrays import host, tolerance

from mlp_xp.history import History
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import (
    LBFGS,
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    Momentum,
    Nadam,
    Nesterov,
    Optimizer,
    RMSprop,
    clip_by_global_norm,
)
from mlp_xp.parameters import Parameters
from mlp_xp.rows.loader import Loader
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Training
from mlp_xp.schedules import Constant
from mlp_xp.training_loop import Descent

SIZES = (3, 5, 2)
N_WEIGHTS = 3 * 5 + 5 * 2
SIZE = N_WEIGHTS + 5 + 2
RATE = 0.01
STEPS = 200

RULES = [name for name in OPTIMIZERS if name != "lbfgs"]
"""Rules that work on vectors; L-BFGS is a loop of its own (test_full_batch)."""

# Name of the rule, the rule, torch's counterpart and its arguments. An ε of 1e-2 shows where it stands.
REFERENCES = [
    ("sgd", SGD(), "SGD", {}),
    ("momentum", Momentum(), "SGD", {"momentum": 0.9}),
    ("momentum", Momentum(0.5), "SGD", {"momentum": 0.5}),
    ("nesterov", Nesterov(), "SGD", {"momentum": 0.9, "nesterov": True}),
    ("nesterov", Nesterov(0.99), "SGD", {"momentum": 0.99, "nesterov": True}),
    ("rmsprop", RMSprop(), "RMSprop", {"alpha": 0.99, "eps": 1e-8}),
    ("rmsprop", RMSprop(0.8, 1e-2), "RMSprop", {"alpha": 0.8, "eps": 1e-2}),
    ("adam", Adam(), "Adam", {}),
    ("adam", Adam(0.7, 0.9, 1e-2), "Adam", {"betas": (0.7, 0.9), "eps": 1e-2}),
    ("adam", Adam(0.0, 0.0, 1e-2), "Adam", {"betas": (0.0, 0.0), "eps": 1e-2}),
    ("adamw", AdamW(), "AdamW", {"weight_decay": 0.01}),
    ("adamw", AdamW(eps=1e-2, weight_decay=2.0), "AdamW", {"eps": 1e-2, "weight_decay": 2.0}),
    ("nadam", Nadam(), "NAdam", {"momentum_decay": 0.004}),
    ("nadam", Nadam(0.8, 0.9, 1e-2, 0.1), "NAdam", {"betas": (0.8, 0.9), "eps": 1e-2, "momentum_decay": 0.1}),
]


def gradients(n_steps, seed=7):
    """Gradients of very different sizes, some of them exactly zero."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(n_steps, SIZE)) * 10.0 ** rng.uniform(-3, 1, (1, SIZE))
    drawn[rng.random((n_steps, SIZE)) < 0.1] = 0.0
    return drawn


def start(seed=11):
    return np.random.default_rng(seed).normal(size=SIZE)


def vectors(backend, values):
    """Parameters, or a gradient, that hold the given values."""
    made = Parameters(backend, SIZES, True)
    made.flat[...] = backend.asarray(values)
    return made


def descend(backend, rule, sequence, rate=RATE):
    """The parameters after a step with each of the gradients, and the optimizer."""
    parameters, gradient = vectors(backend, start()), Parameters(backend, SIZES, True)
    optimizer = Optimizer(rule, parameters)
    for values in sequence:
        gradient.flat[...] = backend.asarray(values)
        optimizer.step(gradient, rate)
    return host(parameters.flat), optimizer


@contextlib.contextmanager
def torch_scalars_in_float64():
    """NAdam keeps Π μ_i in torch's default dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@functools.cache
def torch_result(number, n_steps=STEPS):
    """What torch makes of the same gradients; its weight decay is told to leave biases alone."""
    import torch

    _, _, name, arguments = REFERENCES[number]
    split = [torch.tensor(part) for part in np.split(start(), [N_WEIGHTS])]
    groups = [{"params": [split[0]]}, {"params": [split[1]], "weight_decay": 0.0}]
    optimizer = getattr(torch.optim, name)(groups, lr=RATE, **arguments)
    with torch_scalars_in_float64():
        for values in gradients(n_steps):
            for part, grad in zip(split, np.split(values, [N_WEIGHTS]), strict=True):
                part.grad = torch.tensor(grad)
            optimizer.step()
    return torch.cat(split).numpy()


def test_every_rule_has_an_independent_reference():
    assert {name for name, *_ in REFERENCES} == set(RULES)
    assert all(type(rule) is OPTIMIZERS[name] for name, rule, *_ in REFERENCES)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("number", range(len(REFERENCES)))
def test_200_steps_equal_those_of_torch(backend, number):
    result, _ = descend(backend, REFERENCES[number][1], gradients(STEPS))
    np.testing.assert_allclose(result, torch_result(number), rtol=tolerance(backend, 1e-10, 2e-4), atol=1e-12)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("beta1", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("momentum_decay", [0.004, 10.0])
def test_nadam_equals_torch_over_many_steps(beta1, momentum_decay):
    # Π μ_i, which the rule does not keep, falls slowly when β₁ is near 1 and warms up at once.
    import torch

    sequence = gradients(700)
    p = torch.tensor(start())
    optimizer = torch.optim.NAdam([p], RATE, (beta1, 0.999), momentum_decay=momentum_decay)
    with torch_scalars_in_float64():
        for values in sequence:
            p.grad = torch.tensor(values)
            optimizer.step()
    rule = Nadam(beta1=beta1, momentum_decay=momentum_decay)
    result, _ = descend(find_backend("cpu", "float64"), rule, sequence)
    np.testing.assert_allclose(result, p.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(
    ("rule", "name", "arguments"),
    [
        (Adam(eps_on="raw"), "AdamOptimizer", {}),
        (Adam(0.7, 0.9, 1e-2, "raw"), "AdamOptimizer", {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-2}),
        (Momentum(0.8), "SGDOptimizer", {"momentum": 0.8, "nesterov": False}),
        (Nesterov(0.8), "SGDOptimizer", {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_200_steps_equal_those_of_scikit_learn(rule, name, arguments):
    from sklearn.neural_network import _stochastic_optimizers

    parts = [start()]
    optimizer = getattr(_stochastic_optimizers, name)(parts, RATE, **arguments)
    for values in gradients(STEPS):
        optimizer.update_params(parts, [values])
    result, _ = descend(find_backend("cpu", "float64"), rule, gradients(STEPS))
    np.testing.assert_allclose(result, parts[0], rtol=1e-10, atol=1e-13)


def mean_of(decay, t):
    """What a running mean that starts at 0 has reached of a constant, after t steps."""
    return 1.0 - decay**t


# The whole way travelled under a constant gradient g, for a rate of 1: sums of geometric series.
TRAVELLED = {
    "sgd": (SGD(), lambda g, n: n * g),
    "momentum": (Momentum(0.9), lambda g, n: g * sum(mean_of(0.9, t) / 0.1 for t in range(1, n + 1))),
    "nesterov": (
        Nesterov(0.9),
        lambda g, n: g * sum(mean_of(0.9, t + 1) / 0.1 for t in range(1, n + 1)),
    ),
    "rmsprop": (
        RMSprop(0.9, 1e-2),
        lambda g, n: sum(g / (np.sqrt(mean_of(0.9, t)) * abs(g) + 1e-2) for t in range(1, n + 1)),
    ),
    "adam": (Adam(eps=1e-2), lambda g, n: n * g / (abs(g) + 1e-2)),
    "adam, raw": (
        Adam(0.9, 0.99, 1e-2, "raw"),
        lambda g, n: sum(g / (abs(g) + 1e-2 / np.sqrt(mean_of(0.99, t))) for t in range(1, n + 1)),
    ),
    "adamw": (AdamW(eps=1e-2, weight_decay=0.0), lambda g, n: n * g / (abs(g) + 1e-2)),
}


@pytest.mark.parametrize("name", TRAVELLED)
def test_way_under_a_constant_gradient(backend, name):
    rule, travelled = TRAVELLED[name]
    g = np.linspace(-2.0, 2.0, SIZE)
    result, _ = descend(backend, rule, [g] * 50)
    np.testing.assert_allclose(
        start() - result, RATE * travelled(g, 50), rtol=tolerance(backend, 1e-10, 1e-3), atol=1e-6
    )


def test_adamw_without_gradients_shrinks_weights_only(backend):
    result, _ = descend(backend, AdamW(weight_decay=0.5), np.zeros((10, SIZE)))
    shrunk = start()
    shrunk[:N_WEIGHTS] *= (1 - RATE * 0.5) ** 10
    np.testing.assert_allclose(result, shrunk, rtol=tolerance(backend))


@pytest.mark.parametrize("name", RULES)
def test_blocks_give_the_bits_of_the_whole_vector(backend, name):
    in_blocks = dataclasses.replace(backend, block=7)
    sequence = gradients(20)
    whole, whole_optimizer = descend(backend, OPTIMIZERS[name](), sequence)
    parts, parts_optimizer = descend(in_blocks, OPTIMIZERS[name](), sequence)
    np.testing.assert_array_equal(parts, whole)
    for vector, expected in zip(parts_optimizer.state.values(), whole_optimizer.state.values(), strict=True):
        np.testing.assert_array_equal(host(vector), host(expected))


@pytest.mark.parametrize("rate", [0.0, 1e-300])
@pytest.mark.parametrize("name", RULES)
def test_a_learning_rate_of_nothing_leaves_the_weights_alone(backend, name, rate):
    result, _ = descend(backend, OPTIMIZERS[name](), gradients(5), rate)
    np.testing.assert_array_equal(result, host(backend.asarray(start())))


@pytest.mark.parametrize("name", RULES)
def test_the_gradient_is_read(backend, name):
    parameters, gradient = vectors(backend, start()), vectors(backend, gradients(1)[0])
    before = host(gradient.flat)
    Optimizer(OPTIMIZERS[name](), parameters).step(gradient, RATE)
    np.testing.assert_array_equal(host(gradient.flat), before)
    assert not np.array_equal(host(parameters.flat), host(backend.asarray(start())))


@pytest.mark.parametrize("name", RULES)
def test_float32_stays_float32(backend, name):
    single = backend.with_dtype("float32")
    parameters = vectors(single, start())
    optimizer = Optimizer(OPTIMIZERS[name](), parameters)
    optimizer.step(vectors(single, gradients(1)[0]), RATE)
    optimizer.flush_subnormals()
    assert parameters.flat.dtype == single.xp.float32
    assert all(vector.dtype == single.xp.float32 for vector in optimizer.state.values())


@pytest.mark.parametrize("name", RULES)
def test_the_state_is_named_flat_vectors_and_copied_to_the_host(backend, name):
    _, optimizer = descend(backend, OPTIMIZERS[name](), gradients(3))
    assert optimizer.t == 3
    assert set(optimizer.state) == set(OPTIMIZERS[name].state)
    assert all(vector.shape == (SIZE,) for vector in optimizer.state.values())
    on_host = optimizer.to_host()
    for key, vector in on_host.items():
        np.testing.assert_array_equal(vector, host(optimizer.state[key]))
        vector[...] = np.nan
        assert np.isfinite(host(optimizer.state[key])).all()


def subnormal(vector, dtype):
    return (vector != 0) & (np.abs(vector) < np.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("rule", [Momentum(0.9), RMSprop(0.9), Adam(0.9, 0.9), Nadam(0.9, 0.9)])
def test_what_decays_in_dead_units_is_flushed(backend, rule):
    # 0.9 times the smallest subnormal number rounds to itself: without flushing it stays for good.
    single = dataclasses.replace(backend.with_dtype("float32"), block=10)
    dead = np.arange(SIZE) % 2 == 0
    optimizer = Optimizer(rule, vectors(single, start()))
    for vector in optimizer.state.values():
        vector[...] = single.asarray(np.where(dead, 1e-37, 1.0))
    for values in np.where(dead, 0.0, gradients(150)):
        optimizer.step(vectors(single, values), RATE)
    before = optimizer.to_host()
    optimizer.flush_subnormals()
    after = optimizer.to_host()
    for key in before:
        if backend.xp is np:  # the hazard is there (some libraries flush by themselves)
            assert subnormal(before[key][dead], "float32").all()
        assert (after[key][dead] == 0).all()
        np.testing.assert_array_equal(after[key][~dead], before[key][~dead])


@pytest.mark.parametrize(
    ("batch_size", "steps_before", "flushed"),
    [
        ("full", 0, False),
        ("full", 511, True),
        ("full", 512, False),
        (2, 508, True),
        (2, 511, True),
        (2, 512, False),
    ],
)
def test_states_are_flushed_at_the_end_of_an_epoch_once_in_512_steps(batch_size, steps_before, flushed):
    x, y = np.zeros((8, 3)), np.zeros(8)  # inputs of zero: the first layer's weights are dead
    network = Network((3, 2, 1), dtype="float32")
    optimizer = Optimizer(Momentum(0.9), network.parameters)
    optimizer.state["v"][...] = 1e-44
    loader = Loader(x, y, batch_size=batch_size)
    history = History(steps_per_epoch=loader.steps_per_epoch, max_epochs=1, step=steps_before)
    objective = Objective(network, SquaredError())
    training = Training(objective, loader, optimizer, Rates(0.1, Constant(), history), Descent("plain"))
    passes = training.passes()
    next(passes)
    passes.close()
    assert (optimizer.state["v"][:6] == 0).all() == flushed


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_clipping_keeps_the_direction_and_bounds_the_norm(backend, limit):
    values = gradients(1)[0]
    gradient = vectors(backend, values)
    clip_by_global_norm(gradient, limit)
    expected = values * min(1.0, limit / np.linalg.norm(values))
    np.testing.assert_allclose(host(gradient.flat), expected, rtol=tolerance(backend))


def test_clipping_leaves_what_is_within_the_limit_as_it_is(backend):
    values = gradients(1)[0]
    for given, limit in ((values, 1.001 * float(np.linalg.norm(values))), (np.zeros(SIZE), 1.0)):
        gradient = vectors(backend, given)
        clip_by_global_norm(gradient, limit)
        np.testing.assert_array_equal(host(gradient.flat), host(backend.asarray(given)))


def test_clipping_is_for_gradients_that_explode(backend):
    # The square of 1e25 is beyond float32: the step must still have the length of the limit.
    single = backend.with_dtype("float32")
    gradient = vectors(single, np.where(np.arange(SIZE) < 4, 1e25, 0.0))
    clip_by_global_norm(gradient, 2.0)
    np.testing.assert_allclose(host(gradient.flat)[:5], [1, 1, 1, 1, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "bad", "message"),
    [
        (Momentum, {"momentum": 1.5}, "momentum=1.5 must be a finite number >= 0"),
        (Nesterov, {"momentum": -0.1}, "momentum=-0.1"),
        (RMSprop, {"decay": 1.5, "eps": 0}, "decay=1.5 .*\neps=0 must be a finite number > 0"),
        (Adam, {"beta1": 1, "beta2": 1, "eps": -1}, "beta1=1 .*\nbeta2=1 .*\neps=-1"),
        (Adam, {"eps_on": "raww"}, "unknown eps_on 'raww'; did you mean 'raw'"),
        (Adam, {"beta1": float("nan")}, "beta1=nan"),
        (AdamW, {"weight_decay": -1}, "weight_decay=-1"),
        (Nadam, {"momentum_decay": "x"}, "momentum_decay='x'"),
        (LBFGS, {"n_corrections": 0, "gradient_tolerance": -1}, "n_corrections=0 .*\ngradient_tol"),
    ],
)
def test_bad_hyperparameters_are_refused_together(rule, bad, message):
    with pytest.raises(ValueError, match=message):
        rule(**bad)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_whether_it_counts_steps(name):
    rule = OPTIMIZERS[name]()
    assert rule.counts_steps == (rule.numbers(1, RATE) != rule.numbers(2, RATE))
