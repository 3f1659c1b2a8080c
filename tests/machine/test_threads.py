"""Threads that compute side by side."""

import dataclasses
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from mlp_xp import Network, forward
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_has_threads_of_its_own():
    code = """
import os, signal
from mlp_xp.machine.threads import together
assert together([os.getpid] * 2) == [os.getpid()] * 2
if os.fork():
    _, status = os.wait()
    raise SystemExit(status != 0)
signal.alarm(30)  # it would wait for threads that only its parent has
os._exit(together([os.getpid] * 2) != [os.getpid()] * 2)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_task_lives_no_longer_than_it_is_asked_for():
    class Result:
        pass

    result = threads.workers().start([Result])[0].result()
    known = weakref.ref(result)
    del result
    gc.collect()
    assert known() is None


def test_pieces_are_shared_out_where_each_is_worth_a_thread(monkeypatch):
    monkeypatch.setattr(blas, "n_threads", lambda: 4)
    assert threads.n_parts(8, threads.PART_WORK) == 4
    assert threads.n_parts(3, threads.PART_WORK) == 3
    assert threads.n_parts(8, threads.PART_WORK - 1) == 1


def test_a_task_shares_nothing_out_again():
    def inner():
        return threads.n_parts(8, threads.PART_WORK)

    assert threads.together([inner, inner]) == [1, 1]


@pytest.mark.parametrize("members", [None, 2])
def test_predictions_are_the_same_by_one_thread_and_by_several(members, monkeypatch):
    network = Network((64, 64, 3), members=members)
    x = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
    with blas.at_most(1):
        expected, shared = network.predict(x, chunk_rows=300), []
    monkeypatch.setattr(
        forward, "together", lambda tasks: [shared.append(len(tasks)), threads.together(tasks)]
    )
    monkeypatch.setattr(blas, "n_threads", lambda: 3)
    np.testing.assert_array_equal(network.predict(x, chunk_rows=300), expected)
    assert shared == [3]


@pytest.mark.parametrize("members", [(), (2,)])
@pytest.mark.parametrize(
    ("n_rows", "n_inner", "n_columns"), [(300, 401, 210), (90, 512, 777), (700, 300, 300), (64, 1797, 100)]
)
def test_a_large_product_has_the_same_bits_by_one_thread_and_by_several(
    members, n_rows, n_inner, n_columns, monkeypatch
):
    rng = np.random.default_rng(0)
    left = rng.standard_normal((n_rows, n_inner), dtype=np.float32)
    right = rng.standard_normal((*members, n_columns, n_inner), dtype=np.float32).mT
    with blas.at_most(1):
        expected = threads.matmul(left, right)
    tasks_of = []
    together = threads.together
    monkeypatch.setattr(threads, "together", lambda tasks: [tasks_of.append(len(tasks)), together(tasks)])
    monkeypatch.setattr(blas, "n_threads", lambda: 3)
    out = np.full(expected.shape, np.nan, dtype=np.float32)
    assert threads.matmul(left, right, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(out, np.einsum("ij,...jk->...ik", left.astype("f8"), right), atol=1e-3)
    assert tasks_of[0] > 1


def test_both_products_of_a_layer_are_shared_out_at_once(monkeypatch):
    monkeypatch.setattr(threads, "PIECE_WORK", 1000)
    monkeypatch.setattr(threads, "PIECE_SIZE", 16)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 24)), rng.normal(size=(64, 3))
    network = Network((24, 32, 40, 3), activation="tanh", dtype="float64")
    with blas.at_most(1):
        value, expected = network.gradient(x, y)
    tasks_of, together = [], threads.together
    monkeypatch.setattr(threads, "together", lambda tasks: [tasks_of.append(len(tasks)), together(tasks)])
    monkeypatch.setattr(blas, "n_threads", lambda: 3)
    assert network.gradient(x, y)[0] == value
    np.testing.assert_array_equal(network.gradient(x, y)[1].flat, expected.flat)
    assert len(tasks_of) == 2 * (3 + 2 + 1)  # three on the way there, two pairs and one on the way back
    one_by_one = dataclasses.replace(network.backend, large_matmul=None, large_matmuls=None)
    network.backend = one_by_one
    np.testing.assert_allclose(network.gradient(x, y)[1].flat, expected.flat, rtol=1e-12, atol=1e-15)


def test_a_small_product_is_shared_with_nobody(monkeypatch):
    monkeypatch.setattr(threads, "together", None)
    left, right = np.ones((200, 200), dtype=np.float32), np.ones((200, 200), dtype=np.float32)
    np.testing.assert_array_equal(threads.matmul(left, right), np.full((200, 200), 200))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound to cores here")
def test_who_waits_for_a_thread_waits_on_its_core():
    may_end, cores = threading.Event(), os.sched_getaffinity(0)
    thread = threading.Thread(target=may_end.wait)
    with threads.beside(thread):
        thread.start()
        (core,) = os.sched_getaffinity(0)
        assert os.sched_getaffinity(thread.native_id) == {core}
    assert os.sched_getaffinity(0) == cores
    os.sched_setaffinity(thread.native_id, cores)
    try:
        with pytest.raises(KeyboardInterrupt), threads.beside(thread):
            raise KeyboardInterrupt
        assert len(os.sched_getaffinity(thread.native_id)) == 1
        assert os.sched_getaffinity(0) == cores
    finally:
        may_end.set()
        thread.join()
