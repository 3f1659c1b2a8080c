"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.cli import configuration, options, stages
from mlp_xp.cli.configuration import Config
from mlp_xp.cli.options import DATA, REAL, WHOLE, option
from mlp_xp.cli.outputs import OUTPUT, LogFile, Outputs, Plot, Report, TensorBoard, command_line
from mlp_xp.cli.plan import plan_of
from mlp_xp.cli.run_control import find_ranks, lowest_first
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.losses import LOSSES
from mlp_xp.machine import cuda
from mlp_xp.machine.array_api import DTYPES
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.rows.order import ORDERS
from mlp_xp.schedules import SCHEDULES
from mlp_xp.tables.datasets import DATASETS
from mlp_xp.tables.reading import TASKS
from mlp_xp.tables.statistics import MAX_LEVELS, SCALINGS


def _names(catalogue: Mapping[str, Any]) -> str:
    return ", ".join(name for name in catalogue if name != "given")


NOT_IN_CONFIGURATION = {
    *("device", "out", "no_mpi", "all_reduce", "cache_dir"),
    *("device_memory_limit", "cuda_graph", "plain_steps"),
    *("checkpoint_dir", "checkpoint_every", "checkpoint_errors", "resume", "override"),
    *("report", "plot", "log", "tensorboard", "quiet", "as_json", "_debug", "config", "context"),
}
"""Options that a run may be resumed with others of: the result does not depend on them."""

NETWORK, TRAINING, END = "Network", "Training", "Held-out part and when it stops"
CHECKPOINTS, MACHINE = "Checkpoints", "Machine"
"""Headings in the help."""

PARAMETERS = "with parameters as NAME:PARAMETER=VALUE,... (a list is written 0.1/0.5/0.9)"


def train(
    context: typer.Context,
    data: options.Data = None,
    dataset: Annotated[
        str | None,
        option(
            DATA, f"Real data that comes along: {', '.join(DATASETS)}.", default="diabetes", known=DATASETS
        ),
    ] = None,
    target: options.Target = "",
    weight_column: options.WeightColumn = None,
    columns: Annotated[
        str,
        option(DATA, "Columns to use, in this order, with commas.", default="all others"),
    ] = "",
    exclude: options.Exclude = "",
    text: options.Text = "",
    task: Annotated[
        str,
        option(DATA, f"{', '.join(TASKS)} (what the target looks like, and the run says so).", known=TASKS),
    ] = "auto",
    scaling: Annotated[
        str,
        option(
            DATA,
            "Of numbers: 'standard' (mean 0, deviation 1), 'robust' (median 0, quartiles 1 apart, clipped "
            "smoothly), 'encoded' (bounded, with a rank and ramps between quantiles beside them) or 'none'.",
            known=SCALINGS,
        ),
    ] = "standard",
    max_levels: Annotated[
        int,
        option(
            DATA,
            "Texts of a column that are told apart, >= 1: the most frequent ones; the rest is one.",
            **WHOLE,
        ),
    ] = MAX_LEVELS,
    delimiter: options.Delimiter = None,
    decimal: options.Decimal = None,
    encoding: options.Encoding = None,
    null: options.Null = "",
    date_format: options.DateFormat = None,
    hidden: Annotated[
        str,
        option(NETWORK, "Units of each hidden layer, with commas; '' for none."),
    ] = "64,64",
    activation: Annotated[
        str,
        option(
            NETWORK,
            f"Of the hidden layers, or one each with commas: {_names(ACTIVATIONS)}.",
            known=ACTIVATIONS,
        ),
    ] = "relu",
    bias: Annotated[bool, option(NETWORK, "Whether layers have biases.", "--bias/--no-bias")] = True,
    initializer: Annotated[
        str | None,
        option(
            NETWORK,
            f"Starting weights: {_names(INITIALIZERS)}.",
            default="what suits the activation",
            known=INITIALIZERS,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        option(
            TRAINING,
            f"{_names(LOSSES)}; {PARAMETERS}.",
            default="squared_error, or softmax_cross_entropy for classes",
            known=LOSSES,
        ),
    ] = None,
    optimizer: Annotated[
        str,
        option(
            TRAINING, f"{_names(OPTIMIZERS)} (which takes all rows a step); {PARAMETERS}.", known=OPTIMIZERS
        ),
    ] = "adam",
    learning_rate: Annotated[
        float,
        option(TRAINING, "Step size, > 0: what an update's direction is multiplied with.", **REAL),
    ] = 1e-3,
    schedule: Annotated[
        str,
        option(TRAINING, f"Learning rate over time: {_names(SCHEDULES)}; {PARAMETERS}.", known=SCHEDULES),
    ] = "constant",
    batch_size: Annotated[
        str,
        option(
            TRAINING, "Rows a step: a number, 'full' for all, or 'auto' (a 32nd of the rows, at most 4096)."
        ),
    ] = "256",
    order: Annotated[
        str, option(TRAINING, f"Which rows, when: {_names(ORDERS)}.", known=ORDERS)
    ] = "shuffled",
    epochs: Annotated[
        int,
        option(TRAINING, "Passes over the data, at most.", **WHOLE),
    ] = 1000,
    validation: Annotated[
        float,
        option(END, "Part of the rows that is held out, in [0, 1); 0 for none.", **REAL),
    ] = 0.1,
    group: Annotated[
        str | None,
        option(
            END,
            "Hold out whole groups: rows with the same value here. It is no input unless --columns names it.",
            default="single rows",
            metavar="COLUMN",
        ),
    ] = None,
    time: Annotated[
        str | None,
        option(
            END,
            "Hold out the latest rows by this column (a date or a number).",
            default="rows at random",
            metavar="COLUMN",
        ),
    ] = None,
    patience: Annotated[
        int,
        option(END, "Epochs without improvement of the watched loss until it stops; 0 to go on.", **WHOLE),
    ] = 20,
    tolerance: Annotated[
        float,
        option(END, "What counts as an improvement, in units of the loss.", **REAL),
    ] = 0.0,
    loss_below: Annotated[
        float | None,
        option(
            END,
            "Stop when the watched loss is below it, in units of the loss.",
            default="never",
            **REAL,
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        option(END, "Seconds after which it stops, at the end of an epoch.", default="no limit", **REAL),
    ] = None,
    keep: Annotated[str, option(END, "Whose weights are kept: 'best' or 'last' epoch.")] = "best",
    on_divergence: Annotated[
        str,
        option(
            END,
            "What a loss that is not finite leads to: 'stop', or 'rollback' to the best epoch with half "
            "the learning rate, ten times at most.",
        ),
    ] = "stop",
    l1: Annotated[
        float,
        option(TRAINING, "Strength of the penalty on sum |w|, >= 0.", **REAL),
    ] = 0.0,
    l2: Annotated[
        float,
        option(TRAINING, "Strength of the penalty on sum w^2, >= 0.", **REAL),
    ] = 0.0,
    dropout: Annotated[
        str,
        option(
            TRAINING,
            "Probability, in [0, 1), to leave a hidden unit out of a step; or one a layer with commas.",
        ),
    ] = "0",
    clip_norm: Annotated[
        float | None,
        option(TRAINING, "Largest Euclidean norm of a step's gradient, > 0.", default="no limit", **REAL),
    ] = None,
    reduction: Annotated[
        str,
        option(TRAINING, "Objective: 'mean' over the rows of a step, or their 'sum'."),
    ] = "mean",
    seed: Annotated[
        int,
        option(TRAINING, "Of held-out part, starting weights, order and dropout; >= 0.", **WHOLE),
    ] = 0,
    device: options.Device = "cpu",
    dtype: Annotated[
        str, option(NETWORK, "Of weights and arithmetic: float32 or float64.", known=DTYPES)
    ] = "float32",
    out: Annotated[
        Path | None,
        option(OUTPUT, "Model file to write (.safetensors).", default="none", metavar="FILE"),
    ] = None,
    report: Report = None,
    plot: Plot = None,
    log: LogFile = None,
    tensorboard: TensorBoard = None,
    init: Annotated[
        Path | None,
        option(
            NETWORK, "Model to go on from, on data with the same columns.", default="none", metavar="MODEL"
        ),
    ] = None,
    config: Config = None,
    class_weight: Annotated[
        str,
        option(
            TRAINING, "'balanced' gives every class the same total weight; 'none' leaves rows as they are."
        ),
    ] = "none",
    accumulate: Annotated[
        int,
        option(TRAINING, "Batches whose gradients are added up for one step, >= 1.", **WHOLE),
    ] = 1,
    memory_limit: options.MemoryLimit = "1GB",
    cache: options.Cache = True,
    cache_dir: options.CacheDir = None,
    checkpoint_dir: Annotated[
        Path | None,
        option(
            CHECKPOINTS, "Folder for the run's checkpoints; made if needed.", default="none", metavar="DIR"
        ),
    ] = None,
    checkpoint_every: Annotated[
        str,
        option(CHECKPOINTS, "How often: a time, epochs or steps, such as 5min, 1epoch, 500steps."),
    ] = "5min",
    checkpoint_errors: Annotated[
        str,
        option(CHECKPOINTS, "If a checkpoint cannot be written: 'go on' with a warning, or 'stop'."),
    ] = "go on",
    resume: Annotated[
        bool,
        option(
            CHECKPOINTS,
            "Go on from the last good checkpoint, on any number of ranks (the same result up to rounding); "
            "from the beginning where there is none.",
            "--resume",
            default="off",
        ),
    ] = False,
    override: Annotated[
        bool,
        option(CHECKPOINTS, "Resume although options or data differ.", "--override", default="off"),
    ] = False,
    tf32: Annotated[
        bool,
        option(
            MACHINE,
            "Round the factors of float32 products to 10 bits on a GPU: faster, less exact.",
            "--tf32",
            default="off",
        ),
    ] = False,
    device_memory_limit: Annotated[
        str | None,
        option(
            MACHINE,
            "The most of the GPU's memory to take, to share a card: 4GiB, 500MB, 50%.",
            default="all",
            metavar="AMOUNT",
        ),
    ] = None,
    cuda_graph: Annotated[
        bool,
        option(MACHINE, "Launch a whole step on a GPU as one.", "--cuda-graph/--no-cuda-graph"),
    ] = True,
    plain_steps: Annotated[
        bool,
        option(
            MACHINE,
            "Make steps with NumPy or CuPy alone: nothing is compiled, fused or recorded.",
            "--plain-steps",
            default="off",
        ),
    ] = False,
    no_mpi: Annotated[
        bool,
        option(MACHINE, "Train as one process, also under mpiexec.", "--no-mpi", default="off"),
    ] = False,
    all_reduce: Annotated[
        str,
        option(
            MACHINE,
            "How ranks sum gradients on GPUs: 'auto' by NCCL where it is installed and else through the "
            "host, 'nccl', 'host', or 'mpi' for an MPI that takes GPU memory.",
            known=cuda.ALL_REDUCES,
        ),
    ] = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> int:
    """Train a multilayer perceptron till convergence.

    Numbers are standardised; texts and booleans become a column for each level; dates become days and where
    they are in the day, the week and the year; gaps become the median, and a column that says so: all by the
    training part's statistics. So is the target of a squared, absolute, Huber or pinball loss; metrics are in
    the target's own units. The watched loss is that of the held-out part, or of training without one.

    For example

      mlp-xp train

      mlp-xp train --dataset digits --hidden 100 --l2 1e-4

      mlp-xp train houses.csv --target price --out houses.safetensors

      mlp-xp train power.csv --target watts --time when --exclude id --scaling robust

      mlp-xp train --config houses.safetensors.toml --seed 1

      mlp-xp train sold.csv --init houses.safetensors --out houses2.safetensors

      mlp-xp train --loss pinball:quantiles=0.1/0.5/0.9 --schedule cosine --epochs 200
    """
    asked = SimpleNamespace(**locals())
    settings = {name: value for name, value in vars(asked).items() if name not in NOT_IN_CONFIGURATION}
    ranks = find_ranks(alone=no_mpi, all_reduce=all_reduce)
    is_first = ranks is None or ranks.rank == 0
    asked.quiet = quiet or not is_first
    asked.device = device if ranks is None else ranks.own_device(device)
    asked.outputs = Outputs(report, plot, log, tensorboard) if is_first else Outputs()
    if tf32:
        cuda.allow_tf32()
    with contextlib.ExitStack() as stack:
        asked.data = stack.enter_context(options.given_data(data))
        plan = plan_of(context, asked)
        with lowest_first(ranks), options.reading(data, quiet=asked.quiet) as reading:
            rows = stages.read_data(plan, reading)
        model = stages.model_for(plan, rows)
        ended = stages.carry_out(plan, rows, model, ranks, settings)
        if not is_first:
            return ended.status
        result = stages.result_of(plan, rows, model, ended, 1 if ranks is None else ranks.size)
        if out is not None:
            stages.save_model(plan, rows, model, ended, result, out)
            configuration.write(context, out)
        asked.outputs.finish(
            model,
            ended.history,
            result,
            training=rows.parts.raw_training,
            held_out=rows.parts.raw_held_out,
            source=rows.table.name,
            introduction=stages.introduction(plan, rows, model.network),
            command=command_line(context),
            seed=seed,
        )
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        print(stages.report(result))
    return ended.status
