"""A table with a fault gives no model that has collapsed; `python -m tests.campaigns.robustness` has all."""

import dataclasses

import pytest
from campaigns.robustness import FAULTS, has_collapsed, judge


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a wrong number", "a wrong number to predict", "30 rows"])
def test_no_model_collapses(name):
    fault = dataclasses.replace(FAULTS[name], n_rows=200)
    judged = judge(fault, seed=11)
    assert not has_collapsed(fault, judged), judged
