"""A TOML file with the options of a training: read with --config, written beside each model.

A key is an option's name without its dashes (`learning-rate = 0.01`, `data = "houses.csv"`); a list stands
for what has commas on the command line. An option given on the command line comes before the file.
"""

import csv
import io
import math
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlp_xp import __version__
from mlp_xp.cli import options
from mlp_xp.saved.model_file import write_whole
from mlp_xp.settings import checks

NOT_CONFIGURED = {"config", "resume", "override", "_debug", "help"}
"""Options that belong to one run."""


def _load(context: typer.Context, path: Path | None) -> Path | None:
    """Make what the file says the defaults of the command."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read(path, _configurable(context.command))}
    return path


Config = Annotated[
    Path | None,
    options.option(
        options.GENERAL,
        "TOML file with options, such as the one that is written beside each model.",
        default="none",
        metavar="FILE",
        callback=_load,
        is_eager=True,
    ),
]


def _configurable(command: Any) -> dict[str, Any]:
    """The options of a command that can be configured, by their names in a file."""
    # Of --bias/--no-bias the first name; an argument's name has no dashes.
    return {
        parameter.opts[0].lstrip("-"): parameter
        for parameter in command.params
        if parameter.name not in NOT_CONFIGURED
    }


def read(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, by the names of the command's parameters.

    Raises
    ------
    ValueError
        It is no TOML, or has a key that is no option, or a value that no option can have.
    OSError
        It cannot be read.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {error}.") from None
    checks.refuse(
        f"{path}: {key!r} is no option; {checks.did_you_mean(key, sorted(known))}."
        for key in found
        if key not in known
    )
    return {known[key].name: _value(path, key, known[key], value) for key, value in found.items()}


def _value(path: Path, key: str, option: Any, value: Any) -> Any:
    """A value of TOML as the command line would have it."""
    is_flag = getattr(option, "is_flag", False)
    if isinstance(value, bool) != is_flag or not isinstance(value, bool | str | int | float | list):
        needed = "true or false" if is_flag else "a number, a text or a list of them"
        raise ValueError(f"{path}: {key} = {value!r} must be {needed}.")
    if isinstance(value, list):
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(value)
        return text.getvalue()
    return value if is_flag else str(value)


def write(context: typer.Context, beside: Path) -> Path:
    """Write every option of a command beside a model file; where.

    Parameters
    ----------
    context : typer.Context
        With the options' values, wherever they came from.
    beside : Path
        The model file.
    """
    path = beside.with_name(f"{beside.name}.toml")
    lines = [
        f"# mlp-xp {__version__}: what this model was trained with.",
        f"# The same again: mlp-xp train --config {shlex.quote(path.name)}",
        *_lines(context),
    ]
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path


def _lines(context: typer.Context) -> Iterator[str]:
    for name, option in _configurable(context.command).items():
        value = context.params.get(option.name)
        if value is None:
            yield f"# {name} is not given."
        else:
            yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if math.isfinite(value) else str(value)
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
