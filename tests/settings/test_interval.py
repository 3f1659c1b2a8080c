"""Times and amounts as people write them."""

import pytest

from mlp_xp import fit_table
from mlp_xp.settings.interval import Interval, seconds
from mlp_xp.settings.options import amount
from mlp_xp.tables.options import TrainingOptions


@pytest.mark.parametrize(
    ("written", "meant"),
    [("90", 90.0), ("90s", 90.0), ("10min", 600.0), ("1.5 h", 5400.0), (2.5, 2.5), ("1e-3", 0.001)],
)
def test_seconds(written, meant):
    assert seconds("time_budget", written) == meant
    assert TrainingOptions.of({"time_budget": written}).read("time_budget") == meant


@pytest.mark.parametrize("wrong", ["", "0", "0min", "-5", "soon", "5 days", "1e999", 0, -1.0])
def test_what_is_no_time_is_refused(wrong):
    with pytest.raises(ValueError, match=r"time_budget=.*10min"):
        seconds("time_budget", wrong)


@pytest.mark.parametrize("unit", ["s", "epochs", "steps"])
def test_an_interval_without_end_is_refused(unit):
    with pytest.raises(ValueError, match=r"checkpoint_every=.*500steps"):
        Interval.parse("9" * 400 + unit)


def test_an_amount_without_end_is_refused():
    with pytest.raises(ValueError, match=r"memory_limit=.*500MB"):
        amount("memory_limit", "9" * 400)


def test_a_budget_ends_a_training():
    pytest.importorskip("pyarrow")
    table = {"x": [float(n) for n in range(40)], "y": [float(n % 7) for n in range(40)]}
    model = fit_table(table, "y", time_budget="1e-9s", epochs=5, hidden="4", recipe="plain")
    assert model.training["epochs"] == 1
