"""Where rows come from: the one contract, what wraps a source, and a pass over all of its rows.

    source.rows(index, x, y, weight)      fills the given host arrays with the rows of these numbers

Everything else that a source may be asked has an answer in `Source`, so that nobody has to probe for it; what
is made of another source is `Wrapped`, which passes on what it does not change.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.rows.order import Order, RowNumbers, Sequential
from mlp_xp.settings import checks

PASS_ROWS = 8192
"""Rows that are read at a time in a pass over all of them, at most."""

PASS_BYTES = 2**25
"""Bytes that they take, at most, unless a single row takes more."""

Taken = tuple[Array, Array, Array | None, np.ndarray | None]
"""Rows on a device: x, y, weights (n_rows, 1) there, and the weights (n_rows,) on the host."""


class Source:
    """Rows with numbers 0 … n_rows − 1, to be filled into host arrays.

    Attributes
    ----------
    n_rows, n_features, n_targets : int
    has_weights : bool
        Whether rows have sample weights.
    n_weights : int
        Columns of them: one for all members of a network, or one for each.
    n_at_once : int
        Rows at each position of an epoch: one, or one for each member (`own_rows`).
    weight_name : str
        What they are called, for messages.
    y : array (n_rows, n_targets) or None
        Targets that are at hand as an array, and can be looked at before the first step.
    labels : bool
        Whether targets are whole numbers where they come from: class numbers, if nobody knows better.
    dtype : {"float32", "float64"}
        What rows are computed in where nobody says: float64 where they are kept so in memory.
    columns, targets : sequence of columns
        Name, kind and levels of each column of x and of y, where they are known.
    notes : sequence of str
        What is to be said of the rows, for people.
    threads_may_share : bool
        Whether several threads may call `rows` at once.
    order : order or None
        The order in which an epoch must visit rows, of a stream; None where any will do.
    sequential : order
        The order in which all rows can be read once.
    """

    n_rows: int
    n_features: int
    n_targets: int
    has_weights: bool = False
    n_weights: int = 1
    n_at_once: int = 1
    weight_name: str = "sample_weight"
    y: np.ndarray | None = None
    labels: bool = False
    dtype: str = "float32"
    columns: Sequence[Any] = ()
    targets: Sequence[Any] = ()
    notes: Sequence[str] = ()
    threads_may_share: bool = False
    order: Order | None = None
    sequential: Order = Sequential()

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill x (m, n_features), y (m, n_targets) and weight (m,) with the rows of `index` (m,).

        A y or weight of None is left out; without sample weights, `weight` is filled with ones. Where members
        have weights of their own (`n_weights` > 1) it is (m, n_weights).
        """
        raise NotImplementedError

    def visits(self, order: Order, seed: int, epoch: int) -> RowNumbers:
        """The row numbers of an epoch's positions."""
        return order(self.n_rows, seed, epoch)

    def in_order(self, rows: RowNumbers) -> "Source":
        """The source whose rows an epoch's order numbers: those of a stream have other numbers in each."""
        return self

    def split(self, part: float, seed: int) -> "tuple[Source, Source] | None":
        """Two parts of a stream, the second with about that part of its rows; None of other sources."""
        return None

    def on_device(self, backend: Backend, *, labels: bool) -> Callable[[np.ndarray], Taken] | None:
        """What gives the rows of an index where they are on the backend's device; None where they are not.

        Labels become int32.
        """
        return None

    def check_finite(self, *, gaps: bool = False) -> None:
        """Raise ValueError that names the first NaN or infinity, as far as nobody has looked yet.

        With `gaps`, NaN among features is fine.
        """

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the data was changed since it was opened."""


class Wrapped(Source):
    """A source made of another one: what it does not change is the other's.

    It is there to change rows, so that two things are not passed on unless it says so: targets at hand (`y`)
    and rows on a device (`on_device`), which would be the other's.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        for name in Source.__annotations__.keys() - {"y"}:
            setattr(self, name, getattr(source, name))

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays with the other's rows."""
        self.source.rows(index, x, y, weight)

    def with_source(self, source: Source) -> Self:
        """The same around another source of the same columns."""
        other = copy.copy(self)
        other.source, other.n_rows = source, source.n_rows
        other.order, other.sequential = source.order, source.sequential
        return other

    def visits(self, order: Order, seed: int, epoch: int) -> RowNumbers:
        """Those of the other, where members have rows of their own."""
        if self.n_at_once > 1:
            return self.source.visits(order, seed, epoch)
        return super().visits(order, seed, epoch)

    def in_order(self, rows: RowNumbers) -> Source:
        """The same around the other in that order."""
        inner = self.source.in_order(rows)
        return self if inner is self.source else self.with_source(inner)

    def split(self, part: float, seed: int) -> tuple[Source, Source] | None:
        """The same around both parts of the other."""
        both = self.source.split(part, seed)
        return None if both is None else (self.with_source(both[0]), self.with_source(both[1]))

    def check_finite(self, *, gaps: bool = False) -> None:
        """Ask the other."""
        self.source.check_finite(gaps=gaps)

    def check_unchanged(self) -> None:
        """Ask the other."""
        self.source.check_unchanged()


class Index(Protocol):
    """Row numbers, by their position: an array of them, or what makes them when it is asked."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, positions: np.ndarray, /) -> np.ndarray:
        """Those at some positions."""


class Subset(Wrapped):
    """Some rows of a source, by their numbers in an array or an Index (`tables.strata`)."""

    def __init__(self, source: Source, index: Index) -> None:
        super().__init__(source)
        self.index, self.n_rows = index, len(index)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays with rows by their number in this subset."""
        self.source.rows(self.index[index], x, y, weight)

    def on_device(self, backend: Backend, *, labels: bool) -> Callable[[np.ndarray], Taken] | None:
        """The other's, by their number in this subset."""
        take = self.source.on_device(backend, labels=labels)
        return None if take is None else lambda index: take(self.index[index])


def numbers_in_file(source: Source, rows: np.ndarray) -> np.ndarray | None:
    """The numbers (from 0) that rows have where they come from; None for those of a stream."""
    while isinstance(source, Wrapped):
        rows = source.index[rows] if isinstance(source, Subset) else rows
        source = source.source
    return None if source.order is not None else rows


class Adapted(Source):
    """A user's own object as a source: the one place where it is asked for what it may have.

    It has `n_rows`, `n_features`, `n_targets` and ``rows(index, x, y, weight)``; what else it has of `Source`
    is used.
    """

    def __init__(self, given: Any) -> None:
        self.given = given
        self.n_rows, self.n_features, self.n_targets = given.n_rows, given.n_features, given.n_targets
        for name in (
            "y", "columns", "targets", "notes", "threads_may_share", "order", "sequential", "split",
            "check_unchanged",
        ):  # fmt: skip
            if hasattr(given, name):
                setattr(self, name, getattr(given, name))
        self.has_weights = bool(getattr(given, "has_weights", False))
        self.labels = self.y is not None and self.y.dtype.kind in "iub"
        if getattr(getattr(given, "x", None), "dtype", None) == np.float64:
            self.dtype = "float64"

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Have the object fill the arrays; it is asked for weights only where it has some."""
        self.given.rows(index, x, y, weight if self.has_weights else None)
        if weight is not None and not self.has_weights:
            weight[...] = 1.0

    def in_order(self, rows: RowNumbers) -> Source:
        """What the object makes of an order, if it has a method for that."""
        if not hasattr(self.given, "in_order"):
            return self
        inner = self.given.in_order(rows)
        return self if inner is self.given else as_source(inner)


def is_source(given: object) -> bool:
    """Whether something gives rows by number, rather than being data."""
    return isinstance(given, Source) or (hasattr(given, "rows") and hasattr(given, "n_rows"))


def as_source(given: object) -> Source:
    """A source, or a user's own object as one."""
    return given if isinstance(given, Source) else Adapted(given)


def rows_in(n_bytes: int, n_numbers: int) -> int:
    """Rows of so many float64 numbers that fit some bytes; at least one."""
    return max(1, n_bytes // (8 * max(1, n_numbers)))


def pass_rows(source: Source, n_more: int = 0) -> int:
    """Rows of a source that are read at a time, if the reader makes so many more numbers of each."""
    return min(PASS_ROWS, rows_in(PASS_BYTES, source.n_features + source.n_targets + 1 + n_more))


def read(
    source: Source, index: np.ndarray, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (float64), targets and weights of some rows, in arrays of their own, weights as in `rows`."""
    x, y = np.empty((len(index), source.n_features)), np.empty((len(index), source.n_targets), dtype)
    weight = np.ones(len(index) if source.n_weights == 1 else (len(index), source.n_weights))
    source.rows(index, x, y, weight if source.has_weights else None)
    return x, y, weight


def passes(
    source: Source, n_rows: int | None = None, dtype: str = "float64", n_more: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Row numbers, inputs, targets (of `dtype`) and weights of all rows once, in bounded memory.

    There are `n_rows` at a time, at most, and as many as `pass_rows` says.
    """
    order = source.sequential(source.n_rows, 0, 0)
    ordered = source.in_order(order)
    step = pass_rows(source, n_more)
    step = step if n_rows is None else min(step, n_rows)
    for start in range(0, source.n_rows, step):
        index = np.asarray(order[start : min(start + step, source.n_rows)], dtype=np.int64)
        yield index, *read(ordered, index, dtype)


MOST_WEIGHT = float(np.finfo(np.float32).max)
"""What all weights may add up to, so that float32 has room for their sum."""

LEAST_WEIGHT = float(np.finfo(np.float32).tiny)
"""What weights must be on average: what is less, float32 has with few digits, or not at all."""


def weight_problem(name: str, n_rows: int, least: float, total: float, which: str = "") -> str | None:
    """What is wrong with sample weights, from the least of them and their sum; None if nothing is."""
    rows = f"{n_rows:,} rows{which}"
    if not np.isfinite(total) or total > MOST_WEIGHT:
        return (
            f"{name}: the weights of the {rows} add up to {total:g}; needed are finite numbers whose sum is "
            f"at most {MOST_WEIGHT:.3g}. Divide all by one number: only their ratios count."
        )
    if least < 0:
        return (
            f"{name}: the least weight of the {rows} is {least:g}, which is negative; a weight is 0 or more."
        )
    if total == 0:
        return f"{name}: all {rows} have weight 0, so that there is nothing to learn or to measure from them."
    if total < n_rows * LEAST_WEIGHT:
        return (
            f"{name}: the weights of the {rows} add up to {total:g}, too little for float32. Multiply all by "
            "one number: only their ratios count."
        )
    return None


def refuse_weights(weights: np.ndarray, *, zeros: bool = True) -> None:
    """Refuse sample weights at hand that are negative, too large or not finite; and all 0, with `zeros`."""
    with np.errstate(over="ignore"):
        total = float(weights.sum(dtype=float))
    if zeros or total != 0:
        checks.refuse([weight_problem("sample_weight", len(weights), float(weights.min()), total)])


def check_weights(source: Source, which: str) -> None:
    """Refuse weights of some rows ("to train on") that are negative, too large, or all 0, in one pass."""
    if not source.has_weights:
        return
    least, total = np.inf, 0.0
    with np.errstate(over="ignore"):
        for *_, weight in passes(source):
            least, total = min(least, float(weight.min())), total + float(weight.sum())
    checks.refuse([weight_problem(source.weight_name, source.n_rows, least, total, which)])
