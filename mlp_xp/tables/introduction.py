"""What is known of a training before its first epoch, for people."""

from collections.abc import Iterator

import numpy as np

from mlp_xp.network import Network
from mlp_xp.settings.checks import counted
from mlp_xp.settings.spelling import given
from mlp_xp.tables.fitting import Data, batch_is_too_large, takes_all_rows
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.preparation import Number
from mlp_xp.tables.recipe import uses_tables
from mlp_xp.tables.sample import sample

ROWS_LOOKED_AT = 1000


def introduction(data: Data, network: Network) -> list[str]:
    """Sentences about the rows, the network and what the recipe decided."""
    table, parts, options = data.table, data.parts, data.options
    held = "" if parts.raw_held_out is None else f", {parts.raw_held_out.n_rows:,} held out"
    held += f" in {options.folds} folds" if options.folds else ""
    held += "" if parts.raw_test is None else f", {parts.raw_test.n_rows:,} to test on"
    by = "" if options.split_column is None else f" (by {options.hold_out.by}, {options.split_column})"
    layers = "-".join(map(str, network.layer_sizes))
    n_rows = parts.raw_training.n_rows
    columns = counted(len(table.columns), "column")
    about_rows = (
        f"{table.name}: {counted(n_rows, 'row')} to train on{held}{by}, {columns} to predict "
        f"{', '.join(table.target_names)} ({data.about_task})"
    )
    each = f" in each of {network.members} members" if network.members else ""
    about_network = (
        f"network {layers}: {network.parameters.size:,} parameters{each} on {network.backend.name}, "
        f"{network.backend.dtype_name}"
    )
    unused = [f"not used, as they do not group the rows: {', '.join(parts.unused)}"] if parts.unused else []
    surprises = [*table.notes, *_dates_as_numbers(data)]
    lines = [*surprises, about_rows, *unused, about_network, *_about_recipe(options)]
    if batch_is_too_large(options, n_rows):
        lines.append(
            f"{given('batch_size', options.batch_size)} is more than the {n_rows:,} rows there are: every "
            "step takes all of them"
        )
    return lines


def _dates_as_numbers(data: Data) -> Iterator[str]:
    """Columns of numbers such as 20230129."""
    columns = list(enumerate(data.parts.inputs.columns))
    near = [(at, each) for at, each in columns if isinstance(each, Number) and 19e6 < each.centre < 21e6]
    if not near:
        return
    rows = sample(data.parts.raw_training, data.options.seed, ROWS_LOOKED_AT).x
    for at, column in near:
        days = rows[:, at]
        month, day = days // 100 % 100, days % 100
        if ((days == np.floor(days)) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
            yield (
                f"column {column.name!r} is read as a number, and its values look like dates: written as "
                "2023-01-29 they are read as such"
            )


def _about_recipe(options: TrainingOptions) -> list[str]:
    """What was settled without being asked for."""
    if not uses_tables(options):
        return []
    epochs, size, rate = (options.read(name) for name in ("epochs", "batch_size", "learning_rate"))
    steps = f"{size} rows a step, learning rate {rate:g}"
    if takes_all_rows(options):
        steps = "all rows a step"
    return [f"{given('recipe', options.recipe)}: {epochs} epochs, {steps}"]
