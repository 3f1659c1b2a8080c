"""`mlp-xp devices`: what this machine can train on, and why not on the rest."""

import platform

from mlp_xp import cuda, data_parallel, fast


def devices() -> None:
    """List what this machine can train on, and for each device that it can't, reason and remedy."""
    ranks = data_parallel.world()
    if ranks is not None and ranks.rank > 0:
        return
    print(f"cpu     ready: {platform.processor() or platform.machine()}, NumPy, {fast.describe()}")
    gpus = cuda.devices()
    for gpu in gpus:
        problem = cuda.problem(gpu.index)
        state = f"not usable: {problem}" if problem else "ready"
        print(f"cuda:{gpu.index}  {state}: {gpu.name}, {gpu.memory / 2**30:.1f} GiB")
    if not gpus:
        print(f"cuda    not usable: {cuda.problem()}")
    print(f"mpi     {data_parallel.describe()}")
