"""Numbers seen at several scales: bounded, as a rank, and as ramps between quantiles.

    bounded    z of the value, no further out than the limits
    rank       √12 (r − ½), with r the part of the training rows below the value, linear between knots
    ramps      e_t = clip((value − b_{t−1}) / (b_t − b_{t−1}), 0, 1),  t = 1 … T

The edges b and the knots are distinct quantiles of the training part. Ramps let a layer bend its function at
each edge, the rank undoes a heavy tail, and z is there for what is linear in the value itself.

References
----------
Gorishniy, Rubachev and Babenko, On embeddings for numerical features in tabular deep learning, NeurIPS 2022
(ramps: their piecewise linear encoding).
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Sequence

import numpy as np

from mlp_xp.settings import checks

N_KNOTS = 65
"""Quantiles that the rank is linear between."""

MOST_RAMPS, LEAST_RAMPS = 32, 4
"""Ramps of a column: no more, and rather none than fewer."""

ROWS_A_RAMP = 5
"""Rows that each ramp of each column needs in the training part."""

OUTERMOST, FENCE = 0.01, 10.0
"""The limits are as many times the distance between the quantiles 0.01 and 0.99 away from these, if the
training part goes as far: a value beyond it, such as one with the wrong unit, counts as one at the limit."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a column of numbers is encoded, all in the column's own units.

    Raises ValueError, TypeError: they are not as said.

    Attributes
    ----------
    limits : (float, float)
        What a value is clipped to.
    knots : tuple of float
        Where the rank's slope changes, ascending; none for a column without a rank.
    ranks : tuple of float in [0, 1]
        r at each knot, ascending.
    edges : tuple of float
        b_0 … b_T, ascending; none for a column without ramps.
    """

    limits: tuple[float, float]
    knots: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check all."""
        for name in ("limits", "knots", "ranks", "edges"):
            values = getattr(self, name)
            if not all(type(value) is float and math.isfinite(value) for value in values):
                checks.refuse(checks.number(f"{name}[{at}]", value) for at, value in enumerate(values))
            ascends = all(map(operator.lt, values, values[1:]))
            if not ascends or len(values) == 1 or (name == "limits" and len(values) != 2):
                raise ValueError(f"{name} of an encoding do not ascend: {values}")
        if len(self.knots) != len(self.ranks):
            raise ValueError(f"{len(self.knots)} knots have {len(self.ranks)} ranks: one each is needed.")

    @property
    def n_features(self) -> int:
        """How many columns it fills, z not among them."""
        return bool(self.knots) + max(0, len(self.edges) - 1)

    def feature_names(self, name: str) -> tuple[str, ...]:
        """What each of them is."""
        rank = (f"{name} rank",) if self.knots else ()
        return (*rank, *(f"{name} from {a:.6g} to {b:.6g}" for a, b in itertools.pairwise(self.edges)))


def n_ramps(n_rows: int, n_columns: int) -> int:
    """T for each of so many columns of numbers: as many as the rows allow."""
    allowed = min(MOST_RAMPS, n_rows // (ROWS_A_RAMP * max(1, n_columns)))
    return allowed if allowed >= LEAST_RAMPS else 0


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """How far out a value counts: the range of these, or the fence where they go beyond it."""
    ordered = np.sort(values)
    least, most = float(ordered[0]), float(ordered[-1])
    low, high = quantiles(ordered, (OUTERMOST, 1.0 - OUTERMOST))
    room = FENCE * (high - low)
    return (max(least, low - room), min(most, high + room)) if room > 0 else (least, most)


def encoding_of(values: np.ndarray, n_ramps: int) -> Encoding | None:
    """The encoding of a column, from values (m,) without gaps; None where there are not two different ones.

    T ramps, or fewer where quantiles are equal.
    """
    ordered = np.sort(values)
    n_distinct = 1 + np.count_nonzero(ordered[1:] > ordered[:-1])
    if n_distinct < 2:
        return None
    limits = limits_of(ordered)
    if n_distinct == 2:  # z says all
        return Encoding(limits)
    knots = _distinct(ordered[_places(len(ordered), N_KNOTS)])
    below, until = (np.searchsorted(ordered, knots, side) for side in ("left", "right"))
    ranks = (below + until) / (2 * len(values))
    edges = _distinct(ordered[_places(len(ordered), n_ramps + 1)]) if n_ramps else np.empty(0)
    return Encoding(
        limits,
        tuple(knots.tolist()),
        tuple(ranks.tolist()),
        tuple(edges.tolist()) if len(edges) > 2 else (),
    )


@functools.lru_cache(maxsize=8)
def _places(n_values: int, n: int) -> np.ndarray:
    """Where n quantiles from the least of some ordered values to the largest are; each is one of them."""
    return np.quantile(np.arange(n_values), np.linspace(0.0, 1.0, n), method="nearest")


def _distinct(ordered: np.ndarray) -> np.ndarray:
    return ordered[np.append(True, ordered[1:] > ordered[:-1])]


def quantiles(ordered: np.ndarray, parts: Sequence[float]) -> list[float]:
    """Quantiles of ordered values, linear between two of them: `np.quantile` in a tenth of its time."""
    found, last = [], len(ordered) - 1
    for part in parts:
        at = part * last
        below = min(int(at), max(0, last - 1))
        a, b, t = float(ordered[below]), float(ordered[min(below + 1, last)]), at - below
        found.append(a + (b - a) * t if t < 0.5 else b - (b - a) * (1.0 - t))
    return found


class Encodings:
    """Fills what encodings of columns side by side say, all at once, from their first columns of x."""

    def __init__(self, encodings: Sequence[Encoding], starts: Sequence[int]) -> None:
        limits = np.array([each.limits for each in encodings])
        self._least, self._most = limits[:, 0], limits[:, 1]
        self._ranks = [
            (at, start, np.array(each.knots), np.array(each.ranks))
            for at, (each, start) in enumerate(zip(encodings, starts, strict=True))
            if each.knots
        ]
        edges = [np.array(each.edges) for each in encodings]
        self._start = np.concatenate([each[:-1] for each in edges])
        self._width = np.concatenate([np.diff(each) for each in edges])
        n_each = [max(0, len(each) - 1) for each in edges]
        self._columns = np.repeat(np.arange(len(encodings)), n_each)
        self._places = np.concatenate(
            [
                start + bool(each.knots) + np.arange(n)
                for each, start, n in zip(encodings, starts, n_each, strict=True)
            ]
        )

    def bounded(self, values: np.ndarray) -> np.ndarray:
        """Values (m, n_columns), no further out than the limits."""
        return np.clip(values, self._least, self._most)

    def fill(self, values: np.ndarray, x: np.ndarray) -> None:
        """Fill columns of x (m, ...) from bounded values (m, n_columns) without gaps."""
        for column, place, knots, ranks in self._ranks:
            x[:, place] = np.sqrt(12.0) * (np.interp(values[:, column], knots, ranks) - 0.5)
        ramps = values[:, self._columns]
        ramps -= self._start
        ramps /= self._width
        x[:, self._places] = np.clip(ramps, 0.0, 1.0, out=ramps)
