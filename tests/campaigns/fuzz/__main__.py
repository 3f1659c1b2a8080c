"""Run campaigns from the command line; the exit status is 1 where a file did what it must not."""

import argparse
import sys
import time
from pathlib import Path

from .campaign import campaign
from .kinds import KINDS
from .worker import content_of


def main() -> int:
    """Use mutated files of the kinds that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument("--files", type=int, default=10_000, help="of each kind (10,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file (0)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the files there, and use none")
    options = parser.parse_args()
    unknown = [name for name in options.kinds if name not in KINDS]
    if unknown:
        parser.error(f"unknown kind {', '.join(unknown)}; known: {', '.join(KINDS)}")
    status = 0
    for name in options.kinds or KINDS:
        if options.keep is not None:
            keep(name, options)
            continue
        began = time.monotonic()
        outcome = campaign(name, options.files, options.seed, options.first)
        ended = ", ".join(f"{count:,} {how}" for how, count in sorted(outcome.ended.items()))
        seconds = time.monotonic() - began
        print(f"{name}: {outcome.n_files:,} files: {ended}; {len(outcome.wrong)} wrong ({seconds:.0f} s)")
        for number, wrong in sorted(outcome.wrong.items()):
            status = 1
            for each in wrong:
                print(f"  {name} {number}: {each}")
        sys.stdout.flush()
    return status


def keep(name: str, options: argparse.Namespace) -> None:
    """Write files of a kind to a folder."""
    options.keep.mkdir(parents=True, exist_ok=True)
    (options.keep / "good").mkdir(exist_ok=True)
    good = KINDS[name].good(options.keep / "good")
    for number in range(options.first, options.first + options.files):
        path = options.keep / f"{name}-{options.seed}-{number}{KINDS[name].suffix}"
        path.write_bytes(content_of(name, good, options.seed, number))


if __name__ == "__main__":
    sys.exit(main())
