"""Rows that come only as a stream of batches: shuffled within a buffer, each exactly once an epoch."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.rows.arrays import Array, ArraySource
from mlp_xp.rows.order import RowNumbers
from mlp_xp.rows.source import Source, Wrapped
from mlp_xp.settings import checks

StreamBatch = tuple[Array, Array | None, Array | None]
"""x (m, n_features), y (m, n_targets) and sample weights (m,)."""

BUFFER_ROWS = 65_536
"""Rows that are shuffled together if nothing else is said."""

_NAMES = ("x", "y", "sample_weight")

# As in mlp_xp.rows.order: streams of random numbers of their own.
_BUFFER, _PART = 0x0DE8, 0x0DEA


class BatchSource(Source):
    """A stream of batches that can be started again, as a source.

    Rows are shuffled within a buffer of `buffer_rows` rows: each comes exactly once an epoch, but
    rows that are far apart in the stream meet in a step less often than by chance, so a stream that
    is sorted by class or time should be mixed where it is made. Rows are not addressable. They come
    in the order `source.order`, which a Loader must use; to go on from the middle of an epoch
    replays the stream from its start, and so does everything that goes back (two loops at once,
    another rank's part of a step is read and dropped).

    Parameters
    ----------
    batches : iterable, callable or iterator in the style of XGBoost's DataIter
        What gives the same batches each time it is started: an object whose `iter()` begins anew (a
        list, a class with `__iter__`), a function without arguments that returns an iterator, or an
        object with `reset()` and `next(input_data)`, where `next` calls
        ``input_data(data=x, label=y, weight=w)`` and returns whether there was a batch. A batch is
        `x`, `(x, y)`, `(x, y, sample_weight)`, or a mapping with these names (or `data`, `label`,
        `weight`). If the object has a method `shuffled(generator)`, it is called with a NumPy
        Generator in each epoch instead, to give the batches in another order.
    n_rows : int, optional
        Rows of an epoch. If not given, one pass over the stream counts them.
    buffer_rows : int
        Rows in the buffer.
    check : bool
        Whether to look for NaN and infinity in every batch.

    Raises
    ------
    ValueError
        The stream is empty, a batch has another shape than the first or NaN or infinity in it;
        while training, an epoch has another number of rows.
    TypeError
        It can not be started again, or a batch is none.

    Examples
    --------
    >>> halves = [(np.zeros((3, 2)), np.arange(3)), (np.ones((2, 2)), np.arange(3, 5))]
    >>> source = BatchSource(halves, buffer_rows=4)
    >>> source.n_rows, source.n_features, source.n_targets
    (5, 2, 1)
    """

    def __init__(
        self,
        batches: Any,
        *,
        n_rows: int | None = None,
        buffer_rows: int = BUFFER_ROWS,
        check: bool = True,
    ) -> None:
        checks.refuse(
            [
                checks.whole("buffer_rows", buffer_rows),
                None if n_rows is None else checks.whole("n_rows", n_rows),
            ]
        )
        self.batches, self.buffer_rows, self._check = batches, buffer_rows, check
        self._start = _starter(batches)
        self._first: StreamBatch | None = None
        self._reader: _Reader | None = None
        self._lock = threading.Lock()
        self._parts: dict[tuple[float, int], tuple[BatchSource, BatchSource]] = {}
        counted = 0
        for batch in self._checked(None):
            self._first = self._first or _rows_of(batch, slice(0, 1))
            counted += len(batch[0])
            if n_rows is not None:
                break
        if self._first is None:
            raise ValueError("the stream has no rows; at least one is needed.")
        x, y, weight = self._first
        self.n_rows = counted if n_rows is None else n_rows
        self.n_features, self.n_targets = x.shape[1], 0 if y is None else y.shape[1]
        self.has_weights = weight is not None

        # A table's stream knows its columns; batches of a user's own may.
        self.columns, self.targets = getattr(batches, "columns", ()), getattr(batches, "targets", ())
        self.notes, self.weight_name = (
            getattr(batches, "notes", ()),
            getattr(batches, "weight_name", _NAMES[2]),
        )
        self.order = lambda n_rows, seed, epoch: StreamOrder(n_rows, (seed, epoch))
        self.sequential = lambda n_rows, seed, epoch: StreamOrder(n_rows, None)

    def in_order(self, rows: RowNumbers) -> Source:
        """The rows of an epoch by their position in it, for `order`; of the stream as it is for others."""
        epoch = rows.epoch if isinstance(rows, StreamOrder) else None
        return self if epoch is None else _Epoch(self, epoch)

    def rows(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Fill x, y and weight with the rows at ascending positions of the stream as it is."""
        self._read(None, index, x, y, weight)

    def _read(
        self,
        epoch: tuple[int, int] | None,
        index: Array,
        x: Array,
        y: Array | None,
        weight: Array | None,
    ) -> None:
        """The rows at ascending positions of an epoch, or of the stream as it is."""
        if not len(index):
            return
        if not (np.diff(index) > 0).all() or index[0] < 0 or index[-1] >= self.n_rows:
            raise ValueError(
                "a stream of batches can only be read forwards: give the Loader order=source.order."
            )
        with self._lock:
            # Kept only if all goes well: after an error the stream is started anew.
            reader, self._reader = self._reader, None
            if reader is None or reader.epoch != epoch or index[0] < reader.position:
                reader = _Reader(epoch, self._shuffled(*epoch) if epoch else self._checked(None))
            reader.fill(index, x, y, weight)
            if reader.position == self.n_rows:
                reader.check_end()
            else:
                self._reader = reader

    def split(self, part: float, seed: int) -> tuple["BatchSource", "BatchSource"]:
        """Two sources of the same stream, the second with about that part of its rows.

        Which of the two a row belongs to is a function of the seed and of its values x and y, as nothing else
        names a row in each epoch: equal rows stay together. One pass counts them; asked again, it gives the
        same two.

        Parameters
        ----------
        part : float in (0, 1)
        seed : int
            Of the choice.

        Raises
        ------
        ValueError
            One of the two would have no rows.
        """
        if (known := self._parts.get((part, seed))) is not None:
            return known
        key = key_of(seed)
        n_chosen = sum(int(_chosen(batch, part, key).sum()) for batch in self._checked(None))
        if not 0 < n_chosen < self.n_rows:
            raise ValueError(
                f"a part of {part!r} of this stream has {n_chosen:,} of its {self.n_rows:,} rows, and both "
                "parts need some: choose another part, or give more rows that differ."
            )

        two = (
            self._only(lambda batch: ~_chosen(batch, part, key), self.n_rows - n_chosen),
            self._only(lambda batch: _chosen(batch, part, key), n_chosen),
        )
        self._parts[part, seed] = two
        return two

    def only(self, is_wanted: Callable[[StreamBatch], Array]) -> "BatchSource":
        """A source of the rows of this stream that a function of a batch says are wanted; one pass counts."""
        return self._only(is_wanted, sum(int(is_wanted(batch).sum()) for batch in self._checked(None)))

    def _only(self, is_wanted: Callable[[StreamBatch], Array], n_rows: int) -> "BatchSource":
        rows = _PartOfStream(self, is_wanted)
        return BatchSource(rows, n_rows=n_rows, buffer_rows=self.buffer_rows, check=False)

    def check_unchanged(self) -> None:
        """Have the stream's own `check_unchanged` called, if it has one."""
        check = getattr(self.batches, "check_unchanged", None)
        if check is not None:
            check()

    def _shuffled(self, seed: int, epoch: int) -> Iterator[StreamBatch]:
        """The batches of an epoch, each row swapped with one drawn from the buffer."""
        key = np.random.SeedSequence((seed, epoch, _BUFFER))
        generator = np.random.Generator(np.random.PCG64(key))
        buffer: list[Array | None] = []
        n_buffered = 0
        for batch in self._checked(generator):
            if not buffer:
                shape = (self.buffer_rows,)
                buffer = [None if a is None else np.empty(shape + a.shape[1:], a.dtype) for a in batch]
            for start in range(0, len(batch[0]), self.buffer_rows):
                part = _rows_of(batch, slice(start, start + self.buffer_rows))
                n_free = min(self.buffer_rows - n_buffered, len(part[0]))
                _put(buffer, slice(n_buffered, n_buffered + n_free), _rows_of(part, slice(n_free)))
                n_buffered += n_free
                part = _rows_of(part, slice(n_free, None))
                if len(part[0]):
                    drawn = generator.choice(self.buffer_rows, len(part[0]), replace=False)
                    yield _rows_of(buffer, drawn)
                    _put(buffer, drawn, part)
        yield _rows_of(buffer, generator.permutation(n_buffered))

    def _checked(self, generator: np.random.Generator | None) -> Iterator[StreamBatch]:
        """The stream from its start, each batch checked and like the first."""
        for number, given in enumerate(self._start(generator), start=1):
            try:
                batch = _as_batch(given, self._check)
            except (TypeError, ValueError) as error:
                raise type(error)(f"batch {number} of the stream: {error}") from None
            if batch is None:
                continue
            for name, one, first in zip(_NAMES, batch, self._first or batch, strict=True):
                if (one is None) != (first is None) or (
                    one is not None and first is not None and one.shape[1:] != first.shape[1:]
                ):
                    raise ValueError(
                        f"batch {number} of the stream: {name} is {_what(one)}, and was "
                        f"{_what(first)} in the first batch."
                    )
                if one is None or first is None:
                    continue
                if not np.can_cast(one.dtype, first.dtype, "same_kind"):
                    raise TypeError(
                        f"batch {number} of the stream: {name} is {one.dtype}, and was "
                        f"{first.dtype} in the first batch; give all batches in one dtype."
                    )
            yield batch


class _PartOfStream:
    """Some rows of a source's stream, as a stream."""

    def __init__(self, source: BatchSource, is_wanted: Callable[[StreamBatch], Array]) -> None:
        self._source, self._is_wanted = source, is_wanted
        self.columns, self.targets, self.weight_name = source.columns, source.targets, source.weight_name
        self.check_unchanged = source.check_unchanged

    def shuffled(self, generator: np.random.Generator | None) -> Iterator[StreamBatch]:
        """The batches in an order that is drawn, with those rows only."""
        for batch in self._source._checked(generator):
            yield _rows_of(batch, self._is_wanted(batch))

    def __iter__(self) -> Iterator[StreamBatch]:
        """The batches in the order of the stream, with those rows only."""
        return self.shuffled(None)


def key_of(seed: int, *purpose: int) -> int:
    """What hashes of rows start from."""
    return int(np.random.SeedSequence((seed, _PART, *purpose)).generate_state(1, np.uint64)[0])


def hashes(columns: Sequence[Array], key: int) -> Array:
    """A hash in [0, 1) of each row, of all bits of its values as float64; of at least one column."""
    hashed = np.full(len(columns[0]), key, np.uint64)
    for values in columns:
        hashed ^= np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
        hashed *= np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(29)
        hashed *= np.uint64(0xBF58476D1CE4E5B9)
        hashed ^= hashed >> np.uint64(32)
    found: Array = (hashed >> np.uint64(11)) * 2.0**-53
    return found


def _chosen(batch: StreamBatch, part: float, key: int) -> Array:
    """Which rows belong to a part: those whose hash is below it."""
    columns = [column for array in batch[:2] if array is not None for column in array.T]
    chosen: Array = hashes(columns, key) < part
    return chosen


def _what(array: Array | None) -> str:
    return "missing" if array is None else f"an array with rows of shape {array.shape[1:]}"


def _starter(batches: Any) -> Callable[[np.random.Generator | None], Iterable[Any]]:
    """A function that starts the stream anew, in an order drawn by a generator if there is one."""
    if hasattr(batches, "shuffled"):
        return lambda generator: iter(batches) if generator is None else batches.shuffled(generator)
    if hasattr(batches, "reset") and hasattr(batches, "next"):
        return lambda generator: _from_data_iter(batches)
    if callable(batches):
        return lambda generator: batches()
    if not isinstance(batches, Iterable) or iter(batches) is batches:
        raise TypeError(
            f"a stream of batches must start anew each epoch, and {type(batches).__name__} can be "
            f"read once at most. Give a function that returns such an iterator, or a list."
        )
    return lambda generator: batches


def _from_data_iter(batches: Any) -> Iterator[Any]:
    batches.reset()
    given: list[Mapping[str, Any]] = []
    while batches.next(lambda **named: given.append(named)):
        yield from given
        given.clear()


def _as_batch(given: Any, check: bool) -> StreamBatch | None:
    """x, y and sample weights of one batch, checked; None if it has no rows."""
    if isinstance(given, Mapping):
        others = {"data": "x", "label": "y", "weight": "sample_weight"}
        named = {others.get(str(name), str(name)): value for name, value in given.items()}
        if unknown := set(named) - set(_NAMES):
            raise TypeError(f"it names {sorted(unknown)}; known are x, y and sample_weight.")
        given = tuple(named.get(name) for name in _NAMES)
    elif not isinstance(given, tuple):
        given = (given,)
    if not 1 <= len(given) <= 3 or given[0] is None:
        raise TypeError("a batch is x, (x, y) or (x, y, sample_weight).")
    if len(given[0]) == 0:
        return None
    checked = ArraySource(*given, check=check)
    return checked.x, checked.y, checked.sample_weight


class StreamOrder:
    """Positions of one epoch of a stream: `order[start:stop]` counts them.

    The epoch is a seed and a number; None means the stream as it is.
    """

    def __init__(self, n_rows: int, epoch: tuple[int, int] | None) -> None:
        self.n_rows, self.epoch = n_rows, epoch

    def __len__(self) -> int:
        """Positions in the epoch."""
        return self.n_rows

    def __getitem__(self, positions: slice) -> Array:
        """A range of positions."""
        return np.arange(*positions.indices(self.n_rows), dtype=np.int64)


class _Epoch(Wrapped):
    """One epoch of a stream: its rows by their position."""

    def __init__(self, source: BatchSource, epoch: tuple[int, int]) -> None:
        super().__init__(source)
        self._stream, self._number = source, epoch

    def rows(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Fill the arrays with the rows at ascending positions of the epoch."""
        self._stream._read(self._number, index, x, y, weight)


class _Reader:
    """How far one epoch of a stream has been read."""

    def __init__(self, epoch: tuple[int, int] | None, batches: Iterator[StreamBatch]) -> None:
        self.epoch, self.position = epoch, 0
        self._batches = batches
        self._batch: StreamBatch = (np.empty((0, 0)), None, None)
        self._first = 0

    def fill(self, positions: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Go on to the last of the positions; fill in the rows at each, drop those between."""
        done = 0
        while True:
            end = self._first + len(self._batch[0])
            until = int(np.searchsorted(positions, end))
            chosen = positions[done:until] - self._first
            for source, out in zip(self._batch, (x, y, weight), strict=True):
                if out is not None and len(chosen):
                    np.copyto(out[done:until], 1 if source is None else source[chosen], "unsafe")
            done = until
            if done == len(positions):
                break
            self._first = end
            self._batch = next(self._batches, (np.empty((0, 0)), None, None))
            if not len(self._batch[0]):
                raise RuntimeError(
                    f"the stream of batches ended after {end:,} rows, and had more before. It must "
                    f"give the same rows each time it is started."
                )
        self.position = int(positions[-1]) + 1

    def check_end(self) -> None:
        """Raise RuntimeError if there are rows after the last."""
        if self._first + len(self._batch[0]) > self.position or next(self._batches, None):
            raise RuntimeError(
                f"the stream of batches went on after {self.position:,} rows, and had no more "
                f"before. It must give the same rows each time it is started."
            )


def _rows_of(batch: Sequence[Array | None], which: slice | Array) -> Any:
    return tuple(None if array is None else array[which] for array in batch)


def _put(buffer: Sequence[Array | None], where: slice | Array, rows: StreamBatch) -> None:
    for into, given in zip(buffer, rows, strict=True):
        if into is not None:
            into[where] = given
