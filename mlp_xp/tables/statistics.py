"""All numbers that prepared columns need, from the rows of the training part.

    one pass, in float64         means, deviations, counts, extremes: exact; a second one for lone targets
    a sample of the rows         medians and quartiles: exact up to 100,000 rows, else those of 100,000
                                 that the order draws, so that they do not depend on threads or ranks

Memory does not depend on the number of rows.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from mlp_xp.rows.order import Shuffled
from mlp_xp.rows.source import Source, pass_rows, passes, read
from mlp_xp.settings.checks import counted
from mlp_xp.tables.encoding import Encoding, encoding_of, n_ramps, quantiles
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.options import MAX_LEVELS
from mlp_xp.tables.preparation import PERIODS, Category, Column, Constant, Date, Inputs, Number, Targets

LEAST_ROWS = 2
"""Rows that a text must have to be a level."""

SAMPLE_ROWS = 100_000
"""Rows of which medians and quartiles are taken."""

SAMPLE_BYTES = 64 * 8 * SAMPLE_ROWS
"""Of the samples that are held together: those of 64 columns at least, which are 51 MB."""

ROUNDING = 4
"""Units in the last place by which values may differ that are one but for rounding."""

LONE = 1.0
"""A target is lone that is further outside of all others than as many times their range: it counts as one
that is just not, so that no wrong number decides mean, deviation and steps."""

LEAST_PERIODS = 2
"""How often a cycle must come in the training part to be a feature."""


class Moments:
    """Count, mean, deviation and extremes of each of some columns, from their rows part by part.

    A gap is nan.

    References
    ----------
    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    def __init__(self, n_columns: int) -> None:
        self.n_rows = 0
        self.count, self.mean, self._squares = (np.zeros(n_columns) for _ in range(3))
        self.least, self.most = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)

    def add(self, part: np.ndarray) -> None:
        """Take note of rows (m, n_columns)."""
        is_gap = np.isnan(part)
        values = np.where(is_gap, 0.0, part)
        count = len(part) - is_gap.sum(axis=0)
        total = np.maximum(self.count + count, 1)
        mean = values.sum(axis=0) / np.maximum(count, 1)
        shift = mean - self.mean
        np.subtract(part, mean, out=values)  # in place: a part may be all that memory is to hold
        values[is_gap] = 0.0
        self._squares += np.square(values, out=values).sum(axis=0)
        self._squares += shift * shift * (self.count * count / total)
        self.mean += shift * (count / total)
        self.least = np.fmin(self.least, np.fmin.reduce(part, axis=0))
        self.most = np.fmax(self.most, np.fmax.reduce(part, axis=0))
        self.count += count
        self.n_rows += len(part)

    @property
    def deviation(self) -> np.ndarray:
        """The root of the mean squared distance from the mean."""
        return np.sqrt(self._squares / np.maximum(self.count, 1))

    @property
    def is_constant(self) -> np.ndarray:
        """Whether there is a single value, or several that differ by the rounding of one."""
        largest = np.maximum(np.abs(self.least), np.abs(self.most))
        with np.errstate(invalid="ignore"):  # of columns without a value
            return ~(self.most - self.least > ROUNDING * np.spacing(largest))

    @property
    def scale(self) -> np.ndarray:
        """The deviation; 1 for a single value, and the range where squares are too small for a float."""
        deviation = self.deviation
        tiny = np.where(deviation > 0, deviation, self.most - self.least)
        return np.where(self.is_constant, 1.0, tiny)

    @property
    def has_gaps(self) -> np.ndarray:
        """Whether some rows have no value."""
        return self.count < self.n_rows


class Outermost:
    """The two least and the two largest values of each of some columns, from their rows part by part."""

    def __init__(self, n_columns: int) -> None:
        self._least, self._most = (np.full((2, n_columns), end) for end in (np.inf, -np.inf))

    def add(self, part: np.ndarray) -> None:
        """Take note of rows (m, n_columns)."""
        self._least = np.partition(np.concatenate([self._least, part]), 1, axis=0)[:2].copy()
        self._most = np.partition(np.concatenate([self._most, part]), -2, axis=0)[-2:].copy()

    @property
    def fences(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How far out a value counts, either side; None where no value is further out."""
        (least, low), (high, most) = self._least, self._most
        room = np.where(high > low, LONE * (high - low), np.inf)
        fences = np.maximum(least, low - room), np.minimum(most, high + room)
        return None if np.array_equal(fences, (least, most)) else fences


@dataclasses.dataclass(frozen=True)
class Quartiles:
    """Of a column's values in the sample, in its own units; and how they are encoded, if they are.

    Mean and deviation are those of the values that the encoding bounds.
    """

    lower: float
    median: float
    upper: float
    encoding: Encoding | None = None
    mean: float = 0.0
    deviation: float = 1.0


def measure(
    source: Source,
    columns: Sequence[RawColumn],
    target_names: Sequence[str],
    *,
    scaling: str = "standard",
    max_levels: int = MAX_LEVELS,
    bound_targets: bool = False,
    seed: int = 0,
) -> tuple[Inputs, Targets]:
    """What to do with each column, from the rows of a source.

    Raises ValueError: values are so large that their squares overflow, or all columns are constant.

    Parameters
    ----------
    source : source
        The training part, and nothing else.
    columns : sequence of Column
        Name, kind and levels of each column of x.
    scaling : {"standard", "robust", "none", "encoded"}
        Numbers have mean 0 and deviation 1; or median 0 and a distance of 1 between the quartiles, and are
        clipped smoothly; or are left as they are; or have mean 0 and deviation 1, are bounded, and have a
        rank and ramps beside them (`tables.encoding`), and a text with L features is √(2 / L) in that of its
        level, rather than 1: steps that do not depend on a gradient's size learn rare levels by heart. Dates
        are never left as they are.
    max_levels : int
        Texts of a column that have a feature of their own: the most frequent ones, but for those that a
        single row has. The others count as one: what is seen once stands best for what is not seen.
    bound_targets : bool
        Whether a lone target far outside of all others counts as one nearer to them.
    seed : int
        Of the sample.

    References
    ----------
    Good, The population frequencies of species and the estimation of population parameters, 1953 (on what is
    seen once).
    """
    seen = ColumnStatistics.of(source, columns, target_names)
    sampled = seen.to_sample(scaling)
    ramps = n_ramps(source.n_rows, len(sampled)) if scaling == "encoded" else None
    quartiles = _quartiles(source, sampled, seed, ramps)
    inputs = Inputs(
        tuple(seen.prepared(at, quartiles.get(at), scaling, max_levels) for at in range(len(columns))),
        seen.ranges,
    )
    if not inputs.n_features:
        raise ValueError(
            f"every column has a single value in the {counted(source.n_rows, 'row')} to train on: there is "
            "nothing to learn from. Give other columns, or more rows."
        )
    return inputs, seen.targets(target_names, source if bound_targets else None)


class ColumnStatistics:
    """What one pass over some rows shows of each column."""

    def __init__(self, columns: Sequence[RawColumn], n_targets: int) -> None:
        self.columns = columns
        numeric = [at for at, column in enumerate(columns) if column.kind in ("number", "date")]
        self._place = {at: place for place, at in enumerate(numeric)}
        dates = [at for at in numeric if columns[at].kind == "date"]
        self._dates = {at: place for place, at in enumerate(dates)}
        self._numbers, self._targets = Moments(len(numeric)), Moments(n_targets)
        self._outermost = Outermost(n_targets)
        self._phases = {cycle: Moments(len(self._dates)) for cycle in PERIODS}
        self._counts = {
            at: np.zeros(1 + max(2, len(column.levels)), np.int64)
            for at, column in enumerate(columns)
            if at not in self._place
        }

    @classmethod
    def of(
        cls, source: Source, columns: Sequence[RawColumn], target_names: Sequence[str]
    ) -> "ColumnStatistics":
        """All rows of a source."""
        seen = cls(columns, len(target_names))
        with np.errstate(over="ignore", invalid="ignore"):  # found below, by column
            for _, x, y, _ in passes(source):
                seen.add(x, y)
        _refuse_overflow([columns[at].name for at in seen._place], seen._numbers)
        _refuse_overflow(target_names, seen._targets)
        return seen

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take note of rows."""
        self._numbers.add(x[:, list(self._place)])
        self._targets.add(y)
        self._outermost.add(y)
        for cycle, period in PERIODS.items():
            self._phases[cycle].add(np.remainder(x[:, list(self._dates)] / period, 1.0))
        for at, count in self._counts.items():
            codes = np.where(x[:, at] >= 0, x[:, at], -1).astype(np.intp)
            count += np.bincount(codes + 1, minlength=len(count))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the largest value of each column of numbers or dates that has some."""
        least, most = self._numbers.least.tolist(), self._numbers.most.tolist()
        return {
            self.columns[at].name: (least[place], most[place])
            for at, place in self._place.items()
            if least[place] <= most[place]
        }

    def targets(self, names: Sequence[str], bounded_from: Source | None = None) -> Targets:
        """How the targets are standardised; without what is lone where the rows are given again."""
        found, fences = self._targets, self._outermost.fences
        if bounded_from is not None and fences is not None:
            found = Moments(len(names))
            for _, _, y, _ in passes(bounded_from):
                found.add(np.clip(y, *fences))
        return Targets(
            tuple(names),
            means=tuple(found.mean.tolist()),
            scales=tuple(found.scale.tolist()),
            constant=tuple(found.is_constant.tolist()),
            limits=tuple(zip(found.least.tolist(), found.most.tolist(), strict=True)),
        )

    @functools.cached_property
    def _is_constant(self) -> list[bool]:
        return self._numbers.is_constant.tolist()

    @functools.cached_property
    def _has_gaps(self) -> list[bool]:
        return self._numbers.has_gaps.tolist()

    @functools.cached_property
    def _scales(self) -> list[float]:
        return self._numbers.scale.tolist()

    def to_sample(self, scaling: str) -> list[int]:
        """The columns whose median, quartiles or encoding are needed."""
        if scaling == "encoded":
            return [at for at, place in self._place.items() if not self._is_constant[place]]
        return [at for at, place in self._place.items() if scaling == "robust" or self._has_gaps[place]]

    def prepared(self, at: int, quartiles: Quartiles | None, scaling: str, max_levels: int) -> Column:
        """What to do with a column."""
        column = self.columns[at]
        return (
            self._number(column, at, quartiles, scaling)
            if at in self._place
            else _category(column, self._counts[at], max_levels, is_scaled=scaling == "encoded")
        )

    def _number(self, column: RawColumn, at: int, quartiles: Quartiles | None, scaling: str) -> Column:
        place, seen = self._place[at], self._numbers
        mean, has_gaps = float(seen.mean[place]), self._has_gaps[place]
        if not seen.count[place] or (self._is_constant[place] and not has_gaps):
            return Constant(column.name, column.kind)
        centre, scale = mean, self._scales[place]
        median = mean if quartiles is None else quartiles.median
        if quartiles is not None and scaling == "robust":
            centre, spread = quartiles.median, quartiles.upper - quartiles.lower
            scale = spread if spread > 0 else scale
        encoding = None if quartiles is None else quartiles.encoding
        if quartiles is not None and encoding is not None:
            centre, scale = quartiles.mean, quartiles.deviation or scale
        if column.kind == "date":
            cycles = self._cycles(at)
            return Date(column.name, centre, scale, scaling == "robust", median, has_gaps, encoding, cycles)
        if scaling == "none":
            centre, scale = 0.0, 1.0
        return Number(column.name, centre, scale, scaling == "robust", median, has_gaps, encoding)

    def _cycles(self, at: int) -> tuple[str, ...]:
        """The cycles that dates go through several times, and not always at the same point."""
        date, place = self._dates[at], self._place[at]
        span = self._numbers.most[place] - self._numbers.least[place]
        return tuple(
            cycle
            for cycle, phase in self._phases.items()
            if span >= LEAST_PERIODS * PERIODS[cycle] and phase.least[date] < phase.most[date]
        )


def _category(column: RawColumn, counts: np.ndarray, max_levels: int, *, is_scaled: bool) -> Column:
    """What to do with texts or booleans, by their rows: of gaps, then of each code."""
    n_gaps, counts = counts[0], counts[1:]
    if column.kind == "bool":
        is_constant = np.count_nonzero([n_gaps, *counts]) < 2
        return (
            Constant(column.name, "bool")
            if is_constant
            else Category(column.name, "bool", ("false", "true"), gaps=bool(n_gaps))
        )
    frequent = np.argsort(-counts, kind="stable")[:max_levels]
    kept = sorted(code for code in frequent.tolist() if counts[code] >= LEAST_ROWS)
    has_other = bool(counts.sum() > counts[kept].sum())
    if len(kept) + has_other + bool(n_gaps) < 2:
        return Constant(column.name, "text")
    levels = tuple(column.levels[code] for code in kept)
    found = Category(column.name, "text", levels, has_other, bool(n_gaps))
    return dataclasses.replace(found, scale=math.sqrt(2 / found.n_features)) if is_scaled else found


def _quartiles(
    source: Source, columns: Sequence[int], seed: int, n_ramps: int | None
) -> dict[int, Quartiles]:
    """The quartiles of some columns in a sample of the rows, some columns at a time.

    And their encoding, where the number of ramps is given.
    """
    if source.n_rows <= SAMPLE_ROWS:
        rows = np.arange(source.n_rows)
    else:
        rows = np.sort(Shuffled()(source.n_rows, seed, 0)[:SAMPLE_ROWS])
    found, step = {}, pass_rows(source)
    n_together = max(1, SAMPLE_BYTES // (8 * len(rows)))
    for first in range(0, len(columns), n_together):
        together = list(columns[first : first + n_together])
        sample = np.empty((len(rows), len(together)))
        for start in range(0, len(rows), step):
            x, _, _ = read(source, rows[start : start + step])
            sample[start : start + step] = x[:, together]
        for at, values in zip(together, sample.T, strict=True):
            present = values[~np.isnan(values)]
            if len(present):
                found[at] = _quartiles_of(present, n_ramps)
    return found


def _quartiles_of(values: np.ndarray, n_ramps: int | None) -> Quartiles:
    """Those of a sample of one column."""
    lower, median, upper = quantiles(np.sort(values), (0.25, 0.5, 0.75))
    encoding = None if n_ramps is None else encoding_of(values, n_ramps)
    found = Quartiles(lower, median, upper)
    if encoding is None:
        return found
    bounded = np.clip(values, *encoding.limits)
    mean, deviation = float(bounded.mean()), float(bounded.std())
    return dataclasses.replace(found, encoding=encoding, mean=mean, deviation=deviation)


def _refuse_overflow(names: Sequence[str], moments: Moments) -> None:
    for name, deviation in zip(names, moments.deviation, strict=True):
        if not np.isfinite(deviation):
            raise ValueError(
                f"column {name!r} has values so large that its deviation overflows: give it in a larger unit "
                "(values up to about 1e150)."
            )
