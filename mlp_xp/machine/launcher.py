"""Whether a launcher of MPI started this process; nothing is imported to find out."""

import os
from collections.abc import Mapping

SIZES_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Variables in which a launcher says how many processes it has started."""

SIGNS_OF_MPI = (*SIZES_OF_MPI, "PMI_RANK", "PMIX_RANK")
"""Variables that a launcher sets for its processes: mpiexec of MPICH and Intel, of Open MPI, and Slurm's."""

SECONDS_TO_BE_HEARD = 1.0
"""How long a launcher may take to pass on what was said: when it ends the processes, the rest is lost."""


def under_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher of MPI started this process; nothing is imported to find out."""
    return any(name in environment for name in SIGNS_OF_MPI)
