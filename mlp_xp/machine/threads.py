"""Threads of our own, that compute side by side."""

import contextlib
import contextvars
import ctypes
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from mlp_xp.machine import blas

Result = TypeVar("Result")

PART_WORK = 2**20
"""Multiplications of the largest product that are worth a thread: a plain step of some 0.5 ms. To hand it
over takes 0.03, and all threads of Python take turns between two products."""


PIECE_WORK = 2**22
"""Multiplications of a piece of a product: some 0.1 ms of a core, three times what handing it over takes."""

PIECE_SIZE, MOST_PIECES = 128, 16
"""Rows or columns of a piece at least: with fewer a product takes longer (two may be half as large). And
pieces of a product, at most."""

LINE = 16
"""Numbers that a piece is a multiple of: a line of a cache."""


class Started:
    """A task of a thread of ours, in the context of who started it: NumPy's errors are treated alike."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self.task, self.context = task, contextvars.copy_context()
        self.error: BaseException | None = None
        self.is_under_way = threading.Lock()
        self.is_under_way.acquire()

    def make(self) -> None:
        """Do it."""
        try:
            self.found = self.context.run(self.task)
        except BaseException as error:  # whatever it is, it belongs to who started it
            self.error = error
        finally:
            del self.task
            self.is_under_way.release()

    def result(self) -> Any:
        """What it gave, once it is over."""
        wait_for([self])
        if self.error is not None:
            raise self.error
        return self.found


def wait_for(tasks: Sequence[Started]) -> None:
    """Return when they are over."""
    for each in tasks:
        with each.is_under_way:
            pass


class Workers:
    """Threads that sleep until there is something to do.

    They are there for all who start tasks, and stay: a thread pool of the standard library takes 25 to 70 µs
    longer to hand over a task and its result, which is a third of the product of 128 × 256 and 256 × 256.
    `turns` is held where tasks spin for one another, and so want a core each.
    """

    def __init__(self) -> None:
        self.started: queue.SimpleQueue[Started] = queue.SimpleQueue()
        self.n, self.lock, self.turns = 0, threading.Lock(), threading.Lock()

    def start(self, tasks: Sequence[Callable[[], Any]]) -> list[Started]:
        """Have each task made by a thread of its own, side by side."""
        with self.lock:
            while self.n < len(tasks):
                threading.Thread(target=self._work, name="mlp_xp", daemon=True).start()
                self.n += 1
        made = [Started(task) for task in tasks]
        for each in made:
            self.started.put(each)
        return made

    def _work(self) -> None:
        while True:
            self.started.get().make()


@functools.cache
def workers() -> Workers:
    """Those of this process."""
    return Workers()


if hasattr(os, "register_at_fork"):  # a fork has none of its parent's threads
    os.register_at_fork(after_in_child=workers.cache_clear)


@contextlib.contextmanager
def beside(thread: threading.Thread) -> Iterator[None]:
    """Inside, a thread and the calling one, which waits for it, have one core, where the system can do that.

    Else each is woken on another, idle one, which takes some 100 µs (L-BFGS on 442 rows: 26, not 12 ms). The
    thread may be started inside.
    """
    cores = None
    try:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            core, cores = {_c_library().sched_getcpu()}, os.sched_getaffinity(0)
            os.sched_setaffinity(0, core)
            os.sched_setaffinity(thread.native_id or 0, core)
        yield
    finally:
        if cores is not None:
            os.sched_setaffinity(0, cores)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def n_parts(n: int, work: int) -> int:
    """How many threads share n equal pieces of work, with so many multiplications in the largest product."""
    return min(n, blas.n_threads()) if work >= PART_WORK else 1


def together(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of some tasks, each by one thread; all are over when this is, whatever happens."""
    with blas.at_most(1):  # who shared out again would wait for itself
        others = workers().start(tasks[1:])
        try:
            own = tasks[0]()
            wait_for(others)
        except BaseException:  # Ctrl-C, say: nobody writes any more when the caller goes on
            wait_for(others)
            raise
    return [own, *(each.result() for each in others)]


Product = tuple[np.ndarray, np.ndarray, np.ndarray]
"""left, right, and where left @ right goes."""


def matmul(left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """left @ right; a large product in pieces, which the cores share."""
    if out is None:
        members = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        out = np.empty((*members, left.shape[-2], right.shape[-1]), dtype=left.dtype)
    multiply([(left, right, out)])
    return out


def multiply(products: Sequence[Product]) -> None:
    """Fill out with left @ right for each; the cores share them, large ones in pieces.

    Pieces follow from sizes alone: the result has the same bits, however many threads there are.
    """
    pieces = [piece for product in products for piece in _pieces(*product)]
    n_threads = min(len(pieces), blas.n_threads()) if sum(map(_work, products)) >= 2 * PIECE_WORK else 1
    rest = iter(pieces)

    def multiply_rest() -> None:
        for left, right, out in rest:  # each thread takes the next one, until there is none
            np.matmul(left, right, out=out)

    if n_threads == 1:
        multiply_rest()
    else:
        together([multiply_rest] * n_threads)


def _work(product: Product) -> int:
    """Multiplications, of each member."""
    left, right, _ = product
    return left.shape[-2] * left.shape[-1] * right.shape[-1]


def _pieces(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> list[Product]:
    """Some rows or columns of a product each; all of it where it is small."""
    n_rows, n_columns = out.shape[-2:]
    longer = max(n_rows, n_columns)
    n = min(_work((left, right, out)) // PIECE_WORK, max(2, longer // PIECE_SIZE), MOST_PIECES)
    if n < 2 or longer < PIECE_SIZE // 2:
        return [(left, right, out)]
    ends = [longer * i // n // LINE * LINE for i in range(n)] + [longer]
    parts = [slice(*bounds) for bounds in itertools.pairwise(ends)]
    if n_rows == longer:
        return [(left[..., part, :], right, out[..., part, :]) for part in parts]
    return [(left, right[..., part], out[..., part]) for part in parts]
