"""What an epoch's steps have cost each member."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.epoch_losses import EpochLosses, objective_of, terms
from mlp_xp.machine.array_api import Backend


class MemberLosses(EpochLosses):
    """Σ s_i L_i, λ R(w) and Σ s_i of each step and member, and J of each over all of them.

    Members that are not `running` have stopped, and do not count.
    """

    def __init__(self, backend: Backend, members: int, *, takes_mean: bool, has_penalty: bool) -> None:
        self.members, self.running = members, [True] * members
        super().__init__(backend, takes_mean=takes_mean, has_penalty=has_penalty, members=members)

    def start(self) -> None:
        """Forget the last epoch."""
        super().start()
        self._of_each: list[np.ndarray] = []
        self._looked_at, self._all_broken = 0, False
        self._known: tuple[int, list[float]] = -1, []

    def end_step(self, divisor: float | np.ndarray) -> None:
        """The step under way is over; its Σ s_i, for all members or of each."""
        self._of_each.append(np.reshape(divisor, (1, -1)))
        super().end_step(float(np.max(divisor)))

    def filled(self, *divisors: Any) -> None:
        """Count steps that have stored their values, with Σ s_i for all members or of each."""
        self._of_each += [np.reshape(each, (1, -1)) for each in divisors]
        super().filled(*(float(np.max(each)) for each in divisors))

    def extend(self, values: np.ndarray, divisors: np.ndarray) -> None:
        """Enter values (n_values, members) of whole steps, and their Σ s_i (n_steps, 1 or members)."""
        n_values, first = len(values) // len(divisors), len(self._divisors)
        self._values.extend(values)
        steps = np.arange(first, first + len(divisors), dtype=np.int64)
        self._steps_of_values.frombytes(np.repeat(steps, n_values).tobytes())
        self._divisors.frombytes(divisors.max(axis=1).tobytes())
        self._of_each.append(divisors)

    @property
    def broken(self) -> bool:
        """Whether the host has seen of every member that runs a value that is infinite or nan."""
        if self._values.broken and len(self._values.read) != self._looked_at:
            self._looked_at = len(self._values.read)
            seen = self._read()[:, self.running]
            self._all_broken = not any(np.isfinite(own).all() for own in seen.T)
        return self._all_broken

    def _divisors_of_each(self) -> np.ndarray:
        """Σ s_i, (n_steps, members), or (n_steps, 1) where all members share it."""
        width = max((len(divisors.T) for divisors in self._of_each), default=1)
        each = [np.broadcast_to(divisors, (len(divisors), width)) for divisors in self._of_each]
        return np.concatenate([np.empty((0, width)), *each])

    def _read(self) -> np.ndarray:
        """What the host has seen, (n_values, members)."""
        return np.array(self._values.read).reshape(-1, self.members)

    def of_each(self) -> list[float]:
        """J of each member over the steps since `start`."""
        self._values.flush()
        if self._known[0] == len(self._values.read):
            return self._known[1]
        values, steps = self._read(), np.array(self._steps_of_values, dtype=np.int64)
        divisors, is_penalty = self._divisors_of_each(), np.zeros(len(steps), dtype=bool)
        if self.has_penalty:
            # A step's penalty is its last value, where any member had rows; who had none made no step.
            is_penalty = np.append(steps[1:] != steps[:-1], [True])
            is_penalty &= divisors.max(axis=1, initial=0.0)[steps] > 0
        finite = np.isfinite(values)
        are_finite = np.ones(self.members, dtype=bool) if finite.all() else finite.all(axis=0)
        if self.takes_mean:
            values[is_penalty] *= divisors[steps[is_penalty]] > 0
            with np.errstate(all="ignore"):
                sums, weights = exact_sums(values), exact_sums(divisors)
                means = np.divide(sums, weights, out=np.zeros(self.members), where=weights > 0)
            found = np.where(are_finite, means, math.nan).tolist()
        else:
            found = [
                self._sum_of(values[:, n], steps, is_penalty, own) if are_finite[n] else math.nan
                for n, own in enumerate(np.broadcast_to(divisors.T, (self.members, len(divisors))))
            ]
        self._known = len(self._values.read), found
        return found

    def _sum_of(
        self, values: np.ndarray, steps: np.ndarray, is_penalty: np.ndarray, divisors: np.ndarray
    ) -> float:
        """J of a member whose steps' terms are not divided."""
        counts = ~is_penalty | (divisors[steps] > 0)
        terms = values[counts].tolist(), steps[counts].tolist(), divisors.tolist()
        return objective_of(*terms, takes_mean=False, has_penalty=self.has_penalty)

    def objective(self) -> float:
        """The mean of J over the members that run and whose is finite; nan where none is."""
        return mean_of(list(itertools.compress(self.of_each(), self.running)))

    def steps(self) -> list[tuple[float, float, float]]:
        """Σ s_i L_i, λ R(w), means over the members, and Σ s_i of each step since `start`."""
        self._values.flush()
        return terms(
            self._read().mean(axis=1).tolist(), self._steps_of_values, self._divisors, self.has_penalty
        )

    def first_failure(self) -> int | None:
        """The first step since `start` with a value of a running member that is not finite."""
        self._values.flush()
        broken = ~np.isfinite(self._read()[:, self.running]).all(axis=1)
        return self._steps_of_values[int(np.argmax(broken))] if broken.any() else None

    def to_host(self) -> dict[str, np.ndarray]:
        """All of it, as host arrays."""
        arrays = super().to_host()
        arrays["epoch.values"] = self._read()
        divisors = self._divisors_of_each()
        arrays["epoch.divisors"] = np.broadcast_to(divisors, (len(divisors), self.members)).copy()
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on with an epoch from what `to_host` gave."""
        divisors = arrays["epoch.divisors"]
        flat = {"epoch.values": arrays["epoch.values"].ravel(), "epoch.divisors": divisors.max(axis=1)}
        super().restore({**arrays, **flat})
        self._of_each = [divisors]


COLUMNS = 128
"""That are summed at a time, so that some thousand rows of them stay in a core's cache."""


def exact_sums(values: np.ndarray) -> np.ndarray:
    """Of each column the sum, rounded once as by `math.fsum`: what sums of two lose is summed apart.

    References
    ----------
    Knuth, The Art of Computer Programming, volume 2, 4.2.2, theorem B.
    """
    firsts = range(0, values.shape[1], COLUMNS)
    return np.concatenate([_exact_sums(values[:, first : first + COLUMNS]) for first in firsts])


def _exact_sums(values: np.ndarray) -> np.ndarray:
    lost = np.zeros(values.shape[1])
    while len(values) > 1:
        half = len(values) // 2
        a, b, rest = values[:half], values[half : 2 * half], values[2 * half :]
        total = a + b
        part = total - a
        lost += ((a - (total - part)) + (b - part)).sum(axis=0)
        values = np.concatenate([total, rest])
    return values.sum(axis=0) + lost


def mean_of(numbers: Sequence[float]) -> float:
    """The mean of those that are finite; nan where none is."""
    finite = [number for number in numbers if math.isfinite(number)]
    return math.fsum(finite) / len(finite) if finite else math.nan
