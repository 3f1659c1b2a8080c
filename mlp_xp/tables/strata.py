"""Rows held out from any number of rows, in no memory: each part's row numbers are computed.

    strata   b_j = ⌊j n / m⌋,  j = 0 … m             m the rows of the smaller part
    drawn    one row of each: b_j + ⌊u_j (b_{j+1} − b_j)⌋,  u_j in [0, 1) a hash of seed and j
    others   the k-th lies in stratum j = ⌈(k + 1) m / (n − m)⌉ − 1

A part has rows from everywhere in the file, drawn with the same chance but for strata whose length differs by
a row. Both parts are in file order. A list of row numbers would take 8 bytes a row; a computed permutation
(`order.computed_permutation`) takes no memory either, but a pass over a part would read the file at random.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[Any]

MOST_ROWS = 2**32 - 1
"""Row numbers whose products still are int64."""


class _Strata:
    """Row numbers of n_rows rows in n_drawn strata; 2 n_drawn <= n_rows <= `MOST_ROWS`."""

    def __init__(self, n_rows: int, n_drawn: int, seed: int) -> None:
        self.n_rows, self.n_drawn = n_rows, n_drawn
        self._key = np.random.SeedSequence((seed, 0x0DE9)).generate_state(1, np.uint64)

    def begin(self, stratum: Integers) -> Integers:
        """The first row of each stratum."""
        return stratum * self.n_rows // self.n_drawn

    def drawn(self, stratum: Integers) -> Integers:
        """The row drawn from each stratum."""
        begin = self.begin(stratum)
        length = (self.begin(stratum + 1) - begin).astype(np.uint64)
        mixed = (stratum.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + self._key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        return begin + ((mixed >> np.uint64(32)) * length >> np.uint64(32)).astype(np.int64)

    def others(self, position: Integers) -> Integers:
        """The rows that are not drawn, by their positions."""
        stratum = ((position + 1) * self.n_drawn - 1) // (self.n_rows - self.n_drawn)
        row = position + stratum  # one row was drawn from each stratum before
        row += row >= self.drawn(stratum)
        return row


class Computed:
    """Row numbers that are made where they are asked for, by their positions (int64 both)."""

    def __init__(self, n_rows: int, make: Callable[[Integers], Integers]) -> None:
        self._n_rows, self._make = n_rows, make

    def __len__(self) -> int:
        """How many."""
        return self._n_rows

    def __getitem__(self, positions: Integers) -> Integers:
        """Row numbers at positions from 0."""
        return self._make(np.asarray(positions, dtype=np.int64))


def parted(n_rows: int, n_held: int, seed: int) -> tuple[Computed, Computed]:
    """Row numbers to train on and row numbers held out, both in file order and in no memory.

    Examples
    --------
    >>> training, held_out = parted(10, 2, seed=0)
    >>> len(training), len(held_out)
    (8, 2)
    >>> both = np.concatenate([training[np.arange(8)], held_out[np.arange(2)]])
    >>> sorted(both.tolist()) == list(range(10))
    True
    """
    if not 0 <= n_held < n_rows <= MOST_ROWS:
        raise ValueError(
            f"n_held={n_held!r} of n_rows={n_rows!r}: fewer than all rows, of at most {MOST_ROWS:,}, can be "
            "held out."
        )
    if not n_held:
        return Computed(n_rows, lambda positions: positions), Computed(0, lambda positions: positions)
    strata = _Strata(n_rows, min(n_held, n_rows - n_held), seed)
    drawn = Computed(strata.n_drawn, strata.drawn)
    others = Computed(n_rows - strata.n_drawn, strata.others)
    return (others, drawn) if 2 * n_held <= n_rows else (drawn, others)
