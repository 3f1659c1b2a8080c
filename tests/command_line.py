"""The command line as a user meets it: run in this process, or in one of its own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_xp.cli import main

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def errors(self):
        """What is printed after `mlp-xp: error: `, line by line."""
        mark = "mlp-xp: error: "
        return [line.removeprefix(mark) for line in self.err.splitlines() if line.startswith(mark)]


def with_recipe(arguments):
    """A training by the plain recipe, which takes one step instead of a thousand, where a test names none."""
    named = {"--recipe", "--config", "--help"} & set(map(str, arguments))
    is_training = bool(arguments) and arguments[0] == "train" and not named
    return [*arguments, "--recipe", "plain"] if is_training else list(arguments)


def runner(capsys):
    """A function that runs `mlp-xp` with arguments, in this process."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in with_recipe(arguments)])
        said = capsys.readouterr()
        return Outcome(ended.value.code, said.out, said.err)

    return run


def environment(**further):
    """The environment of a process of its own, with the tree importable."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    return inherited | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1"} | further


def run_process(*arguments, folder, **further):
    """Run `mlp-xp` with arguments, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mlp_xp", *map(str, with_recipe(arguments))],
        cwd=folder,
        env=environment(**further),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def snapshot(folder):
    """Names and contents of all files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
