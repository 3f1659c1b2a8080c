"""Weights that each member of a network has of its own for every row: which rows it sees, and how often.

folds              0 for the part of the rows that a member leaves out, else 1
bootstrap          how often a row comes in a sample of as many rows, drawn with replacement
StreamBootstrap    the same of a stream, whose rows have no numbers: how often a row comes is drawn by itself
"""

import math
from collections.abc import Callable

import numpy as np

from mlp_xp.machine.array_api import ArrayLike, Backend, on_host
from mlp_xp.rows.source import Source, Taken, Wrapped, weight_problem
from mlp_xp.rows.streams import hashes, key_of
from mlp_xp.settings import checks

POISSON = np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(18)])
"""Probabilities that a number of Poisson's distribution of mean 1 is at most 0, 1, …, to the last digit."""


class EachWeighted(Wrapped):
    """A source whose rows have a weight for each member: factors on the source's own."""

    def __init__(self, source: Source, members: int) -> None:
        super().__init__(source)
        self.has_weights, self.n_weights = True, members

    def factors(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What the weights of some rows are multiplied with, (m, members)."""
        raise NotImplementedError

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays; weight, (m, members) or (m,) of one, with the source's own times each factor."""
        if weight is None:
            self.source.rows(index, x, y, None)
            return
        y = np.empty((len(index), self.n_targets)) if y is None else y
        own = np.empty(len(index), dtype=weight.dtype)
        self.source.rows(index, x, y, own)
        of_each = weight if weight.ndim > 1 else weight[:, np.newaxis]
        np.multiply(self.factors(index, x, y), own[:, np.newaxis], out=of_each)


class MemberWeighted(EachWeighted):
    """A source whose rows have a weight for each member, times the source's own.

    Raises ValueError: shape or values are no weights.

    Parameters
    ----------
    weights : array_like (n_rows, members)
        >= 0, and not all 0 for any member.
    """

    def __init__(self, source: Source, weights: ArrayLike) -> None:
        self.weights = on_host(weights)
        shape = self.weights.shape
        if (
            len(shape) != 2
            or shape[0] != source.n_rows
            or not shape[1]
            or self.weights.dtype.kind not in "fiub"
        ):
            raise ValueError(
                f"member_weight is {self.weights.dtype} of shape {shape}: needed are numbers of shape "
                f"({source.n_rows}, members)."
            )
        with np.errstate(over="ignore"):
            each = zip(self.weights.min(axis=0), self.weights.sum(axis=0, dtype=float), strict=True)
            checks.refuse(
                weight_problem(f"member_weight of member {n}", shape[0], float(least), float(total))
                for n, (least, total) in enumerate(each)
            )
        super().__init__(source, shape[1])
        self.y = source.y

    def factors(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """These weights."""
        found: np.ndarray = self.weights[index]
        return found

    def on_device(self, backend: Backend, *, labels: bool) -> Callable[[np.ndarray], Taken] | None:
        """The source's rows, with these weights."""
        take = self.source.on_device(backend, labels=labels)
        if take is None:
            return None

        def weighted(index: np.ndarray) -> Taken:
            x, y, _, host_weight = take(index)
            own = self.weights[index] * (1.0 if host_weight is None else host_weight[:, None])
            return x, y, backend.asarray(own), own

        return weighted


def folds(n_rows: int, members: int, seed: int = 0) -> np.ndarray:
    """Which rows each member trains on, (n_rows, members): all but its fold, drawn at random.

    Every row is left out by one member; folds differ by one row at most. The rows that are held out are the
    others, `~folds(...)`.
    """
    checks.refuse([checks.whole("members", members, least=2)])
    seen: np.ndarray = fold_numbers(n_rows, members, seed)[:, None] != np.arange(members)
    return seen


def fold_numbers(n_rows: int, members: int, seed: int) -> np.ndarray:
    """The fold of each row (n_rows,), at random; folds differ by one row at most."""
    if members > n_rows:
        raise ValueError(f"{n_rows} rows cannot be parted into {members} folds: each needs one row.")
    fold: np.ndarray = np.random.default_rng(seed).permutation(n_rows) % members
    return fold


def bootstrap(n_rows: int, members: int, seed: int = 0) -> np.ndarray:
    """How often each row comes in a sample of each member, (n_rows, members).

    Rows that do not come at all, a good third, are out of the bag, and can judge the member.

    References
    ----------
    Efron, Bootstrap methods: another look at the jackknife, 1979; Breiman, Bagging predictors, 1996.
    """
    checks.refuse([checks.whole("members", members)])
    generator = np.random.default_rng(seed)
    counts = [np.bincount(generator.integers(0, n_rows, n_rows), minlength=n_rows) for _ in range(members)]
    return np.stack(counts, axis=1)


class StreamBootstrap(EachWeighted):
    """A stream whose rows have for each member a weight that is drawn by itself: from Poisson(1).

    As often comes a row in a sample of very many. The draw is a function of the seed, the member and the
    row's values x and y, as nothing else names a row of a stream: it is the same in each epoch, and equal
    rows come equally often.

    References
    ----------
    Oza and Russell, Online bagging and boosting, 2001.
    """

    def __init__(self, source: Source, members: int, seed: int = 0) -> None:
        super().__init__(source, members)
        self._key, self._keys = key_of(seed), [key_of(seed, member) for member in range(members)]

    def factors(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How often each row comes."""
        of_row = hashes([*x.T, *y.T], self._key)
        drawn = (np.searchsorted(POISSON, hashes([of_row], key), side="right") for key in self._keys)
        return np.stack(list(drawn), axis=1)
