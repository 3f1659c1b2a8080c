"""What has happened in a training so far: all that schedules and stopping rules may look at."""

import dataclasses
import math


@dataclasses.dataclass
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

    @property
    def watched(self) -> list[float]:
        """The losses that decide: validation where there is any, else training."""
        return self.validation_losses or self.train_losses

    @property
    def epochs(self) -> float:
        """Epochs so far, as a fraction."""
        return self.step / self.steps_per_epoch
