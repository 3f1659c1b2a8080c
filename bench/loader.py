"""How many shuffled rows a second do loaders hand out, beside a bare loop of np.take?

64 float32 columns and a target, in memory. Every loader works in a process of its own (the threads of one
would get in the way of another's), and all take turns, round after round; reported is the median epoch. What
each does is in `bench/peers/loader.py`.
"""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.loader import N_FEATURES, PEERS

US, BOUND, DATA_LOADER = "mlp_xp", "np.take", "torch DataLoader"
N_ROWS = 500_000
"""128 MB: more than the caches hold."""

BATCHES = (256, 4096)
ROUNDS, EPOCHS, SLOW_EPOCHS = 3, 5, 1
"""In each round a process of each peer, with so many epochs; those of PyTorch take seconds each."""


def time_peer(name: str, n_rows: int, batch: int, n_epochs: int) -> list[float]:
    """Seconds of each epoch, in a process of its own.

    Raises
    ------
    RuntimeError
        It failed; the last line of what it said.
    """
    command = [sys.executable, "-m", "bench.peers.loader", name, str(n_rows), str(batch), str(n_epochs)]
    done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout)


def answer(quick: bool, device: str) -> Result:
    """Time all peers that are installed, in turn."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: loaders are compared on the CPU only; use 'cpu'.")
    n_rows, batches = (1000, (64,)) if quick else (N_ROWS, BATCHES)
    rounds = 1 if quick else ROUNDS
    absent = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module) is None]
    names = [name for name in PEERS if name not in absent]
    rows = []
    for batch in batches:
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                n_epochs = 1 if quick else SLOW_EPOCHS if PEERS[name].module == "torch" else EPOCHS
                seconds[name] += time_peer(name, n_rows, batch, n_epochs)
        rows.append(
            table_row(
                batch, {name: measure.Median(n_rows / each for each in seconds[name]) for name in names}
            )
        )
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                f"Million rows a second: {n_rows:,} rows of {N_FEATURES} float32 columns and a target, the "
                f"median epoch of {rounds} rounds, the order of each drawn anew."
            ),
            (
                f"{BOUND}: a permutation, and two calls a batch into arrays that are used again. mlp_xp: as "
                "train() uses it; iterated: arrays of the user's own."
            ),
            "whole batches: the DataLoader told to fetch a batch at once (sampler=BatchSampler(...)).",
            *(f"{name}: not installed." for name in absent),
        ],
        packages=("torch",),
    )


def table_row(batch: int, speeds: dict[str, float]) -> dict[str, Any]:
    """Million rows a second of each peer, and mlp_xp's ratios to the bound and to PyTorch."""
    theirs = speeds.get(DATA_LOADER)
    return {
        "batch": batch,
        **{name: speeds[name] / 1e6 if name in speeds else None for name in PEERS},
        "mlp_xp ÷ np.take": speeds[US] / speeds[BOUND],
        "mlp_xp ÷ DataLoader": speeds[US] / theirs if theirs else None,
    }


def draw(result: Result, figure: Any) -> None:
    """Rows a second of each peer, one group a batch size."""
    ax = figure.subplots()
    names = [name for name in PEERS if any(result.column(name))]
    at, width = np.arange(len(result.rows)), 0.84 / len(names)
    for i, name in enumerate(names):
        bars = ax.bar(at - 0.42 + (i + 0.5) * width, result.column(name), width, label=name)
        ax.bar_label(bars, [results.show(value) for value in result.column(name)], fontsize=8)
    ax.set(yscale="log", ylabel="million rows a second")
    ax.set_xticks(at, [f"batch {batch:,}" for batch in result.column("batch")])
    ax.margins(x=0.01, y=0.1)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=8, ncols=3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
