"""The command line: `mlp-xp train`, `predict`, `evaluate`, `export`, `show`, `devices` and `cache`.

Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused (the message says what
was given, what is needed and what to do); 3 an error of mlp-xp itself; 130 interrupted; 143 terminated.
"""

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import mlp_xp
from mlp_xp.cli.commands import COMMANDS
from mlp_xp.cli.printing import printable
from mlp_xp.cli.run_control import end_all
from mlp_xp.cli.surface import Spelling, function_of, unwrapped
from mlp_xp.settings.options import Options
from mlp_xp.settings.spelling import speaking

REFUSED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)

EPILOG = (
    "Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused; 3 an error of "
    "mlp-xp itself; 130 interrupted, 143 terminated (a training still writes its model)."
)


def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Multilayer perceptrons trained by memoised backpropagation, on a CPU or a CUDA GPU."""
    if version:
        print(f"mlp-xp {mlp_xp.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


class CarriedError(Exception):
    """Carries an error past typer, which would end the process by itself on some."""


def carry_out(name: str, asked: Options) -> Any:
    """Run a command, with errors that typer must not see in a `CarriedError`."""
    try:
        with speaking(Spelling(type(asked))):
            return getattr(importlib.import_module(f"mlp_xp.cli.{name}"), name)(asked)
    except (KeyboardInterrupt, EOFError, OSError) as error:
        raise CarriedError from error


def application(full: Callable[[str], bool] = lambda name: True) -> typer.Typer:
    """All commands, as typer has them.

    Parameters
    ----------
    full : callable (str) -> bool
        Whether the help of a command is to be complete.
    """
    app = typer.Typer(
        name="mlp-xp",
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, epilog=EPILOG)(common)
    for name, kind in COMMANDS.items():
        function = function_of(kind, functools.partial(carry_out, name), full=full(name))
        app.command(name, help=unwrapped(kind.__doc__ or ""))(function)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        status = _status(given)
    sys.exit(status)


def _status(given: list[str]) -> int:
    """Run a command; its exit status, with errors said."""
    debug = "--debug" in given
    arguments = [argument for argument in given if argument != "--debug"]
    try:
        app = application(lambda name: name in arguments)
        return int(app(args=arguments, prog_name="mlp-xp", standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt) as error:
        found = error.__cause__ if isinstance(error, CarriedError) and error.__cause__ else error
        if isinstance(found, KeyboardInterrupt | typer.Abort):
            return _say("interrupted.", 130)
        if isinstance(found, BrokenPipeError):  # the reader of our output has gone: nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if debug:
            raise
        message, status = _explain(found, given)
        end_all(message, status, given)
        return _say(message, status)


def _explain(error: BaseException, given: Sequence[str]) -> tuple[str, int]:
    """An error in our words, and its exit status."""
    message = getattr(error, "format_message", None)  # an error of typer's own
    if message is not None:
        command = next((f"{argument} " for argument in given[:1] if argument in COMMANDS), "")
        return f"{message()} See mlp-xp {command}--help.", 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}.", 2
    if isinstance(error, MemoryError) and (type(error) is not MemoryError or not str(error)):  # a library's
        what = str(error).rstrip(".") or "no more can be had"
        return f"there is not enough memory: {what}. Make the network or the batches smaller.", 2
    if isinstance(error, REFUSED):
        return str(error) or type(error).__name__, 2
    text = (
        f"{type(error).__name__}: {error}. That is an error of mlp-xp itself: please report it with what "
        "--debug shows."
    )
    return text, 3


def _say(message: str, status: int) -> int:
    """Print an error, each of its lines as one."""
    for line in message.splitlines():
        print(f"mlp-xp: error: {printable(line)}", file=sys.stderr)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"mlp-xp: {printable(str(message))}", file=sys.stderr)
