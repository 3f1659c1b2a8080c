"""What `--help` prints, from what declares the options; without the parser, which takes long to import."""

import dataclasses
import inspect
import itertools
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from mlp_xp.cli.commands import COMMANDS, OF_ALL, OF_PROGRAM, flags, in_order
from mlp_xp.settings import panels
from mlp_xp.settings.options import Option, Options

HELP = frozenset({"--help", "-h"})

DESCRIPTION = "Multilayer perceptrons trained by memoised backpropagation, on a CPU or a CUDA GPU."

STATUSES = (
    "Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused; 3 an error of "
    "mlp-xp itself; 130 interrupted, 143 terminated (a training still writes its model)."
)

WIDEST, LEFT = 110, 28
"""Characters of a line at most, and of what stands before an option's text."""

LETTERS = {int: "INT", float: "FLOAT"}
"""What stands for a value that has no word of its own; else TEXT."""


def wanted(given: Sequence[str]) -> str | None:
    """The command whose page is asked for, "" for that of them all; None where none is.

    Examples
    --------
    >>> wanted(["train", "--epochs", "3", "-h"]), wanted([]), wanted(["train"])
    ('train', '', None)
    """
    words = [word for word in given if word != "--debug"]
    if not words or HELP & {*itertools.takewhile(lambda word: word.startswith("-"), words)}:
        return ""
    wants_help = HELP & {*itertools.takewhile(lambda word: word != "--", words)}
    return words[0] if wants_help and words[0] in COMMANDS else None


def page(command: str) -> str:
    """The help of a command, or of all for "", as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return "\n".join(_of_command(command, width) if command else _of_all(width))


def _of_all(width: int) -> Iterator[str]:
    yield "Usage: mlp-xp COMMAND [OPTIONS] [ARGUMENTS]"
    yield from ("", *_paragraph(DESCRIPTION, width))
    yield from ("", "Commands:")
    for name, kind in COMMANDS.items():
        yield from _entry(name, inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0], width)
    yield from ("", "Options:")
    for flag, text in OF_PROGRAM.items():
        yield from _entry(flag, text, width)
    yield from ("", *_paragraph(STATUSES, width))


def _of_command(name: str, width: int) -> Iterator[str]:
    kind = COMMANDS[name]
    yield " ".join(["Usage: mlp-xp", name, "[OPTIONS]", *_arguments(kind)])
    for paragraph in inspect.cleandoc(kind.__doc__ or "").split("\n\n"):
        yield from ("", *([paragraph] if paragraph.startswith(" ") else _paragraph(paragraph, width)))
    heading = None
    for left, text, panel in entries(kind):
        if panel != heading:
            yield from ("", f"{panel}:")
            heading = panel
        yield from _entry(left, text, width)


def _arguments(kind: type[Options]) -> Iterator[str]:
    """What is given without a name, as the first line has it."""
    defaults = kind.defaults()
    for name, known in in_order(kind).items():
        if known.position is not None:
            yield f"{known.metavar}" if defaults[name] is dataclasses.MISSING else f"[{known.metavar}]"


def entries(kind: type[Options]) -> Iterator[tuple[str, str, str]]:
    """What a command may be given: how, what it does and what holds without it, and its heading."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    defaults = kind.defaults()
    for name, known in in_order(kind).items():
        default = defaults[name]
        if known.position is not None:
            yield f"{known.metavar}", known.text(), "Arguments"
        else:
            value = "" if isinstance(default, bool) else f" {known.metavar or _letters(types[name])}"
            spelled = ", ".join(flags(name, known, default=default))
            yield f"{spelled}{value}", f"{known.text()} [default: {_shown(known, default)}]", known.panel
    for flag, text in OF_ALL.items():
        yield flag, text, panels.GENERAL


def _letters(kind: Any) -> str:
    """What stands for a value of a type."""
    return LETTERS.get((get_args(kind) or (kind,))[0], "TEXT")


def _shown(known: Option, default: object) -> str:
    """What is said of a default."""
    if known.shown is not None:
        return known.shown
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in (None, "") else str(default)


def _paragraph(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _entry(left: str, text: str, width: int) -> Iterator[str]:
    """An option and its text beside it; below it where the option is long."""
    indent = " " * min(LEFT, width // 3)
    lines = _paragraph(text, width, indent)
    if len(left) + 4 <= len(indent):
        lines[0] = f"  {left}".ljust(len(indent)) + lines[0].lstrip()
    else:
        lines.insert(0, f"  {left}")
    yield from lines
