"""Ctrl-C and SIGTERM at any moment: a short line, the right status, nothing half written.

A training lets its signals wait until a step is done (`interruptible`). At all other times the first raises
KeyboardInterrupt where the main thread is, and a second ends the process; a library that turns it into an
error of its own, or swallows it in a callback, does not get rid of it.
"""

import _thread
import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from mlp_xp.machine.ending import end_by


class Signals:
    """What came so far: `number` is that of the first signal that asked this process to end."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_sent_again = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.number is not None and not self._is_sent_again:
            end_by(number)  # the second one: nothing more is put away
        self.number = self.number or number
        self._is_sent_again = False
        raise KeyboardInterrupt(self.number)

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return 128 + (self.number or signal.SIGINT)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Let both signals raise KeyboardInterrupt inside the block, wherever it ends up."""
        hook = sys.unraisablehook

        def again(unraisable: "sys.UnraisableHookArgs") -> None:
            """A KeyboardInterrupt that no caller can see is sent again, to where one can."""
            if issubclass(unraisable.exc_type, KeyboardInterrupt):
                self._is_sent_again = True
                _thread.interrupt_main()
            else:
                hook(unraisable)

        try:
            before = {
                number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
            }
        except ValueError:  # not the main thread: signals are somebody else's
            yield
            return
        sys.unraisablehook = again
        try:
            yield
        finally:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)
