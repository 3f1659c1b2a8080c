"""The moment in which NumPy is loaded and its BLAS starts threads: what fails there says what is needed.

OpenBLAS sends its own process SIGINT where a thread cannot be started, as if somebody had interrupted it; and
where it gets no memory it ends the process with status 1, which is that of a training that diverged.
"""

import contextlib
import importlib
import mmap
import os
import signal
from collections.abc import Iterator

from mlp_xp.machine.blas import cores

FIRST_BYTES, BYTES_PER_THREAD = 88 << 20, 40 << 20
"""Address space that NumPy and its OpenBLAS take as they are loaded, with one thread and for each more."""

REMEDY = "Raise the limits (ulimit -v, ulimit -u), or set OPENBLAS_NUM_THREADS=1"


def load_numpy() -> None:
    """Import NumPy.

    Raises MemoryError: there is too little memory for it, or its threads cannot be started;
    KeyboardInterrupt: somebody interrupted it.
    """
    _require_room()
    with _own_interrupts():
        importlib.import_module("numpy")


def _require_room() -> None:
    """Refuse a limit of the address space (ulimit -v) below what is taken."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, which has no such limit
        return
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    wanted = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    n_threads = min(int(wanted), cores()) if wanted.isdecimal() and int(wanted) else cores()
    n_bytes = FIRST_BYTES + BYTES_PER_THREAD * (n_threads - 1)
    try:
        mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError(
            f"there is not enough memory: NumPy takes {n_bytes:,} bytes of address space. {REMEDY}."
        ) from None


@contextlib.contextmanager
def _own_interrupts() -> Iterator[None]:
    """Tell a SIGINT that a library raises inside the block from one that somebody sent."""
    if not hasattr(signal, "sigtimedwait"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        came = signal.sigtimedwait({signal.SIGINT}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if came is None:
        return
    if came.si_pid == os.getpid():
        raise MemoryError(
            f"there is not enough memory, or there are too many processes: the threads of NumPy's BLAS could "
            f"not be started. {REMEDY}."
        )
    signal.raise_signal(signal.SIGINT)
