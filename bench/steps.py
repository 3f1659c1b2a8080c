"""How long is one training step in mlp_xp, in other libraries, and in its bare matrix products?

float32, in memory, rows of their own for each step. Every library trains in a process of its own (the
threads of one would spin in the way of another's), and all take turns: a slice of the same steps each,
round after round. Reported is the median over the rounds of the slice's time divided by its steps. Before a
training is timed, a few steps from the same weights are compared: all libraries must have moved
their weights alike. What exactly each of them does is in `bench/peers/step.py`.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers.step import PEERS, TRAININGS, Training

US, FAST, PRODUCTS = "mlp_xp", "mlp_xp fast", "matrix products"
BOUNDS = (PRODUCTS, "update rule", "JAX scan")
"""What does less than train on rows that come step by step: not among the peers of the last column."""

CHECKED_STEPS = 4
TOLERANCE = 0.02
"""Largest distance of two libraries' weights after the checked steps, in units of the way they went: Adam's
first steps take the sign of each gradient, also of those that are but rounding."""

PAUSE = 0.1
"""Seconds between slices: the threads of the process before have gone to sleep."""


class PeerError(RuntimeError):
    """A library's process has ended before its time."""


@dataclasses.dataclass
class Worker:
    """A process in which one library trains."""

    name: str
    process: "subprocess.Popen[str]"
    complaints: IO[str]

    def tell(self, order: str, **details: Any) -> None:
        """Give an order."""
        with self._life():
            self.process.stdin.write(json.dumps({"order": order, **details}) + "\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the oldest order."""
        with self._life():
            return json.loads(self.process.stdout.readline())

    @contextlib.contextmanager
    def _life(self) -> Iterator[None]:
        """Turn the signs of a dead process into what it said last."""
        try:
            yield
        except (OSError, json.JSONDecodeError):
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.wait()
            self.complaints.seek(0)
            lines = [line.strip() for line in self.complaints if line.strip()] or ["no message"]
            errors = [line for line in lines if "Error" in line]
            raise PeerError(f"{self.name} failed: {(errors or lines)[-1]}") from None


@contextlib.contextmanager
def start_worker(
    name: str, command: Sequence[str] = (), settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Worker]:
    """Start a process, by default that of one of `PEERS`, with settings in its environment.

    It ends with its input.
    """
    # A file, not a pipe: nobody reads what a library has to say, as long as it works.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            command or [sys.executable, "-m", "bench.peers.step", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=measure.environment() | settings,
        ) as process,
    ):
        yield Worker(name, process, complaints)


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two peers' weights, in units of the way that the first peer's went; from their projections."""
    way, apart = np.asarray(one), np.asarray(one) - np.asarray(other)
    return float(np.linalg.norm(apart) / np.linalg.norm(way))


class Workers:
    """All peers at once; one that fails is left out from then on.

    Parameters
    ----------
    names : sequence of str
        Of the module's `PEERS`, mlp_xp among them.
    module : str
        That of the peers.

    Attributes
    ----------
    failures : list of str
        Who failed and how.

    Raises
    ------
    PeerError
        mlp_xp itself has failed.
    """

    def __init__(self, names: Sequence[str], module: str = "bench.peers.step") -> None:
        self.failures: list[str] = []
        with contextlib.ExitStack() as stack:
            self.alive = {
                name: stack.enter_context(start_worker(name, [sys.executable, "-m", module, name]))
                for name in names
            }
            self._running = stack.pop_all()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def ask(self, order: str, pause: float = 0.0, **details: Any) -> dict[str, Any]:
        """Give an order to one after the other, with a pause before each; the answers of those that live."""
        answers = {}
        for name, worker in list(self.alive.items()):
            time.sleep(pause)
            with self._survive(name):
                worker.tell(order, **details)
                answers[name] = worker.answer()
        return answers

    def ask_together(self, order: str, **details: Any) -> None:
        """Give an order to all at once: what is not timed takes less time so."""
        for name, worker in list(self.alive.items()):
            with self._survive(name):
                worker.tell(order, **details)
        for name, worker in list(self.alive.items()):
            with self._survive(name):
                worker.answer()

    @contextlib.contextmanager
    def _survive(self, name: str) -> Iterator[None]:
        """Go on without a peer that fails, unless it is mlp_xp."""
        try:
            yield
        except PeerError as failure:
            del self.alive[name]
            if name == US:
                raise
            self.failures.append(str(failure))


def compare(training: Training, workers: Workers) -> float:
    """Make a few steps with every peer from the same weights; the largest distance from ours.

    Raises
    ------
    RuntimeError
        A peer has trained differently.
    """
    workers.ask_together("make", training=dataclasses.asdict(training), steps=CHECKED_STEPS)
    workers.ask_together("run")
    moved = workers.ask("movement")
    ours = moved.pop(US)
    apart = {name: distance(ours, theirs) for name, theirs in moved.items() if theirs}
    for name, far in apart.items():
        if not far <= TOLERANCE:
            raise RuntimeError(
                f"{training.name}: after {CHECKED_STEPS} steps the weights of {name} are off mlp_xp's "
                f"by {far:.2%} of the way they went; they do not train alike."
            )
    return max(apart.values(), default=0.0)


def time_steps(training: Training, workers: Workers) -> dict[str, float]:
    """Median µs a step of each peer; `compare` has gone before."""
    slices = time_slices(training, workers)
    return {
        name: 1e6 * measure.Median(each[name] for each in slices) / training.steps for name in workers.alive
    }


def time_slices(training: Training, workers: Workers) -> list[dict[str, float]]:
    """Seconds of each peer's slices, round after round; `compare` has gone before."""
    if training.steps != CHECKED_STEPS:
        workers.ask_together("make", training=dataclasses.asdict(training), steps=training.steps)
        workers.ask_together("run")  # compiles, makes buffers
    return [workers.ask("run", pause=PAUSE) for _ in range(training.rounds)]


def toy(training: Training) -> Training:
    """The same training with few rows and units, and no more steps than are checked."""
    sizes = tuple(min(n, 12) for n in training.sizes)
    batch = min(training.batch, 8)
    return dataclasses.replace(training, sizes=sizes, batch=batch, steps=CHECKED_STEPS, rounds=1)


def add_options(parser: argparse.ArgumentParser) -> None:
    """--compile and --peers."""
    parser.add_argument(
        "--compile",
        dest="compiled",
        action="store_true",
        help="torch.compile too: needs a C++ compiler and a minute a network",
    )
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=list(PEERS),
        help=f"only these, with commas between them, of {', '.join(PEERS)} (mlp_xp is always there)",
        metavar="NAMES",
    )


def answer(
    quick: bool,
    device: str,
    compiled: bool = False,
    peers: Sequence[str] = tuple(PEERS),
    trainings: Sequence[Training] = TRAININGS,
) -> Result:
    """Compare and time all peers that are installed."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: the peers' steps are compared on the CPU only; use 'cpu'.")
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise ValueError(f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}.")
    absent = {}
    for name, peer in PEERS.items():
        if name == "torch.compile" and not compiled:
            absent[name] = "not asked for (--compile)"
        elif importlib.util.find_spec(peer.module) is None:
            absent[name] = "not installed"
        elif name not in peers and name != US:
            absent[name] = "not asked for (--peers)"
    rows, far = [], 0.0
    with Workers([name for name in PEERS if name not in absent]) as workers:
        for training in trainings:
            each = toy(training) if quick else training
            far = max(far, compare(each, workers))
            microseconds = time_steps(each, workers)
            rows.append(table_row(each, microseconds))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                "µs a step: the median slice divided by its steps. mlp_xp is the light core, mlp_xp fast the "
                f"same with the extra `fast`. Best peer: not counting {' and '.join(BOUNDS)}, which do less "
                "(see bench/peers/step.py)."
            ),
            (
                "Where a step's time goes: matrix products with as many threads as the BLAS has, the update "
                "rule (one core, one pass over weights, gradient and the optimizer's vectors); the rest is "
                "activations, loss, biases and handing over."
            ),
            (
                f"All libraries train alike: after {CHECKED_STEPS} steps their weights are at most {far:.2%} "
                "of the way they went from mlp_xp's."
            ),
            *(f"{name}: {why}." for name, why in absent.items()),
            *workers.failures,
        ],
        packages=("scikit-learn", "scipy", "torch", "jax", "jaxlib", "thinc", "numba"),
    )


def table_row(training: Training, microseconds: Mapping[str, float]) -> dict[str, Any]:
    """µs of each peer, and mlp_xp's ratios, light and fast, to the bare products and to the best peer."""
    bare = microseconds.get(PRODUCTS)
    others = [value for name, value in microseconds.items() if name not in (US, FAST, *BOUNDS)]
    row = {"µs a step": training.name, **{name: microseconds.get(name) for name in PEERS}}
    for name in (US, FAST):
        ours = microseconds.get(name)
        row[f"{name} ÷ products"] = ours / bare if ours and bare else None
        row[f"best peer ÷ {name}"] = min(others) / ours if ours and others else None
    return row


def draw(result: Result, figure: Any) -> None:
    """Each peer's time in units of the matrix products, one group a training."""
    ax = figure.subplots()
    names = result.column("µs a step")
    peers = [name for name in PEERS if name != PRODUCTS and any(result.column(name))]
    colors = {name: f"C{i}" for i, name in enumerate(PEERS)}
    at, width = np.arange(len(names)), 0.84 / len(peers)
    for i, name in enumerate(peers):
        ratios = [
            row[name] / row[PRODUCTS] if row[name] and row[PRODUCTS] else math.nan for row in result.rows
        ]
        ax.bar(at - 0.42 + (i + 0.5) * width, ratios, width, label=name, color=colors[name])
    ax.axhline(1.0, color="black", linewidth=0.8)
    ax.set(yscale="log", ylabel="time of a step ÷ its matrix products")
    labels = [name.replace(", batch", "\nbatch").replace(" ", "\n", 1) for name in names]
    ax.set_xticks(at, labels, fontsize=7)
    ax.margins(x=0.01)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=7, ncols=4)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
