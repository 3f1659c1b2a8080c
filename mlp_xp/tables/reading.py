"""What a user names on the command line, as a table: a data set, arrays in files, or columns of a file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp.losses import LOSSES, Loss
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.source import Source, Subset, passes
from mlp_xp.rows.streams import BatchSource
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import name_of
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.datasets import DATASETS, load_dataset
from mlp_xp.tables.files.column_kinds import Progress
from mlp_xp.tables.files.columns import PLURAL, RawColumn
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.one_value import (
    GAPS,
    Names,
    are_names_of_numbers,
    date_of,
    is_number,
    meaning,
    name_of_number,
    resembles_number,
    resembles_time,
)
from mlp_xp.tables.files.opening import MEMORY_LIMIT, names_in, open_source
from mlp_xp.tables.files.records import NO_TEXT
from mlp_xp.tables.files.text_values import READINGS
from mlp_xp.tables.interpretation import Interpretation
from mlp_xp.tables.options import TASKS, TableOptions
from mlp_xp.tables.preparation import Category, Column, Constant, Inputs
from mlp_xp.tables.prepared import Coded, Recoded, Selected
from mlp_xp.tables.values import of_32_bits
from mlp_xp.tables.written import TEXT, Written

MOST_LEVELS = 20
"""A numeric target of whole numbers with more different values than this is taken for a quantity."""

ROWS_A_LEVEL = 20
"""... and so is one with fewer rows a value than this."""

MOST_CLASSES = 100_000
"""Classes that a target may have at most: a network has one output for each."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Raw rows with names.

    Attributes
    ----------
    name : str
        For people.
    source : source
        Raw inputs and targets; class numbers where there are levels.
    columns : tuple of RawColumn
        Name, kind and levels of each column of x; numbered names (x0, x1, ...) for arrays in files.
    levels : tuple of str or None
        Names of the classes.
    notes : tuple of str
        What was recognised in the file, for people.
    split_column : (source, int, str) or None
        The column to split the rows by: a source with all columns that were read, its number, its kind.
    written : Written
        How the columns and targets are written.
    unseen : tuple of str
        What is to be said of texts that a model does not know, for people.
    """

    name: str
    source: Source
    columns: tuple[RawColumn, ...]
    target_names: tuple[str, ...]
    levels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    split_column: tuple[Source, int, str] | None = None
    written: Written = dataclasses.field(default_factory=Written)
    unseen: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of x."""
        return tuple(column.name for column in self.columns)


def recoded(source: Source, columns: Sequence[RawColumn], inputs: Inputs) -> Source:
    """A source of raw rows with the codes that prepared columns know texts by."""
    codes = {
        at: known.codes(column.levels)
        for at, (column, known) in enumerate(zip(columns, inputs.columns, strict=True))
        if isinstance(known, Category) and column.kind == "text"
    }
    return Recoded(source, codes) if codes else source


def open_table(
    options: TableOptions,
    *,
    columns: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    split_column: str | None = None,
    split_column_is_input: bool = False,
    targets_needed: bool = True,
    numbers_alone: bool = False,
    form: CsvForm | None = None,
    progress: Progress | None = None,
) -> Table:
    """Open what options name.

    Raises ValueError, TypeError, OSError: the data cannot be used; the message says where and why.

    Parameters
    ----------
    columns : sequence of str
        Names of the inputs, in the order that is needed; none for all others.
    kinds : mapping of str to str, optional
        What columns are known to be.
    split_column : str, optional
        A column that is read besides, to split the rows by. It is an input too if `columns` names it.
    split_column_is_input : bool
        Whether it is one where no columns are named, unless it is excluded.
    targets_needed : bool
        Whether a table without targets is refused.
    numbers_alone : bool
        Whether inputs that are text or dates, and gaps, are refused: nobody prepares them.
    form : CsvForm, optional
        How values are written; what the options say of that if not given.
    progress : callable (str, float), optional
        Told what is being done and the share of it that is done.
    """
    checks.refuse([options.contradiction()])
    if options.data is None:
        return _shipped(options.dataset or "diabetes", columns)
    path = Path(options.data)
    if options.data in DATASETS and not path.exists():
        raise FileNotFoundError(
            f"there is no file {options.data!r}; the data set that comes along is "
            f"{given('dataset', options.data)}."
        )
    target = options.read("target")
    if not options.has_names:
        return _arrays(options, path, target, targets_needed)
    if targets_needed and not target:
        raise ValueError(
            f"{options.data} has named columns: say which to predict with {given('target', 'NAME')}. Known: "
            f"{checks.listed(names_in(options.data, options.csv_form))}."
        )
    drops = targets_needed and getattr(options, "drop_missing_target", False)
    excluded, form = options.read("exclude"), form or options.csv_form
    besides = [split_column] if split_column and split_column not in columns else []
    source: Source = open_source(
        options.data,
        target=list(target),
        columns=[*columns, *besides] if columns else None,
        exclude=[name for name in excluded if name != split_column] or None,
        weight_column=options.weight_column,
        dtype="float64",
        text="refuse" if numbers_alone else "code if clear",
        gaps="refuse" if numbers_alone else "keep all" if drops else "keep",
        kinds=kinds or {},
        progress=progress,
        memory_limit=options.read("memory_limit"),
        cache=options.cache,
        cache_dir=options.cache_dir,
        csv=form,
    )
    if targets_needed and source.n_rows == 0:
        raise ValueError(f"{options.data} has columns, and no rows.")
    source.check_finite(gaps=not numbers_alone)
    notes = [*source.notes]
    if drops:
        n_rows, source = source.n_rows, _with_targets(source)
        if source.n_rows < n_rows:
            notes.append(f"{n_rows - source.n_rows:,} of {n_rows:,} rows have no target, and are left out")
    dates = [column.name for column in source.columns if column.kind == "date"]
    if dates and numbers_alone:
        raise ValueError(
            f"{options.data} has dates in {', '.join(map(repr, dates))}, where numbers are needed. Leave "
            f"them out with {given('exclude', ','.join(dates))}, or write them as numbers."
        )
    targets = tuple(column.name for column in source.targets)
    written = Written.of_columns((*source.columns, *source.targets), form)
    table = Table(path.name, source, tuple(source.columns), targets, notes=tuple(notes), written=written)
    table = dataclasses.replace(table, levels=_levels(table))
    if split_column is None:
        return table
    by_default = split_column_is_input and split_column not in excluded
    is_input = split_column in columns if columns else by_default
    return _split_by(table, split_column, is_input)


def _with_targets(source: Source) -> Source:
    """The rows of a source that have all targets.

    Raises ValueError: none has.
    """
    is_text = np.array([column.kind == "text" for column in source.targets])

    def is_wanted(batch: Any) -> Any:
        return ~(np.isnan(batch[1]) | (is_text & (batch[1] == NO_TEXT))).any(axis=1)

    if isinstance(source, BatchSource):
        return source.only(is_wanted)
    wanted = [index[is_wanted((x, y))] for index, x, y, _ in passes(source)]
    index = np.concatenate(wanted)
    if not len(index):
        raise ValueError("no row has a target: there is nothing to learn.")
    return source if len(index) == source.n_rows else Subset(source, index)


def _split_by(table: Table, name: str, is_input: bool) -> Table:
    """The table that says where a column is to split by, and whose inputs are the others if it is none."""
    names = table.feature_names
    if name not in names:
        raise ValueError(
            f"{table.name} has no column {name!r} beside its targets to split the rows by; "
            f"{checks.did_you_mean(name, names)}."
        )
    at = names.index(name)
    used = [number for number in range(len(names)) if number != at or is_input]
    if not used:
        raise ValueError(f"no column of {table.name} is left as a feature beside {name!r}.")
    return dataclasses.replace(
        table,
        source=table.source if len(used) == len(names) else Selected(table.source, used),
        columns=tuple(table.columns[number] for number in used),
        split_column=(table.source, at, table.columns[at].kind),
    )


def open_inputs(options: TableOptions, model: Interpretation, *, progress: Progress | None = None) -> Table:
    """Open the columns that a model predicts from, in its order and with its codes."""
    return open_for(options, model, targets_needed=False, progress=progress)


def open_for(options: TableOptions, model: Interpretation, **more: Any) -> Table:
    """Open the columns that a model was trained on, with its codes; and targets, where they are named.

    Further arguments are those of `open_table`.

    Raises ValueError, TypeError, OSError: a column is missing or is of another kind, or the data cannot be
    used.
    """
    known = model.inputs.columns
    kinds = {each.name: each.kind for each in known if not isinstance(each, Constant) or each.kind == "text"}
    kinds = model.written.known(kinds | _kinds_of_targets(model, options), options.csv_form)
    columns = model.inputs.names if options.has_names else ()
    own = dataclasses.replace(options, exclude="")
    table = open_table(own, columns=columns, kinds=kinds, form=_form_for(model, options), **more)
    if table.source.n_features != len(known):
        raise ValueError(
            f"{table.name} has {table.source.n_features} columns, but the model needs {len(known)}: "
            f"{', '.join(model.inputs.names[:20])}{' ...' * (len(known) > 20)}."
        )
    pairs = list(zip(table.columns, known, strict=True))
    checks.refuse(
        f"{table.name}, column {found.name!r} holds numbers, where {PLURAL[column.kind]} are needed."
        for found, column in pairs
        if not isinstance(column, Constant) and _are_numbers_only(found, column)
    )
    return dataclasses.replace(
        table,
        source=recoded(table.source, table.columns, model.inputs),
        unseen=tuple(
            f"column {found.name!r}: none of its texts was in the training table "
            f"({', '.join(found.levels[:3])}{' ...' * (len(found.levels) > 3)})"
            for found, column in pairs
            if isinstance(column, Category) and found.levels and _knows_none(column, found.levels)
        ),
    )


def _are_numbers_only(found: RawColumn, column: Column) -> bool:
    """Whether a column holds numbers where a model needs dates, or texts none of which is a number's."""
    if found.kind == "number":  # of arrays and data sets, which hold numbers alone
        return column.kind in ("text", "date")
    return (
        found.reading == "text of numbers"
        and are_names_of_numbers(found.levels)
        and isinstance(column, Category)
        and bool(column.levels)
        and not are_names_of_numbers(column.levels)
        and _knows_none(column, found.levels)
    )


def _knows_none(column: Category, levels: Sequence[str]) -> bool:
    return bool((column.codes(levels) == len(column.levels)).all())


def _form_for(model: Interpretation, options: TableOptions) -> CsvForm:
    """How a file is written that a model is to read."""
    form = model.written.form(options.csv_form)
    if not model.written.readings:
        # A model from before: words for a gap that it knows as texts are texts.
        levels = {level for each in model.inputs.columns for level in getattr(each, "levels", ())}
        form = dataclasses.replace(form, null_words=form.null_words and not levels & {*GAPS, ""})
    return form


def _kinds_of_targets(model: Interpretation, options: TableOptions) -> dict[str, str]:
    """What a model knows its targets to be, where they are columns of a file."""
    targets = options.read("target")
    if not options.has_names or options.data is None or len(targets) != len(model.targets.names):
        return {}
    known = dict(zip(targets, model.targets.names, strict=True))
    readings = model.written.readings
    if model.levels is None:
        return dict.fromkeys(targets, "number") if readings else {}
    are_texts = model.levels != ("false", "true") and not all(map(is_number, model.levels))
    return {
        name: READINGS[reading].kind if (reading := readings.get(own, "text")) not in TEXT else "text"
        for name, own in known.items()
        if own in readings or are_texts
    }


def _shipped(name: str, columns: Sequence[str]) -> Table:
    found = load_dataset(name)
    names = tuple(found.feature_names)
    x = found.x
    if columns:
        checks.refuse(
            f"{name} has no column {column!r}; {checks.did_you_mean(column, names)}."
            for column in columns
            if column not in names
        )
        x, names = x[:, [names.index(column) for column in columns]], tuple(columns)
    levels = None if found.levels is None else tuple(found.levels)
    return Table(name, ArraySource(x, found.y), _numbers(names), tuple(found.target_names), levels)


def _numbers(names: Sequence[str]) -> tuple[RawColumn, ...]:
    return tuple(RawColumn(name, "number") for name in names)


def _arrays(options: TableOptions, path: Path, targets: Sequence[str], targets_needed: bool) -> Table:
    """Arrays in .npy and .npz files; their columns are numbered."""
    target = targets[0] if targets else None
    is_npy = path.suffix.lower() == ".npy"
    if len(targets) > 1:
        raise ValueError(f"{given('target', ','.join(targets))}: one array holds all targets of {path}.")
    if is_npy and (target is None and targets_needed):
        raise ValueError(
            f"{path} holds inputs alone: name the file with targets, {given('target', 'y.npy')}."
        )
    if is_npy and target is not None and not target.endswith(".npy"):
        raise ValueError(f"{given('target', target)}: the targets of {path} are another file, such as y.npy.")
    try:
        source: Source = open_source(
            str(path),
            target=target,
            weight_column=options.weight_column,
            memory_limit=options.read("memory_limit") or MEMORY_LIMIT,
        )
        source.check_finite()
    except (ValueError, TypeError) as error:
        files = [str(path), *(str(other) for other in (target, options.weight_column) if other and is_npy)]
        own = any(file in str(error) for file in files)
        raise type(error)(str(error) if own else f"{', '.join(files)}: {error}") from None
    n_features, n_targets = source.n_features, source.n_targets
    if n_targets == 0 and targets_needed:
        raise ValueError(
            f"{path} has no targets: an .npz must hold x and y (or name it with {spelled('target')})."
        )
    features = _numbers([f"x{i}" for i in range(n_features)])
    targets = ("y",) if n_targets == 1 else tuple(f"y{i}" for i in range(n_targets))
    table = Table(path.name, source, features, targets)
    return dataclasses.replace(table, levels=_levels(table))


def _levels(table: Table) -> tuple[str, ...] | None:
    """Names of the classes where the target is text or true and false."""
    targets = table.source.targets
    text = [column for column in targets if column.kind == "text"]
    if text and len(targets) > 1:
        raise ValueError(
            f"{table.name}: target {text[0].name!r} holds text; with several targets all must be numbers."
        )
    if text:
        return tuple(text[0].levels)
    return ("false", "true") if len(targets) == 1 and targets[0].kind == "bool" else None


def for_task(table: Table, task: str, loss: Loss | None) -> tuple[Table, str]:
    """The table with class numbers for targets if its task is classification, and a sentence about it.

    Raises ValueError: the target cannot be what it is asked to be.

    Parameters
    ----------
    task : str
        One of `TASKS`. "auto": classes where the target is text or the loss wants them, or where it is one
        column of whole numbers with at most 20 different values and at least 20 rows for each.
    loss : loss or None
        What the user named, if anything.
    """
    checks.refuse([checks.one_of("task", task, TASKS)])
    name = table.target_names[0]
    if table.levels is not None:
        _check_classes(table, task, loss)
        return table, _sentence(table.levels)
    dates = [each.name for each in table.source.targets if each.kind == "date"]
    if dates and (task != "classification" or len(table.target_names) > 1):
        raise ValueError(
            f"{table.name}: target {dates[0]!r} holds dates; a target is a number, a text, or true and "
            f"false. Say {given('task', 'classification')} if its dates are names of classes."
        )
    wanted = {"auto": None, "regression": False, "classification": True}[task]
    if wanted is None and loss is not None and not loss.takes_two_classes:
        wanted = loss.labels
    if table.source.n_targets > 1:
        if wanted:
            raise ValueError("classification needs one target column; for several use binary_cross_entropy.")
        return table, f"regression: {table.source.n_targets} targets"
    if wanted is False:
        _check_numbers(loss)
        return table, "regression"
    values = _different_values(table.source, most=MOST_CLASSES if wanted else MOST_LEVELS)
    if wanted is None and not _looks_like_classes(values, table.source.n_rows, loss):
        return table, "regression"
    if values is None:
        raise ValueError(f"target {name} has more than {MOST_CLASSES:,} different values: no classes.")
    levels = tuple(map(date_of if dates else name_of_number, values.tolist()))
    codes = {float(value): number for number, value in enumerate(values)}
    coded = dataclasses.replace(table, source=Coded(table.source, codes, name), levels=levels)
    _check_classes(coded, "classification", loss)
    hint = ""
    if not wanted and loss is None:
        hint = f"; {given('task', 'regression')} if the target is a quantity"
    return coded, _sentence(levels) + hint


def _sentence(levels: Sequence[str]) -> str:
    return f"classification: {len(levels)} classes, {', '.join(levels[:5])}{' ...' * (len(levels) > 5)}"


def _looks_like_classes(values: np.ndarray | None, n_rows: int, loss: Loss | None) -> bool:
    """Whether a numeric target is taken for classes where nobody said so."""
    if values is None or len(values) < 2:
        return False
    if loss is not None:  # binary cross-entropy: classes if there are two, else probabilities
        return len(values) == 2
    return n_rows >= ROWS_A_LEVEL * len(values) and bool((values == np.floor(values)).all())


def _check_numbers(loss: Loss | None) -> None:
    if loss is not None and loss.labels:
        raise ValueError(
            f"{given('task', 'regression')} and {name_of(LOSSES, loss)}, which is for classes, contradict "
            "each other."
        )


def _check_classes(table: Table, task: str, loss: Loss | None) -> None:
    """Refuse classes that are none, or that the loss has no place for."""
    name, levels = table.target_names[0], table.levels or ()
    if task == "regression":
        raise ValueError(
            f"target {name!r} holds {_kind(table)}: {_first_text(table)}its task is classification."
        )
    if len(levels) > MOST_CLASSES:
        raise ValueError(f"target {name!r} has {len(levels):,} different texts: no classes.")
    n_alike = sum(resembles_number(level) for level in levels)
    if task == "auto" and n_alike > len(levels) / 2 and not all(is_number(level) for level in levels):
        raise ValueError(
            f"target {name!r} holds text among numbers: {_first_text(table)}mend it, say what the "
            f"{spelled('decimal')} mark is, or say {given('task', 'classification')} if its values are names "
            "of classes."
        )
    if task == "auto" and len(levels) > MOST_LEVELS and len(levels) > table.source.n_rows / 2:
        raise ValueError(
            f"target {name!r} has {len(levels):,} different texts in {table.source.n_rows:,} rows: such "
            "texts name rows rather than classes. Choose another target, or say "
            f"{given('task', 'classification')}."
        )
    if loss is None or loss.labels:
        return
    if not loss.takes_two_classes:
        raise ValueError(
            f"the loss {name_of(LOSSES, loss)} is for numbers, but target {name!r} has classes "
            f"({', '.join(levels[:5])}{' ...' * (len(levels) > 5)}): leave {spelled('loss')} out, or name "
            "softmax_cross_entropy."
        )
    if len(levels) != 2:
        raise ValueError(
            f"binary_cross_entropy is for two classes, but target {name!r} has {len(levels)}: name "
            "softmax_cross_entropy."
        )


def _kind(table: Table) -> str:
    return "true and false" if table.levels == ("false", "true") else "classes"


def _first_text(table: Table) -> str:
    """Row and value of the first text among a target's numbers."""
    levels = table.levels or ()
    texts = [number for number, level in enumerate(levels) if not is_number(level)]
    if isinstance(table.source, ArraySource) or not texts:
        return ""
    for index, _, y, _ in passes(table.source):
        found = np.isin(y[:, 0], texts)
        if found.any():
            at = int(np.argmax(found))
            return f"row {index[at] + 1:,} is {levels[int(y[at, 0])]!r}; "
    return ""


def _different_values(source: Source, most: int) -> np.ndarray | None:
    """The target's values, ascending; None if there are more than `most`."""
    values = np.empty(0)
    for _, _, y, _ in passes(source):
        values = np.union1d(values, y)
        if len(values) > most:
            return None
    return values


def check_targets(table: Table, loss: Loss | None) -> None:
    """Refuse targets for which a loss has no meaning, in one pass.

    Raises ValueError: row, column and value of the first.
    """
    if table.levels is not None or loss is None or not loss.needs:
        return
    for index, _, y, _ in passes(table.source):
        outside = (y < loss.least) | (y > loss.most)
        if outside.any():
            at, column = np.argwhere(outside)[0].tolist()
            raise ValueError(
                f"{loss.needs}, but row {index[at] + 1:,}, target {table.target_names[column]!r} is "
                f"{y[at, column]:.17g}. Mend the row, or choose another loss."
            )


def for_model(table: Table, model: Interpretation) -> Table:
    """A table whose classes have the numbers that a model knows them by, for its evaluation.

    Raises ValueError: there are other targets or other classes than the model was trained for.
    """
    n_needed = len(model.targets.names)
    if table.source.n_targets != n_needed:
        raise ValueError(
            f"{table.name} has {table.source.n_targets} targets, but the model predicts {n_needed}: "
            f"{', '.join(model.targets.names)}."
        )
    name = table.target_names[0]
    if model.levels is None:
        if table.levels is not None and table.levels != ("false", "true"):
            raise ValueError(
                f"target {name!r} of {table.name} holds text ({', '.join(table.levels[:5])}), but the model "
                "predicts numbers."
            )
        check_targets(dataclasses.replace(table, levels=None), model.loss)
        return table
    names = Names(model.levels)
    if table.levels is not None:
        found = table.levels
        if found == ("false", "true") and not {"false", "true"} & set(map(str.lower, model.levels)):
            found = ("0", "1")  # as which a model may know them
        unknown = [level for level in found if names.find(level) == len(model.levels)]
        if unknown:
            raise ValueError(
                f"target {name!r} of {table.name} has classes that the model does not know: "
                f"{', '.join(unknown[:5])}; {checks.did_you_mean(unknown[0], model.levels)}."
            )
        codes = {float(number): names.find(level) for number, level in enumerate(found)}
    else:
        codes = {_value_of(level): code for code, level in enumerate(model.levels) if _has_value(level)}
        codes = {float(of_32_bits(value)): code for value, code in codes.items()} | codes
        if not codes:
            raise ValueError(
                f"target {name!r} of {table.name} holds numbers, but the model's classes are "
                f"{', '.join(model.levels[:5])}."
            )
    return dataclasses.replace(table, source=Coded(table.source, codes, name), levels=model.levels)


def _has_value(level: str) -> bool:
    return level in ("false", "true") or is_number(level) or resembles_time(level)


def _value_of(level: str) -> float:
    """The number that a class without texts is named by: itself, 0 and 1, or days of a date."""
    if level in ("false", "true"):
        return float(level == "true")
    return float(level) if is_number(level) else meaning("date, year first", level)
