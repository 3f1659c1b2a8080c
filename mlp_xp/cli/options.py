"""Options that several commands share, how their texts are read, and what may be written where."""

import contextlib
import csv
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mlp_xp.cli.progress import Reading
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.settings import checks
from mlp_xp.tables.datasets import DATASETS
from mlp_xp.tables.files import CsvForm


def whole(text: str) -> int:
    """The whole number that an option is given as."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number.") from None


def real(text: str) -> float:
    """The number that an option is given as."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


WHOLE = {"parser": whole, "metavar": "INT"}
REAL = {"parser": real, "metavar": "FLOAT"}
"""Options that are numbers; what is none is refused in our words."""


def option(
    panel: str, text: str, *names: str, default: str | bool = True, known: Iterable[str] = (), **more: Any
) -> Any:
    """An option of a command.

    Parameters
    ----------
    panel : str
        The heading that it stands under in the help.
    text : str
        What it is.
    *names : str
        What it is given as, where that does not follow from the parameter's name.
    default : str or bool
        What stands for the default in the help, where that is not the value itself.
    known : iterable of str
        Values that a shell can complete.
    **more
        As for `typer.Option`.
    """
    words = tuple(known)

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    if words:
        more["autocompletion"] = complete
    return typer.Option(*names, help=text, show_default=default, rich_help_panel=panel, **more)


FILES = (
    "A .csv, .parquet, .arrow or .feather file, a folder or glob of them, an .npz that holds x and y, an "
    "x.npy, or '-' for standard input."
)

DATA, CSV, MEMORY, GENERAL = "Data", "CSV files", "Memory and cache", "General"
"""Headings in the help."""

Data = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help=f"{FILES} Without it: --dataset.", show_default=False),
]
Dataset = Annotated[
    str | None,
    option(DATA, f"Real data that comes along: {', '.join(DATASETS)}.", default=False, known=DATASETS),
]
Target = Annotated[
    str,
    option(
        DATA,
        "Column to predict, or several with commas (a name with a comma in double quotes). For an x.npy "
        "the file with y; for an .npz the array, if it is not y.",
        default="none",
    ),
]
WeightColumn = Annotated[
    str | None,
    option(
        DATA,
        "Column with sample weights, numbers >= 0. For an x.npy a file; for an .npz the array, if it is "
        "not sample_weight or weight.",
        default="every row counts 1",
    ),
]
Exclude = Annotated[
    str,
    option(DATA, "Columns to leave out, with commas.", default="none"),
]
Text = Annotated[
    str,
    option(
        DATA, "Columns that are names of groups though they look like numbers, with commas.", default="none"
    ),
]
Delimiter = Annotated[
    str | None,
    option(CSV, "Between values: one character, or 'tab'.", default="recognised, and said"),
]
Decimal = Annotated[
    str | None,
    option(CSV, "Decimal mark: . or ,", default="recognised, and said"),
]
Encoding = Annotated[
    str | None,
    option(CSV, "Of the text, such as latin-1.", default="utf-8, or what a byte order mark says"),
]
Null = Annotated[
    str,
    option(
        CSV, "What stands for a gap too, with commas.", default="nothing, ?, NA, NaN, null, None and the like"
    ),
]
DateFormat = Annotated[
    str | None,
    option(CSV, "How 01/02/2024 is read: 'day first' or 'month first'.", default="recognised, and said"),
]
MemoryLimit = Annotated[
    str,
    option(
        MEMORY,
        "Memory for the data, such as 500MB or 4GB: a larger table is kept in a file in the cache folder. "
        "For a training also that for a step of an 'auto' batch.",
    ),
]
Cache = Annotated[
    bool,
    option(
        MEMORY,
        "Whether a table above the memory limit is kept in the cache folder; if not it is streamed.",
        "--cache/--no-cache",
    ),
]
CacheDir = Annotated[
    Path | None,
    option(MEMORY, "The cache folder.", default="the user's own", metavar="DIR"),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file (.safetensors).")]
Device = Annotated[
    str, option(GENERAL, "Where to compute: cpu, cuda or cuda:N (`mlp-xp devices` lists them).")
]
Quiet = Annotated[bool, option(GENERAL, "Say nothing but errors.", "--quiet", default="off")]
Json = Annotated[
    bool,
    option(GENERAL, "One JSON document on standard output instead of the table.", "--json", default="off"),
]
Debug = Annotated[bool, option(GENERAL, "Show the traceback of an error.", "--debug", default="off")]


def amount(option: str, text: str) -> int:
    """Bytes, from a number with a unit: 500MB, 4GB, 2GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?i?)B?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{option} {text!r} must be an amount of memory > 0, such as 500MB or 4GB.")
    base = 1024 if match[2].endswith("i") else 1000
    return int(float(match[1]) * base ** " kMGT".index(match[2][:1].replace("K", "k") or " "))


class Problems:
    """Collects what is wrong with options that do not depend on each other, to say all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, *problems: str | None) -> None:
        """Take note of what is a problem."""
        self.found += [problem for problem in problems if problem]

    def reading(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """The result, or None and a note of why there is none."""
        try:
            return read(*arguments)
        except (ValueError, TypeError, RuntimeError) as error:
            self.found.append(str(error))
            return None

    def refuse(self) -> None:
        """Raise ValueError with all that was found; do nothing if that is nothing."""
        checks.refuse(self.found)


def numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    """Numbers with commas between them; an empty text has none."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        what, such = ("whole numbers", "64,64") if kind is int else ("numbers", "0.1,0.2")
        raise ValueError(
            f"{option} {text!r} must be {what} with commas between them, such as {such}."
        ) from None


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them; one that has a comma itself stands in double quotes.

    Examples
    --------
    >>> names('age, "height, cm"')
    ('age', 'height, cm')
    """
    rows = list(csv.reader([text], skipinitialspace=True))
    return tuple(name.strip() for row in rows for name in row if name.strip())


def csv_form(
    delimiter: str | None, decimal: str | None, encoding: str | None, null: str, date_format: str | None
) -> CsvForm:
    """How CSV files are written, by a command's options.

    Raises
    ------
    ValueError
        What is no delimiter, decimal mark, encoding or order of dates.
    """
    character = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    return CsvForm(character, decimal, encoding, names(null), date_format)


@contextlib.contextmanager
def given_data(data: str | None) -> Iterator[str | None]:
    """The path of the data: of a file that standard input was written to, for '-'."""
    if data != "-":
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        first = sys.stdin.buffer.read(len(max(FIRST_BYTES, key=len)))
        suffix = next((suffix for mark, suffix in FIRST_BYTES.items() if first.startswith(mark)), ".csv")
        path = Path(folder) / f"standard input{suffix}"
        with path.open("wb") as file:
            file.write(first)
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


FIRST_BYTES = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
"""How files begin that are no text."""


def check_device(device: str, dtype: str = "float32") -> None:
    """Refuse a device that cannot be used here."""
    find_backend(device, dtype)


def output_problem(
    out: Path, inputs: Iterable[str | Path | None] = (), *, option: str = "--out"
) -> str | None:
    """Why a file cannot be written there, found out before any work; None if it can.

    Parameters
    ----------
    out : Path
    inputs : paths
        What is read, and must not be overwritten.
    option : str
        What names it, for messages.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        return f"{option} {out}: there is no folder {out.parent}. Make it first."
    if out.is_dir():
        return f"{option} {out} is a folder: name a file."
    if out.exists() and not out.is_file():
        return f"{option} {out} is a device or a pipe: name a file."
    for given in inputs:
        if given is not None and out.exists() and Path(given).exists() and out.samefile(given):
            return f"{option} {out} is a file that is read: name another."
    if not os.access(folder, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        return f"{option} {out} cannot be written: no permission. Name another place."
    return None


def reading(data: str | None, *, quiet: bool) -> Reading:
    """What shows how far the reading of the data is."""
    return Reading(data or "", sys.stderr, quiet=quiet)


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
