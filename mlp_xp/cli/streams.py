"""Standard streams that commands can rely on: open, able to write any name, and on standard error patient."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class Patient:
    """A stream whose reader may be gone or whose disk may be full: what cannot be said is left unsaid.

    Parameters
    ----------
    stream : text stream
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as it can be."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            to_nowhere(self._stream)
        return len(text)

    def flush(self) -> None:
        """Hand over as far as it can be."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            to_nowhere(self._stream)


def to_nowhere(stream: TextIO) -> None:
    """Let a stream that cannot be written to any more swallow what is left in it, and all that follows."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Open what is closed, write what an encoding lacks as an escape, and survive a full standard error."""
    _fill_descriptors()
    before = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    with contextlib.ExitStack() as stack:
        for name, stream in before.items():
            if stream is None:
                mode = "r" if name == "stdin" else "w"
                vars(sys)[name] = stack.enter_context(Path(os.devnull).open(mode, encoding="utf-8"))
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        vars(sys)["stderr"] = Patient(sys.stderr)
        try:
            yield
        finally:
            sys.stderr.flush()
            vars(sys).update(before)


def _fill_descriptors() -> None:
    """Take the numbers 0 to 2 where they are free: a file that is opened later would get what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
