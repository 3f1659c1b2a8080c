"""Files that are cut short while they are mapped: an error where the process would end by SIGBUS.

To touch a page that a file has lost since it was mapped raises SIGBUS, which no Python code can catch: the
instruction that failed is made again. So the page is replaced by one of zeros where it is read inside a
`Guard`, which refuses them afterwards. That is had on Linux with 64 bits; elsewhere, and where anybody else
reads the map, the process ends as the system wants it.
"""

import contextlib
import ctypes
import functools
import mmap
import signal
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import Any, Self

SA_SIGINFO = 4
MAP_PRIVATE_FIXED_ANONYMOUS = 0x02 | 0x10 | 0x20
ADDRESS_AT = 16
"""Where a siginfo_t has the address that was touched, in bytes."""


class Guard:
    """Reads of mapped files inside its block fail with an error of ours.

    It knows the address and the bytes of each by its path.

    Raises RuntimeError: on leaving the block: a page was lost, now or before.
    """

    def __init__(self, maps: Mapping[str, tuple[int, int]]) -> None:
        self._maps = dict(maps)
        self._readers: set[int] = set()
        self._lost: str | None = None
        if self._maps and _install():
            _GUARDS.add(self)

    def __enter__(self) -> Self:
        """Let this thread read."""
        self._readers.add(threading.get_ident())
        return self

    def __exit__(self, *_: object) -> None:
        """Refuse what was read if some of it was lost."""
        self._readers.discard(threading.get_ident())
        if self._lost is not None:
            raise RuntimeError(
                f"{self._lost} was cut short while it was read. Write it again, and start again when nothing "
                "writes to it."
            )

    def loses(self, address: int) -> bool:
        """Whether this thread reads this address here; what is there is lost then."""
        if threading.get_ident() in self._readers:
            for path, (start, n_bytes) in self._maps.items():
                if start <= address < start + n_bytes:
                    self._lost = path
                    return True
        return False


_KEPT: list[Any] = []

_GUARDS: "weakref.WeakSet[Guard]" = weakref.WeakSet()


class _Action(ctypes.Structure):
    """Linux's struct sigaction."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_char * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@functools.cache
def _install() -> bool:
    """Handle SIGBUS from now on; whether that can be had here."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    before, page = _Action(), mmap.PAGESIZE

    def handle(_number: int, information: Any, _context: Any) -> None:
        address = ctypes.c_uint64.from_address(information + ADDRESS_AT).value
        with contextlib.suppress(Exception):  # nobody could see it
            if [guard for guard in _GUARDS if guard.loses(address)]:
                at = address // page * page
                libc.mmap(at, page, mmap.PROT_READ, MAP_PRIVATE_FIXED_ANONYMOUS, -1, 0)
                return
        libc.sigaction(signal.SIGBUS, ctypes.byref(before), None)  # as if we had never been here

    native = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(handle)
    _KEPT.append(native)  # the system has its address
    ours = _Action(ctypes.cast(native, ctypes.c_void_p).value, b"", SA_SIGINFO, None)
    return bool(libc.sigaction(signal.SIGBUS, ctypes.byref(ours), ctypes.byref(before)) == 0)
