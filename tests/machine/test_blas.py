"""The threads of the BLAS: one while anybody computes, and left as they were."""

import os
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mlp_xp import Loader, Network, train
from mlp_xp.machine import blas, open_blas, threads
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


def test_each_has_one_while_anybody_computes(libraries):
    with blas.computing():
        assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (1, 1)
        with blas.computing():  # a caller's own function inside
            pass
        assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (1, 1)
        assert blas.n_threads() == 8
    assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (8, 8)


def test_small_products_change_nothing(libraries):
    with blas.multiplying(blas.SMALL - 1, blas.SMALL_OF_MATRICES - 1):
        assert libraries.numpys.num_threads == 8
    for large in ((blas.SMALL,), (0, blas.SMALL_OF_MATRICES)):
        with blas.multiplying(*large):
            assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (1, 8)


def test_no_more_than_the_caller_allows(libraries):
    with blas.at_most(3), blas.at_most(None), blas.computing():
        assert blas.n_threads() == 3
    with blas.at_most(3), pytest.raises(KeyError), blas.at_most(2):
        raise KeyError
    assert blas.n_threads() == 8


def test_an_error_inside_leaves_them_as_they_were(libraries):
    with pytest.raises(KeyError), blas.computing():
        raise KeyError
    assert libraries.numpys.num_threads == libraries.scipys.num_threads == 8


def test_a_run_of_many_steps_changes_the_number_once(libraries, monkeypatch):
    told = []
    monkeypatch.setattr(libraries.numpys, "set_num_threads", told.append)
    with blas.computing():
        for _ in range(3):
            with blas.multiplying(2**60):
                pass
    assert told == [1, 8]


def test_a_library_that_is_loaded_under_way_has_one_thread_too(libraries, monkeypatch):
    both = blas._both()
    monkeypatch.setattr(blas, "_both", lambda: (both[0], Threads([])))
    with blas.computing():
        monkeypatch.setattr(blas, "_both", lambda: both)
        with blas.computing():
            assert libraries.scipys.num_threads == 1
        assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (1, 8)
    assert (libraries.numpys.num_threads, libraries.scipys.num_threads) == (8, 8)


def test_the_last_of_many_leaves_them_as_they_were():
    library = Library(4)
    threads, wrong = Threads([library]), []

    def compute():
        for _ in range(200):
            threads.take_one()
            if library.num_threads != 1 or threads.usual() != 4:
                wrong.append(library.num_threads)
            threads.give_back()

    running = [threading.Thread(target=compute) for _ in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []
    assert library.num_threads == threads.usual() == 4


def test_a_number_for_later_waits_for_those_who_compute():
    library = Library(4)
    threads = Threads([library])
    threads.take_one()
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


@pytest.mark.parametrize("most", [1, 3, None])
def test_a_training_takes_no_more_threads_than_it_is_told(libraries, monkeypatch, most):
    monkeypatch.setattr(threads, "PIECE_WORK", 1)
    monkeypatch.setattr(threads, "PIECE_SIZE", 1)
    taken, together = set(), threads.together
    monkeypatch.setattr(threads, "together", lambda tasks: [taken.add(len(tasks)), together(tasks)])
    x = np.random.default_rng(0).normal(size=(64, 30))
    run = train(Network((30, 20, 1)), Loader(x, x[:, :1]), max_epochs=2, way="plain", threads=most)
    next(run)
    assert blas.n_threads() == 8  # the caller's own loop has no limit
    assert max(taken, default=1) == (most or 8)
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
        from mlp_xp.machine import blas, open_blas, threads
        assert [library.num_threads for library in open_blas.loaded()] == [2]
        with blas.computing():
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
def test_scipys_own_blas_has_one_thread_too():
    program = """
        import numpy, scipy.optimize, threadpoolctl
        from mlp_xp.machine import blas
        def threads():
            pools = threadpoolctl.threadpool_info()
            return {pool["filepath"]: pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}
        before = threads()
        with blas.computing():
            assert threads() == dict.fromkeys(before, 1)
        assert threads() == before
        assert set(before.values()) == {2}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
