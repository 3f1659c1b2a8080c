"""Runs killed at random moments end bit-identical; `python -m tests.campaigns.kills` kills a hundred."""

import os

import pytest
from campaigns.kills import ENDED, pull_the_plug


@pytest.mark.needs("pyarrow")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_few_kills():
    n_same, at = pull_the_plug(2, seed=1, n_rows=6000, epochs=2)  # one of them in the conversion
    assert n_same == at.total() - at[ENDED] == 2
