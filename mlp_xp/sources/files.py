"""Which files a path means, and whether they are still what they were.

A path is a file, a folder, a glob (`part-*.csv`, `**` included) or the address of a remote place
that pyarrow knows (`s3://bucket/folder`, `gs://`, `hdfs://`, `file://`).
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EXTRA = 'pip install "mlp-xp[files]"'


def pyarrow() -> Any:
    """The pyarrow module, which reads every table; imported when the first one is opened."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError(
            f"reading tables (CSV, Parquet, Arrow) needs pyarrow, which is not installed: {EXTRA}"
        ) from error
    return pa


@dataclasses.dataclass(frozen=True)
class File:
    """One file as it was when it was found.

    Parameters
    ----------
    path : str
        Absolute path, or the address of a remote file.
    size : int
        Bytes.
    mtime_ns : int
        Time of the last change, in nanoseconds since 1970.
    remote : tuple of (pyarrow filesystem, str), optional
        Where it is if it is not local, and its path there.
    """

    path: str
    size: int
    mtime_ns: int
    remote: tuple[Any, str] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path, for messages."""
        return self.path.rstrip("/").rsplit("/", 1)[-1] if self.remote else Path(self.path).name

    @functools.cached_property
    def _local(self) -> Path:
        return Path(self.path)

    def check_unchanged(self, *, only_size: bool = False) -> None:
        """Raise RuntimeError if the file was changed, replaced or deleted since it was found."""
        try:
            size, mtime_ns = self._now()
        except FileNotFoundError:
            raise RuntimeError(
                f"{self.path} was deleted or moved while it was in use. Put it back and start again."
            ) from None
        if size != self.size or (mtime_ns != self.mtime_ns and not only_size):
            grown = f" ({self.size:,} bytes before, {size:,} now)" if size != self.size else ""
            raise RuntimeError(
                f"{self.path} was changed while it was in use{grown}. Results would mix two states "
                f"of the data: start again when nothing writes to it."
            )

    def _now(self) -> tuple[int, int]:
        if self.remote is None:
            status = self._local.stat()
            return status.st_size, status.st_mtime_ns
        found = self.remote[0].get_file_info(self.remote[1])
        if found.size is None:
            raise FileNotFoundError(self.path)
        return found.size, found.mtime_ns or 0

    def open(self) -> Any:
        """The file as a pyarrow random-access file."""
        filesystem, path = self._filesystem()
        return filesystem.open_input_file(path)

    def open_stream(self) -> Any:
        """The file as a pyarrow input stream, decompressed if its name ends in .gz, .bz2, .zst."""
        filesystem, path = self._filesystem()
        return filesystem.open_input_stream(path, compression="detect")

    def _filesystem(self) -> tuple[Any, str]:
        if self.remote:
            return self.remote
        from pyarrow import fs

        return fs.LocalFileSystem(), self.path


@contextlib.contextmanager
def reading(file: File) -> Iterator[None]:
    """Errors of pyarrow while a file is read, in our words: they name the file."""
    arrow = pyarrow()
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(f"{file.path} can not be opened: {error.strerror or error}.") from error
    except (arrow.ArrowException, OSError, MemoryError, UnicodeError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{file.path} can not be read to the end; it may be cut short, damaged or of another "
            f"format: {said}"
        ) from error


def local_file(path: str | os.PathLike[str]) -> File:
    """The local file at `path`, which must exist and be readable."""
    path = Path(path).absolute()
    try:
        status = path.stat()
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix == path.suffix)[:5]
        hint = f" There are: {', '.join(near)}." if near else ""
        raise FileNotFoundError(f"there is no file {str(path)!r}.{hint}") from None
    if not os.access(path, os.R_OK):
        raise PermissionError(f"no permission to read {str(path)!r}.")
    return File(str(path), status.st_size, status.st_mtime_ns)


def find_files(path: str | os.PathLike[str], suffixes: Sequence[str]) -> list[File]:
    """The files that `path` means, by name; those of a folder are the ones that end in a suffix.

    Names that start with a dot or an underscore are left out of folders, as other readers do.
    """
    text = os.fspath(path)
    if "://" in text:
        found = _find_remote(text, suffixes)
    elif Path(text).is_dir():
        inside = [p for p in sorted(Path(text).rglob("*")) if _is_wanted(Path(text), p, suffixes)]
        _refuse_partitions(Path(text), inside)
        found = [local_file(each) for each in inside]
    elif any(mark in text for mark in "*?[") and not Path(text).exists():
        pattern = Path(text).absolute()
        matches = Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        found = [local_file(each) for each in sorted(matches) if each.is_file()]
    else:
        found = [local_file(text)]
    if not found:
        raise FileNotFoundError(
            f"there is no data file in {text!r}; files that end in {', '.join(suffixes)} are read."
        )
    return found


def _is_wanted(folder: Path, path: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return not hidden and path.name.lower().endswith(tuple(suffixes)) and path.is_file()


def _refuse_partitions(folder: Path, inside: Sequence[Path]) -> None:
    """A folder such as year=2024 holds a column in its name: without a word it would be lost."""
    for path in inside:
        named = [part for part in path.relative_to(folder).parts[:-1] if "=" in part]
        if named:
            raise ValueError(
                f"{str(folder)!r} is partitioned: the folder {named[0]!r} is the value of a column "
                f"that its files do not hold, and such columns are not read. To do without them, "
                f"name the files: {str(folder / '**' / ('*' + path.suffix))!r}."
            )


def _find_remote(address: str, suffixes: Sequence[str]) -> list[File]:
    pyarrow()
    from pyarrow import fs

    filesystem, place = fs.FileSystem.from_uri(address)
    scheme = address.partition("://")[0] + "://"
    top = filesystem.get_file_info(place)
    if top.type == fs.FileType.NotFound:
        raise FileNotFoundError(f"there is no file {address!r}.")
    inside = [top]
    if top.type == fs.FileType.Directory:
        listed = filesystem.get_file_info(fs.FileSelector(place, recursive=True))
        inside = [
            each
            for each in sorted(listed, key=lambda each: each.path)
            if each.type == fs.FileType.File
            and each.base_name.lower().endswith(tuple(suffixes))
            and not each.base_name.startswith((".", "_"))
        ]
    return [
        File(scheme + each.path, each.size, each.mtime_ns or 0, (filesystem, each.path)) for each in inside
    ]
