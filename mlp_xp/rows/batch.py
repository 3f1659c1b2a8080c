"""Rows on the device, on their way to an update of the weights.

block     rows gathered together: of several batches, or one batch with many rows
batch     the rows of one update, a list of chunks
chunk     x, y and weight: what forward and backprop take at a time
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.machine.array_api import Array


class Chunk(NamedTuple):
    """Rows on the device: x (n_rows, n_features), y (n_rows, n_targets), weight (n_rows, 1) or None.

    Where members have weights of their own, weight is (members, n_rows, 1); where they have rows of their
    own, all three have that axis.
    """

    x: Array
    y: Array
    weight: Array | None

    def part(self, rows: slice) -> "Chunk":
        """Some of the rows, of all members."""
        weight = None if self.weight is None else self.weight[..., rows, :]
        return Chunk(self.x[..., rows, :], self.y[..., rows, :], weight)


class Batch:
    """The rows of one update of the weights: iterate over it for its chunks.

    Attributes
    ----------
    n_rows : int
        Rows of the global batch, on all ranks.
    first_row : int
        Position of the first row of these chunks in the global batch; 0 on one process.
    divisor : float, array (members,) or None
        Σ s_i over the global batch (its number of rows without weights). Where weights are spread over
        several chunks it is None until the last one has passed, and over several ranks until they are summed.
    own_weight : float or array (members,)
        Σ s_i over the chunks that have passed.
    """

    def __init__(
        self,
        n_rows: int,
        divisor: float | None,
        chunks: Iterable[tuple[Chunk, Any]],
        first_row: int = 0,
        *,
        is_whole: bool = True,
    ) -> None:
        self.n_rows = n_rows
        self.divisor: Any = divisor
        self.first_row = first_row
        self.own_weight: Any = 0.0
        self._chunks = chunks
        self._is_whole = is_whole

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks, and know the divisor when they are through."""
        for chunk, weight in self._chunks:
            self.own_weight += weight
            yield chunk
        if self.divisor is None and self._is_whole:
            self.divisor = self.own_weight


class Gathered(NamedTuple):
    """Rows on the device, one after the other, their weights on the host, if any, and their slot."""

    rows: Chunk
    host_weight: np.ndarray | None
    slot: int

    def part(self, first: int, n_rows: int) -> tuple[Chunk, Any]:
        """A chunk of `n_rows` rows from `first`, with its Σ s_i."""
        which = slice(first, first + n_rows)
        rows = self.rows.part(which)
        if self.host_weight is None or rows.weight is None:
            return rows, float(n_rows)
        return rows._replace(weight=of_each(rows.weight)), _sum(self.host_weight[which])

    def whole(self) -> tuple[Chunk, Any]:
        """All of it as one chunk."""
        return self.part(0, int(self.rows.x.shape[-2]))


class Share(NamedTuple):
    """Which part of every global batch, from 0, belongs to this process, and of how many parts."""

    rank: int
    n_ranks: int

    def of(self, start: int, stop: int) -> tuple[int, int]:
        """The part of the positions start … stop that is this process's: parts differ by one row at most."""
        n_rows = stop - start
        return (
            start + n_rows * self.rank // self.n_ranks,
            start + n_rows * (self.rank + 1) // self.n_ranks,
        )

    def n_own(self, n_rows: int) -> int:
        """How many of so many rows."""
        start, stop = self.of(0, n_rows)
        return stop - start

    def of_each(self, start: int, stop: int, batch: int) -> list[tuple[int, int]]:
        """Its parts of the batches in start … stop; of one process, all of it in one piece."""
        if self.n_ranks == 1:
            return [(start, stop)]
        return [self.of(first, min(first + batch, stop)) for first in range(start, stop, batch)]


class Block:
    """Batches at positions start … stop of an epoch, whose rows, or this process's share, came together.

    It is valid until the next block is asked for. The last batch may have fewer rows than others.

    Attributes
    ----------
    rows : Chunk or None
        The rows of all batches, one after the other; None where a batch has several chunks, or is shared out.
    n_batches : int
        Batches.
    """

    def __init__(self, gathered: Gathered, start: int, stop: int, batch_size: int, share: Share) -> None:
        self._gathered, self._start, self._stop, self._share = gathered, start, stop, share
        self.batch_size = batch_size
        self.n_batches = -(-(stop - start) // batch_size)
        self.is_whole = share.n_ranks == 1
        self.rows = gathered.rows if self.is_whole else None

    def batch(self, n: int) -> Batch:
        """The batch of this number, from 0."""
        gathered, size = self._gathered, self.batch_size
        start = self._start + n * size
        stop = min(start + size, self._stop)
        if self.is_whole:
            chunk = gathered.part(n * size, stop - start)
            return Batch(stop - start, chunk[1], (chunk,))
        own_start, own_stop = self._share.of(start, stop)
        chunk = gathered.part(n * self._share.n_own(size), own_stop - own_start)
        # Of members with rows of their own, another process may have rows of weight 0.
        is_known = gathered.host_weight is None and gathered.rows.x.ndim == 2
        divisor = float(stop - start) if is_known else None
        chunks = (chunk,) if own_stop > own_start else ()
        return Batch(stop - start, divisor, chunks, own_start - start, is_whole=False)

    def divisors(self, first: int, most: int) -> list[Any]:
        """Σ s_i of some batches, `most` from the first, where all rows are on this process."""
        size, weight = self.batch_size, self._gathered.host_weight
        stop = min(self._stop - self._start, (first + most) * size)
        starts = range(first * size, stop, size)
        if weight is None:
            rows = [float(size)] * len(starts)
            return [*rows[:-1], float(stop - starts[-1])] if rows else rows
        return [_sum(weight[start : min(start + size, stop)]) for start in starts]


class LargeBatch(Block):
    """A block of one batch, which can be taken once: its chunks are gathered one by one."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self.batch_size, self.n_batches, self.rows = batch, batch.n_rows, 1, None

    def batch(self, n: int) -> Batch:
        """The one batch."""
        return self._batch


def of_each(weight: Array) -> Array:
    """Weights as they multiply values: those of members, (n_rows, members), as (members, n_rows, 1)."""
    return weight if weight.shape[-1] == 1 else weight.mT[..., None]


def _sum(weight: np.ndarray) -> Any:
    """Σ s_i in float64; of each member's weights, an array."""
    if weight.ndim == 1:
        return float(np.sum(weight, dtype=np.float64))
    return np.sum(np.ascontiguousarray(weight.T), axis=-1, dtype=np.float64)  # in the order of one alone
