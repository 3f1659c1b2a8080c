"""When a training ends: pure functions of the history, each of which answers a reason or None."""

import dataclasses
import functools
import math

from mlp_xp.history import History


@dataclasses.dataclass(frozen=True)
class Stopping:
    """What ends a run, whichever comes first.

    Parameters
    ----------
    max_epochs : int
        Epochs.
    patience : int, optional
        Epochs in a row without an improvement of the watched loss (validation where there is any, else
        training) by more than `tolerance`.
    tolerance : float
        In units of the loss.
    loss_below : float, optional
        The watched loss that is good enough.
    time_budget : float, optional
        Seconds.
    """

    max_epochs: int
    patience: int | None = None
    tolerance: float = 0.0
    loss_below: float | None = None
    time_budget: float | None = None

    def reason(self, history: History) -> str | None:
        """Why the run is over, or None."""
        return self.of_losses(history) or self.of_clock(history)

    def of_losses(self, history: History) -> str | None:
        """Why it is over by its losses, which each member has of its own."""
        return self.good_enough(history) or self.no_improvement(history)

    def of_clock(self, history: History) -> str | None:
        """Why it is over by what all members share."""
        return self.out_of_time(history) or self.out_of_epochs(history)

    def out_of_epochs(self, history: History) -> str | None:
        """All epochs are done."""
        done = len(history.train_losses) >= self.max_epochs
        return f"reached {self.max_epochs} epoch{'s' * (self.max_epochs > 1)}" if done else None

    def no_improvement(self, history: History) -> str | None:
        """The best of the last `patience` epochs is not better than the best before them."""
        if self.patience is None or len(history.watched) <= self.patience:
            return None
        before = history.fold(self, _lower, math.inf, but_last=self.patience)
        lately = functools.reduce(_lower, history.watched[-self.patience :], math.inf)
        if lately < before - self.tolerance:
            return None
        which = "held-out" if history.validation_losses else "training"
        by = f" by more than {self.tolerance:g}" if self.tolerance else ""
        return f"the {which} loss did not fall{by} for {self.patience} epoch{'s' * (self.patience > 1)}"

    def good_enough(self, history: History) -> str | None:
        """The watched loss is low enough."""
        if self.loss_below is None or not history.watched[-1] < self.loss_below:
            return None
        return f"loss below {self.loss_below:g}"

    def out_of_time(self, history: History) -> str | None:
        """The time is used up."""
        if self.time_budget is None or history.seconds < self.time_budget:
            return None
        return f"time budget of {self.time_budget:g} seconds used"


def _lower(lowest: float, loss: float) -> float:
    """The lower of two losses; one that is nan is none."""
    return min(lowest, loss)
