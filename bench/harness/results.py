"""What a benchmark has found: printed as a table, written as JSON, CSV and a picture."""

import argparse
import csv
import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.harness import measure

FOLDER = Path(__file__).parents[1] / "results"
PICTURE_DPI = 150


@dataclasses.dataclass
class Result:
    """A table with what is needed to judge it.

    Parameters
    ----------
    question : str
        What was asked.
    rows : list of dict
        One line of the table each: column (with its unit) to number, text or None.
    notes : list of str
        Sentences that belong under the table.
    curves : dict
        More numbers, for the picture and for JSON.
    device : str
        Where it ran.
    packages : sequence of str
        Distributions whose versions matter besides NumPy's.
    """

    question: str
    rows: list[dict[str, Any]]
    notes: list[str] = dataclasses.field(default_factory=list)
    curves: dict[str, Any] = dataclasses.field(default_factory=dict)
    device: str = "cpu"
    packages: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Describe the machine while the measured libraries are loaded."""
        self.machine = measure.machine(self.device)
        self.versions = measure.versions(self.packages)
        self.blas = measure.blas()

    def column(self, name: str) -> list[Any]:
        """The column of that name, one value a row."""
        return [row[name] for row in self.rows]

    def text(self) -> str:
        """Everything a reader needs, as Markdown."""
        where = ", ".join([f"device {self.device}", *self._machine_words()])
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        notes = "".join(f"\n- {note}" for note in self.notes)
        return f"{self.question}\n\n{_table(self.rows)}\n\n{where}; {versions}; BLAS {self.blas}.\n{notes}"

    def _machine_words(self) -> list[str]:
        about = dict(self.machine)
        return [f"{about.pop('cpu')} ({about.pop('cores')} cores)", *about.values()]

    def document(self) -> dict[str, Any]:
        """The same as one JSON document."""
        return {
            "question": self.question,
            "device": self.device,
            "machine": self.machine,
            "versions": self.versions,
            "blas": self.blas,
            "measured": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "rows": self.rows,
            "spread": [
                {
                    name: [each.least, each.most]
                    for name, each in row.items()
                    if isinstance(each, measure.Median)
                }
                for row in self.rows
            ],
            "notes": self.notes,
            "curves": self.curves,
        }

    def save(self, folder: Path, name: str, draw: Callable[["Result", Any], None]) -> None:
        """Write NAME.json, NAME.csv and NAME.png.

        Raises
        ------
        ModuleNotFoundError
            There is no matplotlib; JSON and CSV are written all the same.
        """
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(self.document(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / f"{name}.json").write_text(document + "\n", encoding="utf-8")
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        self.draw(folder / f"{name}.png", draw)

    def draw(self, path: Path, draw: Callable[["Result", Any], None]) -> None:
        """Write the picture: on white, so that it can be read on light and on dark pages."""
        try:
            import matplotlib.style
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'the picture needs matplotlib: pip install "mlp-xp[plot]"', name=error.name
            ) from error
        with matplotlib.style.context("default"):
            figure = Figure(figsize=(11, 4.2), facecolor="white", layout="constrained")
            draw(self, figure)
            where = ", ".join(self._machine_words()[:-1])
            figure.supxlabel(f"mlp_xp, {self.device}; {where}; {self.blas}", fontsize=7, color="0.4")
            figure.savefig(path, dpi=PICTURE_DPI)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table whose columns are also aligned for a terminal; numbers to the right."""
    titles = list(rows[0])
    cells = [[show(row[title]) for title in titles] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    left = [any(isinstance(row[title], str) for row in rows) for title in titles]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.ljust(width) if is_left else text.rjust(width)
            for text, width, is_left in zip(texts, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 2) if is_left else "-" * (width + 1) + ":"
        for width, is_left in zip(widths, left, strict=True)
    )
    return "\n".join([line(titles), f"|{rule}|", *map(line, cells)])


def show(value: Any) -> str:
    """A number with three digits and as few signs as possible, a median with its spread; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, measure.Median) and value.least < value.most:
        return f"{show(float(value))} ({show(value.least)} – {show(value.most)})"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{value:.1e}"
    if value == 0 or 1e-3 <= abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 100 <= abs(value) < 1e7 else f"{value:.2e}"


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """--quick, --device and --out."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes: checks that it works in seconds; the numbers mean nothing, and are written "
        "only where --out says",
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)", metavar="DEVICE"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help=f"the folder for JSON, CSV and picture (default: {FOLDER.parent.name}/{FOLDER.name})",
        metavar="FOLDER",
    )


def main(benchmark: ModuleType) -> int:
    """Run one benchmark as its file's command: measure, print, write.

    The module has `answer`, which takes the options as keywords and returns a Result, and
    `draw(result, figure)`; `add_options(parser)` where it has options of its own.
    """
    if "OPENBLAS_CORETYPE" in os.environ:  # it is read when NumPy is loaded: too late in this process
        again = [sys.executable, *sys.orig_argv[1:]]
        return subprocess.run(again, env=measure.environment(), check=False).returncode
    name, question = Path(str(benchmark.__file__)).stem, str(benchmark.__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=question)
    add_shared_options(parser)
    if hasattr(benchmark, "add_options"):
        benchmark.add_options(parser)
    options = vars(parser.parse_args())
    folder = options.pop("out")
    try:
        result = benchmark.answer(**options)
    except (RuntimeError, ValueError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    print(result.text())
    if folder is None:
        folder = None if options["quick"] else FOLDER
    if folder is not None:
        suffix = "" if result.device == "cpu" else f"-{result.device.replace(':', '_')}"
        try:
            result.save(folder, name + suffix, benchmark.draw)
        except ModuleNotFoundError as error:
            print(f"bench: error: {error}", file=sys.stderr)
            return 1
        print(f"\nwritten: {folder / (name + suffix)}.json, .csv, .png")
    return 0
