"""The epoch loop with scikit-learn's conventions: what an epoch's loss is, and when training stops."""

import contextlib
import copy
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mlp_xp.dropout import Dropout
from mlp_xp.estimators.callbacks import Listeners
from mlp_xp.estimators.drawing import CountedOrder, DrawnOrder
from mlp_xp.fast import ways
from mlp_xp.history import History
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.rows.loader import Loader
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Unattended
from mlp_xp.run.validation import mean_loss
from mlp_xp.schedules import Constant, InverseScaling
from mlp_xp.training_loop import descend

OF_SKLEARN = 5
"""Frames from `fitting._descend` up to scikit-learn's wrapper of `fit`: warnings seem to come from there, so
that filters that people have (``module="sklearn"``) match."""


def agreed(ranks: Ranks | None, wishes: bool, seconds: float) -> tuple[bool, float]:
    """Whether any rank's callback wishes to stop, and the first one's seconds: all must decide alike."""
    if ranks is None:
        return wishes, seconds
    (n_wishes,) = ranks.sum_numbers([float(bool(wishes))])
    return n_wishes > 0, ranks.from_first(seconds)


class Continuation:
    """What a later call of fit or partial_fit goes on from.

    Attributes
    ----------
    optimizer : Optimizer
        With its state.
    rates : Rates
        Learning rate, schedule and their history.
    dropout : Dropout or None
        Its masks go on where they ended, as the step's number does.
    order, split : order, pair of arrays, or None
        For warm_start="continue": rows of the next epoch; rows of training and validation.
    latest : array or None
        The flat parameters after the last step, where the estimator has those of the best epoch.
    """

    def __init__(self, network: Network, rule: Any, rates: Rates, dropout: Dropout | None) -> None:
        self.optimizer = Optimizer(rule, network.parameters)
        self.rates, self.dropout = rates, dropout
        self.order: DrawnOrder | CountedOrder | None = None
        self.split: tuple[np.ndarray, np.ndarray] | None = None
        self.latest: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Host arrays only: a pickle is read where no GPU is."""
        state = vars(self).copy()
        optimizer = state.pop("optimizer")
        return state | {
            "rule": optimizer.rule,
            "t": optimizer.t,
            "vectors": optimizer.to_host(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Leave the optimizer to `attach`, which knows the network."""
        vars(self).update(state)

    def attach(self, network: Network) -> None:
        """Make the optimizer update this network, with the state that it has."""
        optimizer = vars(self).get("optimizer")
        if optimizer is not None and optimizer.parameters is network.parameters:
            return
        state = self.__getstate__() if optimizer is not None else vars(self)
        self.optimizer = Optimizer(state["rule"], network.parameters)
        self.optimizer.t = state["t"]
        for name, vector in state["vectors"].items():
            self.optimizer.state[name][...] = network.backend.asarray(vector)
        for name in ("rule", "t", "vectors"):
            vars(self).pop(name, None)

    def undo_point(self) -> Callable[[], None]:
        """A function that puts everything back as it is now."""
        parameters, optimizer, xp = self.optimizer.parameters, self.optimizer, self.xp
        flat, t = xp.asarray(parameters.flat, copy=True), optimizer.t
        vectors = {name: xp.asarray(v, copy=True) for name, v in optimizer.state.items()}
        rates, latest, order = copy.copy(self.rates), self.latest, self.order
        history = dataclasses.replace(
            rates.history,
            train_losses=list(rates.history.train_losses),
            validation_losses=list(rates.history.validation_losses),
        )
        undo_order = None if order is None else order.undo_point()

        def undo() -> None:
            parameters.flat[...] = flat
            optimizer.t = t
            for name, vector in vectors.items():
                optimizer.state[name][...] = vector
            self.rates, self.latest, self.order = rates, latest, order
            rates.history = history
            if undo_order is not None:
                undo_order()

        return undo

    @property
    def xp(self) -> Any:
        """The namespace of the parameters."""
        return self.optimizer.parameters.backend.xp


def new_rates(base: float, schedule: Any, max_epochs: int) -> Rates:
    """Rates at the start of a history."""
    return Rates(base, schedule, History(max_epochs=max_epochs))


@dataclasses.dataclass
class Validation:
    """Rows held out, and what is watched on them.

    Attributes
    ----------
    loader : Loader
        For the loss.
    score : callable
        The score with the network's parameters of now.
    on_loss : bool
        Whether the loss is watched, rather than the score.
    """

    loader: Loader
    score: Callable[[], float]
    on_loss: bool


def epoch_loss(objective: Objective, loader: Loader, scale: float) -> float:
    """An epoch's loss as scikit-learn reports it: each step's J counts by its rows.

    Σ_steps n (scale · Σ s_i L_i + λ R) / Σ s_i  /  Σ_steps n
    """
    total, left = 0.0, loader.n_rows
    for loss, penalty, divisor in objective.losses.steps():
        n_rows = min(loader.batch_size, left)
        left -= n_rows
        if divisor:
            total += n_rows * ((scale * loss + penalty) / divisor)
    return total / loader.n_rows


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the `callback` parameter is called with after each epoch.

    Attributes
    ----------
    number : int
        Of the epoch, from 1, within this call of fit.
    loss : float
        As in `loss_curve_`.
    validation_loss, validation_score : float or None
        On the validation rows, if there are any.
    learning_rate : float
        At the last step.
    seconds : float
        Since this call of fit began.
    snapshot : callable
        ``progress.snapshot()`` is a copy of the estimator, fitted as if training stopped here.
    """

    number: int
    loss: float
    validation_loss: float | None
    validation_score: float | None
    learning_rate: float
    seconds: float
    snapshot: Callable[[], Any] = dataclasses.field(repr=False)


class Descent:
    """The epochs of one call of fit or partial_fit.

    Parameters
    ----------
    estimator : estimator
        Gets `n_iter_`, `t_`, `loss_`, `loss_curve_` and their like; its parameters say when to stop.
    training : Continuation
        Goes on.
    objective, loader : Objective, Loader
        Of the training rows.
    validation : Validation, optional
        Of the rows held out.
    loss_scale : float
        The factor on the loss (not on the penalty) in what is reported.
    adaptive : bool
        Whether the rate is divided by 5 where training would stop, until it is 1e-6.
    """

    def __init__(
        self,
        estimator: Any,
        training: Continuation,
        objective: Objective,
        loader: Loader,
        validation: Validation | None,
        loss_scale: float,
        adaptive: bool,
    ) -> None:
        self.e, self.training, self.objective, self.loader = estimator, training, objective, loader
        self.validation, self.loss_scale, self.adaptive = validation, loss_scale, adaptive
        self.early, self.watched = False, "Training loss"
        if estimator.early_stopping and validation is not None:
            self.early, self.watched = True, f"Validation {'loss' if validation.on_loss else 'score'}"
        self.best: Array | None = None
        self.stopped: str | None = None
        self.began = time.perf_counter()

    def run(
        self,
        n_epochs: int,
        listeners: Listeners,
        *,
        one_call: bool,
        keep_latest: bool,
    ) -> None:
        """Make epochs until something says stop; with early stopping, put the best weights back.

        Parameters
        ----------
        n_epochs : int
            At most.
        listeners : Listeners
            Told of each epoch.
        one_call : bool
            False in partial_fit: that n_epochs were made is no reason for a warning.
        keep_latest : bool
            Whether training may go on from the last weights, where the best ones are put back.
        """
        e, rates = self.e, self.training.rates
        history = rates.history
        history.steps_per_epoch = self.loader.steps_per_epoch
        make_step = ways(self.objective.network.backend.name)
        step = make_step(self.objective, self.training.optimizer, e.clip_norm)
        passes = descend(step, self.loader, rates, Unattended())
        with contextlib.closing(passes):
            try:
                e.n_iter_ = 0
                while self.stopped is None and e.n_iter_ < n_epochs:
                    listeners.begin_epoch()
                    rates.last = rates.now()
                    # Overflow shows in the loss, not as NumPy's warnings.
                    with np.errstate(all="ignore"):
                        next(passes)
                        progress = self._look()
                    history.rows_at_epoch_start = e.t_
                    self._decide(progress, listeners)
                if self.stopped is None and one_call:
                    self.stopped = f"reached {n_epochs} epochs"
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({n_epochs}) reached and the "
                        "optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=OF_SKLEARN + 1,
                    )
            except KeyboardInterrupt:
                self.stopped = "interrupted"
                warnings.warn("Training interrupted by user.", stacklevel=OF_SKLEARN + 1)
        if self.best is not None:
            flat = self.objective.network.parameters.flat
            if keep_latest:
                self.training.latest = self.objective.network.parameters.to_host()
            flat[...] = self.best

    def _look(self) -> Progress:
        """Losses and scores after an epoch."""
        e, network = self.e, self.objective.network
        e.n_iter_ += 1
        e.loss_ = epoch_loss(self.objective, self.loader, self.loss_scale)
        e.t_ += self.loader.n_rows
        e.loss_curve_.append(e.loss_)
        self._say(f"Iteration {e.n_iter_}, loss = {e.loss_:.8f}")
        loss = score = None
        if self.validation is not None:
            ranks = self.objective.ranks
            loss = self.loss_scale * mean_loss(network, self.validation.loader, self.objective.loss, ranks)
            e.validation_loss_curve_.append(loss)
            if not self.validation.on_loss or not self.early:
                score = self.validation.score()
                score = score if ranks is None else ranks.from_first(score)
                e.validation_scores_.append(score)
                self._say(f"Validation score: {score:f}")
        history = self.training.rates.history
        if not isinstance(self.training.rates.schedule, Constant | InverseScaling):
            history.train_losses.append(e.loss_)
            if loss is not None:
                history.validation_losses.append(loss)
        history.seconds = time.perf_counter() - self.began
        return Progress(
            e.n_iter_,
            e.loss_,
            loss,
            score,
            self.training.rates.last,
            time.perf_counter() - self.began,
            lambda: e.snapshot_of(network),
        )

    def _decide(self, progress: Progress, listeners: Listeners) -> None:
        """Remember the best, count epochs without improvement, and stop where that is due."""
        e, rates = self.e, self.training.rates
        self._count(progress)
        if e._no_improvement_count > e.n_iter_no_change:
            reason = (
                f"{self.watched} did not improve more than tol={e.tol:f} for {e.n_iter_no_change} "
                "consecutive epochs."
            )
            if self.adaptive and rates.base > 1e-6:
                rates.base /= 5.0
                self._say(f"{reason} Setting learning rate to {rates.base:f}")
                e._no_improvement_count = 0
            else:
                small = " Learning rate too small." if self.adaptive else ""
                self._say(f"{reason}{small} Stopping.")
                self.stopped = reason
        seconds = time.perf_counter() - self.began
        wishes, seconds = agreed(self.objective.ranks, listeners.end_epoch(progress), seconds)
        if wishes:
            self.stopped = self.stopped or "stopped by a callback"
        if e.time_budget is not None and seconds >= e.time_budget:
            self.stopped = self.stopped or f"time budget of {e.time_budget:g} seconds used"
        if not (self.early or math.isfinite(progress.loss)):
            flat = self.objective.network.parameters.flat
            if not bool(self.training.xp.all(self.training.xp.isfinite(flat))):
                self.stopped = "diverged"  # weights that are not finite never are again

    def _count(self, progress: Progress) -> None:
        """Compare an epoch with the best one."""
        e = self.e
        if not self.early:
            worse = progress.loss > e.best_loss_ - e.tol
            e.best_loss_ = min(e.best_loss_, progress.loss)
        elif self.watched == "Validation loss":
            worse = progress.validation_loss > e.best_validation_loss_ - e.tol
            if progress.validation_loss < e.best_validation_loss_:
                e.best_validation_loss_ = progress.validation_loss
                self._keep()
        else:
            worse = progress.validation_score < e.best_validation_score_ + e.tol
            if progress.validation_score > e.best_validation_score_:
                e.best_validation_score_ = progress.validation_score
                self._keep()
        e._no_improvement_count = e._no_improvement_count + 1 if worse else 0

    def _keep(self) -> None:
        flat = self.objective.network.parameters.flat
        self.best = self.training.xp.asarray(flat, copy=True)

    def _say(self, text: str) -> None:
        if self.e.verbose:
            sys.stdout.write(text + "\n")
