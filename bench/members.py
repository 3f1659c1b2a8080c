"""How long do the steps of many networks at once take, in mlp_xp, one by one, and in other libraries?

float32, in memory, the same rows for all networks. Every library trains in a process of its own, and all take
turns, as in `bench.steps`. Reported is the time of a step and member, and how many times as long others take:
the median over rounds of the ratios within a round, with the least and the most. What exactly each library
does is in `bench/peers/members.py`.

Then a cross-validation of a table (diamonds), each fold of which is left out by a member, is compared with
one fit, and with a fit of each fold alone; and memory with that of one network.
"""

import argparse
import dataclasses
import gc
import importlib.util
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import steps
from bench.harness import measure, results
from bench.harness.real_tables import TABLES
from bench.harness.results import Result
from bench.peers.members import PEERS, n_fits
from bench.peers.step import Training
from bench.steps import US, Workers
from mlp_xp import Loader, Network, fit_table, train

TRAININGS = (
    Training((4, 3, 2, 1), "tanh", False, 1, "sgd", steps=10_000, members=8),
    Training((4, 3, 2, 1), "tanh", False, 1, "sgd", steps=2000, members=128),
    Training((4, 3, 2, 1), "tanh", False, 1, "sgd", steps=1000, members=1024),
    Training((4, 3, 2, 1), "tanh", False, 32, "adam", steps=500, members=128),
    Training((32, 100, 1), "relu", False, 200, "adam", steps=200, members=8),
    Training((32, 100, 1), "relu", False, 200, "adam", steps=100, members=32),
    Training((64, 256, 256, 1), "relu", False, 256, "adam", steps=50, members=8),
    Training((784, 512, 512, 10), "relu", True, 128, "adam", steps=25, members=4),
)
"""The rows of the table."""

FOLDS, TABLE, TARGET, EPOCHS, CV_ROUNDS = 5, "diamonds, log price", "log_price", 60, 3
"""The cross-validation: of two hidden layers of 64 units, Adam, batches of 256, no recipe."""

MEMORY_OF = (64, 256, 256, 1)
"""The network whose memory is measured, eight times."""


def answer(quick: bool, device: str, only: Sequence[str] = ("steps", "folds", "memory")) -> Result:
    """Compare and time all peers that are installed."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: the peers' steps are compared on the CPU only; use 'cpu'.")
    names = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module) is not None]
    rows, notes, curves = [], [], {}
    if "steps" in only:
        with Workers(names, "bench.peers.members") as workers:
            for training in TRAININGS:
                each = toy(training) if quick else training
                steps.compare(each, workers)
                rows.append(table_row(each, steps.time_slices(each, workers)))
            notes += workers.failures
    if "folds" in only:
        curves["folds"], said = cross_validation(quick)
        notes.append(said)
    if "memory" in only:
        curves["memory"], said = memory(quick)
        notes.append(said)
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows or [{"µs a step and member": "not asked for (--only)"}],
        notes=[
            (
                "µs of mlp_xp; behind it the times of others as multiples of it: median (least – most) of "
                "the ratios of each round. mlp_xp one by one: compiled steps of networks without members, "
                "with all cores for each. What fits one by one is timed with a few networks."
            ),
            *notes,
            *(f"{name}: not installed." for name in PEERS if name not in names),
        ],
        curves=curves,
        packages=("scikit-learn", "joblib", "torch", "jax", "jaxlib", "numba", "scipy"),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """--only."""
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=("steps", "folds", "memory"),
        help="of steps, folds, memory, with commas between them",
        metavar="PARTS",
    )


def toy(training: Training) -> Training:
    """The same training with few rows, units and members."""
    return dataclasses.replace(steps.toy(training), members=min(training.members, 8))


def table_row(training: Training, slices: Sequence[dict[str, float]]) -> dict[str, Any]:
    """µs of mlp_xp, and the ratios of the others, by rounds."""

    def per_fit(name: str, seconds: float) -> float:
        return 1e6 * seconds / training.steps / n_fits(name, training)

    rounds = [{name: per_fit(name, seconds) for name, seconds in each.items()} for each in slices]
    row = {"µs a step and member": training.name, US: measure.Median(each[US] for each in rounds)}
    for name in PEERS:
        if name != US:
            known = [each for each in rounds if name in each]
            row[f"{name} ÷"] = measure.Median(each[name] / each[US] for each in known) if known else None
    return row


@measure.compiled_at_once()
def cross_validation(quick: bool) -> tuple[dict[str, Any], str]:
    """Ratios of its time to that of one fit, and both metrics; and a sentence."""
    table = TABLES[TABLE]
    if not table.is_installed:
        return {}, f"cross-validation: {table.package} is not installed (see bench/harness/real_tables.py)."
    frame = table.frame(TABLE)
    if quick:
        frame = frame[:: len(frame) // 400]
    options: dict[str, Any] = {"recipe": "plain", "hidden": (64, 64), "batch_size": 256, "keep": "last"}
    options |= {"epochs": 1 if quick else EPOCHS, "learning_rate": 1e-3, "optimizer": "adam"}

    def timed(**more: Any) -> tuple[float, Any]:
        began = time.perf_counter()
        model = fit_table(frame, TARGET, **options, **more)
        return time.perf_counter() - began, model

    timed(validation=1 / FOLDS)  # what Numba compiles, once
    timed(folds=FOLDS)
    ratios, of_training, single = [], [], []
    for _ in range(1 if quick else CV_ROUNDS):
        one, alone = timed(validation=0.0)
        together, model = timed(folds=FOLDS)
        ratios.append(together / one)
        of_training.append(model.history.seconds / alone.history.seconds)
    for seed in range(FOLDS):
        _, alone = timed(validation=1 / FOLDS, seed=seed)
        single.append(alone.training["metrics"]["rmse"])
    found = model.training["cross_validation"]["rmse"]
    whole, training = measure.Median(ratios), measure.Median(of_training)
    said = (
        f"{FOLDS}-fold cross-validation on {len(frame):,} rows of {TABLE}: {results.show(training)} times as "
        f"long as one fit, with reading and encoding {results.show(whole)}; RMSE {found['mean']:.4f} ± "
        f"{found['deviation']:.4f}, of {FOLDS} fits one by one {np.mean(single):.4f} ± "
        f"{np.std(single, ddof=1):.4f}."
    )
    return {"ratios": ratios, "of training": of_training, "together": found, "one by one": single}, said


@measure.compiled_at_once()
def memory(quick: bool) -> tuple[dict[str, Any], str]:
    """Bytes that a training of eight members and one of a network hold; and a sentence."""
    sizes, k = (MEMORY_OF if not quick else (4, 3, 1)), 8
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2048, sizes[0]), dtype=np.float32)
    y = generator.standard_normal((2048, 1), dtype=np.float32)

    def begun(members: int | None) -> object:
        rows = Loader(x, y, batch_size=256)
        epochs = train(Network(sizes, members=members), rows, optimizer="adam", max_epochs=10**9)
        next(epochs)
        return epochs

    def held(members: int | None) -> int:
        begun(members)  # what is made once; tracing makes compiling several times slower
        gc.collect()
        return measure.allocated_bytes(lambda: begun(members))

    one, many = held(None), held(k)
    said = (
        f"memory of a training of {k} members of {'-'.join(map(str, sizes))}: {many / one:.2f} times one's."
    )
    return {"one": one, "members": many, "k": k}, said


def draw(result: Result, figure: Any) -> None:
    """How many times as long as mlp_xp's members the others take, one group a training."""
    ax = figure.subplots()
    names = [name for name in result.rows[0] if name.endswith("÷")]
    trainings = [str(row["µs a step and member"]) for row in result.rows]
    width = 0.84 / max(1, len(names))
    at = np.arange(len(trainings))
    for i, name in enumerate(names):
        ratios = [row.get(name) or np.nan for row in result.rows]
        ax.bar(at - 0.42 + (i + 0.5) * width, ratios, width, label=name.removesuffix(" ÷"))
    ax.axhline(1.0, color="black", linewidth=0.8)
    ax.set(yscale="log", ylabel="time ÷ that of members")
    ax.set_xticks(at, [name.replace(", ", "\n") for name in trainings], fontsize=7)
    ax.margins(x=0.01)
    ax.grid(axis="y", alpha=0.3)
    if names:
        ax.legend(fontsize=7, ncols=5)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
