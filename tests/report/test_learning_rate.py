"""The range test of learning rates."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from arrays import host

from mlp_xp import Loader, Network, find_learning_rate, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 4))
Y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]


def network(**named):
    return Network((4, 32, 1), seed=1, **named)


def loader():
    return Loader(X, Y, batch_size=32, seed=1)


def test_the_network_is_left_alone_and_the_first_loss_is_that_of_its_weights():
    net = network(dtype="float64")
    before = host(net.parameters.flat).copy()
    found = find_learning_rate(net, loader())
    np.testing.assert_array_equal(host(net.parameters.flat), before)
    first = next(loader().batches(0, net.backend))
    (chunk,) = list(first)
    assert found.losses[0] == pytest.approx(net.gradient(chunk.x, chunk.y)[0], rel=1e-12)


def test_rates_rise_by_a_factor_until_the_loss_explodes():
    found = find_learning_rate(network(), loader(), optimizer="sgd", lowest=1e-4, highest=100.0, n_steps=120)
    assert found.rates[0] == pytest.approx(1e-4)
    np.testing.assert_allclose(found.rates[1:] / found.rates[:-1], 1e6 ** (1 / 119))
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 120
    assert np.isfinite(found.losses).all()
    assert found.suggestion == pytest.approx(0.1 * found.rates[np.argmin(found.smoothed)])


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_what_is_suggested_is_better_than_a_hundredth_of_it(optimizer):
    suggestion = find_learning_rate(network(), loader(), optimizer=optimizer).suggestion
    last = []
    for rate in (suggestion, suggestion / 100):
        epochs = train(network(), loader(), optimizer=optimizer, learning_rate=rate, max_epochs=10)
        last.append([epoch.train_loss for epoch in epochs][-1])
    assert last[0] < 0.6 * last[1]


def test_the_running_mean_is_one_of_the_losses_so_far():
    found = find_learning_rate(network(), loader(), n_steps=30)
    weights = 0.9 ** np.arange(4)[::-1]
    assert found.smoothed[0] == found.losses[0]
    assert found.smoothed[3] == pytest.approx(np.average(found.losses[:4], weights=weights))


def test_classes_and_losses_below_zero(rng):
    classes = Loader(X, (Y > 0).astype(int), batch_size=32)
    net = Network((4, 8, 2), seed=1)
    assert find_learning_rate(net, classes, loss="softmax_cross_entropy").suggestion > 0
    counts = Loader(X, rng.poisson(np.exp(2.0 + X[:, 0] / 2)), batch_size=32)
    assert find_learning_rate(network(), counts, loss="poisson", regularizer="l2").losses.min() < 0


def test_its_picture(tmp_path):
    found = find_learning_rate(network(), loader())
    found.plot(tmp_path / "rates.svg")
    drawn = ET.fromstring((tmp_path / "rates.svg").read_text(encoding="utf-8"))
    text = "".join(drawn.itertext())
    assert "learning rate" in text
    assert f"suggested: {found.suggestion:.2g}" in text
    assert repr(found).startswith("RateTest(suggestion=")
    with pytest.raises(ValueError, match=r"rates.jpg' *: the picture of a range test is an .svg file"):
        found.plot("rates.jpg")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"optimizer": "lbfgs"}, "L-BFGS sets its own step sizes"),
        ({"loss": "sqared_error"}, "did you mean 'squared_error'"),
        ({"lowest": 0.0}, "lowest=0.0 must be a finite number > 0"),
        ({"lowest": 1.0, "highest": 0.1}, "highest=0.1 must be a finite number > 1"),
        ({"n_steps": 3}, "n_steps=3 must be a whole number >= 20"),
        ({"lowest": 1e30, "highest": 1e31, "optimizer": "sgd"}, "begin with a lower rate than 1e[+]30"),
    ],
)
def test_refusals(named, message):
    with pytest.raises(ValueError, match=message):
        find_learning_rate(network(), loader(), **named)


def test_members_are_tested_one_by_one():
    with pytest.raises(ValueError, match="a range test is of one network"):
        find_learning_rate(network(members=2), loader())
