"""The threads of the BLAS: chosen by size, shared by who computes at once, and left as they were."""

import os
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mlp_xp import Loader, Network, train
from mlp_xp.machine import blas, open_blas
from mlp_xp.machine.blas import Threads


class Library:
    """Counts what it is set to, as a BLAS does."""

    def __init__(self, num_threads):
        self.num_threads = num_threads

    def set_num_threads(self, n_threads):
        self.num_threads = n_threads


@pytest.fixture
def libraries(monkeypatch):
    """NumPy's and SciPy's, with eight threads each, on a machine of eight cores."""
    found = SimpleNamespace(numpys=Library(8), scipys=Library(8))
    both = Threads([found.numpys]), Threads([found.scipys])
    monkeypatch.setattr(blas, "_both", lambda: both)
    monkeypatch.setattr(blas, "cores", lambda: 8)
    return found


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (1.9, 1), (2, 2), (5.5, 5), (100, 8)])
def test_threads_grow_with_the_work(libraries, share, expected):
    with blas.computing(int(share * blas.WORK_PER_THREAD)):
        assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (expected, 1)
        with blas.computing(2**60):  # what a caller's own function asks for inside changes nothing
            assert libraries.numpys.num_threads == expected
    assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (8, 8)


def test_no_more_than_the_caller_allows(libraries):
    with blas.at_most(3), blas.at_most(None), blas.computing(2**60):
        assert libraries.numpys.num_threads == 3
        assert blas.n_threads() == 3
    with blas.at_most(3), pytest.raises(KeyError), blas.at_most(2):
        raise KeyError
    assert blas.n_threads() == 8


def test_an_error_inside_leaves_them_as_they_were(libraries):
    with pytest.raises(KeyError), blas.computing(1):
        raise KeyError
    assert libraries.numpys.num_threads == libraries.scipys.num_threads == 8


def test_a_run_of_many_steps_changes_the_number_once(libraries, monkeypatch):
    told = []
    monkeypatch.setattr(libraries.numpys, "set_num_threads", told.append)
    with blas.kept():
        for _ in range(3):
            with blas.computing(1):
                assert blas.n_threads() == 8
    assert told == [1, 8]


def test_who_wants_another_number_does_not_wait_for_a_run_between_two_steps(libraries):
    seen = []

    def other():
        with blas.computing(2 * blas.WORK_PER_THREAD):
            seen.append(libraries.numpys.num_threads)

    with blas.kept():
        with blas.computing(1):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=60)
        with blas.computing(1):
            seen.append(libraries.numpys.num_threads)
        blas.let_use(5)
    assert seen == [2, 1]
    assert libraries.numpys.num_threads == libraries.scipys.num_threads == 5


def test_those_who_want_the_same_share_and_the_others_wait():
    library = Library(4)
    threads, order = Threads([library]), []
    threads.take(1)
    threads.take(1)
    asked = threading.Event()

    def other():
        asked.set()
        threads.take(2)
        order.append(library.num_threads)
        threads.give_back()

    thread = threading.Thread(target=other)
    thread.start()
    asked.wait()
    threads.give_back()
    assert order == []
    assert threads.usual() == 4
    threads.give_back()
    thread.join()
    assert order == [2]
    assert library.num_threads == 4


def test_many_who_want_different_numbers_never_meet():
    library = Library(4)
    threads, wrong = Threads([library]), []

    def compute(n_threads):
        for _ in range(200):
            threads.take(n_threads)
            if library.num_threads != n_threads:
                wrong.append(library.num_threads)
            threads.give_back()

    running = [threading.Thread(target=compute, args=(1 + i % 3,)) for i in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []
    assert library.num_threads == 4


def test_a_number_for_later_waits_for_those_who_compute():
    library = Library(4)
    threads = Threads([library])
    threads.take(1)
    threads.let_use(2)
    assert library.num_threads == 1
    threads.give_back()
    assert library.num_threads == 2
    threads.let_use(3)
    assert library.num_threads == 3


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, sys.maxsize),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ({"cpu/a/b/cpu.cfs_quota_us": "200000\n", "cpu/a/b/cpu.cfs_period_us": "100000\n"}, 2),
        ({"else/cpu.max": "100000 100000\n"}, sys.maxsize),
    ],
)
def test_a_quota_of_a_control_group_is_a_number_of_cores(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = tmp_path / "own"
    own.write_text("4:memory:/else\n3:cpu,cpuacct:/a/b\n0::/a/b\n")
    assert blas.quota(tmp_path, own) == expected
    assert blas.quota(tmp_path, tmp_path / "none") >= expected


@pytest.mark.parametrize("threads", [1, 3, None])
def test_a_training_takes_no_more_threads_than_it_is_told(libraries, monkeypatch, threads):
    monkeypatch.setattr(blas, "WORK_PER_THREAD", 1)
    taken = []
    monkeypatch.setattr(
        libraries.numpys,
        "set_num_threads",
        lambda n: (taken.append(n), vars(libraries.numpys).update(num_threads=n)),
    )
    x = np.random.default_rng(0).normal(size=(64, 30))
    run = train(Network((30, 20, 1)), Loader(x, x[:, :1]), max_epochs=2, way="plain", threads=threads)
    next(run)
    assert blas.n_threads() == 8  # the caller's own loop has no limit
    assert set(taken) == ({threads, 8} if threads else set())
    with pytest.raises(ValueError, match="threads=0"):
        train(Network((30, 20, 1)), Loader(x, x[:, :1]), threads=0)


def test_trainings_in_threads_of_one_process_have_the_bits_of_one_alone():
    """Steps on both sides of the size from which several threads compute."""
    x = np.random.default_rng(0).normal(size=(3000, 64)).astype("f4")

    def trained(width, found):
        network = Network((64, width, width, 1), seed=0)
        for _ in train(network, Loader(x, x[:, :1], batch_size=1500), max_epochs=2, way="plain"):
            pass
        found.append((width, network.parameters.flat.tobytes()))

    alone, at_once = [], []
    before = blas._both()[0]._counts()
    for width in (16, 256):
        trained(width, alone)
    running = [threading.Thread(target=trained, args=(width, at_once)) for width in (16, 256) * 3]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert set(at_once) == set(alone)
    assert len(at_once) == 6
    assert blas._both()[0]._counts() == before


def test_numpys_openblas_is_known_without_threadpoolctl():
    program = """
        import sys
        sys.modules["threadpoolctl"] = None
        import numpy
        from mlp_xp.machine import blas, open_blas
        assert [library.num_threads for library in open_blas.loaded()] == [2]
        with blas.computing(1):
            assert [library.num_threads for library in open_blas.loaded()] == [1]
        assert [library.num_threads for library in open_blas.loaded()] == [2]
    """
    if not open_blas.loaded():
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("threadpoolctl")
def test_scipys_own_blas_has_one_thread_while_numpys_keeps_its_own():
    program = """
        import numpy, scipy.optimize, threadpoolctl
        from mlp_xp.machine import blas
        def threads():
            pools = threadpoolctl.threadpool_info()
            return {pool["filepath"]: pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}
        before = threads()
        with blas.one_thread_for_scipy():
            within = threads()
        assert threads() == before
        own = [file for file in before if "scipy.libs" in file or "scipy/.dylibs" in file]
        assert within == before | dict.fromkeys(own, 1), (before, within)
        print(*before.values())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
