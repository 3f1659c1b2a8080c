"""The objective: sums over chunks are exact, weights weigh, penalties are counted once."""

import math
import weakref

import numpy as np
import pytest
from arrays import host, tolerance

from mlp_xp import epoch_losses
from mlp_xp.dropout import Dropout
from mlp_xp.losses import LOSSES, HalfSquaredError, Poisson, SoftmaxCrossEntropy, SquaredError
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L1, L2, ElasticNet
from mlp_xp.rows.batch import Batch, Chunk
from mlp_xp.rows.loader import Loader
from mlp_xp.run.validation import mean_loss

N_ROWS = 23


@pytest.fixture
def data():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(N_ROWS, 4))
    return x, generator.normal(size=(N_ROWS, 3)), generator.uniform(0, 2, N_ROWS)


def make(backend, activation="tanh"):
    network = Network((4, 6, 5, 3), activation=activation, device=backend, dtype=backend.dtype_name, seed=2)
    for biases in network.parameters.biases:
        biases[...] = 0.1
    return network


def differentiate(network, loader, loss=None, regularizer=None, **options):
    """J and the gradient of the only step of a full batch."""
    objective = Objective(network, loss or SquaredError(), regularizer, **options)
    for step in loader.batches(0, network.backend, labels=objective.loss.labels):
        objective.differentiate(step)
    return objective.losses.objective(), host(objective.gradient.flat)


def full(x, y, weight=None, **options):
    return Loader(x, y, weight, batch_size="full", **options)


def as_close_as(backend):
    close = tolerance(backend)
    return {"rtol": close, "atol": close / 10}


@pytest.mark.parametrize("chunk_rows", [1, 5, 22])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_add_up_to_the_whole(backend, data, chunk_rows, reduction, weighted):
    x, y, weight = data
    given = (x, y, weight if weighted else None)
    options = {"regularizer": ElasticNet(0.1, 0.2), "dropout": Dropout((0.3, 0.2), 4), "reduction": reduction}
    network = make(backend)
    value, gradient = differentiate(network, full(*given), **options)
    chunked_value, chunked_gradient = differentiate(network, full(*given, chunk_rows=chunk_rows), **options)
    assert chunked_value == pytest.approx(value, rel=tolerance(backend))
    np.testing.assert_allclose(chunked_gradient, gradient, **as_close_as(backend))


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_add_up_for_every_loss(name, data, device):
    x, y, weight = data
    loss = LOSSES[name]()
    y = np.arange(N_ROWS) % 3 if loss.labels else np.abs(np.tanh(y))
    network = Network((4, 6, 3), device=device, dtype="float64")
    value, gradient = differentiate(network, full(x, y, weight), loss)
    chunked_value, chunked_gradient = differentiate(network, full(x, y, weight, chunk_rows=4), loss)
    assert chunked_value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(chunked_gradient, gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_value_is_the_objective_of_the_definition(backend, data, reduction, weighted):
    x, y, weight = data
    network = make(backend)
    w = host(network.parameters.flat_weights).astype(float)
    s = weight if weighted else np.ones(N_ROWS)
    total = (s[:, None] * (network.predict(x).astype(float) - y) ** 2).sum()
    total += 0.1 * np.abs(w).sum() + 0.2 * (w**2).sum()
    value, _ = differentiate(
        network, full(x, y, weight if weighted else None), None, ElasticNet(0.1, 0.2), reduction=reduction
    )
    assert value == pytest.approx(total / (s.sum() if reduction == "mean" else 1), rel=tolerance(backend))


def test_sum_is_mean_times_the_weights(backend, data):
    x, y, weight = data
    network = make(backend)
    mean, mean_gradient = differentiate(network, full(x, y, weight), regularizer=L2(0.3))
    total, sum_gradient = differentiate(network, full(x, y, weight), regularizer=L2(0.3), reduction="sum")
    assert total == pytest.approx(mean * weight.sum(), rel=tolerance(backend))
    np.testing.assert_allclose(sum_gradient, mean_gradient * weight.sum(), **as_close_as(backend))


def test_whole_weights_stand_for_repeated_rows(backend, data):
    x, y, _ = data
    weight = np.arange(N_ROWS) % 4
    network = make(backend)
    weighted = differentiate(network, full(x, y, weight.astype(float)), regularizer=L1(0.2))
    again = np.repeat(np.arange(N_ROWS), weight)
    repeated = differentiate(network, full(x[again], y[again]), regularizer=L1(0.2))
    assert weighted[0] == pytest.approx(repeated[0], rel=tolerance(backend))
    np.testing.assert_allclose(weighted[1], repeated[1], **as_close_as(backend))


@pytest.mark.parametrize("chunk_rows", [5, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_whose_weights_are_zero_has_no_gradient(backend, data, chunk_rows, reduction):
    x, y, _ = data
    loader = full(x, y, np.zeros(N_ROWS), chunk_rows=chunk_rows)
    value, gradient = differentiate(make(backend), loader, regularizer=L2(1), reduction=reduction)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_a_later_step_writes_over_the_gradient(device, data):
    x, y, _ = data
    network = Network((4, 3), device=device, dtype="float64")
    objective = Objective(network, SquaredError())
    gradients = []
    for loader in (full(x, y), full(-x, y), full(x, y)):
        for step in loader.batches(0, network.backend):
            objective.differentiate(step)
        gradients.append(host(objective.gradient.flat))
    np.testing.assert_array_equal(gradients[0], gradients[2])
    assert not np.allclose(gradients[0], gradients[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_what_the_source_gives_is_only_read(backend, given, data, weighted):
    x, y, weight = data
    chunk = Chunk(given(x), given(y), given(weight[:, None]) if weighted else None)
    total = float(weight.sum()) if weighted else float(N_ROWS)
    objective = Objective(make(backend), SquaredError(), L2(0.1), Dropout((0.5, 0.5)))
    objective.differentiate(Batch(N_ROWS, total, ((chunk, total),)))


def run_epoch(network, loader, regularizer=None, reduction="mean"):
    objective = Objective(network, SquaredError(), regularizer, None, reduction)
    for step in loader.batches(0, network.backend):
        objective.differentiate(step)
    return objective.losses.objective()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_an_epoch_is_that_of_all_rows_where_weights_stay(backend, data, weighted, reduction):
    # Ragged last batch: steps count by their weights, so batches do not matter.
    x, y, weight = data
    given = (x, y, weight if weighted else None)
    network = make(backend)
    whole = run_epoch(network, full(*given), reduction=reduction)
    batches = run_epoch(network, Loader(*given, batch_size=5), reduction=reduction)
    assert batches == pytest.approx(whole, rel=tolerance(backend))


def test_the_penalty_of_an_epoch(device, data):
    x, y, _ = data
    network = Network((4, 3), device=device, dtype="float64")
    penalty = 0.5 * (host(network.parameters.flat_weights) ** 2).sum()
    loader = Loader(x, y, batch_size=5)  # five steps
    # "mean" is Σ (Σ s L + λ R) / Σ s over the steps; "sum" averages the penalty over them.
    assert run_epoch(network, loader, L2(0.5)) == pytest.approx(
        run_epoch(network, loader) + 5 * penalty / N_ROWS, rel=1e-12
    )
    assert run_epoch(network, loader, L2(0.5), "sum") == pytest.approx(
        run_epoch(network, loader, None, "sum") + penalty, rel=1e-12
    )
    assert run_epoch(network, full(x, y), L2(0.5), "sum") == pytest.approx(
        run_epoch(network, loader, L2(0.5), "sum"), rel=1e-12
    )


def test_values_that_wait_are_read_in_time(device, data, monkeypatch):
    x, y, _ = data
    network = Network((4, 3), device=device, dtype="float64")
    loader = Loader(x, y, batch_size=1)
    at_once = run_epoch(network, loader, L1(0.1))
    monkeypatch.setattr(epoch_losses, "READ_EVERY", 3)
    assert run_epoch(network, loader, L1(0.1)) == at_once
    assert mean_loss(network, loader, SquaredError()) == pytest.approx(run_epoch(network, loader))


def test_the_first_step_that_is_not_finite_is_found(device):
    network = Network((1, 1), initializer="normal:mean=1", device=device, dtype="float32")
    x = np.array([[1.0], [2.0], [1000.0], [3.0], [1000.0]])
    objective = Objective(network, Poisson())
    assert objective.losses.first_failure() is None
    with np.errstate(all="ignore"):
        for step in Loader(x, np.ones(5), batch_size=1, order="sequential").batches(0, network.backend):
            objective.differentiate(step)
        assert math.isnan(objective.losses.objective())
        assert objective.losses.first_failure() == 2
    objective.losses.start()
    assert objective.losses.first_failure() is None


@pytest.mark.parametrize("loss", [HalfSquaredError(), SoftmaxCrossEntropy()])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_loss_is_without_penalty_in_any_chunks(backend, data, loss, weighted):
    x, y, weight = data
    y = np.arange(N_ROWS) % 3 if loss.labels else y
    given = (x, y, weight if weighted else None)
    network = make(backend)
    before = host(network.parameters.flat)
    expected, _ = differentiate(network, full(*given), loss)
    for loader in (full(*given), full(*given, chunk_rows=4), Loader(*given, batch_size=7)):
        assert mean_loss(network, loader, loss) == pytest.approx(expected, rel=tolerance(backend))
    np.testing.assert_array_equal(host(network.parameters.flat), before)


def test_mean_loss_of_no_weight_is_not_a_number(device, data):
    x, y, _ = data
    network = Network((4, 3), device=device)
    assert math.isnan(mean_loss(network, full(x, y, np.zeros(N_ROWS)), SquaredError()))


def test_buffers_are_let_go_of_before_new_ones_are_made(monkeypatch):
    """The way out of memory that ran out needs none."""
    network = Network((3, 4, 1), seed=1)
    objective = Objective(network, SquaredError())
    held = weakref.ref(objective.memo)
    monkeypatch.setattr("mlp_xp.objective.Memo", lambda *_: pytest.fail("memory is taken"))
    objective.forget_buffers()
    assert held() is None
