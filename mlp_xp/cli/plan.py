"""What a training's options ask for, read and checked before any work; all that is wrong is said at once."""

import dataclasses
from pathlib import Path
from typing import Any

import typer

from mlp_xp.activations import resolve_activation
from mlp_xp.cli import options
from mlp_xp.dropout import resolve_dropout
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.losses import LOSSES
from mlp_xp.machine import cuda
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.rows.order import ORDERS
from mlp_xp.saved.checkpoint import Every
from mlp_xp.saved.model_file import load
from mlp_xp.schedules import SCHEDULES
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import resolve
from mlp_xp.tables.datasets import DATASETS
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.reading import TASKS, Place
from mlp_xp.tables.split import HoldOut
from mlp_xp.tables.statistics import SCALINGS

OF_THE_MODEL = {
    *("hidden", "activation", "bias", "initializer", "dtype", "loss", "task"),
    *("columns", "exclude", "text", "scaling", "max_levels"),
}
"""Options that a model to go on from decides."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What options ask for.

    Attributes
    ----------
    asked : namespace
        The options themselves, by name.
    place : Place
        Where the data is.
    hold_out : HoldOut
        Which rows are held out.
    start : TableModel or None
        The model to go on from.
    hidden, activations, rates : tuple
        Units of each hidden layer; activations; probabilities of dropout.
    batch_size : int or str
        Rows a step.
    loss, rule, schedule, order : objects
        The loss is None where none is named, the order where it is the source's own.
    memory_limit : int
        Bytes.
    """

    asked: Any
    place: Place
    hold_out: HoldOut
    start: TableModel | None
    hidden: tuple[int, ...]
    activations: tuple[Any, ...]
    rates: tuple[float, ...]
    batch_size: int | str
    loss: Any
    rule: Any
    schedule: Any
    order: Any
    memory_limit: int

    @property
    def dropout(self) -> Any:
        """One probability for all hidden layers, or one for each."""
        return self.rates[0] if len(self.rates) == 1 else self.rates

    @property
    def way(self) -> str:
        """How updates are made, of `fast.WAYS`."""
        if self.asked.plain_steps:
            return "plain"
        return "fast" if self.asked.cuda_graph else "fused"


def plan_of(context: typer.Context, asked: Any) -> Plan:
    """Read all options.

    Parameters
    ----------
    context : typer.Context
        Which says what was given on the command line.
    asked : namespace
        The options by name.

    Raises
    ------
    ValueError
        All that is wrong with them, a line each.
    """
    wrong = options.Problems()
    start = None if asked.init is None else wrong.reading(_start, context, asked)
    hidden = wrong.reading(options.numbers, "--hidden", asked.hidden, int)
    if start is not None:
        hidden = start.network.layer_sizes[1:-1]
    rates = wrong.reading(options.numbers, "--dropout", asked.dropout, float)
    activations = [wrong.reading(resolve_activation, name) for name in options.names(asked.activation)]
    if hidden is not None:
        wrong.add(*(checks.whole("--hidden", size) for size in hidden))
        if start is None:
            wrong.add(_activations_problem(asked.activation, activations, len(hidden)))
        if rates is not None and asked.seed >= 0:
            dropout = rates[0] if len(rates) == 1 else rates
            wrong.reading(resolve_dropout, dropout, len(hidden), asked.seed)
    if asked.initializer is not None:
        wrong.reading(_initializer, asked.initializer)
    plan = Plan(
        asked=asked,
        place=_place(asked, start, wrong),
        hold_out=_hold_out(asked, wrong),
        start=start,
        hidden=hidden or (),
        activations=tuple(activations),
        rates=rates or (),
        batch_size=wrong.reading(_batch_size, asked.batch_size) or "full",
        loss=None if asked.loss is None else wrong.reading(resolve, "loss", LOSSES, asked.loss),
        rule=wrong.reading(resolve, "optimizer", OPTIMIZERS, asked.optimizer),
        schedule=wrong.reading(resolve, "schedule", SCHEDULES, asked.schedule),
        order=wrong.reading(resolve, "order", ORDERS, asked.order),
        memory_limit=wrong.reading(options.amount, "--memory-limit", asked.memory_limit) or 0,
    )
    _check(asked, plan, wrong)
    wrong.refuse()
    return plan


def _check(asked: Any, plan: Plan, wrong: options.Problems) -> None:
    """What is a problem on its own."""
    wrong.reading(Every.parse, asked.checkpoint_every)
    if asked.device_memory_limit is not None:
        wrong.reading(cuda.parse_limit, asked.device_memory_limit)
    wrong.reading(options.check_device, asked.device, asked.dtype)
    read = [asked.data, asked.init, asked.config, *plan.place.target]
    wrong.add(
        plan.place.problem(),
        None if asked.dataset is None else checks.one_of("--dataset", asked.dataset, DATASETS),
        checks.one_of("--task", asked.task, TASKS),
        checks.one_of("--scaling", asked.scaling, SCALINGS),
        checks.whole("--max-levels", asked.max_levels),
        checks.number("--learning-rate", asked.learning_rate, above=0),
        checks.whole("--epochs", asked.epochs),
        checks.whole("--patience", asked.patience, least=0),
        checks.number("--tolerance", asked.tolerance, least=0),
        None if asked.loss_below is None else checks.number("--loss-below", asked.loss_below),
        None if asked.time_budget is None else checks.number("--time-budget", asked.time_budget, above=0),
        checks.one_of("--keep", asked.keep, ("best", "last")),
        checks.one_of("--on-divergence", asked.on_divergence, ("stop", "rollback")),
        checks.number("--l1", asked.l1, least=0),
        checks.number("--l2", asked.l2, least=0),
        None if asked.clip_norm is None else checks.number("--clip-norm", asked.clip_norm, above=0),
        checks.one_of("--reduction", asked.reduction, ("mean", "sum")),
        checks.whole("--seed", asked.seed, least=0),
        None if asked.out is None else options.output_problem(asked.out, read),
        checks.one_of("--class-weight", asked.class_weight, ("none", "balanced")),
        checks.whole("--accumulate", asked.accumulate),
        checks.one_of("--all-reduce", asked.all_reduce, cuda.ALL_REDUCES),
        checks.one_of("--checkpoint-errors", asked.checkpoint_errors, ("go on", "stop")),
        *asked.outputs.problems(read),
        "--resume: say from where with --checkpoint-dir DIR."
        if asked.resume and asked.checkpoint_dir is None
        else None,
    )


def _place(asked: Any, start: TableModel | None, wrong: options.Problems) -> Place:
    """Where the data is."""
    form = wrong.reading(
        options.csv_form, asked.delimiter, asked.decimal, asked.encoding, asked.null, asked.date_format
    )
    target = options.names(asked.target)
    if start is not None and not target and asked.data is not None:
        target = start.targets.names if Path(asked.data).suffix != ".npz" else ()
    return Place(
        asked.data,
        asked.dataset,
        target,
        asked.weight_column,
        columns=options.names(asked.columns),
        exclude=options.names(asked.exclude),
        text=options.names(asked.text),
        beside=asked.group or asked.time,
        beside_is_input=asked.time is not None,
        form=form,
        cache=asked.cache,
        cache_dir=asked.cache_dir,
    )


def _hold_out(asked: Any, wrong: options.Problems) -> HoldOut:
    """Which rows are held out."""
    wrong.add(checks.number("--validation", asked.validation, least=0, below=1))
    if asked.group and asked.time:
        wrong.add("--group and --time are two ways to hold rows out: give one of them.")
    by = "group" if asked.group else "time" if asked.time else "random"
    if by != "random" and asked.validation == 0:
        wrong.add(f"--{by}: with --validation 0 no rows are held out. Leave one of the two out.")
    return HoldOut(asked.validation, by, asked.group or asked.time, max(asked.seed, 0))


def _start(context: typer.Context, asked: Any) -> TableModel:
    """The model to go on from."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in sorted(OF_THE_MODEL)
        if getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    ]
    if given:
        raise ValueError(f"{', '.join(given)}: --init goes on from a model, which has its own. Leave it out.")
    model = load(asked.init, asked.device)
    if not isinstance(model, TableModel):
        raise ValueError(
            f"--init {asked.init} holds a {type(model).__name__}: name a model that mlp-xp train wrote, "
            "which knows what its columns mean."
        )
    target = options.names(asked.target)
    if target and target != model.targets.names:
        raise ValueError(
            f"--target {asked.target}: the model of --init predicts {', '.join(model.targets.names)}."
        )
    return model


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
