"""Sparse matrices as sources."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.rows.source import Source

DENSE_BYTES = 2**23
"""Sparse rows are made dense in pieces of at most this size."""


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
