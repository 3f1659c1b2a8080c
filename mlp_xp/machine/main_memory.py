"""The memory of this machine: whether so much can be had, and whether an error says that it ran out."""

import errno
import functools
import os
from pathlib import Path

CONTROL_GROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how much the processes of a container may have together, by its two versions."""

SIGNS = ("failed to map segment", "cannot allocate memory", "can't start new thread", "bad_alloc")
"""What loaders, libraries and Python say where memory ran out, in errors of other kinds."""


def shortage(error: BaseException) -> str | None:
    """What an error, of whatever kind, says of memory that ran out; None where it says nothing of it."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = next((line for line in lines if any(sign in line.lower() for sign in SIGNS)), None)
    if told is None and (isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM):
        told = "".join(lines[:1]) or "no more can be had"
    return None if told is None else told.rstrip(".")


@functools.cache
def total() -> int | None:
    """Bytes that this process can have at most; None where the system does not say."""
    found = []
    if hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in CONTROL_GROUP:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(found, default=None)


def require(n_bytes: int, what: str) -> None:
    """Refuse, before anything is taken, what asks for more memory than there is; `what` is what takes it."""
    import numpy as np

    most = total()
    if most is not None and n_bytes > most:
        raise MemoryError(
            f"there is not enough memory: {what} takes {n_bytes:,} bytes, and this machine has {most:,}."
        )
    try:
        np.empty(n_bytes, np.uint8)  # reserved and given back: nothing is touched
    except MemoryError:
        raise MemoryError(
            f"there is not enough memory: {what} takes {n_bytes:,} bytes, and so many cannot be had now."
        ) from None
