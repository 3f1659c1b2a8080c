"""Threads of our own, that compute side by side."""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mlp_xp.machine import blas

Result = TypeVar("Result")

PART_WORK = 2**20
"""Multiplications of the largest product that are worth a thread: a plain step of some 0.5 ms. To hand it
over takes 0.05, and all threads of Python take turns between two products."""


PIECE_WORK = 2**23
"""Multiplications of a piece of a product: some 0.2 ms of a core, five times what handing it over takes."""

PIECE_SIZE, MOST_PIECES = 128, 16
"""Rows or columns of a piece at least: with fewer a product takes longer. And pieces of one, at most."""

LINE = 16
"""Numbers that a piece is a multiple of: a line of a cache."""


class Pool:
    """Threads that are there when they are needed: a fork has none of its parent's.

    Parameters
    ----------
    n_threads : int
        How many.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._made: tuple[int, ThreadPoolExecutor] | None = None

    def of_this_process(self) -> ThreadPoolExecutor:
        """The threads."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), ThreadPoolExecutor(self.n_threads, "mlp_xp step")
        return self._made[1]


@functools.cache
def _others() -> Pool:
    """All but the calling one."""
    return Pool(max(1, blas.cores() - 1))


def n_parts(n: int, work: int) -> int:
    """How many threads share n equal pieces of work.

    Parameters
    ----------
    n : int
        Pieces.
    work : int
        Multiplications of the largest product of each.
    """
    return min(n, blas.n_threads()) if work >= PART_WORK else 1


def together(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """The results of some tasks, each by one thread; all are over when this is, whatever happens."""
    errors = np.geterr()

    def alike(task: Callable[[], Result]) -> Result:
        with np.errstate(**errors), blas.at_most(1):  # who shared out again would wait for itself
            return task()

    others = [_others().of_this_process().submit(alike, task) for task in tasks[1:]]
    try:
        own = alike(tasks[0])
        concurrent.futures.wait(others)
    except BaseException:  # Ctrl-C, say: nobody writes any more when the caller goes on
        concurrent.futures.wait(others)
        raise
    return [own, *(each.result() for each in others)]


def matmul(left: np.ndarray, right: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """left @ right; a large product in pieces, which the cores share.

    Pieces follow from sizes alone: the result has the same bits, however many threads there are.
    """
    n_rows, n_columns = left.shape[-2], right.shape[-1]
    longer = max(n_rows, n_columns)
    n = min(n_rows * left.shape[-1] * n_columns // PIECE_WORK, longer // PIECE_SIZE, MOST_PIECES)
    if n < 2:
        return np.matmul(left, right, out=out)
    if out is None:
        members = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        out = np.empty((*members, n_rows, n_columns), dtype=left.dtype)
    ends = [longer * i // n // LINE * LINE for i in range(n)] + [longer]
    parts = [slice(*bounds) for bounds in itertools.pairwise(ends)]
    n_threads = min(n, blas.n_threads())

    def multiply(first: int) -> None:
        for part in parts[first::n_threads]:
            if n_rows == longer:
                np.matmul(left[..., part, :], right, out=out[..., part, :])
            else:
                np.matmul(left, right[..., part], out=out[..., part])

    together([functools.partial(multiply, first) for first in range(n_threads)])
    return out
