"""What does a checkpoint after every epoch cost?

Two trainings of one kind, one of them with `checkpoint_every="1epoch"`, make their epochs in turn, each first
in every other round. The state (weights, those of the best epoch where they are others, the optimizer's
vectors) is copied to the host, checksummed, written, flushed to disk and renamed, in the folder for temporary
files.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.saved.checkpoint import Checkpoints

SIZES, BATCH = (784, 512, 512, 10), 128
ROWS, ROUNDS = (10_000, 60_000), 8
TOY_SIZES, TOY_ROWS, TOY_ROUNDS = (8, 4, 10), (256,), 2


def epochs(
    sizes: tuple[int, ...], n_rows: int, device: str, checkpoints: Checkpoints | None
) -> Callable[[], float]:
    """What trains an epoch and returns its seconds."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n_rows, sizes[0]), dtype=np.float32)
    y = generator.integers(0, sizes[-1], n_rows)
    training = train(
        Network(sizes, device=device),
        Loader(x, y, batch_size=BATCH, seed=1),
        loss="softmax_cross_entropy",
        max_epochs=10**9,
        checkpoints=checkpoints,
    )
    return measure.seconds_of_next(training)


def table_row(sizes: tuple[int, ...], n_rows: int, device: str, rounds: int, folder: str) -> dict[str, Any]:
    """Seconds of an epoch with and without, and of a checkpoint by itself."""
    with Timed(folder, "1epoch") as checkpoints:
        plain, with_checkpoints = (
            epochs(sizes, n_rows, device, None),
            epochs(sizes, n_rows, device, checkpoints),
        )
        plain(), with_checkpoints()
        checkpoints.seconds.clear()
        times: dict[Any, list[float]] = {plain: [], with_checkpoints: []}
        for number in range(rounds):
            for epoch in list(times)[:: 1 if number % 2 else -1]:
                times[epoch].append(epoch())
        without, took = (measure.Median(each) for each in times.values())
        n_bytes = checkpoints.paths()[0].stat().st_size
        writing = measure.Median(checkpoints.seconds)
    return {
        "network": "-".join(map(str, sizes)),
        "rows": n_rows,
        "epoch (s)": without,
        "with a checkpoint (s)": took,
        "checkpoint (s)": writing,
        "checkpoint (bytes)": n_bytes,
        "checkpoint ÷ epoch (%)": 100 * writing / without,
        "slower (%)": 100 * (took / without - 1),
    }


class Timed(Checkpoints):
    """Checkpoints that know how long each took."""

    def __init__(self, folder: str, every: str) -> None:
        super().__init__(folder, every)
        self.seconds: list[float] = []

    def write(self, training: Any) -> Path | None:
        """Write the state now."""
        began = time.perf_counter()
        path = super().write(training)
        self.seconds.append(time.perf_counter() - began)
        return path


def answer(quick: bool, device: str) -> Result:
    """Train with and without checkpoints, for short and for long epochs."""
    sizes, rows, rounds = (TOY_SIZES, TOY_ROWS, TOY_ROUNDS) if quick else (SIZES, ROWS, ROUNDS)
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory(prefix="mlp-xp-bench-")) for _ in rows]
        table = [
            table_row(sizes, n_rows, device, rounds, folder)
            for n_rows, folder in zip(rows, folders, strict=True)
        ]
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=table,
        notes=[
            f"float32, relu, Adam, batches of {BATCH}; the median of {rounds} epochs each, taken in turn.",
            "slower: the two medians compared, noise included; checkpoint ÷ epoch: of the write alone.",
        ],
        packages=("safetensors",),
    )


def draw(result: Result, figure: Any) -> None:
    """The share of an epoch that a checkpoint takes, over the rows of an epoch."""
    ax = figure.subplots()
    names = [f"{n_rows:,}" for n_rows in result.column("rows")]
    bars = ax.bar(names, result.column("checkpoint ÷ epoch (%)"))
    ax.bar_label(bars, [f"{value:.2g} %" for value in result.column("checkpoint ÷ epoch (%)")])
    ax.set(xlabel="rows an epoch", ylabel="a checkpoint, % of an epoch")
    ax.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
