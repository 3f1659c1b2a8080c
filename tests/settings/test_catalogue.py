"""Names become things and things are described again, the same way in every catalogue."""

import json

import pytest

from mlp_xp.activations import ACTIVATIONS, Elu, LeakyRelu
from mlp_xp.initializers import INITIALIZERS, Normal
from mlp_xp.losses import LINKS, LOSSES, Huber, Pinball, Poisson, SoftmaxCrossEntropy, SquaredError
from mlp_xp.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from mlp_xp.regularizers import L2, REGULARIZERS, ElasticNet
from mlp_xp.rows.order import ORDERS
from mlp_xp.schedules import SCHEDULES, Cosine, OneCycle, Step, WarmUp
from mlp_xp.settings import fields
from mlp_xp.settings.catalogue import describe, name_of, resolve

CATALOGUES = {
    "activation": ACTIVATIONS,
    "initializer": INITIALIZERS,
    "link": LINKS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "order": ORDERS,
    "regularizer": REGULARIZERS,
    "schedule": SCHEDULES,
}

NAMES = [(kind, name) for kind, catalogue in CATALOGUES.items() for name in catalogue if name != "given"]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_name_a_class_and_an_instance_give_the_same(kind, name):
    catalogue = CATALOGUES[kind]
    thing = resolve(kind, catalogue, name)
    assert type(thing) is catalogue[name]
    assert resolve(kind, catalogue, catalogue[name]) == thing
    assert resolve(kind, catalogue, thing) is thing
    assert resolve(kind, catalogue, {"name": name}) == thing
    assert name_of(catalogue, thing) == name_of(catalogue, catalogue[name]) == name
    assert describe(catalogue, thing) == name


@pytest.mark.parametrize(
    ("kind", "thing", "written"),
    [
        ("activation", LeakyRelu(0.2), "leaky_relu:slope=0.2"),
        ("activation", Elu(alpha=2), "elu:alpha=2"),
        ("initializer", Normal(1.0, 2.0), "normal:mean=1.0,deviation=2.0"),
        ("loss", Huber(2.5), "huber:delta=2.5"),
        ("loss", Pinball((0.1, 0.5, 0.9)), "pinball:quantiles=0.1/0.5/0.9"),
        ("loss", Pinball(0.9), "pinball:quantiles=0.9"),
        ("loss", SoftmaxCrossEntropy(0.1), "softmax_cross_entropy:label_smoothing=1e-1"),
        ("optimizer", Adam(eps_on="raw", beta1=0.5), "adam:beta1=0.5,eps_on=raw"),
        ("optimizer", AdamW(weight_decay=0), "adamw:weight_decay=0"),
        ("regularizer", ElasticNet(1, 2), "elastic_net:l1=1,l2=2"),
        ("schedule", Step(10, 0.5), "step:every=10,factor=0.5"),
        ("schedule", Cosine(n_epochs=7), "cosine:n_epochs=7"),
        ("schedule", Cosine(), "cosine:n_epochs=none"),
        ("schedule", WarmUp(5, "cosine"), "warm_up:n_steps=5,after=cosine"),
    ],
)
def test_parameters_can_be_written(kind, thing, written):
    catalogue = CATALOGUES[kind]
    assert resolve(kind, catalogue, written) == thing
    # What is described survives a file.
    stored = json.loads(json.dumps(describe(catalogue, thing)))
    assert resolve(kind, catalogue, stored) == thing


def test_a_description_names_what_differs_from_the_defaults():
    assert describe(LOSSES, Huber(2.0)) == {"name": "huber", "delta": 2.0}
    assert describe(LOSSES, Poisson()) == "poisson"
    assert describe(OPTIMIZERS, SGD()) == "sgd"
    assert describe(SCHEDULES, WarmUp()) == "warm_up"


def test_a_schedule_within_a_schedule_is_described_too():
    nested = WarmUp(5, WarmUp(3, OneCycle(rise=0.2)))
    stored = json.loads(json.dumps(describe(SCHEDULES, nested)))
    assert stored["after"]["after"] == {"name": "one_cycle", "rise": 0.2}
    assert resolve("schedule", SCHEDULES, stored) == nested


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("activation", "rleu", r"^unknown activation 'rleu'; did you mean 'relu'\? Known: elu, gelu, "),
        ("loss", "zzz", "^unknown loss 'zzz'; .*known: absolute_error, "),
        ("loss", "", "unknown loss ''"),
        ("loss", "huber:dleta=2", "loss 'huber' has no parameter 'dleta'; did you mean 'delta'"),
        ("loss", {"name": "huber", "d": 2}, "loss 'huber' has no parameter 'd'"),
        ("loss", "squared_error:x=1", "loss 'squared_error' has no parameter 'x'; it has no parameters"),
        ("loss", "poisson:link=1", "loss 'poisson' has no parameter 'link'"),
        ("loss", "huber:2", "'2' is not PARAMETER=VALUE. Parameters are written NAME:PARAM"),
        ("loss", "huber:delta=1" + "0" * 400, "must be a finite number > 0"),
        ("loss", "huber:delta=1,delta=2", "huber:delta=1,delta=2' says a parameter twice"),
        ("loss", "pinball:quantiles=0.9/0.1", "quantiles=.* must be ascending"),
        ("schedule", {"name": "warm_up", "after": "nothing"}, "unknown schedule 'nothing'"),
    ],
)
def test_what_cannot_be_found(kind, given, message):
    with pytest.raises(ValueError, match=message):
        resolve(kind, CATALOGUES[kind], given)


NUMBERS = [(kind, name, field) for kind, name in NAMES for field in fields.of(CATALOGUES[kind][name])]


@pytest.mark.parametrize(("kind", "name", "field"), NUMBERS)
def test_a_value_out_of_bounds_says_what_it_belongs_to(kind, name, field):
    with pytest.raises(ValueError, match=f"^{kind} '{name}': (unknown )?{field}.'big'"):
        resolve(kind, CATALOGUES[kind], {"name": name, field: "big"})


def test_all_values_out_of_bounds_are_named():
    both = "^optimizer 'adam': beta1=2 must .*\noptimizer 'adam': beta2=3 must "
    with pytest.raises(ValueError, match=both):
        resolve("optimizer", OPTIMIZERS, "adam:beta1=2,beta2=3")


@pytest.mark.parametrize("given", [3, None, {"delta": 2}, SquaredError, L2()])
def test_things_of_another_kind(given):
    with pytest.raises(TypeError, match=r"must be a name or an instance of a known optimizer\. Known: "):
        resolve("optimizer", OPTIMIZERS, given)


def test_what_must_have_a_parameter_says_which():
    with pytest.raises((TypeError, ValueError), match="layer_weights"):
        resolve("initializer", INITIALIZERS, "given")
