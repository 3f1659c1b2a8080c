"""Files that are written whole or not at all, and files that are only read if they are files."""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART = ".mlp-xp-*.part"
"""Names of files that are being written."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as a place elsewhere, as s3://bucket/x, which is s3:/bucket/x as a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None


def write_whole(path: str | os.PathLike[str], content: bytes, *, follow: bool = True) -> None:
    """Write a file under a temporary name beside it, flush it to disk, and rename it; see `whole_file`.

    Raises OSError: nothing is left of the attempt, and what was at `path` is untouched.
    """
    with whole_file(path, follow=follow) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *, mode: int = 0o666, follow: bool = True) -> Iterator[BinaryIO]:
    """A new file to write to, which takes the place of the one at `path` when the block ends without error.

    Raises OSError: with the name of the file. Nothing is left of the attempt, and what was at `path` is
    untouched.

    Parameters
    ----------
    mode : int
        Who may read and write it, less what the process's mask takes away.
    follow : bool
        The file that a link names is replaced, and a device or a pipe is refused: what a user names is meant.
        Otherwise they are replaced themselves: where only our own names are, nothing else is wanted.
    """
    path = Path(os.path.realpath(path)) if follow else Path(path).absolute()
    if path.is_dir() or (follow and path.exists() and not path.is_file()):
        raise OSError(f"{path} is a {'folder' if path.is_dir() else 'device or pipe'}: name a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} in: make it first.")
    temporary = path.with_name(PART.replace("*", secrets.token_hex(8)))
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode
        )
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(path)  # a write that fails does not say where
        raise


def flush_folder(folder: Path) -> None:
    """Make new names last through a power cut, where folders can be flushed."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # a file system that knows no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_plain(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """A file to read, once it is known to be one: a pipe would be waited for, a device never ends.

    Raises OSError: it is a folder, a pipe, a device or a link that is not followed, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        if Path(path).is_symlink():
            raise OSError(f"{path} is a link, which is not followed here.")
        flags |= getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise OSError(f"{path} is a {'folder' if stat.S_ISDIR(kind) else 'device or pipe'}: name a file.")
    return os.fdopen(descriptor, "rb")


def read_plain(path: str | os.PathLike[str], most: int) -> bytes:
    """The content of a file that is one and has at most so many bytes.

    Raises ValueError: it has more; OSError: it is no file, or cannot be read.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} has {size:,} bytes, where at most {most:,} make sense.")
        return file.read(size)
