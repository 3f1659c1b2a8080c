"""What files begin with, of what format one is whose name says something else, and errors in reading."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlp_xp.machine import main_memory
from mlp_xp.rows.files import File, pyarrow
from mlp_xp.tables.files.arrow_files import FORMATS

_BY_NAME, _AS_TABLE = "let its name end in", "write its table as Parquet or CSV"

SIGNATURES: Mapping[bytes, tuple[str, str, tuple[str, ...]]] = {
    b"\x1f\x8b": ("a gzip file", "unpack it, or let a CSV file's name end in .csv.gz", (".gz",)),
    b"BZh": ("a bzip2 file", "unpack it, or let a CSV file's name end in .csv.bz2", (".bz2",)),
    b"\x28\xb5\x2f\xfd": (
        "a Zstandard file",
        "unpack it, or let a CSV file's name end in .csv.zst",
        (".zst",),
    ),
    b"\xfd7zXZ\0": ("an xz file", "unpack it", ()),
    b"\x04\x22\x4d\x18": ("an LZ4 file", "unpack it", ()),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it", ()),
    b"PK\x03\x04": (
        "a zip archive, as .xlsx and .npz are",
        "unpack it, or save a spreadsheet as CSV",
        (".npz",),
    ),
    b"FEA1": ("a Feather file of the first version", "write it anew as Feather 2 or Parquet", ()),
    b"\x93NUMPY": ("a NumPy array", f"{_BY_NAME} .npy", (".npy",)),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel file", "save it as CSV", ()),
    b"%PDF-": ("a PDF document", "write its table as CSV", ()),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _AS_TABLE, ()),
    b"SQLite format 3\0": ("an SQLite database", _AS_TABLE, ()),
    b"\x80\x04\x95": ("a pickle", _AS_TABLE, ()),
    b"\x80\x05\x95": ("a pickle", _AS_TABLE, ()),
} | {
    form.mark: (
        f"a{'n' * form.name.startswith(tuple('AEIOU'))} {form.name} file",
        f"{_BY_NAME} {form.suffixes[0]}",
        form.suffixes,
    )
    for form in FORMATS.values()
    if form.mark
}
"""First bytes to what they are of, what to do about it, and the ends of names that say so."""

LONGEST = max(map(len, SIGNATURES))


def seems_to_be(start: bytes, suffix: str = "") -> str:
    """What a file that begins so seems to be, and what to do; nothing where its name says so, or none knows.

    Examples
    --------
    >>> seems_to_be(b"PAR1...", ".csv")
    'it begins like a Parquet file: let its name end in .parquet'
    """
    for first, (what, remedy, endings) in SIGNATURES.items():
        if start.startswith(first) and suffix.lower() not in endings:
            return f"it begins like {what}: {remedy}"
    return ""


def _seems_to_be(file: File) -> str:
    """What a local file begins like, and what to do, where that is not what its name says."""
    if file.remote is not None:
        return ""
    with contextlib.suppress(OSError), Path(file.path).open("rb") as stream:
        return seems_to_be(stream.read(LONGEST), Path(file.path).suffix)
    return ""


FAULTS = (AssertionError, AttributeError, ImportError, NameError, NotImplementedError, TypeError)
"""What code raises that is wrong itself, and not what it reads."""


@contextlib.contextmanager
def reading(file: File, form: str | None = None) -> Iterator[None]:
    """Errors of pyarrow and of other places while a file is read, in our words: they name the file.

    With the name of a `Format`, whose functions read it, all of theirs do but `FAULTS`.
    """
    arrow = pyarrow()
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(f"{file.path} can not be opened: {error.strerror or error}.") from error
    except Exception as error:
        is_usual = isinstance(error, (arrow.ArrowException, OSError, MemoryError, UnicodeError))
        is_of_reader = file.remote is not None or (form is not None and not isinstance(error, FAULTS))
        if not is_usual and (not is_of_reader or file.path in str(error)):
            raise
        if short := main_memory.shortage(error):
            raise MemoryError(
                f"{file.path} can not be read to the end: there is not enough memory ({short})."
            ) from error
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if form is not None and not is_usual:
            said = f"{type(error).__name__} in the reader of {form} files: {said}"
        known = _seems_to_be(file)
        if file.remote is not None:  # whose library may go on with an advice to programmers
            said = f"{said.partition('. ')[0].rstrip('.')}. If that does not end, download it first"
        raise ValueError(
            f"{file.path} can not be read to the end; {known}."
            if known
            else f"{file.path} can not be read to the end; it may be cut short, damaged or of another "
            f"format: {said}"
        ) from error
