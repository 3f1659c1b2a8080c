"""A model of a table in one call: what `mlp-xp train` does, in Python."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.machine import blas
from mlp_xp.rows.files import known_as
from mlp_xp.settings import checks
from mlp_xp.tables.advice import Run
from mlp_xp.tables.calibration import calibrate
from mlp_xp.tables.files.sandbox import own_file
from mlp_xp.tables.fitting import Data, fit, loader_for, new_model, read_data, training_notes
from mlp_xp.tables.measured import Measured, measured
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.own_tables import arrow_table

IN_MEMORY = "data"
"""What a table in memory is called."""


def fit_table(
    data: str,
    target: str | Sequence[str],
    *,
    levels: Sequence[str] | None = None,
    **options: Any,
) -> tuple[Run, list[float]]:
    """Train on the table at a path, as `mlp_xp.fit_table` explains; the run, and the rate of each epoch."""
    settings = TrainingOptions.of({"data": data, "target": target, **options})
    checks.refuse(settings.problems())
    with blas.at_most(settings.threads):
        rows = read_data(settings)
        if levels is not None:
            rows = dataclasses.replace(rows, table=dataclasses.replace(rows.table, levels=tuple(levels)))
        model = new_model(rows)
        loader = loader_for(rows.options, rows.parts.training)
        rates = []
        for epoch in fit(rows, model.network, loader):
            last = epoch
            rates.append(epoch.learning_rate)
        found = noted(model, rows, loader.batch_size, last.number, last.stopped)
        history = last.training.history
    return Run(rows, model, history, found, last.stopped), rates


def noted(model: TableModel, rows: Data, batch_size: int, epochs: int, stopped: str | None) -> Measured:
    """Calibrate a model whose training is over, measure it, and note both in it."""
    calibrate(model, rows)
    found = measured(model, rows.parts, rows.options.seed)
    model.training |= training_notes(rows, batch_size, found.description(), epochs, stopped)
    return found


@contextlib.contextmanager
def at_a_path(data: object) -> Iterator[str]:
    """The path of a table; one in memory is written to a file first, and read as any other."""
    if isinstance(data, str | os.PathLike):
        yield os.fspath(data)
        return
    try:
        from pyarrow import feather
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a table in memory is read by pyarrow, which is not installed: pip install 'mlp-xp[files]'.",
            name="pyarrow",
        ) from error
    table = arrow_table(data)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder).absolute() / "table in memory.arrow")
        feather.write_feather(table, path)
        with own_file(path), known_as(IN_MEMORY, path, first_row=0):
            yield path
