"""From the raw rows of a table to what a network sees.

    raw rows --Coded--> class numbers --Subset--> training | held-out part --Standardised--> numbers near 0

Each of the three is a source that wraps a source. All statistics come from the training part alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.order import Sequential

STATISTICS_ROWS = 8192
"""Rows read at a time for means and deviations."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Means and deviations of some columns: value = mean + scale · standardised.

    Attributes
    ----------
    names : tuple of str
    means, scales : tuple of float
        In the columns' own units; a constant column has scale 1.
    constant : tuple of bool
        Which columns have a single value; empty where nothing was measured.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    constant: tuple[bool, ...] = ()

    @classmethod
    def unscaled(cls, names: Sequence[str]) -> "Columns":
        """Columns that are left as they are."""
        return cls(tuple(names), (0.0,) * len(names), (1.0,) * len(names))

    def standardise(self, values: np.ndarray) -> None:
        """(value − mean) / scale, in place."""
        values -= np.asarray(self.means, dtype=values.dtype)
        values /= np.asarray(self.scales, dtype=values.dtype)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Back to the columns' units; several values a column (quantiles) stand side by side."""
        repeat = values.shape[1] // len(self.names)
        return values * np.repeat(self.scales, repeat) + np.repeat(self.means, repeat)


class Coded:
    """A source whose target becomes a class number: its position among the levels.

    Parameters
    ----------
    source : source
        With one target.
    levels : float64 array (n_classes,)
        The target's values, ascending.
    """

    def __init__(self, source: Any, levels: np.ndarray) -> None:
        self.source, self.levels = source, levels
        self.n_rows, self.n_features, self.n_targets = source.n_rows, source.n_features, 1
        self.has_weights = source.has_weights

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays; y with class numbers."""
        raw = np.empty(y.shape)
        self.source.rows(index, x, raw, weight)
        y[...] = np.searchsorted(self.levels, raw)


class Subset:
    """Some rows of a source, as a source.

    Parameters
    ----------
    source : source
    index : int64 array (n_rows,)
        Which rows.
    """

    def __init__(self, source: Any, index: np.ndarray) -> None:
        self.source, self.index = source, index
        self.n_rows = len(index)
        self.n_features, self.n_targets = source.n_features, source.n_targets
        self.has_weights = source.has_weights

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with rows by their number in this subset."""
        self.source.rows(self.index[index], x, y, weight)


class Standardised:
    """A source whose columns have mean 0 and deviation 1 in the training part.

    Rows are gathered in float64 and standardised there, so that a large mean costs no digits.

    Parameters
    ----------
    source : source
    inputs, targets : Columns
        Targets of class numbers stay as they are (`Columns.unscaled`).
    """

    def __init__(self, source: Any, inputs: Columns, targets: Columns) -> None:
        self.source, self.inputs, self.targets = source, inputs, targets
        self.n_rows, self.n_features, self.n_targets = source.n_rows, source.n_features, source.n_targets
        self.has_weights = source.has_weights

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with standardised rows."""
        raw_x, raw_y = np.empty(x.shape), np.empty(y.shape)
        self.source.rows(index, raw_x, raw_y, weight)
        self.inputs.standardise(raw_x)
        self.targets.standardise(raw_y)
        x[...] = raw_x
        y[...] = raw_y


def measure(source: Any, input_names: Sequence[str], target_names: Sequence[str]) -> tuple[Columns, Columns]:
    """Means and deviations of all columns, in one float64 pass over a source and in bounded memory.

    References
    ----------
    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    n_inputs = source.n_features
    n_columns = n_inputs + source.n_targets
    count, mean, squares = 0, np.zeros(n_columns), np.zeros(n_columns)
    order = Sequential()(source.n_rows, 0, 0)
    for start in range(0, source.n_rows, STATISTICS_ROWS):
        index = order[start : start + STATISTICS_ROWS]
        part = np.empty((len(index), n_columns))
        x, y = np.empty((len(index), n_inputs)), np.empty((len(index), source.n_targets))
        source.rows(index, x, y, None)
        part[:, :n_inputs], part[:, n_inputs:] = x, y
        part_mean = part.mean(axis=0)
        total, shift = count + len(index), part_mean - mean
        squares += np.square(part - part_mean).sum(axis=0) + shift * shift * (count * len(index) / total)
        mean += shift * (len(index) / total)
        count = total
    # A deviation that is rounding noise of the mean belongs to a constant column.
    deviation = np.sqrt(squares / count)
    constant = deviation <= 1e-12 * np.abs(mean)
    scales = np.where(constant, 1.0, deviation)
    both = (slice(0, n_inputs), input_names), (slice(n_inputs, None), target_names)
    inputs, targets = (
        Columns(tuple(names), *(tuple(each[part].tolist()) for each in (mean, scales, constant)))
        for part, names in both
    )
    return inputs, targets


def hold_out(n_rows: int, part: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training part and of the held-out part, drawn at random; each in file order.

    Raises
    ------
    ValueError
        One of the two would be empty.
    """
    n_held = round(part * n_rows) or (1 if part else 0)
    if n_held >= n_rows:
        raise ValueError(
            f"{n_rows} row{'s' if n_rows > 1 else ''} are too few to hold out a part of {part:g}: at least "
            "one is needed for training and one for validation. Give more rows, or --validation 0."
        )
    permutation = np.random.default_rng([seed, 1]).permutation(n_rows)
    return np.sort(permutation[n_held:]), np.sort(permutation[:n_held])
