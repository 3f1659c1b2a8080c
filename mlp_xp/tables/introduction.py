"""What is known of a training before its first epoch, for people."""

from mlp_xp.network import Network
from mlp_xp.settings.spelling import given
from mlp_xp.tables.fitting import Data, batch_is_too_large
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.recipe import uses_tables


def introduction(data: Data, network: Network) -> list[str]:
    """Sentences about the rows, the network and what the recipe decided."""
    table, parts, options = data.table, data.parts, data.options
    held = "" if parts.raw_held_out is None else f", {parts.raw_held_out.n_rows:,} held out"
    held += f" in {options.folds} folds" if options.folds else ""
    held += "" if parts.raw_test is None else f", {parts.raw_test.n_rows:,} to test on"
    by = "" if options.split_column is None else f" (by {options.hold_out.by}, {options.split_column})"
    layers = "-".join(map(str, network.layer_sizes))
    n_columns, n_rows = len(table.columns), parts.raw_training.n_rows
    about_rows = (
        f"{table.name}: {n_rows:,} rows to train on{held}{by}, {n_columns} "
        f"column{'s' * (n_columns > 1)} to predict {', '.join(table.target_names)} ({data.about_task})"
    )
    each = f" in each of {network.members} members" if network.members else ""
    about_network = (
        f"network {layers}: {network.parameters.size:,} parameters{each} on {network.backend.name}, "
        f"{network.backend.dtype_name}"
    )
    unused = [f"not used, as they do not group the rows: {', '.join(parts.unused)}"] if parts.unused else []
    lines = [*table.notes, about_rows, *unused, about_network, *_about_recipe(options)]
    if batch_is_too_large(options, n_rows):
        lines.append(
            f"{given('batch_size', options.batch_size)} is more than the {n_rows:,} rows there are: every "
            "step takes all of them"
        )
    return lines


def _about_recipe(options: TrainingOptions) -> list[str]:
    """What was settled without being asked for."""
    if not uses_tables(options):
        return []
    epochs, size, rate = (options.read(name) for name in ("epochs", "batch_size", "learning_rate"))
    return [f"{given('recipe', options.recipe)}: {epochs} epochs, {size} rows a step, learning rate {rate:g}"]
