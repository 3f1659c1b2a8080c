"""One fault in a table at a time, in each of ten seeds: the model by the recipe must not collapse.

    python -m tests.campaigns.robustness
    python -m tests.campaigns.robustness --seeds 3 --only "an id;30 rows"

A model is trained by `mlp-xp train` and judged on 1,000 sound rows that no training saw, against the model of
the same table without the fault, and against what needs no model: the mean of the targets, the shares of the
classes.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import io
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp.cli import main as mlp_xp

Columns = dict[str, Any]

N_ROWS, N_TEST = 600, 1000
MANY = 6000
MUCH_WORSE = 1.3
"""How many times the error of the sound table's model is a collapse."""

FIRST_DAY = np.datetime64("2021-03-01")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with a table.

    Attributes
    ----------
    spoil : callable (columns, rng, n_rows to train on) -> columns
        Spoils rows to train on and rows to test on, which come after them.
    n_rows : int
        To train on.
    rare : float
        The share of the rarer of two classes; 0 where the target is a number.
    options : sequence of str
        That a user gives.
    worse : float
        How many times the error of the sound table's model is a collapse.
    """

    spoil: Callable[[Columns, np.random.Generator, int], Columns]
    n_rows: int = N_ROWS
    rare: float = 0.0
    options: Sequence[str] = ()
    worse: float = MUCH_WORSE


@dataclasses.dataclass(frozen=True)
class Judged:
    """One model's error on sound rows, and those of its rivals."""

    error: float
    sound: float
    baseline: float


def table(rng: np.random.Generator, n_rows: int, rare: float) -> Columns:
    """Four numbers and a text, and what follows from them but for noise."""
    x = rng.normal(size=(n_rows, 4))
    kind = rng.integers(3, size=n_rows)
    y = x[:, 0] + np.abs(x[:, 1]) + x[:, 2] * (kind == 1) + 0.3 * rng.normal(size=n_rows)
    columns: Columns = {f"x{at}": x[:, at].copy() for at in range(4)} | {"kind": np.array(list("abc"))[kind]}
    return columns | {"y": np.where(y > np.quantile(y, 1 - rare), "rare", "usual") if rare else y}


def wrong_number(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """One value is ten times the largest."""
    columns["x0"][rng.integers(n_rows)] = 10 * np.abs(columns["x0"]).max()
    return columns


def wrong_test_number(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """One value of the rows to predict is ten thousand times the largest."""
    columns["x0"][n_rows + rng.integers(N_TEST)] = 1e4 * np.abs(columns["x0"]).max()
    return columns


def heavy_tail(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A column spans twelve decades."""
    return columns | {"x0": np.exp(4 * columns["x0"])}


def constant(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A number and a text that never change, but in rows to predict."""
    changed = np.arange(len(columns["y"])) == n_rows + 5
    return {"c": np.where(changed, 7e9, 3.0), "t": np.where(changed, "new", "same")} | columns


def identifier(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A number that counts the rows, and a text of its own for each."""
    number = np.arange(len(columns["y"]))
    return {"id": number.astype(float), "name": np.array([f"row {at}" for at in number])} | columns


def many_levels(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A text of 5,000 levels that say nothing."""
    level = rng.permutation(np.arange(len(columns["y"])) % 5000)
    return columns | {"code": np.array([f"level {at}" for at in level])}


def dates(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A date by which the latest rows are held out, and after which those to predict come."""
    return columns | {"when": FIRST_DAY + np.arange(len(columns["y"]))}


def few_rows(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """Only 30 rows to train on."""
    kept = np.r_[:30, n_rows : len(columns["y"])]
    return {name: values[kept] for name, values in columns.items()}


def rare_class(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """Nothing but one class of 1%."""
    return columns


def stand_in(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A number that stands for what is not known, in a row to train on in thirty."""
    columns["x0"][rng.choice(n_rows, n_rows // 30, replace=False)] = -9999.0
    return columns


def nearly_constant(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """A number and a text that differ in one row to train on, and in every tenth to predict."""
    differs = np.arange(len(columns["y"])) % 10 == 0
    differs[:n_rows] = np.arange(n_rows) == rng.integers(n_rows)
    return {"c": np.where(differs, 1.0, 0.0), "t": np.where(differs, "on", "off")} | columns


def copies(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """One row stands for a third of the rows to train on."""
    taken = rng.choice(n_rows, n_rows // 3, replace=False)
    for values in columns.values():
        values[taken] = values[taken[0]]
    return columns


def wrong_target(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """One target is ten times the largest, to train on or held out."""
    columns["y"][rng.integers(n_rows)] = 10 * np.abs(columns["y"]).max()
    return columns


def outliers(columns: Columns, rng: np.random.Generator, n_rows: int) -> Columns:
    """One target to train on in a hundred is ten deviations off."""
    chosen = rng.choice(n_rows, n_rows // 100, replace=False)
    columns["y"][chosen] += 10 * columns["y"].std() * rng.choice([-1, 1], len(chosen))
    return columns


FAULTS: Mapping[str, Fault] = {
    "a wrong number": Fault(wrong_number),
    "a wrong number to predict": Fault(wrong_test_number),
    "a heavy tail": Fault(heavy_tail),
    "constants": Fault(constant),
    "an id": Fault(identifier),
    "5,000 levels": Fault(many_levels, n_rows=MANY),
    "a date, --time": Fault(dates, options=("--time", "when")),
    "30 rows": Fault(few_rows, worse=4.0),
    "a class of 1%": Fault(rare_class, n_rows=3000, rare=0.01),
    "a class of 1%, balanced": Fault(
        rare_class, n_rows=3000, rare=0.01, options=("--class-weight", "balanced")
    ),
    "a stand-in for gaps": Fault(stand_in),
    "a nearly constant column": Fault(nearly_constant),
    "copies of one row": Fault(copies, worse=1.6),
    "a wrong target": Fault(wrong_target, worse=1.5),
    "outliers in the target": Fault(outliers, worse=3.0),
}
"""By its name; the last ones take from the table what no model can do without."""


def judge(fault: Fault, seed: int) -> Judged:
    """Train on a sound table and on the same one with a fault, and compare on sound targets."""
    rng = np.random.default_rng([seed, 17])
    sound = table(rng, fault.n_rows + N_TEST, fault.rare)
    truth = sound["y"][-N_TEST:]
    spoilt = fault.spoil({name: values.copy() for name, values in sound.items()}, rng, fault.n_rows)
    error = error_of(spoilt, truth, seed, fault.options)
    known = spoilt["y"][:-N_TEST]
    baseline = 0.5 if fault.rare else root_mean_square(np.mean(known) - truth)
    return Judged(error, sound_error(fault.n_rows, fault.rare, seed), baseline)


@functools.cache
def sound_error(n_rows: int, rare: float, seed: int) -> float:
    """Of the model that the same table without a fault gives."""
    sound = table(np.random.default_rng([seed, 17]), n_rows + N_TEST, rare)
    return error_of(sound, sound["y"][-N_TEST:], seed)


def error_of(columns: Columns, truth: np.ndarray, seed: int, options: Sequence[str] = ()) -> float:
    """Of numbers the root of the mean square, of classes how often the rarer one is not ranked first."""
    known = {name: values[:-N_TEST] for name, values in columns.items()}
    new = {name: values[-N_TEST:] for name, values in columns.items() if name != "y"}
    with tempfile.TemporaryDirectory() as folder:
        training, rows, model, found = (
            Path(folder) / name for name in ("training.csv", "new.csv", "model.safetensors", "found.csv")
        )
        write(training, known)
        write(rows, new)
        command("train", training, "--target", "y", "--seed", seed, "--out", model, "--quiet", *options)
        command("predict", model, rows, "--out", found, "--quiet")
        with found.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    if truth.dtype.kind == "f":
        return root_mean_square(np.array([float(line["prediction"]) for line in lines]) - truth)
    likely = np.array([float(line["probability_rare"]) for line in lines])
    rare, usual = likely[truth == "rare"], likely[truth == "usual"]
    return float(1 - np.mean(rare[:, None] > usual) - 0.5 * np.mean(rare[:, None] == usual))


def write(path: Path, columns: Columns) -> None:
    """A CSV file; nan is an empty field."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))


def command(*arguments: object) -> None:
    """`mlp-xp` in this process.

    Raises RuntimeError: it is refused, or fails.
    """
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            mlp_xp([str(each) for each in arguments])
        except SystemExit as ended:
            if not ended.code:
                return
    raise RuntimeError(f"{arguments}: {said.getvalue()}")


def root_mean_square(values: np.ndarray) -> float:
    """Of numbers."""
    return float(np.sqrt(np.mean(np.square(values))))


def has_collapsed(fault: Fault, judged: Judged) -> bool:
    """Whether a model is much worse than the sound table's, or no better than none."""
    return not (judged.error < fault.worse * judged.sound and judged.error < judged.baseline)


def main() -> int:
    """The exit status is 1 where a model collapsed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.robustness", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default="", help="faults, with semicolons")
    options = parser.parse_args()
    collapses = 0
    for name in options.only.split(";") if options.only else FAULTS:
        fault = FAULTS[name]
        found = [judge(fault, seed) for seed in range(options.seeds)]
        wrong = [seed for seed, each in enumerate(found) if has_collapsed(fault, each)]
        of_sound, of_baseline = (
            np.array([each.error / getattr(each, rival) for each in found]) for rival in ("sound", "baseline")
        )
        print(
            f"{name}: {len(wrong)} of {options.seeds} collapsed{f', seeds {wrong}' if wrong else ''}; error "
            f"{of_sound.mean():.2f} (at most {of_sound.max():.2f}) of the sound table's, "
            f"{of_baseline.mean():.2f} (at most {of_baseline.max():.2f}) of the baseline's",
            flush=True,
        )
        collapses += len(wrong)
    return int(collapses > 0)


if __name__ == "__main__":
    sys.exit(main())
