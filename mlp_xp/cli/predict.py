"""`mlp-xp predict`: predictions of a model for the rows of a table, as a CSV file."""

import contextlib
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.cli.applied import no_data, opened, say_unlike
from mlp_xp.cli.commands import Predict
from mlp_xp.cli.files import given_data, output_problems, suffix_problem
from mlp_xp.cli.printing import StandardOutput, say, show
from mlp_xp.machine.whole_file import whole_file
from mlp_xp.rows.source import Source
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.copying import written_rows
from mlp_xp.tables.model import TableModel

FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
"""How a text begins that a spreadsheet takes for a formula, unless it is a number."""

CUT = re.compile(r"([;\t|])")
"""Where a spreadsheet may cut a text too, so that what follows is one by itself."""

NUMBER = re.compile(r"[+-]?\d[\d., ]*(e[+-]?\d+)?%?", re.IGNORECASE | re.ASCII)


def predict(options: Predict) -> None:
    """Write a model's predictions for the rows of a table."""
    kept = options.read("keep")
    wrong = [*options.problems(), no_data(options)]
    if options.out != "-":
        wrong += output_problems({"out": Path(options.out)}, [options.data, options.model])
        wrong.append(suffix_problem("out", Path(options.out), (".csv", "predictions are written as CSV")))
    if kept and (options.data is None or not options.has_names):
        wrong.append(f"{given('keep', options.keep)}: only a table has columns with names of its own.")
    checks.refuse(wrong)
    with given_data(options.data) as path:
        rows = written_rows(path, kept, options.csv_form) if kept and path is not None else None
        fitted, watched = opened(options, path)
        written = Predictions(
            fitted, watched, proba=options.proba, kept=kept, kept_rows=rows, safe=options.safe_csv
        )
        to_output = options.as_json and options.out == "-"
        n_rows = written.write_json() if to_output else written.write_csv(options.out)
    if options.as_json and options.out != "-":
        found = {
            "predictions": n_rows,
            "columns": written.columns,
            "out": options.out,
            "unlike": watched.found(),
        }
        show(json.dumps(found | {"model": str(options.model)}))
    elif not options.quiet and options.out != "-":
        say(f"{options.out}: {checks.counted(n_rows, 'prediction')}")
    if not options.quiet:
        say_unlike(watched)
    if written.n_formulas and not options.safe_csv and not options.quiet:
        say(
            f"{checks.counted(written.n_formulas, 'text')} would be computed by a spreadsheet "
            f"(=1+1): {spelled('safe_csv')} writes a ' before each"
        )


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would compute a text."""
    return text[:1] in FORMULA and len(text) > 1 and NUMBER.fullmatch(text) is None


class Predictions:
    """What is written of a model's predictions for a table, made some thousand rows at a time.

    Parameters
    ----------
    proba : bool
        Whether the probability of each class is written too.
    kept : sequence of str
        Names of columns that are copied from the data.
    kept_rows : iterator of list of str, optional
        Their values, row by row.
    safe : bool
        Whether texts that a spreadsheet would compute get a ' before them in CSV.

    Attributes
    ----------
    n_formulas : int
        How many such texts were met.
    """

    def __init__(
        self,
        model: TableModel,
        source: Source,
        *,
        proba: bool = True,
        kept: Sequence[str] = (),
        kept_rows: Iterator[list[str]] | None = None,
        safe: bool = False,
    ) -> None:
        self.model, self.source = model, source
        self._safe, self.n_formulas = safe, 0
        self._proba, self._kept, self._kept_rows = proba, kept, kept_rows

    @property
    def columns(self) -> list[str]:
        """The names of what is written."""
        names = self.model.output_names
        if self.model.levels is None:
            predicted = ["prediction"] if len(names) == 1 else [f"prediction_{name}" for name in names]
        else:
            predicted = [*(f"probability_{name}" for name in names if self._proba), "prediction"]
        return [*self._kept, *predicted]

    def _rows(self) -> Iterator[tuple[list[str], list[Any]]]:
        """For each row what is kept, and its predictions."""
        kept_rows = itertools.repeat([]) if self._kept_rows is None else self._kept_rows
        for predicted in self.model.predict_parts(self.source):
            rows = predicted.tolist()
            if self.model.levels is not None:
                chosen = self.model.choose(predicted)
                rows = [[*(row if self._proba else []), name] for row, name in zip(rows, chosen, strict=True)]
            yield from zip(itertools.islice(kept_rows, len(rows)), rows, strict=True)

    def write_csv(self, out: str) -> int:
        """Write them to a file, or to standard output for '-'; how many rows."""
        # As many digits as the network computes with.
        digits = ".9g" if self.model.network.backend.dtype_name == "float32" else ".17g"
        n_rows = 0
        with _text(out) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(self._text, self.columns))
            for kept, row in self._rows():
                n_rows += 1
                writer.writerow(
                    self._text(one) if isinstance(one, str) else format(one, digits) for one in (*kept, *row)
                )
        return n_rows

    def _text(self, text: str) -> str:
        """A text as it is written to CSV."""
        first, *others = CUT.split(text)
        parts = [first, *(f"'{part}" if is_formula(part) else part for part in others)]
        safe = "'" * is_formula(text) + "".join(parts)
        self.n_formulas += safe != text
        return safe if self._safe else text

    def write_json(self) -> int:
        """Write them to standard output as one document: names of columns, and rows; how many."""
        show(f'{{"columns": {json.dumps(self.columns)}, "rows": [', end="")
        n_rows = 0
        for kept, row in self._rows():
            show(", " * (n_rows > 0) + json.dumps([*kept, *row]), end="")
            n_rows += 1
        show("]}")
        return n_rows


@contextlib.contextmanager
def _text(out: str) -> Iterator[Any]:
    """Standard output, or a file that is there when it is whole."""
    if out == "-":
        yield StandardOutput()
        sys.stdout.flush()
        return
    with whole_file(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()
