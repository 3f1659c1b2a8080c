"""Which files a path means, and whether they are still what they were.

A path is a file, a folder, a glob (`part-*.csv`, `**` included) or the address of a remote place that
pyarrow knows (`s3://bucket/folder`, `gs://`, `hdfs://`, `file://`) or, where it is installed, fsspec
(`https://`), where a glob has `*` alone.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlp_xp.settings import checks

EXTRA = 'pip install "mlp-xp[files]"'


Arrow = Any
"""An object of pyarrow's, whose types are not known to a type checker."""


def pyarrow() -> Arrow:
    """The pyarrow module, which reads every table; imported when the first one is opened."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ImportError(
            f"reading tables (CSV, Parquet, Arrow) needs pyarrow, which is not installed: {EXTRA}"
        ) from error
    return pa


@dataclasses.dataclass(frozen=True)
class File:
    """One file as it was when it was found: bytes, and the time of its last change (nanoseconds since 1970).

    Its path is absolute, or the address of a remote file, of which `remote` has the file system and the path
    there. `folders` are the names between the one that a user named and the file.
    """

    path: str
    size: int
    mtime_ns: int
    remote: tuple[Arrow, str] | None = dataclasses.field(default=None, compare=False, repr=False)
    folders: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    inode: int = dataclasses.field(default=0, compare=False, repr=False)

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

    @property
    def is_replaced(self) -> bool:
        """Whether another file has the name: what was opened before is untouched by that."""
        try:
            return self._local.stat().st_ino != self.inode
        except OSError:
            return False

    def _now(self) -> tuple[int, int]:
        if self.remote is None:
            status = self._local.stat()
            return status.st_size, status.st_mtime_ns
        found = self.remote[0].get_file_info(self.remote[1])
        if found.size is None:
            raise FileNotFoundError(self.path)
        return found.size, found.mtime_ns or 0

    def open(self) -> Arrow:
        """The file as a pyarrow random-access file."""
        filesystem, path = self._filesystem()
        return filesystem.open_input_file(path)

    def open_stream(self) -> Arrow:
        """The file as a pyarrow input stream, decompressed if its name ends in .gz, .bz2, .zst."""
        filesystem, path = self._filesystem()
        return filesystem.open_input_stream(path, compression="detect")

    def _filesystem(self) -> tuple[Arrow, str]:
        if self.remote:
            return self.remote
        from pyarrow import fs

        try:
            self.path.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{self.path} has a name that is no UTF-8, which pyarrow does not open: rename it, or make a "
                "link to it with another name."
            ) from None

        return fs.LocalFileSystem(), self.path


@contextlib.contextmanager
def known_as(name: str, path: str, *, first_row: int = 1) -> Iterator[None]:
    """Errors about the file at `path`, which nobody but us has named, say `name` instead.

    A `first_row` of 0 counts rows as Python does.
    """
    place = re.compile(re.escape(path) + r", row (\d{1,3}(?:,\d{3})*)")

    def counted(found: re.Match[str]) -> str:
        return f"{name}, row {int(found[1].replace(',', '')) - 1:,} (from 0)"

    def renamed(said: object) -> object:
        if not isinstance(said, str):
            return said
        said = place.sub(counted, said) if first_row == 0 else said
        return said.replace(path, name).replace(Path(path).name, name)

    try:
        yield
    except Exception as error:
        error.args = tuple(map(renamed, error.args))
        raise


def local_file(path: str | os.PathLike[str]) -> File:
    """The local file at `path`, which must exist and be readable."""
    path = Path(path).absolute()
    try:
        status = path.stat()
    except FileNotFoundError:
        there = sorted(p.stem for p in path.parent.glob("*") if p.suffix == path.suffix)
        named = [f"{each}{path.suffix}" for each in there[:5]]
        hint = f" There are: {', '.join(named)}." if named else ""
        if meant := checks.nearest(path.stem, there):
            hint = f" Did you mean {meant + path.suffix!r}?"
        raise FileNotFoundError(f"there is no file {str(path)!r}.{hint}") from None
    if not os.access(path, os.R_OK):
        raise PermissionError(f"no permission to read {str(path)!r}.")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(
            f"{str(path)!r} is a pipe or a device, and data is read more than once: name a file."
        )
    return File(str(path), status.st_size, status.st_mtime_ns, inode=status.st_ino)


def find_files(path: str | os.PathLike[str], suffixes: Sequence[str]) -> list[File]:
    """The files that `path` means, by name; those of a folder are the ones that end in a suffix.

    Names that start with a dot or an underscore are left out of folders, as other readers do.
    """
    text = os.fspath(path)
    if "://" in text:
        found = _find_remote(text, suffixes)
    elif Path(text).is_dir():
        if not os.access(text, os.R_OK | os.X_OK):  # or its files would seem to be none
            raise PermissionError(f"no permission to read the folder {text!r}.")
        found = [
            dataclasses.replace(local_file(each), folders=each.relative_to(text).parts[:-1])
            for each in sorted(Path(text).rglob("*"))
            if _is_wanted(each.relative_to(text).parts, suffixes) and each.is_file()
        ]
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


def _is_wanted(parts: Sequence[str], suffixes: Sequence[str]) -> bool:
    """Whether a file in a folder is data, by its path there."""
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and parts[-1].lower().endswith(tuple(suffixes))


def file_system(address: str) -> tuple[Arrow, str]:
    """The pyarrow file system that an address belongs to, its own or one of fsspec's, and the path there."""
    from pyarrow import fs

    try:
        found: tuple[Arrow, str] = fs.FileSystem.from_uri(address)
    except pyarrow().ArrowInvalid as error:
        if importlib.util.find_spec("fsspec") is None:
            raise ValueError(f"{error}. Other places are known to fsspec: pip install fsspec") from error
        import fsspec

        other, place = fsspec.url_to_fs(address)
        found = fs.PyFileSystem(fs.FSSpecHandler(other)), place
    return found


def _find_remote(address: str, suffixes: Sequence[str]) -> list[File]:
    """The files that an address means: a file, a folder, or a glob (of `*` alone)."""
    arrow = pyarrow()
    from pyarrow import fs

    try:
        filesystem, place = file_system(address)
        base, pattern = _without_marks(place)
        top = filesystem.get_file_info(base)
        if top.type == fs.FileType.NotFound:
            if (cause := _cause(filesystem, place)) is not None:
                raise ValueError(str(cause)) from cause
            raise FileNotFoundError(f"there is no file {address!r}.")
        inside = [top]
        if top.type == fs.FileType.Directory:
            listed = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
            inside = sorted(
                (each for each in listed if each.type == fs.FileType.File), key=lambda each: each.path
            )
    except FileNotFoundError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{address!r} can not be reached: {str(error).strip()}") from error
    scheme, found = address.partition("://")[0] + "://", []
    for each in inside:
        parts = PurePosixPath(each.path).relative_to(base).parts
        if pattern is not None:
            if not (len(parts) == len(pattern.parts) and PurePosixPath(*parts).match(str(pattern))):
                continue
            parts = parts[-1:]  # as of local files, a glob names files rather than a folder
        elif parts and not _is_wanted(parts, suffixes):
            continue
        remote = (filesystem, each.path)
        where = each.path if "://" in each.path else scheme + each.path
        found.append(File(where, each.size, each.mtime_ns or 0, remote, parts[:-1]))
    return found


def _cause(filesystem: Arrow, place: str) -> BaseException | None:
    """Why fsspec cannot say whether a file is there, which pyarrow takes for a no; None where it is a no."""
    from pyarrow import fs

    if isinstance(filesystem, fs.PyFileSystem) and isinstance(filesystem.handler, fs.FSSpecHandler):
        try:
            filesystem.handler.fs.info(place)
        except Exception as error:
            cause = error.__cause__ or error
            return None if isinstance(cause, FileNotFoundError) else cause
    return None


def _without_marks(place: str) -> tuple[str, PurePosixPath | None]:
    """The part of a path before the first name with a wildcard, and the rest; None if there is none."""
    if "://" in place:  # of the web, where ? begins a query
        return place, None
    parts = PurePosixPath(place).parts
    marked = [number for number, part in enumerate(parts) if any(mark in part for mark in "*?[")]
    if not marked:
        return place, None
    return str(PurePosixPath(*parts[: marked[0]])), PurePosixPath(*parts[marked[0] :])
