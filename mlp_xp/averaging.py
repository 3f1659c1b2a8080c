"""An average of the weights over the latest steps, which predicts better than the last weights do."""

from typing import Any

from mlp_xp.machine.array_api import Array
from mlp_xp.parameters import Parameters


class Average:
    """A running mean of the weights, over a part of all steps.

        w̄ ← w̄ + (w − w̄) / max(1, min(t, α T))

    with t the number of the step just made, from 1, and T that of all (`n_steps`). At first it is the mean of
    all steps, then an exponential average over the last part α of them.

    Attributes
    ----------
    flat : array (n_parameters,)
        w̄; while it is in use, the trained weights w.
    latest : int
        The step after which note was taken last.

    References
    ----------
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(self, parameters: Parameters, part: float, n_steps: int) -> None:
        self.parameters, self.span = parameters, part * n_steps
        self.flat: Array = parameters.backend.xp.asarray(parameters.flat, copy=True)
        self.is_in_use, self.latest = False, 0

    def take(self, t: int) -> None:
        """Take note of the weights after step t, if who made the step has not done so."""
        if t != self.latest:
            self.take_of(None, t)
        self.latest = t

    def take_of(self, member: int | None, t: int) -> None:
        """Take note of a member's weights after step t, or of all."""
        share, of = 1.0 / max(1.0, min(t, self.span)), ... if member is None else (member, ...)
        mean_of_all, weights = self.flat[of], self.parameters.flat[of]
        for block in self.parameters.backend.blocks(*mean_of_all.shape):
            mean = mean_of_all[..., block]
            mean += share * (weights[..., block] - mean)

    def use(self) -> None:
        """Let the network have the average, until `go_on`."""
        if not self.is_in_use:
            self._swap()

    def go_on(self) -> None:
        """Give the network the trained weights back."""
        if self.is_in_use:
            self._swap()

    @property
    def trained(self) -> Any:
        """w, wherever it is now."""
        return self.flat if self.is_in_use else self.parameters.flat

    @property
    def mean(self) -> Any:
        """w̄, wherever it is now."""
        return self.parameters.flat if self.is_in_use else self.flat

    def _swap(self) -> None:
        held = self.parameters.backend.xp.asarray(self.flat, copy=True)
        self.flat[...] = self.parameters.flat
        self.parameters.flat[...] = held
        self.is_in_use = not self.is_in_use
