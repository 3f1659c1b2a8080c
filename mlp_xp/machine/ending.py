"""A process that a signal asked to end dies of it: a shell's loop ends with what Ctrl-C has ended."""

import contextlib
import os
import signal

TYPE_CHECKING = False  # as typing's, which takes a while to import
if TYPE_CHECKING:
    from typing import NoReturn


def end_by(number: int) -> "NoReturn":
    """End this process at once, as a signal of this number does where nobody handles it."""
    if os.name != "nt":
        with contextlib.suppress(ValueError):  # not the main thread: the status has to do
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    os._exit(128 + number)
