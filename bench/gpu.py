"""Does the GPU compute what the CPU does, and how fast are steps and streams on it?

In this order: the diagnosis; the tests that touch a device, with --device cuda; what only a GPU can show
(tests/whole/test_on_a_gpu.py: fused kernels against plain rules, every step reading its own rows, no memory
taken by a step, graphs against single launches bit for bit); the time of a step against PyTorch and JAX;
streaming data of ten times the memory that training may take. Each figure is held against its target.
All share eight minutes; what there is after each part is in gpu-so-far.json of the folder from
which it is run. Without a GPU it says why, and writes that nothing was measured.
"""

import argparse
import importlib.util
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.results import Result
from bench.peers import gpu as gpu_peers
from bench.peers.step import TRAININGS, Training
from bench.steps import TOLERANCE, distance, toy

ROOT = Path(__file__).parents[1]
PARTS = ("suite", "gpu tests", "steps", "streaming")
SECONDS = 480
"""The most that all parts may take together."""

SUITE_SECONDS, PEER_SECONDS = 150, 60
"""The most that one run of tests, and one library's seven trainings, may take of it."""

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """--parts."""
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=list(PARTS),
        help=f"only these, with commas between them, of {', '.join(PARTS)}",
        metavar="NAMES",
    )


def answer(quick: bool, device: str, parts: Sequence[str] = PARTS) -> Result:
    """Run the parts one after the other; what fails is a note, and the rest goes on."""
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ValueError(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}.")
    device = "cuda:0" if device in ("cpu", "cuda") else device
    print(diagnose(int(device.partition(":")[2])), flush=True)
    end = time.monotonic() + SECONDS
    rows: list[dict[str, Any]] = []
    notes: list[str] = []

    def test(what: str, *arguments: str) -> None:
        seconds = min(SUITE_SECONDS, end - time.monotonic())
        notes.append(run_tests(what, arguments, device, seconds))

    def steps() -> None:
        trainings = [toy(each) if quick else each for each in TRAININGS]
        found, more = time_steps(trainings, end)
        rows.extend(found)
        notes.extend(more)

    work: dict[str, Callable[[], object]] = {
        "suite": lambda: test("tests that touch a device", "--on-device", "--ignore", GPU_TESTS),
        "gpu tests": lambda: test("what only a GPU shows", GPU_TESTS),
        "steps": steps,
        "streaming": lambda: notes.extend(stream(device, quick=quick)),
    }
    for name in (each for each in PARTS if each in parts):
        if time.monotonic() >= end:
            notes.append(f"{name}: left out, since {SECONDS} s are over.")
        else:
            try:
                work[name]()
            except Exception as error:  # the other parts may work
                notes.append(f"{name}: {type(error).__name__}: {error}")
        print(f"{name}: done {end - time.monotonic():.0f} s before the end", flush=True)
        SO_FAR.write_text(json.dumps({"rows": rows, "notes": notes}, indent=1, ensure_ascii=False) + "\n")
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows or [{"part": name} for name in parts],
        notes=notes,
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


def run_tests(what: str, arguments: Sequence[str], device: str, seconds: float) -> str:
    """Run pytest on the device, a line a test; its last line, with the names of what failed before it."""
    command = [sys.executable, "-m", "pytest", "-n0", "-v", "-p", "no:cacheprovider", "-rfE", "--tb=line"]
    command += ["--device", device, *arguments]
    began = time.perf_counter()
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
        output, end = run.stdout, f"exit status {run.returncode}"
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        end = f"not through after {seconds:.0f} s"
    lines = [line for line in output.splitlines() if line.strip()]
    failed = [line.split()[0] for line in lines if re.search(r"::.* (FAILED|ERROR)\b", line)]
    last = lines[-1].strip("= ") if lines and end.startswith("exit") else f"{end}, {len(lines)} lines"
    text = "; ".join([*dict.fromkeys(failed[:20]), last])
    found = f"{what}, --device {device}: {text} ({time.perf_counter() - began:.0f} s)"
    print(found, flush=True)
    return found


def ask_peer(name: str, trainings: Sequence[Training], seconds: float = PEER_SECONDS) -> list[dict[str, Any]]:
    """One library's answers for all trainings, from a process of its own."""
    text = "".join(gpu_peers.as_json(each) + "\n" for each in trainings)
    environment = measure.environment() | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "bench.peers.gpu", name]
    try:
        run = subprocess.run(
            command, input=text, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
            timeout=max(1.0, seconds),
        )  # fmt: skip
        output, complaint = run.stdout, (run.stderr.strip().splitlines() or ["no message"])[-1]
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        complaint = f"not through after {seconds:.0f} s"
    answers = [json.loads(line) for line in output.splitlines()]
    return answers + [{"error": complaint}] * (len(trainings) - len(answers))


def time_steps(
    trainings: Sequence[Training], end: float = math.inf
) -> tuple[list[dict[str, Any]], list[str]]:
    """The table of steps, and notes on who is missing or trains otherwise."""
    answers, notes = {}, []
    for name, (_, module) in gpu_peers.PEERS.items():
        if importlib.util.find_spec(module) is None:
            notes.append(f"{name}: not installed.")
            continue
        print(f"steps: {name}", flush=True)
        answers[name] = ask_peer(name, trainings, min(PEER_SECONDS, end - time.monotonic()))
        errors = {each["error"] for each in answers[name] if "error" in each}
        notes += [f"{name}: {error}" for error in sorted(errors)]
    rows = []
    for number, training in enumerate(trainings):
        found = {name: each[number].get("microseconds") for name, each in answers.items()}
        idle = answers["mlp_xp"][number].get("idle")
        bandwidth = answers[BOUND][number].get("bandwidth")
        rows.append(table_row(training, found, bandwidth) | {"GPU idle": idle})
        notes += verdicts(training, rows[-1])
        ours = answers["mlp_xp"][number].get("movement")
        for name, each in answers.items():
            theirs = each[number].get("movement")
            if ours and theirs and not distance(ours, theirs) <= TOLERANCE:
                notes.append(
                    f"{training.name}: {name} trains otherwise ({distance(ours, theirs):.2%} apart)."
                )
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


def stream(device: str, *, quick: bool) -> list[str]:
    """Throughput of rows from the host, where training may take a tenth of their memory on the device."""
    from mlp_xp.machine.array_api import backend as find_backend
    from mlp_xp.machine.cuda import feeding, memory

    index = int(device.partition(":")[2])
    backend, n_features = find_backend(device, "float32"), 1024
    n_rows = 2**12 if quick else 2**20  # 4 GiB
    x = np.ones((n_rows, n_features), dtype=np.float32)
    x[:, 0] = np.linspace(-1, 1, n_rows, dtype=np.float32)
    y = x[:, :1].copy()
    notes = []
    few = slice(0, n_rows // 16)
    bandwidth = feeding.pinned_bandwidth(index)
    for name, sizes, batch in (
        ("compute-bound", (n_features, 2048, 2048, 1), 1024),
        ("copy-bound", (n_features, 16, 1), 4096),
    ):
        asarray = backend.asarray
        resident = rows_a_second(device, sizes, batch, asarray(x[few]), asarray(y[few]))
        memory.limit(str(max(3 * 2**27, x.nbytes // 10)), index)
        try:
            streamed = {
                order: rows_a_second(device, sizes, batch, x, y, order=order)
                for order in ("shuffled", "blocks")
            }
        finally:
            memory.limit("100%", index)
        for order, speed in streamed.items():
            share = speed * n_features * 4 / bandwidth
            computes = name == "compute-bound"
            verdict = reached(speed / resident, 0.95) if computes else reached(share, 0.85)
            notes.append(
                f"streaming, {name} ({order}): {results.show(speed)} rows/s, {speed / resident:.0%} of what "
                f"rows on the device give, {share:.0%} of the pinned copy bandwidth "
                f"({bandwidth / 1e9:.1f} GB/s); target {'95%' if computes else '85%'}: {verdict}."
            )
            print(notes[-1], flush=True)
    return notes


def rows_a_second(
    device: str, sizes: tuple[int, ...], batch: int, x: Any, y: Any, order: str = "shuffled"
) -> float:
    """Rows a second of training, the better of two epochs after a first one."""
    from mlp_xp import Loader, Network, train

    network = Network(sizes, device=device)
    loader = Loader(x, y, batch_size=min(batch, x.shape[0]), order=order)
    epochs = train(network, loader, learning_rate=1e-4, max_epochs=4)
    next(epochs)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        next(epochs)
        seconds.append(time.perf_counter() - began)
    epochs.close()
    return float(x.shape[0] / statistics.median(seconds))


def draw(result: Result, figure: Any) -> None:
    """Each library's time in units of mlp_xp's."""
    ax = figure.subplots()
    if "µs a step" not in result.rows[0]:
        return
    names = [name for name in gpu_peers.PEERS if any(result.column(name))]
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


def main() -> int:
    """Measure, or say and write that nothing was measured."""
    try:
        return results.main(sys.modules[__name__])
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
