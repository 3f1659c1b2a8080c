"""A user's own pieces train as the catalogue's do, and are refused where they do not do what they say."""

import dataclasses

import numpy as np
import pytest
from arrays import host

from mlp_xp import Loader, Network, train
from mlp_xp.losses import IdentityLink, Loss
from mlp_xp.optimizers import OPTIMIZERS, Adam
from mlp_xp.own import resolve
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.schedules import SCHEDULES

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.sin(X[:, :1])


def trained(way="plain", **options):
    network = Network(
        (3, 5, 1), activation="tanh", seed=1, dtype="float64", initializer=options.pop("start", None)
    )
    epochs = list(train(network, Loader(X, Y, batch_size=8), max_epochs=5, way=way, **options))
    return host(network.parameters.flat), epochs[-1].train_loss


def squared(z, y):
    return (z - y) ** 2


def slope_of_squared(z, y):
    return 2 * (z - y)


class OwnSgd:
    state = ("last",)

    def update(self, xp, t, rate, p, g, last):
        last[...] = g
        p -= rate * g


class Ridge:
    def value(self, backend, w):
        return 0.01 * (w @ w)

    def add_gradient(self, backend, w, gradient, scale):
        gradient += 0.02 * scale * w


class Cubed(Loss):
    link = IdentityLink()

    def __call__(self, backend, z, y, weight):
        r = z - y
        per_output = r**4 if weight is None else weight * r**4
        z[...] = 4 * r**3 if weight is None else weight * 4 * r**3
        return backend.xp.sum(per_output)


@pytest.mark.parametrize(
    ("own", "known"),
    [
        ({"loss": (squared, slope_of_squared)}, {"loss": "squared_error"}),
        ({"optimizer": OwnSgd()}, {"optimizer": "sgd"}),
        ({"schedule": lambda history: 0.95**history.epochs}, {"schedule": "exponential:decay=0.95"}),
        ({"regularizer": Ridge()}, {"regularizer": "l2:strength=0.01"}),
        ({"regularizer": (lambda w: 0.01 * w * w, lambda w: 0.02 * w)}, {"regularizer": "l2:strength=0.01"}),
        (
            {"start": lambda generator, layer, n_in, n_out: generator.uniform(-0.1, 0.1, (n_in, n_out))},
            {"start": "uniform:low=-0.1,high=0.1"},
        ),
    ],
)
@pytest.mark.parametrize("way", ["plain", "fast"])
def test_an_own_piece_trains_as_that_of_the_catalogue(own, known, way):
    found, expected = trained(way, **own), trained(way, **known)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    assert found[1] == pytest.approx(expected[1], rel=1e-12)


class ListOfState(OwnSgd):
    def __init__(self):
        self.state = ["last"]


class WithoutState:
    def update(self, xp, t, rate, p, g):
        p -= rate * g


@pytest.mark.parametrize("own", [ListOfState(), WithoutState(), WithoutState().update])
def test_a_rule_may_be_a_function_or_name_its_state_in_a_list(own):
    np.testing.assert_array_equal(trained(optimizer=own)[0], trained(optimizer="sgd")[0])


def test_a_loss_that_is_an_object():
    assert trained(loss=Cubed(), learning_rate=0.02)[1] < trained(loss=Cubed(), learning_rate=1e-5)[1]


def test_the_state_of_an_own_rule_is_in_a_runs_state():
    def run(n, state=None):
        network = Network((3, 5, 1), seed=1)
        epochs = train(network, Loader(X, Y, batch_size=8), optimizer=OwnSgd(), max_epochs=n, state=state)
        return host(network.parameters.flat), [epoch.state() for epoch in epochs][-1], network

    whole = run(4)[2]
    half = run(2)[1]
    assert half.arrays["optimizer.last"].any()
    np.testing.assert_array_equal(host(whole.parameters.flat), host(run(4, half)[2].parameters.flat))


class Climbs:
    state = ()

    def update(self, xp, t, rate, p, g):
        p += rate * g


class Restless(Climbs):
    def update(self, xp, t, rate, p, g):
        p -= 0.01 * g


WRONG_SLOPE = (
    r"the loss squared has a derivative that is not that of its value: at z = .* and target .* it is .*, "
    r"but the value changes at a rate of .* there \(difference"
)


@dataclasses.dataclass(frozen=True)
class WrongRidge(Ridge):
    def add_gradient(self, backend, w, gradient, scale):
        gradient += 0.01 * scale * w


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": (squared, lambda z, y: z - y)}, WRONG_SLOPE),
        ({"optimizer": Climbs()}, "Climbs does not descend: 200 steps .* lead from .* at a rate of 0.1"),
        (
            {"optimizer": Restless()},
            "Restless moves parameters by .* at a learning rate of 0",
        ),
        ({"schedule": lambda history: 1 - history.epochs}, "the schedule <lambda> gives 0.0 at step 10"),
        ({"schedule": lambda history: float("nan")}, "the schedule <lambda> gives nan at step 0"),
        ({"regularizer": WrongRidge()}, "WrongRidge has a gradient that is not its value's: at w = "),
        ({"regularizer": (np.square, np.square)}, "given for a regularizer is not that of its value: at w"),
        (
            {"start": lambda generator, layer, n_in, n_out: np.zeros(1)},
            r"finite weights of shape \(3, 2\)",
        ),
    ],
)
def test_what_does_not_do_what_it_says_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trained(**options)


def row_sums(z, y):
    return ((z - y) ** 2).sum(axis=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": (row_sums, slope_of_squared)}, ValueError, r"row_sums of a loss must be .* got \(4,\)"),
        ({"loss": (squared, lambda z, y: 2 * np.mean(z - y))}, ValueError, r"<lambda> of a loss .* got \(\)"),
        ({"loss": (lambda z: z, squared)}, TypeError, r"is called as <lambda>\(z, y\), and raised TypeError"),
        ({"loss": squared}, TypeError, r"or your own: a pair \(value, derivative\) of functions of \(z, y\)"),
        ({"optimizer": OwnSgd}, TypeError, "It is a class: give an instance"),
        ({"optimizer": lambda p, g: p}, TypeError, r"is called as <lambda>\(xp, t, rate, p, g\), and raised"),
        ({"schedule": lambda step: 1 / (1 + step)}, TypeError, r"called as <lambda>\(history\), and raised"),
        (
            {"start": lambda shape: np.ones(shape)},
            TypeError,
            r"\(generator, layer, n_in, n_out\), and",
        ),
    ],
)
def test_what_is_called_in_another_way_is_said(options, error, message):
    with pytest.raises(error, match=message):
        trained(**options)


@pytest.mark.parametrize("given", [5, object(), ("a", "b")])
def test_what_is_no_piece_is_refused(given):
    for kind, names in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("regularizer", REGULARIZERS)):
        with pytest.raises(TypeError, match=f"must be a name or an instance of a known {kind}"):
            resolve(kind, names, given)


def test_the_catalogues_things_are_not_checked_again():
    assert resolve("optimizer", OPTIMIZERS, "adam") == Adam()


@pytest.mark.needs("sklearn")
@pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer"
)  # a class of scikit-learn's stops pytest without it
@pytest.mark.parametrize(
    ("own", "known"),
    [
        ({"loss": (lambda z, y: (z - y) ** 2 / 2, lambda z, y: z - y)}, {"loss": "squared_error"}),
        ({"solver": OwnSgd()}, {"solver": "sgd", "momentum": 0}),
        ({"learning_rate": lambda history: 1.0}, {"learning_rate": "constant"}),
        ({"regularizer": (lambda w: 0.05 * w**2, lambda w: 0.1 * w)}, {"alpha": 0.1}),
        (
            {"initializer": lambda generator, layer, n_in, n_out: np.zeros((n_in, n_out))},
            {"initializer": "zeros"},
        ),
    ],
    ids=lambda options: "".join(options),
)
def test_the_estimators_take_them_and_their_files_do_not(tmp_path, own, known):
    from mlp_xp import MLPRegressor, save

    plain = {"hidden_layer_sizes": (4,), "activation": "tanh", "max_iter": 3, "tol": 0, "random_state": 0}
    ours, theirs = (MLPRegressor(**plain | each).fit(X, Y[:, 0]) for each in (own, known))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    file = tmp_path / "own.safetensors"
    if "initializer" in own:  # which a model that is trained has no more need of
        save(ours, file)
    else:
        (name,) = own
        with pytest.raises(
            ValueError, match=f"{name}=.* is its user's own Python code, which a model file can"
        ):
            save(ours, file)
        save(ours.network, file)
