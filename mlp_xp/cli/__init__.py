"""The command line: `mlp-xp train`, `predict`, `evaluate`, `export`, `show`, `devices` and `cache`.

Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused (the message says what
was given, what is needed and what to do); 3 an error of mlp-xp itself; 130 interrupted; 143 terminated.
"""

import functools
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import mlp_xp
from mlp_xp.cli.cache import cache
from mlp_xp.cli.devices import devices
from mlp_xp.cli.evaluate import evaluate
from mlp_xp.cli.export import export
from mlp_xp.cli.options import printable
from mlp_xp.cli.predict import predict
from mlp_xp.cli.run_control import end_all
from mlp_xp.cli.show import show
from mlp_xp.cli.train import train

REFUSED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)

AS_OPTIONS = {
    r"\b(encoding|delimiter|decimal)=('[^']*')": r"--\1 \2",
    r"\bdate_format=('[^']*')": r"--date-format \1",
    r"\bwith exclude\b": "with --exclude",
    r"\bwith cache_dir\b": "with --cache-dir",
    r"\braise memory_limit\b": "raise --memory-limit",
    r" \(cache=False\)": " (--no-cache)",
    r" \(kinds=\{...: 'text'\}\)": " (--text)",
}
"""How remedies of `sources` are spelled here."""

app = typer.Typer(
    name="mlp-xp",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    invoke_without_command=True,
    epilog="Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused; 3 an "
    "error of mlp-xp itself; 130 interrupted, 143 terminated (a training still writes its model).",
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


def unwrapped(text: str) -> str:
    """A docstring for typer: each paragraph on one line, lines that are indented as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else paragraph.replace("\n", " ") for paragraph in paragraphs
    )


class CarriedError(Exception):
    """Carries an error past typer, which would end the process by itself on some."""


def carrying(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with errors that typer must not see in a `CarriedError`."""

    @functools.wraps(command)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return command(*arguments, **named)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise CarriedError from error

    return run


COMMANDS: tuple[Callable[..., Any], ...] = (train, predict, evaluate, export, show, devices, cache)

for command in COMMANDS:
    app.command(help=unwrapped(command.__doc__ or ""))(carrying(command))


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
        known = [command.__name__ for command in COMMANDS]
        command = next((f"{argument} " for argument in given[:1] if argument in known), "")
        return f"{message()} See mlp-xp {command}--help.", 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}.", 2
    if isinstance(error, MemoryError) and (type(error) is not MemoryError or not str(error)):  # a library's
        what = str(error).rstrip(".") or "no more can be had"
        return f"there is not enough memory: {what}. Make the network or the batches smaller.", 2
    if isinstance(error, REFUSED):
        return _as_options(str(error)) or type(error).__name__, 2
    text = (
        f"{type(error).__name__}: {error}. That is an error of mlp-xp itself: please report it with what "
        "--debug shows."
    )
    return text, 3


def _as_options(message: str) -> str:
    """A message whose remedy names arguments in Python, with the options that they are here."""
    for pattern, option in AS_OPTIONS.items():
        message = re.sub(pattern, option, message)
    return message


def _say(message: str, status: int) -> int:
    """Print an error, each of its lines as one."""
    for line in message.splitlines():
        print(f"mlp-xp: error: {printable(line)}", file=sys.stderr)
    return status


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"mlp-xp: {printable(str(message))}", file=sys.stderr)
