"""CUDA GPUs through CuPy, which is imported here and in `fast.cuda` alone.

`diagnosis` says whether a GPU works and, if not, why not and what to do; `feeding` brings rows to it while
it computes; `all_reduce` sums over processes, and `memory` holds limits. Kernels are in `fast.cuda`. CuPy is
imported inside functions, so that importing these files costs nothing and works on a machine without it.
"""

from mlp_xp.machine.cuda.all_reduce import ALL_REDUCES
from mlp_xp.machine.cuda.diagnosis import Gpu, Problem, devices, namespace, problem
from mlp_xp.machine.cuda.feeding import streams
from mlp_xp.machine.cuda.memory import limit as limit_memory
from mlp_xp.machine.cuda.memory import parse_limit
from mlp_xp.machine.cuda.memory import taken as memory_taken
from mlp_xp.machine.cuda.precision import allow_tf32

__all__ = [
    "ALL_REDUCES",
    "Gpu",
    "Problem",
    "allow_tf32",
    "devices",
    "limit_memory",
    "memory_taken",
    "namespace",
    "parse_limit",
    "problem",
    "streams",
]
