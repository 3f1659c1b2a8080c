"""An average of the weights; factors on the rate; dropout and decay that follow schedules."""

import numpy as np
import pytest
from arrays import host

from mlp_xp import Loader, Network, train
from mlp_xp.averaging import Average
from mlp_xp.dropout import Dropout
from mlp_xp.history import History
from mlp_xp.losses import SoftmaxCrossEntropy
from mlp_xp.optimizers import SGD, Adam, AdamW, Optimizer, RateFactors
from mlp_xp.parameters import Parameters
from mlp_xp.schedules import FlatCosine

SIZES = (4, 3, 1)


def test_it_is_the_mean_of_the_first_steps_then_exponential(backend):
    parameters = Parameters(backend, (1, 1), False)
    average = Average(parameters, 0.3, 10)  # the last three
    expected = 0.0
    for t, value in enumerate([4.0, 8.0, 3.0, 7.0, 11.0], start=1):
        parameters.flat[...] = value
        average.take(t)
        expected += (value - expected) / min(t, 3)
        assert float(average.flat[0]) == pytest.approx(expected)
    assert expected == pytest.approx((((4 + 8 + 3) / 3) * 2 / 3 + 7 / 3) * 2 / 3 + 11 / 3)


def test_it_is_in_use_only_until_training_goes_on(backend):
    parameters = Parameters(backend, (1, 1), False)
    average = Average(parameters, 0.3, 10)
    parameters.flat[...] = 5.0
    average.use()
    average.use()
    assert (float(parameters.flat[0]), float(average.trained[0]), float(average.mean[0])) == (0.0, 5.0, 0.0)
    average.go_on()
    average.go_on()
    assert (float(parameters.flat[0]), float(average.trained[0]), float(average.mean[0])) == (5.0, 5.0, 0.0)


def problem(rng, n_rows=64):
    x = rng.normal(size=(n_rows, 4))
    return x, np.sin(x[:, :1]) + x[:, 1:2]


def run(x, y, *, validation=None, state=None, stop_after=None, way="fast", **options):
    network = Network(SIZES, activation="tanh", seed=2, input_scale=True, dtype="float64")
    loader = Loader(x, y, batch_size=16, seed=3)
    held_out = None if validation is None else Loader(*validation, batch_size="full")
    run = train(network, loader, validation=held_out, state=state, way=way, **options)
    for epoch in run:
        if epoch.number == stop_after:
            break
    return network, epoch


def test_a_run_gives_the_average_of_its_weights(rng):
    x, y = problem(rng)
    options = {"optimizer": "sgd", "learning_rate": 0.05}
    weights = []
    for n_steps in range(1, 13):  # one step an epoch: the weights after each
        network = Network(SIZES, activation="tanh", seed=2, input_scale=True, dtype="float64")
        *_, _last = train(network, Loader(x, y, batch_size="full"), max_epochs=n_steps, **options)
        weights.append(network.parameters.to_host())
    mean = np.zeros_like(weights[0])
    for t, now in enumerate(weights, start=1):
        mean += (now - mean) / max(1, min(t, 0.5 * 12))
    network = Network(SIZES, activation="tanh", seed=2, input_scale=True, dtype="float64")
    *_, _last = train(network, Loader(x, y, batch_size="full"), max_epochs=12, average=0.5, **options)
    np.testing.assert_allclose(network.parameters.to_host(), mean, rtol=1e-12)


def test_validation_judges_the_average_and_the_best_one_is_kept(rng):
    x, y = problem(rng)
    options = {"average": 0.2, "max_epochs": 15, "learning_rate": 0.05, "keep": "best"}
    network, last = run(x, y, validation=(x, y), **options)
    history = last.training.history
    error = np.mean(np.square(network.predict(x) - y))
    assert error == pytest.approx(history.best_loss)
    network, epoch = run(x, y, validation=(x, y), stop_after=4, **options)
    assert np.mean(np.square(network.predict(x) - y)) == pytest.approx(epoch.validation_loss)


ALL = {
    "optimizer": AdamW(beta2=0.95, weight_decay=0.02),
    "learning_rate": 0.03,
    "schedule": "cosine",
    "rate_factors": RateFactors(),
    "dropout": 0.1,
    "dropout_schedule": "flat_cosine",
    "decay_schedule": "flat_cosine",
    "average": 0.2,
    "max_epochs": 10,
}


@pytest.mark.parametrize("stop_after", [1, 6])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_cut_off(rng, stop_after):
    x, y = problem(rng)
    whole, _ = run(x, y, validation=(x, y), keep="best", **ALL)
    _, epoch = run(x, y, validation=(x, y), keep="best", stop_after=stop_after, **ALL)
    resumed, _ = run(x, y, validation=(x, y), keep="best", state=epoch.state(), **ALL)
    assert resumed.parameters.to_host().tobytes() == whole.parameters.to_host().tobytes()


@pytest.mark.needs("numba")
def test_the_fast_way_differs_from_the_plain_one_by_rounding(rng, monkeypatch):
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    x, y = problem(rng)
    for left_out in ({}, {"dropout": 0.0}, {"dropout": 0.0, "rate_factors": None}, {"average": 0.0}):
        options = ALL | left_out
        fast, plain = (run(x, y, way=way, **options)[0].parameters.to_host() for way in ("fast", "plain"))
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5)


def test_a_group_has_the_steps_of_a_rate_of_its_own(backend, rng):
    parameters = Network(SIZES, input_scale=True, seed=1, device=backend).parameters
    gradient = parameters.zeros_like()
    gradient.flat[...] = backend.asarray(rng.normal(size=parameters.size))
    start, g = host(parameters.flat).copy(), host(gradient.flat)
    Optimizer(SGD(), parameters, RateFactors(biases=0.25, input_scale=3.0)).step(gradient, 0.1)
    factors = np.repeat([1 / 2, 1 / np.sqrt(3), 0.25, 3.0], [12, 3, 4, 4])
    np.testing.assert_allclose(host(parameters.flat), start - 0.1 * factors * g, rtol=1e-5, atol=1e-7)


def test_factors_of_one_change_nothing(rng):
    x, y = problem(rng)
    ones = RateFactors(by_fan_in=False, biases=1.0, input_scale=1.0)
    found = [run(x, y, rate_factors=factors, max_epochs=3)[0] for factors in (None, ones)]
    np.testing.assert_array_equal(*(network.parameters.to_host() for network in found))


def test_decay_has_the_rate_without_factor_and_a_schedule_of_its_own(backend):
    parameters = Network((4, 1), seed=1, device=backend).parameters
    start = host(parameters.weights[0]).copy()
    optimizer = Optimizer(AdamW(weight_decay=0.5), parameters, RateFactors())
    optimizer.decay_factor = 0.4
    optimizer.step(parameters.zeros_like(), 0.1)
    np.testing.assert_allclose(host(parameters.weights[0]), start * (1 - 0.1 * 0.5 * 0.4), rtol=1e-6)
    plain = Optimizer(Adam(), parameters)
    plain.step(parameters.zeros_like(), 0.1)
    np.testing.assert_allclose(host(parameters.weights[0]), start * (1 - 0.1 * 0.5 * 0.4), rtol=1e-6)


def test_dropout_falls_with_its_schedule():
    assert Dropout((0.4, 0.2), 3).times(0.5) == Dropout((0.2, 0.1), 3)
    schedule = FlatCosine(flat=0.5)
    history = History(steps_per_epoch=2, max_epochs=8)
    factors = []
    for history.step in range(17):
        factors.append(schedule(history))
    assert factors[:9] == [1.0] * 9
    assert factors[12] == pytest.approx(0.5)
    assert factors[16] == pytest.approx(0.0)
    assert factors == sorted(factors, reverse=True)


def test_the_watched_loss_may_be_another_one(rng):
    x = rng.normal(size=(60, 2))
    y = (x[:, 0] > 0).astype(int)
    network = Network((2, 2), seed=1)
    smoothed, plain = SoftmaxCrossEntropy(label_smoothing=0.3), SoftmaxCrossEntropy()
    validation = Loader(x, y, batch_size="full")
    *_, epoch = train(
        network, Loader(x, y), loss=smoothed, validation=validation, watched_loss=plain, max_epochs=3
    )
    p = network.predict(x)[np.arange(60), y]
    assert epoch.validation_loss == pytest.approx(-np.log(p).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"average": 1.0}, "average=1.0 must be"),
        ({"dropout_schedule": "cosin"}, "unknown dropout_schedule 'cosin'; did you mean 'cosine'"),
        ({"decay_schedule": "cosin"}, "unknown decay_schedule"),
        ({"watched_loss": "cosin"}, "unknown watched_loss"),
    ],
)
def test_what_is_refused(rng, options, said):
    with pytest.raises(ValueError, match=said):
        run(*problem(rng), **options)
    with pytest.raises(ValueError, match="biases=0"):
        RateFactors(biases=0)
    with pytest.raises(ValueError, match="flat=1"):
        FlatCosine(flat=1)
