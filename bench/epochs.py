"""How long is a whole epoch as a user writes it, shuffled and loaded, in mlp_xp and in other libraries?

Every library trains in a process of its own (the threads of one would spin in the way of another's), and all
take turns, round after round; reported is the median epoch. What each does is in `bench/peers/epoch.py`.
"""

import importlib.util
import sys
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.epoch import CASES, PEERS

ROUNDS, TOY_ROWS = 3, 600
LIBRARIES = ("scikit-learn", "torch DataLoader")
"""Those in the ratios: what most people write."""


def answer(quick: bool, device: str) -> Result:
    """Time all peers that are installed, in turn."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: epochs are compared on the CPU only; use 'cpu'.")
    names = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module) is not None]
    rounds = 1 if quick else ROUNDS
    n_epochs = [1 if quick else case.epochs for case in CASES]
    rows = []
    for number, case in enumerate(CASES):
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                given = (n_epochs[number], *([TOY_ROWS] if quick else []))
                seconds[name] += measure.in_process("bench.peers.epoch", name, number, *given)
        rows.append(table_row(case.name, {name: measure.Median(each) for name, each in seconds.items()}))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                f"Seconds: the median of {rounds} × {' or '.join(map(str, n_epochs))} epochs, float32, relu, "
                "Adam."
            ),
            (
                "mlp_xp is the light core, mlp_xp fast the same with the extra `fast`. torch slices: indexes "
                "with parts of a random permutation, instead of a DataLoader."
            ),
            *(f"{name}: not installed." for name in PEERS if name not in names),
        ],
        packages=("scikit-learn", "torch", "numba", "scipy"),
    )


def table_row(name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Seconds of each peer, and how many times as long the others take as mlp_xp, light and fast."""
    row: dict[str, Any] = {"epoch (s)": name, **{peer: seconds.get(peer) for peer in PEERS}}
    for ours in ("mlp_xp", "mlp_xp fast"):
        for theirs in LIBRARIES:
            both = ours in seconds and theirs in seconds
            row[f"{theirs} ÷ {ours}"] = seconds[theirs] / seconds[ours] if both else None
    return row


def draw(result: Result, figure: Any) -> None:
    """Seconds of each peer, one group a data set."""
    names = [name for name in PEERS if any(result.column(name))]
    for ax, row in zip(figure.subplots(1, len(result.rows), squeeze=False)[0], result.rows, strict=True):
        bars = ax.bar(np.arange(len(names)), [row[name] for name in names], color=[f"C{i}" for i in range(9)])
        ax.bar_label(bars, [results.show(row[name]) for name in names], fontsize=8)
        ax.set(ylabel="seconds an epoch")
        ax.set_title(row["epoch (s)"], fontsize=9)
        ax.set_xticks(np.arange(len(names)), [name.replace(" ", "\n") for name in names], fontsize=8)
        ax.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
