"""Run programs on several ranks with the mpiexec of this environment, or that of the machine."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mlp_xp.machine.data_parallel import THREAD_SETTINGS

ROOT = Path(__file__).parents[1]

SECONDS_TO_END = 10
"""Within which all ranks end after one has died or raised, on a machine that has nothing else to do."""


def mpiexec(n_ranks, *command, start=subprocess.run, **options):
    """Run a command of this Python's on several ranks; `start` may be subprocess.Popen.

    A command that is a list of commands gives each to one rank.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    commands = command if isinstance(command[0], list | tuple) else [command]
    arguments = []
    for each in commands:
        arguments += [":"] * bool(arguments)
        arguments += ["-n", str(n_ranks // len(commands)), sys.executable, *map(str, each)]
    if start is subprocess.run:
        options = {"timeout": 120, "check": False} | options
    return start(
        [launcher, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**options.pop("environment", {})),
        **options,
    )


def environment(**further):
    """This process's environment with the tree importable, and nothing said about threads."""
    inherited = {name: value for name, value in os.environ.items() if name not in THREAD_SETTINGS}
    return inherited | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | further


def check_ended(run, processes, began):
    """Check that all ranks end soon after `began` (of `time.time`); what was said.

    Parameters
    ----------
    run : subprocess.Popen
        The launcher.
    processes : iterable of int
        The ranks' numbers of process.
    began : callable
        When one of them died or raised; asked when all has ended.
    """
    import psutil

    _, said = run.communicate(timeout=120)
    psutil.wait_procs([psutil.Process(each) for each in processes if psutil.pid_exists(each)], timeout=60)
    ended = time.time()
    assert run.returncode != 0, said
    others = max(1.0, os.getloadavg()[0] / os.cpu_count())
    assert ended - began() < SECONDS_TO_END * others, said
    assert not any(psutil.pid_exists(each) for each in processes)
    return said
