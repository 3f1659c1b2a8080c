"""The learning rate of each step, and what else changes with it: pure functions of the history."""

import copy
import dataclasses
from typing import NamedTuple

from mlp_xp.dropout import Dropout
from mlp_xp.history import History
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.schedules import Constant, Schedule


class More(NamedTuple):
    """What is a step's own beside its rate.

    Attributes
    ----------
    number : int
        From 0.
    decay : float
        The factor on the rate of a decoupled decay.
    dropout : Dropout or None
        Its masks.
    """

    number: int
    decay: float
    dropout: Dropout | None


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
            _, optimizer.decay_factor, objective.dropout = self._more_at(self.history)

    def more_ahead(self, n_steps: int) -> list[More]:
        """Number, decay and dropout of the coming steps; nothing where there is no dropout or schedule."""
        steps: list[More] = []
        if self.dropout is None and not self.schedules_more:
            return steps
        later = copy.copy(self.history)
        for later.step in range(self.history.step, self.history.step + n_steps):
            steps.append(self._more_at(later))
        return steps

    def _more_at(self, history: History) -> More:
        decay = 1.0 if self.decay_schedule is None else float(self.decay_schedule(history))
        dropout = self.dropout
        if dropout is not None and self.dropout_schedule is not None:
            dropout = dropout.times(float(self.dropout_schedule(history)))
        return More(history.step, decay, dropout)

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
