"""What a run yields after each epoch."""

import dataclasses
import warnings
from collections.abc import Generator
from typing import Any

from mlp_xp.machine.array_api import Array
from mlp_xp.run.state import Member, Training, TrainingState


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One pass over the data, as `train` yields it.

    Attributes
    ----------
    number : int
        From 1.
    train_loss : float
        The objective, averaged over the epoch's steps as the weights moved.
    validation_loss : float or None
        Mean loss over the validation rows with the weights at the end of the epoch, without penalty.
    learning_rate : float
        At the epoch's last step.
    steps, n_rows : int
        Updates made and rows passed in this epoch.
    seconds : float
        Since training began.
    is_best : bool
        Whether the watched loss (validation where there is any, else training) is the lowest so far.
    best_parameters : array (n_parameters,)
        The flat vector of the best epoch so far, on the device; read it only.
    stopped : str or None
        Why this is the last epoch; None if it is not.
    training : Training
        The run itself.
    members : tuple of Member
        What each member has come to, where the network has some: losses, learning rate, best epoch, why it
        has stopped. The losses above are then the means of those that run.
    """

    number: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    steps: int
    n_rows: int
    seconds: float
    is_best: bool
    best_parameters: Array = dataclasses.field(repr=False)
    stopped: str | None
    training: Training = dataclasses.field(repr=False, compare=False)
    members: tuple[Member, ...] = ()

    def state(self) -> TrainingState:
        """Everything that the run needs to go on from here; to be asked for before the next epoch.

        ``train(network, loader, ..., state=state)`` with the same arguments goes on as if it had never
        stopped, bit for bit.
        """
        return self.training.state()


class Epochs(Generator[Epoch]):
    """The epochs of a run, each of which is trained when it is asked for."""

    def __init__(self, made: Generator[Epoch]) -> None:
        self._made, self._was_asked = made, False

    def send(self, value: None) -> Epoch:
        """Train one more epoch."""
        self._was_asked = True
        return self._made.send(value)

    def throw(self, *error: Any) -> Epoch:
        """Raise an error where the run waits."""
        return self._made.throw(*error)

    def close(self) -> None:
        """End the run."""
        self._was_asked = True
        self._made.close()

    def __del__(self) -> None:
        """Warn where nobody asked for an epoch, so that nothing was trained."""
        if not self._was_asked:
            warnings.warn(
                "nothing was trained: train() gives epochs, and trains each when it is asked for. Write "
                "`for epoch in train(...):`.",
                RuntimeWarning,
                stacklevel=2,
            )


def epoch_now(training: Training, stopped: str | None) -> Epoch:
    """The epoch that a run has just ended."""
    history, loader = training.history, training.loader
    return Epoch(
        number=len(history.train_losses),
        train_loss=history.train_losses[-1],
        validation_loss=history.validation_losses[-1] if history.validation_losses else None,
        learning_rate=training.rates.last,
        steps=loader.steps_per_epoch,
        n_rows=loader.n_rows,
        seconds=history.seconds,
        is_best=history.best_epoch == len(history.train_losses),
        best_parameters=training.best,
        stopped=stopped,
        training=training,
        members=training.members_now(),
    )
