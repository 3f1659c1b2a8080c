"""What files begin with: of what format one is whose name says something else."""

from collections.abc import Mapping

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
    b"PAR1": ("a Parquet file", f"{_BY_NAME} .parquet", (".parquet", ".pq")),
    b"ARROW1": ("an Arrow file", f"{_BY_NAME} .arrow", (".arrow", ".feather", ".ipc")),
    b"FEA1": ("a Feather file of the first version", "write it anew as Feather 2 or Parquet", ()),
    b"\x93NUMPY": ("a NumPy array", f"{_BY_NAME} .npy", (".npy",)),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel file", "save it as CSV", ()),
    b"%PDF-": ("a PDF document", "write its table as CSV", ()),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _AS_TABLE, ()),
    b"SQLite format 3\0": ("an SQLite database", _AS_TABLE, ()),
    b"\x80\x04\x95": ("a pickle", _AS_TABLE, ()),
    b"\x80\x05\x95": ("a pickle", _AS_TABLE, ()),
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
