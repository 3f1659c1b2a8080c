"""With how many threads is a step fastest, alone and beside two busy processes, and what does mlp_xp take?

Plain steps: the BLAS has one thread, or one a core for every product, or one while large products are shared
out to threads of our own (`machine.threads`). Compiled steps have one, or what their own size says. All take
turns, epoch by epoch, first alone, then beside two processes that compute and never wait. Reported is the
median epoch divided by its steps.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.machine import blas, threads

N_BUSY = 2
ROUNDS = 5
SECONDS = 0.2
"""About how long an epoch takes with one thread; one that spins on busy cores takes far longer."""

PAUSE = 0.1
"""For so long the threads that a BLAS used before may spin: in its own time, and not in another choice's."""

ONE, ALL, OURS = CHOICES = "1 thread", "all cores", "mlp_xp"

STEPS = (
    ((4, 3, 2, 1), 32),
    ((32, 100, 1), 200),
    ((64, 256, 256, 1), 256),
    ((784, 512, 512, 10), 128),
    ((784, 512, 512, 10), 512),
    ((1024, 2048, 2048, 10), 256),
)
TOY = (((4, 3, 2, 1), 8), ((8, 16, 1), 16))


@dataclasses.dataclass
class Training:
    """Epochs of a few steps, made with one choice of threads."""

    sizes: tuple[int, ...]
    batch: int
    way: str
    choice: str
    n_steps: int

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        n_rows = self.batch * self.n_steps
        x = generator.standard_normal((n_rows, self.sizes[0]), dtype=np.float32)
        y = generator.standard_normal((n_rows, self.sizes[-1]), dtype=np.float32)
        self._epochs = train(
            Network(self.sizes),
            Loader(x, y, batch_size=self.batch),
            learning_rate=1e-5,
            max_epochs=10**9,
            way=self.way,
            threads=1 if self.choice == ONE else None,
        )

    def seconds_a_step(self) -> float:
        """Those of one more epoch, divided by its steps."""
        time.sleep(PAUSE)
        with contextlib.ExitStack() as stack:
            if self.choice == ALL and self.way == "plain":
                stack.enter_context(mock.patch.object(blas, "computing", contextlib.nullcontext))
                stack.enter_context(mock.patch.object(threads, "PIECE_WORK", 2**62))
            began = time.perf_counter()
            next(self._epochs)
            return (time.perf_counter() - began) / self.n_steps


@contextlib.contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """Have processes beside this one that compute all the time."""
    with contextlib.ExitStack() as stack:
        for _ in range(n_processes):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def medians(make: Callable[[str], Training], choices: list[str], rounds: int) -> dict[str, measure.Median]:
    """µs a step with each choice, measured in turn."""
    trainings = {choice: make(choice) for choice in choices}
    for training in trainings.values():
        training.seconds_a_step()  # buffers, and what is compiled
    slices = [
        {choice: training.seconds_a_step() for choice, training in trainings.items()} for _ in range(rounds)
    ]
    return {choice: 1e6 * measure.Median(each[choice] for each in slices) for choice in choices}


def steps_for(sizes: tuple[int, ...], batch: int, quick: bool) -> int:
    """Steps of an epoch of `SECONDS`, at 60 µs a step and 50 multiplications a nanosecond; at least two."""
    work = 3 * batch * sum(a * b for a, b in itertools.pairwise(sizes))
    return 2 if quick else max(2, min(2000, round(SECONDS / (60e-6 + work / 50e9))))


def answer(quick: bool, device: str) -> Result:
    """Time all choices, alone and beside busy processes."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: threads are measured on the CPU only; use 'cpu'.")
    has_fast = all(importlib.util.find_spec(module) is not None for module in ("numba", "scipy"))
    rows = []
    for n_busy in (0, N_BUSY):
        with measure.compiled_at_once(), busy(n_busy):
            for sizes, batch in TOY if quick else STEPS:
                n_steps = steps_for(sizes, batch, quick)
                for way in ("plain", "fast")[: 1 + has_fast]:
                    choices = list(CHOICES) if way == "plain" else [ONE, OURS]
                    found = medians(
                        lambda choice, way=way, sizes=sizes, batch=batch, n_steps=n_steps: Training(
                            sizes, batch, way, choice, n_steps
                        ),
                        choices,
                        1 if quick else ROUNDS,
                    )
                    rows.append(
                        {
                            "µs a step": f"{'-'.join(map(str, sizes))}, batch {batch}",
                            "steps": {"plain": "plain", "fast": "compiled"}[way],
                            "beside": f"{n_busy} busy processes" if n_busy else "nothing",
                            **{choice: found.get(choice) for choice in CHOICES},
                            "mlp_xp ÷ best": found[OURS] / min(found.values()),
                        }
                    )
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            f"float32, Adam; the median of {ROUNDS} epochs of about {SECONDS} s. {blas.cores()} cores.",
            *(
                f"The worst choice, beside {beside}: {worst(rows, beside):.2f} × the best one's time."
                for beside in dict.fromkeys(row["beside"] for row in rows)
            ),
            *([] if has_fast else ["compiled: the extra `fast` is not installed."]),
        ],
        packages=("numba", "scipy", "threadpoolctl"),
    )


def worst(rows: list[dict[str, Any]], beside: str) -> float:
    """The largest ratio of our time to the best choice's."""
    return max(float(row["mlp_xp ÷ best"]) for row in rows if row["beside"] == beside)


def draw(result: Result, figure: Any) -> None:
    """Each choice's time in units of the best, alone and beside busy processes."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, beside in zip(axes, dict.fromkeys(result.column("beside")), strict=True):
        rows = [row for row in result.rows if row["beside"] == beside]
        names = [f"{row['µs a step']}\n{row['steps']}" for row in rows]
        for choice in CHOICES:
            best = [min(float(row[each]) for each in CHOICES if row[each]) for row in rows]
            times = [float(row[choice] or np.nan) / least for row, least in zip(rows, best, strict=True)]
            ax.plot(times, range(len(rows)), "o", label=choice)
        ax.axvline(2.0, color="black", linewidth=0.8)
        ax.set(xscale="log", xlabel="time ÷ that of the best choice", title=f"beside {beside}")
        ax.set_yticks(range(len(rows)), names, fontsize=6)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
