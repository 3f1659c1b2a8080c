"""Sources around sources: from the raw rows of a table to the rows that a network sees.

    raw rows --Coded--> class numbers --Subset--> training | held-out part --Recoded, Prepared--> features

Nothing is stored: each makes its rows when they are asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.rows.order import Sequential
from mlp_xp.tables.preparation import Inputs, Targets

PART_ROWS = 8192
"""Rows that are read at a time in one pass over a table."""

BLOCK_NUMBERS = 65_536
"""Numbers that are prepared at a time: 0.5 MB stay in the cache. At once, in fresh memory, they
take several times as long (4,096 rows of 64: 0.6 ms so)."""


class Around:
    """What sources that are made of another source share with it.

    Parameters
    ----------
    source : source
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.n_rows, self.n_features, self.n_targets = source.n_rows, source.n_features, source.n_targets
        self.has_weights = source.has_weights
        for order in ("order", "sequential"):  # those of a stream, which can be read in no other
            if hasattr(source, order):
                setattr(self, order, getattr(source, order))

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the data was changed since it was opened."""
        check = getattr(self.source, "check_unchanged", None)
        if check is not None:
            check()


class Coded(Around):
    """A source whose single target becomes a class number.

    Parameters
    ----------
    source : source
        With one target.
    numbers : mapping of float to int
        Which value of the target is which class.
    name : str
        The target's, for messages.

    Raises
    ------
    ValueError
        When rows are read: a value that is no class, with its row.
    """

    def __init__(self, source: Any, numbers: Mapping[float, int], name: str) -> None:
        super().__init__(source)
        self.name, self.numbers = name, numbers
        self._values = np.array(sorted(numbers), dtype=float)
        self._numbers = np.array([numbers[value] for value in self._values.tolist()], dtype=np.int64)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays; y with class numbers."""
        raw = np.empty(y.shape)
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
        y[...] = self._numbers[at]

    def split(self, part: float, seed: int) -> tuple["Coded", "Coded"]:
        """Both parts of a stream (`BatchSource.split`), with class numbers."""
        training, held_out = self.source.split(part, seed)
        return Coded(training, self.numbers, self.name), Coded(held_out, self.numbers, self.name)


class Subset(Around):
    """Some rows of a source, as a source.

    Parameters
    ----------
    source : source
    index : int64 array (n_rows,), or what is sliced by one (`strata`)
        Which rows.
    """

    def __init__(self, source: Any, index: Any) -> None:
        super().__init__(source)
        self.index, self.n_rows = index, len(index)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with rows by their number in this subset."""
        self.source.rows(self.index[index], x, y, weight)


class Selected(Around):
    """Some columns of a source's inputs, as a source.

    Parameters
    ----------
    source : source
    columns : sequence of int
        Which, in the order that is wanted.
    """

    def __init__(self, source: Any, columns: Sequence[int]) -> None:
        super().__init__(source)
        self.columns, self.n_features = list(columns), len(columns)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays; x with the chosen columns."""
        raw = np.empty((len(index), self.source.n_features))
        self.source.rows(index, raw, y, weight)
        x[...] = raw[:, self.columns]


class Recoded(Around):
    """A source in which texts have the codes that a model knows them by.

    Parameters
    ----------
    source : source
    codes : mapping of int to array
        For the number of a column of text, the code of each of the source's own codes. A gap stays -1.
    """

    def __init__(self, source: Any, codes: Mapping[int, np.ndarray]) -> None:
        super().__init__(source)
        self._codes = {column: np.append(known, -1.0) for column, known in codes.items()}

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays; x with the model's codes."""
        self.source.rows(index, x, y, weight)
        for column, known in self._codes.items():
            x[:, column] = known[x[:, column].astype(np.intp)]


class Prepared(Around):
    """A source of features: what a network sees of the columns of a table.

    Rows are gathered in float64 and prepared there, so that a large mean costs no digits; the many features
    of a text are made for each batch.

    Parameters
    ----------
    source : source
        Of raw rows, with a model's codes.
    inputs : Inputs
    targets : Targets
        Class numbers stay as they are (`Targets.unscaled`).
    """

    def __init__(self, source: Any, inputs: Inputs, targets: Targets) -> None:
        super().__init__(source)
        self.inputs, self.targets, self.n_features = inputs, targets, inputs.n_features

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with features and standardised targets."""
        n_rows = max(1, BLOCK_NUMBERS // max(1, self.source.n_features))
        for start in range(0, len(index), n_rows):
            part = slice(start, start + n_rows)
            raw_x, raw_y = read(self.source, index[part], None if weight is None else weight[part])
            self.inputs.fill(raw_x, x[part])
            self.targets.standardise(raw_y)
            y[part] = raw_y


def parts(source: Any, n_rows: int = PART_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row numbers, raw inputs and raw targets (float64) of all rows, some thousands at a time."""
    order = getattr(source, "sequential", Sequential())(source.n_rows, 0, 0)
    for start in range(0, source.n_rows, n_rows):
        index = np.asarray(order[start : start + n_rows])
        yield index, *read(source, index)


def read(source: Any, index: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Raw inputs and raw targets (float64) of some rows; their weights fill an array, if there is one."""
    x, y = np.empty((len(index), source.n_features)), np.empty((len(index), source.n_targets))
    source.rows(index, x, y, weight)
    return x, y
