"""`mlp-xp devices`: what this machine can train on, and why not on the rest."""

import json
import platform
from collections.abc import Iterator
from typing import Any

from mlp_xp import fast
from mlp_xp.cli.commands import Devices
from mlp_xp.cli.printing import show
from mlp_xp.machine import cuda, data_parallel


def devices(options: Devices) -> None:
    """List what this machine can train on, and for each device that it can't, reason and remedy."""
    ranks = data_parallel.world()
    if ranks is not None and ranks.rank > 0:
        return
    found, mpi = list(_found()), data_parallel.describe()
    if options.as_json:
        show(json.dumps({"devices": found, "mpi": mpi}))
        return
    for each in found:
        state = "ready" if each["problem"] is None else f"not usable: {each['problem']}"
        show(f"{each['device']:7} {state}{': ' * bool(each['about'])}{each['about']}")
    show(f"mpi     {mpi}")


def _found() -> Iterator[dict[str, Any]]:
    """Name, description and problem (None where there is none) of each device."""
    cpu = f"{platform.processor() or platform.machine()}, NumPy, {fast.describe()}"
    yield {"device": "cpu", "about": cpu, "problem": None}
    gpus = cuda.devices()
    for gpu in gpus:
        about = f"{gpu.name}, {gpu.memory / 2**30:.1f} GiB"
        yield {"device": f"cuda:{gpu.index}", "about": about, "problem": _text(cuda.problem(gpu.index))}
    if not gpus:
        yield {"device": "cuda", "about": "", "problem": _text(cuda.problem())}


def _text(problem: object) -> str | None:
    return None if problem is None else str(problem)
