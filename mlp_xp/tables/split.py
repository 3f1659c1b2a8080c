"""A table in parts, to train on, held out, and to test on, raw and as a network sees them."""

import dataclasses
from collections import Counter

import numpy as np

from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.order import STORED_ROWS
from mlp_xp.rows.source import Index, Source, Subset, check_weights, passes
from mlp_xp.settings.checks import counted
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.one_value import name_of_number
from mlp_xp.tables.folds import Folds, of_groups, of_rows, of_streamed_groups
from mlp_xp.tables.holding_out import at_random, latest, stratified, values_of, whole_groups
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import MAX_LEVELS, HoldOut
from mlp_xp.tables.preparation import Constant, Inputs, Targets
from mlp_xp.tables.prepared import Prepared
from mlp_xp.tables.reading import Table, recoded
from mlp_xp.tables.statistics import measure


@dataclasses.dataclass(frozen=True)
class Split:
    """A table in parts.

    Attributes
    ----------
    raw_training, raw_held_out, raw_test : source
        Raw rows with the codes of `inputs`; the second is None where nothing is held out, and the third where
        nothing is kept apart to be measured on alone.
    inputs, targets : Inputs, Targets
        What is done with the columns.
    class_weight : str
        What rows to train on and held out weigh: "none" or "balanced".
    folds : Folds or None
        Of the rows to train on.
    """

    raw_training: Source
    raw_held_out: Source | None
    inputs: Inputs
    targets: Targets
    class_weight: str = "none"
    raw_test: Source | None = None
    folds: Folds | None = None

    @property
    def training(self) -> Source:
        """The rows to train on, as a network sees them."""
        return self.training_of(1)

    def training_of(self, copies: int) -> Source:
        """The rows to train on, of each member of so many copies where there are folds."""
        rows = self.prepared(self.raw_training)
        return rows if self.folds is None else self.folds.for_members(rows, copies)

    def judging(self, copies: int = 1) -> Source | None:
        """The rows that a run is judged by, as a network sees them: held out, or left out by each member."""
        if self.folds is not None:
            return self.folds.for_members(self.prepared(self.raw_training), copies, left_out=True)
        return None if self.raw_held_out is None else self.prepared(self.raw_held_out)

    def prepared(self, raw: Source) -> Source:
        """Raw rows as a network sees them, each class with its weight in training."""
        return Prepared(self._weighted(raw), self.inputs, self.targets)

    def rarer_share(self) -> float:
        """Of classes: the part of all weight that is on training rows outside of the largest class."""
        totals: Counter[float] = Counter()
        for _, _, y, weight in passes(self._weighted(self.raw_training)):
            labels, place = np.unique(y[:, 0], return_inverse=True)
            totals.update(dict(zip(labels.tolist(), np.bincount(place, weight).tolist(), strict=True)))
        return 1.0 - max(totals.values()) / totals.total()

    def _weighted(self, raw: Source) -> Source:
        if self.class_weight == "none":
            return raw
        return ClassWeighted(raw, self.class_weight, self.raw_training)

    def left_out_by(self, member: int) -> Source:
        """The raw rows of a member's fold."""
        return self._rows_of(member, left_out=True)

    def seen_by(self, member: int) -> Source:
        """The raw rows that a member is trained on."""
        return self._rows_of(member, left_out=False)

    def _rows_of(self, member: int, *, left_out: bool) -> Source:
        if self.folds is None:
            raise ValueError("there are no folds.")
        return self.folds.rows_of(member, self.raw_training, left_out=left_out)

    @property
    def measured(self) -> tuple[str, Source]:
        """Which rows tell how good a model is, and those rows: those that it knows least of."""
        if self.raw_test is not None:
            return "test", self.raw_test
        return (
            ("training", self.raw_training) if self.raw_held_out is None else ("held-out", self.raw_held_out)
        )

    @property
    def unused(self) -> list[str]:
        """Columns that say nothing."""
        return [column.name for column in self.inputs.columns if isinstance(column, Constant)]


def split(
    table: Table,
    hold_out: HoldOut,
    *,
    scaling: str = "standard",
    max_levels: int = MAX_LEVELS,
    standardise_targets: bool = True,
    bound_targets: bool = False,
    class_weight: str = "none",
) -> Split:
    """Hold rows out and measure the columns of the others.

    Raises ValueError: a part has no rows, a target has a single value, there are no classes to weigh.

    Parameters
    ----------
    scaling, max_levels : str, int
        As in `statistics.measure`.
    standardise_targets : bool
        Whether targets are, or are left as they are.
    bound_targets : bool
        Whether predictions of standardised targets go no further out than the training rows' targets, of
        which a lone one far outside of all others counts as one nearer to them.
    """
    training, held_out, test, folds = _parts(table, hold_out)
    inputs, targets = measure(
        training,
        table.columns,
        table.target_names,
        scaling=scaling,
        max_levels=max_levels,
        bound_targets=standardise_targets and bound_targets,
        seed=hold_out.seed,
    )
    for name, (least, most), is_constant in zip(targets.names, targets.limits, targets.constant, strict=True):
        if is_constant:
            single = name_of_number(least) if table.levels is None else repr(table.levels[int(least)])
            what = "a single value" if least == most else "values that differ by rounding alone"
            raise ValueError(
                f"target {name} has {what} in the {counted(training.n_rows, 'row')} to train on, {single}: "
                "there is nothing to learn. Choose another target, or give more rows."
            )
    if not standardise_targets:
        targets = Targets.unscaled(targets.names)
    elif not bound_targets:
        targets = dataclasses.replace(targets, limits=())
    _check_class_weight(table, class_weight)
    coded, held_out, test = (
        None if part is None else recoded(part, table.columns, inputs) for part in (training, held_out, test)
    )
    return Split(coded or training, held_out, inputs, targets, class_weight, test, folds)


def split_for(table: Table, model: TableModel, hold_out: HoldOut, *, class_weight: str = "none") -> Split:
    """Hold rows out of a table that was opened for a model, whose statistics stay as they are.

    Raises ValueError: a part has no rows, there are no classes to weigh.
    """
    _check_class_weight(table, class_weight)
    training, held_out, test, folds = _parts(table, hold_out)
    return Split(training, held_out, model.inputs, model.targets, class_weight, test, folds)


def _check_class_weight(table: Table, class_weight: str) -> None:
    if class_weight != "none" and table.levels is None:
        raise ValueError(f"{given('class_weight', class_weight)}: the target has no classes (regression).")


TEST_SEED = 1_000_003
"""What is added to the seed for the rows to test on: a stream's parts must not follow from each other."""


def _parts(table: Table, hold_out: HoldOut) -> tuple[Source, Source | None, Source | None, Folds | None]:
    """The rows of a table to train on, held out, and to test on, which are taken first; and folds."""
    if not hold_out.test:
        return *_divide(table, hold_out), None, _folds(table, hold_out)
    seed = hold_out.seed + TEST_SEED
    rest, test = _divide(table, dataclasses.replace(hold_out, part=hold_out.test, seed=seed), " to test on")
    split_column = table.split_column
    if split_column is not None and isinstance(rest, Subset):
        split_column = (Subset(split_column[0], rest.index), *split_column[1:])
    part = hold_out.part / (1 - hold_out.test)
    others = dataclasses.replace(table, source=rest, split_column=split_column)
    return *_divide(others, dataclasses.replace(hold_out, part=part)), test, _folds(others, hold_out)


def _folds(table: Table, hold_out: HoldOut) -> Folds | None:
    """The folds of all rows of a table, where there are to be some."""
    if hold_out.folds is None:
        return None
    folds = _folds_of(table, hold_out, hold_out.folds)
    weighed = np.zeros(folds.n)
    for index, x, y, weight in passes(table.source) if table.source.has_weights else ():
        weighed += np.bincount(folds.of(index, x, y), weight, folds.n)
    if table.source.has_weights and not weighed.all():
        raise ValueError(
            f"{table.source.weight_name}: all rows of fold {np.argmin(weighed) + 1} of {folds.n} have weight "
            "0, so that there is nothing to measure from them. Take fewer folds, or leave such rows out."
        )
    return folds


def _folds_of(table: Table, hold_out: HoldOut, n: int) -> Folds:
    source = table.source
    if hold_out.by == "random":
        return of_rows(source, n, hold_out.seed, has_classes=table.levels is not None)
    by, column, kind = _split_column(table, hold_out)
    name, is_text = str(hold_out.column), kind == "text"
    if source.order is not None:
        return of_streamed_groups(source, column, n, hold_out.seed, name, is_text=is_text)
    values = values_of(by, column, given(hold_out.by, name), is_text=is_text)
    return of_groups(values, n, hold_out.seed, name)


def _divide(table: Table, hold_out: HoldOut, which: str = " held out") -> tuple[Source, Source | None]:
    """The rows of a table in two parts, each a source; the second is None where nothing is held out."""
    source, part = table.source, hold_out.part
    if source.order is not None:  # a stream: no row has a number
        return _checked(*_divide_stream(source, hold_out), which)
    has_few_classes = table.levels is not None and source.n_rows <= STORED_ROWS
    if hold_out.stratified and hold_out.by == "random" and part and has_few_classes:
        labels = np.concatenate([y[:, 0] for _, _, y, _ in passes(source)])
        training, held_out = stratified(labels, part, hold_out.seed)
    elif hold_out.by == "random" or not part:
        training, held_out = at_random(source.n_rows, part, hold_out.seed)
    else:
        training, held_out = _divide_by(table, hold_out)
    second = Subset(source, held_out) if len(held_out) else None
    return _checked(Subset(source, training), second, which)


def _checked(training: Source, held_out: Source | None, which: str) -> tuple[Source, Source | None]:
    """Both parts, unless the weights of one are no weights."""
    check_weights(training, " to train on")
    if held_out is not None:
        check_weights(held_out, which)
    return training, held_out


def _split_column(table: Table, hold_out: HoldOut) -> tuple[Source, int, str]:
    if table.split_column is None or hold_out.column is None:
        raise ValueError(f"{spelled(hold_out.by)}: {table.name} has no column to split by.")
    return table.split_column


def _divide_by(table: Table, hold_out: HoldOut) -> tuple[Index, Index]:
    source, column, kind = _split_column(table, hold_out)
    name, named = str(hold_out.column), given(hold_out.by, hold_out.column)
    if hold_out.by == "time" and kind not in ("date", "number"):
        raise ValueError(f"{named}: it holds {kind}, and a time is a date or a number.")
    values = values_of(source, column, named, is_text=kind == "text")
    if hold_out.by == "time":
        return latest(values, hold_out.part, name)
    return whole_groups(values, hold_out.part, hold_out.seed, name)


def _divide_stream(source: Source, hold_out: HoldOut) -> tuple[Source, Source | None]:
    if not hold_out.part:
        return source, None
    if hold_out.by != "random":
        raise ValueError(
            f"{spelled(hold_out.by)}: a table that is streamed is split at random alone. Let it be kept in "
            f"the cache folder, or raise {spelled('memory_limit')}."
        )
    parts = source.split(hold_out.part, hold_out.seed)
    if parts is None:
        raise ValueError("the source has an order of its own, and no way to be split.")
    return parts
