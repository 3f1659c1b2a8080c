"""What is looked at after each epoch: losses, the best of them, whether the run diverged, when it is over."""

from collections.abc import Callable

from mlp_xp.run.divergence import Divergence
from mlp_xp.run.state import Training
from mlp_xp.stopping import Stopping


class Monitor:
    """Whoever judges a run after each of its epochs."""

    def is_sound(self, train_loss: float) -> bool:
        """Whether an epoch counts, as each does here; `go_back` is called if it does not."""
        return True

    def go_back(self) -> None:
        """Put the run back to where it goes on from, or raise."""

    def look(self, train_loss: float) -> None:
        """Enter an epoch's losses into the history."""
        raise NotImplementedError

    def decide(self) -> str | None:
        """Keep the weights if they are the best so far; say why the run is over, if it is."""
        raise NotImplementedError


class LossMonitor(Monitor):
    """Watches losses: those of the rows held out where there are any, else those of the training.

    A run that diverged may go on from its best epoch (`rolls_back`).
    """

    def __init__(
        self,
        training: Training,
        stopping: Stopping,
        validate: Callable[[], float] | None = None,
        *,
        rolls_back: bool = False,
    ) -> None:
        self.training, self.stopping, self.validate = training, stopping, validate
        self.divergence = Divergence(training, rolls_back=rolls_back)

    def is_sound(self, train_loss: float) -> bool:
        """Whether loss and weights are finite."""
        return self.training.is_finite(train_loss)

    def go_back(self) -> None:
        """Go on from the best epoch so far, or raise FloatingPointError."""
        self.divergence.handle()

    def look(self, train_loss: float) -> None:
        """Keep the good weights, and the losses."""
        history = self.training.history
        self.training.keep_good()
        history.train_losses.append(train_loss)
        if self.validate is not None:
            history.validation_losses.append(self.validate())

    def decide(self) -> str | None:
        """Keep the best weights; say why the run is over."""
        if self.training.keep_best():
            self.divergence.remember()
        return self.reason()

    def reason(self) -> str | None:
        """Why the run is over, as far as the history says."""
        return self.stopping.reason(self.training.history)
