"""From which step on do compiled steps pay?

A training on a CPU goes on with compiled steps once those would have saved what it takes to load them: a
function of the layer sizes alone (`fast.on_cpu.first_compiled_step`). Here both are measured: what a compiled
step saves, from epochs of plain and of compiled steps in turn; and the seconds that a new process takes to
import Numba and to load what it has compiled.
"""

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.fast import compiled, on_cpu

NETWORKS = (
    ((4, 3, 2, 1), 4),
    ((10, 100, 1), 32),
    ((32, 100, 1), 200),
    ((10, 64, 64, 1), 64),
    ((64, 256, 256, 1), 256),
    ((784, 512, 512, 10), 128),
)
TOY = (((4, 3, 2, 1), 4),)
RULES = ("sgd", "adam")
ROUNDS = 7
SECONDS = 0.1
"""About how long an epoch takes."""


def epochs(sizes: tuple[int, ...], batch: int, rule: str, way: str, n_steps: int) -> Callable[[], float]:
    """What trains an epoch and returns its seconds."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch * n_steps, sizes[0]), dtype=np.float32)
    y = generator.standard_normal((batch * n_steps, sizes[-1]), dtype=np.float32)
    training = train(
        Network(sizes, activation="tanh"),
        Loader(x, y, batch_size=batch),
        optimizer=rule,
        learning_rate=1e-5,
        max_epochs=10**9,
        way=way,
    )
    return measure.seconds_of_next(training)


@measure.compiled_at_once()
def load_seconds() -> float:
    """What importing Numba and loading a step take in a new process."""
    generator = np.random.default_rng(0)
    loader = Loader(generator.normal(size=(8, 4)), generator.normal(size=(8, 1)), batch_size=4)
    began = time.perf_counter()
    for _ in train(Network((4, 3, 2, 1)), loader, max_epochs=2):
        pass
    return time.perf_counter() - began


def answer(quick: bool, device: str) -> Result:
    """Time plain and compiled steps, and loading."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: steps are compiled on the CPU only; use 'cpu'.")
    if problem := compiled.problem():
        raise RuntimeError(problem)
    rows = []
    pays_after, rounds = on_cpu.PAYS_AFTER, 1 if quick else ROUNDS
    for sizes, batch in TOY if quick else NETWORKS:
        n_weights = sum(a * b for a, b in itertools.pairwise(sizes))
        n_steps = 4 if quick else max(4, min(1000, round(SECONDS / (60e-6 + 3 * batch * n_weights / 50e9))))
        first = on_cpu.first_compiled_step(sum(sizes[1:]), n_weights + sum(sizes[1:]))
        for rule in RULES:
            with measure.compiled_at_once():
                ways = {way: epochs(sizes, batch, rule, way, n_steps) for way in ("plain", "fast")}
                slices = [{way: epoch() for way, epoch in ways.items()} for _ in range(rounds + 1)][1:]
            plain, fast = (
                1e6 / n_steps * measure.Median(each[way] for each in slices) for way in ("plain", "fast")
            )
            saved = float(plain) - float(fast)
            rows.append(
                {
                    "µs a step": f"{'-'.join(map(str, sizes))}, batch {batch}",
                    "rule": rule,
                    "plain": plain,
                    "compiled": fast,
                    "saved": saved,
                    "taken to be saved": 1e6 * pays_after / first,
                    "compiled from step": first,
                    "would pay from": round(1e6 * pays_after / saved) if saved > 0 else None,
                }
            )
    loads = measure.Median(measure.in_process("bench.turning", "--load") for _ in range(1 if quick else 5))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            f"float32, the median of {ROUNDS} epochs of about {SECONDS} s.",
            f"Loading takes {results.show(loads)} s in a new process; it is taken to be {pays_after} s.",
        ],
        curves={"loading (s)": float(loads)},
        packages=("numba", "scipy"),
    )


def draw(result: Result, figure: Any) -> None:
    """What is saved beside what it is taken to be."""
    ax = figure.subplots()
    names = [f"{row['µs a step']}\n{row['rule']}" for row in result.rows]
    ax.plot(result.column("saved"), range(len(names)), "o", label="saved")
    ax.plot(result.column("taken to be saved"), range(len(names)), "x", label="taken to be saved")
    ax.set(xlabel="µs a step")
    ax.set_yticks(range(len(names)), names, fontsize=6)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)


if __name__ == "__main__":
    if sys.argv[1:] == ["--load"]:
        print(load_seconds())
    else:
        sys.exit(results.main(sys.modules[__name__]))
