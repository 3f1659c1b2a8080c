"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from mlp_xp import checks
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.array_api import backend as find_backend
from mlp_xp.catalogue import resolve
from mlp_xp.cli.progress import LiveBar, PlainLines, progress
from mlp_xp.datasets import DATASETS
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
from mlp_xp.tables.reading import TASKS, Table, for_task, open_table
from mlp_xp.training_loop import Epoch
from mlp_xp.training_loop import train as train_network


def _names(catalogue: Any) -> str:
    return ", ".join(name for name in catalogue if name != "given")


PARAMETERS = "with parameters as NAME:PARAMETER=VALUE,... (a list is written 0.1/0.5/0.9)"


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A .csv, .parquet, .arrow or .feather file, a folder or glob of them, an .npz that holds x "
            "and y, or an x.npy. Without it: --dataset.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"Real data that comes along: {', '.join(DATASETS)}.", show_default="diabetes"),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Column to predict, or several with commas; for an x.npy the file with y.",
            show_default=False,
        ),
    ] = "",
    weight_column: Annotated[
        str | None, typer.Option(help="Column with sample weights.", show_default=False)
    ] = None,
    task: Annotated[str, typer.Option(help=f"{', '.join(TASKS)}.")] = "auto",
    hidden: Annotated[str, typer.Option(help="Units of each hidden layer; '' for none.")] = "64,64",
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
    optimizer: Annotated[str, typer.Option(help=f"{_names(OPTIMIZERS)}; {PARAMETERS}.")] = "adam",
    learning_rate: Annotated[float, typer.Option(help="Step size.")] = 1e-3,
    schedule: Annotated[
        str, typer.Option(help=f"Learning rate over time: {_names(SCHEDULES)}; {PARAMETERS}.")
    ] = "constant",
    batch_size: Annotated[
        str, typer.Option(help="Rows a step: a number, 'full' for all, or 'auto'.")
    ] = "256",
    order: Annotated[str, typer.Option(help=f"Which rows, when: {_names(ORDERS)}.")] = "shuffled",
    epochs: Annotated[int, typer.Option(help="Passes over the data, at most.")] = 1000,
    validation: Annotated[float, typer.Option(help="Part of the rows that is held out, in [0, 1).")] = 0.1,
    patience: Annotated[
        int, typer.Option(help="Epochs without improvement until it stops; 0 to go on.")
    ] = 20,
    tolerance: Annotated[
        float, typer.Option(help="What counts as an improvement, in units of the loss.")
    ] = 0.0,
    loss_below: Annotated[
        float | None, typer.Option(help="Stop when the watched loss is below it.", show_default=False)
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(help="Seconds after which it stops.", show_default=False)
    ] = None,
    keep: Annotated[str, typer.Option(help="Weights of the 'best' or the 'last' epoch.")] = "best",
    l1: Annotated[float, typer.Option(help="Strength of the penalty on sum |w|.")] = 0.0,
    l2: Annotated[float, typer.Option(help="Strength of the penalty on sum w^2.")] = 0.0,
    dropout: Annotated[
        str, typer.Option(help="Probability to leave a hidden unit out, or one a layer with commas.")
    ] = "0",
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of a step's gradient.", show_default=False)
    ] = None,
    reduction: Annotated[
        str, typer.Option(help="Objective: 'mean' over the rows of a step, or their 'sum'.")
    ] = "mean",
    seed: Annotated[int, typer.Option(help="Of held-out part, starting weights, order and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(help="Model file to write (.safetensors).", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output instead of the table.")
    ] = False,
) -> int:
    """Train a multilayer perceptron till convergence.

    Columns are standardised with the training part's statistics, and so is the target of a squared, absolute,
    Huber or pinball loss; metrics are in the target's own units.

    For example

      mlp-xp train

      mlp-xp train --dataset digits --hidden 100 --l2 1e-4

      mlp-xp train houses.csv --target price --out houses.safetensors

      mlp-xp train --loss pinball:quantiles=0.1/0.5/0.9 --schedule cosine --epochs 200
    """
    find_backend(device, dtype)  # refused before any work
    _check_output(out)
    sizes, rates = _numbers("--hidden", hidden, int), _numbers("--dropout", dropout, float)
    batch: int | str = (
        batch_size if batch_size in ("full", "auto") else _numbers("--batch-size", batch_size, int)[0]
    )
    checks.refuse(
        [
            checks.number("validation", validation, least=0, below=1),
            checks.whole("patience", patience, least=0),
            checks.number("l1", l1, least=0),
            checks.number("l2", l2, least=0),
        ]
    )
    named_loss = None if loss is None else resolve("loss", LOSSES, loss)
    rule = resolve("optimizer", OPTIMIZERS, optimizer)
    resolve("schedule", SCHEDULES, schedule)
    targets = [name.strip() for name in target.split(",") if name.strip()]
    table, about_task = for_task(
        open_table(data, target=targets, weight_column=weight_column, dataset=dataset),
        task,
        labels_needed=None if named_loss is None else named_loss.labels,
    )
    chosen = named_loss or resolve(
        "loss", LOSSES, "squared_error" if table.levels is None else "softmax_cross_entropy"
    )
    split = Split.of(table, validation, seed, chosen)
    n_classes = None if table.levels is None else len(table.levels)
    if n_classes is not None and not chosen.labels:
        n_classes = None  # two classes, one output
    network = Network(
        (len(table.feature_names), *sizes, chosen.n_outputs(len(table.target_names), n_classes)),
        activation=_listed(activation),
        bias=bias,
        initializer=initializer,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    model = TableModel(network, split.inputs, split.targets, table.levels)
    loader = Loader(
        split.training, batch_size="full" if isinstance(rule, LBFGS) else batch, order=order, seed=seed
    )
    held_out = Loader(split.held_out, batch_size="full") if split.held_out else None
    if not quiet:
        _introduce(table, about_task, split, network)
    run = train_network(
        network,
        loader,
        loss=chosen,
        optimizer=rule,
        learning_rate=learning_rate,
        schedule=schedule,
        regularizer=ElasticNet(l1, l2) if l1 or l2 else None,
        dropout=rates[0] if len(rates) == 1 else rates,
        clip_norm=clip_norm,
        reduction=reduction,
        validation=held_out,
        max_epochs=epochs,
        patience=patience or None,
        tolerance=tolerance,
        loss_below=loss_below,
        time_budget=time_budget,
        keep=keep,
        seed=seed,
    )
    epoch, interrupted = _follow(run, network, progress(epochs, quiet=quiet))
    part, raw = ("held-out", split.raw_held_out) if split.raw_held_out else ("training", split.raw_training)
    metrics = evaluate(model, raw, chosen)
    if out is not None:
        save(model, out)
    result = {
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "metrics_on": part,
        "rows_measured": raw.n_rows,
        "epochs": epoch.number,
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "stopped": "interrupted" if interrupted else epoch.stopped,
        "seconds": epoch.seconds,
        "device": network.backend.name,
        "dtype": dtype,
        "steps_this_run": epoch.number * epoch.steps,
        "resumed_from": None,
        "ranks": 1,
        "rows_gathered": [epoch.number * epoch.n_rows],
        "model": None if out is None else str(out),
    }
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        _report(result)
    return 130 if interrupted else 0


def _follow(run: Iterator[Epoch], network: Network, bar: LiveBar | PlainLines) -> tuple[Epoch, bool]:
    """Show a run's epochs; the last one, and whether Ctrl-C ended it (then with the best weights so far)."""
    with bar:
        bar.show(epoch := next(run))
        try:
            for epoch in run:
                bar.show(epoch)
        except KeyboardInterrupt:
            network.parameters.flat[...] = epoch.best_parameters
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
                f"target {', '.join(constant)} has a single value in the training part: there is nothing to "
                "learn. Choose another target or give more rows."
            )
        if not loss.standardises_target:
            targets = Columns.unscaled(targets.names)
        return cls(training, held_out, inputs, targets)


def _check_output(out: Path | None) -> None:
    if out is not None and not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}. Make it first.")
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder: name a file.")


def _numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(
            f"{option} {text!r} must be {what} with commas between them, such as 64,64."
        ) from None


def _listed(activation: str) -> str | list[str]:
    names = activation.split(",")
    return names if len(names) > 1 else activation


def _introduce(table: Table, about_task: str, split: Split, network: Network) -> None:
    held = "" if split.held_out is None else f", {split.held_out.n_rows:,} held out"
    layers = "-".join(map(str, network.layer_sizes))
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"{table.name}: {split.training.n_rows:,} rows to train on{held}, {len(table.feature_names)} columns "
        f"to predict {', '.join(table.target_names)} ({about_task})\n"
        f"network {layers}: {network.parameters.size:,} parameters on {network.backend.name}, "
        f"{network.backend.dtype_name}",
        markup=False,
    )


def _report(result: dict[str, Any]) -> None:
    table = RichTable(show_header=False, box=None, pad_edge=False)
    for name, value in result["metrics"].items():
        table.add_row(f"{name} ({result['metrics_on']})", "undefined" if value is None else f"{value:.4g}")
    table.add_row("epochs", str(result["epochs"]))
    table.add_row("stopped", result["stopped"])
    table.add_row("seconds", f"{result['seconds']:.2f}")
    table.add_row("device", result["device"])
    if result["model"]:
        table.add_row("model", result["model"])
    Console(highlight=False).print(table)
