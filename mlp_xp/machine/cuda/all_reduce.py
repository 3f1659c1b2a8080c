"""Sums of gradients over processes, each with a GPU of its own.

NCCL adds them up in the queue of the compute stream: no host waits for it. Where it is missing, or two
processes share a card, they travel through a pinned buffer and MPI; an MPI that takes GPU memory is used if
that is asked for, since none says of itself that it does.

What no machine with fewer than two GPUs can confirm: that NCCL's sums are right, and how long they take.
"""

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlp_xp.machine.staging import AllReduce

if TYPE_CHECKING:
    from mlp_xp.machine.array_api import Array
    from mlp_xp.machine.data_parallel import Ranks

ALL_REDUCES = ("auto", "nccl", "host", "mpi")
"""Ways: NCCL where it can be used and else through the host; NCCL; through the host; by an MPI that takes
GPU memory."""

log = logging.getLogger(__name__)


def choose(ranks: "Ranks", index: int) -> AllReduce:
    """The way that all processes can go; they must ask together.

    Raises RuntimeError: "nccl" is wanted, and cannot be used; the message says why.
    """
    if ranks.all_reduce == "mpi":
        return ByMpi(ranks)
    if ranks.all_reduce == "host":
        return ThroughHost(ranks)
    problem, nccl = nccl_problem(ranks, index), None
    if problem is None:
        nccl, problem = _started(ranks, index)
    if nccl is not None:
        return nccl
    if ranks.all_reduce == "nccl":
        raise RuntimeError(f"NCCL cannot sum gradients between these GPUs: {problem}")
    if ranks.rank == 0:
        log.warning("gradients are summed through the host's memory, since NCCL cannot be used: %s", problem)
    return ThroughHost(ranks)


def nccl_problem(ranks: "Ranks", index: int) -> str | None:
    """Why NCCL cannot be used, the same on all processes; None if it can."""
    return _agreed(ranks, _library_problem() or _sharing_problem(ranks, index), "is missing")


def _started(ranks: "Ranks", index: int) -> "tuple[ByNccl | None, str | None]":
    """NCCL's way, or why it does not start (too small a /dev/shm, say, or no network): on all processes."""
    nccl, own = None, None
    try:
        nccl = ByNccl(ranks, index)
    except RuntimeError as error:  # NCCL's and CUDA's errors are some
        own = f"it does not start: {error}."
    problem = _agreed(ranks, own, "does not start")
    return (nccl, None) if problem is None else (None, problem)


def _agreed(ranks: "Ranks", own: str | None, what: str) -> str | None:
    """The process's own problem, else on how many there is one; None where there is none on any."""
    (n_problems,) = ranks.sum_numbers([float(own is not None)])
    return own or (f"it {what} on {n_problems:.0f} of {ranks.size} ranks." if n_problems else None)


def _library_problem() -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns where the library is not found
        from cupy.cuda import nccl, runtime
    if nccl.available:
        return None
    major = runtime.runtimeGetVersion() // 1000
    return f'the library is not installed (pip install "nvidia-nccl-cu{major}").'


def _sharing_problem(ranks: "Ranks", index: int) -> str | None:
    """NCCL refuses two processes on one card, which a number does not tell: each may see other cards."""
    import cupy

    card = cupy.cuda.Device(index).pci_bus_id
    cards = ranks.gather_on_machine(card)
    return f"{cards.count(card)} ranks share the GPU {card}." if cards.count(card) > 1 else None


class ByNccl:
    """Sums in the compute stream's queue; numbers go by MPI, while the GPU still computes the gradient."""

    def __init__(self, ranks: "Ranks", index: int) -> None:
        import cupy
        from cupy.cuda import nccl

        self.ranks = ranks
        identity = None
        try:
            identity = nccl.get_unique_id() if ranks.rank == 0 else None
        finally:  # also where there is none, which the others wait to be told
            identity = ranks.bytes_from_first(identity)
        if identity is None:
            raise RuntimeError("the first rank has no id for it")
        with cupy.cuda.Device(index):
            self._communicator = nccl.NcclCommunicator(ranks.size, identity, ranks.rank)
        self._types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self._add = nccl.NCCL_SUM

    def __call__(self, vector: "Array", numbers: Sequence[float]) -> list[float]:
        """Enqueue the sum of a vector; return the sums of the numbers."""
        import cupy

        sums: list[float] = self.ranks.sum_numbers(numbers)
        at, n = vector.data.ptr, vector.size - len(numbers)
        stream = cupy.cuda.get_current_stream().ptr
        self._communicator.allReduce(at, at, n, self._types[vector.dtype.name], self._add, stream)
        return sums


class ThroughHost:
    """Sums in a pinned buffer, made once: to the host, MPI, and back, one message for vector and numbers."""

    def __init__(self, ranks: "Ranks") -> None:
        self.ranks = ranks
        self._buffers: dict[Any, tuple[Any, Any]] = {}

    def __call__(self, vector: "Array", numbers: Sequence[float]) -> list[float]:
        """Wait for the vector, sum it, and enqueue its way back; return the sums of the numbers."""
        import cupy

        stream = cupy.cuda.get_current_stream()
        host, sent = self._buffer(vector)
        stream.wait_event(sent)  # on whichever stream that was
        vector.get(stream=stream, out=host, blocking=False)
        stream.synchronize()
        host[len(host) - len(numbers) :] = numbers
        self.ranks.add_up(host)
        sums: list[float] = host[len(host) - len(numbers) :].tolist()
        vector.set(host, stream=stream)
        sent.record(stream)
        return sums

    def _buffer(self, vector: "Array") -> tuple[Any, Any]:
        """Pinned memory for such a vector, and the event after which its content has been sent."""
        import cupy
        import cupyx

        key = (vector.size, vector.dtype.name)
        if key not in self._buffers:
            event = cupy.cuda.Event(disable_timing=True)
            self._buffers[key] = cupyx.empty_pinned((vector.size,), vector.dtype), event
        return self._buffers[key]


class ByMpi:
    """Sums by an MPI that reads and writes GPU memory."""

    def __init__(self, ranks: "Ranks") -> None:
        self.ranks = ranks

    def __call__(self, vector: "Array", numbers: Sequence[float]) -> list[float]:
        """Wait for the vector, and sum it; return the sums of the numbers."""
        import cupy

        sums: list[float] = self.ranks.sum_numbers(numbers)
        cupy.cuda.get_current_stream().synchronize()  # MPI knows nothing of streams
        self.ranks.add_up(vector[: vector.size - len(numbers)])
        return sums
