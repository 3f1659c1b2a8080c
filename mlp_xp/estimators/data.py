"""The rows of a fit: in memory, or read as they are needed from a path, a source or a loader."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from mlp_xp.estimators.targets import NO_CLASSES, Labels, numbers_of
from mlp_xp.machine.array_api import ArrayLike, to_host
from mlp_xp.network import Network
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.device_arrays import ResidentSource, is_elsewhere, take_rows
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.source import Source, Subset, Wrapped, as_source, is_source, passes
from mlp_xp.settings import checks
from mlp_xp.tables.files.column_kinds import LABEL
from mlp_xp.tables.files.columns import RawColumn, as_names
from mlp_xp.tables.files.one_value import TRUTH, is_number, number
from mlp_xp.tables.files.opening import open_source

CHUNK_ROWS = 4096
"""Rows of a source that are looked at together."""

DENSE_BYTES = 2**23
"""Sparse rows are made dense in pieces of at most this size."""

Scored = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Targets, the network's output and sample weights of validation rows."""


class SparseSource(Source):
    """Rows of a CSR matrix, made dense batch by batch."""

    def __init__(self, x: ArrayLike, y: np.ndarray, sample_weight: np.ndarray | None) -> None:
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self.n_rows, self.n_features = x.shape
        self.n_targets = y.shape[1]
        self.has_weights, self.labels = sample_weight is not None, y.dtype.kind in "iub"

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill x, y and weight with the rows of `index`."""
        x[...] = self.x[index].toarray()
        if y is not None and self.y is not None:
            y[...] = self.y[index]
        if weight is not None:
            weight[...] = 1.0 if self.sample_weight is None else self.sample_weight[index]


def dense_pieces(x: ArrayLike) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of dense rows with the number of their first row: all of a dense array at once."""
    if not scipy.sparse.issparse(x):
        yield 0, x
        return
    x = x.tocsr()
    step = max(1, DENSE_BYTES // (8 * max(1, x.shape[1])))
    for start in range(0, x.shape[0], step):
        yield start, x[start : start + step].toarray()


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Rows on the host or on a GPU, checked, with targets (on the host) as the core's losses read them.

    `weight` has the weights of classes in it, `own_weight` has not.
    """

    x: ArrayLike
    y: np.ndarray
    weight: np.ndarray | None
    own_weight: np.ndarray | None = None

    @functools.cached_property
    def source(self) -> Source:
        """The rows as a source."""
        if scipy.sparse.issparse(self.x):
            return SparseSource(self.x.tocsr(), self.y, self.weight)
        return (ResidentSource if is_elsewhere(self.x) else ArraySource)(self.x, self.y, self.weight)

    @property
    def prefetch(self) -> str:
        """Whether a thread gathers rows beside a CPU that computes: what is in memory takes no time."""
        return "auto" if scipy.sparse.issparse(self.x) else "never"

    def held_out(self, rows: np.ndarray) -> "InMemory":
        """Some rows, copied: class weights are a means of training, and these only judge it."""
        weight = None if self.own_weight is None else self.own_weight[rows]
        x = take_rows(self.x, rows) if is_elsewhere(self.x) else self.x[rows]
        return InMemory(x, self.y[rows], weight)

    def outputs(self, network: Network) -> Scored:
        """What a network says to all rows."""
        parts = [to_host(network.predict(rows)) for _, rows in dense_pieces(self.x)]
        return self.y, parts[0] if len(parts) == 1 else np.concatenate(parts), self.weight

    @property
    def divisor(self) -> float:
        """Σ s_i."""
        return float(len(self.y) if self.weight is None else self.weight.sum())


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Rows that a source has: gathered for each step, never held as a whole."""

    source: Source
    prefetch = "auto"

    def held_out(self, rows: np.ndarray) -> "Streamed":
        """Some rows, not copied, without class weights."""
        source = self.source.source if isinstance(self.source, ClassWeighted) else self.source
        return Streamed(Subset(source, rows))

    def outputs(self, network: Network) -> Scored:
        """What a network says to all rows; outputs are held, rows are not."""
        dtype = "int32" if self.source.labels else network.backend.dtype_name
        read = passes(self.source, CHUNK_ROWS, dtype, network.layer_sizes[-1])
        parts = ((y, network.predict(x), weight) for _, x, y, weight in read)
        targets, outputs, weights = map(np.concatenate, zip(*parts, strict=True))
        return targets, outputs, weights if self.source.has_weights else None

    @property
    def divisor(self) -> float:
        """Σ s_i."""
        if not self.source.has_weights:
            return float(self.source.n_rows)
        return float(sum(weight.sum() for *_, weight in passes(self.source, CHUNK_ROWS)))


Rows = InMemory | Streamed
"""What an estimator is fitted to, or scored on."""


class Encoded(Wrapped):
    """A source whose targets are what the core's losses read: class numbers (`labels`) or numbers.

    `encode` makes them of targets (m, n_targets) as the file or the user has them.
    """

    def __init__(self, source: Source, labels: bool, encode: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(source)
        self.labels, self.encode = labels, encode

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill x, y and weight with the rows of `index`."""
        given = np.empty((len(index), self.n_targets), label_dtype(self.source))
        self.source.rows(index, x, given, weight)
        if y is not None:
            y[...] = self.encode(given)


def is_streamed(X: ArrayLike) -> bool:
    """Whether X names, is or has a source, rather than being data."""
    return isinstance(X, str | os.PathLike | Loader) or is_source(X)


def label_dtype(source: Source) -> np.dtype[Any]:
    """What keeps the targets of a source as they are: integers and truth values are not made floats."""
    y = source.y
    return y.dtype if y is not None and y.dtype.kind in "biu" else np.dtype(float)


def source_given(X: ArrayLike, y: ArrayLike, dtype: str | None, *, labels: bool = False) -> Source | None:
    """The source of a dtype that X names, is or has; None where X is data.

    Targets that are `labels` are kept as they are.

    Raises ValueError: y is given beside a source that has its own targets, or is missing beside a path.
    """
    if isinstance(X, str | os.PathLike):
        has_names = not os.fspath(X).lower().endswith((".npy", ".npz"))
        kinds = dict.fromkeys(as_names(y), LABEL) if labels and has_names else None
        return open_source(X, y, dtype=dtype or "float32", kinds=kinds)
    if not is_streamed(X):
        return None
    if y is not None:
        raise ValueError("a source or a loader brings its own targets: leave y out.")
    return X.source if isinstance(X, Loader) else as_source(X)


def names_of(columns: Sequence[RawColumn]) -> list[str] | None:
    """The names of a source's columns, where it has them."""
    return [column.name for column in columns] if columns else None


@dataclasses.dataclass(frozen=True)
class SourceTargets:
    """What one pass over a source found of its targets.

    Attributes
    ----------
    labels : Labels
        As the user knows them: texts where the column is text.
    values, named, counts : list of arrays
        Of each target, what the source gives for its classes, ascending; which classes these are; their rows.
    """

    labels: Labels
    values: list[np.ndarray]
    named: list[np.ndarray]
    counts: list[np.ndarray]

    def encoder(self, labels: Labels) -> Callable[[np.ndarray], np.ndarray]:
        """The function from the source's targets to what the losses of some labels read."""
        if labels.kind == "multilabel":
            return lambda y: y
        tables = list(map(numbers_of, self.named, labels.of_each))

        def encode(y: np.ndarray) -> np.ndarray:
            columns = zip(y.T, self.values, tables, strict=True)
            numbers = [table[numbers_of(column, values)] for column, values, table in columns]
            return np.stack(numbers, axis=1)

        return encode

    def class_weights(self, given: Any) -> dict[int, float]:
        """The weight of each class of the one target by its number, from a dict or "balanced"."""
        classes = self.labels.classes
        if given != "balanced":
            return dict(enumerate(weight_of_each(classes, given).tolist()))
        n = np.bincount(np.searchsorted(classes, self.named[0]), self.counts[0])
        return dict(enumerate((n.sum() / (len(n) * n)).tolist()))


def weight_of_each(classes: np.ndarray, class_weight: Mapping[Any, float]) -> np.ndarray:
    """The weight of each class, 1 where a dict names none.

    Raises ValueError: the dict names what is no class, and not all of the classes; else it may be that of
    more rows.
    """
    known = list(classes)
    others = [name for name in class_weight if name not in known]
    if others and len(class_weight) - len(others) < len(known):
        hint = checks.did_you_mean(str(others[0]), list(map(str, known)))
        raise ValueError(f"class_weight names {others[0]!r}, which no row is of; {hint}.")
    return np.array([class_weight.get(each, 1.0) for each in known], dtype=float)


def targets_of(source: Source) -> SourceTargets:
    """The classes in the targets of a source, by one pass over it.

    Raises ValueError: there are no targets, or they are no classes.
    """
    if not source.n_targets:
        raise ValueError("the source has no targets: name the target column as y.")
    dtype = label_dtype(source)
    counts: list[dict[Any, int]] = [{} for _ in range(source.n_targets)]
    for _, _, y, _ in passes(source, CHUNK_ROWS, dtype.name):
        for column, count in zip(y.T, counts, strict=True):
            for value, n in zip(*np.unique(column, return_counts=True), strict=True):
                count[value.item()] = count.get(value.item(), 0) + int(n)
    values = [np.array(sorted(count), dtype) for count in counts]
    columns = source.targets or [None] * source.n_targets
    named = list(map(_classes_of, columns, values))
    classes = [np.unique(each) for each in named]
    if source.n_targets == 1:
        labels = Labels("binary" if len(classes[0]) <= 2 else "multiclass", classes[0])
    elif all(each.dtype.kind != "U" and set(each.tolist()) <= {0, 1} for each in classes):
        labels = Labels("multilabel", np.arange(source.n_targets))
    else:
        labels = Labels("multioutput", classes)
    return SourceTargets(labels, values, named, [np.array([c[v] for v in sorted(c)]) for c in counts])


def _classes_of(column: RawColumn | None, values: np.ndarray) -> np.ndarray:
    """The classes that values of a source stand for."""
    if column is not None and column.kind == "text":
        texts = np.array(column.levels)[values.astype(int)]
        return texts if column.reading == "text" else typed_labels(texts.tolist())
    if values.dtype.kind == "f":
        _refuse_fractions(values)
        return values.astype(np.int64)
    return values


def typed_labels(texts: Sequence[str]) -> np.ndarray:
    """Labels that are no texts, from how they are written: truth values, whole numbers or dates."""
    found = [text.strip() for text in texts]
    if all(text.lower() in TRUTH for text in found):
        return np.array([text.lower() == "true" for text in found])
    if all(re.fullmatch(r"[+-]?\d+(\.0*)?", text, re.ASCII) for text in found):
        whole = [int(text.partition(".")[0]) for text in found]
        with contextlib.suppress(OverflowError):  # wider than any type: texts
            # Left to itself NumPy makes floats of 1 and 2^63.
            return np.array(whole, np.int64 if max(whole) < 2**63 else np.uint64)
        return np.array(texts)
    try:
        _refuse_fractions(np.array([number(text) for text in found]))
        return np.array([number(text) for text in found]).astype(np.int64)
    except ValueError:
        if any(map(is_number, found)):
            raise
    try:
        moments = np.array([text.removesuffix("Z") for text in found], dtype="datetime64[us]")
    except ValueError:
        return np.array(texts)
    days = moments.astype("datetime64[D]")
    return days if (days == moments).all() else moments


def _refuse_fractions(values: np.ndarray) -> None:
    if (values != np.floor(values)).any():
        raise ValueError(NO_CLASSES.format("continuous"))
