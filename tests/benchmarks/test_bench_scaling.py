"""The benchmark of several ranks: its model against arithmetic by hand, and all of it at toy size."""

import itertools

import numpy as np
import pytest

from bench import scaling, steps
from bench.harness import scaling_ranks
from mlp_xp.backprop import backprop
from mlp_xp.forward import Memo, forward
from mlp_xp.network import Network


def test_an_all_reduce():
    assert scaling.all_reduce_seconds(1e6, 1, 1.0, 1.0) == 0.0
    assert scaling.all_reduce_seconds(8e6, 2, 3e-6, 1e9) == pytest.approx(2 * 3e-6 + 8e-3)
    assert scaling.all_reduce_seconds(8e6, 8, 3e-6, 1e9) == pytest.approx(6 * 3e-6 + 14e-3)
    assert scaling.all_reduce_seconds(8e6, 9, 0.0, 1e9) == pytest.approx(16 / 9 * 8e-3)


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_latency_and_bandwidth_are_found_again(n_ranks):
    seconds = [scaling.all_reduce_seconds(size, n_ranks, 2e-6, 4e9) for size in scaling.SIZES]
    latency, bandwidth = scaling.fit(scaling.SIZES, seconds, n_ranks)
    assert latency == pytest.approx(2e-6, rel=0.02)
    assert bandwidth == pytest.approx(4e9, rel=0.02)


@pytest.mark.parametrize("n_ranks", [8, 1000])
def test_the_batch_from_which_on_ranks_are_efficient(n_ranks):
    fixed, per_row, all_reduce = 3e-3, 2e-5, 7e-3

    def efficiency(batch):
        together = fixed + per_row * batch / n_ranks + all_reduce
        return (fixed + per_row * batch) / (n_ranks * together)

    batch = scaling.rows_needed(fixed, per_row, all_reduce, n_ranks)
    assert efficiency(batch) == pytest.approx(0.8)
    assert efficiency(1.1 * batch) > 0.8
    assert scaling.rows_needed(0.0, 1.0, 0.0, n_ranks) == n_ranks  # nothing to wait for


@pytest.mark.parametrize("training", scaling.TRAININGS)
def test_bytes_are_those_of_the_vector_that_is_sent(training):
    network = Network(training.sizes)
    vector = network.parameters.zeros_like(extra=3).vector
    assert scaling.gradient_bytes(training) == vector.nbytes


def test_the_way_back_is_that_of_backprop():
    """Of a network whose activations have the derivative 1."""
    training = scaling.TRAININGS[3]
    rng, n_rows = np.random.default_rng(0), 6
    step = scaling_ranks.BackwardStep.__new__(scaling_ranks.BackwardStep)
    network = Network(training.sizes, activation="identity", seed=0)
    gradient, memo = network.parameters.zeros_like(), Memo(network, n_rows)
    x = rng.normal(size=(n_rows, training.sizes[0])).astype(np.float32)
    delta = forward(network, x, memo).copy()
    step.network, step.gradient = network.parameters, network.parameters.zeros_like()
    step.a = [np.array(a) for a in memo.inputs]
    step.delta = [np.zeros((n_rows, n), np.float32) for n in training.sizes[1:-1]] + [delta.copy()]
    assert list(step.layers()) == [2, 1, 0]
    backprop(network, memo, delta, gradient)
    for found, expected in zip(step.gradient.weights, gradient.weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.needs("mpi4py")
def test_all_of_it_at_toy_size(monkeypatch, draws):
    few = (scaling.TRAININGS[0], scaling.TRAININGS[4])
    monkeypatch.setattr(scaling, "TRAININGS", few)
    monkeypatch.setattr(scaling, "SCALED", (1,))
    result = scaling.answer(quick=True, device="cpu")
    assert result.column("µs a step") == [steps.toy(each).name for each in few]
    for row in result.rows:
        assert all(value > 0 for name, value in row.items() if name != "µs a step")
    model = result.curves["model, not measured"]
    assert len(model) == len(scaling.INTERCONNECTS) * len(scaling.N_RANKS)
    for one, other in itertools.pairwise(model):
        if one["interconnect"] == other["interconnect"]:
            assert other["global batch for 80%"] > one["global batch for 80%"]
    assert sum("A model, not measured" in note for note in result.notes) == len(scaling.INTERCONNECTS)
    draws(scaling, result)


def test_it_is_for_the_cpu():
    with pytest.raises(ValueError, match="CPU only"):
        scaling.answer(quick=True, device="cuda")


def test_without_a_launcher_it_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(scaling, "launcher", lambda: None)
    with pytest.raises(RuntimeError, match=r"mpi4py and mpiexec: pip install"):
        scaling.answer(quick=True, device="cpu")
