"""Uses mutated files one after the other; says the number of each before, and what was wrong after.

python -m tests.campaigns.fuzz.worker KIND SEED FIRST STOP FOLDER
"""

import collections
import contextlib
import importlib
import json
import random
import shutil
import sys
from pathlib import Path

from mlp_xp.tables.files import sandbox

from .judge import Judge, limit_memory
from .kinds import KINDS

HEADROOM = 1 << 30
"""Bytes that a worker may reserve above what it has when it begins."""


class LastingSandbox(sandbox.Sandbox):
    """One process that reads all files on trial; where a file ends it, the next one starts another."""

    one = sandbox.Sandbox()

    def __enter__(self) -> sandbox.Sandbox:
        return self.one


def content_of(kind: str, good: list[bytes], seed: int, number: int) -> bytes:
    """The file with this number."""
    drawn = random.Random(f"{kind} {seed} {number}")
    return KINDS[kind].damage(drawn, drawn.choice(good), good)


def main(name: str, seed: int, first: int, stop: int, place: str) -> None:
    """Use the files from number `first` to `stop`."""
    kind, folder = KINDS[name], Path(place)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "good").mkdir(parents=True)
    good = kind.good(folder / "good")
    path = folder / f"hostile{kind.suffix}"
    judge = Judge(folder)
    sandbox.Sandbox = LastingSandbox
    for late in (
        "pyarrow.vendored.version",
        "pyarrow.pandas_compat",
        "pandas",
    ):  # as pyarrow does for some columns
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(late)
    for content in good:  # imports, caches and thread pools, before anything is measured
        path.write_bytes(content)
        kind.use(path)
    limit_memory(HEADROOM)
    ended = collections.Counter()
    for number in range(first, stop):
        print(f"at {number}", flush=True)
        path.write_bytes(content_of(name, good, seed, number))
        how, wrong = judge.use(kind, path)
        ended[how] += 1
        if wrong:
            print(f"wrong {json.dumps([number, wrong])}", flush=True)
    print(f"done {json.dumps(ended)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
