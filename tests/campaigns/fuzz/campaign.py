"""Many mutated files of one kind, in worker processes that may die or hang."""

import collections
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parents[3]

SILENCE = 60.0
"""Seconds without a word after which a worker is taken to hang, on a machine as busy as it may be."""

MOST_WRONG = 50
"""Files with something wrong after which a campaign ends early."""


@dataclasses.dataclass
class Outcome:
    """How the files of a campaign ended.

    Attributes
    ----------
    ended : counter of str
        "read" and "refused"; where a worker died, how its files ended is not known one by one.
    wrong : dict of file number to what was wrong
    """

    ended: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    wrong: dict[int, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def n_files(self) -> int:
        """Files that were used."""
        return sum(self.ended.values())


def campaign(kind: str, n_files: int, seed: int = 0, first: int = 0) -> Outcome:
    """Use `n_files` mutated files of a kind, from number `first` on."""
    outcome, stop = Outcome(), first + n_files
    with tempfile.TemporaryDirectory(prefix="mlp-xp-fuzz-") as folder:
        while first < stop and len(outcome.wrong) < MOST_WRONG:
            first = _one_worker(outcome, kind, seed, first, stop, folder)
    return outcome


def _one_worker(outcome: Outcome, kind: str, seed: int, first: int, stop: int, folder: str) -> int:
    """Run a worker to its end, good or bad; the number of the file to go on with."""
    command = [
        sys.executable,
        "-m",
        "tests.campaigns.fuzz.worker",
        kind,
        *map(str, (seed, first, stop)),
        f"{folder}/in",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
    errors = Path(folder) / "errors"
    with errors.open("w+") as said:
        worker = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        lines: queue.SimpleQueue = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(worker.stdout, lines))
        reader.start()
        at, ended = first - 1, False
        try:
            while line := lines.get(timeout=SILENCE):
                what, _, rest = line.partition(" ")
                if what == "at":
                    at = int(rest)
                elif what == "wrong":
                    number, wrong = json.loads(rest)
                    outcome.wrong[number] = wrong
                elif what == "done":
                    outcome.ended.update(json.loads(rest))
                    ended = True
        except queue.Empty:
            outcome.wrong[at] = [f"nothing happened for {SILENCE:g} s"]
        worker.kill()
        status = worker.wait()
        reader.join()
        if worker.stdout is not None:
            worker.stdout.close()
    if ended:
        return stop
    last = errors.read_text().strip().splitlines()[-1:] or ["nothing said"]
    if at < first:
        raise RuntimeError(f"no good file of kind {kind!r} can be used: {last[0]}")
    outcome.ended["in a worker that died"] += at + 1 - first
    outcome.wrong.setdefault(at, [f"the process ended with status {status}: {last[0]}"])
    return at + 1


def _read(stream, lines: queue.SimpleQueue) -> None:
    for line in stream:
        lines.put(line.strip())
    lines.put("")
