"""All commands in one: what is typed finds its command, and what goes wrong gets a line and a status."""

import functools
import importlib
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer

from mlp_xp.cli.blas_start import load_numpy
from mlp_xp.cli.commands import COMMANDS, flags
from mlp_xp.cli.printing import explained, say, show
from mlp_xp.cli.signals import Signals
from mlp_xp.cli.streams import to_nowhere
from mlp_xp.cli.surface import OptionSpelling, function_of
from mlp_xp.machine.ending import end_by
from mlp_xp.machine.launcher import SECONDS_TO_BE_HEARD, under_mpi
from mlp_xp.machine.main_memory import shortage
from mlp_xp.settings.checks import nearest
from mlp_xp.settings.options import Options
from mlp_xp.settings.spelling import speaking
from mlp_xp.version import VERSION

BETWEEN_ERRORS = re.compile(r"(?<=[.?:])\n")
"""Where one of several errors ends; a line break elsewhere is in a name."""

REFUSED = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)


def common(version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """What stands before a command."""
    if version:
        show(f"mlp-xp {VERSION}")


class CarriedError(Exception):
    """Carries an error past typer, which would end the process by itself on some."""


def carry_out(name: str, options: Options) -> Any:
    """Run a command, with errors that typer must not see in a `CarriedError`."""
    from mlp_xp.machine import blas

    try:
        with speaking(OptionSpelling(type(options))), blas.at_most(getattr(options, "threads", None)):
            status = getattr(importlib.import_module(f"mlp_xp.cli.{name}"), name)(options)
            sys.stdout.flush()
            return status
    except (KeyboardInterrupt, EOFError, OSError) as error:
        raise CarriedError from error


def application(wanted: Callable[[str], bool] = lambda name: True) -> typer.Typer:
    """All commands, as typer has them, with the options of those wanted; `help_page` has their help."""
    app = typer.Typer(
        name="mlp-xp",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": []},
    )
    app.callback(invoke_without_command=True)(common)
    for name, kind in COMMANDS.items():
        options = kind if wanted(name) else Options
        app.command(name)(function_of(options, functools.partial(carry_out, name)))
    return app


def run(given: Sequence[str]) -> int:
    """Run a command; its exit status, with errors said."""
    signals = Signals()
    debug = "--debug" in given
    arguments = [argument for argument in given if argument != "--debug"]
    with warnings.catch_warnings(), signals.caught():
        warnings.showwarning = _show_warning
        try:
            if COMMANDS.keys() & set(arguments):
                try:
                    load_numpy()
                except MemoryError as error:  # no room to look for other ranks, which cannot have met yet
                    _say_lines([f"mlp-xp: error: {error}"])
                    return 2
            app = application(lambda name: name in arguments)
            status = int(app(args=arguments, prog_name="mlp-xp", standalone_mode=False) or 0)
            if signals.number is not None:  # typer makes an exit of an interruption between its own lines
                raise KeyboardInterrupt
            return status
        except (Exception, KeyboardInterrupt) as error:
            found = error.__cause__ if isinstance(error, CarriedError) and error.__cause__ else error
            if signals.number is not None or isinstance(found, KeyboardInterrupt | typer.Abort):
                return _end("interrupted.", signals.status, given, interrupted=True)
            if isinstance(
                found, BrokenPipeError
            ):  # the reader of our output has gone: nobody is left to tell
                to_nowhere(sys.stdout)
                return 0
            _flush()
            if debug:
                _say_lines("".join(traceback.format_exception(found)).rstrip().split("\n"))
            return _end(*_message_and_status(found, given), given)


def _flush() -> None:
    """What is left of the output, where it can still be written."""
    try:
        sys.stdout.flush()
    except OSError:
        to_nowhere(sys.stdout)


def _message_and_status(error: BaseException, given: Sequence[str]) -> tuple[str, int]:
    """An error in our words, and its exit status."""
    message = getattr(error, "format_message", None)  # an error of typer's own
    if message is not None:
        command = next((argument for argument in given[:1] if argument in COMMANDS), "")
        see = " ".join(["mlp-xp", *[command] * bool(command), "--help"])
        said = _unknown_option(error, command) or message()
        if said.startswith("Got unexpected extra") and command and "out" in COMMANDS[command].described():
            said += ". A file to write is named with --out"
            said += ", a column to predict with --target." if command == "train" else "."
        return f"{said if said.endswith(('.', '?')) else f'{said}.'} See {see}.", 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    short = shortage(error)
    if short is not None and not (type(error) is MemoryError and str(error)):  # not in our words yet
        remedy = (
            "Make the network or the batches smaller"
            if isinstance(error, MemoryError)
            else "Raise the limit (ulimit -v), or end other programs"
        )
        return f"there is not enough memory: {short}. {remedy}.", 2
    if isinstance(error, REFUSED):
        said = explained(error) if isinstance(error, OSError) else str(error)
        return said or type(error).__name__, 2
    text = (
        f"{type(error).__name__}: {error}. That is an error of mlp-xp itself: please report it with what "
        "--debug shows."
    )
    return text, 3


def _unknown_option(error: BaseException, command: str) -> str | None:
    """What is said of an option that there is not, where its name is near that of one; else None."""
    unknown = getattr(error, "option_name", None) if hasattr(error, "possibilities") else None
    if not unknown or not command:
        return None
    fields = COMMANDS[command].described()
    place = fields.get(unknown.lstrip("-").replace("-", "_"))
    if place is not None and place.position is not None:
        return f"No such option: {unknown}. {place.metavar} has no name: mlp-xp {command} {place.metavar}."
    named = {field: option for field, option in fields.items() if option.position is None}
    known = {flag for field, option in named.items() for flag in flags(field, option)}
    near = nearest(unknown.lstrip("-"), sorted(flag.lstrip("-") for flag in known))
    return None if near is None else f"No such option: {unknown}; did you mean --{near}?"


def _end(message: str, status: int, given: Sequence[str], *, interrupted: bool = False) -> int:
    """Print an error, each of its lines as one, and end all processes that train together."""
    ranks = None
    if "train" in given[:1] and "--no-mpi" not in given:
        if under_mpi() and interrupted and not _have_met():
            # The ranks have not met, and the others wait where MPI begins. A launcher ends them for a process
            # that died of a signal, not for one that ended with a status before MPI had begun.
            _say_lines([f"mlp-xp: error: {message}"])
            time.sleep(SECONDS_TO_BE_HEARD)
            end_by(status - 128)
        if under_mpi():
            from mlp_xp.machine.data_parallel import world

            ranks = world()
    mark = f" (rank {ranks.rank})" if ranks is not None and ranks.rank else ""
    lines = [f"mlp-xp: error: {error}{mark}" for error in BETWEEN_ERRORS.split(message.rstrip("\n"))]
    if ranks is not None:
        ranks.end_all(lambda: _say_lines(lines), status)
    _say_lines(lines)
    return status


def _have_met() -> bool:
    """Whether this process knows the other ranks."""
    ranks = sys.modules.get("mlp_xp.machine.data_parallel")
    return ranks is not None and ranks.world.cache_info().currsize > 0


def _say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line, broken=False)


def _show_warning(message: object, *_: object, **__: object) -> None:
    say(f"mlp-xp: {message}", broken=False)
