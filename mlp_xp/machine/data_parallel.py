"""Data-parallel training on MPI: each rank has its share of every global batch, and gradients are summed.

    one broadcast of the parameters at the start
    every step: the gradient of this rank's rows, then one all-reduce of
                [∂ΣsL/∂w | Σ s_i L_i | Σ s_i | ranks that want to stop]

All ranks then make the same update of the same parameters, and the result is that of one process with the
same global batch, up to the rounding of sums. The transport is MPI's; here is only what is sent. Between GPUs
the vector is summed in the device's own queue (`cuda.all_reduce`), and the last two numbers, which the host
knows, by MPI beside it.

The message goes when the gradient is complete, not slice by slice while the first layers' part is computed:
on a CPU MPI moves little while the cores compute, and each message more costs its latency (measured in
`bench/scaling.py`).
"""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from mlp_xp.machine import blas
from mlp_xp.machine.array_api import Array, Backend, to_host
from mlp_xp.machine.launcher import SECONDS_TO_BE_HEARD, SIZES_OF_MPI, under_mpi
from mlp_xp.machine.staging import AllReduce, Runtime

if TYPE_CHECKING:
    from mpi4py.MPI import Comm

THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables with which a user says how many threads a process may have."""

SECONDS_TO_MEET = 60
"""How long this process waits, where MPI begins, for those that were started with it."""

SECONDS_FOR_RANK_0 = 3.0
"""How long another rank waits with its error for rank 0, which may be about to say the same."""


def mpi_problem() -> str | None:
    """Why MPI cannot be used here; None if it can."""
    if importlib.util.find_spec("mpi4py") is None:
        return 'mpi4py is not installed: pip install "mlp-xp[mpi]".'
    try:
        importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        return f"mpi4py finds no MPI library ({str(error).splitlines()[0]}): install one, such as MPICH."
    return None


def describe() -> str:
    """The MPI library and how many processes it has started together, or why there is none: for people."""
    if not under_mpi():
        with contextlib.suppress(ModuleNotFoundError):
            import mpi4py

            mpi4py.rc.initialize = False  # the library is only asked for its name
    problem = mpi_problem()
    if problem is not None:
        return f"not usable: {problem}"
    from mpi4py import MPI, __version__

    library = " ".join(MPI.Get_library_version().splitlines()[0].partition(",")[0].split())
    n_ranks = MPI.COMM_WORLD.Get_size() if MPI.Is_initialized() else 1
    ranks = f"{n_ranks} ranks" if n_ranks > 1 else "1 rank (mpiexec -n 4 mlp-xp train ... starts 4)"
    return f"ready: {library}, mpi4py {__version__}, {ranks}"


@functools.cache
def world() -> "Ranks | None":
    """All processes that the launcher started together; None for one process on its own.

    BLAS gets this process's part of the cores (`Ranks.share_cores`), and an error that nobody catches ends
    all processes: the others would wait for this one for ever.

    Warns
    -----
    UserWarning
        A launcher started several processes, but there is no MPI: each is on its own.
    """
    if not under_mpi():
        return None
    with _not_for_ever():
        problem = mpi_problem()
    if problem is not None:
        n_started = max(int(os.environ.get(name, "1")) for name in SIZES_OF_MPI)
        if n_started > 1:
            warnings.warn(
                f"{n_started} processes were started together, but each trains on its own: {problem}",
                stacklevel=2,
            )
        return None
    from mpi4py import MPI

    ranks = Ranks(MPI.COMM_WORLD)
    if ranks.size == 1:
        return None
    ranks.share_cores()
    sys.excepthook = ranks.end_on_error
    return ranks


@contextlib.contextmanager
def _not_for_ever() -> Iterator[None]:
    """End this process where others that were started with it never begin MPI, which would wait for them.

    It waits with the lock of Python's interpreter and heeds no signal: only another process can say why.
    """
    with subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-c",
            (
                "import os, signal, sys, threading, time\n"
                "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                "seconds, heard, message = sys.stdin.readline().split(' ', 2)\n"
                "def end():\n"
                "    sys.stderr.write(message)\n"
                "    sys.stderr.flush()\n"
                "    time.sleep(float(heard))\n"
                "    os.kill(os.getppid(), getattr(signal, 'SIGKILL', signal.SIGTERM))\n"
                "threading.Timer(float(seconds), end).start()\n"
                "sys.stdin.read()\n"
                "os._exit(0)\n"
            ),
        ],
        stdin=subprocess.PIPE,
        text=True,
    ) as watch:
        if watch.stdin is not None:
            watch.stdin.write(
                f"{SECONDS_TO_MEET} {SECONDS_TO_BE_HEARD} mlp-xp: error: this process waited "
                f"{SECONDS_TO_MEET} seconds, where MPI begins, for the others that were started with it: not "
                "all of them train. Give each the same command, or start it alone (--no-mpi).\n"
            )
            watch.stdin.flush()
        yield


class Ranks:
    """The processes that train one model together.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Whom to talk to.

    Attributes
    ----------
    rank, size : int
        This process's number, from 0, and how many there are.
    local_rank, local_size : int
        The same among the processes on this machine: which GPU to take, how many cores to leave the others.
    all_reduce : str
        How gradients on GPUs are summed, of `cuda.ALL_REDUCES`; the same on all ranks.
    have_agreed : bool
        What they were given was compared by who trains with them.
    stop_wanted : bool
        This process wants the run to end; it travels with the next step's gradient.
    stop_agreed : bool
        Some process wanted it in the last step; every rank knows.
    """

    def __init__(self, communicator: "Comm") -> None:
        from mpi4py import MPI

        self._communicator, self._mpi = communicator, MPI
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self._machine = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = self._machine.Get_rank(), self._machine.Get_size()
        self.all_reduce = "auto"
        self.have_agreed = self.stop_wanted = self.stop_agreed = False
        self._on_device: dict[tuple[Runtime, str], AllReduce | None] = {}

    @property
    def share(self) -> tuple[int, int]:
        """Which part of every global batch is this rank's: (rank, ranks)."""
        return self.rank, self.size

    def own_device(self, device: str) -> str:
        """The device of this rank: "cuda" means the card of its number among those that this process sees."""
        if device != "cuda":
            return device
        from mlp_xp.machine import cuda

        return f"cuda:{self.local_rank % max(1, len(cuda.devices()))}"

    def own_cores(self) -> int:
        """How many cores this process has for itself, where all ranks on the machine share fairly.

        A launcher may have bound each rank to cores of its own, or all to the same; a quota is for all.
        """
        most = max(1, blas.quota() // self.local_size)
        if not hasattr(os, "sched_getaffinity"):
            return max(1, min(most, (os.cpu_count() or 1) // self.local_size))
        own = sorted(os.sched_getaffinity(0))
        highest = np.array([own[-1]])
        self._machine.Allreduce(self._mpi.IN_PLACE, highest, self._mpi.MAX)
        users = np.zeros(highest[0] + 1)
        users[own] = 1.0
        self._machine.Allreduce(self._mpi.IN_PLACE, users)
        return max(1, min(most, int(np.sum(1.0 / users[own]) + 1e-6)))

    def share_cores(self) -> None:
        """Let BLAS use `own_cores` threads, unless the environment says how many."""
        if any(name in os.environ for name in THREAD_SETTINGS):
            return
        blas.let_use(self.own_cores())

    @contextlib.contextmanager
    def lowest_first(self) -> Iterator[None]:
        """Do what is inside on each machine's lowest rank, then on its others: they find what it has written.

        If it fails on the lowest, the others never begin; that rank's error has to end them.
        """
        if self.local_rank > 0:
            self._machine.Barrier()
        yield
        if self.local_rank == 0:
            self._machine.Barrier()

    def sum(self, vector: Array, numbers: Sequence[float], backend: Backend) -> list[float]:
        """Sum a vector on the device, and a few numbers of the host, over all ranks; the same bits on each.

        The vector is replaced by its sum; the numbers' sums are returned. The vector's last elements are room
        for the numbers, which travel with it if it goes through the host; what they are afterwards is not
        defined.
        """
        on_device = self._summing_on(backend.runtime)
        if on_device is not None:
            return on_device(vector, numbers)
        host = to_host(vector)
        if host is not vector:
            host = host.copy()
        host[len(host) - len(numbers) :] = numbers
        self.add_up(host)
        if host is not vector:
            vector[...] = backend.asarray(host)
        return host[len(host) - len(numbers) :].tolist()

    def _summing_on(self, runtime: Runtime) -> AllReduce | None:
        """A device's own way to do what `sum` does, if it has one: found by all ranks together."""
        key = (runtime, self.all_reduce)
        if key not in self._on_device:
            self._on_device[key] = runtime.all_reduce(self)
        return self._on_device[key]

    def add_up(self, buffer: Array) -> None:
        """Replace a buffer that MPI can read by its sum over all ranks."""
        self._communicator.Allreduce(self._mpi.IN_PLACE, buffer)

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums of a few numbers over all ranks, in float64."""
        total = np.array(numbers, dtype=np.float64)
        self.add_up(total)
        return [float(number) for number in total]

    def broadcast(self, vector: Array, backend: Backend) -> None:
        """Replace a vector on the device by that of rank 0."""
        host = to_host(vector).copy()
        self._communicator.Bcast(host, root=0)
        vector[...] = backend.asarray(host)

    def from_first(self, number: float) -> float:
        """The number that rank 0 has."""
        shared = np.array([number], dtype=np.float64)
        self._communicator.Bcast(shared, root=0)
        return float(shared[0])

    def bytes_from_first(self, content: bytes | None) -> bytes | None:
        """The bytes that rank 0 has, or None if it has none."""
        return self._bytes_from(0, content)

    def _bytes_from(self, rank: int, content: bytes | None) -> bytes | None:
        size = np.array([-1.0 if content is None else len(content)], dtype=np.float64)
        self._communicator.Bcast(size, root=rank)
        if size[0] < 0:
            return None
        shared = np.zeros(int(size[0]), dtype=np.uint8)
        if self.rank == rank:
            shared[:] = np.frombuffer(content or b"", dtype=np.uint8)
        self._communicator.Bcast(shared, root=rank)
        return shared.tobytes()

    def texts(self, own: str) -> list[str]:
        """A text of each rank, in their order, on every rank."""
        return [(self._bytes_from(rank, own.encode()) or b"").decode() for rank in range(self.size)]

    def refuse_differences(self, own: Mapping[str, Any]) -> None:
        """Raise ValueError on all ranks where one was given something else (JSON values) than rank 0."""
        texts = self.texts(json.dumps(own, sort_keys=True))
        first = json.loads(texts[0])
        for rank, text in enumerate(texts):
            if text != texts[0]:
                other = json.loads(text)
                names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
                raise ValueError(
                    f"ranks that train together must agree, but rank {rank} differs from rank 0: "
                    + ", ".join(f"{name} {other.get(name)!r} against {first.get(name)!r}" for name in names)
                    + ". Give all of them the same."
                )

    def gather_numbers(self, number: float) -> list[float]:
        """One number of each rank, in their order, on every rank."""
        found = np.zeros(self.size, dtype=np.float64)
        self._communicator.Allgather(np.array([number], dtype=np.float64), found)
        return [float(each) for each in found]

    def gather_on_machine(self, text: str) -> list[str]:
        """A short text (of up to 64 bytes) of each rank on this machine."""
        own = np.array([text.encode()], dtype="S64")
        found = np.zeros(self.local_size, dtype="S64")
        self._machine.Allgather(own.view(np.uint8), found.view(np.uint8))
        return [each.decode() for each in found.tolist()]

    def end_all(self, say: Callable[[], object], status: int) -> NoReturn:
        """Say an error and end all ranks with an exit status; one that all of them have is said once.

        Ranks but the first leave that one time to say the same and end them, before they say it.
        """
        if self.rank > 0:
            time.sleep(SECONDS_FOR_RANK_0)
        say()
        sys.stderr.flush()
        time.sleep(SECONDS_TO_BE_HEARD)
        self._communicator.Abort(status)
        os._exit(status)  # nothing more is said while the others are being ended

    def end_on_error(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> NoReturn:
        """End all ranks for an error that nobody has caught; in the place of `sys.excepthook`."""
        text = "".join(traceback.format_exception(kind, error, trace))
        self.end_all(lambda: sys.stderr.write(text), 1)
