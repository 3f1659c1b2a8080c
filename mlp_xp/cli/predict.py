"""`mlp-xp predict`: predictions of a model for the rows of a table, as a CSV file."""

import contextlib
import csv
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mlp_xp import checks
from mlp_xp.cli import options
from mlp_xp.datasets import DATASETS
from mlp_xp.losses import GroupedSoftmaxLink, LogisticLink
from mlp_xp.model_file import load, whole_file
from mlp_xp.network import Network
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.reading import Place, Table, open_inputs, open_table

OTHER_FORMATS = (".parquet", ".arrow", ".feather", ".npy", ".npz", ".safetensors")


def predict(
    model: options.Model,
    data: options.Data = None,
    dataset: options.Dataset = None,
    exclude: options.Exclude = "",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="CSV file to write; '-' for standard output.")
    ] = "-",
    device: options.Device = "cpu",
    quiet: options.Quiet = False,
    _debug: options.Debug = False,
) -> None:
    """Predict with a model, and write CSV: a line a row, in the order of the data.

    The data has the columns that the model was trained on, in any order; further ones are ignored. There
    is one column `prediction`, or several `prediction_NAME` for several targets or quantiles; for classes
    `prediction` comes last, after `probability_NAME` of each.

    For example

      mlp-xp predict houses.safetensors new.csv --out prices.csv

      mlp-xp predict digits.safetensors --dataset digits
    """
    wrong = options.Problems()
    where = options.place(data, dataset, exclude=exclude)
    wrong.add(_no_data(data, dataset), where.problem())
    if dataset is not None:
        wrong.add(checks.one_of("--dataset", dataset, DATASETS))
    if out != "-":
        wrong.add(
            options.output_problem(Path(out), [data, model]),
            f"--out {out}: predictions are written as CSV; name a .csv file."
            if Path(out).suffix.lower() in OTHER_FORMATS
            else None,
        )
    wrong.reading(options.check_device, device)
    wrong.refuse()
    loaded = load(model, device)
    with options.reading(data, quiet=quiet) as reading:
        fitted, table = with_inputs(loaded, dataclasses.replace(where, progress=reading))
    n_rows = write_predictions(fitted, table, out)
    if not quiet and out != "-":
        options.say(f"{out}: {n_rows:,} predictions")


def _no_data(data: str | None, dataset: str | None) -> str | None:
    return "DATA is missing: name a file, or a --dataset." if data is None and dataset is None else None


def with_inputs(model: Any, where: Place) -> tuple[TableModel, Table]:
    """A model and the table that it predicts from; a network alone takes the columns as they come."""
    if isinstance(model, TableModel):
        return model, open_inputs(where, model)
    table = open_table(where, columns=known_names(model, where), targets_needed=False, numbers_alone=True)
    # Targets that the data has too are not needed, and are not named.
    return around(model, dataclasses.replace(table, target_names=())), table


def known_names(model: Any, where: Place) -> list[str] | None:
    """The columns that an estimator was fitted with by name, where the data has names too."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None or not where.has_names else [str(name) for name in names]


def around(model: Any, table: Table) -> TableModel:
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
    return TableModel.around(network, table.feature_names, table.target_names or None, levels)


def prediction_columns(model: TableModel) -> list[str]:
    """The names of the columns that are written."""
    names = model.output_names
    if model.levels is not None:
        return [*(f"probability_{name}" for name in names), "prediction"]
    return ["prediction"] if len(names) == 1 else [f"prediction_{name}" for name in names]


def write_predictions(model: TableModel, table: Table, out: str) -> int:
    """Write the predictions for all rows, in bounded memory; how many there are."""
    n_rows = 0
    with _text(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(prediction_columns(model))
        for predicted in model.predict_parts(table.source):
            writer.writerows(_cells(model, predicted))
            n_rows += len(predicted)
    return n_rows


def _cells(model: TableModel, predicted: np.ndarray) -> Iterator[list[Any]]:
    """Rows of text: as many digits as the network computes with."""
    digits = ".9g" if model.network.backend.dtype_name == "float32" else ".17g"
    chosen = None if model.levels is None else model.choose(predicted)
    for number, row in enumerate(predicted.tolist()):
        cells = [format(value, digits) for value in row]
        yield cells if chosen is None else [*cells, chosen[number]]


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
