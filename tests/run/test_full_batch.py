"""L-BFGS on the objective over all rows: known optima, and a thread that always ends."""

import gc
import itertools
import signal
import sys
import threading

import numpy as np
import pytest
from arrays import host, readonly

from mlp_xp.losses import SoftmaxCrossEntropy, SquaredError
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS
from mlp_xp.regularizers import L2
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.loader import Loader
from mlp_xp.run.full_batch import AllRows
from mlp_xp.saved.checkpoint import Checkpoints, decode
from mlp_xp.training import train

pytestmark = pytest.mark.needs("scipy")

N_ROWS, N_FEATURES, N_TARGETS = 60, 5, 2


@pytest.fixture
def data():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(N_ROWS, N_FEATURES))
    y = x @ generator.normal(size=(N_FEATURES, N_TARGETS)) + generator.normal(size=(N_ROWS, N_TARGETS))
    return readonly(x), readonly(y), readonly(generator.uniform(0, 2, N_ROWS))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


def threads():
    return [thread for thread in threading.enumerate() if "L-BFGS" in thread.name]


def linear(device, bias=True, dtype="float64"):
    return Network((N_FEATURES, N_TARGETS), bias=bias, device=device, dtype=dtype)


def deep(device, dtype="float64"):
    return Network((N_FEATURES, 8, N_TARGETS), activation="tanh", device=device, dtype=dtype)


def full(*data, **options):
    return Loader(*data, batch_size="full", **options)


def to_the_end(epochs):
    *_, last = epochs
    return last


EXACT = LBFGS(gradient_tolerance=1e-12)


@pytest.mark.parametrize("chunk_rows", [7, 4096])
def test_linear_least_squares(data, device, chunk_rows):
    x, y, _ = data
    network = linear(device)
    last = to_the_end(train(network, full(x, y, chunk_rows=chunk_rows), optimizer=EXACT))
    with_ones = np.column_stack([x, np.ones(N_ROWS)])
    best, residuals, *_ = np.linalg.lstsq(with_ones, y, rcond=None)
    np.testing.assert_allclose(host(network.parameters.weights[0]), best[:-1], rtol=1e-6)
    np.testing.assert_allclose(host(network.parameters.biases[0]), best[-1], rtol=1e-6)
    assert last.train_loss == pytest.approx(residuals.sum() / N_ROWS, rel=1e-10)
    assert last.stopped.startswith("L-BFGS ended: CONVERGENCE")


def test_ridge_regression_with_weights(data, device):
    x, y, s = data
    network = linear(device, bias=False)
    to_the_end(train(network, full(x, y, s), optimizer=EXACT, regularizer=L2(3.0)))
    best = np.linalg.solve(x.T @ (s[:, None] * x) + 3.0 * np.eye(N_FEATURES), x.T @ (s[:, None] * y))
    np.testing.assert_allclose(host(network.parameters.weights[0]), best, rtol=1e-6)


@pytest.mark.needs("sklearn")
def test_logistic_regression(data, device):
    from sklearn.linear_model import LogisticRegression

    x, y, _ = data
    labels = np.digitize(y[:, 0], [-1.0, 1.0])
    network = Network((N_FEATURES, 3), device=device, dtype="float64")
    penalty = L2(0.5)  # scikit-learn minimises the sum plus ‖w‖² / 2C
    to_the_end(
        train(
            network,
            full(x, labels),
            loss="softmax_cross_entropy",
            optimizer=EXACT,
            regularizer=penalty,
            reduction="sum",
        )
    )
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, labels)
    np.testing.assert_allclose(network.predict(x), theirs.predict_proba(x), rtol=1e-5, atol=1e-7)


def test_an_epoch_is_an_iteration_and_its_weights_are_there(data, device):
    x, y, _ = data
    network = deep(device)
    losses = []
    for number, epoch in enumerate(train(network, full(x, y), optimizer="lbfgs", max_epochs=25), start=1):
        assert epoch.number == number
        at_the_weights = np.mean(((network.predict(x) - y) ** 2).sum(axis=1))
        assert epoch.train_loss == pytest.approx(at_the_weights, rel=1e-12)
        losses.append(epoch.train_loss)
    assert (np.diff(losses) < 0).all()
    assert len(losses) == 25
    assert epoch.stopped is not None


def test_value_and_gradient_at_a_vector(data, device, rng):
    x, y, s = data
    network = deep(device)
    objective = Objective(network, SquaredError(), L2(0.1))
    loader = full(x, y, s, chunk_rows=9)
    at, along = rng.normal(size=(2, network.parameters.size))
    value, gradient = AllRows(objective, loader).value_and_gradient(readonly(at))
    assert gradient.dtype == np.float64
    np.testing.assert_array_equal(host(network.parameters.flat), at)
    h = 1e-6
    ahead, behind = (
        AllRows(objective, loader).value_and_gradient(at + h * side * along)[0] for side in (1, -1)
    )
    assert gradient @ along == pytest.approx((ahead - behind) / (2 * h), rel=1e-7)
    again, _ = AllRows(objective, loader).value_and_gradient(at)
    assert again == value


@pytest.mark.parametrize(("chunk_rows", "is_gathered_again"), [(None, False), (9, True)])
def test_rows_of_one_chunk_are_gathered_once(chunk_rows, is_gathered_again, data, device, monkeypatch):
    """In each evaluation they would be the same; more of them would not stay in bounded memory."""
    x, y, s = data
    gathered, rows = [], ArraySource.rows
    monkeypatch.setattr(ArraySource, "rows", lambda *given: [gathered.append(len(given[1])), rows(*given)])
    searched = AllRows(Objective(deep(device), SquaredError()), full(x, y, s, chunk_rows=chunk_rows))
    first = searched.value_and_gradient(searched.objective.network.parameters.to_host())
    assert sum(gathered) == N_ROWS
    again = searched.value_and_gradient(searched.objective.network.parameters.to_host())
    assert (sum(gathered) > N_ROWS) == is_gathered_again
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])


def test_rows_that_are_kept_are_let_go_of_when_a_run_is_left(data, device):
    x, y, _ = data
    loader = full(x, y)
    epochs = train(deep(device), loader, optimizer="lbfgs", max_epochs=15)
    next(epochs)
    next(epochs)
    assert not any(loader._idle.values())
    epochs.close()
    assert any(loader._idle.values())


def test_the_same_run_twice(data, device):
    x, y, _ = data
    ends = []
    for _ in range(2):
        network = deep(device)
        to_the_end(train(network, full(x, y), optimizer="lbfgs", max_epochs=15))
        ends.append(host(network.parameters.flat))
    np.testing.assert_array_equal(*ends)


def test_single_precision(data, device):
    x, y, _ = data
    network = linear(device, dtype="float32")
    to_the_end(train(network, full(x, y), optimizer="lbfgs", max_epochs=50))
    best, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(N_ROWS)]), y, rcond=None)
    np.testing.assert_allclose(host(network.parameters.weights[0]), best[:-1], rtol=1e-3, atol=1e-4)
    assert network.parameters.flat.dtype == network.backend.dtype


def test_classes(data, device):
    x, y, _ = data
    network = Network((N_FEATURES, 8, 2), device=device)
    labels = (y[:, 0] > 0).astype(int)
    loss = SoftmaxCrossEntropy()
    to_the_end(train(network, full(x, labels), loss=loss, optimizer="lbfgs", max_epochs=100))
    assert (network.predict(x).argmax(axis=1) == labels).mean() > 0.95


def test_no_more_epochs_than_asked_for(data, device):
    x, y, _ = data
    epochs = list(train(deep(device), full(x, y), optimizer="lbfgs", max_epochs=3))
    assert len(epochs) == 3
    assert epochs[-1].stopped is not None


def test_the_other_stopping_rules_apply(data, device):
    x, y, _ = data
    first, *_, last = train(deep(device), full(x, y), optimizer="lbfgs", max_epochs=100)
    halfway = (first.train_loss + last.train_loss) / 2
    stopped = to_the_end(train(deep(device), full(x, y), optimizer="lbfgs", loss_below=halfway))
    assert stopped.stopped == f"loss below {halfway:g}"
    assert stopped.train_loss < halfway


def test_at_an_optimum_there_is_one_epoch(device):
    x = np.eye(N_FEATURES)
    network = linear(device)
    epochs = list(train(network, full(x, network.predict(x)), optimizer="lbfgs"))
    assert len(epochs) == 1
    assert epochs[0].train_loss == 0
    assert epochs[0].stopped.startswith("L-BFGS ended")


def test_breaking_off_leaves_the_weights_of_the_epoch_and_no_thread(data, device):
    x, y, _ = data
    network = deep(device)
    for epoch in train(network, full(x, y), optimizer="lbfgs"):
        assert threads()
        if epoch.number == 4:
            break
    del epoch
    assert not threads()
    first_four = deep(device)
    to_the_end(train(first_four, full(x, y), optimizer="lbfgs", max_epochs=4))
    np.testing.assert_array_equal(host(network.parameters.flat), host(first_four.parameters.flat))


def test_closing_or_never_starting_leaves_no_thread(data, device):
    x, y, _ = data
    epochs = train(deep(device), full(x, y), optimizer="lbfgs")
    epochs.close()
    epochs = train(deep(device), full(x, y), optimizer="lbfgs")
    next(epochs)
    epochs.close()
    assert not threads()


def test_an_interruption_leaves_the_last_iteration_in_a_checkpoint_and_no_thread(data, device, tmp_path):
    x, y, _ = data
    network = deep(device)
    with Checkpoints(tmp_path, "1h") as checkpoints:
        epochs = train(network, full(x, y), optimizer="lbfgs", checkpoints=checkpoints)
        for epoch in epochs:
            if epoch.number == 4:
                checkpoints.interrupt(signal.SIGINT)
                with pytest.raises(KeyboardInterrupt):
                    next(epochs)
        del epoch
        state = checkpoints.latest()
    first_four = deep(device)
    to_the_end(train(first_four, full(x, y), optimizer="lbfgs", max_epochs=4))
    np.testing.assert_array_equal(host(network.parameters.flat), host(first_four.parameters.flat))
    np.testing.assert_array_equal(state.arrays["parameters"], host(first_four.parameters.flat))
    assert (len(state.numbers["train_losses"]), state.numbers["step"]) == (4, 4)
    with pytest.warns(UserWarning, match="empty memory of gradients"):
        epochs = train(deep(device), full(x, y), optimizer="lbfgs", max_epochs=6, state=state)
    assert [epoch.number for epoch in epochs] == [5, 6]


@pytest.mark.parametrize(("every", "at"), [("2steps", {4, 6, 7}), ("3epochs", {3, 6, 7}), ("1s", {5, 6, 7})])
def test_checkpoints_by_iterations_and_by_time(data, device, tmp_path, monkeypatch, every, at):
    x, y, _ = data
    seconds = itertools.count()
    monkeypatch.setattr("mlp_xp.saved.checkpoint.time.monotonic", lambda: float(next(seconds)))
    with Checkpoints(tmp_path, every) as checkpoints:
        to_the_end(train(deep(device), full(x, y), optimizer="lbfgs", max_epochs=7, checkpoints=checkpoints))
        kept = [decode(path.read_bytes())[0].numbers for path in checkpoints.paths()]
    assert {numbers["step"] for numbers in kept} == at
    assert all(len(numbers["train_losses"]) == numbers["step"] for numbers in kept)


def test_an_error_in_the_data_reaches_the_caller_and_ends_the_thread(data, device):
    x, y, _ = data

    class Failing:
        n_rows, n_features, n_targets, has_weights, calls = N_ROWS, N_FEATURES, N_TARGETS, False, 0

        def rows(self, index, into_x, into_y, weight):
            self.calls += 1
            if self.calls > 20:
                raise OSError("the disk is gone")
            into_x[...], into_y[...] = x[index], y[index]

    with pytest.raises(OSError, match="the disk is gone"):
        to_the_end(train(deep(device), full(Failing(), chunk_rows=9), optimizer="lbfgs"))
    assert not threads()


def test_an_error_in_the_callers_loop_ends_the_thread(data, device):
    x, y, _ = data

    def loop():
        for epoch in train(deep(device), full(x, y), optimizer="lbfgs"):
            assert threads()
            raise KeyError(epoch.number)

    with pytest.raises(KeyError) as caught:
        loop()
    del caught  # and with it the traceback, which holds the loop's generator
    gc.collect()
    assert not threads()


def test_a_start_that_is_not_finite_is_a_divergence(device):
    network = Network((1, 1), bias=False, initializer="normal:mean=900", device=device, dtype="float64")
    before = host(network.parameters.flat)
    with pytest.raises(FloatingPointError, match="became infinite or nan in epoch 1"):
        to_the_end(train(network, full(np.ones((3, 1)), np.ones(3)), loss="poisson", optimizer="lbfgs"))
    np.testing.assert_array_equal(host(network.parameters.flat), before)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"clip_norm": 1.0}, {"batch_size": 10}])
def test_what_lbfgs_cannot_do(data, device, options):
    x, y, _ = data
    loader = Loader(x, y, batch_size=options.pop("batch_size", "full"))
    with pytest.raises(ValueError, match="over all rows: it takes batch_size="):
        train(deep(device), loader, optimizer="lbfgs", **options)


def test_without_scipy_the_message_says_what_to_install(data, device, monkeypatch):
    x, y, _ = data
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match=r'L-BFGS needs SciPy: pip install "mlp-xp\[sklearn\]"'):
        to_the_end(train(deep(device), full(x, y), optimizer="lbfgs"))


def test_ctrl_c_inside_an_evaluation_leaves_the_last_iterate(data, device):
    class Rows(ArraySource):
        n_reads = 0

        def rows(self, *arrays):
            self.n_reads += 1
            if self.n_reads == 60:
                raise KeyboardInterrupt
            super().rows(*arrays)

    x, y, _ = data
    network, seen = deep(device), []
    run = train(network, full(Rows(x, y), chunk_rows=9), optimizer="lbfgs")
    with pytest.raises(KeyboardInterrupt):
        seen.extend(host(network.parameters.flat).copy() for _ in run)
    assert len(seen) > 2
    np.testing.assert_array_equal(host(network.parameters.flat), seen[-1])
