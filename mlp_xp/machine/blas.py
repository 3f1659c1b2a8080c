"""The BLAS libraries of this process, and how many threads each may use.

NumPy computes with one; SciPy's wheels bring another of their own. Their numbers of threads belong to the
whole process, so that here alone they are set: for as long as somebody computes, and as they were afterwards.

After each product the threads of a BLAS wait busily for the next. On cores that others want, too, each
product waits for a thread that was put aside, and one of 40 µs takes milliseconds: several threads are for
products that are long against that.
"""

import contextlib
import functools
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlp_xp.machine import open_blas

WORK_PER_THREAD = 2**27
"""Multiplications of one product for each thread of a BLAS, about 4 ms of a core in float32. Fewer would be
faster, by 1.7 times at most, on two cores that have nothing else to do. Beside other busy processes two
threads took 4 to 100 times as long as one for 1 to 4 million multiplications, 1.7 to 4.1 times for 200
million, and 1.1 to 1.6 times for 1,000 million: no size is safe, and small ones are lost."""

SMALL = 9216
"""Multiplications that OpenBLAS never shares out (interface/gemv.c: 2304 × GEMM_MULTITHREAD_THRESHOLD). With
fewer nothing needs to be said to it, which takes some 10 µs."""

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
    """The number of threads of some libraries, which many may want at once, each another.

    Those who want the same number compute beside one another. Who wants another one waits, at most for a step
    of each of those: so what a product gives does not depend on who else computes. Afterwards they have as
    many as before, at once, or when the last run has ended that makes many steps and would change them twice
    a step (`keep`).

    Parameters
    ----------
    libraries : list
        Objects with `num_threads` and `set_num_threads`.
    """

    def __init__(self, libraries: list[Any]) -> None:
        self.libraries = libraries
        self.lock = threading.Lock()  # entered for each step: a Condition takes several times as long
        self.changed = threading.Condition(self.lock)
        self.n_users, self.n_waiting, self.n_keeping = 0, 0, 0
        self.now: int | None = None  # as they were
        self.before: list[int] = []

    def usual(self) -> int:
        """How many they have while nobody holds them, the fewest where they differ; 1 without any."""
        with self.lock:
            return min(self._counts() if self.now is None else self.before, default=1)

    def _counts(self) -> list[int]:
        return [library.num_threads for library in self.libraries]

    def take(self, n_threads: int) -> None:
        """Begin to compute with so many."""
        with self.lock:
            # Who comes later than somebody who waits does not go ahead, or that one would wait for ever.
            if self.n_users and (self.now != n_threads or self.n_waiting):
                self.n_waiting += 1
                try:
                    self.changed.wait()  # until the last user has left, and somebody took its place
                    self.changed.wait_for(lambda: not self.n_users or self.now == n_threads)
                finally:
                    self.n_waiting -= 1
            if self.now is None:
                self.before = self._counts()
                self._change(self.before, n_threads)
            elif self.now != n_threads:
                self._change([self.now] * len(self.libraries), n_threads)
            self.now = n_threads
            self.n_users += 1

    def give_back(self) -> None:
        """End; the last one leaves them as they were."""
        with self.lock:
            self.n_users -= 1
            if self.n_waiting or not self.n_keeping:
                self._leave()

    def keep(self, n: int) -> None:
        """Let them keep a number between those who use it, for one run more (n = 1) or less (n = -1)."""
        with self.lock:
            self.n_keeping += n
            self._leave()

    def _leave(self) -> None:
        """Where nobody uses them: call whoever waits, and have as many as before unless they are kept."""
        if self.n_users:
            return
        if self.now is not None and not self.n_keeping:
            for library, count in zip(self.libraries, self.before, strict=True):
                if count != self.now:
                    library.set_num_threads(count)
            self.now = None
        if self.n_waiting:
            self.changed.notify_all()

    def _change(self, counts: list[int], n_threads: int) -> None:
        """Have so many where they have others; asking a library takes as long as telling it."""
        for library, count in zip(self.libraries, counts, strict=True):
            if count != n_threads:
                library.set_num_threads(n_threads)

    def let_use(self, n_threads: int) -> None:
        """Let them use so many from now on."""
        with self.lock:
            if self.now is None:
                self._change(self._counts(), n_threads)
            else:
                self.before = [n_threads] * len(self.libraries)


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
    """What the calling thread has taken, and how many threads it was told to use at most."""

    computes = False
    most = sys.maxsize


_own = _OfThisThread()


@contextlib.contextmanager
def at_most(n_threads: int | None) -> Iterator[None]:
    """Let no more than so many threads compute what the calling thread asks for inside; None: no limit."""
    before = _own.most
    _own.most = before if n_threads is None else n_threads
    try:
        yield
    finally:
        _own.most = before


def n_threads() -> int:
    """Threads that may share out a large piece of work."""
    return min(cores(), _both()[0].usual(), _own.most)


class Computing:
    """What `computing` gives; a class, since it is entered once a step, and a generator takes longer."""

    def __init__(self, work: int) -> None:
        self.work = work
        self.taken: tuple[Threads, ...] = ()

    def __enter__(self) -> None:
        if _own.computes or 1 < self.work < SMALL:
            return
        several = self.work >= 2 * WORK_PER_THREAD
        numpys, scipys = _both()
        numpys.take(min(n_threads(), self.work // WORK_PER_THREAD) if several else 1)
        if scipys.libraries:
            scipys.take(1)
        self.taken = (numpys, scipys) if scipys.libraries else (numpys,)
        _own.computes = True

    def __exit__(self, *_: object) -> None:
        if self.taken:
            _own.computes = False
            for each in self.taken:
                each.give_back()


def computing(work: int) -> Computing:
    """Compute inside, with the threads that suit the size of the products: the same, whatever else goes on.

    SciPy's own BLAS has one thread meanwhile: where two libraries take turns, the threads of one wait on the
    cores that the other needs (100 iterations of L-BFGS on 100 rows of 2-100-100-1: 900 instead of 110 ms).

    Parameters
    ----------
    work : int
        Multiplications of the largest product. With less than that for two threads, one computes.
    """
    return Computing(work)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Make many steps inside: the numbers of threads stay from one to the next, unless others want others."""
    both = _both()
    try:
        for each in both:
            each.keep(1)
        yield
    finally:
        for each in both:
            each.keep(-1)


@contextlib.contextmanager
def one_thread_for_scipy() -> Iterator[None]:
    """Compute inside with SciPy's own BLAS, in one thread."""
    scipys = _both()[1]
    scipys.take(1)
    try:
        yield
    finally:
        scipys.give_back()


def let_use(n_threads: int) -> None:
    """Let each BLAS use so many threads from now on."""
    for each in _both():
        each.let_use(n_threads)
