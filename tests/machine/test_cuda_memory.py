"""Limits on a GPU's memory, with a stand-in for CuPy."""

import contextlib
import sys
from types import SimpleNamespace

import pytest

from mlp_xp.machine.cuda import memory


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GiB", 4 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5 gib", int(1.5 * 2**30)),
        ("1024", 1024),
        ("2kb", 2000),
        ("50%", 0.5),
        ("100 %", 1.0),
    ],
)
def test_amounts_and_parts(text, amount):
    found = memory.parse_limit(text)
    assert found == amount
    assert type(found) is type(amount)


@pytest.mark.parametrize("text", ["", "much", "0", "0%", "101%", "-1GB", "4 TB", "50 percent", "1e9", "0.2"])
def test_what_is_no_limit(text):
    with pytest.raises(ValueError, match=r"4GiB, 500MB, 50%"):
        memory.parse_limit(text)


class Pool:
    def __init__(self):
        self.asked, self.limit, self.used, self.cached = None, 0, 300, 50

    def set_limit(self, size=None, fraction=None):
        self.asked = (size, fraction)
        self.limit = size if size is not None else int(fraction * 1000)

    def get_limit(self):
        return self.limit

    def used_bytes(self):
        return self.used

    def free_bytes(self):
        return self.cached

    def total_bytes(self):
        return self.used + self.cached

    def free_all_blocks(self):
        self.cached = 0


@pytest.fixture
def pool(monkeypatch):
    pool = Pool()
    pool.devices = []

    @contextlib.contextmanager
    def device(index):
        pool.devices.append(index)
        yield

    runtime = SimpleNamespace(memGetInfo=lambda: (600, 1000))
    cuda = SimpleNamespace(Device=device, runtime=runtime, MemoryHook=object)
    cupy = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return pool


def test_a_limit_is_set_on_its_device(pool):
    assert memory.limit("400", 2) == 400
    assert pool.asked == (400, None)
    assert memory.limit("25%", 1) == 250
    assert pool.asked == (None, 0.25)
    assert pool.devices == [2, 1]


def test_what_lies_idle_in_the_pool_does_not_pass_a_limit(pool):
    memory.limit("320", 0)
    assert pool.total_bytes() <= 320


def test_what_is_available(pool):
    assert memory.available(0) == 650
    memory.limit("400")
    assert memory.available(0) == 100


def test_what_is_taken(pool):
    assert memory.taken(2) == 350
    assert pool.devices == [2]
