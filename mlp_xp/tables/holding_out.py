"""Which rows are held out: at random, whole groups, or the latest."""

import numpy as np

from mlp_xp.rows.order import STORED_ROWS
from mlp_xp.rows.source import Index, Source, passes
from mlp_xp.settings.spelling import given
from mlp_xp.tables.files.records import NO_TEXT
from mlp_xp.tables.strata import parted


def n_held_out(n_rows: int, part: float) -> int:
    """How many rows a part is: at least one, unless it is 0.

    Raises ValueError: no row would be left to train on.
    """
    n_held = round(part * n_rows) or (1 if part else 0)
    if n_held >= n_rows:
        raise ValueError(
            f"{n_rows} row{'s are' if n_rows > 1 else ' is'} too few to hold out a part of {part:g}: at "
            "least one is needed for training and one for validation. Give more rows, or "
            f"{given('validation', 0)}."
        )
    return n_held


def at_random(n_rows: int, part: float, seed: int) -> tuple[Index, Index]:
    """Row numbers of the training part and of the held-out part, drawn at random; each in file order.

    They are arrays, or beyond 3,000,000 rows what is indexed like one and takes no memory.

    Raises ValueError: one of the two would be empty.
    """
    n_held = n_held_out(n_rows, part)
    if n_rows > STORED_ROWS:
        return parted(n_rows, n_held, seed)
    permutation = np.random.default_rng([seed, 1]).permutation(n_rows)
    return np.sort(permutation[n_held:]), np.sort(permutation[:n_held])


def stratified(labels: np.ndarray, part: float, seed: int) -> tuple[Index, Index]:
    """Row numbers of the training part and of the held-out part, each class with its share in both.

    Rows are drawn at random within a class; what the part is of each class is rounded so that it adds up. A
    class of a single row is trained on.
    """
    n_held = n_held_out(len(labels), part)
    if not n_held:
        return np.arange(len(labels)), np.arange(0)
    permutation = np.random.default_rng([seed, 1]).permutation(len(labels))
    _, place, counts = np.unique(labels[permutation], return_inverse=True, return_counts=True)
    by_class = permutation[np.argsort(place, kind="stable")]
    turn = (np.arange(len(labels)) + 0.5) * n_held
    is_held = turn // len(labels) != (turn + n_held) // len(labels)
    is_held &= np.repeat(counts, counts) > 1
    if not is_held.any():
        return at_random(len(labels), part, seed)
    return np.sort(by_class[~is_held]), np.sort(by_class[is_held])


def whole_groups(values: np.ndarray, part: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts, such that rows with the same value, of a column so named, are in the same.

    Groups are drawn at random; as many as come nearest to the part, and at least one.
    """
    n_held = n_held_out(len(values), part)
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(
            f"{given('group', name)}: all rows are of one group, and splitting takes at least two."
        )
    drawn = np.random.default_rng([seed, 1]).permutation(len(sizes))
    rows_so_far = np.cumsum(sizes[drawn])
    n_groups = 1 + int(np.argmin(np.abs(rows_so_far[:-1] - n_held)))
    is_held = np.isin(group, drawn[:n_groups])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def latest(values: np.ndarray, part: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts, such that the second comes after the first; rows of one time stay together.

    At most that part of the rows is held out, unless the latest time alone has more.
    """
    n_held = n_held_out(len(values), part)
    last = len(values) - 1 - n_held
    until = np.partition(values, last)[last]
    is_held = values > until
    if not is_held.any():  # the latest time has more rows than the part
        is_held = values == values.max()
    if is_held.all():
        raise ValueError(
            f"{given('time', name)}: all rows have the same time, so that none comes after the others."
        )
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def values_of(source: Source, column: int, named: str, *, is_text: bool) -> np.ndarray:
    """The values of one column of a source (n_rows,), 8 bytes a row.

    Raises ValueError: one is missing, with its row.
    """
    found = []
    for index, x, _, _ in passes(source):
        found.append(x[:, column].copy())
        refuse_gaps(index, found[-1], named, is_text=is_text)
    return np.concatenate(found)


def refuse_gaps(index: np.ndarray, values: np.ndarray, named: str, *, is_text: bool) -> None:
    """Raise ValueError that names the first of some rows that has no value to split by."""
    is_gap = np.isnan(values) | (values == NO_TEXT if is_text else False)
    if is_gap.any():
        raise ValueError(
            f"{named}: row {index[np.argmax(is_gap)] + 1:,} has nothing there, and each row needs a value. "
            "Fill the gap, or split by another column."
        )
