"""A training on a table: rows read and divided, a network that suits them, and the loop that fits it."""

import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp.losses import Loss
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.fingerprint import fingerprint
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.order import Shuffled
from mlp_xp.rows.source import Source
from mlp_xp.run.epoch import Epoch
from mlp_xp.run.state import Observer, TrainingState
from mlp_xp.schedules import SCHEDULES
from mlp_xp.settings.catalogue import describe
from mlp_xp.settings.options import written
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.column_kinds import Progress
from mlp_xp.tables.members import bootstrapped
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import HoldOut, TrainingOptions
from mlp_xp.tables.reading import Table, check_targets, for_model, for_task, open_for, open_table
from mlp_xp.tables.recipe import (
    NEW_IN_RECIPES,
    initializers,
    loss_for,
    settled,
    smoothed,
    uses_tables,
    weighs_in_the_end,
)
from mlp_xp.tables.split import Split, split, split_for
from mlp_xp.tables.watched import Bounded, Calibrated
from mlp_xp.training import train
from mlp_xp.version import VERSION


@dataclasses.dataclass(frozen=True)
class Data:
    """What a network is trained on: rows in parts, its task, for people, and all options and the loss."""

    table: Table
    about_task: str
    options: TrainingOptions
    loss: Loss
    parts: Split


def check_start(options: TrainingOptions, model: object) -> TableModel:
    """The model to go on from, once it is one that a training can go on from.

    Raises ValueError: it knows nothing of columns, or predicts something else than what is named.
    """
    if not isinstance(model, TableModel):
        raise ValueError(
            f"{given('init', options.init)} holds a {type(model).__name__}: name a model that mlp-xp train "
            "wrote, which knows what its columns mean."
        )
    target = options.read("target")
    if target and target != model.targets.names:
        raise ValueError(
            f"{given('target', options.target)}: the model of {spelled('init')} predicts "
            f"{', '.join(model.targets.names)}."
        )
    return model


def read_data(
    options: TrainingOptions,
    start: TableModel | None = None,
    *,
    progress: Progress | None = None,
    split_seed: int | None = None,
) -> Data:
    """Open the table, settle task and loss, hold rows out and measure the others.

    Raises ValueError, TypeError, OSError: the data cannot be used; the message says where and why.

    Parameters
    ----------
    start : TableModel, optional
        The model to go on from, which has measured its columns already.
    progress : callable (str, float), optional
        As for `open_table`.
    split_seed : int, optional
        What rows are held out by, if not by the seed of the options.
    """
    more: dict[str, Any] = {
        "split_column": options.split_column,
        "split_column_is_input": options.time is not None,
        "progress": progress,
    }
    if start is not None:
        if start.loss is None:
            raise ValueError(
                f"{given('init', options.init)} does not say which quantiles it predicts: name a model that "
                "mlp-xp train wrote."
            )
        if not options.target and options.data is not None and Path(options.data).suffix != ".npz":
            options = dataclasses.replace(options, target=written(start.targets.names))
        table = for_model(open_for(options, start, **more), start)
        options = settled(options, n_rows=table.source.n_rows, has_classes=table.levels is not None)
        parts = split_for(table, start, _hold_out(options, split_seed), class_weight=options.class_weight)
        return Data(table, "goes on from a model", options, start.loss, parts)
    kinds = dict.fromkeys(options.read("text"), "text")
    opened = open_table(options, columns=options.read("columns"), kinds=kinds, **more)
    named = options.read("loss")
    table, about_task = for_task(opened, options.task, named)
    has_classes = table.levels is not None
    options = settled(options, n_rows=table.source.n_rows, has_classes=has_classes)
    loss = named or loss_for(has_classes=has_classes)
    check_targets(table, loss)
    parts = split(
        table,
        _hold_out(options, split_seed),
        scaling=options.read("scaling"),
        max_levels=options.max_levels,
        standardise_targets=loss.standardises_target,
        bound_targets=uses_tables(options),
        class_weight="none" if weighs_in_the_end(options, loss) else options.class_weight,
    )
    if named is None and uses_tables(options) and has_classes:
        loss = smoothed(parts.rarer_share())
    return Data(table, about_task, options, loss, parts)


def _hold_out(options: TrainingOptions, seed: int | None) -> HoldOut:
    hold_out = options.hold_out
    return hold_out if seed is None else dataclasses.replace(hold_out, seed=seed)


def new_model(data: Data, copies: int | None = None) -> TableModel:
    """A new network with what the columns mean; or several that start alike, as members of one.

    Raises ValueError: there are members, and the rule searches for one.
    """
    table, loss, options = data.table, data.loss, data.options
    members = options.folds or options.members
    if members and takes_all_rows(options):
        name = spelled("folds" if options.folds else "members")
        rule = given("optimizer", options.optimizer)
        raise ValueError(f"{rule} searches for one network: leave {name} out, or name another rule.")
    seed: int | list[int] = options.seed
    if copies is not None:
        seed = [options.seed + n for _ in range(copies) for n in range(members or 1)]
        members = len(seed)
    activations = options.read("activation")
    n_classes = len(table.levels) if table.levels is not None and loss.labels else None
    n_outputs = loss.n_outputs(len(table.target_names), n_classes)
    network = Network(
        (data.parts.inputs.n_features, *options.read("hidden"), n_outputs),
        activation=activations[0] if len(activations) == 1 else list(activations),
        bias=options.bias,
        input_scale=options.read("input_scale") == "on",
        initializer=initializers(options),
        device=options.device,
        dtype=options.dtype,
        seed=seed,
        members=members,
    )
    inputs, targets = data.parts.inputs, data.parts.targets
    return TableModel(network, inputs, targets, table.levels, loss=loss, written=table.written)


def takes_all_rows(options: TrainingOptions) -> bool:
    """Whether a step is one over all rows, whatever the batch size."""
    return options.read("optimizer").search is not None


def batch_is_too_large(options: TrainingOptions, n_rows: int) -> bool:
    """Whether there are fewer rows than a step is to have."""
    size = options.read("batch_size")
    return isinstance(size, int) and size > n_rows and not _takes_all_unasked(options)


def _takes_all_unasked(options: TrainingOptions) -> bool:
    return takes_all_rows(options) and "batch_size" not in options.given


def loader_for(options: TrainingOptions, source: Source) -> Loader:
    """What gives the rows of a source batch by batch."""
    takes_all = _takes_all_unasked(options) or batch_is_too_large(options, source.n_rows)
    order = options.read("order")
    if source.order is not None:
        if not isinstance(order, Shuffled):
            raise ValueError(
                f"{given('order', options.order)}: a table that is streamed has an order of its own. Leave "
                "it out."
            )
        order = None
    loader = Loader(
        bootstrapped(options, source),
        batch_size="full" if takes_all else options.read("batch_size"),
        order=order,
        seed=options.seed,
        memory_limit=options.read("memory_limit"),
    )
    if options.accumulate > 1 and not takes_all:
        loader.accumulate(options.accumulate)
    return loader


def stopping_of(options: TrainingOptions) -> dict[str, Any]:
    """When a training stops: arguments of `train` and of `Stopping`."""
    return {
        "max_epochs": options.read("epochs"),
        "patience": options.read("patience") or None,
        "tolerance": options.tolerance,
        "loss_below": options.loss_below,
        "time_budget": options.read("time_budget"),
    }


def fit(
    data: Data,
    network: Network,
    loader: Loader,
    *,
    checkpoints: Observer | None = None,
    ranks: Ranks | None = None,
    state: TrainingState | None = None,
    copies: int = 1,
    own: Mapping[str, Any] | None = None,
) -> Generator[Epoch]:
    """Train a network as options say: `train`, with its arguments, of which some may be the caller's own."""
    options = data.options
    rates = options.dropout_rates
    arguments: dict[str, Any] = dict(
        loss=data.loss,
        optimizer=options.read("optimizer"),
        learning_rate=options.read("learning_rate"),
        schedule=options.read("schedule"),
        rate_factors=options.read("rate_factors"),
        decay_schedule=options.read("decay_schedule"),
        regularizer=ElasticNet(options.l1, options.l2) if options.l1 or options.l2 else None,
        dropout=rates[0] if len(rates) == 1 else rates,
        dropout_schedule=options.read("dropout_schedule"),
        clip_norm=options.clip_norm,
        reduction=options.reduction,
        validation=_held_out(data, copies),
        watched_loss=watched_loss(data),
        **stopping_of(options),
        average=options.read("average"),
        way=options.way,
        checkpoints=checkpoints,
        ranks=ranks,
        state=state,
        keep=options.keep,
        on_divergence=options.on_divergence,
        seed=options.seed,
    )
    return train(network, loader, **{**arguments, **(own or {})})


def _held_out(data: Data, copies: int) -> Loader | None:
    """The rows by which the run, or each member by those that it leaves out, is judged."""
    source, limit = data.parts.judging(copies), data.options.read("memory_limit")
    return None if source is None else Loader(source, batch_size="full", memory_limit=limit or None)


def watched_loss(data: Data) -> Loss | None:
    """What the held-out rows are judged by, the metric that is reported; None for what the loss itself says.

        Σ s_i L_i / Σ s_i        over the rows held out, with their sample weights

    Labels that are smoothed (`Loss.judge`) are a means of training: they are in its loss, and neither here
    nor in a metric. Class weights are in neither, as they shift what the recipe's network says in the end
    (`calibration`). Predictions count as they are given: probabilities calibrated, numbers within their
    limits, as targets are, so that a wrong one does not choose the epoch.
    """
    if is_calibrated(data):
        return Calibrated(data.loss.judge, smoothing_of(data.loss))
    limits = data.parts.targets.standardised_limits
    return Bounded(data.loss, *limits) if uses_tables(data.options) and limits is not None else None


def smoothing_of(loss: Loss) -> float:
    """ε, of members the mean."""
    return float(np.mean(loss.label_smoothing))


def is_calibrated(data: Data) -> bool:
    """Whether probabilities are calibrated in the end."""
    return uses_tables(data.options) and data.loss.link.probabilities == "together"


RESULTS = (
    "cross_validation",
    *("metrics", "metrics_on", "rows_measured", "intervals", "baselines", "classes"),
    *("held_out_metrics", "training_metrics"),
)
"""What a model file says of what was measured (`measured.Measured`)."""


MOST_CLASSES = 100
"""Classes whose metrics a model file has."""


def training_notes(
    data: Data, batch_size: int, found: Mapping[str, Any], epochs: int, stopped: str | None
) -> Mapping[str, Any]:
    """What a model file says of a training that ended so; nothing that differs between two equal ones."""
    held_out, test, options = data.parts.raw_held_out, data.parts.raw_test, data.options
    noted = {name: getattr(options, name) for name, known in options.described().items() if known.noted}
    if uses_tables(options):
        noted |= {"recipe": options.recipe} | {name: getattr(options, name) for name in NEW_IN_RECIPES}
    noted |= {name: found[name] for name in RESULTS if found.get(name)}
    if len(noted.get("classes", ())) > MOST_CLASSES:
        del noted["classes"]
    source = data.table.source
    return noted | {
        "mlp_xp": VERSION,
        "data": None if source.order is not None else fingerprint(source),
        "epochs": epochs,
        "stopped": stopped,
        "rows": data.parts.raw_training.n_rows,
        "held_out_rows": 0 if held_out is None else held_out.n_rows,
        **({} if test is None else {"test_rows": test.n_rows}),
        "held_out_by": options.hold_out.by,
        "optimizer": describe(OPTIMIZERS, options.read("optimizer")),
        "schedule": describe(SCHEDULES, options.read("schedule")),
        "batch_size": batch_size,
        "dropout": list(options.dropout_rates),
    }
