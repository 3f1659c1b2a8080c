"""`mlp-xp predict`: predictions of a model for the rows of a table, as a CSV file."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from mlp_xp.cli import options
from mlp_xp.cli.options import DATA, GENERAL, option
from mlp_xp.losses import GroupedSoftmaxLink, LogisticLink
from mlp_xp.network import Network
from mlp_xp.saved.model_file import load, whole_file
from mlp_xp.settings import checks
from mlp_xp.tables.datasets import DATASETS
from mlp_xp.tables.files import written_rows
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.reading import Place, Table, open_inputs, open_table

OTHER_FORMATS = (".parquet", ".arrow", ".feather", ".npy", ".npz", ".safetensors")


def predict(
    model: options.Model,
    data: options.Data = None,
    dataset: options.Dataset = None,
    exclude: options.Exclude = "",
    keep: Annotated[
        str,
        option(DATA, "Columns of the data to write before the predictions, with commas.", default="none"),
    ] = "",
    delimiter: options.Delimiter = None,
    decimal: options.Decimal = None,
    encoding: options.Encoding = None,
    null: options.Null = "",
    date_format: options.DateFormat = None,
    memory_limit: options.MemoryLimit = "1GB",
    cache: options.Cache = True,
    cache_dir: options.CacheDir = None,
    proba: Annotated[
        bool,
        option(GENERAL, "Whether the probability of each class is written too.", "--proba/--no-proba"),
    ] = True,
    out: Annotated[str, option(GENERAL, "CSV file to write; '-' for standard output.", metavar="FILE")] = "-",
    device: options.Device = "cpu",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> None:
    """Predict with a model, and write CSV: a line a row, in the order of the data.

    The data has the columns that the model was trained on, in any order; further ones are ignored. There
    is one column `prediction`, or several `prediction_NAME` for several targets or quantiles; for classes
    `prediction` comes last, after `probability_NAME` of each.

    For example

      mlp-xp predict houses.safetensors new.csv --out prices.csv

      mlp-xp predict iris.safetensors new.csv --keep id,owner --no-proba

      mlp-xp predict digits.safetensors --dataset digits

      cat new.csv | mlp-xp predict houses.safetensors -
    """
    wrong = options.Problems()
    form = wrong.reading(options.csv_form, delimiter, decimal, encoding, null, date_format)
    limit = wrong.reading(options.amount, "--memory-limit", memory_limit)
    kept = options.names(keep)
    wrong.add(
        "DATA is missing: name a file, or a --dataset." if data is None and dataset is None else None,
        None if dataset is None else checks.one_of("--dataset", dataset, DATASETS),
    )
    if out != "-":
        wrong.add(
            options.output_problem(Path(out), [data, model]),
            f"--out {out}: predictions are written as CSV; name a .csv file."
            if Path(out).suffix.lower() in OTHER_FORMATS
            else None,
        )
    wrong.reading(options.check_device, device)
    with options.given_data(data) as path:
        where = Place(
            path,
            dataset,
            exclude=options.names(exclude),
            form=form,
            memory_limit=limit,
            cache=cache,
            cache_dir=cache_dir,
        )
        wrong.add(where.problem())
        if kept and (path is None or not where.has_names):
            wrong.add(f"--keep {keep}: only a table has columns with names of its own.")
        wrong.refuse()
        loaded = load(model, device)
        rows = written_rows(path, kept, form) if kept and path is not None else None
        with options.reading(data, quiet=quiet) as reading:
            fitted, table = with_inputs(loaded, dataclasses.replace(where, progress=reading))
        written = Predictions(fitted, table, proba=proba, kept=kept, kept_rows=rows)
        n_rows = written.write_json() if as_json and out == "-" else written.write_csv(out)
    if as_json and out != "-":
        print(
            json.dumps({"predictions": n_rows, "columns": written.columns, "out": out, "model": str(model)})
        )
    elif not quiet and out != "-":
        options.say(f"{out}: {n_rows:,} predictions")


def with_inputs(model: Any, where: Place) -> tuple[TableModel, Table]:
    """A model and the table that it predicts from; a network alone takes the columns as they come."""
    if isinstance(model, TableModel):
        return model, open_inputs(where, model)
    table = open_table(where, columns=known_names(model, where), targets_needed=False, numbers_alone=True)
    # Targets that the data has too are not needed, and are not named.
    return with_names(model, dataclasses.replace(table, target_names=())), table


def known_names(model: Any, where: Place) -> list[str] | None:
    """The columns that an estimator was fitted with by name, where the data has names too."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None or not where.has_names else [str(name) for name in names]


def with_names(model: Any, table: Table) -> TableModel:
    """A network or an estimator with the names of a table's columns.

    Raises
    ------
    ValueError
        Their number is not that of its inputs, or an estimator has several targets with classes.
    """
    network = model if isinstance(model, Network) else model.network
    n_inputs, n_columns = network.layer_sizes[0], len(table.feature_names)
    if n_columns != n_inputs:
        raise ValueError(
            f"{table.name} has {n_columns} columns ({', '.join(table.feature_names[:20])}"
            f"{' ...' * (n_columns > 20)}), but this network was built for {n_inputs} "
            f"(layer_sizes={network.layer_sizes}): leave some out with --exclude."
        )
    if isinstance(network.output, GroupedSoftmaxLink):
        raise ValueError("this model has several targets with classes: use it in Python, mlp_xp.load(path).")
    classes = getattr(model, "classes_", None)
    several_labels = isinstance(network.output, LogisticLink) and network.layer_sizes[-1] > 1
    levels = None if classes is None or several_labels else [str(level) for level in classes]
    return TableModel.of_network(network, table.feature_names, table.target_names or None, levels)


class Predictions:
    """What is written of a model's predictions for a table, made some thousand rows at a time.

    Parameters
    ----------
    model : TableModel
    table : Table
    proba : bool
        Whether the probability of each class is written too.
    kept : sequence of str
        Names of columns that are copied from the data.
    kept_rows : iterator of list of str, optional
        Their values, row by row.
    """

    def __init__(
        self,
        model: TableModel,
        table: Table,
        *,
        proba: bool = True,
        kept: Sequence[str] = (),
        kept_rows: Iterator[list[str]] | None = None,
    ) -> None:
        self.model, self.table = model, table
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
        for predicted in self.model.predict_parts(self.table.source):
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
            writer.writerow(self.columns)
            for kept, row in self._rows():
                n_rows += 1
                writer.writerow(
                    [*kept, *(one if isinstance(one, str) else format(one, digits) for one in row)]
                )
        return n_rows

    def write_json(self) -> int:
        """Write them to standard output as one document: names of columns, and rows; how many."""
        print(f'{{"columns": {json.dumps(self.columns)}, "rows": [', end="")
        n_rows = 0
        for kept, row in self._rows():
            print(", " * (n_rows > 0) + json.dumps([*kept, *row]), end="")
            n_rows += 1
        print("]}")
        return n_rows


@contextlib.contextmanager
def _text(out: str) -> Iterator[Any]:
    """Standard output, or a file that is there when it is whole."""
    if out == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    with whole_file(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()
