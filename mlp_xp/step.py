"""One update of the weights: w_new = w_old − η ∂J/∂w."""

from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer, clip_by_global_norm
from mlp_xp.rows.batch import Batch, Block
from mlp_xp.run.rates import Rates


class Step:
    """Differentiate the objective, clip the gradient to a Euclidean norm (`clip_norm`), apply the rule."""

    def __init__(self, objective: Objective, optimizer: Optimizer, clip_norm: float | None = None) -> None:
        self.objective, self.optimizer, self.clip_norm = objective, optimizer, clip_norm

    def __call__(self, batch: Batch, number: int, rate: float) -> None:
        """Make update `number`, from 0, at rate η; the batch's chunks are consumed.

        A batch whose weights sum to zero, or whose loss is seen to be infinite, changes nothing.
        """
        self.objective.differentiate(batch, number)
        if not self.objective.losses.broken and batch.divisor:
            self.apply(rate)

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of a block's batches from `first` on, `most` at most, by one call; here of none.

        It returns how many it has made; the batches are not consumed.
        """
        return 0

    def apply(self, rate: float) -> None:
        """Move the weights along the gradient of the batch last differentiated."""
        self.clip()
        self.optimizer.step(self.objective.gradient, rate)

    def clip(self) -> None:
        """Clip the gradient of the batch last differentiated, to which frozen layers do not count."""
        self.optimizer.hold(self.objective.gradient)
        if self.clip_norm is not None:
            clip_by_global_norm(self.objective.gradient, self.clip_norm)

    def forget(self) -> None:
        """Forget a step that was not completed, and let go of memory that depends on the number of rows."""
        self.objective.losses.forget_step()
        self.forget_buffers()

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        self.objective.forget_buffers()
