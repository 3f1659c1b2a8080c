"""Rows on their way to the GPU while it computes: pinned buffers, a copy stream, events.

    gathering thread                                     thread that trains
    copied[k].synchronize()                              compute waits for copied[k]
    fill the pinned buffers of slot k                    a step reads the device buffers of slot k
    the copy stream waits for consumed[k]                consumed[k] is recorded on compute
    copy to the device buffers; record copied[k]

Only the first line blocks a thread, and only until a copy is over; all other waiting is the GPU's. Every
buffer is made before the first step, since allocating stops the queue. The device's are made on the copy
stream, which writes them: CuPy's pool hands freed memory to later work of that stream alone, so that a copy
under way never writes into what is someone else's, and nobody need wait for the whole device, which would
break a capture in another thread.

What no machine without a GPU can confirm: that an event which was never recorded counts as complete, and
that copies overlap with kernels.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_xp.machine import blas
from mlp_xp.machine.cuda import all_reduce, memory
from mlp_xp.machine.staging import AllReduce, Runtime, Staging, Width

if TYPE_CHECKING:
    from mlp_xp.machine.array_api import Array, Backend
    from mlp_xp.machine.data_parallel import Ranks

PART_BYTES = 2**20
"""The least that is worth handing to a thread that gathers."""

MOST_THREADS, OTHER_THREADS = 16, 2
"""Threads that gather together, some 10 GB a second each until the host's memory has no more to give, and
those that have other work: the one that trains, and the system's."""

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Streams(Runtime):
    """How the host and one GPU work side by side.

    A thread that trains has a compute stream of its own, all share the copy stream. Both kinds are
    non-blocking: the legacy default stream would make each wait for the other.
    """

    overlaps = True
    block_bytes = 2**22  # the bus is slow on less

    def __init__(self, index: int) -> None:
        import cupy

        self.index = index
        self.device = cupy.cuda.Device(index)
        with self.device:
            self.copy = cupy.cuda.Stream(non_blocking=True)
        self._of_thread = threading.local()
        self.n_threads = max(1, min(MOST_THREADS, blas.cores() - OTHER_THREADS))
        self._pool: ThreadPoolExecutor | None = None

    @property
    def compute(self) -> Any:
        """The calling thread's compute stream."""
        if not hasattr(self._of_thread, "compute"):
            import cupy

            with self.device:
                self._of_thread.compute = cupy.cuda.Stream(non_blocking=True)
        return self._of_thread.compute

    def select(self) -> None:
        """Make the device the calling thread's: a thread starts on device 0, and may use several."""
        self.device.use()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Do what is inside on the compute stream, after and before the caller's work on its own stream.

        Arrays that the caller made are complete, and those made here are, for whoever reads them after.
        """
        import cupy

        with self.device:
            before = cupy.cuda.get_current_stream()
            compute = self.compute
            compute.wait_event(before.record())
            try:
                with compute:
                    yield
            finally:
                before.wait_event(compute.record())

    def multiplying(self, with_vector: int, of_matrices: int) -> contextlib.AbstractContextManager[None]:
        """What surrounds products of so many multiplications: nothing."""
        return contextlib.nullcontext()

    def n_parts(self, n: int, work: int) -> int:
        """In how many parts pieces of work are done side by side: in one, which the GPU shares out."""
        return 1

    def staging(
        self, backend: "Backend", columns: Sequence[Width | None], n_rows: int, n_slots: int
    ) -> Staging:
        """Make buffers for blocks of up to `n_rows` rows, in so many slots."""
        return PinnedStaging(self, columns, n_rows, n_slots)

    def in_parts(self, fill: Callable[[slice], None], n_rows: int, n_bytes: int) -> None:
        """Fill rows, several parts at a time where they are many bytes: one core cannot fill the bus."""
        n_parts = min(self.n_threads, n_bytes // PART_BYTES, n_rows)
        if n_parts < 2:
            fill(slice(0, n_rows))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n_threads, "mlp_xp gather")
        bounds = [n_rows * i // n_parts for i in range(n_parts + 1)]
        for _ in self._pool.map(fill, map(slice, bounds[:-1], bounds[1:])):
            pass

    def all_reduce(self, ranks: "Ranks") -> AllReduce:
        """How vectors on this device are summed over processes; all of them ask together."""
        return all_reduce.choose(ranks, self.index)

    def available(self) -> int:
        """Bytes of the device's memory that this process can still get."""
        return memory.available(self.index)


class _Slot:
    """One set of buffers: pinned ones on the host, their copies on the device, and what orders them."""

    def __init__(self, columns: Sequence[Width | None], n_rows: int) -> None:
        import cupy
        import cupyx

        shapes = [None if column is None else ((n_rows, column[0]), column[1]) for column in columns]
        self.host: list[Any] = [
            None if each is None else cupyx.empty_pinned(*each) if each[0][1] else np.empty(*each)
            for each in shapes
        ]
        self.on_device: list[Any] = [None if each is None else cupy.empty(*each) for each in shapes]
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.consumed = cupy.cuda.Event(disable_timing=True)


class PinnedStaging(Staging):
    """Buffers that the GPU copies from by itself.

    CuPy pins memory in powers of two, so that a buffer may take up to twice its size of the host's memory.

    Parameters
    ----------
    streams : Streams
        Of the device.
    columns : sequence of (width, dtype) or None
        A row's parts; None for one that is not there.
    n_rows : int
        Rows a slot can hold.
    n_slots : int
        Sets of buffers.
    """

    def __init__(self, streams: Streams, columns: Sequence[Width | None], n_rows: int, n_slots: int) -> None:
        self.device, self.copy = streams.device, streams.copy
        self.n_rows = n_rows
        import cupy

        self._reader: Any = None
        with self.device, self.copy:
            try:
                self.slots = [_Slot(columns, n_rows) for _ in range(n_slots)]
            except cupy.cuda.runtime.CUDARuntimeError as error:
                if error.status != OUT_OF_MEMORY:
                    raise
                raise MemoryError(f"no more of the host's memory can be pinned: {error}") from error

    def host(self, slot: int, n_rows: int) -> "list[Array]":
        """The slot's host arrays, to be filled: the last copy out of them is over."""
        self.device.use()  # a thread starts on device 0
        self.slots[slot].copied.synchronize()
        return [None if each is None else each[:n_rows] for each in self.slots[slot].host]

    def send(self, slot: int, n_rows: int) -> "list[Array]":
        """Begin to copy what was filled; the slot's device arrays, which `receive` makes safe to read."""
        each = self.slots[slot]
        self.copy.wait_event(each.consumed)
        arrays = [None if array is None else array[:n_rows] for array in each.on_device]
        for array, host in zip(arrays, each.host, strict=True):
            if array is not None and array.size:
                # `set` keeps no reference to its source (CuPy issue 6785): the slot does.
                array.set(host[:n_rows], stream=self.copy)
        each.copied.record(self.copy)
        return arrays

    def receive(self, slot: int) -> None:
        """Make the current stream wait for the copy."""
        import cupy

        self._reader = cupy.cuda.get_current_stream()
        self._reader.wait_event(self.slots[slot].copied)

    def release(self, slot: int) -> None:
        """What the current stream has been given so far is the last that reads this slot's rows."""
        import cupy

        self.slots[slot].consumed.record(cupy.cuda.get_current_stream())

    def forget(self) -> None:
        """Give the pinned memory back to the system: CuPy's pool would keep it for good."""
        import cupy

        for slot in self.slots:
            slot.copied.synchronize()
            slot.host.clear()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def __del__(self) -> None:
        """What the copy stream writes next into this memory comes after all that reads these rows."""
        reader = getattr(self, "_reader", None)
        if reader is not None:
            with self.device:
                self.copy.wait_event(reader.record())


_streams: dict[int, Streams] = {}
_lock = threading.Lock()


def streams(index: int) -> Streams:
    """The streams of ``cuda:index``: made once a process."""
    with _lock:
        if index not in _streams:
            _streams[index] = Streams(index)
        return _streams[index]
