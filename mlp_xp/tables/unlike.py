"""Rows that are unlike those that a model was trained on: texts, gaps and numbers that it has not seen."""

import numpy as np

from mlp_xp.rows.source import Source, Wrapped, passes
from mlp_xp.tables.interpretation import Interpretation
from mlp_xp.tables.preparation import Category, Constant

KINDS = {
    "unseen": "a text that it does not know",
    "missing": "no value, where training had none missing",
    "outside": "a value outside",
}
"""What can be unlike in a column, and how it is said."""


class Watched(Wrapped):
    """A source of raw rows, with a model's codes, that counts what is unlike the rows of its training."""

    def __init__(self, source: Source, model: Interpretation) -> None:
        super().__init__(source)
        self.y, self._inputs, self._n_rows = source.y, model.inputs, 0
        self._counts = {kind: np.zeros(source.n_features, np.int64) for kind in KINDS}
        columns, everything = model.inputs.columns, (-np.inf, np.inf)
        self._is_used = np.array([not isinstance(column, Constant) for column in columns])
        self._is_category = np.array([isinstance(column, Category) for column in columns])
        self._has_gaps = np.array([getattr(column, "gaps", False) for column in columns])
        self._n_levels = np.array([len(getattr(column, "levels", ())) for column in columns])
        self._ends = np.array([model.inputs.ranges.get(column.name, everything) for column in columns]).T

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays, and count."""
        self.source.rows(index, x, y, weight)
        is_gap = np.isnan(x) | (self._is_category & (x < 0))
        is_number, (least, most) = ~is_gap & ~self._is_category, self._ends
        self._counts["missing"] += (is_gap & ~self._has_gaps).sum(axis=0)
        self._counts["unseen"] += (~is_gap & self._is_category & (x >= self._n_levels)).sum(axis=0)
        self._counts["outside"] += (is_number & ((x < least) | (x > most))).sum(axis=0)
        self._n_rows += len(x)

    def found(self) -> dict[str, dict[str, int]]:
        """For each column with something unlike, how many rows have it, by `KINDS`."""
        counts = {
            column.name: {kind: int(count[at]) for kind, count in self._counts.items() if count[at]}
            for at, column in enumerate(self._inputs.columns)
            if self._is_used[at]
        }
        return {name: each for name, each in counts.items() if each}

    def sentences(self) -> list[str]:
        """A line for each column with something unlike, for people."""
        return [
            f"column {name!r}: {n:,} of {self._n_rows:,} rows have {KINDS[kind]}{self._range(name, kind)}"
            for name, each in self.found().items()
            for kind, n in each.items()
        ]

    def _range(self, name: str, kind: str) -> str:
        """The range that a value is outside of."""
        if kind != "outside":
            return ""
        ends = self._inputs.ranges[name]
        if any(column.name == name and column.kind == "date" for column in self._inputs.columns):
            unit = "D" if all(end == round(end) for end in ends) else "s"
            moments = (np.datetime64(round(end * 86_400), "s").astype(f"datetime64[{unit}]") for end in ends)
            low, high = (str(moment).replace("T", " ") for moment in moments)
        else:
            low, high = (f"{end:.6g}" for end in ends)
        return f" {low} to {high}, the range in training"


def refuse_unlike(source: Source, model: Interpretation) -> None:
    """Refuse rows that are unlike those that a model was trained on, in a pass over all of them.

    Raises ValueError: some are; every column is named.
    """
    watched = Watched(source, model)
    for _ in passes(watched):
        pass
    if said := watched.sentences():
        raise ValueError("\n".join(f"{line}." for line in said))
