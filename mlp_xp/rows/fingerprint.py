"""Which rows these are: a checksum of a source, by which a run or a model knows its data again."""

import hashlib
from collections.abc import Iterable

import numpy as np

from mlp_xp.rows.source import Source, passes, read

WHOLE_BYTES = 64 << 20
"""A data set that takes no more, as float64, has a fingerprint of one part."""

SPREAD_ROWS = 1024
"""Rows of a larger one, evenly spread, that are looked at by themselves, too."""


def fingerprint(source: Source) -> str:
    """A checksum of a source's sizes and of all of its rows.

    Where they are many it has two parts: that of 1,024 rows evenly spread, which earlier checkpoints have
    alone, and that of all.
    """
    n_columns = source.n_features + source.n_targets + 1
    sizes = f"{source.n_rows} {source.n_features} {source.n_targets}".encode()
    if source.n_rows * n_columns * 8 <= WHOLE_BYTES:
        starts = range(0, source.n_rows, SPREAD_ROWS)
        parts = (np.arange(each, min(each + SPREAD_ROWS, source.n_rows)) for each in starts)
        return _digest(sizes, source, (read(source, part) for part in parts))
    spread = np.unique(np.linspace(0, source.n_rows - 1, SPREAD_ROWS).astype(np.int64))
    some = _digest(sizes, source, [read(source, spread)])
    return f"{some}:{_digest(sizes, source, (part[1:] for part in passes(source)))}"


def _digest(sizes: bytes, source: Source, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> str:
    """SHA-256 of sizes and of parts of rows: inputs, targets and weights of each."""
    digest = hashlib.sha256(sizes)
    for x, y, weight in parts:
        for values in (x, y, weight) if source.has_weights else (x, y):
            digest.update(values.data)
    return digest.hexdigest()


def same_data(kept: str | None, now: str | None) -> bool:
    """Whether two fingerprints are of the same rows, as far as both say."""
    parts = zip((kept or "").split(":"), (now or "").split(":"), strict=False)
    return all(one == other for one, other in parts)
