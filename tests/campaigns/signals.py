"""Runs sent SIGINT or SIGTERM at random moments, twice perhaps, and gone on with: no trace, the same bits.

    python -m tests.campaigns.signals --times 100
    python -m tests.campaigns.signals --minutes 5 --seed 3

The moment is drawn from all of a run's time: imports, reading on trial, conversion, steps, writing. The run
ends with the signal's status and without a traceback, leaves no unfinished file where the signal was the only
one, and when it is gone on with its model has the bytes of a run that nobody disturbed.
"""

import functools
import random
import signal
import sys
import time
from pathlib import Path

from mlp_xp.machine.whole_file import PART
from tests.campaigns import draws
from tests.campaigns.kills import Run, write_table

N_ROWS, EPOCHS = 6_000, 2


@functools.cache
def undisturbed(folder: Path) -> tuple[Path, float, bytes]:
    """The table, how long a run takes, and its model's bytes."""
    data = folder / "table.csv"
    write_table(data, N_ROWS)
    began = time.monotonic()
    content = Run(folder / "undisturbed", data, EPOCHS).finish()
    return data, time.monotonic() - began, content


def check(drawn: random.Random, folder: Path, common: Path | None = None) -> None:
    """One run."""
    data, seconds, content = undisturbed(common or folder)
    run, number = Run(folder / "run", data, EPOCHS), drawn.choice((signal.SIGINT, signal.SIGTERM))
    process = run.start()
    time.sleep(drawn.uniform(0, seconds))
    process.send_signal(number)
    is_twice = drawn.random() < 0.3
    if is_twice:
        time.sleep(drawn.uniform(0, 0.2))
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if process.returncode not in (0, -number):
        raise AssertionError(f"status {process.returncode} after {number.name}: {said}")
    is_ours = "mlp-xp: error" in said  # else it had not got so far as to handle signals
    if "Traceback" in said and is_ours:
        raise AssertionError(f"after {number.name}: {said}")
    left = [path for place in (run.cache, run.checkpoints, run.folder) for path in place.glob(PART)]
    if left and not is_twice:
        raise AssertionError(f"after {number.name} there is still {left}")
    if run.finish() != content:
        raise AssertionError(f"other bytes after {number.name} ({process.returncode})")


def main() -> int:
    """The exit status is 1 where a run ended otherwise."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mlp-xp-signals-") as common:
        with_common = functools.partial(check, common=Path(common))
        return draws.main(with_common, "signals", "A signal costs nothing in")


if __name__ == "__main__":
    sys.exit(main())
