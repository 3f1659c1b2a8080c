"""Threads that compute side by side."""

import threading
import time

import numpy as np
import pytest

from mlp_xp.machine import blas, threads


def test_results_come_in_the_order_of_tasks():
    assert threads.together([lambda n=n: n**2 for n in range(5)]) == [0, 1, 4, 9, 16]


def test_all_tasks_are_over_when_one_has_failed():
    over = threading.Event()

    def slow():
        time.sleep(0.05)
        over.set()

    def fail():
        raise MemoryError

    with pytest.raises(MemoryError):
        threads.together([fail, slow])
    assert over.is_set()
    over.clear()
    with pytest.raises(MemoryError):
        threads.together([slow, fail])
    assert over.is_set()


def test_overflow_is_as_quiet_as_in_the_callers_thread():
    def overflow():
        return np.float32(1e38) * np.float32(10)

    with np.errstate(all="ignore"):
        assert threads.together([overflow, overflow]) == [np.inf, np.inf]
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        threads.together([lambda: 0, overflow])


def test_pieces_are_shared_out_where_each_is_worth_a_thread(monkeypatch):
    monkeypatch.setattr(blas, "n_threads", lambda: 4)
    assert threads.n_parts(8, threads.PART_WORK) == 4
    assert threads.n_parts(3, threads.PART_WORK) == 3
    assert threads.n_parts(8, threads.PART_WORK - 1) == 1
    assert threads.n_parts(8, 2 * blas.WORK_PER_THREAD) == 1  # the BLAS shares out the products of each
