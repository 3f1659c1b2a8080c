"""A process, line by line as it says them, and for no longer than it may run."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Child:
    """Iterating over it runs it in the project's folder; it ends with all that it started, in any case.

    Parameters
    ----------
    command : sequence of str
    seconds : float
        After which it is killed.
    given : str
        What it reads.
    environment : mapping, optional
        This process's, if not given.

    Attributes
    ----------
    end : str
        Once it is over: why, and the last line on standard error; empty where it ended well.
    is_late : bool
        Whether it was killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        seconds: float,
        given: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.seconds, self.given, self.environment = command, seconds, given, environment
        self.end, self.is_late = "", False

    def __iter__(self) -> Iterator[str]:
        """Its lines of standard output."""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
            subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, text=True, errors="replace",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            timer = threading.Timer(max(0.0, self.seconds), self._end_late, [process])
            timer.start()
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(self.given)
                for line in process.stdout:
                    yield line.rstrip("\n")
                status = process.wait()
            finally:
                timer.cancel()
                _kill(process)
            if self.is_late:
                self.end = f"not through after {self.seconds:.0f} s"
            elif status:
                said.seek(0)
                last = (said.read().strip().splitlines() or ["no message"])[-1]
                self.end = f"exit status {status}: {last}"

    def _end_late(self, process: "subprocess.Popen[str]") -> None:
        self.is_late = True
        _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    """It, and what it has started: a process group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
