"""What an epoch's steps have cost: numbers that wait on the device until the host reads them all at once."""

import array
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlp_xp.machine.array_api import Array, Backend, to_host

READ_EVERY = 4096
"""Values that wait on the device before the host reads them all at once."""


class Room(NamedTuple):
    """Where on the device coming values go, for a step that stores them itself.

    Attributes
    ----------
    waiting : array (READ_EVERY,), or with a column for each member
        All that wait; always the same array.
    start, n : int
        The place of the first value, and how many there is room for.
    """

    waiting: Array
    start: int
    n: int

    @property
    def view(self) -> Array:
        """The place alone, to be filled."""
        return self.waiting[self.start : self.start + self.n]


class Values:
    """Numbers computed on the device, read by the host many at a time: reading one stops a GPU's queue.

    Each is one number, or one of each member.

    Attributes
    ----------
    read : array.array of float
        What the host has seen so far: 8 bytes each, where a list of floats takes 32.
    broken : bool
        Whether something among it is infinite or nan.
    """

    def __init__(self, backend: Backend, members: int | None = None) -> None:
        self._width = members or 1
        self._most = max(2, READ_EVERY // self._width)
        self._waiting = backend.zeros((self._most,) if members is None else (self._most, members))
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._n_waiting = 0
        self.read = array.array("d")
        self.broken = False

    def append(self, value: Array) -> None:
        """Store a 0-d array on the device."""
        self._waiting[self._n_waiting, ...] = value
        self._n_waiting += 1
        if self._n_waiting == self._most:
            self.flush()

    def extend(self, values: np.ndarray) -> None:
        """Add values of which the host knows already."""
        self.flush()
        self.read.frombytes(np.ascontiguousarray(values, dtype=np.float64).data.cast("B"))
        self.broken = self.broken or not np.isfinite(values).all()

    def room(self, n: int, most: int) -> Room:
        """Room for n values, or as many times n as there is, `most` times; `stored` counts those filled."""
        if self._n_waiting + n > self._most:
            self.flush()
        n_times = min(most, (self._most - self._n_waiting) // n)
        return Room(self._waiting, self._n_waiting, n * n_times)

    def stored(self, n: int) -> None:
        """Count n values that are in their place; read all when it is time."""
        self._n_waiting += n
        if self._n_waiting == self._most:
            self.flush()

    def forget(self, n: int) -> None:
        """Forget the last n values."""
        known = len(self.read) // self._width + self._n_waiting - n
        self._n_waiting = max(0, self._n_waiting - n)
        del self.read[(known - self._n_waiting) * self._width :]

    def flush(self) -> None:
        """Read what is waiting."""
        latest = to_host(self._waiting)[: self._n_waiting].ravel().tolist()
        self.read.extend(latest)
        self.broken = self.broken or not all(map(math.isfinite, latest))
        self._n_waiting = 0


class EpochLosses:
    """Σ s_i L_i, λ R(w) and Σ s_i of each step of an epoch, and J over all of them.

    J is divided by Σ s_i if it takes the mean; with a penalty each step that has rows has a second value.
    """

    def __init__(
        self, backend: Backend, *, takes_mean: bool, has_penalty: bool, members: int | None = None
    ) -> None:
        self.takes_mean, self.has_penalty = takes_mean, has_penalty
        self._values = Values(backend, members)
        self.start()

    def start(self) -> None:
        """Forget the last epoch."""
        self._values.clear()
        self._steps_of_values = array.array("q")
        self._divisors = array.array("d")

    @property
    def broken(self) -> bool:
        """Whether the host has seen a value that is infinite or nan."""
        return self._values.broken

    def add(self, value: Array) -> None:
        """Store a value of the step under way, a 0-d array on the device."""
        self._values.append(value)
        self._steps_of_values.append(len(self._divisors))

    def end_step(self, divisor: float) -> None:
        """The step under way is over; its Σ s_i."""
        self._divisors.append(divisor)

    def room(self, n_steps: int = 1) -> Room:
        """Room for the values of as many of the coming steps as there is, at least of one; see `filled`."""
        return self._values.room(1 + self.has_penalty, n_steps)

    def filled(self, *divisors: float) -> None:
        """Count steps that have stored their values: of each Σ s_i L_i, and λ R(w) if there is a penalty."""
        first, n_values = len(self._divisors), 1 + self.has_penalty
        self._divisors.extend(divisors)
        self._steps_of_values.extend(n for n in range(first, len(self._divisors)) for _ in range(n_values))
        self._values.stored(n_values * len(divisors))

    def values(self) -> Sequence[float]:
        """All values since `start`, as they came."""
        self._values.flush()
        return self._values.read

    def forget_step(self) -> None:
        """Forget what is known of a step that was not completed."""
        n_values = self._steps_of_values.count(len(self._divisors))
        self._values.forget(n_values)
        del self._steps_of_values[len(self._steps_of_values) - n_values :]

    def objective(self) -> float:
        """J over the steps since `start`, each at the weights of its time, summed in float64."""
        self._values.flush()
        if self._values.broken:
            return math.nan
        return objective_of(
            self._values.read,
            self._steps_of_values,
            self._divisors,
            takes_mean=self.takes_mean,
            has_penalty=self.has_penalty,
        )

    def steps(self) -> list[tuple[float, float, float]]:
        """Σ s_i L_i, λ R(w) and Σ s_i of each step since `start`."""
        self._values.flush()
        return terms(self._values.read, self._steps_of_values, self._divisors, self.has_penalty)

    def first_failure(self) -> int | None:
        """The first step since `start` (from 0) with a value that is not finite; None if all are."""
        self._values.flush()
        for step, value in zip(self._steps_of_values, self._values.read, strict=True):
            if not math.isfinite(value):
                return step
        return None

    def to_host(self) -> dict[str, np.ndarray]:
        """All of it, as host arrays."""
        self._values.flush()
        return {
            "epoch.values": np.array(self._values.read, dtype=np.float64),
            "epoch.steps": np.array(self._steps_of_values, dtype=np.int64),
            "epoch.divisors": np.array(self._divisors, dtype=np.float64),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on with an epoch from what `to_host` gave."""
        self.start()
        self._values.read = array.array("d", arrays["epoch.values"].tolist())
        self._steps_of_values = array.array("q", arrays["epoch.steps"].tolist())
        self._divisors = array.array("d", arrays["epoch.divisors"].tolist())


def objective_of(
    values: Sequence[float],
    steps: Sequence[int],
    divisors: Sequence[float],
    *,
    takes_mean: bool,
    has_penalty: bool,
) -> float:
    """J from the values of some steps, which are finite: of each value its step, of each step Σ s_i.

    The mean divides by Σ s_i of the epoch; the sum averages the penalty over the steps.
    """
    try:
        if takes_mean:
            divisor = math.fsum(divisors)
            return math.fsum(values) / divisor if divisor else 0.0
        losses, penalties, weights = zip(*terms(values, steps, divisors, has_penalty), strict=True)
        return math.fsum(losses) + math.fsum(penalties) / max(1, sum(map(bool, weights)))
    except OverflowError:  # each is finite, their sum is not
        return math.inf


def terms(
    values: Sequence[float], steps: Sequence[int], divisors: Sequence[float], has_penalty: bool
) -> list[tuple[float, float, float]]:
    """Σ s_i L_i, λ R(w) and Σ s_i of each step."""
    of_steps: list[list[float]] = [[] for _ in divisors]
    for step, value in zip(steps, values, strict=True):
        of_steps[step].append(value)
    found = []
    for of_step, divisor in zip(of_steps, divisors, strict=True):
        penalty = of_step.pop() if has_penalty and divisor else 0.0
        found.append((sum(of_step), penalty, divisor))
    return found
