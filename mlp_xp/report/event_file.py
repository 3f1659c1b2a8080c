"""TensorBoard's event files, written without TensorBoard.

    file    = record*
    record  = length (uint64)  crc(length)  event  crc(event)            little-endian
    event   = wall time, step, and either the version or tags with values; a protocol buffer

crc(x) is the CRC-32C of x, rotated right by 15 bits, plus 0xa282ead8 modulo 2³².

References
----------
TensorFlow, tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto.
"""

import functools
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

VERSION = b"brain.Event:2"
"""What the first event of every file says."""

DOUBLE, BYTES, FLOAT = 1, 2, 5
"""How a field of a protocol buffer is stored; 0 is a variable-length integer."""


class EventFile:
    """A new event file, complete after each event; TensorBoard finds it by "tfevents" in its name."""

    def __init__(self, path: Path, wall_time: float) -> None:
        self.path = path
        with path.open("xb") as file:
            file.write(record(_field(1, DOUBLE, struct.pack("<d", wall_time)) + _bytes(3, VERSION)))

    @classmethod
    def in_folder(cls, folder: Path, wall_time: float) -> "EventFile":
        """A new file in a folder, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"events.out.tfevents.{int(wall_time)}.mlp-xp.{os.getpid()}", wall_time)

    def add(self, wall_time: float, step: int, values: Mapping[str, float]) -> None:
        """Append the values of some curves, by tag, at one step."""
        summary = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _field(2, FLOAT, _float32(value)))
            for tag, value in values.items()
        )
        event = _field(1, DOUBLE, struct.pack("<d", wall_time)) + b"\x10" + _varint(step) + _bytes(5, summary)
        with self.path.open("ab") as file:
            file.write(record(event))


def record(content: bytes) -> bytes:
    """A record of an event file."""
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _field(number: int, kind: int, content: bytes) -> bytes:
    return bytes([number << 3 | kind]) + content


def _bytes(number: int, content: bytes) -> bytes:
    return _field(number, BYTES, _varint(len(content)) + content)


def _float32(value: float) -> bytes:
    """Four bytes; a value too large for them is infinite."""
    with np.errstate(over="ignore"):
        return np.array(value).astype("<f4").tobytes()


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _masked_crc(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """The Castagnoli cyclic redundancy check, CRC-32C (RFC 3720, appendix B.4).

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _crc_table()[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
        table.append(crc)
    return table
