"""A TOML file with the options of a training: read with --config, written beside each model.

A key is an option's name without its dashes (`learning-rate = 0.01`, `data = "houses.csv"`); a list stands
for what has commas on the command line. An option given on the command line comes before the file.
"""

import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from mlp_xp.cli.commands import COMMANDS
from mlp_xp.cli.printing import printable
from mlp_xp.machine.whole_file import read_plain, write_whole
from mlp_xp.settings import checks
from mlp_xp.settings.options import Option, Options, written
from mlp_xp.settings.spelling import given
from mlp_xp.version import VERSION

MOST_BYTES = 1 << 20
"""What a file of options may have."""

MOST_DOTS = 33
"""Dots in a key: Python's reader keeps all beginnings of it (40 kB of dots: 1.5 GB)."""

TOKEN = re.compile(
    r"""
      "{3} (?: [^"\\] | \\. | "(?!"") )*+ (?: "{3} )?
    | "    (?: [^"\\\n] | \\. )*+        "?
    | '{3} (?: [^'] | '(?!'') )*+         (?: '{3} )?
    | '    [^'\n]*+                       '?
    | \#[^\n]*+ | \s++ | [\w-]++ | .
    """,
    re.DOTALL | re.VERBOSE,
)
"""Text in quotes, a comment, blanks, a bare word or number, or another character.

Each takes all that is looked at to find its end, so that the time is linear.
"""


def load(context: typer.Context, path: Path | None) -> Path | None:
    """Make what the file says the defaults of the command."""
    if path is not None:
        kind = COMMANDS[context.info_name or ""]
        context.default_map = {**(context.default_map or {}), **read(path, kind)}
    return path


def keys(kind: type[Options]) -> dict[str, tuple[str, Option]]:
    """Fields and options that a file can have, by their names there."""
    return {
        known.option or name.replace("_", "-"): (name, known)
        for name, known in kind.described().items()
        if not known.once
    }


def read(path: Path, kind: type[Options]) -> dict[str, Any]:
    """What a file says, by field.

    Raises ValueError: it is no TOML, or has a key that is no option, or a value that no option can have;
    OSError: it cannot be read.
    """
    known, defaults = keys(kind), kind.defaults()
    try:
        text = read_plain(path, MOST_BYTES).decode("utf-8")
        if has_deep_key(text):
            raise ValueError("a key has so many parts that reading them takes all memory")
        found = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {str(error).rstrip('.')}.") from None
    checks.refuse(
        f"{path}: {key!r} is no option; {checks.did_you_mean(key, sorted(known))}."
        for key in found
        if key not in known
    )
    return {
        known[key][0]: _value(path, key, value, is_flag=isinstance(defaults[known[key][0]], bool))
        for key, value in found.items()
    }


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's advice is to let it read more of them
        raise ValueError("a number has more digits than any that could be meant") from None


def has_deep_key(text: str) -> bool:
    """Whether a text of TOML has a key of so many parts, bare or in quotes, that it should not be read."""
    n_dots = 0
    for token in TOKEN.finditer(text):
        first = token[0][0]
        if first == ".":
            n_dots += 1
            if n_dots > MOST_DOTS:
                return True
        elif not (first in "\"'-_" or first.isalnum() or first.isspace()):
            n_dots = 0
    return False


def _value(path: Path, key: str, value: object, *, is_flag: bool) -> Any:
    """A value of TOML as the command line would have it."""
    if isinstance(value, bool) != is_flag or not isinstance(value, bool | str | int | float | list):
        needed = "true or false" if is_flag else "a number, a text or a list of them"
        raise ValueError(f"{path}: {key} = {value!r} must be {needed}.")
    if "\0" in str(value):
        raise ValueError(f"{path}: {key} = {value!r} holds a zero character, which no name has.")
    return value if is_flag else str(written(value))


def beside(model: Path) -> Path:
    """Where the options of a training are written."""
    return model.with_name(f"{model.name}.toml")


OURS = "# mlp-xp "
"""How a file begins that `write` wrote."""


def lost(config: Path | None, model: Path | None) -> str | None:
    """Why options cannot be written beside a model: those that were read there were written by hand."""
    if config is None or model is None or not beside(model).exists() or not beside(model).samefile(config):
        return None
    if read_plain(config, MOST_BYTES).startswith(OURS.encode()):
        return None
    named, own = given("out", model), beside(model)
    return f"{named} writes its options to {own}, which is read and was written by hand: name another."


def write(options: Options, model: Path) -> Path:
    """Write every option of a command next to a model file; where."""
    path = beside(model)
    lines = [
        f"{OURS}{VERSION}: what this model was trained with.",
        f"# The same again: mlp-xp train --config {shlex.quote(printable(path.name))}",
        *_lines(options),
    ]
    write_whole(path, ("\n".join(lines) + "\n").encode())
    return path


def _lines(options: Options) -> Iterator[str]:
    for key, (name, _) in keys(type(options)).items():
        value = getattr(options, name)
        if value is None:
            yield f"# {key} is not given."
        else:
            yield f"{key} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if math.isfinite(value) else str(value)
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
