"""What a command shows while it works: live in a terminal, plain lines elsewhere, on standard error."""

import itertools
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlp_xp.cli.printing import printable, say, say_over
from mlp_xp.fast.beside import is_loading
from mlp_xp.machine import cuda
from mlp_xp.rows.source import Source, Wrapped
from mlp_xp.run.epoch import Epoch

SECONDS_BETWEEN_LINES = 1.0
"""Between plain lines at first; later a fiftieth of the time that has passed."""

SECONDS_UNTIL_SHARE = 2.0
"""An epoch that takes longer than this shows how far it is."""

BAR_WIDTH = 20
"""Characters."""

MEMORY = Path("/proc/self/statm")
"""Where Linux says how much memory a process takes: in pages, of which the second number are in memory."""


def duration(seconds: float) -> str:
    """A time for people: 0.4 s, 41 s, 3:05 min, 2:07 h.

    Examples
    --------
    >>> [duration(seconds) for seconds in (0.42, 41, 185, 7625)]
    ['0.4 s', '41 s', '3:05 min', '2:07 h']
    """
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600:,}:{whole % 3600 // 60:02} h"


def memory_taken() -> int | None:
    """Bytes of memory that this process takes; None where the system does not say."""
    try:
        return int(MEMORY.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
    except OSError:
        return None


class Counted(Wrapped):
    """A source that tells how many rows were read from it, after each reading."""

    def __init__(self, source: Source, passed: Callable[[int], None]) -> None:
        super().__init__(source)
        self.y, self.passed = source.y, passed
        self._one_at_a_time = threading.Lock()

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays, and count."""
        self.source.rows(index, x, y, weight)
        with self._one_at_a_time:
            self.passed(len(index))


class Tally:
    """Keeps count of a training, and says nothing: what the other two are built on.

    A training has so many epochs and seconds at most, and rows an epoch; "cuda:N" has memory of its own.
    """

    def __init__(
        self, max_epochs: int, n_rows: int, time_budget: float | None = None, device: str = "cpu"
    ) -> None:
        self.device = device
        self.max_epochs, self.n_rows, self.time_budget = max_epochs, n_rows, time_budget
        self.epoch: Epoch | None = None
        self.best: Epoch | None = None
        self.rows_gathered = 0
        self._rows_at_epoch_start = self._epochs_before = 0
        self._began = self._epoch_began = time.monotonic()

    def __enter__(self) -> Self:
        """Start the clock."""
        self._began = self._epoch_began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def passed(self, n_rows: int) -> None:
        """Count rows of the epoch under way."""
        self.rows_gathered += n_rows

    def show(self, epoch: Epoch) -> None:
        """Take note of an epoch that is complete; the first may be one of a run that goes on."""
        if self.epoch is None:
            self._epochs_before = epoch.number - 1
        self.epoch = epoch
        if epoch.is_best:
            self.best = epoch
        self._rows_at_epoch_start = self.rows_gathered
        self._epoch_began = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the last epoch said so."""
        return self.epoch is not None and self.epoch.stopped is not None

    @property
    def share(self) -> float:
        """How much of the epoch under way is done, from 0 to 1."""
        return min(1.0, (self.rows_gathered - self._rows_at_epoch_start) / self.n_rows)

    @property
    def done(self) -> float:
        """Epochs done since the start of the run, or since it went on."""
        return (self.epoch.number - self._epochs_before if self.epoch else 0) + self.share

    def count(self) -> str:
        """Complete epochs, or where they take a while the one under way: "epoch 13/1000 at 40%"."""
        number = self.epoch.number if self.epoch else 0
        if self.is_over or time.monotonic() - self._epoch_began < SECONDS_UNTIL_SHARE:
            return f"epoch {number}/{self.max_epochs}"
        return f"epoch {number + 1}/{self.max_epochs} at {self.share:.0%}"

    def facts(self) -> list[str]:
        """Losses, learning rate, speed, memory and time left, as far as they are known."""
        epoch, seconds = self.epoch, max(time.monotonic() - self._began, 1e-9)
        facts = []
        if epoch is not None:
            facts.append(f"loss {epoch.train_loss:.5g}")
            if epoch.validation_loss is not None:
                facts.append(f"validation loss {epoch.validation_loss:.5g}")
            facts.append(f"learning rate {epoch.learning_rate:.3g}")
        facts.append(f"{self.done * self.n_rows / seconds:,.0f} rows/s")
        memory = memory_taken()
        if memory is not None:
            facts.append(f"{memory / 1e6:,.0f} MB")
        kind, _, index = self.device.partition(":")
        if kind == "cuda":
            facts.append(f"{cuda.memory_taken(int(index or 0)) / 1e6:,.0f} MB on the GPU")
        if is_loading() and not self.is_over:
            facts.append("Numba compiles the steps, once on a machine")
        left = self._left(seconds)
        return facts if left is None else [*facts, f"at most {duration(left)} left"]

    def _left(self, seconds: float) -> float | None:
        """Seconds until the last epoch that is allowed; None where nobody knows."""
        if self.is_over or not self.done:
            return None
        left = max(0.0, seconds / self.done * (self.max_epochs - self._epochs_before - self.done))
        return left if self.time_budget is None else min(left, max(0.0, self.time_budget - seconds))


class PlainLines(Tally):
    """A line for the first epoch, the last, and now and then between."""

    def __enter__(self) -> Self:
        """Start the clock."""
        super().__enter__()
        self._last = self._began
        self._ended = threading.Event()
        self.loading = threading.Thread(target=self._look_for_loading, daemon=True)
        self.loading.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look for nothing any more."""
        self._ended.set()

    def _look_for_loading(self) -> None:
        """Print a line once steps may wait: who makes them cannot say it."""
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            if is_loading():
                self._print()
                return

    def passed(self, n_rows: int) -> None:
        """Print a line in a long epoch."""
        super().passed(n_rows)
        if time.monotonic() - self._epoch_began > SECONDS_UNTIL_SHARE:
            self._print_if_due()

    def show(self, epoch: Epoch) -> None:
        """Print an epoch if it is time."""
        super().show(epoch)
        if epoch.number == 1 or epoch.stopped:
            self._print()
        else:
            self._print_if_due()

    def _print_if_due(self) -> None:
        now = time.monotonic()
        if now - self._last >= max(SECONDS_BETWEEN_LINES, (now - self._began) / 50):
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        say("  ".join([self.count(), *self.facts()]), broken=False)


class LiveBar(Tally):
    """A bar with the facts beside it, or below it where the terminal is narrow; redrawn in place."""

    def __init__(
        self, max_epochs: int, n_rows: int, time_budget: float | None, console: Console, device: str = "cpu"
    ) -> None:
        super().__init__(max_epochs, n_rows, time_budget, device)
        self._console = console
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        """Start drawing."""
        super().__enter__()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        self._live.stop()

    def _render(self) -> Any:
        width = self._console.width
        count, facts = self.count(), self.facts()
        done = (self._epochs_before + self.done) / self.max_epochs
        bar_width = max(4, min(BAR_WIDTH, width - len(count) - 1))
        bar = ProgressBar(total=1.0, completed=1.0 if self.is_over else done, width=bar_width)
        taken = len(count) + 1 + bar_width
        ends = itertools.accumulate(len(fact) + 2 for fact in facts)
        n_beside = sum(taken + end <= width for end in ends)
        first = Table.grid(padding=(0, 1))
        beside = [Text("  ".join(facts[:n_beside]), no_wrap=True)] if n_beside else []
        first.add_row(Text(count, no_wrap=True), bar, *beside)
        below = fill_lines(facts[n_beside:], width)
        return Group(first, *(Text(line, no_wrap=True, overflow="ellipsis") for line in below))


def fill_lines(parts: list[str], width: int) -> list[str]:
    """Parts two blanks apart, on as few lines of `width` as they fit.

    Examples
    --------
    >>> fill_lines(["loss 0.25", "1,000 rows/s", "at most 3 s left"], 26)
    ['loss 0.25  1,000 rows/s', 'at most 3 s left']
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def progress(
    max_epochs: int, n_rows: int, time_budget: float | None, *, quiet: bool, device: str = "cpu"
) -> Tally:
    """What suits the place where standard error goes; for the rest see `Tally`."""
    if quiet:
        return Tally(max_epochs, n_rows, time_budget, device)
    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveBar(max_epochs, n_rows, time_budget, console, device)
    return PlainLines(max_epochs, n_rows, time_budget, device)


class ReadingProgress:
    """Says how far the reading of a large file is, once it takes a while; `open_source`'s progress."""

    def __init__(self, name: str | None, *, quiet: bool) -> None:
        self.name, self._quiet = printable(name or ""), quiet
        console = Console(stderr=True)
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._columns = console.width
        self._last = time.monotonic()
        self._shown = 0

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._shown:
            say_over("", self._shown)

    def __call__(self, what: str, share: float) -> None:
        """Show it if it is time."""
        now = time.monotonic()
        if self._quiet or now - self._last < self._pause:
            return
        self._last = now
        text = f"{self.name}: {what}, {share:.0%}"
        if self._live:
            text = text[: self._columns - 1]
            say_over(text, self._shown)
            self._shown = len(text)
        else:
            say(text)

    @property
    def _pause(self) -> float:
        """Seconds until the next time."""
        if not self._live:
            return 5.0
        return 0.2 if self._shown else 1.0
