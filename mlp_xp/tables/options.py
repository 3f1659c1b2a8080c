"""What may be set where a table is read, trained on and predicted from.

Each setting is declared here, once: the command line, TOML files, Python and the files of models take its
name, default, bounds and help from here. Nothing here computes, and nothing heavy is imported before a name
is looked up.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlp_xp.settings import checks, fields, panels
from mlp_xp.settings.fields import Bound, Number, OneOf, Whole
from mlp_xp.settings.interval import seconds
from mlp_xp.settings.options import Option, Options, Problems, Words, amount, names, numbers
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.recipe import NEW_IN_RECIPES, PLAIN, RECIPES, settled, shown, uses_tables

if TYPE_CHECKING:
    from mlp_xp.tables.files.csv_files import CsvForm

ARRAY_SUFFIXES = (".npy", ".npz")
"""Of files whose columns have no names."""

TASKS = ("auto", "regression", "classification")

SCALINGS = ("standard", "robust", "none", "encoded")

MAX_LEVELS = 256
"""Texts of a column that are told apart where nobody says how many."""

PARAMETERS = "with parameters as NAME:PARAMETER=VALUE,... (a list is written 0.1/0.5/0.9)"


def catalogue(kind: str) -> Mapping[str, type]:
    """What there is of a kind, by name."""
    from mlp_xp.activations import ACTIVATIONS
    from mlp_xp.initializers import INITIALIZERS
    from mlp_xp.losses import LOSSES
    from mlp_xp.optimizers import OPTIMIZERS
    from mlp_xp.rows.order import ORDERS
    from mlp_xp.schedules import SCHEDULES

    catalogues: dict[str, Mapping[str, type]] = {
        "activation": ACTIVATIONS,
        "initializer": INITIALIZERS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "order": ORDERS,
        "schedule": SCHEDULES,
    }
    return catalogues[kind]


def _of_train(field: str) -> Callable[[], Bound]:
    """What an argument of `train` must be, as it says itself."""

    def bound() -> Bound:
        from mlp_xp.training_settings import Settings

        return fields.of(Settings)[field].bound

    return bound


def _strength() -> Bound:
    """What the strength of a penalty must be."""
    from mlp_xp.regularizers import ElasticNet

    return fields.of(ElasticNet)["l2"].bound


def _names_of(kind: str) -> Words:
    """The names of a kind that a text can choose."""

    def words() -> Iterable[str]:
        return [name for name in catalogue(kind) if name != "given"]

    return words


def _named(kind: str) -> dict[str, Any]:
    """What an option knows that names a thing of a kind, maybe with parameters."""
    return {"words": _names_of(kind), "read": lambda _, text: _resolved(kind, text)}


def _datasets() -> Iterable[str]:
    from mlp_xp.tables.datasets import DATASETS

    return DATASETS


def _suffixes() -> Iterable[str]:
    from mlp_xp.tables.files import arrow_files, csv_files

    formats = (form.suffixes for form in arrow_files.FORMATS.values())
    known = itertools.chain(csv_files.SUFFIXES, *formats)
    return [suffix for suffix in known if suffix.count(".") == 1]


def _dataset(shown: str | None) -> Any:
    return panels.data(
        None, "Real data that comes along: {words}.", shown=shown, bound=lambda: OneOf(tuple(_datasets()))
    )


def _dtypes() -> Iterable[str]:
    from mlp_xp.machine.array_api import DTYPES

    return DTYPES


def _all_reduces() -> Iterable[str]:
    from mlp_xp.machine import cuda

    return cuda.ALL_REDUCES


def _resolved(kind: str, text: str) -> Any:
    """What a name with parameters stands for; the field is named as the kind."""
    from mlp_xp.settings.catalogue import resolve

    return resolve(kind, catalogue(kind), text)


def _initializer(name: str, text: str) -> Any:
    if text == "given":
        raise ValueError(f"{given(name, text)}: weights of your own can be given from Python only.")
    return _resolved(name, text)


def _activations(_: str, text: str) -> tuple[Any, ...]:
    """One activation, or one for each layer."""
    from mlp_xp.activations import resolve_activation

    return tuple(resolve_activation(name) for name in names("activation", text))


def _units(name: str, text: str) -> tuple[int, ...]:
    sizes: tuple[int, ...] = numbers(int)(name, text)
    checks.refuse(checks.whole(name, size) for size in sizes)
    return sizes


def _batch_size(name: str, text: int | str) -> int | str:
    """Rows a step, or a word."""
    if text in ("full", "auto"):
        return str(text)
    try:
        size = int(text)
    except ValueError:
        raise ValueError(
            f"{spelled(name)}={text!r} must be a whole number >= 1, 'full' for all rows, or 'auto'."
        ) from None
    checks.refuse([checks.whole(name, size)])
    return size


def _rate_factors(name: str, text: str) -> Any:
    """Factors on the rate, or None."""
    from mlp_xp.optimizers import RateFactors
    from mlp_xp.settings.catalogue import resolve

    if text == "none":
        return None
    return resolve("option", {spelled(name): RateFactors}, f"{spelled(name)}:{text}")


def _interval(_: str, text: str) -> str:
    """How often a checkpoint is written, once it is known to mean something."""
    from mlp_xp.settings.interval import Interval

    Interval.parse(text)
    return text


def _memory_of_device(_: str, text: str) -> str:
    from mlp_xp.machine import cuda

    cuda.parse_limit(text)
    return text


def _delimiter(_: str, text: str) -> str:
    return {"tab": "\t", "\\t": "\t"}.get(text, text)


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Which rows are held out.

    Attributes
    ----------
    part : float in [0, 1)
        Of the rows.
    test : float in [0, 1)
        Of the rows, to be measured on alone.
    by : {"random", "group", "time"}
        Single rows; whole groups, rows with the same value of a column; or the latest rows by a column.
    column : str or None
        Which, where there is one.
    seed : int
        Of what is drawn.
    stratified : bool
        Whether rows at random are drawn so that each class has its share in both parts.
    folds : int or None
        Folds of the rows that are left, of which each member leaves one out.
    """

    part: float
    by: str = "random"
    column: str | None = None
    seed: int = 0
    stratified: bool = False
    test: float = 0.0
    folds: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """Where a table is and how it is read."""

    data: str | None = panels.data(
        None,
        "A file ({words}), a folder or glob of them, an .npz that holds x and y, an x.npy, or '-' for "
        "standard input. Without it: --dataset.",
        words=_suffixes,
        metavar="DATA",
        position=1,
    )
    dataset: str | None = _dataset(None)
    target: str = panels.data(
        "",
        "Column to predict, or several with commas (a name with a comma in double quotes). For an x.npy the "
        "file with y; for an .npz the array, if it is not y.",
        read=names,
    )
    weight_column: str | None = panels.data(
        None,
        "Column with sample weights, numbers >= 0. For an x.npy a file; for an .npz the array, if it is not "
        "sample_weight or weight.",
        shown="every row counts 1",
    )
    exclude: str = panels.data("", "Columns to leave out, with commas.", read=names, of_model=True)
    delimiter: str | None = panels.csv(
        None, "Between values: one character, or 'tab'.", shown="recognised, and said", read=_delimiter
    )
    decimal: str | None = panels.csv(None, "Decimal mark: . or ,", shown="recognised, and said")
    encoding: str | None = panels.csv(
        None, "Of the text, such as latin-1.", shown="utf-8, or what a byte order mark says"
    )
    null: str = panels.csv(
        "",
        "What stands for a gap too, with commas.",
        shown="nothing, ?, NA, NaN, null, None and the like",
        read=names,
    )
    null_words: bool = panels.csv(
        True,
        "Whether NA, None and the like are gaps in columns of text and among classes too; if not they are "
        "texts there.",
    )
    date_format: str | None = panels.csv(
        None, "How 01/02/2024 is read: 'day first' or 'month first'.", shown="recognised, and said"
    )
    memory_limit: str = panels.memory(
        "1GB",
        "Memory for the rows, such as 500MB or 4GB: a larger table is kept in a file in the cache folder. "
        "Each column takes some 10 kB beside it. For a training also that for a step of an 'auto' batch.",
        read=amount,
    )
    cache: bool = panels.memory(
        True, "Whether a table above the memory limit is kept in the cache folder; if not it is streamed."
    )
    cache_dir: Path | None = panels.memory(
        None, "The cache folder.", shown="the user's own", metavar="DIR", may_differ=True
    )

    @property
    def has_names(self) -> bool:
        """Whether columns have names of the user's."""
        return self.data is None or Path(self.data).suffix.lower() not in ARRAY_SUFFIXES

    @property
    def csv_form(self) -> "CsvForm":
        """How CSV files are written, as far as that is said.

        Raises ValueError: what is no delimiter, decimal mark, encoding or order of dates.
        """
        from mlp_xp.tables.files.csv_files import CsvForm

        return CsvForm(
            self.read("delimiter"),
            self.decimal,
            self.encoding,
            self.read("null"),
            self.date_format,
            self.null_words,
        )

    def need_names(self) -> tuple[str, ...]:
        """The fields that name columns."""
        return ("exclude",)

    def problems(self) -> list[str]:
        """What is wrong with the settings, alone and together, before anything is opened."""
        wrong = Problems()
        wrong.add(*super().problems(), self.contradiction())
        wrong.reading(lambda: self.csv_form)
        return wrong.found

    def contradiction(self) -> str | None:
        """What does not go together of what says where the table is."""
        if self.data is not None and self.dataset is not None:
            return (
                f"both {given('data', self.data)} and {given('dataset', self.dataset)} are given: leave one "
                "of them out."
            )
        need_names = [spelled(name) for name in self.need_names() if getattr(self, name)]
        need_data = [spelled(name) for name in ("target", "weight_column") if getattr(self, name, None)]
        if self.data is None and (need_data or need_names):
            return (
                f"{', '.join([*need_data, *need_names])}: name the {spelled('data')} that it belongs to; a "
                f"{spelled('dataset')} has its own columns."
            )
        if not self.has_names and need_names:
            return f"{', '.join(need_names)}: the columns of {self.data} have no names."
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetOptions(TableOptions):
    """A table whose targets are needed."""

    drop_missing_target: bool = panels.data(
        False, "Leave out rows that have no target, which are refused else.", shown="off"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppliedOptions(Options):
    """How a model is applied to a table."""

    strict: bool = panels.data(
        False,
        "Refuse rows unlike those of training: unknown texts, new gaps, values outside the range.",
        shown="off",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """Where to compute."""

    device: str = panels.general(
        "cpu", "Where to compute: cpu, cuda or cuda:N (`mlp-xp devices` lists them).", may_differ=True
    )
    threads: int | None = panels.machine(
        None,
        "The most threads that compute; of several ranks, each. Results differ by rounding.",
        shown="by the cores there are and the size of a step",
        bound=Whole,
        may_differ=True,
    )

    def problems(self) -> list[str]:
        """What is wrong with the settings, a device that cannot be used here included."""
        from mlp_xp.machine.array_api import backend

        wrong = Problems()
        wrong.add(*super().problems())
        wrong.reading(backend, self.device, getattr(self, "dtype", "float32"))
        return wrong.found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(TargetOptions, DeviceOptions):
    """A training on a table, from reading it to the weights that are kept."""

    dataset: str | None = _dataset("diabetes")
    recipe: str = panels.training(
        "tables",
        "What decides where no option does: 'tables', measured on tables of many kinds, or 'plain', a "
        "textbook's network.",
        bound=lambda: OneOf(RECIPES),
    )
    columns: str = panels.data(
        "", "Columns to use, in this order, with commas.", shown="all others", read=names, of_model=True
    )
    text: str = panels.data(
        "",
        "Columns that are names of groups though they look like numbers, with commas.",
        read=names,
        of_model=True,
    )
    task: str = panels.data(
        "auto",
        "{words} (what the target looks like, and the run says so).",
        bound=lambda: OneOf(TASKS),
        of_model=True,
    )
    scaling: str | None = panels.data(
        None,
        "Of numbers: 'standard' (mean 0, deviation 1), 'robust' (median 0, quartiles 1 apart, clipped "
        "smoothly), 'encoded' (bounded, with a rank and ramps between quantiles beside them) or 'none'.",
        bound=lambda: OneOf(SCALINGS),
        of_model=True,
    )
    max_levels: int = panels.data(
        MAX_LEVELS,
        "Texts of a column that are told apart: the most frequent ones; the rest is one.",
        bound=Whole,
        of_model=True,
    )
    hidden: str | None = panels.network(
        None, "Units of each hidden layer, with commas; '' for none.", read=_units
    )
    activation: str | None = panels.network(
        None,
        "Of the hidden layers, or one each with commas: {words}.",
        words=_names_of("activation"),
        read=_activations,
    )
    input_scale: str | None = panels.network(
        None, "'on' for a trained factor on each input, or 'off'.", bound=lambda: OneOf(("on", "off"))
    )
    bias: bool = panels.network(True, "Whether layers have biases.")
    members: int | None = panels.network(
        None,
        "Networks that start differently, are trained at once, and predict their mean.",
        shown="one",
        bound=Whole,
        noted=True,
    )
    folds: int | None = panels.network(
        None,
        "As many members, of which each leaves out one fold of the rows, drawn so that classes have their "
        "shares and groups (--group) stay whole: a cross-validation in one run.",
        bound=lambda: Whole(least=2),
        noted=True,
    )
    bootstrap: bool = panels.network(
        False,
        "Give each of --members a sample of as many rows, drawn with replacement; of a table that is "
        "streamed each row as often as is drawn for it, by its values, from Poisson(1).",
        noted=True,
    )
    initializer: str | None = panels.network(
        None,
        "Starting weights: {words}.",
        shown="what suits the activation",
        words=_names_of("initializer"),
        read=_initializer,
    )
    dtype: str = panels.network("float32", "Of weights and arithmetic: float32 or float64.", words=_dtypes)
    init: Path | None = panels.network(
        None, "Model to go on from, on data with the same columns.", metavar="MODEL", of_model=False
    )
    loss: str | None = panels.training(
        None,
        f"{{words}}; {PARAMETERS}.",
        shown="squared_error, or softmax_cross_entropy for classes",
        of_model=True,
        **_named("loss"),
    )
    optimizer: str | None = panels.training(
        None, f"{{words}} (which takes all rows a step); {PARAMETERS}.", **_named("optimizer")
    )
    learning_rate: float | None = panels.training(
        None,
        "Step size: what an update's direction is multiplied with, and with --rate-factors.",
        bound=_of_train("learning_rate"),
        noted=True,
    )
    rate_factors: str | None = panels.training(
        None,
        "Factors on the learning rate: by_fan_in=true (1 / root of a layer's inputs, on weights), "
        "biases=0.1, input_scale=6, layers=0/1/1 (0 freezes a layer), with commas; or 'none'.",
        read=_rate_factors,
    )
    decay_schedule: str | None = panels.training(
        None,
        "Weight decay over time, as for the learning rate, with which it falls too.",
        **_named("schedule"),
    )
    average: float | None = panels.training(
        None,
        "Part of all steps, the latest, over which weights are averaged; 0 for none.",
        bound=_of_train("average"),
    )
    schedule: str | None = panels.training(
        None, f"Learning rate over time: {{words}}; {PARAMETERS}.", **_named("schedule")
    )
    batch_size: str | None = panels.training(
        None,
        "Rows a step: a number, 'full' for all, or 'auto' (a 32nd of the rows, at most 4096).",
        read=_batch_size,
    )
    order: str = panels.training("shuffled", "Which rows, when: {words}.", **_named("order"))
    epochs: int | None = panels.training(
        None, "Passes over the data, at most.", bound=_of_train("max_epochs"), ahead=True
    )
    l1: float = panels.training(0.0, "Strength of the penalty on sum |w|.", bound=_strength, noted=True)
    l2: float = panels.training(0.0, "Strength of the penalty on sum w^2.", bound=_strength, noted=True)
    dropout: str | None = panels.training(
        None,
        "Probability, in [0, 1), to leave a hidden unit out of a step; or one a layer with commas.",
        read=numbers(float),
    )
    dropout_schedule: str | None = panels.training(
        None, "Dropout over time, as for the learning rate.", **_named("schedule")
    )
    clip_norm: float | None = panels.training(
        None, "Largest Euclidean norm of a step's gradient.", shown="no limit", bound=_of_train("clip_norm")
    )
    reduction: str = panels.training(
        "mean", "Objective: 'mean' over the rows of a step, or their 'sum'.", bound=_of_train("reduction")
    )
    class_weight: str = panels.training(
        "none",
        "'balanced' gives every class the same total weight; 'none' leaves rows as they are.",
        bound=lambda: OneOf(("none", "balanced")),
        noted=True,
    )
    accumulate: int = panels.training(1, "Batches whose gradients are added up for one step.", bound=Whole)
    seed: int = panels.training(
        0, "Of held-out part, starting weights, order and dropout.", bound=_of_train("seed"), noted=True
    )
    validation: float | None = panels.end(
        None, "Part of the rows that is held out; 0 for none.", bound=lambda: Number(least=0, below=1)
    )
    test: float = panels.end(
        0.0,
        "Part of the rows that is only measured on: held-out rows have chosen the epoch.",
        bound=lambda: Number(least=0, below=1),
    )
    group: str | None = panels.end(
        None,
        "Hold out whole groups: rows with the same value here. It is no input unless --columns names it.",
        shown="single rows",
        metavar="COLUMN",
    )
    time: str | None = panels.end(
        None,
        "Hold out the latest rows by this column (a date or a number).",
        shown="rows at random",
        metavar="COLUMN",
    )
    patience: int | None = panels.end(
        None,
        "Epochs without improvement of the watched loss until it stops; 0 to go on.",
        bound=lambda: Whole(least=0),
        ahead=True,
    )
    tolerance: float = panels.end(
        0.0, "What counts as an improvement, in units of the loss.", bound=_of_train("tolerance"), ahead=True
    )
    loss_below: float | None = panels.end(
        None,
        "Stop when the watched loss is below it, in units of the loss.",
        shown="never",
        bound=_of_train("loss_below"),
        ahead=True,
    )
    time_budget: str | None = panels.end(
        None,
        "Time after which it stops, at the end of an epoch: seconds, 90s, 10min or 1h.",
        shown="no limit",
        metavar="TIME",
        read=seconds,
        ahead=True,
    )
    keep: str = panels.end(
        "best", "Whose weights are kept: 'best' or 'last' epoch.", bound=_of_train("keep"), ahead=True
    )
    on_divergence: str = panels.end(
        "stop",
        "What a loss that is not finite leads to: 'stop', or 'rollback' to the best epoch with half the "
        "learning rate, ten times at most.",
        bound=_of_train("on_divergence"),
        ahead=True,
    )
    checkpoint_dir: Path | None = panels.checkpoint(
        None, "Folder for the run's checkpoints; made if needed.", metavar="DIR"
    )
    checkpoint_every: str = panels.checkpoint(
        "5min", "How often: a time, epochs or steps, such as 5min, 1epoch, 500steps.", read=_interval
    )
    checkpoint_errors: str = panels.checkpoint(
        "go on",
        "If a checkpoint cannot be written: 'go on' with a warning, or 'stop'.",
        bound=lambda: OneOf(("go on", "stop")),
    )
    resume: bool = panels.checkpoint(
        False,
        "Go on from the last good checkpoint, on any number of ranks (the same result up to rounding); from "
        "the beginning where there is none.",
        once=True,
    )
    override: bool = panels.checkpoint(False, "Resume although options or data differ.", once=True)
    tf32: bool = panels.machine(
        False, "Round the factors of float32 products to 10 bits on a GPU: faster, less exact."
    )
    device_memory_limit: str | None = panels.machine(
        None,
        "The most of the GPU's memory to take, to share a card: 4GiB, 500MB, 50%.",
        shown="all",
        metavar="AMOUNT",
        read=_memory_of_device,
        may_differ=True,
    )
    cuda_graph: bool = panels.machine(True, "Launch a whole step on a GPU as one.", may_differ=True)
    plain_steps: bool = panels.machine(
        False, "Make steps with NumPy or CuPy alone: nothing is compiled, fused or recorded.", may_differ=True
    )
    no_mpi: bool = panels.machine(False, "Train as one process, also under mpiexec.", may_differ=True)
    all_reduce: str = panels.machine(
        "auto",
        "How ranks sum gradients on GPUs: 'auto' by NCCL where it is installed and else through the host, "
        "'nccl', 'host', or 'mpi' for an MPI that takes GPU memory.",
        bound=lambda: OneOf(tuple(_all_reduces())),
        may_differ=True,
    )

    @classmethod
    @functools.cache
    def described(cls) -> dict[str, Option]:
        """Every setting by its field's name; what a recipe decides says what that is."""
        known = super().described()
        return known | {name: dataclasses.replace(known[name], shown=shown(name)) for name in PLAIN}

    @property
    def split_column(self) -> str | None:
        """The column that rows are held out by."""
        return self.group or self.time

    @property
    def hold_out(self) -> HoldOut:
        """Which rows are held out."""
        by = "group" if self.group else "time" if self.time else "random"
        part, test = 0.0 if self.folds else self.read("validation"), self.test
        return HoldOut(part, by, self.split_column, self.seed, uses_tables(self), test, self.folds)

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """Probabilities: one for all hidden layers, or one for each."""
        rates: tuple[float, ...] = self.read("dropout")
        return rates

    @property
    def way(self) -> str:
        """How updates are made, of `training_settings.WAYS`."""
        if self.plain_steps:
            return "plain"
        return "fast" if self.cuda_graph else "fused"

    def determining(self, *, ahead: bool) -> dict[str, Any]:
        """What the result of a run depends on, as JSON values; `ahead` also what only coming steps do."""
        values = self.values()
        if not uses_tables(self):  # as it was before there were recipes
            for name in ("recipe", *NEW_IN_RECIPES):
                if values[name] == (PLAIN | {"recipe": self.recipe}).get(name):
                    del values[name]
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if not self.described()[name].may_differ and (ahead or not self.described()[name].ahead)
        }

    def need_names(self) -> tuple[str, ...]:
        """The fields that name columns."""
        return ("columns", "exclude", "text", "group", "time")

    def problems(self) -> list[str]:
        """What is wrong with the settings, alone and together, before any work."""
        wrong = Problems()
        wrong.add(*super().problems(), *self._contradictions())
        if self.init is None and not wrong.found:
            wrong.reading(settled(self, n_rows=1000, has_classes=False).check_layers)
        return wrong.found

    def _contradictions(self) -> Iterable[str | None]:
        if self.group and self.time:
            yield f"{spelled('group')} and {spelled('time')} are two ways to hold rows out: give one of them."
        by = "group" if self.group else "time"
        if (self.validation or 0) + self.test >= 1:
            both = f"{given('validation', self.validation)} and {given('test', self.test)}"
            yield f"{both} leave no rows to train on: together they must be less than 1."
        if self.split_column and self.validation == 0 and not self.test:
            yield (
                f"{spelled(by)}: with {given('validation', 0)} no rows are held out. Leave one of the "
                "two out."
            )
        folds_and = [
            spelled(name)
            for name in ("members", "bootstrap", "validation")
            if self.folds is not None and getattr(self, name)
        ]
        if folds_and:
            yield (
                f"{given('folds', self.folds)} makes a member of each fold, which is judged by the rows that "
                f"it leaves out: leave {' and '.join(folds_and)} out."
            )
        elif self.folds is not None and self.time:
            yield (
                f"{given('folds', self.folds)} and {spelled('time')}: most members would be judged by rows "
                f"older than those that they learned from. Leave {spelled('folds')} out, which holds the "
                "latest rows out."
            )
        elif self.bootstrap and self.members is None:
            yield f"{spelled('bootstrap')}: say how many samples with {given('members', 8)}."
        if self.resume and self.checkpoint_dir is None:
            yield f"{spelled('resume')}: say from where with {given('checkpoint_dir', 'DIR')}."
        decided = [
            spelled(name) for name in sorted(self.given) if self.init and self.described()[name].of_model
        ]
        if decided:
            yield (
                f"{', '.join(decided)}: {spelled('init')} goes on from a model, which has its own. Leave it "
                "out."
            )

    def check_layers(self) -> None:
        """Refuse what has not one for each hidden layer."""
        from mlp_xp.dropout import resolve_dropout

        try:
            n_hidden, n_activations = len(self.read("hidden")), len(self.read("activation"))
            rates = self.dropout_rates
        except ValueError:
            return  # said already
        wrong = Problems()
        if n_activations not in {1, n_hidden, n_hidden + 1}:
            wrong.add(
                f"{given('activation', self.activation)} names {n_activations}, but there are {n_hidden} "
                "hidden layers: give one for all, or one for each."
            )
        wrong.reading(resolve_dropout, rates[0] if len(rates) == 1 else rates, n_hidden, max(0, self.seed))
        wrong.refuse()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionOptions(TableOptions, AppliedOptions, DeviceOptions):
    """A model's predictions for a table."""

    keep: str = panels.data(
        "", "Columns of the data to write before the predictions, with commas.", read=names
    )
    proba: bool = panels.general(True, "Whether the probability of each class is written too.")
