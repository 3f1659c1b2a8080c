"""What commands print: lines on standard error, aligned tables, and nothing that steers a terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterable


def say(text: str) -> None:
    """Print a line on standard error; in a terminal, broken between words."""
    text = printable(text)
    if sys.stderr.isatty():
        text = textwrap.fill(text, shutil.get_terminal_size().columns, break_on_hyphens=False)
    print(text, file=sys.stderr)


def aligned(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values as lines, the values below each other."""
    rows = [(printable(name), printable(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def printable(text: str) -> str:
    """A text from a file in which what could steer a terminal is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
