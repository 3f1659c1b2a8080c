"""CUDA GPUs through CuPy: the only room of the package that imports it.

`diagnosis` says whether a GPU works and, if not, why not and what to do; `feeding` brings rows to it while
it computes; `kernels` holds fused kernels, `gemm` the matrix product, `graph` a step that is launched as one,
`kit` puts them together for a training, `all_reduce` sums over processes, and `memory` holds limits. CuPy is
imported inside functions, so that importing these files costs nothing and works on a machine without it; none
imports another room.
"""

from mlp_xp.cuda.all_reduce import ALL_REDUCES
from mlp_xp.cuda.diagnosis import Gpu, Problem, devices, namespace, problem
from mlp_xp.cuda.feeding import streams
from mlp_xp.cuda.gemm import allow_tf32
from mlp_xp.cuda.memory import limit as limit_memory
from mlp_xp.cuda.memory import parse_limit
from mlp_xp.cuda.memory import taken as memory_taken

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
