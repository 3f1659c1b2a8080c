"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlp_xp import checks, cuda
from mlp_xp.activations import ACTIVATIONS, resolve_activation
from mlp_xp.catalogue import describe, resolve
from mlp_xp.checkpoint import Checkpoints, Every, Interruption
from mlp_xp.cli import options
from mlp_xp.cli.progress import Counted, Silence, duration, progress
from mlp_xp.cli.run_control import controlled, find_ranks, history_of, lowest_first
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
from mlp_xp.sources import ClassWeighted
from mlp_xp.stopping import Stopping
from mlp_xp.tables.around import Prepared, Subset
from mlp_xp.tables.holding_out import at_random
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.tables.reading import TASKS, Table, check_targets, for_task, open_table
from mlp_xp.tables.statistics import measure
from mlp_xp.training_loop import Epoch
from mlp_xp.training_loop import train as train_network


def _names(catalogue: Mapping[str, Any]) -> str:
    return ", ".join(name for name in catalogue if name != "given")


NOT_IN_CONFIGURATION = {
    *("device", "out", "no_mpi", "all_reduce", "cache_dir", "device_memory_limit", "cuda_graph"),
    *("checkpoint_dir", "checkpoint_every", "checkpoint_errors", "resume", "override"),
    *("quiet", "as_json", "_debug"),
}
"""Options that a run may be resumed with others of: the result does not depend on them."""

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
    class_weight: Annotated[
        str,
        typer.Option(
            help="'balanced' gives every class the same total weight; 'none' leaves rows as they are."
        ),
    ] = "none",
    accumulate: Annotated[
        int,
        typer.Option(
            parser=options.whole,
            metavar="INT",
            help="Batches whose gradients are added up for one step, >= 1.",
        ),
    ] = 1,
    memory_limit: Annotated[
        str,
        typer.Option(
            help="Memory for the data, such as 500MB or 4GB: a larger table is kept in a file in the cache "
            "folder; and for a step of an 'auto' batch."
        ),
    ] = "1GB",
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The cache folder.", show_default="the user's own")
    ] = None,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the run's checkpoints; made if needed.", show_default="none"
        ),
    ] = None,
    checkpoint_every: Annotated[
        str, typer.Option(help="How often: a time, epochs or steps, such as 5min, 1epoch, 500steps.")
    ] = "5min",
    checkpoint_errors: Annotated[
        str, typer.Option(help="If a checkpoint cannot be written: 'go on' with a warning, or 'stop'.")
    ] = "go on",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last good checkpoint; from the beginning where there is none.",
            show_default="off",
        ),
    ] = False,
    override: Annotated[
        bool,
        typer.Option("--override", help="Resume although options or data differ.", show_default="off"),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32",
            help="Round the factors of float32 products to 10 bits on a GPU: faster, less exact.",
            show_default="off",
        ),
    ] = False,
    device_memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT",
            help="The most of the GPU's memory to take, to share a card: 4GiB, 500MB, 50%.",
            show_default="all",
        ),
    ] = None,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph/--no-cuda-graph", help="Launch a whole step on a GPU as one."),
    ] = True,
    no_mpi: Annotated[
        bool,
        typer.Option("--no-mpi", help="Train as one process, also under mpiexec.", show_default="off"),
    ] = False,
    all_reduce: Annotated[
        str,
        typer.Option(
            help="How ranks sum gradients on GPUs: 'auto' by NCCL where it is installed and else through the "
            "host, 'nccl', 'host', or 'mpi' for an MPI that takes GPU memory."
        ),
    ] = "auto",
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
    given = locals()
    configuration = {name: given[name] for name in given if name not in NOT_IN_CONFIGURATION}
    ranks = find_ranks(alone=no_mpi, all_reduce=all_reduce)
    quiet = quiet or (ranks is not None and ranks.rank > 0)
    device, is_first = device if ranks is None else ranks.own_device(device), ranks is None or ranks.rank == 0
    wrong = options.Problems()
    limit = wrong.reading(options.amount, "--memory-limit", memory_limit)
    wrong.reading(Every.parse, checkpoint_every)
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
    if tf32:
        cuda.allow_tf32()
    if device_memory_limit is not None:
        wrong.reading(cuda.parse_limit, device_memory_limit)
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
        checks.one_of("--class-weight", class_weight, ("none", "balanced")),
        checks.whole("--accumulate", accumulate),
        checks.one_of("--all-reduce", all_reduce, cuda.ALL_REDUCES),
        checks.one_of("--checkpoint-errors", checkpoint_errors, ("go on", "stop")),
        "--resume: say from where with --checkpoint-dir DIR." if resume and checkpoint_dir is None else None,
    )
    if sizes is not None:
        wrong.add(*(checks.whole("--hidden", size) for size in sizes))
        wrong.add(_activations_problem(activation, activations, len(sizes)))
        if rates is not None and seed >= 0:
            wrong.reading(resolve_dropout, rates[0] if len(rates) == 1 else rates, len(sizes), seed)
    wrong.refuse()
    with lowest_first(ranks), options.reading(data, quiet=quiet) as reading:
        where = dataclasses.replace(where, progress=reading, memory_limit=limit, cache_dir=cache_dir)
        table, about_task = for_task(open_table(where), task, own_loss)
        chosen = own_loss or resolve(
            "loss", LOSSES, "squared_error" if table.levels is None else "softmax_cross_entropy"
        )
        check_targets(table, chosen)
        split = Split.of(table, validation, seed, chosen, class_weight)
    n_classes = len(table.levels) if table.levels is not None and chosen.labels else None
    if device_memory_limit is not None and device.startswith("cuda"):
        cuda.limit_memory(device_memory_limit, int(device.partition(":")[2] or 0))
    network = Network(
        (split.inputs.n_features, *sizes, chosen.n_outputs(len(table.target_names), n_classes)),
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
    takes_all = too_many or isinstance(rule, LBFGS)
    loader = Loader(
        Counted(split.training, bar.passed),
        batch_size="full" if takes_all else rows_a_step,
        order=own_order,
        seed=seed,
        memory_limit=limit,
    )
    if accumulate > 1 and not takes_all:
        loader.accumulate(accumulate)
    stopping: dict[str, Any] = {
        "max_epochs": epochs,
        "patience": patience or None,
        "tolerance": tolerance,
        "loss_below": loss_below,
        "time_budget": time_budget,
    }
    stack = contextlib.ExitStack()
    control, state = stack.enter_context(
        controlled(
            checkpoint_dir,
            checkpoint_every,
            resume=resume,
            override=override,
            on_error=checkpoint_errors,
            configuration=configuration,
            source=table.source,
            ranks=ranks,
            quiet=quiet,
        )
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
        **stopping,
        way="fast" if cuda_graph else "fused",
        checkpoints=control,
        ranks=ranks,
        state=state,
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
        with stack:
            interrupted = _follow(run, bar, control)
    except FloatingPointError as error:
        if bar.epoch is None or out is None or not is_first:
            raise
        kept = _put_back(network, bar, keep)
        model.training |= {"epochs": kept.number, "stopped": "diverged in a later epoch"}
        save(model, out)
        raise FloatingPointError(f"{error} {out} has those of epoch {kept.number}.") from error
    if bar.epoch is not None:
        history, stopped = bar.epoch.training.history, bar.epoch.stopped
    elif state is not None:  # it had ended already
        history = history_of(state)
        stopped = Stopping(**stopping).reason(history)
    if interrupted:
        stopped = "interrupted"
        _put_back(network, bar, keep)
        if checkpoint_dir is not None and not quiet:
            options.say(f"interrupted after step {history.step}; go on with --resume: {checkpoint_dir}")
    part, raw = ("held-out", split.raw_held_out) if split.raw_held_out else ("training", split.raw_training)
    rows_gathered = [bar.rows_gathered] if ranks is None else ranks.gather_numbers(bar.rows_gathered)
    status = 128 + control.interrupted_by if interrupted and control.interrupted_by else 0
    if not is_first:
        return status
    measured = {name: value if math.isfinite(value) else None for name, value in evaluate(model, raw).items()}
    before = control.resumed_from if isinstance(control, Checkpoints) else None
    n_epochs = len(history.train_losses)
    steps = n_epochs if isinstance(rule, LBFGS) else history.step
    result = {
        "metrics": measured,
        "metrics_on": part,
        "rows_measured": raw.n_rows,
        "epochs": n_epochs,
        "best_epoch": history.best_epoch or None,
        "train_loss": history.train_losses[-1],
        "validation_loss": history.validation_losses[-1] if history.validation_losses else None,
        "stopped": stopped,
        "seconds": history.seconds,
        "device": network.backend.name,
        "dtype": dtype,
        "steps_this_run": steps - (before["epoch" if isinstance(rule, LBFGS) else "step"] if before else 0),
        "resumed_from": before,
        "ranks": 1 if ranks is None else ranks.size,
        "rows_gathered": [int(number) for number in rows_gathered],
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
    return status


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


def _follow(run: Iterator[Epoch], bar: Silence, control: Interruption) -> bool:
    """Show a run's epochs; whether a signal ended it after at least one."""
    with bar:
        try:
            for epoch in run:
                bar.show(epoch)
        except KeyboardInterrupt:
            if bar.epoch is None:
                options.say("mlp-xp: error: interrupted.")
                raise SystemExit(128 + (control.interrupted_by or 2)) from None
            return True
    return False


class Split:
    """A table in two parts, as the network sees them and raw."""

    def __init__(self, training: Any, held_out: Any, inputs: Inputs, targets: Targets) -> None:
        self.raw_training, self.raw_held_out = training, held_out
        self.inputs, self.targets = inputs, targets
        self.training = Prepared(training, inputs, targets)
        self.held_out = None if held_out is None else Prepared(held_out, inputs, targets)

    @classmethod
    def of(cls, table: Table, part: float, seed: int, loss: Any, class_weight: str = "none") -> "Split":
        """Hold a part out at random and measure the columns of the rest."""
        train_rows, held_rows = at_random(table.source.n_rows, part, seed)
        inputs, targets = measure(Subset(table.source, train_rows), table.columns, table.target_names)
        source = table.recoded(inputs)
        training: Any = Subset(source, train_rows)
        held_out = Subset(source, held_rows) if len(held_rows) else None
        constant = [
            name for name, is_constant in zip(targets.names, targets.constant, strict=True) if is_constant
        ]
        if constant:
            raise ValueError(
                f"target {', '.join(constant)} has a single value in the {len(train_rows):,} rows to train "
                "on: there is nothing to learn. Choose another target, or give more rows."
            )
        if not loss.standardises_target:
            targets = Targets.unscaled(targets.names)
        if class_weight != "none":
            if table.levels is None:
                raise ValueError(f"--class-weight {class_weight}: the target has no classes (regression).")
            training = ClassWeighted(training, class_weight)
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
