"""Does the GPU compute what the CPU does, and how fast are steps and streams on it?

In this order: the diagnosis; the tests that touch a device, with --device cuda; what only a GPU can show
(tests/whole/test_on_a_gpu.py: fused kernels against plain rules, every step reading its own rows, no memory
taken by a step, graphs against single launches bit for bit); the time of a step against PyTorch and JAX;
streaming data of ten times the memory that training may take. Each figure is held against its target.
All share eight minutes (--seconds), of which every part has its share and what those before it have left.
What there is, is in gpu-so-far.json of the folder from which it is run, at all times. Without a GPU it says
why, and writes that nothing was measured.
"""

import argparse
import importlib.util
import itertools
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from bench.harness import measure, results
from bench.harness.child import Child
from bench.harness.results import Result
from bench.peers import gpu as gpu_peers
from bench.peers.step import TRAININGS, Training
from bench.steps import TOLERANCE, distance, toy

SHARES = {"suite": 0.35, "gpu tests": 0.15, "steps": 0.35, "streaming": 0.15}
"""The parts, and of the time that all may take together how much is kept for each."""

PARTS = tuple(SHARES)
SECONDS = 480
"""The most that all parts may take together, unless --seconds says another number."""

REST = 0.04
"""The part of it that is left for writing and drawing."""

NAMED = 50
"""Failed tests that are named."""

GPU_TESTS = "tests/whole/test_on_a_gpu.py"
SO_FAR = Path("gpu-so-far.json")

TARGETS = (
    "every step faster than PyTorch eager",
    "networks of up to 256 units: at least 4 × as fast as PyTorch eager",
    "wider ones: within 5% of the best peer; their matrix products, update and memory moved beside the time",
    "2048 units at batch 1024: matrix products at least 85% of the time",
    "streaming that computes long: at least 95% of the rows a second of rows on the device",
    "streaming that copies long: at least 85% of the pinned copy bandwidth",
)

SMALL = 256
"""Units of a layer, up to which a step is mostly launches."""

BOUND = "matrix products"
LEAST = "products, update and memory"
LARGEST = TRAININGS[-1].name
"""The one training in which the products alone can be 85% of the time."""

OURS = ("mlp_xp", "mlp_xp, no graph", "mlp_xp, plain")


class NotMeasuredError(Exception):
    """There is no GPU that works; the message says why."""


class CutOffError(BaseException):
    """Somebody ends this; no part takes it for an error of its own.

    Parameters
    ----------
    number : int
        The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Found:
    """What there is so far; each change is written at once.

    Parameters
    ----------
    trainings : sequence of Training
        The rows of the table of steps.

    Attributes
    ----------
    answers : dict of str to list of dict
        What each library answered, one for each training, in their order.
    notes : list of str
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """A sentence that belongs under the table; it is printed now."""
        print(text, flush=True)
        self.notes.append(text)
        self.keep()

    def keep(self, under_way: str = "") -> None:
        """Write all; a file that is there is whole at any time."""
        rows, notes = table(self.trainings, self.answers)
        document = {"rows": rows, "notes": self.notes + notes, "under way": under_way}
        half = SO_FAR.with_suffix(".part")
        half.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        half.replace(SO_FAR)


def add_options(parser: argparse.ArgumentParser) -> None:
    """--parts and --seconds."""
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"only these, with commas between them, of {', '.join(PARTS)}",
        metavar="NAMES",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"the most that all parts may take together (default: {SECONDS})",
        metavar="S",
    )


def answer(quick: bool, device: str, parts: Sequence[str] = PARTS, seconds: float = SECONDS) -> Result:
    """Run the parts one after the other; what fails is a note, and the rest goes on."""
    began = time.monotonic()
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ValueError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}.")
    device = "cuda:0" if device in ("cpu", "cuda") else device
    found = Found([toy(each) if quick else each for each in TRAININGS])
    found.keep()
    print(diagnose(int(device.partition(":")[2])), flush=True)
    work: dict[str, Callable[[float], None]] = {
        "suite": lambda end: run_tests(
            found, "tests that touch a device", ["--on-device", "--backend=cupy", f"--ignore={GPU_TESTS}"],
            device, end,
        ),
        "gpu tests": lambda end: run_tests(found, "what only a GPU shows", [GPU_TESTS], device, end),
        "steps": lambda end: time_steps(found, end),
        "streaming": lambda end: stream(found, device, quick=quick, end=end),
    }  # fmt: skip
    chosen = [name for name in PARTS if name in parts]
    whole = sum(SHARES[name] for name in chosen)
    for number, name in enumerate(chosen, 1):
        end = began + (1 - REST) * seconds * (1 - sum(SHARES[each] for each in chosen[number:]) / whole)
        if time.monotonic() >= end:
            found.note(f"{name}: left out, since its share of {seconds:g} s is over.")
            continue
        try:
            work[name](end)
        except Exception as error:  # the other parts may work
            found.note(f"{name}: {type(error).__name__}: {error}")
    rows, notes = table(found.trainings, found.answers)
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows or [{"part": name} for name in chosen],
        notes=found.notes + notes,
        device=device,
        packages=("cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jaxlib"),
    )


def diagnose(index: int) -> str:
    """The GPUs that there are.

    Raises
    ------
    NotMeasuredError
        The one that was asked for cannot be used.
    """
    from mlp_xp.machine import cuda

    problem = cuda.problem(index)
    if problem is not None:
        raise NotMeasuredError(str(problem))
    return "\n".join(f"cuda:{gpu.index}: {gpu.name}, {gpu.memory / 2**30:.0f} GiB" for gpu in cuda.devices())


def run_tests(found: Found, what: str, arguments: Sequence[str], device: str, end: float) -> None:
    """Run pytest on the device; a note for each of the first tests that fail, and one at the end."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "no:cacheprovider", "-rfE", "--tb=line"]
    child = Child([*command, "--device", device, *arguments], end - began)
    n_passed, failed, last = 0, set[str](), ""
    for line in child:
        last = line.strip("= ") or last
        n_passed += " PASSED" in line
        test = re.match(r"(\S+::.*?) (?:FAILED|ERROR)\b|ERROR ([^\s:]+)(?: - |$)", line)
        name = test and (test[1] or test[2])
        if name and name not in failed:
            failed.add(name)
            if len(failed) <= NAMED:
                found.note(f"{what}: failed: {name}")
        found.keep(f"{what}: {n_passed} passed, {len(failed)} failed")
    if child.is_late or not re.search(r" in [\d.]+ ?s", last):
        last = f"{child.end}; {n_passed} passed before, {len(failed)} failed"
    found.note(f"{what}, --device {device}: {last} ({time.monotonic() - began:.0f} s)")


def ask_peer(found: Found, name: str, seconds: float) -> None:
    """One library's answers for all trainings, from a process of its own.

    The widest comes first: it is judged by every library's time, and what time cuts off comes last.
    """
    last = len(found.trainings) - 1
    text = "".join(gpu_peers.as_json(each) + "\n" for each in reversed(found.trainings))
    environment = measure.environment() | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    child = Child([sys.executable, "-m", "bench.peers.gpu", name], seconds, text, environment)
    answers: list[dict[str, Any]] = [{} for _ in found.trainings]
    found.answers[name] = answers
    for number, line in enumerate(child):
        answers[last - number] = json.loads(line)
        found.keep(f"steps: {name}")
    for each in answers:
        if not each:
            each["error"] = child.end
    times = [results.show(each.get("microseconds")) for each in answers]
    print(f"steps, {name}: {', '.join(times)} µs", flush=True)
    for error in sorted({each["error"] for each in answers if "error" in each}):
        found.note(f"{name}: {error}")


def time_steps(found: Found, end: float) -> None:
    """The answers of every library that is here; each has its part of the time, and what is left before."""
    present = []
    for name, (_, module) in gpu_peers.PEERS.items():
        if importlib.util.find_spec(module) is None:
            found.note(f"{name}: not installed.")
        else:
            present.append(name)
    for number, name in enumerate(present):
        ask_peer(found, name, (end - time.monotonic()) / (len(present) - number))


def table(
    trainings: Sequence[Training], answers: dict[str, list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The table of steps, and notes on what is reached and who trains otherwise; empty without answers."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for number, training in enumerate(trainings if answers else ()):
        of = {name: answers[name][number] if name in answers else {} for name in gpu_peers.PEERS}
        microseconds = {name: each.get("microseconds") for name, each in of.items()}
        bounds = table_row(training, microseconds, of[BOUND].get("bandwidth"))
        rows.append(bounds | {"GPU idle": of["mlp_xp"].get("idle")})
        notes += verdicts(training, rows[-1])
        ours = of["mlp_xp"].get("movement")
        for name, each in of.items():
            theirs = each.get("movement")
            if ours and theirs and not distance(ours, theirs) <= TOLERANCE:
                apart = f"{distance(ours, theirs):.2%} apart"
                notes.append(f"{training.name}: {name} trains otherwise ({apart}).")
    return rows, notes


def bytes_moved(training: Training) -> int:
    """What a step must read and write beside its products: x's copy, outputs, loss, δ, the rule."""
    n_in, *hidden, n_out = training.sizes
    n_parameters = sum((n + 1) * m for n, m in itertools.pairwise(training.sizes))
    vectors = {"adam": 7, "sgd": 3}[training.optimizer]  # p and two means read and written, g read
    return 4 * (training.batch * (2 * n_in + 5 * sum(hidden) + 3 * n_out) + vectors * n_parameters)


def table_row(
    training: Training, microseconds: dict[str, float | None], bandwidth: float | None = None
) -> dict[str, Any]:
    """µs of each, mlp_xp's ratios, and what arithmetic bounds them by."""
    ours, bare = microseconds.get("mlp_xp"), microseconds.get(BOUND)
    others = [t for name, t in microseconds.items() if t is not None and name not in (*OURS, BOUND)]
    eager, best = microseconds.get("torch eager"), min(others, default=None)
    least = bare + 1e6 * bytes_moved(training) / bandwidth if bare and bandwidth else None
    return {
        "µs a step": training.name,
        **{name: microseconds.get(name) for name in gpu_peers.PEERS},
        "products ÷ mlp_xp": bare / ours if ours and bare else None,
        LEAST: least,
        "torch eager ÷ mlp_xp": eager / ours if ours and eager else None,
        "best peer ÷ mlp_xp": best / ours if ours and best else None,
    }


def verdicts(training: Training, row: dict[str, Any]) -> list[str]:
    """Which of the targets for steps are reached, or cannot be judged."""
    if max(training.sizes[1:]) <= SMALL:
        needed = {"torch eager ÷ mlp_xp": 4.0}
    else:
        needed = {"torch eager ÷ mlp_xp": 1.0, "best peer ÷ mlp_xp": 0.95}
    if training.name == LARGEST:
        needed["products ÷ mlp_xp"] = 0.85
    notes = [
        f"{training.name}: {name} {results.show(row[name])}, target {least:g}: {reached(row[name], least)}."
        for name, least in needed.items()
    ]
    if row.get(LEAST) is not None:
        notes.append(
            f"{training.name}: products, update and memory moved take {results.show(row[LEAST])} µs alone, "
            f"{row[LEAST] / row['mlp_xp']:.0%} of the time."
        )
    return notes


def reached(found: float | None, least: float) -> str:
    """Whether a figure is at its target."""
    return "not measured" if found is None else "reached" if found >= least else "NOT REACHED"


def stream(found: Found, device: str, *, quick: bool, end: float) -> None:
    """Throughput of rows from the host, where training may take a tenth of their memory on the device."""
    command = [sys.executable, "-m", "bench.harness.gpu_streams", device, *(["--quick"] if quick else [])]
    child = Child(command, end - time.monotonic())
    for line in child:
        each = json.loads(line)
        name, speed, resident, share = (each[key] for key in ("name", "speed", "resident", "share"))
        verdict = reached(resident, 0.95) if name == "compute-bound" else reached(share, 0.85)
        found.note(
            f"streaming, {name} ({each['order']}): {results.show(speed)} rows/s, {resident:.0%} of what "
            f"rows on the device give, {share:.0%} of the pinned copy bandwidth "
            f"({each['bandwidth'] / 1e9:.1f} GB/s); target {'95%' if name == 'compute-bound' else '85%'}: "
            f"{verdict}."
        )
    if child.end:
        found.note(f"streaming: {child.end}.")


def draw(result: Result, figure: Any) -> None:
    """Each library's time in units of mlp_xp's."""
    ax = figure.subplots()
    is_of_steps = "µs a step" in result.rows[0]
    names = [name for name in gpu_peers.PEERS if is_of_steps and any(result.column(name))]
    if not names:
        return
    at, width = np.arange(len(result.rows)), 0.84 / len(names)
    for i, name in enumerate(names):
        ratios = [
            row[name] / row["mlp_xp"] if row[name] and row["mlp_xp"] else math.nan for row in result.rows
        ]
        ax.bar(at - 0.42 + (i + 0.5) * width, ratios, width, label=name)
    ax.axhline(1.0, color="black", linewidth=0.8)
    ax.set(yscale="log", ylabel="time of a step ÷ mlp_xp's")
    labels = [name.replace(", batch", "\nbatch") for name in result.column("µs a step")]
    ax.set_xticks(at, labels, fontsize=7)
    ax.grid(axis="y", alpha=0.3)
    ax.legend(fontsize=7, ncols=4)


def write_not_measured(reason: NotMeasuredError, folder: Path) -> Path:
    """Write to gpu.json that nothing was measured, and why; measurements have files of their own."""
    document = {
        "question": str(__doc__).splitlines()[0],
        "measured": None,
        "why": str(reason),
        "parts": list(PARTS),
        "targets": dict.fromkeys(TARGETS, "not measured"),
        "versions": measure.versions(),
    }
    path = folder / "gpu.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def cut_off(number: int, _: FrameType | None) -> NoReturn:
    """What a signal does: processes that were started end, too."""
    for each in (signal.SIGINT, signal.SIGTERM):  # a terminal's may come twice
        signal.signal(each, signal.SIG_IGN)
    raise CutOffError(number)


def main() -> int:
    """Measure, or say and write that nothing was measured."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, cut_off)
    try:
        return results.main(sys.modules[__name__])
    except CutOffError as signalled:
        print(f"cut off; what there is: {SO_FAR.resolve()}", file=sys.stderr)
        return 128 + signalled.number
    except NotMeasuredError as reason:
        parser = argparse.ArgumentParser()
        results.add_shared_options(parser)
        options, _ = parser.parse_known_args()
        print(f"{reason}\n\nNot measured.")
        folder = options.out or (None if options.quick else results.FOLDER)
        if folder is not None:
            print(f"written: {write_not_measured(reason, folder)}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
