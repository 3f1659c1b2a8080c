"""Where a row travels from its source to the device: gathered in random order, copied over, handed out.

An epoch is a sequence of steps; a step is one update of the weights and a list of chunks. Usually a step has
one chunk, a mini-batch. A batch of more than `chunk_rows` rows, and "full" above all, has several, whose
gradients add up: memory depends on the chunk and not on the data.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.staging import Resident
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.device_arrays import ResidentSource, is_elsewhere
from mlp_xp.rows.order import ORDERS, Order, RowNumbers, Sequential, Shuffled
from mlp_xp.rows.prefetch import SLOTS, Pace, prefetched
from mlp_xp.rows.source import Source, Taken, as_source, is_source, refuse_weights
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import resolve

DEFAULT_BATCH = 256
"""Rows a step where nobody says how many."""

AUTO_LARGEST = 4096
"""The largest batch that "auto" chooses."""


class Chunk(NamedTuple):
    """Rows on the device: x (n_rows, n_features), y (n_rows, n_targets), weight (n_rows, 1) or None."""

    x: Array
    y: Array
    weight: Array | None


class Step:
    """The rows of one update of the weights: iterate over it for its chunks.

    Attributes
    ----------
    n_rows : int
        Rows of the global batch, on all ranks.
    first_row : int
        Position of the first row of these chunks in the global batch; 0 on one process.
    divisor : float or None
        Σ s_i over the global batch (its number of rows without weights). Where weights are spread over
        several chunks it is None until the last one has passed, and over several ranks until they are summed.
    own_weight : float
        Σ s_i over the chunks that have passed.
    """

    def __init__(
        self,
        n_rows: int,
        divisor: float | None,
        chunks: Iterable[tuple[Chunk, float]],
        first_row: int = 0,
        *,
        is_whole: bool = True,
    ) -> None:
        self.n_rows = n_rows
        self.divisor = divisor
        self.first_row = first_row
        self.own_weight = 0.0
        self._chunks = chunks
        self._is_whole = is_whole

    @property
    def only_chunk(self) -> Chunk | None:
        """The step's rows where they are one chunk and all on this process; else None. Consumes nothing."""
        if not (self._is_whole and isinstance(self._chunks, tuple) and len(self._chunks) == 1):
            return None
        return self._chunks[0][0]

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks, and know the divisor when they are through."""
        for chunk, weight in self._chunks:
            self.own_weight += weight
            yield chunk
        if self.divisor is None and self._is_whole:
            self.divisor = self.own_weight


class Group(NamedTuple):
    """Steps whose rows are gathered together.

    Attributes
    ----------
    steps : callable (n) -> iterator of Step
        The steps but for the first n, to be taken in turn; their arrays are valid until the next group is
        asked for. n is 0 where `rows` are not given.
    batch : int
        Rows of each step; the last one may have fewer.
    rows : Chunk or None
        The rows of all steps, one after the other; None where a step has several chunks, or is shared out.
    host_weight : array (n_rows,) or None
        The weights on the host.
    """

    steps: Callable[[int], Iterator[Step]]
    batch: int
    rows: Chunk | None = None
    host_weight: np.ndarray | None = None

    def divisors(self) -> list[float]:
        """Σ s_i of each step, where `rows` are given."""
        n_rows, weight = 0 if self.rows is None else self.rows.x.shape[0], self.host_weight
        starts = range(0, n_rows, self.batch)
        if weight is None:
            return [float(min(self.batch, n_rows - start)) for start in starts]
        return [_sum(weight[start : start + self.batch]) for start in starts]


def _one_step(step: Step, n: int) -> Iterator[Step]:
    """The steps of a group of one, but for the first n."""
    yield from (step,)[n:]


class Loader:
    """Streams mini-batches of a data set to a device, every row exactly once an epoch, in random order.

    Parameters
    ----------
    x : array_like (n_rows, n_features) or source
        Rows; or any object with `n_rows`, `n_features`, `n_targets` and ``rows(index, x, y, weight)``, which
        fills the given host arrays. Never written.
    y : array_like (n_rows,) or (n_rows, n_targets), optional
        Targets; not with a source, which has its own.
    sample_weight : array_like (n_rows,), optional
        s_i >= 0, ones if not given; not with a source.
    batch_size : int, "full" or "auto"
        Rows a step; 256, or all where there are fewer, if not given. "full" means all of them; "auto" the
        largest power of two that is at most 4,096, at most n_rows / 32, and whose step fits `memory_limit`.
        More than there are means all, with a warning.
    class_weight : mapping of int to float, or "balanced", optional
        Multiplies the sample weights by a weight for the row's class number (`ClassWeighted`).
    order : str or order, optional
        Which rows, when: "shuffled" (if not given, unless the source has an `order` of its own, as a stream
        of batches has), "with_replacement", "sequential", "blocks", or a callable ``(n_rows, seed, epoch)``
        whose result gives the rows of positions start … stop as ``[start:stop]``.
    seed : int
        Of the order: a pure function of (seed, epoch).
    chunk_rows : int
        The largest number of rows on the device at a time.
    memory_limit : int, optional
        Bytes that a step may take, parameters and all: what "auto" looks at.
    prefetch : "auto", "always" or "never"
        Whether a thread gathers the next rows while the current ones train; "auto" measures whether it pays.
    device, dtype : str, optional
        Those of the network that is trained, if not given ("cpu" and "float32" when a user iterates).

    Attributes
    ----------
    batch_size : int
        Rows a step.
    batch_bound : str
        What decided it: "given", "4,096", "rows / 32" or "memory".
    ran_out_of_memory : bool
        Whether `chunk_rows` was made smaller because memory ran out.

    Raises
    ------
    ValueError, TypeError
        Data that cannot be trained on (row and column named), mismatched lengths, unknown names.

    Examples
    --------
    >>> loader = Loader([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0], batch_size=2)
    >>> [step.n_rows for step in loader]
    [2, 1]
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | str | None = None,
        class_weight: Any = None,
        order: Any = None,
        seed: int = 0,
        chunk_rows: int = 4096,
        memory_limit: int | None = None,
        prefetch: str = "auto",
        device: str | Backend | None = None,
        dtype: str | None = None,
    ) -> None:
        problems = [
            checks.whole("chunk_rows", chunk_rows),
            checks.whole("seed", seed, least=0),
            None if memory_limit is None else checks.whole("memory_limit", memory_limit),
            checks.one_of("prefetch", prefetch, ("auto", "always", "never")),
            checks.one_of("batch_size", batch_size, ("full", "auto"))
            if isinstance(batch_size, str)
            else checks.whole("batch_size", DEFAULT_BATCH if batch_size is None else batch_size),
        ]
        checks.refuse(problems)
        self.sample_weight: np.ndarray | None = None  # where it was given as an array
        if is_source(x):
            if y is not None or sample_weight is not None:
                raise ValueError("a source brings its own targets and weights: give y or a source, not both.")
            self.source: Source = as_source(x)
        else:
            arrays = (ResidentSource if is_elsewhere(x) else ArraySource)(x, y, sample_weight)
            self.sample_weight = arrays.sample_weight
            if self.sample_weight is not None:
                refuse_weights(self.sample_weight, zeros=False)  # `train` refuses those
            self.source = arrays
        if class_weight is not None:
            self.source = ClassWeighted(self.source, class_weight)
        self.seed, self.chunk_rows, self.device, self.dtype = seed, chunk_rows, device, dtype
        self.memory_limit, self.batch_bound = memory_limit, "given"
        self.batch_size = self._batch_rows(batch_size)
        self.order = self._order(self.source.order or "shuffled" if order is None else order)
        self.prefetch = prefetch
        self._pace = Pace()
        self._next_epoch = 0
        self._idle: dict[Any, list[Any]] = {}
        self.ran_out_of_memory = False

    def _batch_rows(self, batch_size: int | str | None) -> int:
        n_rows = self.source.n_rows
        if batch_size is None:
            return min(DEFAULT_BATCH, n_rows)
        if batch_size == "full":
            return n_rows
        if batch_size == "auto":
            self.batch_bound = "rows / 32" if n_rows < 32 * AUTO_LARGEST else f"{AUTO_LARGEST:,}"
            return _power_of_two(min(AUTO_LARGEST, n_rows // 32))
        if int(batch_size) > n_rows:
            warnings.warn(
                f"batch_size={batch_size} is more than the {n_rows} rows there are: every step takes all of "
                "them.",
                stacklevel=3,
            )
        return min(int(batch_size), n_rows)

    def accumulate(self, n_batches: int) -> None:
        """Take several batches a step, one chunk each, whose gradients add up."""
        self.chunk_rows = min(self.chunk_rows, self.batch_size)
        self.batch_size = min(self.batch_size * n_batches, self.n_rows)

    def fit_memory(self, bytes_per_row: int, other_bytes: int, limit: int | None = None) -> None:
        """Make an "auto" batch small enough that its step fits the memory limit.

        Parameters
        ----------
        bytes_per_row : int
            What a step takes for every row on the device.
        other_bytes : int
            What it takes whatever the batch: parameters, gradient, optimizer.
        limit : int, optional
            Bytes on the device; the loader's `memory_limit` if not given.
        """
        limits = [each for each in (limit, self.memory_limit) if each is not None]
        if self.batch_bound == "given" or not limits:
            return
        fits = _power_of_two((min(limits) - other_bytes) // bytes_per_row)
        if fits < self.batch_size:
            self.batch_size, self.batch_bound = fits, "memory"

    def _order(self, order: Any) -> Order:
        known: Order = (
            order if callable(order) and not isinstance(order, type) else resolve("order", ORDERS, order)
        )
        if isinstance(known, Shuffled) and self.batch_size == self.source.n_rows:
            return Sequential()  # a step that takes all rows need not shuffle them
        return known

    @property
    def n_rows(self) -> int:
        """Rows an epoch."""
        return self.source.n_rows

    @property
    def steps_per_epoch(self) -> int:
        """Updates an epoch; the last one may be ragged."""
        return -(-self.n_rows // self.batch_size)

    def backend_for(self, network_backend: Backend | None = None) -> Backend:
        """Where chunks go: the loader's own device and dtype if it was given any, else the network's."""
        if network_backend is None:
            return find_backend(self.device or "cpu", self.dtype or "float32")
        wanted = find_backend(self.device or network_backend, self.dtype or network_backend.dtype_name)
        if (wanted.name, wanted.dtype_name) != (network_backend.name, network_backend.dtype_name):
            raise ValueError(
                f"this loader was made for {wanted.name} and {wanted.dtype_name}, but the network is on "
                f"{network_backend.name} in {network_backend.dtype_name}: leave the loader's device and "
                "dtype out, or give both the same."
            )
        return network_backend

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps of the next epoch; their arrays are the caller's own."""
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        backend = self.backend_for()
        for step in self.steps(epoch, backend, labels=self.source.labels):
            own = [
                Chunk(*(None if part is None else backend.xp.asarray(part, copy=True) for part in chunk))
                for chunk in step
            ]
            # All of the step's weight is counted with its first chunk.
            weights = [step.divisor or 0.0] + [0.0] * (len(own) - 1)
            yield Step(step.n_rows, step.divisor, list(zip(own, weights, strict=True)))

    def steps(
        self,
        epoch: int,
        backend: Backend,
        *,
        labels: bool = False,
        check: Callable[[np.ndarray], None] | None = None,
        first_step: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Step]:
        """Yield the steps of an epoch, group by group; arguments as in `groups`."""
        groups = self.groups(epoch, backend, labels=labels, check=check, first_step=first_step, share=share)
        with contextlib.closing(groups):
            for group in groups:
                yield from group.steps(0)

    def groups(
        self,
        epoch: int,
        backend: Backend,
        *,
        labels: bool = False,
        check: Callable[[np.ndarray], None] | None = None,
        first_step: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Generator[Group]:
        """Yield the steps of an epoch (from 0) as they are gathered; their arrays are reused for the next.

        Parameters
        ----------
        epoch : int
            Which epoch: with the seed, it determines the order.
        backend : Backend
            Where chunks go.
        labels : bool
            Whether targets are class numbers (int32) rather than numbers of the backend's dtype.
        check : callable, optional
            Refuses targets (on the host) that the loss has no meaning for, once they are gathered: those in
            an array or a file may have changed since they were looked at.
        first_step : int
            Where to start: earlier steps are not gathered.
        share : tuple of int
            (rank, ranks): which part of every global batch to gather, of how many; each row is in one part.
        """
        self.source.check_unchanged()  # after a change under way it would go on with other rows than it began
        order = self.order(self.n_rows, self.seed, epoch)
        source = self.source.in_order(order)
        steps = self._chunked_steps if self.batch_size > self.chunk_rows else self._small_steps
        take = source.on_device(backend, labels=labels)
        with self._staging(backend, labels, take is not None) as staging:
            gather = Gatherer(source, order, staging, backend.runtime, check, take)
            yield from steps(gather, first_step * self.batch_size, Share(*share))

    def _block_rows(self, block_bytes: int) -> int:
        """Rows gathered at a time, at most: a chunk, or several small steps."""
        batch, row_bytes = self.batch_size, 8 * (self.source.n_features + self.source.n_targets + 1)
        if batch > self.chunk_rows:
            return self.chunk_rows
        return batch * max(1, min(block_bytes // (row_bytes * batch), self.chunk_rows // batch))

    @contextlib.contextmanager
    def _staging(self, backend: Backend, labels: bool, resident: bool) -> Iterator[Any]:
        """Buffers for an epoch: those of an earlier one where they are not in use, else new ones."""
        runtime, source, dtype = backend.runtime, self.source, backend.dtype_name
        if resident:
            yield Resident(self._block_rows(runtime.block_bytes))
            return
        columns = (
            (source.n_features, dtype),
            (source.n_targets, "int32" if labels else dtype),
            (1, dtype) if source.has_weights else None,
        )
        n_rows = self._block_rows(runtime.block_bytes)
        idle = self._idle.setdefault((backend.xp, backend.name, columns, n_rows), [])
        staging = idle.pop() if idle else runtime.staging(backend, columns, n_rows, SLOTS)
        try:
            yield staging
        finally:
            idle.append(staging)

    def forget_buffers(self) -> None:
        """Let go of the buffers that later epochs would use again."""
        self._idle.clear()

    def _blocks(
        self, gather: "Gatherer", ranges: Iterable[list[tuple[int, int]]], n_blocks: int
    ) -> Generator["Block"]:
        """Blocks of rows, each complete on the device, and to be read until the next is asked for."""
        mode = self.prefetch
        if mode == "auto" and gather.runtime.overlaps:
            mode = "always"
        elif mode == "auto" and n_blocks == 1:  # nothing to gather while it trains
            mode = "never"
        mode = mode if gather.take is None else "never"  # on the stream of the thread that trains
        with contextlib.closing(prefetched(gather, ranges, self._pace, mode)) as blocks:
            for block in blocks:
                gather.staging.receive(block.slot)
                try:
                    yield block
                finally:
                    gather.staging.release(block.slot)

    def _chunked_steps(self, gather: "Gatherer", first: int, share: "Share") -> Iterator[Group]:
        """Steps of several chunks, gathered one by one."""
        steps = [
            (start, min(start + self.batch_size, self.n_rows))
            for start in range(first, self.n_rows, self.batch_size)
        ]
        chunks = [
            [
                (start, min(start + self.chunk_rows, own_stop))
                for start in range(own_start, own_stop, self.chunk_rows)
            ]
            for own_start, own_stop in (share.of(*step) for step in steps)
        ]
        ranges = [[each] for step in chunks for each in step]
        with contextlib.closing(self._blocks(gather, ranges, len(ranges))) as blocks:
            for (start, stop), own in zip(steps, chunks, strict=True):
                divisor = None if gather.weighted else float(stop - start)
                whole = (next(blocks).whole() for _ in own)
                first_row = share.of(start, stop)[0] - start
                step = Step(stop - start, divisor, whole, first_row, is_whole=share.n_ranks == 1)
                yield Group(functools.partial(_one_step, step), self.batch_size)

    def _small_steps(self, gather: "Gatherer", first: int, share: "Share") -> Iterator[Group]:
        """Steps of one chunk, gathered several at a time."""
        batch, n_rows = self.batch_size, self.n_rows
        size = gather.staging.n_rows
        begins = range(first, n_rows, size)
        ranges = (share.of_each(begin, min(begin + size, n_rows), batch) for begin in begins)
        with contextlib.closing(self._blocks(gather, ranges, len(begins))) as blocks:
            for begin, block in zip(begins, blocks, strict=True):
                steps = functools.partial(self._steps_of, block, begin, min(begin + size, n_rows), share)
                rows = Chunk(block.x, block.y, block.weight) if share.n_ranks == 1 else None
                yield Group(steps, batch, rows, block.host_weight)

    def _steps_of(self, block: "Block", begin: int, end: int, share: "Share", n: int) -> Iterator[Step]:
        """The steps of positions begin … end but for the first n; a block has this process's rows of them."""
        is_whole, weighted = share.n_ranks == 1, block.host_weight is not None
        at = n * self.batch_size
        for start in range(begin + at, end, self.batch_size):
            stop = min(start + self.batch_size, end)
            own_start, own_stop = (start, stop) if is_whole else share.of(start, stop)
            chunk = block.part(at, own_stop - own_start)
            at += own_stop - own_start
            divisor = float(stop - start) if not weighted else chunk[1] if is_whole else None
            chunks = (chunk,) if own_stop > own_start else ()
            yield Step(stop - start, divisor, chunks, own_start - start, is_whole=is_whole)


class Share(NamedTuple):
    """Which part of every global batch belongs to this process.

    Attributes
    ----------
    rank, n_ranks : int
        The part, from 0, and the number of parts.
    """

    rank: int
    n_ranks: int

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """The part of the positions start … stop that is this process's: parts differ by one row at most."""
        n_rows = stop - start
        return (
            start + n_rows * self.rank // self.n_ranks,
            start + n_rows * (self.rank + 1) // self.n_ranks,
        )

    def of_each(self, start: int, stop: int, batch: int) -> list[tuple[int, int]]:
        """Its parts of the batches in start … stop; of one process, all of it in one piece."""
        if self.n_ranks == 1:
            return [(start, stop)]
        return [self.of(first, min(first + batch, stop)) for first in range(start, stop, batch)]


def _power_of_two(most: int) -> int:
    """The largest power of two that is at most `most`; at least 1."""
    return 2 ** (max(1, int(most)).bit_length() - 1)


class Gatherer:
    """Fills reused host buffers with rows in an epoch's order, and sends them to the device.

    Parameters
    ----------
    source : source
        Where rows come from.
    order : sliceable
        Row numbers of positions start … stop of the epoch.
    staging : staging
        The buffers (`staging.HostStaging`, `cuda.feeding.PinnedStaging`).
    runtime : object
        How host and device work together (`staging.InStep`).
    check : callable, optional
        Refuses targets.
    take : callable, optional
        Gives the rows of an index where they are on the device already.
    """

    def __init__(
        self,
        source: Source,
        order: RowNumbers,
        staging: Any,
        runtime: Any,
        check: Callable[[np.ndarray], None] | None = None,
        take: Callable[[np.ndarray], Taken] | None = None,
    ) -> None:
        self.source, self.order, self.staging, self.check = source, order, staging, check
        self.runtime, self.take = runtime, take
        self.weighted = source.has_weights
        self.n_gathered = 0

    def _index(self, start: int, stop: int) -> np.ndarray:
        """The row numbers that the order gives; a source takes those out of range for the nearest row."""
        index = np.asarray(self.order[start:stop], dtype=np.int64)
        if start == stop:
            return index
        last = self.source.n_rows - 1
        # Without its sign a negative number is too large: one pass, not two.
        if index.shape != (stop - start,) or index.view(np.uint64).max() > last:
            within = f" from {index.min()} to {index.max()}" if index.size else ""
            raise ValueError(
                f"the order gives numbers{within} of shape {index.shape} for positions {start} ... "
                f"{stop - 1}: needed are {stop - start} row numbers from 0 to {last}."
            )
        return index

    def __call__(self, ranges: list[tuple[int, int]], slot: int) -> "Block":
        """The rows of some ranges of positions, one after the other; valid until the slot is filled again."""
        parts = [self._index(start, stop) for start, stop in ranges]
        index = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.n_gathered += len(index)
        if self.take is not None:
            return Block(*self.take(index), slot)
        x, y, column = self.staging.host(slot, len(index))
        weight = None if column is None else column[:, 0]

        def fill(part: slice) -> None:
            self.source.rows(index[part], x[part], y[part], None if weight is None else weight[part])

        if self.source.threads_may_share:
            self.runtime.in_parts(fill, len(index), x.nbytes)
        else:
            fill(slice(None))
        if self.check is not None:
            check_rows(self.check, y, index)
        on_device = self.staging.send(slot, len(index))
        return Block(on_device[0], on_device[1], on_device[2], weight, slot)


CHECKED_ROWS = 65_536
"""Rows whose targets are looked at together before the first step."""


def check_rows(check: Callable[[np.ndarray], None], y: np.ndarray, index: np.ndarray) -> None:
    """Refuse targets, and name the row by its number in the source."""
    try:
        check(y)
    except ValueError:
        for position, row in enumerate(index.tolist()):
            try:
                check(y[position : position + 1])
            except ValueError as error:
                raise ValueError(str(error).replace("row 0", f"row {row}")) from None
        raise


def _sum(weight: np.ndarray) -> float:
    """Σ s_i in float64."""
    return float(np.sum(weight, dtype=np.float64))


class Block(NamedTuple):
    """Rows of one or several steps on the device, and their weights on the host."""

    x: Array
    y: Array
    weight: Array | None
    host_weight: np.ndarray | None
    slot: int

    @property
    def n_rows(self) -> int:
        """Rows."""
        return int(self.x.shape[0])

    def part(self, first: int, n_rows: int) -> tuple[Chunk, float]:
        """A chunk of `n_rows` rows from `first`, with its Σ s_i."""
        stop = first + n_rows
        if self.host_weight is None or self.weight is None:
            return Chunk(self.x[first:stop, ...], self.y[first:stop, ...], None), float(n_rows)
        total = _sum(self.host_weight[first:stop])
        return Chunk(self.x[first:stop, ...], self.y[first:stop, ...], self.weight[first:stop, ...]), total

    def whole(self) -> tuple[Chunk, float]:
        """All of it as one chunk."""
        return self.part(0, self.n_rows)
