"""The command line: `mlp-xp train`, `mlp-xp predict`, `mlp-xp evaluate`, `mlp-xp devices`.

Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused (the message says what
was given, what is needed and what to do); 130 interrupted.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from mlp_xp.cli.devices import devices
from mlp_xp.cli.train import train

REFUSED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)

app = typer.Typer(
    name="mlp-xp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def common() -> None:
    """Multilayer perceptrons trained by memoised backpropagation, on a CPU or a CUDA GPU.

    Every command takes --debug, which shows the traceback of an error.
    """


app.command(no_args_is_help=False)(train)
app.command()(devices)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _show_warning
    sys.exit(_status(given))


def _status(given: list[str]) -> int:
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        return int(app(args=given, standalone_mode=False) or 0)
    except KeyboardInterrupt:
        return _say("interrupted.", 130)
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FloatingPointError as error:
        if debug:
            raise
        return _say(str(error), 1)
    except Exception as error:
        message = getattr(error, "format_message", None)  # an error of typer's own
        if isinstance(error, typer.Abort):
            return _say("interrupted.", 130)
        if message is not None:
            return _say(f"{message()} See mlp-xp {given[0] if given else ''} --help.", 2)
        if debug or not isinstance(error, REFUSED):
            raise
        return _say(str(error) or type(error).__name__, 2)


def _say(message: str, status: int) -> int:
    print(f"mlp-xp: error: {message}", file=sys.stderr)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"mlp-xp: {message}", file=sys.stderr)
