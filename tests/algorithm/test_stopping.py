"""Stopping rules: pure functions of the history, each with its reason."""

import copy
import math

import pytest

from mlp_xp.history import History
from mlp_xp.stopping import Stopping


def after(*losses, validation=(), seconds=0.0):
    return History(train_losses=list(losses), validation_losses=list(validation), seconds=seconds)


def test_maximum_of_epochs():
    rule = Stopping(max_epochs=3)
    assert rule.reason(after(1.0, 1.0)) is None
    assert rule.reason(after(1.0, 1.0, 1.0)) == "reached 3 epochs"


def test_nothing_else_stops_unless_asked_for():
    assert Stopping(max_epochs=10**6).reason(after(*[1.0] * 1000, seconds=1e9)) is None


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ((1.0,), False),
        ((1.0, 1.0), False),
        ((1.0, 1.0, 1.0), True),
        ((1.0, 2.0, 3.0), True),
        ((1.0, 2.0, 0.5), False),
        ((1.0, 0.95, 0.91), True),  # together not more than the tolerance
        ((1.0, 0.95, 0.89), False),
        ((3.0, 1.0, 2.0, 2.0), True),
        ((3.0, 2.0, 2.0, 1.0), False),
    ],
)
def test_no_improvement_in_two_epochs(losses, stops):
    reason = Stopping(max_epochs=100, patience=2, tolerance=0.1).reason(after(*losses))
    assert reason == ("the training loss did not fall by more than 0.1 for 2 epochs" if stops else None)


def test_the_smallest_improvement_counts_without_a_tolerance():
    rule = Stopping(max_epochs=100, patience=1)
    assert rule.reason(after(1.0, math.nextafter(1.0, 0.0))) is None
    assert rule.reason(after(1.0, 1.0)) == "the training loss did not fall for 1 epoch"


def test_the_validation_loss_decides_where_there_is_one():
    rule = Stopping(max_epochs=100, patience=1, loss_below=0.1)
    falling, rising = (3.0, 2.0, 1.0), (1.0, 2.0, 3.0)
    assert rule.reason(after(*rising, validation=falling)) is None
    assert "held-out loss" in rule.reason(after(*falling, validation=rising))
    assert rule.reason(after(0.01, validation=(0.5,))) is None
    assert rule.reason(after(0.5, validation=(0.01,))) == "loss below 0.1"


def test_loss_below():
    rule = Stopping(max_epochs=100, loss_below=0.5)
    assert rule.reason(after(0.5)) is None
    assert rule.reason(after(0.4)) == "loss below 0.5"
    assert rule.reason(after(0.4, 0.6)) is None  # it is the last loss that counts
    assert Stopping(max_epochs=100, loss_below=0.0).reason(after(-1.0)) == "loss below 0"


def test_time_budget():
    rule = Stopping(max_epochs=100, time_budget=60)
    assert rule.reason(after(1.0, seconds=59.9)) is None
    assert rule.reason(after(1.0, seconds=60.0)) == "time budget of 60 seconds used"


def test_the_best_news_comes_first():
    rule = Stopping(max_epochs=2, patience=1, loss_below=2.0, time_budget=1.0)
    history = after(1.0, 1.0, seconds=2.0)
    before = copy.deepcopy(history)
    assert rule.reason(history) == "loss below 2"
    assert history == before


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_a_validation_loss_that_is_no_number_is_no_improvement(where):
    losses = [4.0, 3.0, 2.0, 1.0]
    losses[where] = math.nan
    reason = Stopping(max_epochs=100, patience=2).reason(after(*[1.0] * 4, validation=losses))
    assert reason is None  # the others still fall
    rising = [1.0, 2.0, 3.0, 4.0]
    rising[where] = math.nan
    assert Stopping(max_epochs=100, patience=2).reason(after(*[1.0] * 4, validation=rising)) is not None
