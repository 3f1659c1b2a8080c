"""Sources around sources: from the raw rows of a table to the rows that a network sees.

    raw rows --Coded--> class numbers --Subset--> training | held-out part --Recoded, Prepared--> features

Nothing is stored: each makes its rows when they are asked for.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mlp_xp.rows.source import Source, Wrapped
from mlp_xp.tables.preparation import Inputs, Targets

BLOCK_NUMBERS = 65_536
"""Numbers that are prepared at a time: 0.5 MB stay in the cache. At once, in fresh memory, they
take several times as long (4,096 rows of 64: 0.6 ms so)."""

LEAST_ROWS = 32
"""Rows that they are of at least: each column costs a call of NumPy's, however few rows there are."""


class Coded(Wrapped):
    """A source whose single target becomes a class number, by which value of the target is which class.

    Raises ValueError, when rows are read: a value is no class; its row is named.
    """

    def __init__(self, source: Source, numbers: Mapping[float, int], name: str) -> None:
        super().__init__(source)
        self.name, self.labels = name, True
        self._values = np.array(sorted(numbers), dtype=float)
        self._numbers = np.array([numbers[value] for value in self._values.tolist()], dtype=np.int64)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays; y with class numbers."""
        raw = np.empty((len(index), self.n_targets))
        self.source.rows(index, x, raw, weight)
        at = np.minimum(np.searchsorted(self._values, raw), len(self._values) - 1)
        unknown = self._values[at] != raw
        if unknown.any():
            first = int(np.argmax(unknown[:, 0]))
            known = ", ".join(f"{value:.17g}" for value in self._values[:20])
            raise ValueError(
                f"row {index[first] + 1:,}, target {self.name!r} is {raw[first, 0]:.17g}, which is none of "
                f"the classes: {known}{' ...' * (len(self._values) > 20)}."
            )
        if y is not None:
            y[...] = self._numbers[at]


class Selected(Wrapped):
    """Some columns of a source's inputs, in the order that is wanted, as a source."""

    def __init__(self, source: Source, columns: Sequence[int]) -> None:
        super().__init__(source)
        self._chosen, self.n_features = list(columns), len(columns)
        self.y, self.columns = source.y, [source.columns[at] for at in columns] if source.columns else ()

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays; x with the chosen columns."""
        raw = np.empty((len(index), self.source.n_features))
        self.source.rows(index, raw, y, weight)
        x[...] = raw[:, self._chosen]


class Recoded(Wrapped):
    """A source in which texts have the codes that a model knows them by.

    Parameters
    ----------
    codes : mapping of int to array
        For the number of a column of text, the code of each of the source's own codes. A gap stays -1.
    """

    def __init__(self, source: Source, codes: Mapping[int, np.ndarray]) -> None:
        super().__init__(source)
        self.y = source.y
        self._codes = {column: np.append(known, -1.0) for column, known in codes.items()}

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays; x with the model's codes."""
        self.source.rows(index, x, y, weight)
        for column, known in self._codes.items():
            x[:, column] = known[x[:, column].astype(np.intp)]


class Prepared(Wrapped):
    """A source of features: what a network sees of the columns of a table.

    Rows are gathered in float64 and prepared there, so that a large mean costs no digits; the many features
    of a text are made for each batch.

    Parameters
    ----------
    source : source
        Of raw rows, with a model's codes.
    targets : Targets
        Class numbers stay as they are (`Targets.unscaled`).
    """

    def __init__(self, source: Source, inputs: Inputs, targets: Targets) -> None:
        super().__init__(source)
        self._inputs, self._targets = inputs, targets
        self.n_features, self.columns = inputs.n_features, ()

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays with features and standardised targets."""
        n_rows = max(LEAST_ROWS, BLOCK_NUMBERS // max(1, self.source.n_features))
        for start in range(0, len(index), n_rows):
            part = slice(start, start + n_rows)
            raw_x = np.empty((len(index[part]), self.source.n_features))
            raw_y = None if y is None else np.empty((len(raw_x), self.n_targets))
            self.source.rows(index[part], raw_x, raw_y, None if weight is None else weight[part])
            self._inputs.fill(raw_x, x[part])
            if y is not None and raw_y is not None:
                self._targets.standardise(raw_y)
                y[part] = raw_y
