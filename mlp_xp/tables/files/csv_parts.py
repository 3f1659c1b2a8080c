"""A CSV file cut at line ends, so that its parts can be read in any order."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp.rows.files import Arrow, File
from mlp_xp.tables.files.blocks import Part

_QUOTE, _END, _RETURN = (ord(character) for character in '"\n\r')

COMPRESSED = (".gz", ".bz2", ".zst")


def parts_of(file: File, n_bytes: int) -> list[Part]:
    """Parts of about `n_bytes` bytes, in one pass over a UTF-8 file and 2 bytes a byte of a part.

    A file with quotes is one part, for a line end may belong to a value there; and so is one that is
    compressed or remote.
    """
    whole = [Part(file)]
    if file.remote is not None or file.name.lower().endswith(COMPRESSED):
        return whole
    parts: list[Part] = []
    begin = position = 0  # bytes before the next part, and bytes that were read
    row = n_lines = 0  # lines that are not empty before the next part, and in it
    open_line = last = 0  # bytes of the line that has no end yet; the last byte that was read
    for chunk in _chunks(file, n_bytes):
        if (chunk == _QUOTE).any():
            return whole
        ends = np.flatnonzero(chunk == _END)
        open_line += len(chunk)
        if len(ends):
            n_lines += _n_lines(chunk, ends, open_line - len(chunk), last)
            open_line = len(chunk) - int(ends[-1]) - 1
        position, last = position + len(chunk), int(chunk[-1])
        if len(ends) and n_lines:
            parts.append(Part(file, max(row, 1), start=begin, stop=position - open_line))
            begin, row, n_lines = position - open_line, row + n_lines, 0
    if not parts or open_line > (last == _RETURN):
        parts.append(Part(file, max(row, 1), start=begin, stop=position))
    else:  # empty lines, which make no part of their own
        parts[-1] = dataclasses.replace(parts[-1], stop=position)
    return parts


def _chunks(file: File, n_bytes: int) -> Iterator[Any]:
    with Path(file.path).open("rb") as stream:
        while chunk := stream.read(n_bytes):
            yield np.frombuffer(chunk, np.uint8)


def _n_lines(chunk: Arrow, ends: Arrow, open_line: int, last: int) -> int:
    """Lines not empty that end in a chunk; `open_line` bytes of the first, up to `last`, came before it."""
    lengths = np.diff(ends, prepend=-1) - 1
    lengths[0] += open_line
    before = chunk[ends - 1]
    if ends[0] == 0:
        before[0] = last
    return int(np.count_nonzero((lengths > 0) & ~((lengths == 1) & (before == _RETURN))))


class PartOfFile(io.RawIOBase):
    """The bytes of a local file from `start` to `stop`, as a stream."""

    def __init__(self, file: File, start: int, stop: int) -> None:
        self._stream = io.FileIO(file.path)
        self._stream.seek(start)
        self._left = stop - start

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes; how many."""
        n_read = self._stream.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= n_read
        return n_read

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()
