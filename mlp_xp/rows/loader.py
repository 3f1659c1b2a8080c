"""Where a row travels from its source to the device: gathered in random order, copied over, handed out.

An epoch is a sequence of batches; a batch is the rows of one update of the weights, and a list of chunks.
Usually it has one chunk, a mini-batch. A batch of more than `chunk_rows` rows, and "full" above all, has
several, whose gradients add up: memory depends on the chunk and not on the data.
"""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TypedDict, Unpack

import numpy as np

from mlp_xp.machine.array_api import ArrayLike, Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.staging import Resident, Runtime, Staging
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.batch import Batch, Block, Chunk, Gathered, LargeBatch, Share
from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.device_arrays import ResidentSource, is_elsewhere
from mlp_xp.rows.gather import Gatherer
from mlp_xp.rows.member_weights import MemberWeighted
from mlp_xp.rows.order import ORDERS, Order, Sequential, Shuffled, check_order
from mlp_xp.rows.own_rows import OwnGatherer
from mlp_xp.rows.prefetch import SLOTS, Pace, prefetched
from mlp_xp.rows.source import Source, as_source, is_source, refuse_weights
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import resolve

DEFAULT_BATCH = 256
"""Rows a step where nobody says how many."""

CHUNK_ROWS, CHUNK_BYTES, LEAST_CHUNK_BYTES = 4096, 1 << 30, 1 << 26
"""Rows on the device at a time and bytes for them, where nobody says; bytes that they may always take."""

AS_OF_ONE = 8
"""Members with rows of their own for which a block has as many positions as for one: more have fewer, so that
the block does not outgrow all caches."""

SEVERAL = 4
"""Times as many rows, of small batches, that are gathered together for members: what each block takes, and
threads that wait for each other at its end, were a third of the time (8 of 32-100-1 with 200 rows). And for a
device that works beside the host, for which each block is as much work as its steps."""

AUTO_LARGEST = 4096
"""The largest batch that "auto" chooses."""


class Wanted(TypedDict, total=False):
    """What an epoch's rows are wanted for.

    Attributes
    ----------
    labels : bool
        Whether targets are class numbers (int32) rather than numbers of the backend's dtype.
    check : callable
        Refuses targets (on the host) that the loss has no meaning for, once they are gathered: those in an
        array or a file may have changed since they were looked at.
    share : tuple of int
        (rank, ranks): which part of every global batch to gather, of how many; each row is in one part.
    members : int
        How many networks learn from each row.
    """

    labels: bool
    check: Callable[[np.ndarray], None]
    share: tuple[int, int]
    members: int


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
    member_weight : array_like (n_rows, members), optional
        Multiplies the sample weights by a weight that each member of the network has for the row: which rows
        it sees (`rows.member_weights.folds`), and how often (`bootstrap`).
    order : str or order, optional
        Which rows, when: "shuffled" (if not given, unless the source has an `order` of its own, as a stream
        of batches has), "with_replacement", "sequential", "blocks", or a callable ``(n_rows, seed, epoch)``
        whose result gives the rows of positions start … stop as ``[start:stop]``.
    seed : int
        Of the order: a pure function of (seed, epoch).
    chunk_rows : int, optional
        The largest number of rows on the device at a time; 4,096 if not given (four times as many in small
        batches for members), and in `train` no more than fit `memory_limit`.
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
    >>> [batch.n_rows for batch in loader]
    [2, 1]
    >>> [chunk.x.shape for batch in loader for chunk in batch]
    [(2, 1), (1, 1)]
    """

    def __init__(
        self,
        x: ArrayLike | Source,
        y: ArrayLike = None,
        sample_weight: ArrayLike = None,
        *,
        batch_size: int | str | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        member_weight: ArrayLike = None,
        order: str | Order | None = None,
        seed: int = 0,
        chunk_rows: int | None = None,
        memory_limit: int | None = None,
        prefetch: str = "auto",
        device: str | Backend | None = None,
        dtype: str | None = None,
    ) -> None:
        problems = [
            None if chunk_rows is None else checks.whole("chunk_rows", chunk_rows),
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
        elif callable(x) or isinstance(x, Iterator):
            raise TypeError(
                f"x is a {type(x).__name__}: what gives batches again and again is a source as "
                "mlp_xp.rows.streams.BatchSource(x)."
            )
        else:
            arrays = (ResidentSource if is_elsewhere(x) else ArraySource)(x, y, sample_weight)
            self.sample_weight = arrays.sample_weight
            if self.sample_weight is not None:
                refuse_weights(self.sample_weight, zeros=False)  # `train` refuses those
            self.source = arrays
        if not self.source.n_rows:
            raise ValueError("there are no rows to train on; at least one is needed.")
        if class_weight is not None:
            self.source = ClassWeighted(self.source, class_weight)
        if member_weight is not None:
            self.source = MemberWeighted(self.source, member_weight)
        self.seed, self.device, self.dtype = seed, device, dtype
        self.chunk_rows, self._chunks_are_given = chunk_rows or CHUNK_ROWS, chunk_rows is not None
        self.memory_limit, self.batch_bound = memory_limit, "given"
        self.batch_size = self._batch_rows(batch_size)
        self.order = self._order(self.source.order or "shuffled" if order is None else order)
        if callable(order) and not isinstance(order, (type, *ORDERS.values())):
            check_order(self.order, self.n_rows, seed)
        self.prefetch = prefetch
        self._pace = Pace()
        self._next_epoch = 0
        self._idle: dict[tuple[object, ...], list[Staging]] = {}
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
        """Make an "auto" batch small enough that its step fits the memory limit, or one of the device.

        A step takes so many bytes for every row on the device, and others whatever the batch: parameters,
        gradient, optimizer.
        """
        limits = [each for each in (limit, self.memory_limit) if each is not None]
        if self.batch_bound == "given" or not limits:
            return
        fits = _power_of_two((min(limits) - other_bytes) // bytes_per_row)
        if fits < self.batch_size:
            self.batch_size, self.batch_bound = fits, "memory"

    def fit_chunks(self, bytes_per_row: int) -> None:
        """Take no more rows, of so many bytes a step, at a time than fit, where nobody said how many."""
        if not self._chunks_are_given:
            numbers = self.source.n_features + self.source.n_targets + 1
            buffers = SLOTS * 8 * numbers * self.source.n_at_once
            limit = max(LEAST_CHUNK_BYTES, self.memory_limit or CHUNK_BYTES)
            self.chunk_rows = max(1, min(self.chunk_rows, limit // (bytes_per_row + buffers)))

    def _order(self, order: str | Order) -> Order:
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

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.steps_per_epoch

    def __repr__(self) -> str:
        """Its rows, and how they become batches."""
        source = self.source
        return (
            f"Loader(n_rows={self.n_rows}, n_features={source.n_features}, n_targets={source.n_targets}, "
            f"batch_size={self.batch_size}, steps_per_epoch={len(self)}, order={self.order!r}, "
            f"seed={self.seed})"
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch: each gives chunks (x, y, weight), the caller's own."""
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        backend = self.backend_for()
        for batch in self.batches(epoch, backend, labels=self.source.labels):
            own = [
                Chunk(*(None if part is None else backend.xp.asarray(part, copy=True) for part in chunk))
                for chunk in batch
            ]
            # All of the batch's weight is counted with its first chunk.
            weights = [batch.divisor] + [0.0] * (len(own) - 1)
            yield Batch(batch.n_rows, batch.divisor, list(zip(own, weights, strict=True)))

    def batches(
        self, epoch: int, backend: Backend, *, first_step: int = 0, **wanted: Unpack[Wanted]
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch; arguments as in `blocks`."""
        with contextlib.closing(self.blocks(epoch, backend, first_step=first_step, **wanted)) as blocks:
            for block in blocks:
                for n in range(block.n_batches):
                    yield block.batch(n)

    def blocks(
        self, epoch: int, backend: Backend, *, first_step: int = 0, **wanted: Unpack[Wanted]
    ) -> Generator[Block]:
        """Yield the batches of an epoch as they are gathered; their arrays are reused for the next block.

        The epoch determines the order, with the seed; batches before `first_step` are not gathered. `Wanted`
        says what else may be asked for.
        """
        labels = wanted.get("labels", False)
        self.source.check_unchanged()  # after a change under way it would go on with other rows than it began
        order = self.source.visits(self.order, self.seed, epoch)
        source = self.source.in_order(order)
        blocks = self._large_batches if self.batch_size > self.chunk_rows else self._small_batches
        take = source.on_device(backend, labels=labels)
        n_rows = self._block_rows(backend.runtime, wanted.get("members", 1))
        with self._staging(backend, labels, n_rows, resident=take is not None) as staging:
            make = OwnGatherer if source.n_at_once > 1 else Gatherer
            gather = make(source, order, staging, backend, wanted.get("check"), take)
            yield from blocks(gather, first_step * self.batch_size, Share(*wanted.get("share", (0, 1))))

    def _block_rows(self, runtime: Runtime, members: int) -> int:
        """Rows gathered at a time, at most: a chunk, or several small batches."""
        batch, row_bytes = self.batch_size, 8 * (self.source.n_features + self.source.n_targets + 1)
        if batch > self.chunk_rows:
            return self.chunk_rows
        row_bytes *= max(1, self.source.n_at_once // AS_OF_ONE)
        several = SEVERAL if self.chunk_rows == CHUNK_ROWS and not self._chunks_are_given else 1
        rows = self.chunk_rows * (several if runtime.overlaps else 1)
        n_batches = max(1, min(runtime.block_bytes // (row_bytes * batch), rows // batch))
        n_batches *= several if members > 1 and not runtime.overlaps else 1
        return batch * min(self.steps_per_epoch, n_batches)

    @contextlib.contextmanager
    def _staging(self, backend: Backend, labels: bool, n_rows: int, *, resident: bool) -> Iterator[Staging]:
        """Buffers for an epoch: those of an earlier one where they are not in use, else new ones."""
        runtime, source, dtype = backend.runtime, self.source, backend.dtype_name
        if resident:
            yield Resident(n_rows)
            return
        columns = (
            (source.n_features, dtype),
            (source.n_targets, "int32" if labels else dtype),
            (source.n_weights, dtype) if source.has_weights else None,
        )
        n_rows *= source.n_at_once
        idle = self._idle.setdefault((backend.xp, backend.name, columns, n_rows), [])
        staging = idle.pop() if idle else runtime.staging(backend, columns, n_rows, SLOTS)
        try:
            yield staging
        finally:
            idle.append(staging)

    def forget_buffers(self) -> None:
        """Let go of the buffers that later epochs would use again."""
        for staging in (each for several in self._idle.values() for each in several):
            staging.forget()
        self._idle.clear()

    def _gathered(
        self, gather: Gatherer, ranges: Iterable[list[tuple[int, int]]], n_times: int
    ) -> Generator[Gathered]:
        """Rows of some ranges, each complete on the device, and to be read until the next are asked for."""
        mode = self.prefetch
        if mode == "auto" and gather.runtime.overlaps:
            mode = "always"
        elif mode == "auto" and n_times == 1:  # nothing to gather while it trains
            mode = "never"
        mode = mode if gather.take is None else "never"  # on the stream of the thread that trains
        with contextlib.closing(prefetched(gather, ranges, self._pace, mode)) as each_time:
            for gathered in each_time:
                gather.staging.receive(gathered.slot)
                try:
                    yield gathered
                finally:
                    gather.staging.release(gathered.slot)

    def _large_batches(self, gather: Gatherer, first: int, share: Share) -> Iterator[Block]:
        """Batches of several chunks, gathered one by one."""
        batches = [
            (start, min(start + self.batch_size, self.n_rows))
            for start in range(first, self.n_rows, self.batch_size)
        ]
        chunks = [
            [
                (start, min(start + self.chunk_rows, own_stop))
                for start in range(own_start, own_stop, self.chunk_rows)
            ]
            for own_start, own_stop in (share.of(*batch) for batch in batches)
        ]
        ranges = [[each] for batch in chunks for each in batch]
        with contextlib.closing(self._gathered(gather, ranges, len(ranges))) as gathered:
            for (start, stop), own in zip(batches, chunks, strict=True):
                divisor = None if gather.weighted else float(stop - start)
                whole = (next(gathered).whole() for _ in own)
                first_row = share.of(start, stop)[0] - start
                yield LargeBatch(Batch(stop - start, divisor, whole, first_row, is_whole=share.n_ranks == 1))

    def _small_batches(self, gather: Gatherer, first: int, share: Share) -> Iterator[Block]:
        """Batches of one chunk, gathered several at a time."""
        batch, n_rows, size = self.batch_size, self.n_rows, gather.staging.n_rows // gather.source.n_at_once
        starts = range(first, n_rows, size)
        ranges = (share.of_each(start, min(start + size, n_rows), batch) for start in starts)
        with contextlib.closing(self._gathered(gather, ranges, len(starts))) as each_time:
            for start, gathered in zip(starts, each_time, strict=True):
                yield Block(gathered, start, min(start + size, n_rows), batch, share)


def _power_of_two(most: int) -> int:
    """The largest power of two that is at most `most`; at least 1."""
    return 2 ** (max(1, int(most)).bit_length() - 1)
