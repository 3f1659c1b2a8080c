"""From the raw rows of a table to what a network sees.

    raw rows --Coded--> class numbers --Subset--> training | held-out part --Standardised--> numbers near 0

Each of the three is a source that wraps a source. All statistics come from the training part alone.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp import checks
from mlp_xp.order import Sequential

PART_ROWS = 8192
"""Rows that are read at a time in one pass over a table."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Means and deviations of some columns: value = mean + scale · standardised.

    Attributes
    ----------
    names : tuple of str
        Each once.
    means, scales : tuple of float
        In the columns' own units; a constant column has scale 1.
    constant : tuple of bool
        Which columns have a single value; empty where nothing was measured.

    Raises
    ------
    ValueError
        They do not fit each other, or are not finite; scales must be positive.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    constant: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        """Check that each column has what it needs."""
        if not len(self.names) == len(self.means) == len(self.scales):
            raise ValueError(
                f"{len(self.names)} columns have {len(self.means)} means and {len(self.scales)} scales: one "
                "each is needed."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"columns are named twice: {', '.join(self.names)}.")
        for name, mean, scale in zip(self.names, self.means, self.scales, strict=True):
            checks.refuse(
                [
                    checks.number(f"the mean of column {name!r}", mean),
                    checks.number(f"the scale of column {name!r}", scale, above=0),
                ]
            )

    @classmethod
    def unscaled(cls, names: Sequence[str]) -> "Columns":
        """Columns that are left as they are."""
        return cls(tuple(names), (0.0,) * len(names), (1.0,) * len(names))

    def description(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, description: Any) -> "Columns":
        """What `description` describes.

        Raises
        ------
        ValueError, TypeError, KeyError
            It describes no columns.
        """
        names, constant = description["names"], description["constant"]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a column's name is no text")
        if not all(isinstance(one, bool) for one in constant) or len(constant) not in (0, len(names)):
            raise ValueError("which columns are constant is not said of each")
        means, scales = (tuple(description[key]) for key in ("means", "scales"))
        return cls(tuple(names), means, scales, tuple(constant))

    def standardise(self, values: np.ndarray) -> None:
        """(value − mean) / scale, in place."""
        values -= np.asarray(self.means, dtype=values.dtype)
        values /= np.asarray(self.scales, dtype=values.dtype)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Back to the columns' units; several values a column (quantiles) stand side by side."""
        repeat = values.shape[1] // len(self.names)
        return values * np.repeat(self.scales, repeat) + np.repeat(self.means, repeat)


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
        self.name = name
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


class Subset(Around):
    """Some rows of a source, as a source.

    Parameters
    ----------
    source : source
    index : int64 array (n_rows,)
        Which rows.
    """

    def __init__(self, source: Any, index: np.ndarray) -> None:
        super().__init__(source)
        self.index, self.n_rows = index, len(index)

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with rows by their number in this subset."""
        self.source.rows(self.index[index], x, y, weight)


class Standardised(Around):
    """A source whose columns have mean 0 and deviation 1 in the training part.

    Rows are gathered in float64 and standardised there, so that a large mean costs no digits.

    Parameters
    ----------
    source : source
    inputs, targets : Columns
        Targets of class numbers stay as they are (`Columns.unscaled`).
    """

    def __init__(self, source: Any, inputs: Columns, targets: Columns) -> None:
        super().__init__(source)
        self.inputs, self.targets = inputs, targets

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        """Fill the arrays with standardised rows."""
        raw_x, raw_y = np.empty(x.shape), np.empty(y.shape)
        self.source.rows(index, raw_x, raw_y, weight)
        self.inputs.standardise(raw_x)
        self.targets.standardise(raw_y)
        x[...] = raw_x
        y[...] = raw_y


def parts(source: Any, n_rows: int = PART_ROWS) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row numbers, raw inputs and raw targets (float64) of all rows, some thousands at a time."""
    order = Sequential()(source.n_rows, 0, 0)
    for start in range(0, source.n_rows, n_rows):
        index = np.asarray(order[start : start + n_rows])
        x, y = np.empty((len(index), source.n_features)), np.empty((len(index), source.n_targets))
        source.rows(index, x, y, None)
        yield index, x, y


def measure(source: Any, input_names: Sequence[str], target_names: Sequence[str]) -> tuple[Columns, Columns]:
    """Means and deviations of all columns, in one float64 pass over a source and in bounded memory.

    Raises
    ------
    ValueError
        Values are so large that their squares overflow.

    References
    ----------
    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    n_inputs = source.n_features
    count, mean, squares = 0, np.zeros(n_inputs + source.n_targets), np.zeros(n_inputs + source.n_targets)
    with np.errstate(over="ignore", invalid="ignore"):  # found below, by column
        for _, x, y in parts(source):
            part = np.hstack([x, y])
            part_mean = part.mean(axis=0)
            total, shift = count + len(part), part_mean - mean
            squares += np.square(part - part_mean).sum(axis=0) + shift * shift * (count * len(part) / total)
            mean += shift * (len(part) / total)
            count = total
    deviation = np.sqrt(squares / count)
    for name, value in zip([*input_names, *target_names], deviation, strict=True):
        if not math.isfinite(value):
            raise ValueError(
                f"column {name!r} has values so large that its deviation overflows: give it in a larger unit "
                "(values up to about 1e150)."
            )
    # A deviation that is rounding noise of the mean belongs to a constant column.
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
            f"{n_rows} row{'s are' if n_rows > 1 else ' is'} too few to hold out a part of {part:g}: at "
            "least one is needed for training and one for validation. Give more rows, or --validation 0."
        )
    permutation = np.random.default_rng([seed, 1]).permutation(n_rows)
    return np.sort(permutation[n_held:]), np.sort(permutation[:n_held])
