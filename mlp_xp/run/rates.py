"""The learning rate of each step, and what else changes with it: pure functions of the history."""

import copy
import dataclasses
from typing import NamedTuple

import numpy as np

from mlp_xp.dropout import Dropout
from mlp_xp.history import History
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.schedules import Constant, Schedule


class More(NamedTuple):
    """What is a step's own beside its rate, of some steps in a row.

    Attributes
    ----------
    first : int
        The number of the first, from 0.
    decays, dropping : arrays (n_steps,)
        The factors on the rate of a decoupled decay, and on the probabilities of dropout.
    dropout : Dropout or None
        The masks, without these factors.
    """

    first: int
    decays: np.ndarray
    dropping: np.ndarray
    dropout: Dropout | None = None

    def part(self, start: int, stop: int) -> "More":
        """Some of the steps."""
        return More(self.first + start, self.decays[start:stop], self.dropping[start:stop], self.dropout)


@dataclasses.dataclass
class Rates:
    """The learning rate of each step: base rate × schedule. And the dropout and decay, times theirs."""

    base: float
    schedule: Schedule
    history: History
    decay_schedule: Schedule | None = None
    dropout_schedule: Schedule | None = None
    dropout: Dropout | None = None

    def __post_init__(self) -> None:
        """The first step's rate."""
        self.last = self.now()
        decays, drops = (
            each is not None and not isinstance(each, Constant)
            for each in (self.decay_schedule, self.dropout_schedule)
        )
        self.schedules_more = decays or (drops and self.dropout is not None)

    def set_more(self, objective: Objective, optimizer: Optimizer) -> None:
        """Set dropout and decay for the coming step, where they have schedules."""
        if self.schedules_more:
            optimizer.decay_factor, dropping = self._more_at(self.history)
            objective.drop(dropping)

    def more_ahead(self, n_steps: int) -> More:
        """What is the coming steps' own."""
        first, found = self.history.step, np.ones((n_steps, 2))
        if self.schedules_more:
            later = copy.copy(self.history)
            for n in range(n_steps):
                later.step = first + n
                found[n] = self._more_at(later)
        decays, dropping = np.ascontiguousarray(found.T)
        return More(first, decays, dropping, self.dropout)

    def _more_at(self, history: History) -> tuple[float, float]:
        """The factors on decay and dropout."""
        decay, dropping = (
            1.0 if schedule is None else float(schedule(history))
            for schedule in (self.decay_schedule, self.dropout_schedule)
        )
        return decay, dropping

    def now(self) -> float:
        """The rate that the history asks for; half of it for every time that it was rolled back."""
        return self._at(self.history)

    def _at(self, history: History) -> float:
        return self.base * float(self.schedule(history)) * 0.5**history.rollbacks

    def ahead(self, n_steps: int) -> list[float]:
        """The rates of the coming steps, all of one epoch."""
        rates = [self.for_step()]
        if self.schedule.once_an_epoch:
            return rates * n_steps
        later = copy.copy(self.history)  # the same past, seen from steps that are still to come
        for later.step in range(self.history.step + 1, self.history.step + n_steps):
            rates.append(self._at(later))
        self.last = rates[-1]
        return rates

    def for_step(self) -> float:
        """The rate of the coming step."""
        history = self.history
        if not self.schedule.once_an_epoch or history.step % history.steps_per_epoch == 0:
            self.last = self.now()
        return self.last
