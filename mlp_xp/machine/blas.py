"""The BLAS libraries of this process, which have one thread while we compute.

NumPy computes with one; SciPy's wheels bring another of their own. Their numbers of threads belong to the
whole process, so that here alone they are set: for as long as somebody computes, and as they were afterwards.

After each product the threads of a BLAS wait busily for the next. On cores that others want, too, each
product waits for a thread that was put aside: beside other busy processes two threads took 4 to 100 times as
long as one for 1 to 4 million multiplications, 1.7 to 4.1 times for 200 million. Large products are shared
out to threads of our own, which sleep in between (`threads.matmul`).
"""

import contextlib
import contextvars
import functools
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlp_xp.machine import open_blas

SMALL, SMALL_OF_MATRICES = 9216, 262_144
"""Multiplications that OpenBLAS never shares out, of a matrix with a vector and of two matrices
(interface/gemv.c: 2304 × GEMM_MULTITHREAD_THRESHOLD; gemm.c: 65536 ×). With fewer nothing needs to be said to
it, which takes some 10 µs."""

_CGROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@functools.cache
def cores() -> int:
    """Cores that this process may use: those that it is bound to, or fewer by its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, quota()))


def quota(root: Path = _CGROUPS, own: Path = _OWN_GROUP) -> int:
    """Cores that the time of a process's control groups is worth, at least one; large without a limit."""
    least = sys.maxsize
    for folder in _groups(root, own):
        for name, period_name in (("cpu.max", None), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError, IndexError, ZeroDivisionError):
                numbers = (folder / name).read_text().split()
                if period_name is not None:
                    numbers.append((folder / period_name).read_text())
                share = float(numbers[0]) / float(numbers[1])  # "max" is no number
                if share > 0:
                    least = min(least, max(1, math.ceil(share)))
    return least


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of a process's control groups, of both versions, and of all groups that they are in.

    In a container the root is its own group, and the name that the machine has for it leads nowhere.
    """
    yield from (root, root / "cpu")
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                group = (root / "cpu" if controllers else root) / name.lstrip("/")
                yield from (folder for folder in (group, *group.parents) if root in folder.parents)


class Threads:
    """The number of threads of some libraries: one, while anybody computes.

    Parameters
    ----------
    libraries : list
        Objects with `num_threads` and `set_num_threads`.
    """

    def __init__(self, libraries: list[Any]) -> None:
        self.libraries = libraries
        self.lock = threading.Lock()
        self.n_users = 0
        self.before: list[int] = []

    def usual(self) -> int:
        """How many they have while nobody computes, the fewest where they differ; 1 without any."""
        with self.lock:
            return min(self.before if self.n_users else self._counts(), default=1)

    def _counts(self) -> list[int]:
        return [library.num_threads for library in self.libraries]

    def _change(self, before: list[int], after: list[int]) -> None:
        """Have so many where they had others; asking a library takes as long as telling it."""
        for library, old, new in zip(self.libraries, before, after, strict=True):
            if old != new:
                library.set_num_threads(new)

    def take_one(self) -> None:
        """Begin to compute with one thread."""
        with self.lock:
            if not self.n_users:
                self.before = self._counts()
                self._change(self.before, [1] * len(self.before))
            self.n_users += 1

    def give_back(self) -> None:
        """End; the last one leaves them as they were."""
        with self.lock:
            self.n_users -= 1
            if not self.n_users:
                self._change([1] * len(self.before), self.before)

    def let_use(self, n_threads: int) -> None:
        """Let them use so many from now on."""
        with self.lock:
            wanted = [n_threads] * len(self.libraries)
            if self.n_users:
                self.before = wanted
            else:
                self._change(self._counts(), wanted)


def _loaded() -> list[tuple[str, Any]]:
    """File and handle of each OpenBLAS that is loaded; where there is none, of what threadpoolctl knows.

    threadpoolctl lets only the thread that set a number first change it for good.
    """
    found: list[Any] = open_blas.loaded()
    if found:
        return [(library.filepath, library) for library in found]
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        return []
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [(library.filepath, library) for library in found]


def _is_scipys(file: str) -> bool:
    """Whether a library lies in SciPy's folder, or beside it in scipy.libs."""
    scipy = sys.modules.get("scipy")
    return scipy is not None and file.startswith(str(Path(str(scipy.__file__)).parent))


@functools.cache
def _numpys() -> Threads:
    """NumPy's BLAS."""
    return Threads([library for file, library in _loaded() if not _is_scipys(file)])


@functools.cache
def _scipys() -> Threads:
    """SciPy's BLAS, where it is another one."""
    return Threads([library for file, library in _loaded() if _is_scipys(file)])


_NONE = Threads([])


def _both() -> tuple[Threads, Threads]:
    return _numpys(), _scipys() if "scipy.linalg" in sys.modules else _NONE


def _forget() -> None:
    """Begin anew in a fork, where those who computed in its parent will never give theirs back."""
    _numpys.cache_clear()
    _scipys.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _OfThisThread(threading.local):
    """The libraries that have one thread because the calling thread computes."""

    taken: tuple[Threads, ...] = ()


_own = _OfThisThread()
_most = contextvars.ContextVar("most", default=sys.maxsize)


def at_most(n_threads: int | None) -> contextlib.AbstractContextManager[None]:
    """Let no more than so many threads compute what the calling thread asks for inside; None: no limit."""
    return contextlib.nullcontext() if n_threads is None else _at_most(n_threads)


@contextlib.contextmanager
def _at_most(n_threads: int) -> Iterator[None]:
    before = _most.set(n_threads)
    try:
        yield
    finally:
        _most.reset(before)


def n_threads() -> int:
    """Threads that may share out a large piece of work."""
    return min(cores(), _both()[0].usual(), _most.get())


class Computing:
    """What `computing` gives; a class, since it is entered once a step, and a generator takes longer."""

    def __init__(self, wanted: tuple[Threads, ...]) -> None:
        self.wanted = wanted

    def __enter__(self) -> None:
        self.taken = tuple(each for each in self.wanted if each.libraries and each not in _own.taken)
        for each in self.taken:
            each.take_one()
        _own.taken += self.taken

    def __exit__(self, *_: object) -> None:
        if self.taken:
            _own.taken = _own.taken[: -len(self.taken)]
            for each in self.taken:
                each.give_back()


def computing() -> Computing:
    """Compute inside with one thread of each BLAS: the same, whatever else goes on.

    SciPy's own has one, too: where two libraries take turns, the threads of one wait on the cores that the
    other needs (100 iterations of L-BFGS on 100 rows of 2-100-100-1: 900 instead of 110 ms).
    """
    return Computing(_both())  # SciPy may have been loaded since what surrounds this began


_NOTHING = Computing(())


def multiplying(with_vector: int, of_matrices: int = 0) -> Computing:
    """Multiply inside with one thread of NumPy's BLAS alone.

    Parameters
    ----------
    with_vector, of_matrices : int
        Multiplications of the largest product with a vector, or of any kind, and of the largest of those that
        are known to be of two matrices; little changes nothing.
    """
    is_small = with_vector < SMALL and of_matrices < SMALL_OF_MATRICES
    return _NOTHING if is_small else Computing(_both()[:1])


def let_use(n_threads: int) -> None:
    """Let each BLAS use so many threads from now on."""
    for each in _both():
        each.let_use(n_threads)
