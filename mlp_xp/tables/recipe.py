"""What a training on a table does where nobody says otherwise: all of it in one place.

"plain" is a network of the textbook: numbers standardised, one rate for all parameters, steps until the
held-out loss no longer falls. "tables" is what measured best on tables of many kinds (`python -m bench
tables`), of parts that can each be set alone:

    inputs      bounded, with rank and ramps (`encoding`); levels of a text the smaller the more there are
                (`statistics`); a trained scale on each
    targets     standardised; a lone one far outside of all others counts as one nearer to them (`statistics`)
    network     three hidden layers of 128, mish; weights N(0, 1/n_in), biases N(0, 1/4); outputs start at 0
    steps       AdamW, β (0.9, 0.95); η half a cosine; factors 1/√n_in on weights, 0.1 on biases, 6 on scales
    against     dropout and decoupled decay, both constant for half of the run, then falling along half a
    overfitting cosine; an average of the weights; labels smoothed by min(0.1, m² / 0.1), m the part of the
                rows outside of the largest class; the best epoch by the held-out rows, of classes with
                probabilities calibrated (`watched`)
    in the end  predictions no further out than the training rows' targets; probabilities calibrated, and then
                shifted by the classes' weights, if any (`calibration`)

References
----------
Holzmüller, Grinsztajn and Steinwart, Better by default: strong pre-tuned MLPs and boosted trees on tabular
data, NeurIPS 2024, from which most of it comes.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mlp_xp.initializers import Initializer
    from mlp_xp.losses import Loss
    from mlp_xp.tables.options import TrainingOptions

Settings = TypeVar("Settings", bound="TrainingOptions")

RECIPES = ("tables", "plain")

PLAIN: dict[str, Any] = {
    "scaling": "standard",
    "hidden": "64,64",
    "activation": "relu",
    "input_scale": "off",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "rate_factors": "none",
    "schedule": "constant",
    "batch_size": "256",
    "epochs": 1000,
    "dropout": "0",
    "dropout_schedule": "constant",
    "decay_schedule": "constant",
    "average": 0.0,
    "validation": 0.1,
    "patience": 20,
}
"""Every setting that a recipe decides, by its name."""

NEW_IN_RECIPES = ("input_scale", "rate_factors", "dropout_schedule", "decay_schedule", "average")
"""Those that came with recipes: a plain run is described as it was before."""

WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.1

TABLES: dict[str, Any] = PLAIN | {
    "scaling": "encoded",
    "hidden": "128,128,128",
    "activation": "mish",
    "input_scale": "on",
    "optimizer": f"adamw:beta2=0.95,weight_decay={WEIGHT_DECAY}",
    "learning_rate": 0.035,
    "rate_factors": "by_fan_in=true,biases=0.1,input_scale=6",
    "schedule": "cosine",
    "dropout": "0.1",
    "dropout_schedule": "flat_cosine",
    "decay_schedule": "flat_cosine",
    "average": 0.03,
    "patience": 0,
}

RATE_FOR_CLASSES = 0.02
"""The learning rate where classes are predicted."""

STEPS = ("rate_factors", "schedule", "batch_size", "epochs", "dropout", "dropout_schedule", "decay_schedule")
"""What suits the recipe's own update rule and no other, beside these: with --optimizer it is as in plain."""

FEW_ROWS, LEAST_HELD_OUT, MOST_HELD_OUT = 50, 0.1, 0.2
"""Rows that should be held out, and the least and the largest part."""

LEAST_BATCH, MOST_BATCH, LARGE_BATCH = 32, 128, 256
MANY_ROWS, EPOCHS, FEWEST_EPOCHS, MOST_EPOCHS = 50_000, 40, 6, 256

LEAST_STEPS, LEAST_STEPS_FOR_CLASSES = 750, 600
"""Steps of a run on few rows. 1,000 take 1.3 and 1.5 times as long, for the same RMSE (of two tables) and
a larger share wrong (of eight tables, by 3%) and log loss (by 1%)."""


def learning_rate(*, has_classes: bool) -> float:
    """The rate that goes with the recipe's factors."""
    return float(RATE_FOR_CLASSES if has_classes else TABLES["learning_rate"])


def validation_part(n_rows: int) -> float:
    """The part of the rows to hold out."""
    return min(MOST_HELD_OUT, max(LEAST_HELD_OUT, FEW_ROWS / n_rows))


def batch_size(n_rows: int) -> int:
    """Rows a step: the power of two nearest to a 16th, within 32 … 128; 256 where there are many."""
    if n_rows > MANY_ROWS:
        return LARGE_BATCH
    return min(MOST_BATCH, max(LEAST_BATCH, 2 ** round(math.log2(max(1, n_rows) / 16))))


def epochs(n_rows: int, batch: int, *, has_classes: bool) -> int:
    """Passes: 40, more where that are few steps, fewer where there are many rows (40 √(50,000 / n))."""
    if n_rows > MANY_ROWS:
        return max(FEWEST_EPOCHS, round(EPOCHS * math.sqrt(MANY_ROWS / n_rows)))
    steps = max(1, n_rows // batch)
    least = LEAST_STEPS_FOR_CLASSES if has_classes else LEAST_STEPS
    return min(MOST_EPOCHS, max(EPOCHS, math.ceil(least / steps)))


def settled(options: Settings, *, n_rows: int, has_classes: bool) -> Settings:
    """Options with every setting that the recipe decides for so many rows and that nobody gave."""
    return dataclasses.replace(options, **_missing(options, n_rows, has_classes))


def _missing(options: "TrainingOptions", n_rows: int, has_classes: bool) -> dict[str, Any]:
    own = {name: getattr(options, name) for name in PLAIN}
    wanted = dict(TABLES if uses_tables(options) else PLAIN)
    if uses_tables(options):
        part = own["validation"]
        wanted["validation"] = part = validation_part(n_rows) if part is None else part
        n_training = _n_training(n_rows, part, options)
        wanted["learning_rate"] = learning_rate(has_classes=has_classes)
        size = batch_size(n_training)
        wanted["batch_size"] = str(size)
        given = own["batch_size"]
        size = int(given) if given and given.isdigit() else size
        wanted["epochs"] = epochs(n_training, size, has_classes=has_classes)
        if own["optimizer"] is not None:
            wanted |= {name: PLAIN[name] for name in (*STEPS, "learning_rate", "average", "patience")}
        if own["hidden"] is not None and not own["hidden"].strip():
            wanted["dropout"] = PLAIN["dropout"]  # there is no hidden layer
    return {name: value for name, value in wanted.items() if own[name] is None}


def _n_training(n_rows: int, part: float, options: "TrainingOptions") -> int:
    """How many rows a network, or each member, is trained on."""
    if options.folds:
        part = (1.0 - options.test) / options.folds
    return max(1, n_rows - round((part + options.test) * n_rows))


def uses_tables(options: "TrainingOptions") -> bool:
    """Whether the recipe for tables decides; a model to go on from has been trained by it already."""
    return options.recipe == "tables" and options.init is None


def initializers(options: "TrainingOptions") -> "str | list[Initializer] | None":
    """How weights start: what is asked for, or the recipe's, one a layer."""
    from mlp_xp.initializers import LeCunNormal, Zeros

    if options.initializer is not None or not uses_tables(options):
        return options.initializer
    hidden = LeCunNormal(bias_deviation=0.5)
    return [hidden] * len(options.read("hidden")) + [Zeros() if options.read("hidden") else hidden]


def loss_for(*, has_classes: bool) -> "Loss":
    """The loss where none is named."""
    from mlp_xp.losses import SoftmaxCrossEntropy, SquaredError

    return SoftmaxCrossEntropy() if has_classes else SquaredError()


def weighs_in_the_end(options: "TrainingOptions", loss: "Loss") -> bool:
    """Whether weights of classes shift the last biases in the end, instead of weighing each row's loss."""
    return uses_tables(options) and options.bias and loss.link.probabilities == "together"


def smoothed(rarer_share: float) -> "Loss":
    """The loss of classes, with labels smoothed; hardly where most rows are of one class."""
    from mlp_xp.losses import SoftmaxCrossEntropy

    return SoftmaxCrossEntropy(label_smoothing=min(LABEL_SMOOTHING, rarer_share**2 / LABEL_SMOOTHING))


def shown(name: str) -> str:
    """A setting's default, for people: the recipe's and the plain one."""
    own = {
        "learning_rate": f"{TABLES['learning_rate']}, or {RATE_FOR_CLASSES} for classes",
        "batch_size": "a 16th of the rows as a power of two, 32 to 128; 256 beyond 50,000 rows",
        "epochs": f"40; up to 256 for {LEAST_STEPS} steps, {LEAST_STEPS_FOR_CLASSES} for classes; fewer "
        "beyond 50,000 rows",
        "validation": "0.1; up to 0.2 for 50 rows",
    }.get(name, str(TABLES[name]))
    return own if own == str(PLAIN[name]) else f"{own}; plain: {PLAIN[name]}"
