"""How long does it take to predict one row, a thousand, a million, in mlp_xp and in other libraries?

The same float32 weights and rows; every library in a process of its own, in turn, round after round; reported
is the median round. What each does is in `bench/peers/predict.py`.
"""

import importlib.util
import sys
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.predict import PEERS, SIZES

US = "mlp_xp"
N_ROWS, TOY_ROWS = (1, 1_000, 1_000_000), (1, 50)
ROUNDS, SECONDS = 3, 1.0


def answer(quick: bool, device: str) -> Result:
    """Time all peers that are installed, in turn."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: predictions are compared on the CPU only; use 'cpu'.")
    names = [
        name
        for name, peer in PEERS.items()
        if all(importlib.util.find_spec(module) is not None for module in peer.modules)
    ]
    rounds, seconds = (1, 0.0) if quick else (ROUNDS, SECONDS)
    rows = []
    for case, sizes in enumerate(SIZES):
        for n_rows in TOY_ROWS if quick else N_ROWS:
            found: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    given = (name, case, n_rows, seconds)
                    found[name].append(measure.in_process("bench.peers.predict", *given))
            medians = {name: measure.Median(each) for name, each in found.items()}
            rows.append(table_row(f"{'-'.join(map(str, sizes))}, {n_rows:,} rows", medians))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            f"µs a call: the median of {rounds} processes, each measured for {seconds:g} s. float32, relu.",
            *(f"{name}: not installed." for name in PEERS if name not in names),
        ],
        packages=("scikit-learn", "onnxruntime", "onnx"),
    )


def table_row(name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """µs of each peer, and how many times as long the others take."""
    others = {
        f"{peer} ÷ {US}": seconds[peer] / seconds[US] if peer in seconds else None
        for peer in PEERS
        if peer != US
    }
    micro = {peer: 1e6 * seconds[peer] if peer in seconds else None for peer in PEERS}
    return {"µs a prediction": name, **micro, **others}


def draw(result: Result, figure: Any) -> None:
    """Each peer's time in units of mlp_xp's, one group a call."""
    ax = figure.subplots()
    names = [name for name in PEERS if any(result.column(name))]
    at, width = np.arange(len(result.rows)), 0.84 / len(names)
    for i, name in enumerate(names):
        ratios = [row[name] / row[US] for row in result.rows]
        bars = ax.bar(at - 0.42 + (i + 0.5) * width, ratios, width, label=name)
        ax.bar_label(bars, [results.show(row[name]) for row in result.rows], fontsize=7)
    ax.axhline(1.0, color="black", linewidth=0.8)
    ax.set(yscale="log", ylabel="time ÷ mlp_xp's (labels: µs)")
    ax.set_xticks(at, [label.replace(", ", "\n") for label in result.column("µs a prediction")], fontsize=8)
    ax.margins(x=0.01, y=0.1)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=8, ncols=3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
