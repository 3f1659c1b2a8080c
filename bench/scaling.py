"""When do two ranks of one core each train faster than one process with both, and how far does that scale?

Measured here: the steps of `bench.steps`, in turn, by one process with two BLAS threads and by two ranks with
one each, as they are written ("plain") and compiled ("fast"); how long the all-reduce of a step's gradient
takes, waiting for the other rank included; and whether it pays to send the gradient layer by layer while the
rest is computed. All-reduces of many sizes give a latency and a bandwidth:

    t(n, P) = 2 ⌈log₂ P⌉ latency + 2 (P − 1)/P · n / bandwidth      n bytes, P ranks

(recursive halving and doubling: Thakur, Rabenseifner and Gropp, Optimization of collective communication
operations in MPICH, 2005, section 4.5). With published figures of interconnects in their place this is a
model, not a measurement, of 8 to 10,000 ranks. A step of B rows takes f + r B on one core (two batch sizes
give f and r), so that the efficiency E = (f + r B) / (P (f + r B/P + t)) is 80% where

    B = (0.8 P (f + t) − f) / (0.2 r)
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import math
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.step import TRAININGS, Training
from bench.steps import CHECKED_STEPS, PAUSE, TOLERANCE, Worker, distance, start_worker, toy

ONE, TWO = "1 process, 2 threads", "2 ranks, 1 thread each"
ALONE = "1 process, 1 thread"
WAYS = ("plain", "fast")

SIZES = (*(4**k for k in range(1, 13)), 25_000_000)
"""Bytes of all-reduces: 4 to 25 million, the gradient of 6.3 million parameters."""

ROUNDS = 3
"""Slices of each, in turn, at most."""

EFFICIENCY = 0.8
N_RANKS = (8, 100, 1_000, 10_000)
SCALED = (4, 5)
"""The trainings, of TRAININGS, that are scaled up."""


class Interconnect(NamedTuple):
    """Seconds to the other end of a wire, and bytes a second, as published."""

    latency: float
    bandwidth: float
    source: str


INTERCONNECTS = {
    "10 Gbit/s Ethernet, TCP": Interconnect(
        48e-6, 1.25e9, "round trip of 96 µs between two EC2 c3.8xlarge: blogs.scalablelogic.com, January 2014"
    ),
    "Slingshot, 200 Gbit/s": Interconnect(
        2e-6, 25e9, "the rate as HPE publishes it, the latency a round figure"
    ),
    "InfiniBand NDR, 400 Gbit/s": Interconnect(
        2e-6, 50e9, "the rate as the InfiniBand Trade Association publishes it, the latency a round figure"
    ),
}


def all_reduce_seconds(n_bytes: float, n_ranks: int, latency: float, bandwidth: float) -> float:
    """The model of an all-reduce."""
    if n_ranks == 1:
        return 0.0
    moved = 2 * (n_ranks - 1) / n_ranks * n_bytes
    return 2 * math.ceil(math.log2(n_ranks)) * latency + moved / bandwidth


def fit(sizes: Sequence[int], seconds: Sequence[float], n_ranks: int) -> tuple[float, float]:
    """Latency from the smallest all-reduces, bandwidth from the largest: what each decides."""
    latency = statistics.median(seconds[:3]) / (2 * math.ceil(math.log2(n_ranks)))
    moved = 2 * (n_ranks - 1) / n_ranks * sizes[-1]
    return latency, moved / max(seconds[-1] - statistics.median(seconds[:3]), 1e-9)


def rows_needed(fixed: float, per_row: float, all_reduce: float, n_ranks: int) -> float:
    """Rows of the global batch from which on n ranks are 80% efficient; at least one for each."""
    needed = EFFICIENCY * n_ranks * (fixed + all_reduce) - fixed
    return max(n_ranks, needed / ((1 - EFFICIENCY) * per_row))


def launcher() -> str | None:
    """Mpiexec of this environment, or of the machine."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def start(name: str, n_ranks: int, n_threads: int) -> contextlib.AbstractContextManager[Worker]:
    """Processes that train; they end with their input."""
    command = [sys.executable, "-m", "bench.harness.scaling_ranks"]
    if n_ranks > 1:
        command = [str(launcher()), "-n", str(n_ranks), *command]
    return start_worker(name, command, {setting: str(n_threads) for setting in measure.THREAD_SETTINGS})


def ask(worker: Worker, order: str, **details: Any) -> Any:
    """Give an order and wait for the answer."""
    worker.tell(order, **details)
    return worker.answer()


def compare(training: Training, workers: Mapping[str, Worker], steps: int) -> dict[str, float]:
    """µs a step of each way on each, after a check that all move their weights alike."""
    moved, found = {}, {}
    details = dataclasses.asdict(training)
    for way in WAYS:
        for name, worker in workers.items():
            ask(worker, "make_way", way=way, training=details, steps=CHECKED_STEPS)
            ask(worker, "run")
            moved[name, way] = ask(worker, "movement")
        for worker in workers.values():
            ask(worker, "make_way", way=way, training=details, steps=steps)
            ask(worker, "run")  # compiles, makes buffers
            ask(worker, "waits")
        slices: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(min(ROUNDS, training.rounds)):
            for name, worker in workers.items():
                time.sleep(PAUSE)
                slices[name].append(ask(worker, "run"))
        for name in workers:
            found[f"{name}, {way}"] = 1e6 * measure.Median(slices[name]) / steps
        if way == "plain" and TWO in workers:
            found["all-reduce"] = 1e6 * ask(workers[TWO], "waits")
    first = moved[ONE, "plain"]
    for (name, way), each in moved.items():
        if not distance(first, each) <= TOLERANCE:
            raise RuntimeError(f"{training.name}: {name} ({way}) trains otherwise than {ONE}.")
    return found


def answer(quick: bool, device: str) -> Result:
    """Compare, fit, and draw the model."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: ranks are compared on the CPU only; use 'cpu'.")
    absent = [name for name in ("mpi4py",) if importlib.util.find_spec(name) is None]
    if absent or launcher() is None:
        raise RuntimeError('several processes need mpi4py and mpiexec: pip install "mlp-xp[mpi]" mpich.')
    trainings = [toy(each) if quick else each for each in TRAININGS]
    repeats, rows = (2 if quick else 50), []
    with start(ONE, 1, 2) as one, start(TWO, 2, 1) as two:
        sizes = SIZES[:6] if quick else SIZES
        seconds = ask(two, "all_reduces", sizes=sizes, repeats=repeats)
        latency, bandwidth = fit(sizes, seconds, 2)
        for training in trainings:
            steps = training.steps if quick else training.steps // 3
            found = compare(training, {ONE: one, TWO: two}, steps)
            n_bytes = gradient_bytes(training)
            overlap = ask(two, "overlap", training=dataclasses.asdict(training), repeats=repeats)
            model = 1e6 * all_reduce_seconds(n_bytes, 2, latency, bandwidth)
            rows.append(table_row(training, found, n_bytes, model, overlap))
    with start(ALONE, 1, 1) as alone:
        laws = {trainings[i].name: law(trainings[i], alone, quick=quick) for i in SCALED}
    model = [
        model_row(trainings[i], laws[trainings[i].name], name, n_ranks)
        for i in SCALED
        for name in INTERCONNECTS
        for n_ranks in N_RANKS
    ]
    measured = dict(zip(map(str, sizes), (1e6 * each for each in seconds), strict=True))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=notes_on(rows, latency, bandwidth, laws, model),
        curves={"all-reduce of 2 ranks, bytes to µs": measured, "model, not measured": model},
        packages=("mpi4py", "mpich", "openmpi", "numba"),
    )


def gradient_bytes(training: Training) -> int:
    """Bytes that a rank gives to an all-reduce: float32 parameters, and three numbers more."""
    sizes = training.sizes
    return 4 * (sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes)) + 3)


def table_row(
    training: Training, found: Mapping[str, float], n_bytes: int, model: float, overlap: float
) -> dict[str, Any]:
    """µs of each, ratios, and what communication takes of it."""
    row: dict[str, Any] = {"µs a step": training.name}
    for way in WAYS:
        one, two = found[f"{ONE}, {way}"], found[f"{TWO}, {way}"]
        row |= {f"{ONE}, {way}": one, f"{TWO}, {way}": two, f"speed-up of ranks, {way}": one / two}
    return row | {
        "bytes a step": n_bytes,
        "all-reduce": found["all-reduce"],
        "latency + bytes ÷ bandwidth": model,
        "layer by layer ÷ at once": overlap,
    }


def law(training: Training, alone: Worker, *, quick: bool) -> tuple[float, float]:
    """Seconds of a step of B rows on one core: f, and r for each row, through two batch sizes."""
    small, large = (training.batch, 2 * training.batch) if quick else (32, 512)
    times = []
    for batch in (small, large):
        steps = CHECKED_STEPS if quick else max(4, training.steps * training.batch // (4 * batch))
        each = dataclasses.replace(training, batch=batch, rounds=1 if quick else 3)
        ask(alone, "make_way", way="fast", training=dataclasses.asdict(each), steps=steps)
        ask(alone, "run")
        times.append(statistics.median(ask(alone, "run") for _ in range(each.rounds)) / steps)
    per_row = max((times[1] - times[0]) / (large - small), 1e-12)
    return max(times[0] - per_row * small, 0.0), per_row


def model_row(training: Training, of_step: tuple[float, float], name: str, n_ranks: int) -> dict[str, Any]:
    """What the model says of so many ranks on an interconnect."""
    wire = INTERCONNECTS[name]
    seconds = all_reduce_seconds(gradient_bytes(training), n_ranks, wire.latency, wire.bandwidth)
    batch = rows_needed(*of_step, seconds, n_ranks)
    return {
        "network": training.name.partition(" ")[0],
        "interconnect": name,
        "ranks": n_ranks,
        "all-reduce (ms)": 1e3 * seconds,
        "global batch for 80%": math.ceil(batch),
        "rows a rank": math.ceil(batch / n_ranks),
    }


def notes_on(
    rows: Sequence[Mapping[str, Any]],
    latency: float,
    bandwidth: float,
    laws: Mapping[str, tuple[float, float]],
    model: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sentences that answer the question."""
    notes = []
    for way in WAYS:
        wins = [row["µs a step"] for row in rows if row[f"speed-up of ranks, {way}"] > 1]
        notes.append(f"Two ranks win, {way}, on: {'; '.join(wins) or 'none'}.")
    needed = {
        (network, name): ", ".join(
            f"{row['global batch for 80%']:,} on {row['ranks']:,} ranks" for row in each
        )
        for (network, name), each in itertools.groupby(
            model, key=lambda row: (row["network"], row["interconnect"])
        )
    }
    apart = [row["latency + bytes ÷ bandwidth"] / row["all-reduce"] for row in rows]
    notes += [
        (
            f"Fitted to all-reduces by themselves: latency {1e6 * latency:.1f} µs, bandwidth "
            f"{bandwidth / 1e9:.1f} GB/s; the model is {min(apart):.0%} to {max(apart):.0%} of an all-reduce "
            "in training, which waits for the slower rank too."
        ),
        (
            "Layer by layer ÷ at once: the way back with each layer's gradient under way while the rest is "
            "computed, in units of one message at its end; below 1 it would pay."
        ),
        *(
            f"One core, {name}: {1e6 * fixed:,.0f} µs + {1e6 * per_row:.2f} µs a row."
            for name, (fixed, per_row) in laws.items()
        ),
        *(
            f"A model, not measured: {network} over {name} is {EFFICIENCY:.0%} efficient from global batches "
            f"of {batches} on."
            for (network, name), batches in needed.items()
        ),
        *(f"{name}: {wire.source}." for name, wire in INTERCONNECTS.items()),
    ]
    return notes


def draw(result: Result, figure: Any) -> None:
    """How much faster two ranks are, row by row; and the model's global batch against the ranks."""
    left, right = figure.subplots(1, 2)
    names = result.column("µs a step")
    for i, way in enumerate(WAYS):
        at = [row + 0.4 * i - 0.2 for row in range(len(names))]
        left.barh(at, result.column(f"speed-up of ranks, {way}"), 0.4, label=way)
    left.axvline(1.0, color="black", linewidth=0.8)
    left.set_yticks(range(len(names)), [name.replace(", batch", "\nbatch") for name in names], fontsize=7)
    left.invert_yaxis()
    left.set(xlabel=f"time of {ONE} ÷ time of {TWO}")
    left.legend(fontsize=7)
    model = result.curves["model, not measured"]
    for i, network in enumerate(dict.fromkeys(row["network"] for row in model)):
        for k, name in enumerate(INTERCONNECTS):
            chosen = [row for row in model if (row["network"], row["interconnect"]) == (network, name)]
            right.loglog(
                [row["ranks"] for row in chosen],
                [row["global batch for 80%"] for row in chosen],
                ("-", "--")[i % 2],
                color=f"C{k}",
                label=f"{network}, {name}",
            )
    right.set(xlabel="ranks", ylabel="global batch for 80% efficiency", title="a model, not measured")
    right.grid(alpha=0.3)
    right.legend(fontsize=6)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
