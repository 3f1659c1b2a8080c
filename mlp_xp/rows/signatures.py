"""What files begin with: of what format one is whose name says something else."""

from collections.abc import Mapping

ENDINGS: Mapping[bytes, tuple[str, ...]] = {
    b"\x1f\x8b": (".gz",),
    b"BZh": (".bz2",),
    b"\x28\xb5\x2f\xfd": (".zst",),
    b"PK\x03\x04": (".npz",),
    b"PAR1": (".parquet", ".pq"),
    b"ARROW1": (".arrow", ".feather", ".ipc"),
    b"\x93NUMPY": (".npy",),
}
"""First bytes to the ends of names that say so."""

SIGNATURES: Mapping[bytes, tuple[str, str]] = {
    b"\x1f\x8b": ("a gzip file", "unpack it, or let a CSV file's name end in .csv.gz"),
    b"BZh": ("a bzip2 file", "unpack it, or let a CSV file's name end in .csv.bz2"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "unpack it, or let a CSV file's name end in .csv.zst"),
    b"\xfd7zXZ\0": ("an xz file", "unpack it"),
    b"\x04\x22\x4d\x18": ("an LZ4 file", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"PK\x03\x04": ("a zip archive, as .xlsx and .npz are", "unpack it, or save a spreadsheet as CSV"),
    b"PAR1": ("a Parquet file", "let its name end in .parquet"),
    b"ARROW1": ("an Arrow file", "let its name end in .arrow"),
    b"FEA1": ("a Feather file of the first version", "write it anew as Feather 2 or Parquet"),
    b"\x93NUMPY": ("a NumPy array", "let its name end in .npy"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel file", "save it as CSV"),
    b"%PDF-": ("a PDF document", "write its table as CSV"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", "write its table as Parquet or CSV"),
    b"SQLite format 3\0": ("an SQLite database", "write its table as Parquet or CSV"),
    b"\x80\x04\x95": ("a pickle", "write its table as Parquet or CSV"),
    b"\x80\x05\x95": ("a pickle", "write its table as Parquet or CSV"),
}
"""First bytes to what they are of, and what to do about it."""

LONGEST = max(map(len, SIGNATURES))


def seems_to_be(start: bytes, suffix: str = "") -> str:
    """What a file that begins so seems to be, and what to do; nothing where its name says so, or none knows.

    Examples
    --------
    >>> seems_to_be(b"PAR1...", ".csv")
    'it begins like a Parquet file: let its name end in .parquet'
    """
    for first, (what, remedy) in SIGNATURES.items():
        if start.startswith(first) and suffix.lower() not in ENDINGS.get(first, ()):
            return f"it begins like {what}: {remedy}"
    return ""
