"""Threads of our own, that compute side by side."""

import concurrent.futures
import functools
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
    """How many threads share n equal pieces of work; one, where the BLAS shares the products of each.

    Parameters
    ----------
    n : int
        Pieces.
    work : int
        Multiplications of the largest product of each.
    """
    return min(n, blas.n_threads()) if PART_WORK <= work < 2 * blas.WORK_PER_THREAD else 1


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
