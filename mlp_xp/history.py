"""What has happened in a training so far: all that schedules and stopping rules may look at."""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Folded = TypeVar("Folded")
"""What a fold makes of losses."""


@dataclasses.dataclass(repr=False)
class History:
    """The past of one training run, on the host.

    Attributes
    ----------
    step : int
        Updates of the weights made so far.
    steps_per_epoch : int
        Updates an epoch.
    max_epochs : int
        Epochs after which the run ends.
    rows_at_epoch_start : int
        Rows passed in all epochs that are complete.
    train_losses : list of float
        The objective of each complete epoch, averaged over its steps as the weights moved.
    validation_losses : list of float
        The loss on the validation rows after each complete epoch; empty without a validation part.
    seconds : float
        Time in training, validation included.
    best_epoch : int
        The epoch (from 1) with the lowest watched loss; 0 before the first.
    best_loss : float
        That loss.
    rollbacks : int
        Times that the run diverged and was put back to its best epoch.
    """

    steps_per_epoch: int = 1
    max_epochs: int = 1
    step: int = 0
    rows_at_epoch_start: int = 0
    train_losses: list[float] = dataclasses.field(default_factory=list)
    validation_losses: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0
    best_loss: float = math.inf
    rollbacks: int = 0

    def __post_init__(self) -> None:
        """Nothing was folded yet; what is, is no part of the past itself."""
        self._folded: dict[Hashable, tuple[list[float], int, Any]] = {}

    def fold(
        self, key: Hashable, step: Callable[[Folded, float], Folded], start: Folded, *, but_last: int = 0
    ) -> Folded:
        """What `step` makes of the watched losses, one after the other from a start, but for the last few.

        What was made of earlier ones is remembered under `key`: an epoch takes the same time however many
        have passed.
        """
        losses = self.watched
        known, n_seen, seen = self._folded.get(key, (losses, 0, start))
        n = max(0, len(losses) - but_last)
        if known is not losses or n_seen > n:  # the run was put back
            n_seen, seen = 0, start
        for at in range(n_seen, n):
            seen = step(seen, losses[at])
        self._folded[key] = (losses, n, seen)
        return seen

    def __repr__(self) -> str:
        """Where the run is, and its latest and best losses."""
        losses = {"train_loss": self.train_losses, "validation_loss": self.validation_losses}
        latest = "".join(f"{name}={each[-1]:.6g}, " for name, each in losses.items() if each)
        return (
            f"History(epochs={len(self.train_losses)}, step={self.step}, {latest}"
            f"best_epoch={self.best_epoch}, best_loss={self.best_loss:.6g}, seconds={self.seconds:.1f})"
        )

    @property
    def watched(self) -> list[float]:
        """The losses that decide: validation where there is any, else training."""
        return self.validation_losses or self.train_losses

    @property
    def epochs(self) -> float:
        """Epochs so far, as a fraction."""
        return self.step / self.steps_per_epoch
