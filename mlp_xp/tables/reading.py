"""What a user names on the command line, as a table: a data set, arrays in files, or columns of a file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp import checks
from mlp_xp.datasets import load_dataset
from mlp_xp.order import Sequential
from mlp_xp.sources import ArraySource, open_source
from mlp_xp.tables.preparation import STATISTICS_ROWS, Coded

MOST_LEVELS = 20
"""A numeric target of whole numbers with more different values than this is taken for a quantity."""

ROWS_A_LEVEL = 20
"""... and so is one with fewer rows a value than this."""

TASKS = ("auto", "regression", "classification")


@dataclasses.dataclass(frozen=True)
class Table:
    """Raw rows with names.

    Attributes
    ----------
    name : str
        For people.
    source : source
        Raw inputs and targets; class numbers where there are levels.
    feature_names, target_names : tuple of str
    levels : tuple of str or None
        Names of the classes.
    """

    name: str
    source: Any
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    levels: tuple[str, ...] | None = None


def open_table(
    data: str | None, *, target: Sequence[str], weight_column: str | None, dataset: str | None
) -> Table:
    """Open what the options of `mlp-xp train` name.

    Parameters
    ----------
    data : str, optional
        A file, folder or glob. None: `dataset`.
    target : sequence of str
        Columns to predict; for an ``x.npy`` the file with y.
    weight_column : str, optional
        The column with sample weights.
    dataset : str, optional
        A name of `datasets.DATASETS`; "diabetes" where nothing is named.

    Raises
    ------
    ValueError, TypeError, OSError
        The data cannot be trained on; the message says where and why.
    """
    if data is None:
        found = load_dataset(dataset or "diabetes")
        levels = None if found.levels is None else tuple(found.levels)
        source = ArraySource(found.x, found.y)
        return Table(
            dataset or "diabetes", source, tuple(found.feature_names), tuple(found.target_names), levels
        )
    if dataset is not None:
        raise ValueError(f"both data {data!r} and --dataset {dataset} are given: leave one of them out.")
    path = Path(data)
    if path.suffix == ".npy":
        return _array_pair(path, target)
    if path.suffix == ".npz":
        source = open_source(data)
        return Table(path.name, source, *_numbered(source))
    if not target:
        raise ValueError(f"{data} has named columns: say which to predict with --target NAME.")
    source = open_source(data, target=list(target), weight_column=weight_column, dtype="float64")
    return Table(path.name, source, tuple(source.feature_names), tuple(source.target_names))


def _array_pair(path: Path, target: Sequence[str]) -> Table:
    if len(target) != 1 or not target[0].endswith(".npy"):
        raise ValueError(f"{path} holds inputs alone: name the file with targets, --target y.npy.")
    arrays = []
    for file in (path, Path(target[0])):
        if not file.exists():
            raise FileNotFoundError(f"there is no file {file}.")
        arrays.append(open_source(str(file)))
    x, y = (each.x for each in arrays)
    source = ArraySource(x, y)
    return Table(path.name, source, *_numbered(source))


def _numbered(source: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if source.n_targets == 0:
        raise ValueError("there are no targets: an .npz must hold x and y.")
    features = tuple(f"x{i}" for i in range(source.n_features))
    targets = ("y",) if source.n_targets == 1 else tuple(f"y{i}" for i in range(source.n_targets))
    return features, targets


def for_task(table: Table, task: str, *, labels_needed: bool | None) -> tuple[Table, str]:
    """The table with class numbers for targets if its task is classification, and a sentence about it.

    Parameters
    ----------
    table : Table
    task : str
        One of `TASKS`. "auto": classes where the target has levels, or is one column of whole numbers with at
        most 20 different values and at least 20 rows for each.
    labels_needed : bool, optional
        Whether the loss that a user named needs class numbers; decides where the task is "auto".

    Raises
    ------
    ValueError
        The target cannot be what it is asked to be.
    """
    checks.refuse([checks.one_of("task", task, TASKS)])
    wanted = {"auto": labels_needed, "regression": False, "classification": True}[task]
    if table.levels is not None:
        if wanted is False:
            raise ValueError(f"{table.target_names[0]} has classes: its task is classification.")
        return table, f"classification: {len(table.levels)} classes"
    if table.source.n_targets > 1:
        if wanted:
            raise ValueError("classification needs one target column; for several use binary_cross_entropy.")
        return table, f"regression: {table.source.n_targets} targets"
    if wanted is False:
        return table, "regression"
    values = _different_values(table.source, most=MOST_LEVELS if wanted is None else 100_000)
    if wanted is None:
        few = values is not None and table.source.n_rows >= ROWS_A_LEVEL * len(values)
        if values is None or not few or len(values) < 2 or (values != np.floor(values)).any():
            return table, "regression"
    if values is None:
        raise ValueError(
            f"target {table.target_names[0]} has more than 100,000 different values: no classes."
        )
    names = tuple(f"{value:.17g}" for value in values)
    coded = dataclasses.replace(table, source=Coded(table.source, values), levels=names)
    hint = "" if wanted else "; --task regression if the target is a quantity"
    return (
        coded,
        f"classification: {len(names)} classes, {', '.join(names[:5])}{' ...' * (len(names) > 5)}{hint}",
    )


def _different_values(source: Any, most: int) -> np.ndarray | None:
    """The target's values, ascending; None if there are more than `most`."""
    values = np.empty(0)
    order = Sequential()(source.n_rows, 0, 0)
    for start in range(0, source.n_rows, STATISTICS_ROWS):
        index = order[start : start + STATISTICS_ROWS]
        x, y = np.empty((len(index), source.n_features)), np.empty((len(index), 1))
        source.rows(index, x, y, None)
        values = np.union1d(values, y)
        if len(values) > most:
            return None
    return values
