"""L-BFGS in one call of fit: one search over all rows, of which each iteration counts as an epoch."""

import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mlp_xp.estimators.callbacks import Listeners
from mlp_xp.estimators.training import OF_SKLEARN, Progress, Validation, agreed
from mlp_xp.objective import Objective
from mlp_xp.rows.loader import Loader
from mlp_xp.run.full_batch import minimise, value_and_gradient
from mlp_xp.run.validation import mean_loss


class Search:
    """The iterations of one call of fit.

    Parameters
    ----------
    estimator : estimator
        Gets `n_iter_`, `loss_`, `stopped_` and the validation's curves.
    objective, loader : Objective, Loader
        Of all training rows at once.
    validation : Validation, optional
        Of the rows held out.
    loss_scale, divisor : float
        The factor on the loss, and Σ s_i under the penalty, in what is reported.
    listeners : Listeners
        Told of each iteration.
    """

    def __init__(
        self,
        estimator: Any,
        objective: Objective,
        loader: Loader,
        validation: Validation | None,
        loss_scale: float,
        divisor: float,
        listeners: Listeners,
    ) -> None:
        self.e, self.objective, self.loader, self.validation = estimator, objective, loader, validation
        self.loss_scale, self.divisor, self.listeners = loss_scale, divisor, listeners
        self.parameters = objective.network.parameters
        self.iterate = self.parameters.to_host().astype(np.float64)
        self.value: float | None = None
        self.is_told = True
        self.stopped: str | None = None
        self.began = time.perf_counter()

    def run(self, rule: Any, most: int) -> None:
        """Search until something says stop, at most so many iterations; the last one's weights stay."""
        e = self.e
        e.n_iter_ = 0
        if self.validation is not None:
            e.validation_loss_curve_, e.validation_scores_ = [], []
        try:
            with np.errstate(all="ignore"):
                why = minimise(self._evaluate, self.iterate.copy(), rule, most, self._after_iteration)
            if e.n_iter_ == 0 and self.value is not None:  # it began at a minimum
                self._look(self.iterate, self.value)
                e.n_iter_ = 0
            if self.stopped is None and "CONVERGENCE" not in why:
                warnings.warn(
                    f"lbfgs failed to converge after {e.n_iter_} iteration(s): {why}\n\nIncrease the "
                    f"number of iterations to improve the convergence (max_iter={e.max_iter}). You might "
                    "also want to scale the data as shown in:\n"
                    "    https://scikit-learn.org/stable/modules/preprocessing.html",
                    ConvergenceWarning,
                    stacklevel=OF_SKLEARN + 1,
                )
            self.stopped = self.stopped or f"L-BFGS ended: {why}"
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            warnings.warn("Training interrupted by user.", stacklevel=OF_SKLEARN + 1)
        e.stopped_ = self.stopped
        self._move_to(self.iterate)
        if self.loss_scale != 1.0:
            e.loss_ = self._reported_loss()

    def _move_to(self, vector: np.ndarray) -> None:
        self.parameters.flat[...] = self.parameters.backend.asarray(vector)

    def _evaluate(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        if self.is_told:
            self.listeners.begin_epoch()
            self.is_told = False
        value, gradient = value_and_gradient(self.objective, self.loader, vector)
        if self.value is None:
            self.value = self.e.loss_ = value
        return value, gradient

    def _after_iteration(self, vector: np.ndarray, value: float) -> None:
        self.iterate, self.value = vector.copy(), value
        self._look(self.iterate, value)
        if self.stopped is not None:
            raise StopIteration

    def _look(self, vector: np.ndarray, value: float) -> None:
        """Losses and scores at an iterate; tell the listeners."""
        e, network, ranks = self.e, self.objective.network, self.objective.ranks
        self._move_to(vector)
        e.n_iter_ += 1
        e.loss_ = value
        if e.verbose:
            sys.stdout.write(f"Iteration {e.n_iter_}, loss = {value:.8f}\n")
        loss = score = None
        if self.validation is not None:
            loss = self.loss_scale * mean_loss(network, self.validation.loader, self.objective.loss, ranks)
            score = self.validation.score()
            score = score if ranks is None else ranks.from_first(score)
            e.validation_loss_curve_.append(loss)
            e.validation_scores_.append(score)
        seconds = time.perf_counter() - self.began
        progress = Progress(e.n_iter_, value, loss, score, 0.0, seconds, lambda: e.snapshot_of(network))
        wishes, seconds = agreed(ranks, self.listeners.end_epoch(progress), seconds)
        self.is_told = True
        if wishes:
            self.stopped = "stopped by a callback"
        elif e.time_budget is not None and seconds >= e.time_budget:
            self.stopped = f"time budget of {e.time_budget:g} seconds used"

    def _reported_loss(self) -> float:
        """The loss times its factor, and the penalty without it."""
        objective, backend = self.objective, self.parameters.backend
        regularizer, weights = objective.regularizer, self.parameters.flat_weights
        loss = self.loss_scale * mean_loss(objective.network, self.loader, objective.loss, objective.ranks)
        penalty = 0.0 if regularizer is None else float(regularizer.value(backend, weights))
        return loss + penalty / self.divisor
