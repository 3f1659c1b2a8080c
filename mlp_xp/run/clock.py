"""Seconds in training."""

import time


class Clock:
    """Seconds in training, with those before it was resumed; the caller's time between epochs is none."""

    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    def stop(self) -> None:
        """Do not count the time from now on."""
        self._stopped = time.perf_counter()

    def go_on(self) -> None:
        """Count again."""
        self._start += time.perf_counter() - self._stopped
