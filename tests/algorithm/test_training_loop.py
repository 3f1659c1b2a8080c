"""Training: known trajectories, what a break leaves behind, why it stops, what it refuses."""

import itertools
import math
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from arrays import host, readonly

from mlp_xp.initializers import Given
from mlp_xp.losses import LogisticLink, SoftmaxLink
from mlp_xp.network import Network
from mlp_xp.optimizers import OPTIMIZERS, SGD, Adam
from mlp_xp.rows.loader import Loader
from mlp_xp.run.epoch import Epoch
from mlp_xp.training import train

N_ROWS = 24
RULES = [name for name in OPTIMIZERS if name != "lbfgs"]
EVERY_OPTIMIZER = [*RULES, pytest.param("lbfgs", marks=pytest.mark.needs("scipy"))]


@pytest.fixture
def data():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(N_ROWS, 3))
    y = np.sin(x @ generator.normal(size=(3, 2)))
    return readonly(x), readonly(y), readonly(generator.integers(0, 3, N_ROWS), dtype=float)


def make(device, sizes=(3, 6, 2), **options):
    return Network(
        sizes, **{"activation": "tanh", "device": device, "dtype": "float64", "seed": 4, **options}
    )


def full(*data, **options):
    return Loader(*data, batch_size="full", **options)


def to_the_end(epochs):
    return list(epochs)[-1]


def flat(network):
    return host(network.parameters.flat)


# Trajectories that are known.


@pytest.mark.parametrize("chunk_rows", [5, 4096])
def test_gradient_descent_on_a_linear_network_has_a_closed_form(data, device, chunk_rows):
    # J = Σ (y − x w)² / n is quadratic: w_t = w* + (1 − 2 η XᵀX / n)ᵗ (w_0 − w*).
    x, y, _ = data
    network = make(device, (3, 2), bias=False)
    start = flat(network).reshape(3, 2)
    loader = full(x, y, chunk_rows=chunk_rows)
    to_the_end(train(network, loader, optimizer="sgd", learning_rate=0.05, max_epochs=40))
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    shrinks = np.linalg.matrix_power(np.eye(3) - 2 * 0.05 * x.T @ x / N_ROWS, 40)
    np.testing.assert_allclose(flat(network).reshape(3, 2), best + shrinks @ (start - best), rtol=1e-11)


def test_gradient_descent_on_a_deep_linear_network_by_hand(data, device):
    x, y, _ = data
    network = make(device, (3, 4, 2), activation="identity", bias=False)
    first, second = (host(weights) for weights in network.parameters.weights)
    losses = []
    for _ in range(30):
        miss = x @ first @ second - y
        losses.append((miss**2).sum() / N_ROWS)
        up, down = x.T @ miss @ second.T, (x @ first).T @ miss
        first, second = first - 0.02 * 2 / N_ROWS * up, second - 0.02 * 2 / N_ROWS * down
    found = [
        e.train_loss for e in train(network, full(x, y), optimizer=SGD(), learning_rate=0.02, max_epochs=30)
    ]
    np.testing.assert_allclose(found, losses, rtol=1e-11)
    np.testing.assert_allclose(host(network.parameters.weights[0]), first, rtol=1e-10)
    np.testing.assert_allclose(host(network.parameters.weights[1]), second, rtol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mini_batches_by_hand(data, device, reduction):
    # Ragged last batch, sample weights, ridge penalty and a falling rate; one batch weighs nothing.
    x, y, _ = data
    s = np.random.default_rng(0).uniform(0, 2, N_ROWS)
    s[7:14] = 0
    network = make(device, (3, 2), bias=False)
    w, rates, losses = flat(network).reshape(3, 2), [], []
    for epoch in range(4):
        total, weight, penalties = 0.0, 0.0, []
        for start in range(0, N_ROWS, 7):
            rows = slice(start, start + 7)
            miss = x[rows] @ w - y[rows]
            divisor = s[rows].sum()
            if divisor == 0:
                continue
            total += (s[rows, None] * miss**2).sum()
            penalties.append(0.1 * (w**2).sum())
            weight += divisor
            slope = 2 * x[rows].T @ (s[rows, None] * miss) + 2 * 0.1 * w
            w = w - 0.01 * 0.5**epoch * slope / (divisor if reduction == "mean" else 1.0)
        mean = (total + sum(penalties)) / weight
        losses.append(mean if reduction == "mean" else total + np.mean(penalties))
        rates.append(0.01 * 0.5**epoch)
    loader = Loader(x, y, s, batch_size=7, order="sequential")
    epochs = list(
        train(
            network,
            loader,
            optimizer="sgd",
            learning_rate=0.01,
            regularizer="l2:strength=0.1",
            schedule="step:every=1,factor=0.5",
            reduction=reduction,
            max_epochs=4,
        )
    )
    np.testing.assert_allclose(flat(network).reshape(3, 2), w, rtol=1e-11)
    np.testing.assert_allclose([epoch.train_loss for epoch in epochs], losses, rtol=1e-11)
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates)
    assert all(epoch.steps == 4 and epoch.n_rows == N_ROWS for epoch in epochs)


@pytest.mark.parametrize("optimizer", RULES)
def test_whole_weights_train_like_repeated_rows(data, device, optimizer):
    # Class weights are sample weights: a class that counts twice is a class seen twice.
    x, y, s = data
    again = np.repeat(np.arange(N_ROWS), s.astype(int))
    networks = [make(device), make(device)]
    for network, loader in zip(networks, (full(x, y, s), full(x[again], y[again])), strict=True):
        to_the_end(train(network, loader, optimizer=optimizer, learning_rate=0.01, max_epochs=20))
    np.testing.assert_allclose(flat(networks[0]), flat(networks[1]), rtol=1e-8)


@pytest.mark.parametrize("optimizer", RULES)
def test_rows_that_weigh_nothing_change_nothing(data, device, optimizer):
    x, y, _ = data
    s = readonly(np.arange(N_ROWS) % 3 != 0, dtype=float)
    kept = s > 0
    networks = [make(device), make(device)]
    options = {"batch_size": 1, "order": "sequential"}
    loaders = (Loader(x, y, s, **options), Loader(x[kept], y[kept], **options))
    for network, loader in zip(networks, loaders, strict=True):
        to_the_end(train(network, loader, optimizer=optimizer, regularizer="l2", max_epochs=3))
    np.testing.assert_array_equal(flat(networks[0]), flat(networks[1]))


def test_the_sum_over_all_rows_is_the_mean_at_a_smaller_rate(data, device):
    x, y, _ = data
    networks = [make(device), make(device)]
    to_the_end(train(networks[0], full(x, y), optimizer="sgd", learning_rate=0.24, max_epochs=10))
    to_the_end(
        train(
            networks[1],
            full(x, y),
            optimizer="sgd",
            learning_rate=0.24 / N_ROWS,
            reduction="sum",
            max_epochs=10,
        )
    )
    np.testing.assert_allclose(flat(networks[0]), flat(networks[1]), rtol=1e-11)


def test_clipping_bounds_the_way_of_each_step(data, device):
    x, y, _ = data
    network = make(device)
    before = flat(network)
    for _ in train(network, full(x, y), optimizer="sgd", learning_rate=1.0, clip_norm=1e-3, max_epochs=5):
        way = np.linalg.norm(flat(network) - before)
        assert way == pytest.approx(1e-3)
        before = flat(network)


@pytest.mark.parametrize("optimizer", RULES)
def test_every_rule_lowers_the_loss(data, device, optimizer):
    x, y, _ = data
    loader = Loader(x, y, batch_size=8)
    epochs = list(train(make(device), loader, optimizer=optimizer, learning_rate=0.01, max_epochs=150))
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss


# What every run promises.


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_the_same_run_twice_gives_the_same_bits(data, device, optimizer):
    x, y, s = data
    ends, losses = [], []
    for _ in range(2):
        network = make(device, dtype="float32")
        lbfgs = optimizer == "lbfgs"
        loader = Loader(x, y, s, batch_size="full" if lbfgs else 5, seed=1)
        dropout = 0.0 if lbfgs else 0.3
        run = train(network, loader, optimizer=optimizer, dropout=dropout, max_epochs=8, seed=2)
        losses.append([epoch.train_loss for epoch in run])
        ends.append(flat(network))
    np.testing.assert_array_equal(*ends)
    assert losses[0] == losses[1]
    assert ends[0].dtype == np.float32


def test_the_seeds_of_order_and_dropout_matter(data, device):
    x, y, _ = data

    def end(order_seed, seed):
        network = make(device)
        loader = Loader(x, y, batch_size=5, seed=order_seed)
        to_the_end(train(network, loader, dropout=0.5, max_epochs=2, seed=seed))
        return flat(network)

    assert not np.array_equal(end(0, 0), end(1, 0))
    assert not np.array_equal(end(0, 0), end(0, 1))


def test_dropout_does_not_depend_on_the_chunks(data, device):
    x, y, s = data
    networks = [make(device), make(device)]
    for network, chunk_rows in zip(networks, (4, 4096), strict=True):
        loader = Loader(x, y, s, batch_size=11, chunk_rows=chunk_rows)
        to_the_end(train(network, loader, dropout=[0.5], max_epochs=5))
    np.testing.assert_allclose(flat(networks[0]), flat(networks[1]), rtol=1e-9)


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_users_arrays_are_never_written(data, device, optimizer, dtype):
    # They are read-only, in the dtype of the network and in another.
    x, y, s = (readonly(part, dtype="float64") for part in data)
    loader = full(x, y, s)
    validation = Loader(x[:4], y[:4], s[:4], batch_size=4)
    network = make(device, dtype=dtype)
    to_the_end(train(network, loader, optimizer=optimizer, validation=validation, max_epochs=3))
    assert flat(network).dtype == np.dtype(dtype)
    assert np.isfinite(network.predict(x)).all()


@pytest.mark.parametrize("order", ["shuffled", "with_replacement", "blocks", "sequential"])
def test_every_order_trains(data, device, order):
    x, y, _ = data
    loader = Loader(x, y, batch_size=6, order=order)
    epochs = list(train(make(device), loader, learning_rate=0.01, max_epochs=60))
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_class_numbers_are_learned_and_predicted_as_probabilities(device):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 90)
    x = generator.normal(size=(90, 2)) * 0.3 + np.array([[0, 2], [2, -1], [-2, -1]])[labels]
    network = make(device, (2, 8, 3))
    assert network.predict(x).min() < 0
    run = train(
        network,
        Loader(x, labels, batch_size=10),
        loss="softmax_cross_entropy",
        learning_rate=0.02,
        max_epochs=40,
    )
    to_the_end(run)
    assert network.output == SoftmaxLink()
    probabilities = network.predict(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    raw = network.predict(x, output="raw")
    assert (raw.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_one_row_trains_and_a_batch_of_more_says_so(device):
    with pytest.warns(UserWarning, match="more than the 1 rows"):
        loader = Loader([[1.0, 2.0]], [3.0], batch_size=10)
    network = make(device, (2, 1))
    epochs = list(train(network, loader, optimizer="sgd", learning_rate=0.05, max_epochs=50))
    assert epochs[-1].train_loss < 1e-6


# The generator.


def test_epochs_are_numbered_and_timed(data, device):
    x, y, _ = data
    epochs = list(train(make(device), Loader(x, y, batch_size=5), max_epochs=4))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert all(isinstance(epoch, Epoch) and epoch.steps == 5 for epoch in epochs)
    seconds = [epoch.seconds for epoch in epochs]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert [epoch.stopped for epoch in epochs] == [None, None, None, "reached 4 epochs"]
    assert epochs[0].validation_loss is None


def test_nothing_happens_before_the_first_epoch_is_asked_for(data, device):
    x, y, _ = data
    network = make(device)
    before = flat(network)
    epochs = train(network, full(x, y))
    np.testing.assert_array_equal(flat(network), before)
    next(epochs)
    assert not np.array_equal(flat(network), before)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_break_leaves_the_weights_of_the_epoch_yielded(data, device, keep):
    x, y, _ = data
    network = make(device)
    for epoch in train(network, Loader(x, y, batch_size=5), keep=keep, learning_rate=0.5):
        at_yield = flat(network)
        if epoch.number == 5:
            break
    np.testing.assert_array_equal(flat(network), at_yield)
    five = make(device)
    to_the_end(train(five, Loader(x, y, batch_size=5), learning_rate=0.5, max_epochs=5))
    np.testing.assert_array_equal(flat(five), at_yield)


def bumpy(data, device, **options):
    """A run whose losses rise and fall, with the weights of each epoch."""
    x, y, _ = data
    network = make(device)
    validation = full(x[::3], y[::3])
    run = train(network, Loader(x, y, batch_size=5), learning_rate=0.3, validation=validation, **options)
    return network, [(epoch, flat(network), host(epoch.best_parameters)) for epoch in run]


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_best_weights_are_known_and_kept_when_asked_for(data, device, keep):
    network, seen = bumpy(data, device, max_epochs=25, keep=keep)
    losses = [epoch.validation_loss for epoch, *_ in seen]
    best = int(np.argmin(losses))
    assert best < 24  # the last epoch is not the best: the test shows something
    for number, (epoch, weights, best_so_far) in enumerate(seen):
        assert epoch.is_best == (losses[number] < min(losses[:number], default=math.inf))
        np.testing.assert_array_equal(best_so_far, seen[int(np.argmin(losses[: number + 1]))][1])
        if epoch.is_best:
            np.testing.assert_array_equal(best_so_far, weights)
    np.testing.assert_array_equal(flat(network), seen[best][1] if keep == "best" else seen[-1][1])


def test_of_equal_losses_the_first_is_the_best(device):
    x = readonly(np.ones((4, 3)))
    network = make(device, dtype="float64")
    epochs = train(network, full(x, x[:, :2]), optimizer="sgd", learning_rate=1e-30, max_epochs=3)
    assert [epoch.is_best for epoch in epochs] == [True, False, False]


def test_best_parameters_of_an_epoch_stay_as_they_are(data, device):
    x, y, _ = data
    epochs = list(train(make(device), full(x, y), learning_rate=0.01, max_epochs=5))
    vectors = [host(epoch.best_parameters) for epoch in epochs]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(vectors))


@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd"}, {"average": 0.5}], ids=str)
def test_as_many_vectors_as_are_counted(options, monkeypatch):
    """Also while a better epoch is kept: a batch of "auto" rows gets the rest of the memory."""
    counted = []
    monkeypatch.setattr(Loader, "fit_memory", lambda loader, per_row, fixed, free: counted.append(fixed))
    network = Network((1000, 3000, 1), dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    loader = Loader(rng.normal(size=(4, 1000)), rng.normal(size=(4, 1)))
    tracemalloc.start()
    try:
        epochs = train(network, loader, max_epochs=3, learning_rate=1e-5, way="plain", **options)
        losses = [epoch.train_loss for epoch in epochs]  # an epoch itself keeps its best weights
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert losses == sorted(losses, reverse=True)  # each one was better
    own = network.parameters.flat.nbytes
    assert counted[0] - own < taken + own < counted[0] + own / 2


def test_the_validation_loss_is_that_of_the_weights_without_penalty_and_dropout(data, device):
    x, y, s = data
    network = make(device)
    validation = Loader(x[:9], y[:9], s[:9], batch_size=4)
    run = train(
        network,
        Loader(x[9:], y[9:], batch_size=4),
        validation=validation,
        regularizer="l2:strength=3",
        dropout=0.5,
        max_epochs=3,
    )
    for epoch in run:
        miss = ((network.predict(x[:9]) - y[:9]) ** 2).sum(axis=1)
        assert epoch.validation_loss == pytest.approx((s[:9] * miss).sum() / s[:9].sum(), rel=1e-12)


@pytest.mark.parametrize(("loss", "n_outputs"), [("binary_cross_entropy", 1), ("softmax_cross_entropy", 2)])
def test_the_validation_loss_is_that_of_labels_as_they_are(loss, n_outputs, device):
    x = readonly(np.random.default_rng(0).normal(size=(40, 3)))
    y = (x[:, 0] > 0).astype(np.int64)
    network, loader = (
        Network((3, 4, n_outputs), dtype="float64", device=device),
        Loader(x[:30], y[:30], batch_size=10),
    )
    held_out = Loader(x[30:], y[30:], batch_size="full")
    named = f"{loss}:label_smoothing=0.3"
    (epoch,) = train(network, loader, loss=named, validation=held_out, max_epochs=1)
    p = host(network.predict(x[30:]))
    p = np.column_stack([1 - p, p]) if n_outputs == 1 else p
    assert epoch.validation_loss == pytest.approx(np.mean(-np.log(p[np.arange(10), y[30:]])), rel=1e-9)


def test_looking_at_validation_rows_changes_nothing(data, device):
    x, y, _ = data
    networks = [make(device), make(device)]
    for network, validation in zip(networks, (None, Loader(x, y, batch_size=7)), strict=True):
        loader = Loader(x, y, batch_size=5)
        to_the_end(train(network, loader, validation=validation, dropout=0.2, max_epochs=5))
    np.testing.assert_array_equal(flat(networks[0]), flat(networks[1]))


def test_schedules_that_watch_the_loss(data, device):
    x, y, _ = data
    run = train(
        make(device),
        full(x, y),
        optimizer="sgd",
        learning_rate=1e-3,
        max_epochs=9,
        schedule="reduce_on_plateau:patience=2,tolerance=1000,factor=0.5",
    )
    rates = [epoch.learning_rate / 1e-3 for epoch in run]
    # The first loss is always an improvement; then two epochs without one, and so on.
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125])


def test_schedules_that_change_at_every_step(data, device):
    x, y, _ = data
    run = train(
        make(device),
        Loader(x, y, batch_size=6),
        schedule="warm_up:n_steps=10",
        learning_rate=1.0,
        optimizer="sgd",
        max_epochs=3,
        clip_norm=1e-3,
    )
    assert [epoch.learning_rate for epoch in run] == pytest.approx([0.4, 0.8, 1.0])  # at the last step


# Why it stops.


def test_it_stops_where_the_loss_no_longer_improves(data, device):
    x, y, _ = data
    run = train(make(device), full(x, y), optimizer="sgd", learning_rate=0.1, patience=3, tolerance=1e-3)
    epochs = list(run)
    assert epochs[-1].stopped == "the training loss did not fall by more than 0.001 for 3 epochs"
    losses = [epoch.train_loss for epoch in epochs]
    for n in range(4, len(losses) + 1):
        stalled = min(losses[n - 3 : n]) >= min(losses[: n - 3]) - 1e-3
        assert stalled == (n == len(losses))


def test_it_stops_where_the_loss_is_good_enough(data, device):
    x, y, _ = data
    epochs = list(train(make(device), full(x, y), learning_rate=0.01, loss_below=0.3))
    assert epochs[-1].stopped == "loss below 0.3"
    assert epochs[-1].train_loss < 0.3 <= min(epoch.train_loss for epoch in epochs[:-1])


def test_it_stops_when_the_time_is_used_up(data, device):
    x, y, _ = data
    epochs = list(train(make(device), full(x, y), time_budget=1e-9))
    assert [epoch.stopped for epoch in epochs] == ["time budget of 1e-09 seconds used"]


def test_the_callers_time_is_not_trainings_time(data, device, monkeypatch):
    from mlp_xp.run import clock as clock_room

    now = [0.0]

    def clock():
        now[0] += 1.0  # a second for every look at it
        return now[0]

    monkeypatch.setattr(clock_room.time, "perf_counter", clock)
    seconds = []
    for epoch in train(make(device), full(*data[:2], prefetch="never"), max_epochs=3):
        seconds.append(epoch.seconds)
        now[0] += 1000.0
    assert 0 < seconds[0] < seconds[1] < seconds[2] < 500


# Divergence.


def growing(device, learning_rate=500.5, n_rows=5, **options):
    """A weight w_0 = 1 that every step multiplies by 1 − 2 η, −1000: its square leaves float64 in step 53."""
    network = Network((1, 1), bias=False, initializer=Given([[[1.0]]]), device=device, dtype="float64")
    loader = Loader(np.ones((n_rows, 1)), np.zeros(n_rows), batch_size=1)
    return network, train(network, loader, optimizer="sgd", learning_rate=learning_rate, **options)


def test_divergence_names_epoch_step_and_rate_and_keeps_the_last_good_weights(device):
    network, run = growing(device)
    epochs = []
    with pytest.raises(FloatingPointError) as caught:
        epochs.extend(epoch for epoch in run)
    message = str(caught.value)
    assert "loss became infinite or nan in epoch 11, step 3 of 5 (learning_rate=500.5)" in message
    assert "Lower the learning rate" in message
    assert "the parameters of epoch 10 are kept" in message
    np.testing.assert_allclose(flat(network), [1e150], rtol=1e-12)


def test_divergence_yields_the_good_epochs_first(device):
    _, run = growing(device)
    good = list(itertools.islice(run, 10))
    assert [epoch.number for epoch in good] == list(range(1, 11))
    assert all(math.isfinite(epoch.train_loss) for epoch in good)
    with pytest.raises(FloatingPointError):
        next(run)


def test_weights_that_leave_the_numbers_in_the_last_step(device):
    network = Network((1, 1), bias=False, initializer=Given([[[1.0]]]), device=device, dtype="float64")
    run = train(network, full([[1.0]], [0.0]), optimizer="sgd", learning_rate=1.5e308)
    with pytest.raises(FloatingPointError, match=r"weights became infinite or nan in epoch 1, .* of 1 steps"):
        next(run)
    np.testing.assert_array_equal(flat(network), [1.0])


def test_losses_that_are_finite_and_their_sum_is_not(device):
    network = Network((1, 1), bias=False, initializer=Given([[[1.0]]]), device=device, dtype="float64")
    loader = Loader(np.full((2, 1), 1.2e154), np.zeros(2), batch_size=1)  # L = 1.44e308 in each of two steps
    run = train(network, loader, optimizer="sgd", learning_rate=1e-320)
    with pytest.raises(FloatingPointError, match="became infinite or nan in epoch 1"):
        next(run)
    np.testing.assert_array_equal(flat(network), [1.0])


def test_divergence_in_the_first_epoch_keeps_the_starting_weights(data, device):
    x, y, _ = data
    network = make(device, (3, 2))
    before = flat(network)
    run = train(network, full(1e200 * x, y), optimizer="sgd")
    with pytest.raises(
        FloatingPointError, match=r"in epoch 1, step 1 of 1 .* before the first epoch are kept"
    ):
        next(run)
    np.testing.assert_array_equal(flat(network), before)


@pytest.mark.parametrize("prefetch", ["always", "never"])
def test_divergence_is_an_error_and_no_warning(data, device, prefetch):
    x, y, _ = data
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(FloatingPointError):
            to_the_end(
                train(
                    make(device, (3, 2)),
                    Loader(x, np.abs(y), batch_size=4, prefetch=prefetch),
                    loss="poisson",
                    optimizer="sgd",
                    learning_rate=1e6,
                )
            )
    assert seen == []


def test_rolling_back_halves_the_rate_until_training_goes_on(device):
    # In 60 steps 1 − 2 η = −250 still fits, at the third try; then only a rate below 1 does, at the tenth.
    network, run = growing(device, n_rows=60, on_divergence="rollback", max_epochs=3)
    with pytest.warns(UserWarning, match="Rolled back to the best epoch so far") as seen:
        epochs = list(run)
    assert len(seen) == 9
    assert "with half the learning rate (9 of 10 times)" in str(seen[-1].message)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    rates = [500.5 / 4, 500.5 / 512, 500.5 / 512]
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates)
    np.testing.assert_allclose(flat(network), [np.prod([(1 - 2 * rate) ** 60 for rate in rates])], rtol=1e-9)


def test_rolling_back_ends(device):
    # 1 − 2 η is −6.8 even after ten halvings.
    network, run = growing(device, learning_rate=4004.0, on_divergence="rollback")
    with pytest.warns(UserWarning, match="of 10 times") as seen, pytest.raises(FloatingPointError):
        to_the_end(run)
    assert len(seen) == 10
    assert np.isfinite(flat(network)).all()


# Going on.


BATCHES = {"batch_size": 5, "chunk_rows": 3}


@pytest.mark.parametrize("optimizer", RULES)
def test_a_run_goes_on_from_its_state_bit_for_bit(data, device, optimizer):
    x, y, s = data

    def run(network, **options):
        return train(
            network,
            Loader(x, y, s, **BATCHES),
            optimizer=optimizer,
            dropout=0.2,
            max_epochs=9,
            schedule="one_cycle",
            regularizer="l1",
            validation=full(x, y),
            keep="best",
            patience=4,
            **options,
        )

    straight, left, resumed = make(device), make(device), make(device, seed=99)
    expected = list(run(straight))
    for epoch in run(left):
        if epoch.number == 3:
            state = epoch.state()
            break
    found = list(run(resumed, state=state))
    np.testing.assert_array_equal(flat(resumed), flat(straight))
    assert [epoch.number for epoch in found] == [epoch.number for epoch in expected[3:]]
    for one, other in zip(found, expected[3:], strict=True):
        assert one.train_loss == other.train_loss
        assert one.validation_loss == other.validation_loss
        assert one.learning_rate == other.learning_rate
        assert one.is_best == other.is_best
        assert one.stopped == other.stopped


class StateAfter:
    """Keeps the run's state after one step."""

    def __init__(self, step):
        self.step, self.state = step, None

    def asks_in(self, training):
        return 1

    def after_step(self, training):
        if training.history.step == self.step:
            self.state = training.state()

    def after_epoch(self, training):
        pass


def test_ones_own_checkpoints_see_every_step_unless_they_say_otherwise(data):
    class Own:
        def __init__(self):
            self.steps = []

        def after_step(self, training):
            self.steps.append(training.history.step)

        def after_epoch(self, training):
            pass

    class Patient(Own):
        def asks_in(self, training):
            return sys.maxsize

    x, y, s = data
    seen = []
    for own in (Own(), Patient()):
        network = Network((x.shape[1], 3, y.shape[1]), dtype="float64")
        to_the_end(train(network, Loader(x, y, s, **BATCHES), max_epochs=60, checkpoints=own))
        seen.append((own.steps, flat(network)))
    assert seen[0][0] == list(range(1, 301))
    assert seen[1][0][-1] == 300
    np.testing.assert_allclose(seen[0][1], seen[1][1])


@pytest.mark.parametrize("step", [1, 7, 10, 11])
def test_a_run_goes_on_inside_an_epoch(data, device, step):
    x, y, s = data  # five steps an epoch

    def run(network, **options):
        return train(
            network,
            Loader(x, y, s, **BATCHES),
            dropout=0.2,
            max_epochs=4,
            schedule="step:every=1,factor=0.5",
            **options,
        )

    straight, resumed = make(device), make(device, seed=99)
    kept = StateAfter(step)
    expected = list(run(straight, checkpoints=kept))
    found = list(run(resumed, state=kept.state))
    np.testing.assert_array_equal(flat(resumed), flat(straight))
    assert [epoch.train_loss for epoch in found] == [
        epoch.train_loss for epoch in expected if epoch.number >= found[0].number
    ]
    assert len(found) == 4 - (step - 1) // 5


def test_a_finished_run_has_nothing_to_go_on_with(data, device):
    x, y, _ = data
    network = make(device)
    last = to_the_end(train(network, full(x, y), max_epochs=3))
    assert list(train(network, full(x, y), max_epochs=3, state=last.state())) == []
    longer = list(train(network, full(x, y), max_epochs=5, state=last.state()))
    assert [epoch.number for epoch in longer] == [4, 5]


def test_a_state_of_another_network_is_refused(data, device):
    x, y, _ = data
    state = next(train(make(device), full(x, y), optimizer="sgd")).state()
    for network, options in ((make(device, (3, 7, 2)), {"optimizer": "sgd"}), (make(device), {})):
        before = flat(network)
        with pytest.raises(ValueError, match=r"the state has arrays of shapes .* go on with the same ones"):
            train(network, full(x, y), state=state, **options)
        np.testing.assert_array_equal(flat(network), before)


# What it refuses, before anything changes.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0}, ValueError, "learning_rate=0 must be a finite number > 0"),
        ({"max_epochs": 2.5}, ValueError, "max_epochs=2.5 must be a whole number >= 1"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate=nan"),
        ({"loss": "squared"}, ValueError, "unknown loss 'squared'; did you mean 'squared_error'"),
        ({"loss": 3}, TypeError, "loss=3 must be a name"),
        ({"optimizer": "adm"}, ValueError, "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"optimizer": "adam:beta1=2"}, ValueError, "beta1=2"),
        ({"schedule": "cosin"}, ValueError, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"regularizer": "l3"}, ValueError, "unknown regularizer 'l3'"),
        ({"regularizer": 0.1}, TypeError, "regularizer=0.1 must be a name"),
        ({"dropout": 1}, ValueError, "dropout=1 must be a finite number >= 0 and < 1"),
        ({"dropout": [0.1, 0.1]}, ValueError, "dropout has 2 rates, but this network has 1 hidden layers"),
        ({"loss": "softmax_cross_entropy"}, ValueError, "one column of class numbers, but y has 2 columns"),
        ({"loss": "poisson"}, ValueError, "targets >= 0"),
        ({"loss": "binary_cross_entropy"}, ValueError, r"targets in \[0, 1\], but row 0, column 0"),
        ({"loss": "pinball:quantiles=0.1/0.9"}, ValueError, "needs a network with 4 outputs, but it has 2"),
        ({"optimizer": "lbfgs"}, ValueError, "it takes batch_size='full'"),
    ],
)
def test_arguments_that_are_refused(data, device, options, error, message):
    x, y, _ = data
    network = make(device)
    network.output = LogisticLink()
    before = flat(network)
    with pytest.raises(error, match=message):
        train(network, Loader(x, y - 2, batch_size=5), **options)
    np.testing.assert_array_equal(flat(network), before)
    assert network.output == LogisticLink()


def test_all_bad_numbers_are_refused_in_one_error(data, device):
    bad = {
        "learning_rate": -1,
        "max_epochs": 0,
        "tolerance": -1,
        "seed": -1,
        "clip_norm": 0,
        "patience": 0,
        "loss_below": "x",
        "time_budget": 0,
    }
    with pytest.raises(ValueError) as caught:
        train(make(device), full(*data[:2]), reduction="men", keep="bst", **bad)
    message = str(caught.value)
    assert len(message.splitlines()) == 10
    assert all(f"{name}={value!r} must be" in message for name, value in bad.items())
    assert "unknown reduction 'men'; did you mean 'mean'? Known: mean, sum." in message
    assert "unknown keep 'bst'; did you mean 'best'? Known: last, best." in message


@pytest.mark.parametrize("part", ["loader", "validation"])
@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (
            np.ones((4, 2)),
            np.ones((4, 2)),
            {},
            r"x has 2 columns, but this network was built for 3 \(layer_sizes=\(3, 6, 2\)\)",
        ),
        (np.ones((4, 3)), np.ones((4, 1)), {}, "y has 1 target columns, .* 1 outputs, but it has 2"),
        (np.ones((4, 3)), None, {}, "there are no targets to learn: give the loader y"),
        (
            np.ones((4, 3)),
            np.ones((4, 2)),
            {"member_weight": np.ones((4, 5))},
            "member_weight has 5 columns, one for each member, but this network has none",
        ),
        (
            np.ones((4, 3)),
            np.ones((4, 2)),
            {"dtype": "float32"},
            "made for .* and float32, but the network is on .* in float64",
        ),
    ],
)
def test_loaders_that_do_not_fit(data, device, part, x, y, options, message):
    network = make(device)
    before = flat(network)
    loaders = {"loader": full(*data[:2]), "validation": full(*data[:2])}
    loaders[part] = full(x, y, **options)
    with pytest.raises(ValueError, match=message):
        train(network, **loaders)
    np.testing.assert_array_equal(flat(network), before)


@pytest.mark.parametrize("arguments", [(None, 0), (0, None)])
def test_things_that_are_no_network_or_loader(data, device, arguments):
    network, loader = make(device), full(*data[:2])
    given = [
        right if place is None else data[0] for place, right in zip(arguments, (network, loader), strict=True)
    ]
    with pytest.raises(TypeError, match=r"must be a (Network|Loader)"):
        train(*given)


def test_names_classes_and_instances_mean_the_same(data, device):
    x, y, _ = data
    ends = []
    for optimizer in ("adam", Adam, Adam(), {"name": "adam"}, "adam:beta1=0.9"):
        network = make(device)
        to_the_end(train(network, full(x, y), optimizer=optimizer, max_epochs=3))
        ends.append(flat(network))
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


@pytest.mark.parametrize("what", ["x", "y"])
def test_numbers_that_float32_rounds_together_are_said(what, rng):
    seconds = 1_700_000_000.0 + rng.integers(0, 1000, (40, 1))
    x, y = (seconds, np.zeros((40, 1))) if what == "x" else (np.ones((40, 1)), seconds)
    with pytest.warns(UserWarning, match=rf"{what}\[:, 0\]: float32 has steps of 203 at 1.7e\+09"):
        train(Network((1, 1)), Loader(x, y, batch_size=10)).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Network((1, 1), dtype="float64"), Loader(x, y, batch_size=10)).close()
        train(
            Network((1, 2)),
            Loader(np.ones((40, 1)), seconds[:, 0] > 0, batch_size=10),
            loss="softmax_cross_entropy",
        ).close()


def test_a_run_that_nobody_iterates_warns(rng):
    loader = Loader(rng.normal(size=(40, 1)), rng.normal(size=40), batch_size=10)
    with pytest.warns(RuntimeWarning, match="nothing was trained: train.. gives epochs"):
        train(Network((1, 1)), loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs = train(Network((1, 1)), loader, max_epochs=3)
        assert "best_parameters" not in repr(next(epochs))
        assert repr(next(epochs).training.history).startswith("History(epochs=2, step=8, train_loss=")
        epochs.close()
        assert list(epochs) == []
