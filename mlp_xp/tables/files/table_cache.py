"""Records of large tables, converted once and kept in files that are mapped into memory.

    file = magic | length of the description | description (JSON) | padding | records

A file is written under another name, flushed to disk, then renamed: what has its name is whole. Two
processes that start at once each write their own, and the later one replaces the earlier, which is
the same. The folder belongs to the user alone (mode 0700).
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlp_xp.machine.whole_file import open_plain, whole_file
from mlp_xp.rows.arrays import Array
from mlp_xp.rows.files import File, local_file
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.columns import KINDS, RawColumn
from mlp_xp.tables.files.records import Schema

FORMAT = 2
"""Version of the files; others are converted again."""

SUFFIX = ".records"

_OURS = re.compile(r"[0-9a-f]{32}\.records(\.part-\d+-[0-9a-f]+)?|\.mlp-xp-[0-9a-f]{16}\.part")
"""Names of files that are kept here, and of such that are being written, today and by earlier versions."""

_MAGIC = b"mlp_xp records\n\0"
_PAGE = 4096
_LARGEST_DESCRIPTION = 1 << 28

# Seconds after which an unfinished file that nobody writes to was left by a killed process.
_ABANDONED = 3600.0


@dataclasses.dataclass(frozen=True)
class CachedTable:
    """One file in the cache: its path, its bytes, and the data that it was made from."""

    path: Path
    size: int
    made_from: str


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, or the folder of the user's platform for caches; it need not exist."""
    if cache_dir is not None:
        return Path(cache_dir)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mlp_xp"


def cached(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedTable]:
    """The files in the cache, unfinished ones included; what can not be read says so."""
    folder = cache_folder(cache_dir)
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not _OURS.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            continue
        if not path.name.endswith(SUFFIX):
            made_from = "unfinished"
        else:
            try:
                with open_plain(path, follow=False) as stream:
                    made_from = _read_description(stream)["made_from"]
            except (OSError, ValueError):
                made_from = "damaged"
        with contextlib.suppress(FileNotFoundError):
            found.append(CachedTable(path, path.stat().st_size, made_from))
    return found


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedTable]:
    """Delete the files in the cache and return what was deleted. Nothing else is touched."""
    deleted = cached(cache_dir)
    for each in deleted:
        each.path.unlink(missing_ok=True)
    return deleted


def cache_path(folder: Path, files: Iterable[File], options: dict[str, Any]) -> Path:
    """Where the records are that files as they are now give with these options (JSON values)."""
    key = {
        "format": FORMAT,
        "byteorder": sys.byteorder,
        "files": [[file.path, file.size, file.mtime_ns] for file in files],
        "options": options,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{digest}{SUFFIX}"


def write_records(path: Path, schema: Schema, n_rows: int, made_from: str, records: Iterable[Array]) -> None:
    """Write a cache file: all of it, or nothing.

    Raises RuntimeError: the folder can not be written, the disk is full, or there are not n_rows records.

    Parameters
    ----------
    path : Path
        From `cache_path`. Its folder is made, with mode 0700.
    schema : Schema
        What the records hold.
    n_rows : int
        How many there will be.
    made_from : str
        The path that the user gave.
    records : iterable of arrays of `schema.record`
        Consumed once, in order.
    """
    needed = n_rows * schema.record.itemsize
    with _writing(path.parent, needed):
        _make_private(path.parent)
        _remove_abandoned(path.parent)
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise OSError(f"{free:,} bytes are free")
    with contextlib.ExitStack() as stack:
        with _writing(path.parent, needed):
            stream = stack.enter_context(whole_file(path, mode=0o600, follow=False))
            stream.write(_description(schema, n_rows, made_from))
        written = 0
        for block in records:  # what cannot be read is another matter than what cannot be written
            written += len(block)
            with _writing(path.parent, needed):
                stream.write(np.ascontiguousarray(block).view(np.uint8).data)
        if written != n_rows:
            raise RuntimeError(
                f"{made_from} was changed while it was read: {n_rows:,} rows at first, "
                f"{written:,} now. Start again when nothing writes to it."
            )
        with _writing(path.parent, needed):
            stack.close()


@contextlib.contextmanager
def _writing(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeError(
            f"the rows can not be kept in the cache folder {str(folder)!r}, where {needed:,} bytes "
            f"are needed: {str(error.strerror or error).rstrip('.')}. Make room, name another folder with "
            f"{spelled('cache_dir')}, raise {spelled('memory_limit')} to keep them in memory, or do without "
            f"the cache ({given('cache', False)})."
        ) from error


def _make_private(folder: Path) -> None:
    """Create the folder for the user alone; refuse one in which others could put files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return
    is_ours = all(_OURS.fullmatch(each.name) for each in folder.iterdir())
    if folder.stat().st_uid == os.geteuid() and is_ours:
        folder.chmod(0o700)
    elif _others_may_write(folder.stat()):
        raise OSError("others may write there; use a folder of your own, with mode 0700")


def _others_may_write(status: os.stat_result) -> bool:
    """Whether a file or a folder could be another user's work."""
    return sys.platform != "win32" and (status.st_uid != os.geteuid() or bool(status.st_mode & 0o022))


def _remove_abandoned(folder: Path) -> None:
    for each in folder.iterdir():
        if _OURS.fullmatch(each.name) and not each.name.endswith(SUFFIX):
            with contextlib.suppress(OSError):
                if time.time() - each.stat().st_mtime > _ABANDONED:
                    each.unlink()


def _description(schema: Schema, n_rows: int, made_from: str) -> bytes:
    """Everything before the records, a whole number of pages."""

    def listed(columns: Iterable[RawColumn]) -> list[list[Any]]:
        return [[column.name, column.kind, column.levels, column.reading] for column in columns]

    description = {
        "format": FORMAT,
        "made_from": made_from,
        "n_rows": n_rows,
        "dtype": schema.dtype,
        "features": listed(schema.features),
        "targets": listed(schema.targets),
        "weight": listed([schema.weight] if schema.weight else []),
    }
    text = json.dumps(description).encode()
    start = _MAGIC + struct.pack("<Q", len(text)) + text
    return start + bytes(-len(start) % _PAGE)


def _read_description(stream: IO[bytes]) -> dict[str, Any]:
    """The description at the start of a file; ValueError if it is none."""
    start = stream.read(len(_MAGIC) + 8)
    if len(start) < len(_MAGIC) + 8 or not start.startswith(_MAGIC):
        raise ValueError("it does not begin like a cache file")
    (length,) = struct.unpack("<Q", start[len(_MAGIC) :])
    if length > _LARGEST_DESCRIPTION:
        raise ValueError("its description is too long")
    try:
        description = json.loads(stream.read(length))
    except RecursionError:
        raise ValueError("its description is no JSON") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError("it is of another version")
    n_rows, dtype = description.get("n_rows"), description.get("dtype")
    if type(n_rows) is not int or n_rows < 1 or dtype not in ("float32", "float64"):
        raise ValueError("its description is incomplete")
    if not isinstance(description.get("made_from"), str):
        raise ValueError("its description is incomplete")
    description["offset"] = (len(start) + length + _PAGE - 1) // _PAGE * _PAGE
    return description


def _columns(listed: Any) -> tuple[RawColumn, ...]:
    if not isinstance(listed, list):
        raise ValueError("its columns are no list")
    for each in listed:
        if not (
            isinstance(each, list)
            and len(each) == 4
            and isinstance(each[0], str)
            and each[1] in KINDS
            and isinstance(each[2], list)
            and all(isinstance(level, str) for level in each[2])
            and isinstance(each[3], str)
        ):
            raise ValueError("a column is not described")
    return tuple(RawColumn(name, kind, tuple(levels), reading) for name, kind, levels, reading in listed)


def open_records(path: Path) -> tuple[Schema, Array, File]:
    """Schema, records and file of a cache file, the records mapped into memory.

    Raises FileNotFoundError: there is none; ValueError: it is damaged or of another version, and says how.
    """
    with open_plain(path, follow=False) as stream:
        if _others_may_write(os.fstat(stream.fileno())) or _others_may_write(path.parent.stat()):
            raise ValueError("another user may have written it")
        description = _read_description(stream)
    file = local_file(path)
    weight = _columns(description.get("weight"))
    features, targets = _columns(description.get("features")), _columns(description.get("targets"))
    if not features or len(weight) > 1 or any(each.kind not in ("number", "bool") for each in weight):
        raise ValueError("its columns do not fit together")
    schema = Schema(features, targets, weight[0] if weight else None, description["dtype"])
    n_rows, offset = description["n_rows"], description["offset"]
    if file.size != offset + n_rows * schema.record.itemsize:
        raise ValueError("it is cut short")
    records = np.memmap(path, schema.record, mode="r", offset=offset, shape=(n_rows,))
    return schema, np.asarray(records), file
