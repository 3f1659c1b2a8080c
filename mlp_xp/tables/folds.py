"""Which fold of a cross-validation each row of a table is in; each member of a network leaves one fold out.

    at random     the place in a random order, modulo the number of folds
    of classes    the same within each class, so that every fold has its share of each
    of groups     the largest group first, each to the fold that has the fewest rows so far
    of a stream   a hash of all values of the row, as nothing else names it in every epoch

Every row is left out by one member, and a group by one as a whole.
"""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_xp.rows.member_weights import EachWeighted, fold_numbers
from mlp_xp.rows.order import STORED_ROWS
from mlp_xp.rows.own_rows import OwnRows
from mlp_xp.rows.source import PASS_ROWS, Source, Subset, Wrapped, passes
from mlp_xp.rows.streams import BatchSource, StreamBatch, hashes, key_of
from mlp_xp.settings.spelling import given
from mlp_xp.tables.holding_out import refuse_gaps

Integers = npt.NDArray[Any]


class Folds:
    """n folds of rows that have numbers, by the fold of each row (n_rows,), from 0."""

    def __init__(self, n: int, numbers: Integers) -> None:
        self.n, self.numbers = n, numbers.astype(np.min_scalar_type(n))

    def of(self, index: Integers, x: np.ndarray, y: np.ndarray) -> Integers:
        """The folds of some rows."""
        found: Integers = self.numbers[index]
        return found

    def for_members(self, source: Source, copies: int = 1, *, left_out: bool = False) -> Source:
        """The rows of a source that has these folds for each member: those that it sees, or leaves out.

        There may be several copies of the members, side by side.
        """
        if source.n_rows > STORED_ROWS:
            return Folded(source, self, copies, left_out=left_out)
        return OwnRows(source, self.numbers, self.n, copies, left_out=left_out)

    def rows_of(self, member: int, source: Source, *, left_out: bool) -> Source:
        """The rows of a source that a member sees, or that it leaves out."""
        return Subset(source, np.flatnonzero((self.numbers == member) == left_out))


class StreamFolds(Folds):
    """n folds of rows that come as a stream, from the values of rows as the stream has them."""

    def __init__(self, n: int, of_batch: Callable[[np.ndarray, np.ndarray], Integers]) -> None:
        super().__init__(n, np.empty(0, int))
        self._of_batch = of_batch

    def of(self, index: Integers, x: np.ndarray, y: np.ndarray) -> Integers:
        """The folds of some rows."""
        return self._of_batch(x, y)

    def for_members(self, source: Source, copies: int = 1, *, left_out: bool = False) -> Source:
        """The rows of a source with a weight for each member; the stream beneath it has all columns."""
        return beneath(source, lambda base: Folded(base, self, copies, left_out=left_out))

    def rows_of(self, member: int, source: Source, *, left_out: bool) -> Source:
        """The rows of a source that a member sees, or that it leaves out; one pass counts them."""

        def is_own(batch: StreamBatch) -> Integers:
            x, y, _ = batch
            return (self._of_batch(x, x[:, :0] if y is None else y) == member) == left_out

        def only(base: Source) -> Source:
            if not isinstance(base, BatchSource):
                raise TypeError("a stream's rows come from batches.")
            return base.only(is_own)

        return beneath(source, only)


class Folded(EachWeighted):
    """A source whose rows have a weight for each member, of so many copies: 0, or the source's own.

    A member has the rows of its fold (`left_out`), or all others.
    """

    def __init__(self, source: Source, folds: Folds, copies: int, *, left_out: bool) -> None:
        super().__init__(source, folds.n * copies)
        self.folds, self.copies, self.left_out, self.y = folds, copies, left_out, source.y

    def factors(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """1 where a member has a row, or 0."""
        is_out = self.folds.of(index, x, y)[:, None] == np.arange(self.folds.n)
        return np.tile(is_out if self.left_out else ~is_out, self.copies)


def beneath(source: Source, make: Callable[[Source], Source]) -> Source:
    """The same source with something else where its rows come from."""
    if not isinstance(source, Wrapped):
        return make(source)
    inner = beneath(source.source, make)
    other = source.with_source(inner)
    other.has_weights, other.n_weights = source.has_weights or inner.has_weights, inner.n_weights
    return other


def base_of(source: Source) -> Source:
    """Where the rows of a source come from."""
    while isinstance(source, Wrapped):
        source = source.source
    return source


def of_rows(source: Source, n: int, seed: int, *, has_classes: bool) -> Folds:
    """Folds of rows one by one, at random; each class has its share in each where there are classes."""
    if n > source.n_rows:
        raise ValueError(
            f"{given('folds', n)}: {source.n_rows} rows cannot be parted so; each fold needs one."
        )
    if source.order is not None:
        key = key_of(seed)
        folds = StreamFolds(n, lambda x, y: _part(hashes([*x.T, *y.T], key), n))
        _refuse_empty(folds, base_of(source))
        return folds
    if source.n_rows > STORED_ROWS:
        starts = range(0, source.n_rows, PASS_ROWS)
        index = (np.arange(start, min(start + PASS_ROWS, source.n_rows), dtype=float) for start in starts)
        parts = [_part(hashes([each], key_of(seed)), n).astype(np.min_scalar_type(n)) for each in index]
        return Folds(n, np.concatenate(parts))
    if not has_classes:
        return Folds(n, fold_numbers(source.n_rows, n, seed))
    labels = np.concatenate([y[:, 0] for _, _, y, _ in passes(source)])
    return Folds(n, stratified(labels, n, seed))


def stratified(labels: np.ndarray, n: int, seed: int) -> Integers:
    """The fold of each row, such that each class is dealt out evenly, and so are all rows."""
    by_class = np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))
    fold = np.empty(len(labels), int)
    fold[by_class] = np.arange(len(labels)) % n
    return fold


def of_groups(values: np.ndarray, n: int, seed: int, name: str) -> Folds:
    """Folds of whole groups, from the group of each row (n_rows,); `name` is that of their column."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return Folds(n, _dealt(sizes, n, seed, name)[group])


def of_streamed_groups(source: Source, column: int, n: int, seed: int, name: str, *, is_text: bool) -> Folds:
    """Folds of whole groups of a stream, by a column of what it has; each group takes 24 bytes."""
    known, sizes = np.empty(0), np.empty(0, int)
    for index, x, _, _ in passes(base_of(source)):
        refuse_gaps(index, x[:, column], given("group", name), is_text=is_text)
        values, counts = np.unique(x[:, column], return_counts=True)
        both, at = np.unique(np.concatenate([known, values]), return_inverse=True)
        known, sizes = both, np.bincount(at, np.concatenate([sizes, counts])).astype(int)
    fold = _dealt(sizes, n, seed, name)
    return StreamFolds(n, lambda x, y: fold[np.searchsorted(known, x[:, column])])


def _dealt(sizes: np.ndarray, n: int, seed: int, name: str) -> Integers:
    """The fold of each group, from the groups' sizes."""
    if len(sizes) < n:
        raise ValueError(
            f"{given('group', name)}: {len(sizes)} groups cannot be parted into {n} folds, as none may be in "
            "two. Take fewer folds."
        )
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    fold, rows_of = np.empty(len(sizes), int), [(0, number) for number in range(n)]
    for group in drawn[np.argsort(-sizes[drawn], kind="stable")].tolist():
        n_rows, fold[group] = rows_of[0]
        heapq.heapreplace(rows_of, (n_rows + int(sizes[group]), int(fold[group])))
    return fold


def _part(hashed: np.ndarray, n: int) -> Integers:
    """Which of n parts hashes in [0, 1) fall into."""
    return (hashed * n).astype(int)


def _refuse_empty(folds: StreamFolds, source: Source) -> None:
    """One pass: every fold has rows."""
    counts = np.zeros(folds.n, int)
    for index, x, y, _ in passes(source):
        counts += np.bincount(folds.of(index, x, y), minlength=folds.n)
    if not counts.all():
        raise ValueError(
            f"{given('folds', folds.n)}: of the {source.n_rows:,} streamed rows none falls into fold "
            f"{int(np.argmin(counts)) + 1}, as equal rows stay together. Take fewer folds."
        )
