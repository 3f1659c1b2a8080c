"""Seconds in training."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds in training, with those before it was resumed; the caller's time between epochs is none."""

    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time inside."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began
