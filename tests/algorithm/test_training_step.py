"""The training step as a GPU needs it, on any machine: the host reads nothing from the device.

array-api-strict stands in for the GPU: on its devices a forgotten `device=`, a mixture of devices,
an array of NumPy's, a call outside the standard and (on no_float64) a float64 are errors. What
would stop a GPU's queue is switched off (shapes that depend on values, boolean masks as indices)
or a trap (float(), bool(), printing, copies to the host).
"""

import itertools

import numpy as np
import pytest
from arrays import device_reads, host, no_device_reads, readonly

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.dropout import Dropout
from mlp_xp.losses import LOSSES, GroupedCrossEntropy
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, Optimizer, clip_by_global_norm
from mlp_xp.regularizers import REGULARIZERS, ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.run.validation import mean_loss
from mlp_xp.settings.catalogue import resolve
from mlp_xp.training import train

RULES = [name for name, rule in OPTIMIZERS.items() if rule is not LBFGS]
PENALTIES = [None, *REGULARIZERS]
# Targets and outputs of the losses that do not have two of each.
SHAPES = {
    "softmax_cross_entropy": (1, 3),
    "grouped_cross_entropy": (2, 4),
    "pinball": (2, 6),
}
PARAMETERS = {
    "softmax_cross_entropy": {"label_smoothing": 0.1},
    "grouped_cross_entropy": {"groups": (2, 2), "eps": 1e-6},
    "pinball": {"quantiles": (0.1, 0.5, 0.9)},
    "poisson": {"deviance": True},
    "binary_cross_entropy": {"eps": 1e-6},
    "elastic_net": {"l1": 0.01, "l2": 0.01},
}
ALL_LOSSES = {**LOSSES, "grouped_cross_entropy": GroupedCrossEntropy}


@pytest.fixture(autouse=True)
def stricter(backend):
    """Nothing whose shape depends on values, no masks as indices: they stop a GPU's queue."""
    if "strict" not in backend.name:
        yield
        return
    with backend.xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False):
        assert not backend.xp.get_array_api_strict_flags()["boolean_indexing"]
        yield


def make(kind, catalogue, name):
    return name and resolve(kind, catalogue, {"name": name, **PARAMETERS.get(name, {})})


def rows(loss, n_rows=7):
    rng = np.random.default_rng(5)
    n_targets, n_outputs = SHAPES.get(loss, (2, 2))
    x, weight = rng.normal(size=(n_rows, 3)), rng.uniform(0.5, 2.0, n_rows)
    y = rng.integers(0, 2, (n_rows, n_targets))
    if not ALL_LOSSES[loss].labels:
        y = y.astype(float)
    return readonly(x), readonly(y), readonly(weight), n_outputs


def step_once(backend, activation, loss, rule, penalty, dropout, clip, *, weighted=True, bias=True):
    """One step, and then another, of two chunks each, with every read of the device trapped."""
    x, y, weight, n_outputs = rows(loss)
    network = Network(
        (3, 4, 3, n_outputs),
        activation=activation,
        bias=bias,
        device=backend,
        dtype=backend.dtype_name,
    )
    loader = Loader(x, y, weight if weighted else None, batch_size="full", chunk_rows=4)
    objective = Objective(
        network,
        make("loss", ALL_LOSSES, loss),
        make("regularizer", REGULARIZERS, penalty),
        Dropout((0.5, 0.25), seed=3) if dropout else None,
    )
    optimizer = Optimizer(make("optimizer", OPTIMIZERS, rule), network.parameters)
    before = host(network.parameters.flat)
    with no_device_reads(backend):
        for number in range(2):
            for step in loader.batches(number, backend, labels=objective.loss.labels):
                objective.differentiate(step, number)
                if clip:
                    clip_by_global_norm(objective.gradient, 0.1)
                optimizer.step(objective.gradient, 0.01)
        optimizer.flush_subnormals()
    for array in (network.parameters.flat, objective.gradient.flat, *optimizer.state.values()):
        assert array.dtype == backend.dtype
        assert array.device == backend.zeros((1,)).device
        assert np.isfinite(host(array)).all()
    assert not np.array_equal(host(network.parameters.flat), before)
    if clip:
        assert np.linalg.norm(host(objective.gradient.flat)) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_every_loss(activation, loss, backend):
    number = list(ACTIVATIONS).index(activation) + list(ALL_LOSSES).index(loss)
    rule, penalty = RULES[number % len(RULES)], PENALTIES[number % len(PENALTIES)]
    odd = number % 2 == 1
    step_once(backend, activation, loss, rule, penalty, odd, not odd, weighted=number % 3 > 0, bias=odd)


@pytest.mark.parametrize("rule", RULES)
def test_every_optimizer_with_every_penalty_dropout_and_clipping(rule, backend):
    for penalty, dropout, clip in itertools.product(PENALTIES, (False, True), (False, True)):
        step_once(backend, "gelu", "squared_error", rule, penalty, dropout, clip)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_as_the_last(activation, backend):
    layers = ["tanh", "relu", activation]
    step_once(backend, layers, "squared_error", "sgd", "l2", True, True)


def test_a_users_own_activation(backend):
    pair = (lambda z: z / (1.0 + z * z), lambda z: (1.0 - z * z) / ((1.0 + z * z) * (1.0 + z * z)))
    step_once(backend, pair, "squared_error", "adam", "l2", True, True)


# Whole epochs: the host reads as often however many steps there are.


def reads_of_an_epoch(backend, loss, n_rows, **named):
    x, y, weight, n_outputs = rows(loss, n_rows)
    network = Network((3, 4, n_outputs), device=backend, dtype=backend.dtype_name)
    validation = Loader(x, y, weight, batch_size=4)
    epochs = train(
        network,
        Loader(x, y, weight, batch_size=2),
        loss=make("loss", ALL_LOSSES, loss),
        validation=validation,
        max_epochs=3,
        **named,
    )
    next(epochs)
    with device_reads(backend) as reads:
        next(epochs)
    return reads


@pytest.mark.parametrize("rule", RULES)
def test_an_epoch_reads_no_more_with_more_steps(rule, backend):
    named = {
        "optimizer": rule,
        "regularizer": ElasticNet(0.01, 0.01),
        "dropout": 0.2,
        "clip_norm": 1.0,
        "schedule": "cosine",
    }
    few = reads_of_an_epoch(backend, "squared_error", 4, **named)
    many = reads_of_an_epoch(backend, "squared_error", 60, **named)
    assert many == few
    assert len(few) <= 8


@pytest.mark.parametrize("loss", LOSSES)
def test_an_epoch_reads_no_more_with_any_loss(loss, backend):
    assert reads_of_an_epoch(backend, loss, 40) == reads_of_an_epoch(backend, loss, 4)


def test_the_loss_over_rows_is_read_once(backend):
    x, y, weight, _ = rows("squared_error", 40)
    network = Network((3, 4, 2), device=backend, dtype=backend.dtype_name)
    loss = make("loss", ALL_LOSSES, "squared_error")
    with device_reads(backend) as once:
        mean_loss(network, Loader(x, y, weight, batch_size=40), loss)
    with device_reads(backend) as reads:
        mean_loss(network, Loader(x, y, weight, batch_size=1), loss)
    assert reads == once


def test_predictions_are_read_once_a_chunk(backend):
    network = Network((3, 4, 2), device=backend, dtype=backend.dtype_name)
    x = readonly(np.ones((8, 3)))
    with device_reads(backend) as once:
        network.predict(x)
    with device_reads(backend) as reads:
        network.predict(x, chunk_rows=2)
    assert len(reads) == 4 * len(once)


# The traps themselves


def test_the_traps_spring(backend):
    array = backend.ones((2,))
    if isinstance(array, np.ndarray):
        return
    ways = [
        lambda: float(array[0]),
        lambda: int(array[0]),
        lambda: bool(array[0] > 0),
        lambda: list(array),
        lambda: f"{array[0]}",
        lambda: host(array),
    ]
    for way in ways:
        with no_device_reads(backend), pytest.raises(AssertionError, match="the host reads"):
            way()
        with device_reads(backend) as reads:
            way()
        assert reads
