"""Some raw rows of a table in memory: what is looked at where not all rows can be."""

import numpy as np

from mlp_xp.rows.source import Source, numbers_in_file, read

MOST_ROWS = 20_000
"""Rows that are looked at; of more, so many are drawn at random."""

MOST_VALUES = 2**22
"""Values and predictions of the rows that are looked at: they stay in memory."""


class Sample(Source):
    """Raw rows in memory, gaps and all: some, or all, of `n_all`.

    `numbers` are those that they have in the file, from 0; None where rows have no number.
    """

    y: np.ndarray

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None,
        numbers: np.ndarray | None = None,
        n_all: int | None = None,
    ) -> None:
        self.x, self.y, self.weight, self.numbers = x, y, weight, numbers
        self.n_all = len(x) if n_all is None else n_all
        self.n_rows, self.n_features, self.n_targets = len(x), x.shape[1], y.shape[1]
        self.has_weights = weight is not None

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays."""
        x[...] = self.x[index]
        if y is not None:
            y[...] = self.y[index]
        if weight is not None:
            weight[...] = 1.0 if self.weight is None else self.weight[index]


def sample(source: Source, seed: int, most: int = MOST_ROWS) -> Sample:
    """Raw rows of a source in memory: all of them, or so many drawn at random; of a stream the first."""
    if isinstance(source, Sample) and source.n_rows <= most:
        return source
    rows = source
    if source.n_rows <= most or source.order is not None:
        order = source.sequential(source.n_rows, 0, 0)
        rows, index = source.in_order(order), np.asarray(order[: min(most, source.n_rows)])
    else:
        index = np.sort(np.random.default_rng([seed, 2]).choice(source.n_rows, most, replace=False))
    x, y, weight = read(rows, index)
    weights = weight if source.has_weights else None
    return Sample(x, y, weights, numbers_in_file(source, index), source.n_rows)


def most_rows(width: int) -> int:
    """Rows that are looked at where each has so many values or predictions."""
    return max(1, min(MOST_ROWS, MOST_VALUES // width))
