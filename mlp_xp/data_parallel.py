"""Data-parallel training on MPI: each rank has its share of every global batch, and gradients are summed.

    one broadcast of the parameters at the start
    every step: the gradient of this rank's rows, then one all-reduce of
                [∂ΣsL/∂w | Σ s_i L_i | Σ s_i | ranks that want to stop]

All ranks then make the same update of the same parameters, and the result is that of one process with the
same global batch, up to the rounding of sums. The transport is MPI's; here is only what is sent.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.array_api import Array, Backend, to_host

SIGNS_OF_MPI = ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
"""Variables that a launcher sets for its processes: mpiexec of MPICH and Intel, of Open MPI, and Slurm's."""


def under_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher of MPI started this process; nothing is imported to find out."""
    return any(name in environment for name in SIGNS_OF_MPI)


def mpi_problem() -> str | None:
    """Why MPI cannot be used here; None if it can."""
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        return 'mpi4py is not installed: pip install "mlp-xp[mpi]".'
    except (ImportError, RuntimeError) as error:
        return f"mpi4py finds no MPI library ({str(error).splitlines()[0]}): install one, such as MPICH."
    return None if MPI.COMM_WORLD.Get_size() else "MPI has no processes."


@functools.cache
def world() -> "Ranks | None":
    """All processes that the launcher started together; None for one process on its own."""
    if not under_mpi() or mpi_problem() is not None:
        return None
    from mpi4py import MPI

    ranks = Ranks(MPI.COMM_WORLD)
    return ranks if ranks.size > 1 else None


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
    stop_asked : bool
        This process wants the run to end; it travels with the next step's gradient.
    stop_agreed : bool
        Some process wanted it in the step before; every rank knows.
    """

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self._communicator, self._mpi = communicator, MPI
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        local.Free()
        self.stop_asked = self.stop_agreed = False

    @property
    def share(self) -> tuple[int, int]:
        """Which part of every global batch is this rank's: (rank, ranks)."""
        return self.rank, self.size

    def sum(self, vector: Array, backend: Backend) -> None:
        """Replace a vector on the device by its sum over all ranks, the same bits on each."""
        if backend.xp is np:
            self._communicator.Allreduce(self._mpi.IN_PLACE, vector)
            return
        host = to_host(vector).copy()
        self._communicator.Allreduce(self._mpi.IN_PLACE, host)
        vector[...] = backend.asarray(host)

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums of a few numbers over all ranks, in float64."""
        total = np.array(numbers, dtype=np.float64)
        self._communicator.Allreduce(self._mpi.IN_PLACE, total)
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
        size = int(self.from_first(-1.0 if content is None else float(len(content))))
        if size < 0:
            return None
        shared = np.empty(size, dtype=np.uint8)
        if self.rank == 0 and content is not None:
            shared[:] = np.frombuffer(content, dtype=np.uint8)
        self._communicator.Bcast(shared, root=0)
        return shared.tobytes()

    def gather_numbers(self, number: float) -> list[float]:
        """One number of each rank, in their order, on every rank."""
        found = np.zeros(self.size, dtype=np.float64)
        self._communicator.Allgather(np.array([number], dtype=np.float64), found)
        return [float(each) for each in found]

    def abort(self, status: int) -> None:
        """End all ranks at once."""
        self._communicator.Abort(status)
