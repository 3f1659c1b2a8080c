"""What a loss or weights that are not finite lead to: an error, or going on from the best epoch so far."""

import warnings

from mlp_xp.run.state import Training, TrainingState
from mlp_xp.settings.spelling import spelled

MOST_ROLLBACKS = 10
"""Times that a diverging run is rolled back before it is given up."""


class Divergence:
    """Knows where a diverging run goes on, if it does."""

    def __init__(self, training: Training, *, rolls_back: bool) -> None:
        self.training, self.rolls_back = training, rolls_back
        self.good_state: TrainingState | None = None
        self.remember()

    def remember(self) -> None:
        """Here is the best epoch so far, or the start."""
        if self.rolls_back:
            self.good_state = self.training.state()

    def handle(self) -> None:
        """Put the best epoch back, and go on from there with half the learning rate.

        Raises FloatingPointError: the run does not go on; its network has the weights of the last good epoch.
        """
        training, history = self.training, self.training.history
        message, rollbacks = describe(training), history.rollbacks + 1
        if self.good_state is None or rollbacks > MOST_ROLLBACKS:
            training.parameters.flat[...] = training.last_good
            raise FloatingPointError(message)
        warnings.warn(
            f"{message} Rolled back to the best epoch so far, with half the learning rate ({rollbacks} of "
            f"{MOST_ROLLBACKS} times).",
            stacklevel=3,
        )
        training.restore(self.good_state)
        history.rollbacks = rollbacks
        training.rates.last = training.rates.now()


def describe(training: Training) -> str:
    """Which epoch and step went wrong, and what to do."""
    objective, history, rates = training.objective, training.history, training.rates
    epoch = len(history.train_losses) + 1
    step = objective.losses.first_failure()
    steps = history.steps_per_epoch
    if step is not None:
        what, where = "training loss", f"step {step + 1} of {steps}"
        by = ", by this step's loss or by the update before it" if step else ""
    else:
        what = "weights" if not objective.network.parameters.are_finite() else "sum of training losses"
        where, by = f"the last of {steps} steps", ""
    kept = f"of epoch {epoch - 1}" if epoch > 1 else "before the first epoch"
    return (
        f"the {what} became infinite or nan in epoch {epoch}, {where} (learning_rate={rates.last:g}){by}. "
        f"Lower the learning rate, clip the gradient ({spelled('clip_norm')}) or standardise the inputs; the "
        f"parameters {kept} are kept."
    )
