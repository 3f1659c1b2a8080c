"""Standard streams that commands can rely on: open, able to write any name, and clear about what failed."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class Stream:
    """A stream that is another one but for what a subclass does in its own way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)


class Patient(Stream):
    """A stream whose reader may be gone or whose disk may be full: what cannot be said is left unsaid."""

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


class Output(Stream):
    """Standard output: what cannot be written to it is said in our words."""

    def write(self, text: str) -> int:
        """Write a text."""
        with written_out():
            return self._stream.write(text)

    def flush(self) -> None:
        """Hand over what was written."""
        with written_out():
            self._stream.flush()


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Name standard output in an error of the system; nothing more is written to it then.

    Raises BrokenPipeError: its reader has gone, as it was: nobody is left to tell; OSError: it could not be
    written for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        to_nowhere(sys.stdout)
        said = error.strerror or error
        raise OSError(f"standard output could not be written to its end: {said}.") from error


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
        vars(sys)["stdout"], vars(sys)["stderr"] = Output(sys.stdout), Patient(sys.stderr)
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
