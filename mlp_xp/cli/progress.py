"""What a training shows while it runs: a live bar in a terminal, plain lines elsewhere, on standard error."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mlp_xp.training_loop import Epoch

SECONDS_BETWEEN_LINES = 1.0


def describe(epoch: Epoch) -> str:
    """Losses and speed of an epoch, in one line."""
    validation = "" if epoch.validation_loss is None else f"  validation {epoch.validation_loss:.5g}"
    rows = epoch.number * epoch.n_rows / max(epoch.seconds, 1e-9)
    return f"loss {epoch.train_loss:.5g}{validation}  {rows:,.0f} rows/s"


class LiveBar:
    """A progress bar: epochs, losses, rows a second, time left until the last epoch that is allowed."""

    def __init__(self, max_epochs: int) -> None:
        self._progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=max_epochs)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def show(self, epoch: Epoch) -> None:
        """Draw an epoch."""
        self._progress.update(self._task, completed=epoch.number, description=describe(epoch))


class PlainLines:
    """A line for the first epoch, the last, and at most one a second between."""

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._last = -SECONDS_BETWEEN_LINES

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to stop."""

    def show(self, epoch: Epoch) -> None:
        """Print an epoch if it is time."""
        now = time.monotonic()
        if epoch.number == 1 or epoch.stopped or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            left = epoch.seconds / epoch.number * (self._max_epochs - epoch.number)
            print(
                f"epoch {epoch.number}/{self._max_epochs}  {describe(epoch)}  at most {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )


class Silence(PlainLines):
    """Nothing at all."""

    def show(self, epoch: Epoch) -> None:
        """Say nothing."""


def progress(max_epochs: int, *, quiet: bool) -> LiveBar | PlainLines:
    """What suits the place where standard error goes."""
    if quiet:
        return Silence(max_epochs)
    return LiveBar(max_epochs) if sys.stderr.isatty() else PlainLines(max_epochs)
