"""How do time and memory of training grow with rows, width, depth and batch size, and what is expected?

One of them grows, the others stay. An epoch over r rows in batches of m makes r/m steps, each of which costs
its calls and 3 m Σ n n' multiplications (Σ n n': the number of weights), so that

    seconds = r/m (c₀ + c₁ m Σ n n')

and the expected ratio is that of r Σ n n' for rows, width and depth, as long as c₀ is small; for batches c₀
and c₁ are those of the smallest and the largest one. A step needs parameters, gradient, the optimizer's
vectors, the last good weights and the best, its rows, and the memo, which grows with m Σ n: its
peak is measured (NumPy's allocations) and compared with their sum.
"""

import dataclasses
import importlib.util
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.forward import Memo

N_FEATURES = 64
ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Size:
    """What is trained: `depth` hidden layers of `width` relu units, on `rows` rows, `batch` a step."""

    rows: int = 4096
    width: int = 128
    depth: int = 2
    batch: int = 256

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Units per layer."""
        return (N_FEATURES, *[self.width] * self.depth, 1)

    @property
    def n_weights(self) -> int:
        """Σ n n'."""
        return sum(a * b for a, b in zip(self.layer_sizes, self.layer_sizes[1:], strict=False))


SERIES: dict[str, tuple[int, ...]] = {
    "rows": (4096, 16_384, 65_536),
    "width": (128, 256, 512),
    "depth": (2, 4, 8),
    "batch": (1, 4, 16, 64, 256, 1024, 4096),
}
TOY_SERIES = {"rows": (64, 256), "width": (8, 16), "depth": (1, 2), "batch": (1, 8, 64)}
TOY = Size(rows=64, width=8, depth=1, batch=16)


def epochs(size: Size, way: str) -> Callable[[], float]:
    """What trains an epoch and returns its seconds."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((size.rows, N_FEATURES), dtype=np.float32)
    y = generator.standard_normal((size.rows, 1), dtype=np.float32)
    training = train(
        Network(size.layer_sizes),
        Loader(x, y, batch_size=size.batch),
        loss="half_squared_error",
        learning_rate=1e-4,
        max_epochs=10**9,
        way=way,
    )
    return measure.seconds_of_next(training)


def step_bytes(size: Size, way: str) -> int:
    """The largest amount of array data that lives at a time in two epochs of one step."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((size.batch, N_FEATURES), dtype=np.float32)
    y = generator.standard_normal((size.batch, 1), dtype=np.float32)

    def steps() -> None:
        loader = Loader(x, y, batch_size=size.batch)
        training = train(Network(size.layer_sizes), loader, loss="half_squared_error", max_epochs=2, way=way)
        tracemalloc.reset_peak()  # weights are drawn in float64
        for _ in training:
            pass

    steps()  # imports and compiles
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        steps()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def least_bytes(size: Size) -> int:
    """Parameters, gradient, Adam's vectors, the last good weights and the best; the memo, and the rows."""
    network, rows = Network(size.layer_sizes), 4 * size.batch * (N_FEATURES + 1)
    memo = measure.allocated_bytes(lambda: Memo(network, size.batch))
    return 6 * 4 * network.parameters.size + memo + rows


def expected(what: str, sizes: list[Size], seconds: list[float]) -> list[float]:
    """What the law says of each size, in units of the first."""
    if what != "batch":
        work = [size.rows * size.n_weights for size in sizes]
        return [each / work[0] for each in work]
    first, last = sizes[0], sizes[-1]
    a = np.array([[size.rows / size.batch, size.rows * size.n_weights] for size in (first, last)])
    c = np.linalg.solve(a, np.array([seconds[0], seconds[-1]]))
    return [float(c @ (size.rows / size.batch, size.rows * size.n_weights)) / seconds[0] for size in sizes]


def measure_series(what: str, sizes: list[Size], found_ways: list[str], rounds: int) -> list[dict[str, Any]]:
    """A table row for each size; epochs are taken in turn."""
    seconds: dict[str, list[float]] = {}
    for way in found_ways:
        trainings = [epochs(size, way) for size in sizes]
        samples = [[training() for training in trainings] for _ in range(rounds + 1)]
        seconds[way] = [measure.Median(each) for each in zip(*samples[1:], strict=True)]
    law = expected(what, sizes, seconds["plain"])
    rows = []
    for i, size in enumerate(sizes):
        least = least_bytes(size)
        row = {
            "what grows": what,
            "to": getattr(size, what),
            "expected ×": law[i],
            "epoch ×": seconds["plain"][i] / seconds["plain"][0],
            "epoch (s)": seconds["plain"][i],
            "fast epoch (s)": seconds["fast"][i] if "fast" in seconds else None,
            "least memory of a step (bytes)": least,
            "peak ÷ least": step_bytes(size, "plain") / least,
            "fast peak ÷ least": step_bytes(size, "fast") / least if "fast" in seconds else None,
        }
        rows.append(row)
    return rows


def answer(quick: bool, device: str) -> Result:
    """Let each of them grow in turn."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: growth is measured on the CPU only; use 'cpu'.")
    start, series, rounds = (TOY, TOY_SERIES, 1) if quick else (Size(), SERIES, ROUNDS)
    has_fast = all(importlib.util.find_spec(module) is not None for module in ("numba", "scipy"))
    found_ways = ["plain", "fast"] if has_fast else ["plain"]
    rows: list[dict[str, Any]] = []
    with measure.compiled_at_once():
        for what, values in series.items():
            sizes = [dataclasses.replace(start, **{what: value}) for value in values]
            rows += measure_series(what, sizes, found_ways, rounds)
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                f"Where nothing else is said: {start.rows:,} rows of {N_FEATURES} float32 columns, "
                f"{start.depth} hidden layers of {start.width} relu units, batches of {start.batch}, Adam; "
                f"the median of {rounds} epochs."
            ),
            (
                "least: parameters, gradient, Adam's vectors, the last good weights and the best, memo and "
                "rows of a batch. peak: the most array data that lived at a time in two epochs of one step. "
                "What the light core takes beyond it are Adam's temporaries, of at most 32,768 numbers, "
                "which do not grow with the network."
            ),
            *([] if has_fast else ["fast: the extra `fast` is not installed."]),
        ],
        packages=("numba", "scipy"),
    )


def draw(result: Result, figure: Any) -> None:
    """Seconds and memory over each of them, the law as a line."""
    kinds = list(dict.fromkeys(result.column("what grows")))
    top, bottom = figure.subplots(2, len(kinds))
    for what, above, below in zip(kinds, top, bottom, strict=True):
        rows = [row for row in result.rows if row["what grows"] == what]
        at, first = [row["to"] for row in rows], rows[0]["epoch (s)"]
        above.plot(at, [first * row["expected ×"] for row in rows], color="0.6", label="expected")
        above.plot(at, [row["epoch (s)"] for row in rows], "o", color="C0", label="mlp_xp")
        if rows[0]["fast epoch (s)"] is not None:
            above.plot(at, [row["fast epoch (s)"] for row in rows], "s", color="C1", label="mlp_xp fast")
        least = [row["least memory of a step (bytes)"] / 2**20 for row in rows]
        below.plot(at, least, color="0.6", label="least")
        peaks = [each * row["peak ÷ least"] for each, row in zip(least, rows, strict=True)]
        below.plot(at, peaks, "o", color="C0", label="peak")
        below.set(xlabel=what)
        for ax in (above, below):
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(at, [f"{value:,}" for value in at], fontsize=6)
            ax.minorticks_off()
            ax.tick_params(labelsize=6)
            ax.grid(alpha=0.3)
    top[0].set_ylabel("seconds an epoch", fontsize=8)
    bottom[0].set_ylabel("MiB of a step", fontsize=8)
    top[0].legend(fontsize=6)
    bottom[0].legend(fontsize=6)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
