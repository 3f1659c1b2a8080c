"""The command line: `mlp-xp train`, `tune`, `predict`, `evaluate`, `export`, `show`, `devices`, `cache`.

Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused (the message says what
was given, what is needed and what to do); 3 an error of mlp-xp itself; 130 interrupted; 143 terminated. The
last two are what a shell makes of a process that died of the signal; ranks of MPI end with them.
"""

import contextlib
import os
import signal
import sys

from mlp_xp.machine.ending import end_by

TYPE_CHECKING = False  # as typing's, which takes a while to import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType


def _leave(number: int, _: "FrameType | None") -> None:
    """End at once: nothing has begun that would have to be put away."""
    os.write(2, b"mlp-xp: error: interrupted.\n")
    end_by(number)


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run a command and exit with its status; where no arguments are given, this process is the command's."""
    try:
        _main(arguments)
    except SystemExit as ended:
        if arguments is None and isinstance(ended.code, int) and ended.code > 128:
            _end_by_signal(ended.code - 128)
        raise


def _end_by_signal(number: int) -> None:
    """End as a signal asked to; a rank of MPI has others that still write, and ends with a status."""
    from mlp_xp.machine.launcher import under_mpi

    if not under_mpi():
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        end_by(number)


def _main(arguments: "Sequence[str] | None") -> None:
    defaults: dict[int, Callable[[int, FrameType | None], object] | int | None]
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with contextlib.suppress(ValueError):  # raised in a thread, where signals are somebody else's
        for number, default in defaults.items():
            if signal.getsignal(number) is default:
                signal.signal(number, _leave)
    try:
        _run(arguments)
    except KeyboardInterrupt as error:  # one more, while the end of the command was under way
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except MemoryError:  # not even an error could be said any more
        os.write(2, b"mlp-xp: error: there is not enough memory.\n")
        sys.exit(2)
    finally:
        with contextlib.suppress(ValueError):
            for number, default in defaults.items():
                if signal.getsignal(number) is _leave:
                    signal.signal(number, default)


def _run(arguments: "Sequence[str] | None") -> None:
    from mlp_xp.cli.streams import to_nowhere, usable_streams

    with usable_streams():
        try:
            status = _status_of(list(sys.argv[1:] if arguments is None else arguments))
            sys.stdout.flush()
        except BrokenPipeError:
            to_nowhere(sys.stdout)
            status = 0
        except OSError as error:
            from mlp_xp.cli.printing import say

            say(f"mlp-xp: error: {error}", broken=False)
            status = 2
    sys.exit(status)


def _status_of(given: "Sequence[str]") -> int:
    from mlp_xp.cli import completion, help_page

    if given == ["--version"]:
        from mlp_xp.version import VERSION

        print(f"mlp-xp {VERSION}")
        return 0
    if completion.is_wanted():
        return completion.answer()
    if (command := help_page.wanted(given)) is not None:
        print(help_page.page(command))
        return 0
    from mlp_xp.cli.application import run

    return run(given)
