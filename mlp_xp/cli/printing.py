"""The one door for what commands print: nothing that comes from a file or a name steers a terminal."""

import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence


def say(text: str, *, broken: bool = True) -> None:
    """Print a line on standard error, broken between words in a terminal; its line breaks are written out."""
    text = printable(text)
    if broken and sys.stderr.isatty():
        text = textwrap.fill(text, shutil.get_terminal_size().columns, break_on_hyphens=False)
    print(text, file=sys.stderr, flush=True)


def show(text: str, end: str = "\n") -> None:
    """Print lines on standard output."""
    print("\n".join(map(printable, text.split("\n"))), end=end)


def say_over(text: str, n_before: int) -> None:
    """Write over the characters that were seen on a line of standard error, without ending it."""
    print(f"\r{printable(text).ljust(n_before)}", end="" if text else "\r", file=sys.stderr, flush=True)


class StandardOutput:
    """A text stream to standard output: byte for byte into a file or a pipe, `printable` in a terminal."""

    def write(self, text: str) -> int:
        """Write lines."""
        if sys.stdout.isatty():
            show(text, end="")
        else:
            sys.stdout.write(text)
        return len(text)


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts as lines, those of a column below each other."""
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """A text from a file in which what could steer a terminal is written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def explained(error: OSError) -> str:
    """An error of the system in one line."""
    return str(error) if error.filename is None else f"{error.filename}: {error.strerror}."
