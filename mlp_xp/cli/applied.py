"""A model and the table that it is applied to, watched for rows that are unlike those of training."""

import dataclasses
from collections.abc import Sequence

from mlp_xp.cli.commands import Evaluate, Predict
from mlp_xp.cli.printing import say
from mlp_xp.cli.progress import ReadingProgress
from mlp_xp.network import Network
from mlp_xp.saved.model_file import Model, load
from mlp_xp.settings.checks import counted
from mlp_xp.settings.options import written
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.files.opening import TABLE_SUFFIXES
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TableOptions
from mlp_xp.tables.reading import Table, for_model, open_for, open_table
from mlp_xp.tables.unlike import Watched, refuse_unlike

MOST_UNLIKE = 5
"""Columns that are unlike those of training, of which it is said."""


def no_data(options: Predict | Evaluate) -> str | None:
    """What is a problem where no data is named, or where it is named in the model's place."""
    model, data = spelled("model"), spelled("data")
    if str(options.model).lower().endswith(TABLE_SUFFIXES):
        return f"{model} {options.model} is a table: the model comes first, then the table ({model} {data})."
    if options.data is None and options.dataset is None:
        return f"{data} is missing: name a file, or a {spelled('dataset')}."
    return None


def opened(options: Predict | Evaluate, data: str | None) -> tuple[TableModel, Watched]:
    """A model and the rows of the table at a path; with their targets, where they are judged by.

    A network alone takes the columns as they come.
    """
    model, judges = load(options.model, options.device), isinstance(options, Evaluate)
    here: TableOptions = dataclasses.replace(options, data=data)
    with ReadingProgress(options.data, quiet=options.quiet) as progress:
        if isinstance(model, TableModel):
            if judges and not here.target and data is not None and here.has_names:
                here = dataclasses.replace(here, target=written(model.targets.names))
            fitted, table = model, open_for(here, model, targets_needed=judges, progress=progress)
        else:
            names = getattr(model, "feature_names_in_", ()) if here.has_names else ()
            table = open_table(
                here,
                columns=[str(name) for name in names],
                targets_needed=judges,
                numbers_alone=True,
                progress=progress,
            )
            fitted = with_names(model, table, table.target_names if judges else ())
        if judges:
            table = for_model(table, fitted)
    for line in table.unseen:
        say(line)
    if options.strict:
        refuse_unlike(table.source, fitted)
    return fitted, Watched(table.source, fitted)


def with_names(model: Model, table: Table, targets: Sequence[str]) -> TableModel:
    """A network or an estimator with the names of a table's columns.

    Raises ValueError: their number is not that of its inputs, or an estimator has several targets with
    classes.
    """
    network = model if isinstance(model, Network) else model.network
    n_inputs, n_columns = network.layer_sizes[0], len(table.feature_names)
    if n_columns != n_inputs:
        raise ValueError(
            f"{table.name} has {n_columns} columns ({', '.join(table.feature_names[:20])}"
            f"{' ...' * (n_columns > 20)}), but this network was built for {n_inputs} "
            f"(layer_sizes={network.layer_sizes}): leave some out with {spelled('exclude')}."
        )
    if network.output.probabilities == "grouped":
        raise ValueError("this model has several targets with classes: use it in Python, mlp_xp.load(path).")
    classes = getattr(model, "classes_", None)
    several_labels = network.output.probabilities == "each" and network.layer_sizes[-1] > 1
    levels = None if classes is None or several_labels else [str(level) for level in classes]
    return TableModel.of_network(network, table.feature_names, targets or None, levels)


def say_unlike(watched: Watched) -> None:
    """Say what of the rows is unlike those that the model was trained on."""
    said = watched.sentences()
    for line in said[:MOST_UNLIKE]:
        say(line)
    if len(said) > MOST_UNLIKE:
        say(f"... and {counted(len(said) - MOST_UNLIKE, 'column')} more")
