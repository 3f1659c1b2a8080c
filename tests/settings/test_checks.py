"""Checks of what users give: what passes, and the message for what does not."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mlp_xp.cli.commands import Train
from mlp_xp.settings import checks
from mlp_xp.settings.other_names import OTHER_NAMES
from mlp_xp.tables.options import catalogue


def test_nothing_wrong_raises_nothing():
    checks.refuse([])
    checks.refuse([None, None])


def test_all_problems_come_in_one_error():
    with pytest.raises(ValueError, match=r"^first\nsecond$"):
        checks.refuse(problem for problem in ("first", None, "second"))


@pytest.mark.parametrize("value", [0, 1, -2.5, np.float32(3), np.int64(4), Fraction(1, 3), 1e308])
def test_numbers(value):
    assert checks.number("x", value) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "1", None, True, 1j, [1], np.ones(1)])
def test_what_is_no_finite_number(value):
    assert checks.number("x", value) == f"x={value!r} must be a finite number."


@pytest.mark.parametrize(
    ("bound", "inside", "outside", "said"),
    [
        ({"above": 0}, 1e-300, 0, "> 0"),
        ({"least": 0}, 0, -1e-300, ">= 0"),
        ({"below": 1}, 0.999, 1, "< 1"),
        ({"most": 1}, 1, 1.001, "<= 1"),
        ({"least": 0, "below": 1}, 0, 1, ">= 0 and < 1"),
        ({"above": -0.5, "most": 2}, 2, -0.5, "> -0.5 and <= 2"),
    ],
)
def test_bounds(bound, inside, outside, said):
    assert checks.number("x", inside, **bound) is None
    assert checks.number("x", outside, **bound) == f"x={outside!r} must be a finite number {said}."
    assert checks.number("x", "text", **bound) == f"x='text' must be a finite number {said}."


def test_whole_numbers():
    assert checks.whole("n", 1) is None
    assert checks.whole("n", np.int32(7)) is None
    assert checks.whole("n", 0, least=0) is None
    for value in (0, -1, 1.0, "1", True, None):
        assert checks.whole("n", value) == f"n={value!r} must be a whole number >= 1."


def test_one_of_a_few_words():
    known = ("float32", "float64")
    assert checks.one_of("dtype", "float32", known) is None
    said = checks.one_of("dtype", "float46", known)
    assert said == "unknown dtype 'float46'; did you mean 'float64'? Known: float32, float64."
    for value in ("zzz", 32, None, ["float32"]):
        assert checks.one_of("dtype", value, known).startswith(f"unknown dtype {value!r}; ")
        assert checks.one_of("dtype", value, known).endswith("nown: float32, float64.")


def test_the_nearest_name_comes_first():
    known = ["adam", "adamw", "nadam", "sgd"]
    assert checks.did_you_mean("adamm", known).startswith("did you mean 'adam'? Known: ")
    assert "did you mean" not in checks.did_you_mean("xyz", known)


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("mse", ["huber", "squared_error"], "squared_error"),
        ("L-BFGS", ["adam", "lbfgs"], "lbfgs"),
        ("lr", ["learning-rate", "log"], "learning-rate"),
        ("swish", ["mish", "silu"], "silu"),
        ("price", ["Price", "prince"], "Price"),
        ("lr", ["a", "b"], None),
    ],
)
def test_usual_names_are_suggested(given, known, meant):
    assert checks.nearest(given, known) == meant


def test_other_names_are_of_things_that_there_are():
    settings = {name.replace("-", "_") for name in Train.described()}
    kinds = ("activation", "initializer", "loss", "optimizer", "schedule")
    things = settings.union(*(catalogue(kind) for kind in kinds))
    assert {*OTHER_NAMES.values()} - {"test"} <= things
    assert not OTHER_NAMES.keys() & things
