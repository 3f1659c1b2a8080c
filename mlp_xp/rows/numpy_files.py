"""`.npy` files, mapped into memory, and `.npz` files, read into it.

Nothing in them is trusted: a header is read first and its claims are compared with the size of the
file before memory is set aside; object arrays, which would need pickle, are refused.
"""

import dataclasses
import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlp_xp.machine.main_memory import require
from mlp_xp.rows.arrays import Array, ArraySource
from mlp_xp.rows.files import local_file
from mlp_xp.settings.checks import did_you_mean

# Bytes that one byte in the archive can become at most, by the compression that NumPy writes.
_GROWTH = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}

MOST_HEADER_BYTES = 10_000
"""What the header of an `.npy` file may have, as NumPy has it; those of numbers have 118."""

_BROKEN_HEADER = (
    ValueError,
    EOFError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    OSError,
)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a `.npy` file says of itself; `offset` is where its values begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], name: str) -> Header:
    """The header at the start of a stream; ValueError if it is none, or holds Python objects."""
    try:
        version = np.lib.format.read_magic(stream)
        read, size = {
            (1, 0): (np.lib.format.read_array_header_1_0, 2),
            (2, 0): (np.lib.format.read_array_header_2_0, 4),
        }[version]
        length = stream.read(size)
        if int.from_bytes(length, "little") > MOST_HEADER_BYTES:  # NumPy would read all of it first
            raise ValueError("its header is too long")
        header = length + stream.read(int.from_bytes(length, "little"))
        shape, fortran_order, dtype = read(io.BytesIO(header))
    except KeyError:
        raise ValueError(
            f"{name} is an .npy file of version {version}, which only structured arrays need; save "
            f"plain numbers."
        ) from None
    except _BROKEN_HEADER as error:
        raise ValueError(f"{name} is not a whole .npy file: {str(error)[:200]}") from None
    if dtype.hasobject:
        raise ValueError(
            f"{name} holds Python objects, which are never loaded (they can run code). Save numbers: "
            f"np.save(file, array.astype('float64'))."
        )
    if any(type(axis) is not int or axis < 0 for axis in shape) or len(shape) > 32:
        raise ValueError(f"{name} is not a whole .npy file: its shape is {shape}.")
    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
        shape += inner
    if dtype.itemsize == 0:
        raise ValueError(f"{name} is empty: its values have no bytes (dtype {dtype}).")
    return Header(shape, dtype, fortran_order, np.lib.format.MAGIC_LEN + len(header))


def map_npy(path: str | os.PathLike[str]) -> Array:
    """The array in an `.npy` file as a read-only memory map.

    Raises ValueError: it is not an `.npy` file, is shorter than its header says, or holds objects.
    """
    file = local_file(path)
    with Path(file.path).open("rb") as stream:
        header = read_header(stream, file.path)
    if header.offset + header.n_bytes > file.size:
        raise ValueError(
            f"{file.path} is cut short: its header promises {header.n_bytes:,} bytes of values "
            f"(shape {header.shape}, {header.dtype}), the file has {file.size - header.offset:,}. "
            f"Copy or write it again."
        )
    if header.n_bytes == 0:
        raise ValueError(f"{file.path} is empty: its array has shape {header.shape}.")
    return np.memmap(
        file.path,
        dtype=header.dtype,
        mode="r",
        offset=header.offset,
        shape=header.shape,
        order="F" if header.fortran_order else "C",
    )


def open_npy(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    weight: str | os.PathLike[str] | None = None,
    numbers: Callable[[Array], Array] = np.asanyarray,
) -> ArraySource:
    """Rows of `x.npy`, with the `numbers` of `y.npy` and a file of sample weights, memory-mapped."""
    return ArraySource(
        map_npy(path),
        None if target is None else numbers(map_npy(target)),
        None if weight is None else map_npy(weight),
    )


def open_npz(
    path: str | os.PathLike[str],
    target: str | None = None,
    weight: str | None = None,
    memory_limit: int | None = None,
    numbers: Callable[[Array], Array] = np.asanyarray,
) -> ArraySource:
    """Rows of the members `x`, `y` and `sample_weight` (or `weight`) of an `.npz` file, read into memory.

    Targets and weights may be other members; `numbers` is what is made of the targets. A file that needs more
    bytes than the limit is refused, with a word on what to do.
    """
    file = local_file(path)
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            chosen = _choose(file.path, list(members), target, weight)
            headers = {
                name: _read_member_header(archive, members[name], f"{file.path} [{name}]")
                for name in chosen
                if name
            }
            needed = sum(header.n_bytes for header in headers.values())
            if memory_limit is not None and needed > memory_limit:
                raise ValueError(
                    f"{file.path} unpacks to {needed:,} bytes, over the memory limit of "
                    f"{memory_limit:,}. Save its arrays as .npy files, which are read in place."
                )
            require(needed, file.path)
            x, y, weights = (
                _read_member(archive, members[name], headers[name], f"{file.path} [{name}]") if name else None
                for name in chosen
            )
    except _BROKEN as error:
        raise ValueError(f"{file.path} is not a whole .npz file: {error}") from error
    return ArraySource(x, None if y is None else numbers(y), weights)


def _choose(
    path: str, names: list[str], target: str | None, weight: str | None
) -> tuple[str, str | None, str | None]:
    """Names of the members for x, y and sample weights."""
    for name in ("x", target, weight):
        if name is not None and name not in names:
            raise ValueError(f"{path} has no array {name!r}; {did_you_mean(name, names)}.")
    if target is None and "y" in names:
        target = "y"
    if weight is None:
        weight = next((name for name in ("sample_weight", "weight") if name in names), None)
    return "x", target, weight


def _read_member_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Header:
    if member.compress_type not in _GROWTH:
        raise ValueError(f"{name} is compressed in a way that NumPy does not write: use np.savez_compressed.")
    with archive.open(member) as stream:
        header = read_header(stream, name)
    possible = member.compress_size * _GROWTH[member.compress_type]
    if header.offset + header.n_bytes > min(member.file_size, possible):
        raise ValueError(
            f"{name} is cut short: its header promises {header.n_bytes:,} bytes of values "
            f"(shape {header.shape}, {header.dtype}), more than there can be. Write it again."
        )
    return header


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, name: str) -> Array:
    array: Array = np.empty(math.prod(header.shape), header.dtype)
    memory = array.view(np.uint8).data
    with archive.open(member) as stream:
        stream.read(header.offset)
        filled = 0
        while filled < len(memory):
            part = stream.read(min(1 << 20, len(memory) - filled))
            if not part:
                raise ValueError(f"{name} is cut short after {filled:,} bytes of values.")
            memory[filled : filled + len(part)] = part
            filled += len(part)
    return array.reshape(header.shape, order="F" if header.fortran_order else "C")
