"""`mlp-xp evaluate`: how good a model is on the rows of a table."""

import dataclasses
import json
import math

from mlp_xp.cli import options
from mlp_xp.cli.predict import known_names, with_names
from mlp_xp.saved.model_file import load
from mlp_xp.settings import checks
from mlp_xp.tables import evaluation
from mlp_xp.tables.datasets import DATASETS
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.reading import Place, Table, for_model, open_for, open_table


def evaluate(
    model: options.Model,
    data: options.Data = None,
    dataset: options.Dataset = None,
    target: options.Target = "",
    weight_column: options.WeightColumn = None,
    exclude: options.Exclude = "",
    delimiter: options.Delimiter = None,
    decimal: options.Decimal = None,
    encoding: options.Encoding = None,
    null: options.Null = "",
    date_format: options.DateFormat = None,
    memory_limit: options.MemoryLimit = "1GB",
    cache: options.Cache = True,
    cache_dir: options.CacheDir = None,
    device: options.Device = "cpu",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> None:
    """Compare a model's predictions with the targets of a table.

    The data has the columns and targets that the model was trained on, in any order. Metrics are in the
    target's own units.

    For example

      mlp-xp evaluate houses.safetensors sold.csv

      mlp-xp evaluate digits.safetensors --dataset digits --json
    """
    wrong = options.Problems()
    form = wrong.reading(options.csv_form, delimiter, decimal, encoding, null, date_format)
    limit = wrong.reading(options.amount, "--memory-limit", memory_limit)
    wrong.add("DATA is missing: name a file, or a --dataset." if data is None and dataset is None else None)
    wrong.add(None if dataset is None else checks.one_of("--dataset", dataset, DATASETS))
    wrong.reading(options.check_device, device)
    with options.given_data(data) as path:
        where = Place(
            path,
            dataset,
            options.names(target),
            weight_column,
            exclude=options.names(exclude),
            form=form,
            memory_limit=limit,
            cache=cache,
            cache_dir=cache_dir,
        )
        wrong.add(where.problem())
        wrong.refuse()
        loaded = load(model, device)
        with options.reading(data, quiet=quiet) as reading:
            where = dataclasses.replace(where, progress=reading)
            if isinstance(loaded, TableModel):
                fitted, table = loaded, _open(loaded, where)
            else:
                table = open_table(where, columns=known_names(loaded, where), numbers_alone=True)
                fitted = with_names(loaded, table)
            table = for_model(table, fitted)
        metrics = {
            name: value if math.isfinite(value) else None
            for name, value in evaluation.evaluate(fitted, table.source).items()
        }
    if as_json:
        print(json.dumps({"metrics": metrics, "rows_measured": table.source.n_rows, "model": str(model)}))
        return
    rows = [(name, "undefined" if value is None else f"{value:.4g}") for name, value in metrics.items()]
    print(options.aligned([*rows, ("rows", f"{table.source.n_rows:,}")]))


def _open(model: TableModel, where: Place) -> Table:
    """The columns that a model was trained on, and its targets unless others are named."""
    by_name = where.has_names and where.data is not None
    targets = where.target or (model.targets.names if by_name else ())
    return open_for(dataclasses.replace(where, target=targets), model)
