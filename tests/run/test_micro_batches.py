"""Where memory runs out, steps are made in smaller chunks, with the same result."""

import warnings

import numpy as np
import pytest
from arrays import host, readonly, tolerance

from mlp_xp import forward
from mlp_xp.losses import SquaredError
from mlp_xp.machine import staging
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import SGD
from mlp_xp.regularizers import L2
from mlp_xp.rows.loader import Loader
from mlp_xp.run.full_batch import AllRows
from mlp_xp.run.micro_batches import halve_chunks
from mlp_xp.run.validation import mean_loss
from mlp_xp.training import train

N_ROWS = 40


def data():
    rng = np.random.default_rng(2)
    parts = rng.normal(size=(N_ROWS, 3)), rng.normal(size=N_ROWS), rng.uniform(0.5, 2, N_ROWS)
    return tuple(map(readonly, parts))


@pytest.fixture
def room_for(monkeypatch):
    """`room_for(n)`: from now on there is no memory for what n rows are kept in, or more."""

    def limit(n_rows):
        make = forward.Memo._make

        def make_if_it_fits(memo, rows):
            if rows > n_rows:
                memo.n_rows = rows  # as it is left where memory runs out half way
                raise MemoryError(f"Unable to allocate {rows} rows")
            make(memo, rows)

        monkeypatch.setattr(forward.Memo, "_make", make_if_it_fits)

    return limit


def trained(backend, *, weighted=True, batch_size=16, **named):
    x, y, weight = data()
    network = Network((3, 6, 1), activation="gelu", device=backend, dtype=backend.dtype_name, seed=4)
    loader = Loader(x, y, weight if weighted else None, batch_size=batch_size, seed=1)
    losses = [
        epoch.train_loss
        for epoch in train(
            network,
            loader,
            max_epochs=3,
            learning_rate=0.05,
            regularizer=L2(0.01),
            dropout=0.3,
            **named,
        )
    ]
    return losses, host(network.parameters.flat), loader


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("batch_size", [16, "full"])
@pytest.mark.parametrize("room", [15, 3, 1])
def test_the_result_is_the_same(room, batch_size, weighted, backend, room_for):
    options = {"weighted": weighted, "batch_size": batch_size, "clip_norm": 1.0}
    losses, parameters, loader = trained(backend, **options)
    assert loader.chunk_rows == 4096
    room_for(room)
    with pytest.warns(UserWarning, match="rows at a time do not fit the memory of") as warned:
        fewer_losses, fewer_parameters, loader = trained(backend, **options)
    assert len(warned) == 1
    assert room / 2 < loader.chunk_rows <= room
    close = tolerance(backend, 1e-11, 1e-4)
    np.testing.assert_allclose(fewer_losses, losses, rtol=close)
    np.testing.assert_allclose(fewer_parameters, parameters, rtol=close, atol=close)


def test_the_warning_says_how_it_goes_on(room_for):
    room_for(8)
    message = "16 rows at a time do not fit the memory of cpu: going on with 8, or fewer"
    with pytest.warns(UserWarning, match=message):
        trained_on_cpu()


def trained_on_cpu(**named):
    from mlp_xp.machine.array_api import backend

    return trained(backend("cpu", "float64"), **named)


def test_memory_that_runs_out_in_the_middle_of_an_epoch(monkeypatch):
    losses, parameters, _ = trained_on_cpu()
    differentiate, calls = Objective.add_chunk, []

    def fails_once(objective, *arguments, **named):
        value = differentiate(objective, *arguments, **named)
        calls.append(1)
        if len(calls) == 5:  # the gradient has been written already
            raise MemoryError
        return value

    monkeypatch.setattr(Objective, "add_chunk", fails_once)
    with pytest.warns(UserWarning, match="going on with 8"):
        fewer_losses, fewer_parameters, _ = trained_on_cpu()
    np.testing.assert_allclose(fewer_losses, losses, rtol=1e-11)
    np.testing.assert_allclose(fewer_parameters, parameters, rtol=1e-10)


def test_a_step_of_chunks_that_fails_at_a_later_one(monkeypatch):
    losses, parameters, _ = trained_on_cpu(batch_size="full")
    add_chunk, calls = Objective.add_chunk, []

    def fails(objective, x, *arguments, **named):
        calls.append(len(x))
        if len(calls) in (1, 4):
            raise MemoryError
        return add_chunk(objective, x, *arguments, **named)

    monkeypatch.setattr(Objective, "add_chunk", fails)
    with pytest.warns(UserWarning, match="going on with 20"):
        fewer_losses, fewer_parameters, loader = trained_on_cpu(batch_size="full")
    assert calls[:6] == [40, 20, 20, 20, 10, 10]
    assert loader.chunk_rows == 10
    np.testing.assert_allclose(fewer_losses, losses, rtol=1e-11)
    np.testing.assert_allclose(fewer_parameters, parameters, rtol=1e-10)


def test_buffers_that_do_not_fit(monkeypatch):
    losses, parameters, _ = trained_on_cpu(batch_size="full")
    made = staging.HostStaging.host

    def fits(self, slot, n_rows):
        if self.n_rows > 10:
            raise MemoryError
        return made(self, slot, n_rows)

    monkeypatch.setattr(staging.HostStaging, "host", fits)
    with pytest.warns(UserWarning, match="going on with 20"):
        fewer_losses, fewer_parameters, loader = trained_on_cpu(batch_size="full")
    assert loader.chunk_rows == 10
    np.testing.assert_allclose(fewer_losses, losses, rtol=1e-11)
    np.testing.assert_allclose(fewer_parameters, parameters, rtol=1e-10)


def test_where_not_even_one_row_fits(backend, room_for):
    room_for(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError):
            trained(backend)
    # The objective needs room for one row from its start; what comes later says how much.
    network, loader = Network((3, 6, 1), device=backend), Loader(*data(), batch_size=1)
    pattern = (
        r"not even one row at a time fits the memory of .*: parameters, gradient and optimizer take "
        r"744 bytes, a row \d+ bytes more(; .* are free now)? \(no room\)"
    )
    with pytest.raises(MemoryError, match=pattern):
        halve_chunks(loader, Network((3, 6, 1), device=backend, dtype="float32"), MemoryError("no room"), 6)
    assert network.parameters.size * 4 * 6 == 744


def test_weights_that_have_begun_to_move_are_not_moved_again(monkeypatch):
    class Greedy(SGD):
        def update(self, xp, t, rate, p, g):
            p -= rate * g
            raise MemoryError("in the rule")

    x, y, _ = data()
    with pytest.raises(MemoryError, match="in the rule"):
        next(train(Network((3, 1)), Loader(x, y, batch_size=4), optimizer=Greedy()))


def test_the_loss_over_rows(backend, room_for):
    network, loader = Network((3, 6, 1), device=backend, dtype=backend.dtype_name), Loader(*data())
    known = mean_loss(network, loader, SquaredError())
    room_for(7)
    with pytest.warns(UserWarning, match="40 rows at a time"):
        assert mean_loss(network, loader, SquaredError()) == pytest.approx(known, rel=tolerance(backend))


def test_value_and_gradient(backend, room_for):
    network = Network((3, 6, 1), device=backend, dtype=backend.dtype_name)
    loader = Loader(*data(), batch_size="full")
    objective, vector = Objective(network, SquaredError()), np.linspace(-1, 1, network.parameters.size)
    value, gradient = AllRows(objective, loader).value_and_gradient(vector)
    room_for(7)
    objective = Objective(network, SquaredError())
    with pytest.warns(UserWarning, match="40 rows at a time"):
        fewer_value, fewer_gradient = AllRows(objective, loader).value_and_gradient(vector)
    close = tolerance(backend, 1e-12, 1e-4)
    assert fewer_value == pytest.approx(value, rel=close)
    np.testing.assert_allclose(fewer_gradient, gradient, rtol=close, atol=close)


def test_predictions(backend, room_for):
    network = Network((3, 6, 1), device=backend, dtype=backend.dtype_name)
    x = data()[0]
    known = network.predict(x)
    network.memos.clear()  # which would serve again, however little room there is
    room_for(3)
    np.testing.assert_allclose(network.predict(x), known, rtol=tolerance(backend))
    room_for(0)
    with pytest.raises(MemoryError):
        network.predict(x)
