"""The memory of the machine: what is too much is refused unasked, and an error of memory is known as one."""

import errno

import numpy as np
import pytest

from mlp_xp.machine import main_memory
from mlp_xp.machine.main_memory import require, shortage, total


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "no more can be had"),
        (MemoryError("Unable to allocate 9 GiB."), "Unable to allocate 9 GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (
            ImportError("\nfirst\nlibgomp.so.1: failed to map segment\nlast"),
            "libgomp.so.1: failed to map segment",
        ),
        (ValueError("a value"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (ImportError("No module named 'x'"), None),
    ],
)
def test_errors_that_say_that_memory_ran_out(error, said):
    assert shortage(error) == said


def test_what_the_machine_has_not_is_refused_before_it_is_taken(monkeypatch, tmp_path):
    require(1 << 20, "a table")
    for n_bytes in (total() + 1, 1 << 80):
        with pytest.raises(MemoryError, match=r"a table takes [\d,]+ bytes, and this machine has"):
            require(n_bytes, "a table")
    monkeypatch.setattr(main_memory, "total", lambda: None)
    with pytest.raises(MemoryError, match="so many cannot be had now"):
        require(1 << 60, "a table")


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(main_memory, "CONTROL_GROUP", (limit, tmp_path / "none"))
    total.cache_clear()
    physical = total()
    for text, expected in (("1048576\n", 1 << 20), ("max\n", physical)):
        limit.write_text(text)
        total.cache_clear()
        assert total() == expected
    total.cache_clear()
    assert physical is None or physical > np.iinfo(np.int16).max
