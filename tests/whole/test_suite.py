"""The suite's own options: what they ask for is run, or the run fails at once and says why."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_xp.machine import cuda

TESTS = Path(__file__).parents[1]


def collect(*options):
    """Collect the tests of this folder that run over backends, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *options, "tests/algorithm/test_parameters.py"],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_the_gpu_asked_for_nothing_is_skipped_to_green():
    run = collect("--device", "cuda:999")
    assert run.returncode == 4
    assert f"--device cuda:999: {cuda.problem(999)}" in run.stderr
    assert "::" not in run.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "gpu"), "--device gpu: must be cpu, cuda or cuda:N"),
        (("--backend", "numpy,nmupy"), "--backend nmupy: known are numpy"),
        (("--require", "a_library_that_nobody_has"), "--require a_library_that_nobody_has: known are"),
    ],
)
def test_mistaken_options_are_refused(options, message):
    run = collect(*options)
    assert run.returncode == 4
    assert message in run.stderr


def test_backends_are_picked_by_name():
    run = collect("--backend", "numpy-readonly,strict", "--backend", "strict-device1")
    assert run.returncode == 0, run.stdout + run.stderr
    over_backends = [line for line in run.stdout.splitlines() if "::test_sizes[" in line]
    for name in ("numpy-readonly", "strict", "strict-device1"):
        assert any(f"[{name}-" in line or f"-{name}]" in line for line in over_backends)
    assert not any("torch" in line or "[numpy-True" in line for line in over_backends)


def test_every_file_can_be_imported_on_windows():
    """What only Unix has is imported inside functions: `.ci/light` collects all tests there."""
    unix = {
        "curses",
        "fcntl",
        "grp",
        "posix",
        "pty",
        "pwd",
        "readline",
        "resource",
        "syslog",
        "termios",
        "tty",
    }
    found = [
        f"{path}: {name}"
        for folder in ("mlp_xp", "tests", "bench")
        for path in (TESTS.parent / folder).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name in unix
    ]
    assert found == []
