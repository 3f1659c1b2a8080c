"""What each command may be given. Its docstring is its help; a file of its name carries it out."""

import dataclasses
from pathlib import Path

from mlp_xp.settings import panels
from mlp_xp.settings.fields import Whole
from mlp_xp.settings.options import Option, Options
from mlp_xp.tables.options import (
    AppliedOptions,
    DeviceOptions,
    PredictionOptions,
    TargetOptions,
    TrainingOptions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class General(Options):
    """What every command takes."""

    as_json: bool = panels.general(
        False, "One JSON document on standard output instead of the table.", option="json", may_differ=True
    )
    debug: bool = panels.general(False, "Show the traceback of an error.", may_differ=True, once=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Talking(General):
    """What every command takes that tells how far it is."""

    quiet: bool = panels.general(False, "Say nothing but errors.", may_differ=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfModel(Options):
    """What every command takes that reads a model."""

    model: Path = panels.data(
        dataclasses.MISSING, "A model file (.safetensors).", metavar="MODEL", position=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Talking, TrainingOptions):
    """Train a multilayer perceptron till convergence.

    Numbers are standardised; texts and booleans become a column for each level; dates become days and where
    they are in the day, the week and the year; gaps become the median, and a column that says so: all by the
    training part's statistics. So is the target of a squared, absolute, Huber or pinball loss; metrics are in
    the target's own units. The watched loss is that of the held-out part, or of training without one.

    What no option says the recipe does (--recipe): how numbers are encoded, the network, its steps, what is
    done against overfitting; each of its parts is an option, and an option overrides its part alone. With
    --optimizer the steps are those of the plain recipe, with --learning-rate all parameters have that rate.

    For example

      mlp-xp train

      mlp-xp train --dataset digits --hidden 100 --l2 1e-4

      mlp-xp train houses.csv --target price --out houses.safetensors

      mlp-xp train power.csv --target watts --time when --exclude id --scaling robust

      mlp-xp train --config houses.safetensors.toml --seed 1

      mlp-xp train sold.csv --init houses.safetensors --out houses2.safetensors

      mlp-xp train --loss pinball:quantiles=0.1/0.5/0.9 --schedule cosine --epochs 200
    """

    out: Path | None = panels.output(None, "Model file to write (.safetensors).", metavar="FILE")
    report: Path | None = panels.output(
        None,
        "Page about the training to write (.html): data, curves, errors, what each column is worth.",
        metavar="FILE",
    )
    plot: Path | None = panels.output(None, "Picture of the curves to write (.png or .svg).", metavar="FILE")
    log: Path | None = panels.output(
        None, "File that gets one JSON object a line, as each epoch ends (.jsonl).", metavar="FILE"
    )
    tensorboard: Path | None = panels.output(None, "Folder for TensorBoard's event files.", metavar="DIR")
    config: Path | None = panels.general(
        None,
        "TOML file with options, such as the one that is written beside each model.",
        metavar="FILE",
        may_differ=True,
        once=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(OfModel, Talking, PredictionOptions):
    """Predict with a model, and write CSV: a line a row, in the order of the data.

    The data has the columns that the model was trained on, in any order; further ones are ignored. There
    is one column `prediction`, or several `prediction_NAME` for several targets or quantiles; for classes
    `prediction` comes last, after `probability_NAME` of each. Numbers and truth values name classes by
    what they are, however a table writes them: 1 for 1.0, true for TRUE.

    For example

      mlp-xp predict houses.safetensors new.csv --out prices.csv

      mlp-xp predict iris.safetensors new.csv --keep id,owner --no-proba

      mlp-xp predict digits.safetensors --dataset digits

      cat new.csv | mlp-xp predict houses.safetensors -
    """

    out: str = panels.general("-", "CSV file to write; '-' for standard output.", metavar="FILE")
    safe_csv: bool = panels.general(
        False, "Write a ' before texts that a spreadsheet would compute (=1+1); numbers stay as they are."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(OfModel, Talking, TargetOptions, AppliedOptions, DeviceOptions):
    """Compare a model's predictions with the targets of a table.

    The data has the columns and targets that the model was trained on, in any order. Metrics are in the
    target's own units.

    For example

      mlp-xp evaluate houses.safetensors sold.csv

      mlp-xp evaluate digits.safetensors --dataset digits --json
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(OfModel, Talking):
    """Write a model as an ONNX file, from raw columns to predictions in the target's own units.

    Inputs are named as the columns and have the shape [N, 1]: numbers and booleans float32 (NaN is a gap),
    texts string ("" is a gap), dates int64 seconds since 1970 UTC. Outputs are prediction, or label and
    probabilities. Only standard operators are used.

    For example

      mlp-xp export houses.safetensors --out houses.onnx

      mlp-xp export digits.safetensors --matrix-input
    """

    out: str | None = panels.general(
        None, "ONNX file to write; - for standard output.", shown="MODEL's name with .onnx", metavar="FILE"
    )
    matrix_input: bool = panels.general(
        False, "One input X with all columns (numbers and booleans, in the order of training), not one each."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(OfModel, General):
    """Print a model's layers and sizes, how it was trained, and what is done to its columns.

    For example

      mlp-xp show houses.safetensors
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices(General):
    """List what this machine can train on, and for each device that it can't, reason and remedy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache(General):
    """List the tables that are kept in the cache folder, or delete them.

    A table larger than --memory-limit is converted once to a file there, of which any row can be read at any
    time. It is found again as long as the table's files do not change.
    """

    clear: bool = panels.general(False, "Delete them.")
    cache_dir: Path | None = panels.memory(
        None, "The cache folder.", shown="the user's own", metavar="DIR", may_differ=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tune(Talking, TrainingOptions):
    """Search for the settings that suit a table: learning rate, decay, dropout, width, encoding and more.

    Settings are drawn at random around the recipe's, which are the first that are tried; an option that is
    given is not searched for. All are trained for a few epochs, the worse half by the held-out rows is
    dropped, the others are trained on, and so forth. Tries of one shape are trained at once. The best model
    is written, and its options beside it.

    For example

      mlp-xp tune houses.csv --target price --tries 64 --out houses.safetensors

      mlp-xp tune houses.csv --target price --folds 5 --time-budget 10min --kept-in search
    """

    tries: int = panels.training(64, "How many settings are tried.", bound=Whole)
    out: Path | None = panels.output(
        None, "Model file to write (.safetensors).", metavar="FILE", may_differ=False
    )
    plot: Path | None = panels.output(
        None, "Picture of the best tries' losses to write (.png or .svg).", metavar="FILE", may_differ=False
    )
    kept_in: Path | None = panels.checkpoint(
        None,
        "Folder for the search after each comparison: the same command goes on from there.",
        metavar="DIR",
        may_differ=False,
    )


COMMANDS: dict[str, type[Options]] = {
    "train": Train,
    "tune": Tune,
    "predict": Predict,
    "evaluate": Evaluate,
    "export": Export,
    "show": Show,
    "devices": Devices,
    "cache": Cache,
}
"""Every command by its name."""

OF_ALL = {"--help": "Show what there is to give, and exit."}
"""What every command takes that is no setting."""

OF_PROGRAM = {
    "--version": "Print the version and exit.",
    "--install-completion": "Let this shell complete commands and options on TAB.",
    "--show-completion": "Print what the shell needs for that.",
    **OF_ALL,
}
"""What the program takes before a command."""


def flags(field: str, known: Option, *, default: object = None) -> list[str]:
    """What an option is given as; with what turns it off, where it is on by default."""
    name = known.option or field.replace("_", "-")
    return [f"--{name}", f"--no-{name}"] if default is True else [f"--{name}"]


def in_order(kind: type[Options]) -> dict[str, Option]:
    """Options by field, under their headings; what is given by position first."""

    def place(item: tuple[str, Option]) -> tuple[bool, int]:
        position, panel = item[1].position, panels.PANELS.index(item[1].panel)
        return (position is None, panel if position is None else position)

    return dict(sorted(kind.described().items(), key=place))
