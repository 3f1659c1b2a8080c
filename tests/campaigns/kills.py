"""Runs killed at random moments, gone on with, and compared bit for bit with an undisturbed one.

    python -m tests.campaigns.kills               100 kills of `mlp-xp train`
    python -m tests.campaigns.kills --times 5 --seed 3

A run converts a table to the cache, then trains with a checkpoint every other step. It is killed (SIGKILL) at
a moment that is drawn uniformly from the time of its training, every third one from that of the conversion;
the folders that it leaves are gone on with, and the model file must have the bytes of a run that nobody
disturbed. Kills that came too late do not count.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlp_xp.machine.whole_file import PART

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training in a folder of its own.

    Attributes
    ----------
    folder : Path
    data : Path
        The table.
    epochs : int
    cache_folder : Path, optional
        Where the table is converted to, if not below the folder.
    """

    folder: Path
    data: Path
    epochs: int
    cache_folder: Path | None = None

    @property
    def model(self) -> Path:
        """The model file at the end."""
        return self.folder / "model.safetensors"

    @property
    def cache(self) -> Path:
        """Where the table is converted to."""
        return self.cache_folder or self.folder / "cache"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    def start(self) -> subprocess.Popen:
        """Begin, or go on."""
        self.folder.mkdir(exist_ok=True)
        options = {
            "--target": "y",
            "--hidden": "128,128",
            "--dropout": 0.1,
            "--batch-size": 512,
            "--epochs": self.epochs,
            "--patience": 0,
            "--memory-limit": "1kB",
            "--cache-dir": self.cache,
            "--checkpoint-dir": self.checkpoints,
            "--checkpoint-every": "2steps",
            "--out": self.model,
        }
        given = [str(each) for pair in options.items() for each in pair]
        return subprocess.Popen(
            [sys.executable, "-m", "mlp_xp", "train", str(self.data), *given, "--resume", "--quiet"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> bytes:
        """Begin or go on, to the end; the content of the model file."""
        process = self.start()
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the run in {self.folder} failed: {said}")
        return self.model.read_bytes()

    def timed(self) -> tuple[float, float]:
        """Begin, to the end; seconds of the conversion, and of all that follows its start."""
        process = self.start()
        wait_for(process, self.cache.exists)
        began = time.monotonic()
        wait_for(process, self.is_converted)
        converted = time.monotonic()
        process.communicate()
        return converted - began, time.monotonic() - began

    def is_converted(self) -> bool:
        """Whether the cache has its file."""
        return any(self.cache.glob("*.records"))

    def killed(self, seconds: float) -> str:
        """Begin, kill so many seconds after the start of the conversion; what it was at."""
        process = self.start()
        wait_for(process, self.cache.exists)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            return ENDED
        if not self.is_converted():
            return "in the conversion"
        if list(self.checkpoints.glob(PART)):
            return "in writing a checkpoint"
        return "in steps" if list(self.checkpoints.glob("checkpoint-*")) else "before the first checkpoint"


ENDED = "after its end"


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Return when it has happened, or the process has ended."""
    while not happened() and process.poll() is None:
        time.sleep(0.001)


def write_table(path: Path, n_rows: int) -> None:
    """A CSV file of numbers and a text."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n_rows, 4))
    with path.open("w") as file:
        file.write("a,b,c,d,kind,y\n")
        for i, row in enumerate(x):
            file.write(",".join(f"{value:.6f}" for value in row) + f",{'xyz'[i % 3]},{row.sum():.6f}\n")


def pull_the_plug(
    times: int, seed: int, n_rows: int = 60_000, epochs: int = 2
) -> tuple[int, collections.Counter]:
    """Kill so many runs; how many ended bit-identical, and what they were killed at."""
    drawn, at, n_same = random.Random(seed), collections.Counter(), 0
    with tempfile.TemporaryDirectory(prefix="mlp-xp-kills-") as name:
        folder = Path(name)
        data = folder / "table.csv"
        write_table(data, n_rows)
        undisturbed = Run(folder / "undisturbed", data, epochs)
        conversion, whole = undisturbed.timed()
        content = undisturbed.model.read_bytes()
        for number in itertools.count():
            if at.total() - at[ENDED] == times:
                break
            run = Run(folder / str(number), data, epochs)
            moments = (0, conversion) if number % 3 == 0 else (conversion, whole)
            what = run.killed(drawn.uniform(*moments))
            at[what] += 1
            n_same += what != ENDED and run.finish() == content
            shutil.rmtree(run.folder)
    return n_same, at


def main() -> int:
    """The exit status is 1 where a run ended otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.kills", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    n_same, at = pull_the_plug(options.times, options.seed)
    places = ", ".join(f"{count} {what}" for what, count in at.most_common())
    print(f"{n_same} of {options.times} runs ended bit-identical to the undisturbed one (killed: {places})")
    return int(n_same != options.times)


if __name__ == "__main__":
    sys.exit(main())
