"""The learning rate of each step of each member."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mlp_xp.own import OwnSchedule
from mlp_xp.run.rates import Rates


class RatesOfEach(Protocol):
    """η of each member."""

    def of_each(self) -> Sequence[float]:
        """At the step under way."""

    def ahead_of_each(self, n_steps: int) -> np.ndarray:
        """At the coming steps, all of one epoch: (n_steps, members), or 1 where they share them."""


class MemberRates(Rates):
    """The learning rate of each step and member, with what they have in common.

    `last` is that of the first at the last step, `latest` that of each.
    """

    def __init__(self, bases: Sequence[float], common: Rates) -> None:
        super().__init__(**{field.name: getattr(common, field.name) for field in dataclasses.fields(Rates)})
        self.bases = list(bases)
        self.histories = [copy.deepcopy(common.history) for _ in bases]
        # Only these look at losses, of which each member has its own.
        self._looks_back = self.schedule.once_an_epoch or isinstance(self.schedule, OwnSchedule)
        self._epoch, self.latest = -1, list(bases)

    def of_each(self) -> list[float]:
        """The rates of the step under way."""
        epoch = len(self.history.train_losses)
        if self.schedule.once_an_epoch and self._epoch == epoch:
            return self.latest
        if self._looks_back:
            for history in self.histories:
                history.step = self.history.step
            factors = [float(self.schedule(history)) for history in self.histories]
        else:
            factors = [float(self.schedule(self.history))] * len(self.bases)
        self.latest = [base * factor for base, factor in zip(self.bases, factors, strict=True)]
        self._epoch = epoch
        return self.latest

    def ahead_of_each(self, n_steps: int) -> np.ndarray:
        """The rates of the coming steps, all of one epoch: (n_steps, members), or 1 where they share them."""
        if self.schedule.once_an_epoch:
            return np.broadcast_to(_shared(self.of_each()), (n_steps, len(_shared(self.latest))))
        later, factors = dataclasses.replace(self.history), []
        for later.step in range(self.history.step, self.history.step + n_steps):
            factors.append(float(self.schedule(later)))
        found = np.multiply.outer(factors, _shared(self.bases))
        self.latest = np.broadcast_to(found[-1], len(self.bases)).tolist()
        return found

    def forget(self) -> None:
        """Ask the schedule anew: the past is another one now."""
        self._epoch = -1


def _shared(numbers: Sequence[float]) -> Sequence[float]:
    """One where all are alike."""
    return numbers if len(set(numbers)) > 1 else numbers[:1]
