"""One check made with many draws: by number, or for some minutes; what fails is named by its draw."""

import argparse
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

Check = Callable[[random.Random, Path], None]
"""Draws what it needs, works in an empty folder, and raises where something is wrong."""


def draw(check: Check, seed: int, number: int) -> None:
    """Make the check with one draw."""
    with tempfile.TemporaryDirectory(prefix="mlp-xp-draw-") as folder:
        check(random.Random(f"{seed} {number}"), Path(folder))


def main(check: Check, name: str, what: str, *, times: int = 100) -> int:
    """Make it with many; the exit status is 1 where one failed."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.campaigns.{name}", description=what)
    parser.add_argument("--times", type=int, default=times)
    parser.add_argument("--minutes", type=float, help="for so long, instead of a number of times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one draw, by its number")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.only is not None:
        draw(check, options.seed, options.only)
        return 0
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    failed, number = [], 0
    while number < options.times if end is None else time.monotonic() < end:
        try:
            draw(check, options.seed, number)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            words = " ".join(str(error).split())[:300]
            print(f"draw {number}: {type(error).__name__} in line {last.lineno} of {last.name}: {words}")
            failed.append(number)
        number += 1
    print(f"{what} {number - len(failed):,} of {number:,} draws, seed {options.seed}.")
    sys.stdout.flush()
    return int(bool(failed))
