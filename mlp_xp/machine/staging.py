"""How the host and a device work together: where rows are gathered, and how they get to the device.

On a CPU, and on any library's device that nothing more is known about, both work in step: this file. A device
that works beside the host (`cuda.feeding`) brings its own object with the same methods.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlp_xp.machine import blas

Column = tuple[int, str]
"""A part of a row: how many numbers, and their dtype."""


class InStep:
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
        """What surrounds the steps of an epoch: nothing."""
        return contextlib.nullcontext()

    def computing(self, work: int) -> contextlib.AbstractContextManager[None]:
        """What surrounds products of so many multiplications: the threads that suit their size."""
        return blas.computing(work)

    def staging(
        self, backend: Any, columns: Sequence[Column | None], n_rows: int, n_slots: int
    ) -> "HostStaging":
        """Make buffers for blocks of up to `n_rows` rows, in so many slots."""
        return HostStaging(backend, columns, n_rows)

    def in_parts(self, fill: Callable[[slice], None], n_rows: int, n_bytes: int) -> None:
        """Fill rows, in one part: the cores have other work."""
        fill(slice(0, n_rows))

    def all_reduce(self, ranks: Any) -> None:
        """How vectors are summed over processes: not here, but through the host's memory."""

    def available(self) -> int | None:
        """Bytes of memory that are free; None where the system does not say."""
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None


IN_STEP = InStep()


class Resident:
    """Rows that are on the device already need no buffers.

    Parameters
    ----------
    n_rows : int
        Rows gathered at a time, at most.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def receive(self, slot: int) -> None:
        """Nothing is under way."""

    def release(self, slot: int) -> None:
        """Nothing waits."""


class HostStaging:
    """Host buffers, slot by slot: themselves the rows on the CPU, else copied.

    Parameters
    ----------
    backend : Backend
        Where rows go.
    columns : sequence of (width, dtype) or None
        A row's parts; None for one that is not there.
    n_rows : int
        Rows a slot can hold.
    """

    def __init__(self, backend: Any, columns: Sequence[Column | None], n_rows: int) -> None:
        self.backend, self.columns, self.n_rows = backend, columns, n_rows
        self._slots: dict[int, list[np.ndarray | None]] = {}

    def host(self, slot: int, n_rows: int) -> list[Any]:
        """The slot's host arrays, to be filled."""
        if slot not in self._slots:
            self._slots[slot] = [
                None if each is None else np.empty((self.n_rows, each[0]), dtype=each[1])
                for each in self.columns
            ]
        return [None if each is None else each[:n_rows] for each in self._slots[slot]]

    def send(self, slot: int, n_rows: int) -> list[Any]:
        """The rows on the device, from what was filled."""
        arrays = self.host(slot, n_rows)
        if self.backend.xp is np:
            return arrays
        return [None if each is None else self.backend.asarray(each, each.dtype.name) for each in arrays]

    def receive(self, slot: int) -> None:
        """What `send` gave is complete."""

    def release(self, slot: int) -> None:
        """What `send` gave is no longer read."""
