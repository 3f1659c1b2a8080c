"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlp_xp import checks
from mlp_xp.activations import ACTIVATIONS, resolve_activation
from mlp_xp.catalogue import describe, resolve
from mlp_xp.cli import options
from mlp_xp.cli.progress import Counted, Silence, duration, progress
from mlp_xp.datasets import DATASETS
from mlp_xp.dropout import resolve_dropout
from mlp_xp.evaluation import evaluate
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.loader import Loader
from mlp_xp.losses import LOSSES
from mlp_xp.model_file import save
from mlp_xp.network import Network
from mlp_xp.optimizers import LBFGS, OPTIMIZERS
from mlp_xp.order import ORDERS
from mlp_xp.regularizers import ElasticNet
from mlp_xp.schedules import SCHEDULES
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Columns, Standardised, Subset, hold_out, measure
from mlp_xp.tables.reading import TASKS, Table, check_targets, for_task, open_table
from mlp_xp.training_loop import Epoch
from mlp_xp.training_loop import train as train_network


def _names(catalogue: Mapping[str, Any]) -> str:
    return ", ".join(name for name in catalogue if name != "given")


PARAMETERS = "with parameters as NAME:PARAMETER=VALUE,... (a list is written 0.1/0.5/0.9)"


def train(
    data: options.Data = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"Real data that comes along: {', '.join(DATASETS)}.", show_default="diabetes"),
    ] = None,
    target: options.Target = "",
    weight_column: options.WeightColumn = None,
    exclude: options.Exclude = "",
    task: Annotated[
        str, typer.Option(help=f"{', '.join(TASKS)} (what the target looks like, and the run says so).")
    ] = "auto",
    hidden: Annotated[
        str, typer.Option(help="Units of each hidden layer, with commas; '' for none.")
    ] = "64,64",
    activation: Annotated[
        str, typer.Option(help=f"Of the hidden layers, or one each with commas: {_names(ACTIVATIONS)}.")
    ] = "relu",
    bias: Annotated[bool, typer.Option("--bias/--no-bias", help="Whether layers have biases.")] = True,
    initializer: Annotated[
        str | None,
        typer.Option(
            help=f"Starting weights: {_names(INITIALIZERS)}.", show_default="what suits the activation"
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help=f"{_names(LOSSES)}; {PARAMETERS}.",
            show_default="squared_error, or softmax_cross_entropy for classes",
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help=f"{_names(OPTIMIZERS)} (which takes all rows a step); {PARAMETERS}.")
    ] = "adam",
    learning_rate: Annotated[
        float,
        typer.Option(
            parser=options.real,
            metavar="FLOAT",
            help="Step size, > 0: what an update's direction is multiplied with.",
        ),
    ] = 1e-3,
    schedule: Annotated[
        str, typer.Option(help=f"Learning rate over time: {_names(SCHEDULES)}; {PARAMETERS}.")
    ] = "constant",
    batch_size: Annotated[
        str,
        typer.Option(
            help="Rows a step: a number, 'full' for all, or 'auto' (a 32nd of the rows, at most 4096)."
        ),
    ] = "256",
    order: Annotated[str, typer.Option(help=f"Which rows, when: {_names(ORDERS)}.")] = "shuffled",
    epochs: Annotated[
        int, typer.Option(parser=options.whole, metavar="INT", help="Passes over the data, at most.")
    ] = 1000,
    validation: Annotated[
        float,
        typer.Option(
            parser=options.real,
            metavar="FLOAT",
            help="Part of the rows that is held out, in [0, 1); 0 for none.",
        ),
    ] = 0.1,
    patience: Annotated[
        int,
        typer.Option(
            parser=options.whole,
            metavar="INT",
            help="Epochs without improvement of the watched loss until it stops; 0 to go on.",
        ),
    ] = 20,
    tolerance: Annotated[
        float,
        typer.Option(
            parser=options.real, metavar="FLOAT", help="What counts as an improvement, in units of the loss."
        ),
    ] = 0.0,
    loss_below: Annotated[
        float | None,
        typer.Option(
            parser=options.real,
            metavar="FLOAT",
            help="Stop when the watched loss is below it, in units of the loss.",
            show_default="never",
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            parser=options.real,
            metavar="FLOAT",
            help="Seconds after which it stops, at the end of an epoch.",
            show_default="no limit",
        ),
    ] = None,
    keep: Annotated[str, typer.Option(help="Whose weights are kept: 'best' or 'last' epoch.")] = "best",
    on_divergence: Annotated[
        str,
        typer.Option(
            help="What a loss that is not finite leads to: 'stop', or 'rollback' to the best epoch with half "
            "the learning rate, ten times at most."
        ),
    ] = "stop",
    l1: Annotated[
        float,
        typer.Option(parser=options.real, metavar="FLOAT", help="Strength of the penalty on sum |w|, >= 0."),
    ] = 0.0,
    l2: Annotated[
        float,
        typer.Option(parser=options.real, metavar="FLOAT", help="Strength of the penalty on sum w^2, >= 0."),
    ] = 0.0,
    dropout: Annotated[
        str,
        typer.Option(
            help="Probability, in [0, 1), to leave a hidden unit out of a step; or one a layer with commas."
        ),
    ] = "0",
    clip_norm: Annotated[
        float | None,
        typer.Option(
            parser=options.real,
            metavar="FLOAT",
            help="Largest Euclidean norm of a step's gradient, > 0.",
            show_default="no limit",
        ),
    ] = None,
    reduction: Annotated[
        str, typer.Option(help="Objective: 'mean' over the rows of a step, or their 'sum'.")
    ] = "mean",
    seed: Annotated[
        int,
        typer.Option(
            parser=options.whole,
            metavar="INT",
            help="Of held-out part, starting weights, order and dropout; >= 0.",
        ),
    ] = 0,
    device: options.Device = "cpu",
    dtype: Annotated[str, typer.Option(help="Of weights and arithmetic: float32 or float64.")] = "float32",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Model file to write (.safetensors).", show_default="none"),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> int:
    """Train a multilayer perceptron till convergence.

    Columns are standardised with the training part's statistics, and so is the target of a squared,
    absolute, Huber or pinball loss; metrics are in the target's own units. The watched loss is that of the
    held-out part, or of training without one.

    For example

      mlp-xp train

      mlp-xp train --dataset digits --hidden 100 --l2 1e-4

      mlp-xp train houses.csv --target price --out houses.safetensors

      mlp-xp train --loss pinball:quantiles=0.1/0.5/0.9 --schedule cosine --epochs 200
    """
    wrong = options.Problems()
    sizes = wrong.reading(options.numbers, "--hidden", hidden, int)
    rates = wrong.reading(options.numbers, "--dropout", dropout, float)
    rows_a_step = wrong.reading(_batch_size, batch_size)
    own_loss = None if loss is None else wrong.reading(resolve, "loss", LOSSES, loss)
    rule = wrong.reading(resolve, "optimizer", OPTIMIZERS, optimizer)
    own_schedule = wrong.reading(resolve, "schedule", SCHEDULES, schedule)
    own_order = wrong.reading(resolve, "order", ORDERS, order)
    activations = [wrong.reading(resolve_activation, name) for name in options.names(activation)]
    if initializer is not None:
        wrong.reading(_initializer, initializer)
    wrong.reading(options.check_device, device, dtype)
    where = options.place(data, dataset, target, weight_column, exclude)
    wrong.add(
        where.problem(),
        None if dataset is None else checks.one_of("--dataset", dataset, DATASETS),
        checks.one_of("--task", task, TASKS),
        checks.number("--learning-rate", learning_rate, above=0),
        checks.whole("--epochs", epochs),
        checks.number("--validation", validation, least=0, below=1),
        checks.whole("--patience", patience, least=0),
        checks.number("--tolerance", tolerance, least=0),
        None if loss_below is None else checks.number("--loss-below", loss_below),
        None if time_budget is None else checks.number("--time-budget", time_budget, above=0),
        checks.one_of("--keep", keep, ("best", "last")),
        checks.one_of("--on-divergence", on_divergence, ("stop", "rollback")),
        checks.number("--l1", l1, least=0),
        checks.number("--l2", l2, least=0),
        None if clip_norm is None else checks.number("--clip-norm", clip_norm, above=0),
        checks.one_of("--reduction", reduction, ("mean", "sum")),
        checks.whole("--seed", seed, least=0),
        None if out is None else options.output_problem(out, [data, *where.target]),
    )
    if sizes is not None:
        wrong.add(*(checks.whole("--hidden", size) for size in sizes))
        wrong.add(_activations_problem(activation, activations, len(sizes)))
        if rates is not None and seed >= 0:
            wrong.reading(resolve_dropout, rates[0] if len(rates) == 1 else rates, len(sizes), seed)
    wrong.refuse()
    with options.reading(data, quiet=quiet) as reading:
        table, about_task = for_task(open_table(dataclasses.replace(where, progress=reading)), task, own_loss)
        chosen = own_loss or resolve(
            "loss", LOSSES, "squared_error" if table.levels is None else "softmax_cross_entropy"
        )
        check_targets(table, chosen)
        split = Split.of(table, validation, seed, chosen)
    n_classes = len(table.levels) if table.levels is not None and chosen.labels else None
    network = Network(
        (len(table.feature_names), *sizes, chosen.n_outputs(len(table.target_names), n_classes)),
        activation=activations[0] if len(activations) == 1 else activations,
        bias=bias,
        initializer=initializer,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    model = TableModel(network, split.inputs, split.targets, table.levels, loss=chosen)
    n_rows = split.training.n_rows
    too_many = isinstance(rows_a_step, int) and rows_a_step > n_rows and not isinstance(rule, LBFGS)
    bar = progress(epochs, n_rows, time_budget, quiet=quiet)
    loader = Loader(
        Counted(split.training, bar.passed),
        batch_size="full" if too_many or isinstance(rule, LBFGS) else rows_a_step,
        order=own_order,
        seed=seed,
    )
    run = train_network(
        network,
        loader,
        loss=chosen,
        optimizer=rule,
        learning_rate=learning_rate,
        schedule=own_schedule,
        regularizer=ElasticNet(l1, l2) if l1 or l2 else None,
        dropout=rates[0] if len(rates) == 1 else rates,
        clip_norm=clip_norm,
        reduction=reduction,
        validation=Loader(split.held_out, batch_size="full") if split.held_out else None,
        max_epochs=epochs,
        patience=patience or None,
        tolerance=tolerance,
        loss_below=loss_below,
        time_budget=time_budget,
        keep=keep,
        on_divergence=on_divergence,
        seed=seed,
    )
    if not quiet:
        _introduce(table, about_task, split, network)
        if too_many:
            options.say(
                f"--batch-size {rows_a_step} is more than the {n_rows:,} rows there are: every step takes "
                "all of them"
            )
    try:
        epoch, interrupted = _follow(run, bar)
    except FloatingPointError as error:
        if bar.epoch is None or out is None:
            raise
        kept = _put_back(network, bar, keep)
        model.training |= {"epochs": kept.number, "stopped": "diverged in a later epoch"}
        save(model, out)
        raise FloatingPointError(f"{error} {out} has those of epoch {kept.number}.") from error
    if interrupted:
        _put_back(network, bar, keep)
    part, raw = ("held-out", split.raw_held_out) if split.raw_held_out else ("training", split.raw_training)
    measured = {name: value if math.isfinite(value) else None for name, value in evaluate(model, raw).items()}
    result = {
        "metrics": measured,
        "metrics_on": part,
        "rows_measured": raw.n_rows,
        "epochs": epoch.number,
        "best_epoch": bar.best.number if bar.best else None,
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "stopped": "interrupted" if interrupted else epoch.stopped,
        "seconds": epoch.seconds,
        "device": network.backend.name,
        "dtype": dtype,
        "steps_this_run": epoch.number * epoch.steps,
        "resumed_from": None,
        "ranks": 1,
        "rows_gathered": [bar.rows_gathered],
        "model": None if out is None else str(out),
    }
    if out is not None:
        # Nothing that differs between two equal trainings: no times, no device.
        model.training |= {name: result[name] for name in ("metrics", "metrics_on", "epochs", "stopped")}
        model.training |= {
            "rows": n_rows,
            "held_out_rows": split.held_out.n_rows if split.held_out else 0,
            "optimizer": describe(OPTIMIZERS, rule),
            "learning_rate": learning_rate,
            "schedule": describe(SCHEDULES, own_schedule),
            "batch_size": loader.batch_size,
            "l1": l1,
            "l2": l2,
            "dropout": list(rates),
            "seed": seed,
        }
        save(model, out)
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        print(_report(result))
    return 130 if interrupted else 0


def _put_back(network: Network, bar: Silence, keep: str) -> Epoch:
    """Give a network that was cut off inside an epoch the weights of the best or last one; that epoch."""
    epoch = bar.best if keep == "best" and bar.best else bar.epoch
    if epoch is None or bar.epoch is None:
        raise RuntimeError("no epoch is complete.")
    training = bar.epoch.training
    network.parameters.flat[...] = training.best if epoch is bar.best else training.last_good
    return epoch


def _batch_size(text: str) -> int | str:
    """Rows a step, or a word."""
    if text in ("full", "auto"):
        return text
    try:
        size = int(text)
    except ValueError:
        raise ValueError(
            f"--batch-size {text!r} must be a whole number >= 1, 'full' for all rows, or 'auto'."
        ) from None
    checks.refuse([checks.whole("--batch-size", size)])
    return size


def _initializer(name: str) -> Any:
    if name == "given":
        raise ValueError("--initializer given: weights of your own can be given from Python only.")
    return resolve("initializer", INITIALIZERS, name)


def _activations_problem(text: str, activations: list[Any], n_hidden: int) -> str | None:
    """Whether there is one for all, one for each hidden layer, or one more for the output layer."""
    if len(activations) in {1, n_hidden, n_hidden + 1}:
        return None
    return (
        f"--activation {text!r} names {len(activations)}, but there are {n_hidden} hidden layers: give one "
        "for all, or one for each."
    )


def _follow(run: Iterator[Epoch], bar: Silence) -> tuple[Epoch, bool]:
    """Show a run's epochs; the last one, and whether Ctrl-C ended it."""
    with bar:
        bar.show(epoch := next(run))
        try:
            for epoch in run:
                bar.show(epoch)
        except KeyboardInterrupt:
            return epoch, True
    return epoch, False


class Split:
    """A table in two parts, as the network sees them and raw."""

    def __init__(self, training: Any, held_out: Any, inputs: Columns, targets: Columns) -> None:
        self.raw_training, self.raw_held_out = training, held_out
        self.inputs, self.targets = inputs, targets
        self.training = Standardised(training, inputs, targets)
        self.held_out = None if held_out is None else Standardised(held_out, inputs, targets)

    @classmethod
    def of(cls, table: Table, part: float, seed: int, loss: Any) -> "Split":
        """Hold a part out at random and measure the columns of the rest."""
        train_rows, held_rows = hold_out(table.source.n_rows, part, seed)
        training = Subset(table.source, train_rows)
        held_out = Subset(table.source, held_rows) if len(held_rows) else None
        inputs, targets = measure(training, table.feature_names, table.target_names)
        constant = [
            name for name, is_constant in zip(targets.names, targets.constant, strict=True) if is_constant
        ]
        if constant:
            raise ValueError(
                f"target {', '.join(constant)} has a single value in the {len(train_rows):,} rows to train "
                "on: there is nothing to learn. Choose another target, or give more rows."
            )
        if not loss.standardises_target:
            targets = Columns.unscaled(targets.names)
        return cls(training, held_out, inputs, targets)


def _introduce(table: Table, about_task: str, split: Split, network: Network) -> None:
    held = "" if split.held_out is None else f", {split.held_out.n_rows:,} held out"
    layers = "-".join(map(str, network.layer_sizes))
    n_columns = len(table.feature_names)
    about_rows = (
        f"{table.name}: {split.training.n_rows:,} rows to train on{held}, {n_columns} "
        f"column{'s' * (n_columns > 1)} to predict {', '.join(table.target_names)} ({about_task})"
    )
    about_network = (
        f"network {layers}: {network.parameters.size:,} parameters on {network.backend.name}, "
        f"{network.backend.dtype_name}"
    )
    for line in (*table.notes, about_rows, about_network):
        options.say(line)


def _report(result: Mapping[str, Any]) -> str:
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
