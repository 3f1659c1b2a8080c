"""How the host and a device work together: where rows are gathered, and how they get to the device.

On a CPU, and on any library's device that nothing more is known about, both work in step: this file. A device
that works beside the host (`cuda.feeding`) says what is otherwise there.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_xp.machine import blas, threads

if TYPE_CHECKING:
    from mlp_xp.machine.array_api import Array, Backend
    from mlp_xp.machine.data_parallel import Ranks

Width = tuple[int, str]
"""A part of a row: how many numbers, and their dtype."""

AllReduce = Callable[[Any, Sequence[float]], list[float]]
"""`f(vector, numbers)` replaces all but the last len(numbers) elements of a vector on the device by their
sums over all processes, in the current stream's order; it returns the sums of the numbers, the host's."""


class Staging:
    """Buffers in slots; `host` and `send` belong to the thread that gathers, the rest to the one that trains.

    Attributes
    ----------
    n_rows : int
        Rows that a slot can hold.
    """

    n_rows: int

    def host(self, slot: int, n_rows: int) -> "list[Array]":
        """The slot's host arrays, to be filled; None for a part that is not there."""
        raise NotImplementedError

    def send(self, slot: int, n_rows: int) -> "list[Array]":
        """The rows on the device, from what was filled."""
        raise NotImplementedError

    def receive(self, slot: int) -> None:
        """Make what `send` gave safe to read; it is complete unless the device has something under way."""

    def release(self, slot: int) -> None:
        """What `send` gave is no longer read."""

    def forget(self) -> None:
        """Give back what would otherwise be kept for later; nothing is asked of these buffers any more."""


class Runtime:
    """The device computes while the host waits, or says nothing about it.

    Attributes
    ----------
    overlaps : bool
        Whether gathering in a thread always pays, since copies run beside the computation.
    block_bytes : int
        About how much, at 8 bytes a number, is gathered at once for small steps: so much that the calls do
        not count (2**19 costs a sixth of the rows a second), so little that it is in a cache when it is used.
    """

    overlaps = False
    block_bytes = 2**21

    def select(self) -> None:
        """Make the device that of the calling thread, where threads have one: before anything is computed."""

    def working(self) -> contextlib.AbstractContextManager[None]:
        """What surrounds the steps of an epoch, or as much work: one thread of the BLAS."""
        return blas.computing()

    def multiplying(self, with_vector: int, of_matrices: int) -> contextlib.AbstractContextManager[None]:
        """What surrounds a prediction with products of so many multiplications: one thread of the BLAS."""
        return blas.multiplying(with_vector, of_matrices)

    def n_parts(self, n: int, work: int) -> int:
        """In how many parts n equal pieces of so much work are done side by side (`threads.together`)."""
        return threads.n_parts(n, work)

    def staging(
        self, backend: "Backend", columns: Sequence[Width | None], n_rows: int, n_slots: int
    ) -> Staging:
        """Make buffers for blocks of up to `n_rows` rows, in so many slots."""
        return HostStaging(backend, columns, n_rows)

    def in_parts(self, fill: Callable[[slice], None], n_rows: int, n_bytes: int) -> None:
        """Fill rows, in one part: the cores have other work."""
        fill(slice(0, n_rows))

    def all_reduce(self, ranks: "Ranks") -> AllReduce | None:
        """How vectors are summed over processes, which ask together; None: through the host's memory."""
        return None

    def available(self) -> int | None:
        """Bytes of memory that are free; None where the system does not say."""
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None


IN_STEP = Runtime()


class Resident(Staging):
    """Rows that are on the device already need no buffers."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows


class HostStaging(Staging):
    """Host buffers for the parts of a row, slot by slot: themselves the rows on the CPU, else copied."""

    def __init__(self, backend: "Backend", columns: Sequence[Width | None], n_rows: int) -> None:
        self.backend, self.columns, self.n_rows = backend, columns, n_rows
        self._slots: dict[int, list[np.ndarray | None]] = {}

    def host(self, slot: int, n_rows: int) -> "list[Array]":
        """The slot's host arrays, to be filled."""
        if slot not in self._slots:
            self._slots[slot] = [
                None if each is None else np.empty((self.n_rows, each[0]), dtype=each[1])
                for each in self.columns
            ]
        return [None if each is None else each[:n_rows] for each in self._slots[slot]]

    def send(self, slot: int, n_rows: int) -> "list[Array]":
        """The rows on the device, from what was filled."""
        arrays = self.host(slot, n_rows)
        if self.backend.xp is np:
            return arrays
        return [None if each is None else self.backend.asarray(each, each.dtype.name) for each in arrays]
