"""A few draws of each campaign: `python -m tests.campaigns.NAME --minutes 5` makes many."""

import importlib
import os

import pytest
from campaigns.draws import draw

CAMPAIGNS = {
    "readings": ("pyarrow", "pandas", "polars", "onnx", "onnxruntime"),
    "ways": ("numba", "scipy"),
    "peers": ("sklearn",),
    "together": ("pyarrow", "numba", "scipy"),
    "signals": ("pyarrow",),
}
"""By its name, what a campaign needs."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(*needed)) for name, needed in CAMPAIGNS.items()]
)
def test_a_few_draws(name):
    if name == "signals" and os.name == "nt":
        pytest.skip("Windows has no SIGTERM that a process can handle")
    check = importlib.import_module(f"campaigns.{name}").check
    for number in range(1 if name in ("together", "signals") else 4):
        draw(check, 1, number)
