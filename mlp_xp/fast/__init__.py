"""The fast way is a way from outside: it makes the same steps with what a device has to offer.

The plain rule stays the code of every library without a way of its own, and the oracle: a fast way replaces
activations, loss, penalty, matrix product and update rule by equivalents (`Objective.compute_with`), never
the algorithm.
"""

import functools
from collections.abc import Callable

from mlp_xp.fast import compiled
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.step import Step


def ways(
    backend_name: str, way: str = "fast", *, schedules_more: bool = False
) -> Callable[[Objective, Optimizer, float | None], Step]:
    """What makes the updates of a training on a device (`Backend.name`), by one of `training_settings.WAYS`.

    No step is recorded where more than the rate changes from step to step: dropout or decay.
    """
    if way != "plain" and backend_name.startswith("cuda:"):
        from mlp_xp.fast.on_cuda import CudaStep

        return functools.partial(CudaStep, captures=way == "fast", schedules_more=schedules_more)
    if way != "plain" and backend_name == "cpu":
        from mlp_xp.fast.on_cpu import CpuStep

        return CpuStep
    return Step


def describe() -> str:
    """How the CPU makes the steps of a long training: for people."""
    problem = compiled.problem()
    return "compiled steps (Numba)" if problem is None else f"plain steps: {problem}"
