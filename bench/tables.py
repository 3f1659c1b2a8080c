"""How good is the model that `mlp-xp train` gives with no option, beside gradient-boosted trees?

Each table is split a few times into rows to train on and a fifth to measure on, which nobody looks at before.
Ours is the command as it is installed, in a process of its own, from one CSV file to a model file, which then
predicts the other file. `HistGradientBoosting` has its defaults; texts are categories for it, and dates days
and where they are in day, week and year.
"""

import argparse
import csv
import dataclasses
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import results
from bench.harness.real_tables import TABLES, RealTable
from bench.harness.results import Result

HELD_OUT = 0.2
SPLITS, MOST_SPLITS, ROWS_MEASURED = 3, 20, 1000
"""Splits of a table; more of a small one, until so many held-out rows are measured in all."""

TOY_TABLES, TOY_SPLITS, TOY_OPTIONS = ("diabetes", "wine"), 1, ("--epochs", "2")
OURS, TREES = "mlp-xp train", "HistGradientBoosting"

Prediction = np.ndarray
"""Numbers (n_rows,), or probabilities (n_rows, n_classes) with the classes in order."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which tables, and who."""
    parser.add_argument("--only", default="", help="tables, with semicolons (default: all)", metavar="NAMES")
    parser.add_argument("--recipe", default="tables", help="of mlp-xp train (default: tables)")
    parser.add_argument("--peers", default=TREES, help=f"with commas: {', '.join(PEERS)} (default: {TREES})")
    parser.add_argument(
        "--splits", type=int, default=0, help="of each table (default: 3, more of small ones)"
    )


def answer(
    quick: bool, device: str, only: str = "", recipe: str = "tables", peers: str = TREES, splits: int = 0
) -> Result:
    """Measure all on each table."""
    wanted = [name for name in only.split(";") if name] or list(TOY_TABLES if quick else TABLES)
    here = [name for name in wanted if TABLES[name].is_installed]
    if not here:
        raise ValueError("none of the packages with tables is installed.")
    methods: dict[str, Callable[..., tuple[Prediction, float]]] = {
        OURS: lambda *given: ours(*given, device=device, recipe=recipe, more=TOY_OPTIONS if quick else ())
    }
    methods |= {name: PEERS[name] for name in peers.split(",") if name}
    rows = []
    for name in here:
        table = TABLES[name]
        frame = table.frame(name)
        n_splits = splits or (TOY_SPLITS if quick else splits_of(len(frame)))
        found: dict[str, list[Measured]] = {method: [] for method in methods}
        for seed in range(n_splits):
            for method in methods:
                found[method].append(measured(frame, table, seed, methods[method]))
        of_table = lines(name, table, frame, found)
        print(json.dumps(of_table), file=sys.stderr, flush=True)
        rows += of_table
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[*summary(rows), *notes(wanted, here)],
        device=device,
        packages=("scikit-learn", "lightgbm", "pytabkit", "pandas"),
    )


def splits_of(n_rows: int) -> int:
    """How often a table is split."""
    return min(MOST_SPLITS, max(SPLITS, math.ceil(ROWS_MEASURED / (HELD_OUT * n_rows))))


@dataclasses.dataclass(frozen=True)
class Measured:
    """One method on one split: errors by metric, and CPU seconds."""

    errors: Mapping[str, float]
    seconds: float


def measured(frame: Any, table: RealTable, seed: int, method: Callable[..., Any]) -> Measured:
    """Split, fit, predict, and compare."""
    training, held_out = split(frame, table, seed)
    truth = held_out[table.target]
    classes = sorted(map(str, frame[table.target].unique())) if table.classes else None
    predicted, seconds = method(training, held_out.drop(columns=table.target), table, classes, seed)
    if classes is None:
        return Measured({"RMSE": float(np.sqrt(np.mean(np.square(predicted - truth))))}, seconds)
    number = {name: at for at, name in enumerate(classes)}
    labels = np.array([number[str(value)] for value in truth])
    likely = np.maximum(predicted[np.arange(len(labels)), labels], 1e-15)
    wrong = float(np.mean(predicted.argmax(axis=1) != labels))
    return Measured({"share wrong": wrong, "log loss": float(-np.log(likely).mean())}, seconds)


def split(frame: Any, table: RealTable, seed: int) -> tuple[Any, Any]:
    """Rows to train on and rows to measure on, drawn at random; of each class its share."""
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(len(frame))
    if table.classes:
        groups = [order[frame[table.target].to_numpy()[order] == one] for one in frame[table.target].unique()]
    else:
        groups = [order]
    chosen = np.concatenate([group[: round(HELD_OUT * len(group))] for group in groups])
    is_held = np.isin(np.arange(len(frame)), chosen)
    return frame[~is_held].reset_index(drop=True), frame[is_held].reset_index(drop=True)


def ours(
    training: Any,
    held_out: Any,
    table: RealTable,
    classes: Sequence[str] | None,
    seed: int,
    *,
    device: str,
    recipe: str,
    more: Sequence[str] = (),
) -> tuple[Prediction, float]:
    """The installed command, from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("training.csv", "held_out.csv", "predictions.csv")]
        training.to_csv(files[0], index=False)
        held_out.to_csv(files[1], index=False)
        model = Path(folder) / "model.safetensors"
        common = ["--quiet", "--device", device]
        task = ["--task", "classification"] if table.classes else []
        before = os.times()
        asked = ["--target", table.target, "--out", model, "--seed", seed, "--recipe", recipe]
        _command(["train", files[0], *asked, *task, *common, *more])
        after = os.times()
        _command(["predict", model, files[1], "--out", files[2], *common])
        with files[2].open(encoding="utf-8", newline="") as file:
            lines_ = list(csv.DictReader(file))
    seconds = sum(after[2:4]) - sum(before[2:4])  # of processes that have ended
    if classes is None:
        return np.array([float(line["prediction"]) for line in lines_]), seconds
    names = [f"probability_{c.removesuffix('.0')}" for c in classes]  # a class 1.0 is called 1
    return np.array([[float(line.get(name, 0)) for name in names] for line in lines_]), seconds


def _command(arguments: Sequence[Any]) -> None:
    command = [str(Path(sys.executable).with_name("mlp-xp")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def trees(
    training: Any, held_out: Any, table: RealTable, classes: Sequence[str] | None, seed: int
) -> tuple[Prediction, float]:
    """HistGradientBoosting with its defaults."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if classes is None else HistGradientBoostingClassifier
    model = kind(categorical_features="from_dtype", random_state=seed)
    return _by_scikit_learns_way(model, training, held_out, table, classes)


def lightgbm(
    training: Any, held_out: Any, table: RealTable, classes: Sequence[str] | None, seed: int
) -> tuple[Prediction, float]:
    """LightGBM with its defaults, on one thread."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMRegressor if classes is None else LGBMClassifier
    return _by_scikit_learns_way(
        kind(random_state=seed, n_jobs=1, verbose=-1), training, held_out, table, classes
    )


def realmlp(
    training: Any, held_out: Any, table: RealTable, classes: Sequence[str] | None, seed: int
) -> tuple[Prediction, float]:
    """RealMLP-TD, by its authors' package, on one thread."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    kind = RealMLP_TD_Regressor if classes is None else RealMLP_TD_Classifier
    return _by_scikit_learns_way(
        kind(random_state=seed, device="cpu", n_threads=1), training, held_out, table, classes
    )


PEERS: Mapping[str, Callable[..., tuple[Prediction, float]]] = {
    TREES: trees,
    "LightGBM": lightgbm,
    "RealMLP-TD": realmlp,
}
MODULES = {TREES: "sklearn", "LightGBM": "lightgbm", "RealMLP-TD": "pytabkit"}


def _by_scikit_learns_way(
    model: Any, training: Any, held_out: Any, table: RealTable, classes: Sequence[str] | None
) -> tuple[Prediction, float]:
    import pandas as pd

    y = training[table.target]
    x, new = with_dates(training.drop(columns=table.target)), with_dates(held_out)
    for name in x.select_dtypes(exclude="number").columns:
        levels = x[name].value_counts().index[:250]
        x[name], new[name] = (pd.Categorical(each[name], categories=levels) for each in (x, new))
    began = time.process_time()
    model.fit(x, y if classes is None else y.astype(str))
    seconds = time.process_time() - began
    if classes is None:
        return np.asarray(model.predict(new)).ravel(), seconds
    known = list(map(str, model.classes_))
    found = model.predict_proba(new)
    return np.column_stack(
        [found[:, known.index(c)] if c in known else 0 * found[:, 0] for c in classes]
    ), seconds


def with_dates(frame: Any) -> Any:
    """Columns of dates as days, and where they are in day, week and year."""
    import pandas as pd

    frame = frame.copy()
    for name in frame.select_dtypes(exclude="number").columns:
        try:
            when = pd.to_datetime(frame[name], format="%Y-%m-%d %H:%M:%S")
        except (ValueError, TypeError):
            continue
        days = (when - pd.Timestamp("1970-01-01")) / pd.Timedelta("1D")
        frame[name] = days
        for cycle, period in (("day", 1.0), ("week", 7.0), ("year", 365.2425)):
            frame[f"{name} sin {cycle}"] = np.sin(2 * np.pi * (days / period % 1))
            frame[f"{name} cos {cycle}"] = np.cos(2 * np.pi * (days / period % 1))
    return frame


def lines(
    name: str, table: RealTable, frame: Any, found: Mapping[str, Sequence[Measured]]
) -> list[dict[str, Any]]:
    """A line of the results for each metric: means, deviations, and ours relative to the others."""
    rows = []
    for metric in found[OURS][0].errors:
        row: dict[str, Any] = {
            "table": name,
            "rows": len(frame),
            "splits": len(found[OURS]),
            "columns": frame.shape[1] - 1,
            "constants chosen on it": "yes" if table.chosen_on else "no",
            "error": metric,
        }
        errors = {method: [one.errors[metric] for one in each] for method, each in found.items()}
        for method, each in errors.items():
            row[method] = statistics.fmean(each)
            row[f"{method} ±"] = statistics.stdev(each) if len(each) > 1 else None
            row[f"{method} CPU s"] = statistics.fmean(one.seconds for one in found[method])
        for method in list(errors)[1:]:
            row[f"÷ {method}"] = row[OURS] / row[method] if row[method] else None
        rows.append(row)
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Geometric means of the ratios, over all tables and those that the constants were not chosen on."""
    said = []
    for column in (name for name in rows[0] if name.startswith("÷ ")):
        for which, some in (
            ("all", rows),
            ("constants not chosen on", [row for row in rows if row["constants chosen on it"] == "no"]),
        ):
            for errors in (
                ("RMSE", "share wrong"),
                ("RMSE", "log loss"),
                ("RMSE", "share wrong", "log loss"),
            ):
                ratios = [
                    row[column] for row in some if row["error"] in errors and row.get(column) and row[OURS]
                ]
                if ratios:
                    mean = math.exp(statistics.fmean(map(math.log, ratios)))
                    said.append(
                        f"{OURS} {column}, {which}, {' and '.join(errors)}: geometric mean {mean:.3f}, "
                        f"largest {max(ratios):.2f}, of {len(ratios)}."
                    )
    return said


def notes(wanted: Sequence[str], here: Sequence[str]) -> list[str]:
    """How it was measured, and what is missing."""
    missing = [name for name in wanted if name not in here]
    peers = [name for name, module in MODULES.items() if importlib.util.find_spec(module) is None]
    return [
        "Means over the splits, a fifth of the rows held out.",
        "CPU seconds of training: ours of a whole process, reading the CSV file included.",
        *([f"Not installed: {', '.join(peers)}."] if peers else []),
        *([f"Without their packages: {', '.join(missing)}."] if missing else []),
    ]


def draw(result: Result, figure: Any) -> None:
    """Errors relative to the trees', a line for each."""
    ax = figure.subplots()
    rows = [row for row in result.rows if row.get(f"÷ {TREES}")]
    ratios = [row[f"÷ {TREES}"] for row in rows]
    colours = {"RMSE": "C0", "share wrong": "C1", "log loss": "C2"}
    ax.bar(range(len(rows)), ratios, color=[colours[row["error"]] for row in rows])
    ax.axhline(1.0, color="black", linewidth=0.8)
    names = [f"{row['table']}, {row['error']}" for row in rows]
    ax.set_xticks(range(len(rows)), names, rotation=90, fontsize=6)
    ax.set(ylabel=f"error ÷ {TREES}'s")
    ax.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
