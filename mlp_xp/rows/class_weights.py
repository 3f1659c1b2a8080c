"""Class weights that travel with the rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlp_xp.rows.order import Sequential
from mlp_xp.settings import checks

ROWS = 8192
"""Rows looked at together when classes are counted."""


class ClassWeighted:
    """A source whose sample weights are multiplied by a weight for the row's class.

    Parameters
    ----------
    source : source
        With one target, class numbers.
    class_weight : mapping of int to float, or "balanced"
        The weight of each class number, >= 0; 1 for those not named. "balanced" gives every class the same
        total: n_rows / (n_classes · rows of the class), counted in one pass.

    Raises
    ------
    ValueError
        A class number or a weight is negative, or there is more than one target.
    """

    def __init__(self, source: Any, class_weight: Mapping[int, float] | str) -> None:
        checks.refuse(
            [
                f"class weights need one target of class numbers; this source has {source.n_targets} targets."
                if source.n_targets != 1
                else None
            ]
        )
        self.source = source
        self.n_rows, self.n_features, self.n_targets = source.n_rows, source.n_features, 1
        self.has_weights = True
        for order in ("order", "sequential"):  # those of a stream, which can be read in no other
            if hasattr(source, order):
                setattr(self, order, getattr(source, order))
        given = class_weight if isinstance(class_weight, Mapping) else _balanced(source, class_weight)
        checks.refuse(
            [checks.whole("class", label, least=0) for label in given]
            + [checks.number(f"class_weight[{label}]", weight, least=0) for label, weight in given.items()]
        )
        self._table = np.ones(1 + max(given, default=0))
        for label, weight in given.items():
            self._table[label] = weight

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays; weight with the source's own weight times that of the class."""
        self.source.rows(index, x, y, weight if self.source.has_weights else None)
        if weight is None:
            return
        if not self.source.has_weights:
            weight[...] = 1.0
        labels = y[:, 0].astype(np.int64)
        weight *= np.where(labels < len(self._table), self._table[labels % len(self._table)], 1.0)

    def check_unchanged(self) -> None:
        """Pass the question on."""
        check = getattr(self.source, "check_unchanged", None)
        if check is not None:
            check()


def _balanced(source: Any, given: str) -> dict[int, float]:
    checks.refuse([checks.one_of("class_weight", given, ("balanced",))])
    counts: dict[int, int] = {}
    order = getattr(source, "sequential", Sequential())(source.n_rows, 0, 0)
    for start in range(0, source.n_rows, ROWS):
        index = order[start : start + ROWS]
        x, y = np.empty((len(index), source.n_features)), np.empty((len(index), 1))
        source.rows(index, x, y, None)
        labels, times = np.unique(y, return_counts=True)
        for label, n in zip(labels.tolist(), times.tolist(), strict=True):
            counts[int(label)] = counts.get(int(label), 0) + n
    return {label: source.n_rows / (len(counts) * n) for label, n in counts.items()}
