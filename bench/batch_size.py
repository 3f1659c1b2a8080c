"""How long is an epoch, and how fast does the loss fall, with one point a step, with batches, with all?

10,000 points, the same network, start and loss for every batch size, plain SGD. One point a step makes
10,000 steps an epoch, each of which costs its calls; batches of 100 make 100 steps, each hardly dearer; all
points make one step an epoch, the best direction but only one step.

Each batch size gets the best of the same few learning rates, found by short runs before (one rate for all
would favour the size it suits). The trainings then take turns, a slice of seconds each, in one run. The
clock stands still while the loss over all points is measured: `Epoch.seconds` does not count the caller's
time.
"""

import math
import sys
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.forward import Memo
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.run.validation import mean_loss

N_ROWS, N_FEATURES = 10_000, 20
LAYER_SIZES = (N_FEATURES, 64, 64, 1)
BATCH_SIZES: tuple[int | str, ...] = (1, 10, 100, 1000, "full")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SECONDS, TURNS = 15.0, 5
SECONDS_TO_CHOOSE = 2.0
"""Of training for each batch size; in turns; and for each of its rates before."""


def points(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of 20 features with interactions, of variance about 1, with a little noise."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n_rows, N_FEATURES), dtype=np.float32)
    y = np.sin(2.0 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * np.tanh(x[:, 3:8]).sum(axis=1)
    y = y / 1.5 + 0.1 * generator.standard_normal(n_rows)
    return x, y.astype(np.float32)[:, None]


class Training:
    """One training that can be stopped and continued, with the loss over all points as it went.

    Parameters
    ----------
    backend : Backend
        Where.
    batch_size : int or "full"
        Rows a step.
    rate : float
        Learning rate.
    x, y : arrays
        The points.

    Attributes
    ----------
    ends : list of float
        Seconds of training at the end of each epoch.
    seconds, losses : list of float
        When the loss was measured, and what it was.
    """

    def __init__(
        self, backend: Backend, batch_size: int | str, rate: float, x: np.ndarray, y: np.ndarray
    ) -> None:
        self.network = Network(LAYER_SIZES, activation="tanh", device=backend, seed=1)
        self.everything = Loader(x, y, batch_size="full")
        loader = Loader(x, y, batch_size=batch_size)
        self.steps_per_epoch, self.rows_held = (
            loader.steps_per_epoch,
            min(loader.batch_size, loader.chunk_rows),
        )
        self.epochs = train(
            self.network, loader, optimizer="sgd", learning_rate=rate, max_epochs=10**9, way="plain"
        )
        self.ends: list[float] = []
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.look(0.0)

    def look(self, seconds: float) -> None:
        """Measure the loss over all points."""
        with np.errstate(all="ignore"):
            loss = mean_loss(self.network, self.everything, SquaredError())
        self.seconds.append(seconds)
        self.losses.append(loss)

    def advance(self, until: float) -> None:
        """Train until its own clock shows `until`, an epoch at least; look less often as time goes on."""
        try:
            for epoch in self.epochs:
                self.ends.append(epoch.seconds)
                done = epoch.seconds >= until
                if done or epoch.seconds >= 1.1 * self.seconds[-1]:
                    self.look(epoch.seconds)
                if done:
                    return
        except FloatingPointError:
            self.losses[-1] = math.inf

    def epoch_seconds(self) -> measure.Median:
        """The median epoch; the first, which makes buffers, does not count where there are others."""
        lengths = np.diff([0.0, *self.ends])
        return measure.Median(lengths[1:] if len(lengths) > 1 else lengths)

    def seconds_to(self, loss: float) -> float | None:
        """When the loss was first measured to be as low as that."""
        reached = (s for s, l in zip(self.seconds, self.losses, strict=True) if l <= loss)
        return next(reached, None)


def best_rate(backend: Backend, batch_size: int | str, x: np.ndarray, y: np.ndarray, seconds: float) -> float:
    """The rate with the lowest loss after so many seconds."""
    losses = {}
    for rate in RATES:
        training = Training(backend, batch_size, rate, x, y)
        training.advance(seconds)
        losses[rate] = training.losses[-1]
    return min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)


def memo_bytes(n_rows: int) -> int:
    """Bytes of the memo for a chunk of so many rows and of the rows themselves, on the host."""
    network = Network(LAYER_SIZES, activation="tanh")
    rows = 4 * n_rows * (N_FEATURES + 1)
    return rows + measure.allocated_bytes(lambda: Memo(network, n_rows))


def answer(quick: bool, device: str) -> Result:
    """Choose the rates, then train with every batch size in turn."""
    backend = find_backend(device)
    n_rows = 60 if quick else N_ROWS
    sizes = (1, 10, "full") if quick else BATCH_SIZES
    budget, turns = (0.0, 1) if quick else (SECONDS, TURNS)
    x, y = points(n_rows)
    rates = {size: best_rate(backend, size, x, y, 0.0 if quick else SECONDS_TO_CHOOSE) for size in sizes}
    trainings = {size: Training(backend, size, rates[size], x, y) for size in sizes}
    for turn in range(1, turns + 1):
        for training in trainings.values():
            training.advance(budget * turn / turns)
    lowest = min(training.losses[-1] for training in trainings.values())
    rows = []
    for size, training in trainings.items():
        epoch, last = training.epoch_seconds(), training.losses[-1]
        rows.append(
            {
                "batch": f"all {n_rows:,}" if size == "full" else f"{size:,}",
                "steps an epoch": training.steps_per_epoch,
                "step (µs)": 1e6 / training.steps_per_epoch * epoch,
                "epoch (s)": epoch,
                "rows a second": n_rows / epoch,
                "memory of a step (bytes)": memo_bytes(training.rows_held),
                "learning rate": rates[size],
                "epochs": len(training.ends),
                "loss at the end": last if math.isfinite(last) else None,
                "seconds to twice the lowest loss": training.seconds_to(2.0 * lowest),
            }
        )
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                f"{n_rows:,} points, network {'-'.join(map(str, LAYER_SIZES))} (tanh), float32, SGD on the "
                f"squared error, {budget:g} s of training each, in {turns} turns; learning rate: the best "
                f"of {', '.join(map(str, RATES))} after {SECONDS_TO_CHOOSE:g} s."
            ),
            f"The lowest loss at the end, {results.show(lowest)}; the noise in the targets alone makes 0.01.",
            (
                "memory of a step: its rows and the memo, without the weights. Above 4,096 rows mlp_xp adds "
                "up the gradient of chunks of 4,096: memory does not grow with the batch."
            ),
        ],
        curves={
            row["batch"]: {"seconds": training.seconds, "loss": finite(training.losses)}
            for row, training in zip(rows, trainings.values(), strict=True)
        },
        device=backend.name,
    )


def finite(losses: list[float]) -> list[float | None]:
    """The losses, with None where a training diverged."""
    return [loss if math.isfinite(loss) else None for loss in losses]


def draw(result: Result, figure: Any) -> None:
    """Seconds an epoch, and loss over seconds."""
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    names = result.column("batch")
    colors = [f"C{i}" for i in range(len(names))]
    bars = left.bar(names, result.column("epoch (s)"), color=colors)
    left.bar_label(bars, [results.show(v) for v in result.column("epoch (s)")], fontsize=8)
    left.set(xlabel="points a step", ylabel="seconds an epoch", yscale="log")
    left.grid(axis="y", alpha=0.3)
    for name, color in zip(names, colors, strict=True):
        curve = result.curves[name]
        seconds = [s for s, l in zip(curve["seconds"], curve["loss"], strict=True) if l and s > 0]
        losses = [l for s, l in zip(curve["seconds"], curve["loss"], strict=True) if l and s > 0]
        right.plot(seconds, losses, color=color, label=f"{name} a step")
    right.set(xlabel="seconds of training", ylabel="mean squared error over all points")
    right.set(xscale="log", yscale="log")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
