"""What the tests of benchmarks share: processes of peers in this process, and pictures."""

import contextlib
import io
import json
import runpy
import sys
import warnings

import pytest

from bench.harness import measure
from mlp_xp.fast import on_cpu


@pytest.fixture(autouse=True)
def turns_when_it_pays(monkeypatch):
    """Peers have their steps compiled at once, as processes of their own; here they are none."""
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", on_cpu.PAYS_AFTER)


@pytest.fixture
def in_this_process(monkeypatch):
    """Peers run here, one after the other: their libraries are imported once."""

    def run(module, *arguments):
        said = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(said), warnings.catch_warnings():
            patch.setattr(sys, "argv", [module, *map(str, arguments)])
            warnings.simplefilter("ignore")
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        return json.loads(said.getvalue().splitlines()[-1])

    monkeypatch.setattr(measure, "in_process", run)


@pytest.fixture
def draws(tmp_path, need):
    """`draws(benchmark, result)`, the last line of a test, checks that its picture can be drawn."""

    def draw(module, result):
        need("matplotlib")
        result.draw(tmp_path / "picture.png", module.draw)
        assert (tmp_path / "picture.png").stat().st_size > 10_000

    return draw
