"""From the columns of a table to what a network sees, and back to the user's units.

    Number     z = (value − centre) / scale,  clipped z / √(1 + (z / 3)²) where that is asked for;
               or bounded, with rank and ramps (`tables.encoding`)
    Date       days since 1970 as a Number, and sin and cos of 2π days / period
    Category   c for the level of the row, 0 for the others
    Constant   nothing: a single value, or a text of its own for each row

A gap is filled with the median of the training part, and has a feature of its own where the training part has
gaps. All numbers come from the training part (`tables.statistics`).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mlp_xp.settings import checks
from mlp_xp.tables.encoding import Encoding, Encodings
from mlp_xp.tables.files.columns import KINDS
from mlp_xp.tables.files.one_value import Names

PERIODS: Mapping[str, float] = {"day": 1.0, "week": 7.0, "year": 365.2425}
"""Cycles of dates, in days."""

CLIP = 3.0
"""What a smoothly clipped feature tends to, on either side."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers: one feature, and one for gaps where there are some.

        z = (value − centre) / scale            feature = z,  or z / √(1 + (z / 3)²)

    Attributes
    ----------
    name : str
        Of the column.
    centre, scale : float
        In the column's own units; scale > 0.
    clipped : bool
        Whether z is clipped smoothly.
    median : float
        What a gap is filled with.
    gaps : bool
        Whether the training part has gaps: one more feature, 1 for a gap and 0 for a value.
    encoding : Encoding or None
        Bounds the value, and adds features after these.

    References
    ----------
    Holzmüller, Grinsztajn and Steinwart, Better by default: strong pre-tuned MLPs and boosted trees on
    tabular data, NeurIPS 2024 (the smooth clip).
    """

    name: str
    centre: float = 0.0
    scale: float = 1.0
    clipped: bool = False
    median: float = 0.0
    gaps: bool = False
    encoding: Encoding | None = None

    kind: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        """Check all of it."""
        _check_types(self, name=str, clipped=bool, gaps=bool)
        checks.refuse(
            [
                checks.number(f"the centre of column {self.name!r}", self.centre),
                checks.number(f"the scale of column {self.name!r}", self.scale, above=0),
                checks.number(f"the median of column {self.name!r}", self.median),
            ]
        )

    @property
    def n_features(self) -> int:
        """How many columns of x it fills."""
        return 1 + self.gaps + (0 if self.encoding is None else self.encoding.n_features)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each of them is."""
        missing = (f"{self.name} missing",) if self.gaps else ()
        encoded = () if self.encoding is None else self.encoding.feature_names(self.name)
        return (self.name, *missing, *encoded)

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Fill x (m, n_features) from values (m,), float64; a gap is nan."""
        self._fill(values[:, None], x)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the fields, from which all else follows."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _fill(self) -> "Fill":
        return _filling([self])


@dataclasses.dataclass(frozen=True)
class Date(Number):
    """A column of dates, days since 1970 UTC: a `Number`, and where it is in each of some cycles.

        sin(2π days / period), cos(2π days / period)

    Attributes
    ----------
    cycles : tuple of str
        Names in `PERIODS`: two features each, after those of a `Number`.
    """

    cycles: tuple[str, ...] = ()

    kind: ClassVar[str] = "date"

    def __post_init__(self) -> None:
        """Check all of it."""
        super().__post_init__()
        checks.refuse(checks.one_of("cycle", cycle, tuple(PERIODS)) for cycle in self.cycles)

    @property
    def n_features(self) -> int:
        """How many columns of x it fills."""
        return super().n_features + 2 * len(self.cycles)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each of them is."""
        waves = (f"{self.name} {wave} of {cycle}" for cycle in self.cycles for wave in ("sin", "cos"))
        return (*super().feature_names, *waves)

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Fill x (m, n_features) from values (m,), float64 days since 1970 UTC; a gap is nan."""
        super().fill(values, x)
        days = np.where(np.isnan(values), self.median, values)
        for at, cycle in enumerate(self.cycles):
            angle = 2 * np.pi * np.remainder(days / PERIODS[cycle], 1.0)
            first = super().n_features + 2 * at
            x[:, first], x[:, first + 1] = np.sin(angle), np.cos(angle)


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of texts or booleans: a feature for each level, one for others, one for gaps.

    Without a feature for others, a text that is no level is 0 in all of them; without one for gaps, a gap is
    what a text that is no level is.

    Attributes
    ----------
    name : str
        Of the column.
    kind : {"text", "bool"}
        Of the column.
    levels : tuple of str
        Those with a feature; "false" and "true" of a boolean.
    other : bool
        Whether the training part has texts that are no level (rare ones): a feature for them and the unseen.
    gaps : bool
        Whether the training part has gaps: a feature for them.
    scale : float
        c, what a feature is in the rows that it stands for.
    """

    name: str
    kind: str
    levels: tuple[str, ...]
    other: bool = False
    gaps: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check all of it."""
        _check_types(self, name=str, other=bool, gaps=bool)
        checks.refuse(
            [
                checks.one_of("kind of category", self.kind, ("text", "bool")),
                checks.number(f"the scale of column {self.name!r}", self.scale, above=0),
            ]
        )
        if not all(isinstance(level, str) for level in self.levels):
            raise TypeError(f"a level of column {self.name!r} is no text")
        if len(set(self.levels)) != len(self.levels):
            raise ValueError(f"column {self.name!r} has a level twice: {', '.join(self.levels)}.")

    @property
    def n_features(self) -> int:
        """How many columns of x it fills."""
        return len(self.levels) + self.other + self.gaps

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each of them is."""
        levels = tuple(f"{self.name} is {level}" for level in self.levels)
        other = (f"{self.name} is another",) if self.other else ()
        return (*levels, *other, f"{self.name} missing") if self.gaps else (*levels, *other)

    @functools.cached_property
    def names(self) -> Names:
        """The levels, found by what a text means."""
        return Names(self.levels)

    def codes(self, texts: Sequence[str]) -> np.ndarray:
        """The numbers that `fill` knows texts by: positions in `levels`, or their number for all others."""
        return np.array([self.names.find(text) for text in texts], dtype=float)

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Fill x (m, n_features) from values (m,), float64 `codes`; a gap is -1 or nan."""
        n_levels, nowhere = len(self.levels), self.n_features
        others = n_levels if self.other else nowhere
        at = np.where(values < n_levels, values, others)
        at = np.where(values >= 0, at, nowhere - 1 if self.gaps else others).astype(np.intp)
        rows = np.flatnonzero(at < nowhere)
        x[...] = 0
        x[rows, at[rows]] = self.scale


@dataclasses.dataclass(frozen=True)
class Constant:
    """A column that says nothing of the training part: it must be there, and is not used.

    It has a single value, gaps alone, or a text of its own for each row.

    Attributes
    ----------
    name : str
        Of the column.
    kind : {"number", "bool", "date", "text"}
        Of the column.
    """

    name: str
    kind: str

    n_features: ClassVar[int] = 0
    feature_names: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check both."""
        _check_types(self, name=str)
        checks.refuse([checks.one_of("kind of column", self.kind, KINDS)])

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Do nothing: there is no feature to fill."""


Column = Number | Date | Category | Constant

Fill = Callable[[np.ndarray, np.ndarray], None]

TREATMENTS: Mapping[str, type[Column]] = {
    "number": Number,
    "date": Date,
    "category": Category,
    "constant": Constant,
}


def scaled(
    values: np.ndarray, centre: float | np.ndarray, scale: float | np.ndarray, clipped: bool
) -> np.ndarray:
    """(values − centre) / scale, smoothly clipped or not; centre and scale may be those of many columns."""
    z = values - centre
    z /= scale
    if clipped:
        z /= np.hypot(1, z / CLIP)  # without squares, which overflow
    return z


def _check_types(column: Column, **types: type) -> None:
    for field, needed in types.items():
        if not isinstance(getattr(column, field), needed):
            raise TypeError(f"{field}={getattr(column, field)!r} of a column is no {needed.__name__}")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All columns that a network sees, in the order of its inputs.

    Attributes
    ----------
    columns : tuple of Number, Date, Category or Constant
        Each name once.
    ranges : mapping of str to (float, float)
        The least and the largest number or date of columns in the training part, where that is known.
    """

    columns: tuple[Column, ...]
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check the names."""
        if len(set(self.names)) != len(self.columns):
            raise ValueError(f"columns are named twice: {', '.join(self.names)}.")

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Inputs":
        """Numbers that are left as they are."""
        return cls(tuple(Number(name) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of what the network sees."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def n_features(self) -> int:
        """Inputs of the network."""
        return sum(column.n_features for column in self.columns)

    def description(self) -> list[dict[str, Any]]:
        """Everything, as JSON values."""
        names = {treatment: name for name, treatment in TREATMENTS.items()}
        return [{"treatment": names[type(column)], **_fields(column)} for column in self.columns]

    @classmethod
    def of(cls, description: Sequence[Mapping[str, Any]], ranges: Any = None) -> "Inputs":
        """What `description` describes, and between which values its columns were.

        Raises ValueError, TypeError, KeyError: it describes no columns.
        """
        if isinstance(description, Mapping):  # format 1: numbers alone, described like targets
            old = Targets.of(description)
            numbers = zip(old.names, old.means, old.scales, strict=True)
            return cls(tuple(Number(name, mean, scale, median=mean) for name, mean, scale in numbers))
        known = {str(name): (float(low), float(high)) for name, (low, high) in dict(ranges or {}).items()}
        return cls(tuple(_column_of(**described) for described in description), known)

    @functools.cached_property
    def scales(self) -> np.ndarray:
        """What each feature (n_features,) of a level is in the rows that it stands for; 1 for the others."""
        each = [column.scale if isinstance(column, Category) else 1.0 for column in self.columns]
        return np.repeat(each, [column.n_features for column in self.columns])

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Fill x (m, n_features) from values (m, n_columns), float64; both in the order of the columns."""
        for fill, columns, features in self._fills:
            fill(values[:, columns], x[:, features])

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the fields, from which all else follows."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _fills(self) -> list[tuple[Fill, int | slice, slice]]:
        """What fills, from which columns, which features: numbers side by side are filled together."""
        fills: list[tuple[Fill, int | slice, slice]] = []
        column, feature = 0, 0
        for are_alike, group in itertools.groupby(self.columns, _likeness):
            together = list(group)
            for run in [together] if are_alike else [[each] for each in together]:
                stop, last = column + len(run), feature + sum(each.n_features for each in run)
                fill = _filling(run) if are_alike else run[0].fill
                fills.append((fill, slice(column, stop) if are_alike else column, slice(feature, last)))
                column, feature = stop, last
        return fills


def _fields(described: Any) -> dict[str, Any]:
    """A column's fields, or its encoding's, as JSON values; an encoding only where there is one.

    Nor the scale of levels that is 1, as it was before they had one.
    """
    fields = {field.name: getattr(described, field.name) for field in dataclasses.fields(described)}
    if isinstance(described, Category) and described.scale == 1.0:
        del fields["scale"]
    if fields.get("encoding", ...) is None:
        del fields["encoding"]
    elif "encoding" in fields:
        fields["encoding"] = _fields(fields["encoding"])
    return fields


def _column_of(treatment: str, **fields: Any) -> Column:
    """A column from its JSON values, which know lists but no tuples."""
    given: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if isinstance(given.get("encoding"), Mapping):
        given["encoding"] = Encoding(**{name: tuple(value) for name, value in given["encoding"].items()})
    return TREATMENTS[treatment](**given)


def _likeness(column: Column) -> str:
    """A text that numbers share which can be filled together; empty for other columns."""
    if not isinstance(column, Number) or isinstance(column, Date):
        return ""
    if column.encoding is not None:
        return "encoded"
    return ("clipped" if column.clipped else "linear") + ", gaps" * column.gaps


def _filling(columns: Sequence[Any]) -> Fill:
    """What fills numbers that are alike, side by side, in the time that two or three take alone."""
    medians, centres, scales = (
        np.array([getattr(column, field) for column in columns]) for field in ("median", "centre", "scale")
    )
    if columns[0].encoding is not None:
        return _filling_encoded(columns, medians, centres, scales)
    stride = columns[0].n_features

    def fill(values: np.ndarray, x: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            has_gaps = np.isnan(values.sum())  # a tenth of the time that isnan takes of each
        is_gap = np.isnan(values) if has_gaps else False
        filled = np.where(is_gap, medians, values) if has_gaps else values
        x[:, ::stride] = scaled(filled, centres, scales, columns[0].clipped)
        if columns[0].gaps:
            x[:, 1::stride] = is_gap

    return fill


def _filling_encoded(
    columns: Sequence[Any], medians: np.ndarray, centres: np.ndarray, scales: np.ndarray
) -> Fill:
    starts = np.cumsum([0, *(column.n_features for column in columns)])[:-1]
    has_gaps = np.array([column.gaps for column in columns])
    together = Encodings([column.encoding for column in columns], starts + 1 + has_gaps)

    def fill(values: np.ndarray, x: np.ndarray) -> None:
        is_gap = np.isnan(values)
        bounded = together.bounded(np.where(is_gap, medians, values))
        x[:, starts] = scaled(bounded, centres, scales, False)
        x[:, starts[has_gaps] + 1] = is_gap[:, has_gaps]
        together.fill(bounded, x)

    return fill


@dataclasses.dataclass(frozen=True)
class Targets:
    """Means and deviations of the targets: value = mean + scale · standardised.

    Raises ValueError: they do not fit each other, or are not finite; scales must be positive.

    Attributes
    ----------
    names : tuple of str
        Each once.
    means, scales : tuple of float
        In the targets' own units; a constant one has scale 1.
    constant : tuple of bool
        Which have a single value in the training part; empty where nothing was measured.
    limits : tuple of (float, float)
        The least and the largest value of each that counts and that is predicted, in its own units; empty for
        no limits.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    constant: tuple[bool, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check that each target has what it needs."""
        if not len(self.names) == len(self.means) == len(self.scales):
            raise ValueError(
                f"{len(self.names)} targets have {len(self.means)} means and {len(self.scales)} scales: one "
                "each is needed."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"targets are named twice: {', '.join(self.names)}.")
        if len(self.limits) not in (0, len(self.names)):
            raise ValueError(
                f"{len(self.names)} targets have {len(self.limits)} limits: one pair each is needed."
            )
        if not all(least <= most for least, most in self.limits):
            raise ValueError(f"a target's least value is above its largest: {self.limits[:5]}.")
        for name, mean, scale in zip(self.names, self.means, self.scales, strict=True):
            checks.refuse(
                [
                    checks.number(f"the mean of target {name!r}", mean),
                    checks.number(f"the scale of target {name!r}", scale, above=0),
                ]
            )

    @classmethod
    def unscaled(cls, names: Sequence[str]) -> "Targets":
        """Targets that are left as they are."""
        return cls(tuple(names), (0.0,) * len(names), (1.0,) * len(names))

    def description(self) -> dict[str, Any]:
        """Everything, as JSON values; limits only where there are some."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "limits" or value}

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "Targets":
        """What `description` describes.

        Raises ValueError, TypeError, KeyError: it describes no targets.
        """
        names, constant = description["names"], description["constant"]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a target's name is no text")
        if not all(isinstance(one, bool) for one in constant) or len(constant) not in (0, len(names)):
            raise ValueError("which targets are constant is not said of each")
        means, scales = (tuple(description[key]) for key in ("means", "scales"))
        limits = tuple((float(least), float(most)) for least, most in description.get("limits", ()))
        return cls(tuple(names), means, scales, tuple(constant), limits)

    @property
    def standardised_limits(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The least and the largest standardised value that is predicted of each; None without limits."""
        if not self.limits:
            return None
        bounds = (np.array(self.limits) - np.array(self.means)[:, None]) / np.array(self.scales)[:, None]
        return tuple(bounds[:, 0].tolist()), tuple(bounds[:, 1].tolist())

    def standardise(self, values: np.ndarray) -> None:
        """(value − mean) / scale, in place, of values within the limits."""
        if self.limits:
            np.clip(values, *np.array(self.limits, dtype=values.dtype).T, out=values)
        values -= np.asarray(self.means, dtype=values.dtype)
        values /= np.asarray(self.scales, dtype=values.dtype)

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Back to the targets' units; several values a target (quantiles) stand side by side."""
        repeat = values.shape[1] // len(self.names)
        restored = values * np.repeat(self.scales, repeat) + np.repeat(self.means, repeat)
        if not self.limits:
            return restored
        least, most = np.repeat(np.array(self.limits).T, repeat, axis=1)
        return np.clip(restored, least, most)
