"""The stages of `mlp-xp train`: read the data, make the model, train it, say what came out."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlp_xp.cli import options
from mlp_xp.cli.plan import Plan
from mlp_xp.cli.progress import Counted, Silence, duration, progress
from mlp_xp.cli.run_control import controlled, history_of
from mlp_xp.history import History
from mlp_xp.losses import LOSSES
from mlp_xp.machine import cuda
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.optimizers import LBFGS, OPTIMIZERS
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.order import Shuffled
from mlp_xp.saved.checkpoint import Checkpoints, Interruption
from mlp_xp.saved.model_file import save
from mlp_xp.schedules import SCHEDULES
from mlp_xp.settings.catalogue import describe, resolve
from mlp_xp.stopping import Stopping
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.reading import Table, check_targets, for_model, for_task, open_for, open_table
from mlp_xp.tables.split import Split, split, split_for
from mlp_xp.training_loop import Epoch
from mlp_xp.training_loop import train as train_network


@dataclasses.dataclass(frozen=True)
class Data:
    """What a network is trained on.

    Attributes
    ----------
    table : Table
        All rows.
    about_task : str
        What its task is, for people.
    loss : loss
    parts : Split
        The rows in two parts, and what is done with the columns.
    """

    table: Table
    about_task: str
    loss: Any
    parts: Split


def read_data(plan: Plan, reading: Any) -> Data:
    """Open the table, settle task and loss, hold rows out and measure the others.

    Raises
    ------
    ValueError, TypeError, OSError
        The data cannot be used; the message says where and why.
    """
    asked = plan.asked
    place = dataclasses.replace(plan.place, progress=reading, memory_limit=plan.memory_limit)
    if plan.start is not None:
        model = plan.start
        table = for_model(open_for(place, model), model)
        parts = split_for(table, model, plan.hold_out, class_weight=asked.class_weight)
        return Data(table, "goes on from a model", model.loss, parts)
    table, about_task = for_task(open_table(place), asked.task, plan.loss)
    default = "squared_error" if table.levels is None else "softmax_cross_entropy"
    loss = plan.loss or resolve("loss", LOSSES, default)
    check_targets(table, loss)
    parts = split(
        table,
        plan.hold_out,
        scaling=asked.scaling,
        max_levels=asked.max_levels,
        standardise_targets=loss.standardises_target,
        class_weight=asked.class_weight,
    )
    return Data(table, about_task, loss, parts)


def model_for(plan: Plan, data: Data) -> TableModel:
    """The model to train: that of --init, or a new network with what the columns mean."""
    if plan.start is not None:
        return plan.start
    asked, table, loss = plan.asked, data.table, data.loss
    if asked.device_memory_limit is not None and asked.device.startswith("cuda"):
        cuda.limit_memory(asked.device_memory_limit, int(asked.device.partition(":")[2] or 0))
    n_classes = len(table.levels) if table.levels is not None and loss.labels else None
    network = Network(
        (data.parts.inputs.n_features, *plan.hidden, loss.n_outputs(len(table.target_names), n_classes)),
        activation=plan.activations[0] if len(plan.activations) == 1 else list(plan.activations),
        bias=asked.bias,
        initializer=asked.initializer,
        device=asked.device,
        dtype=asked.dtype,
        seed=asked.seed,
    )
    return TableModel(network, data.parts.inputs, data.parts.targets, table.levels, loss=loss)


def introduction(plan: Plan, data: Data, network: Network) -> list[str]:
    """What is known before the first epoch, for people."""
    table, parts = data.table, data.parts
    held = "" if parts.held_out is None else f", {parts.held_out.n_rows:,} held out"
    by = "" if plan.hold_out.by == "random" else f" (by {plan.hold_out.by}, {plan.hold_out.column})"
    layers = "-".join(map(str, network.layer_sizes))
    n_columns, n_rows = len(table.columns), parts.raw_training.n_rows
    about_rows = (
        f"{table.name}: {n_rows:,} rows to train on{held}{by}, {n_columns} "
        f"column{'s' * (n_columns > 1)} to predict {', '.join(table.target_names)} ({data.about_task})"
    )
    about_network = (
        f"network {layers}: {network.parameters.size:,} parameters on {network.backend.name}, "
        f"{network.backend.dtype_name}"
    )
    unused = [f"not used, as they do not group the rows: {', '.join(parts.unused)}"] if parts.unused else []
    lines = [*table.notes, about_rows, *unused, about_network]
    if _batch_is_too_large(plan, n_rows):
        lines.append(
            f"--batch-size {plan.batch_size} is more than the {n_rows:,} rows there are: every step takes "
            "all of them"
        )
    return lines


def _batch_is_too_large(plan: Plan, n_rows: int) -> bool:
    size = plan.batch_size
    return isinstance(size, int) and size > n_rows and not isinstance(plan.rule, LBFGS)


BOUNDS = {
    "4,096": "the most that 'auto' takes",
    "rows / 32": "the power of two that makes 32 steps an epoch or more",
    "memory": "the power of two whose step fits the memory there is",
}
"""What decided an "auto" batch size, by `Loader.batch_bound`."""


def _about_batches(loader: Loader) -> list[str]:
    """Which bound decided the batch size, where a bound did."""
    if loader.batch_bound not in BOUNDS:
        return []
    rows = f"{loader.batch_size:,} row{'s' * (loader.batch_size > 1)}"
    return [f"--batch-size auto: {rows} a step, {BOUNDS[loader.batch_bound]}"]


def _loader_for(plan: Plan, parts: Split, bar: Silence) -> Loader:
    source = Counted(parts.training, bar.passed)
    takes_all = _batch_is_too_large(plan, source.n_rows) or isinstance(plan.rule, LBFGS)
    order: Any = plan.order
    if hasattr(source, "order"):
        if not isinstance(order, Shuffled):
            raise ValueError(
                f"--order {plan.asked.order}: a table that is streamed has an order of its own. Leave it out."
            )
        order = None
    loader = Loader(
        source,
        batch_size="full" if takes_all else plan.batch_size,
        order=order,
        seed=plan.asked.seed,
        memory_limit=plan.memory_limit,
    )
    if plan.asked.accumulate > 1 and not takes_all:
        loader.accumulate(plan.asked.accumulate)
    return loader


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes
    ----------
    history : History
    stopped : str or None
        Why.
    status : int
        The command's exit status.
    batch_size : int
        Rows a step.
    rows_gathered : list of int
        Of each rank.
    resumed_from : mapping or None
        Where it went on.
    """

    history: History
    stopped: str | None
    status: int
    batch_size: int
    rows_gathered: list[int]
    resumed_from: Mapping[str, Any] | None


def carry_out(
    plan: Plan, data: Data, model: TableModel, ranks: Ranks | None, configuration: Mapping[str, Any]
) -> Ended:
    """Train a model, which then has the weights that are to be kept.

    Raises
    ------
    FloatingPointError
        It diverged; the last good weights are saved.
    """
    asked, network = plan.asked, model.network
    n_rows, where = data.parts.raw_training.n_rows, network.backend.name
    bar = progress(asked.epochs, n_rows, asked.time_budget, quiet=asked.quiet, device=where)
    loader = _loader_for(plan, data.parts, bar)
    stopping: dict[str, Any] = {
        "max_epochs": asked.epochs,
        "patience": asked.patience or None,
        "tolerance": asked.tolerance,
        "loss_below": asked.loss_below,
        "time_budget": asked.time_budget,
    }
    control_of_run = controlled(
        asked.checkpoint_dir,
        asked.checkpoint_every,
        resume=asked.resume,
        override=asked.override,
        on_error=asked.checkpoint_errors,
        configuration=configuration,
        source=data.table.source,
        ranks=ranks,
        quiet=asked.quiet,
    )
    with control_of_run as (control, state):
        run = train_network(
            network,
            loader,
            loss=data.loss,
            optimizer=plan.rule,
            learning_rate=asked.learning_rate,
            schedule=plan.schedule,
            regularizer=ElasticNet(asked.l1, asked.l2) if asked.l1 or asked.l2 else None,
            dropout=plan.dropout,
            clip_norm=asked.clip_norm,
            reduction=asked.reduction,
            validation=Loader(data.parts.held_out, batch_size="full") if data.parts.held_out else None,
            **stopping,
            way=plan.way,
            checkpoints=control,
            ranks=ranks,
            state=state,
            keep=asked.keep,
            on_divergence=asked.on_divergence,
            seed=asked.seed,
        )
        if not asked.quiet:
            for line in [*introduction(plan, data, network), *_about_batches(loader)]:
                options.say(line)
        try:
            speaks = ranks is None or ranks.rank == 0
            interrupted = _follow(asked.outputs.watch(run), bar, control, speaks=speaks)
        except FloatingPointError as error:
            if bar.epoch is None or asked.out is None or (ranks is not None and ranks.rank):
                raise
            kept = _put_back(network, bar, asked.keep)
            model.training |= {"epochs": kept.number, "stopped": "diverged in a later epoch"}
            save(model, asked.out)
            raise FloatingPointError(f"{error} {asked.out} has those of epoch {kept.number}.") from error
    if bar.epoch is not None:
        history, stopped = bar.epoch.training.history, bar.epoch.stopped
    elif state is not None:  # it had ended already
        history = history_of(state)
        stopped = Stopping(**stopping).reason(history)
    if interrupted:
        stopped = "interrupted"
        _put_back(network, bar, asked.keep)
        if asked.checkpoint_dir is not None and not asked.quiet:
            options.say(f"interrupted after step {history.step}; go on with --resume: {asked.checkpoint_dir}")
    gathered = [bar.rows_gathered] if ranks is None else ranks.gather_numbers(bar.rows_gathered)
    return Ended(
        history,
        stopped,
        128 + control.interrupted_by if interrupted and control.interrupted_by else 0,
        loader.batch_size,
        [int(number) for number in gathered],
        control.resumed_from if isinstance(control, Checkpoints) else None,
    )


def _follow(run: Iterator[Epoch], bar: Silence, control: Interruption, *, speaks: bool) -> bool:
    """Show a run's epochs; whether a signal ended it after at least one."""
    with bar:
        try:
            for epoch in run:
                bar.show(epoch)
        except KeyboardInterrupt:
            if bar.epoch is None:
                if speaks:
                    options.say("mlp-xp: error: interrupted.")
                raise SystemExit(128 + (control.interrupted_by or 2)) from None
            return True
    return False


def _put_back(network: Network, bar: Silence, keep: str) -> Epoch:
    """Give a network that was cut off inside an epoch the weights of the best or last one; that epoch."""
    epoch = bar.best if keep == "best" and bar.best else bar.epoch
    if epoch is None or bar.epoch is None:
        raise RuntimeError("no epoch is complete.")
    training = bar.epoch.training
    network.parameters.flat[...] = training.best if epoch is bar.best else training.last_good
    return epoch


def result_of(plan: Plan, data: Data, model: TableModel, ended: Ended, n_ranks: int) -> dict[str, Any]:
    """What came out, as JSON values: metrics on the held-out part, or on the training part without one."""
    history, parts, before = ended.history, data.parts, ended.resumed_from
    is_full = isinstance(plan.rule, LBFGS)
    on, raw = ("held-out", parts.raw_held_out) if parts.raw_held_out else ("training", parts.raw_training)
    steps = len(history.train_losses) if is_full else history.step
    return {
        "metrics": {
            name: value if math.isfinite(value) else None for name, value in evaluate(model, raw).items()
        },
        "metrics_on": on,
        "rows_measured": raw.n_rows,
        "epochs": len(history.train_losses),
        "best_epoch": history.best_epoch or None,
        "train_loss": history.train_losses[-1],
        "validation_loss": history.validation_losses[-1] if history.validation_losses else None,
        "stopped": ended.stopped,
        "seconds": history.seconds,
        "device": model.network.backend.name,
        "dtype": model.network.backend.dtype_name,
        "steps_this_run": steps - (before["epoch" if is_full else "step"] if before else 0),
        "resumed_from": before,
        "ranks": n_ranks,
        "rows_gathered": ended.rows_gathered,
        "model": None if plan.asked.out is None else str(plan.asked.out),
    }


def save_model(
    plan: Plan, data: Data, model: TableModel, ended: Ended, result: Mapping[str, Any], out: Path
) -> None:
    """Write the model with what is known of its training; nothing that differs between two equal ones."""
    asked, parts = plan.asked, data.parts
    model.training |= {name: result[name] for name in ("metrics", "metrics_on", "epochs", "stopped")}
    model.training |= {
        "rows": parts.raw_training.n_rows,
        "held_out_rows": 0 if parts.raw_held_out is None else parts.raw_held_out.n_rows,
        "held_out_by": plan.hold_out.by,
        "optimizer": describe(OPTIMIZERS, plan.rule),
        "learning_rate": asked.learning_rate,
        "schedule": describe(SCHEDULES, plan.schedule),
        "batch_size": ended.batch_size,
        "class_weight": asked.class_weight,
        "l1": asked.l1,
        "l2": asked.l2,
        "dropout": list(plan.rates),
        "seed": asked.seed,
    }
    save(model, out)


def report(result: Mapping[str, Any]) -> str:
    """The short table at the end."""
    rows = [
        (f"{name} ({result['metrics_on']})", "undefined" if value is None else f"{value:.4g}")
        for name, value in result["metrics"].items()
    ]
    best = result["best_epoch"]
    epochs = str(result["epochs"]) + (f", best {best}" if best not in (None, result["epochs"]) else "")
    rows += [
        ("epochs", epochs),
        ("stopped", result["stopped"]),
        ("time", duration(result["seconds"])),
        ("device", result["device"]),
    ]
    if result["model"]:
        rows.append(("model", result["model"]))
    return options.aligned(rows)
