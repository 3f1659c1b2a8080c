"""What scikit-learn looks at after each epoch of a fit, who is told, and what a later fit goes on from."""

import copy
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from mlp_xp.dropout import Dropout
from mlp_xp.epoch_losses import EpochLosses
from mlp_xp.estimators.drawing import DrawnOrder
from mlp_xp.estimators.perceptron import Perceptron
from mlp_xp.machine.array_api import Array, ArrayLike, to_host
from mlp_xp.members.step import MemberObjective, MemberOptimizer, Members
from mlp_xp.members.ways import member_step
from mlp_xp.network import Network
from mlp_xp.optimizers import Optimizer, Rule
from mlp_xp.parameters import Parameters
from mlp_xp.rows.loader import Loader
from mlp_xp.run.monitor import Monitor
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Training
from mlp_xp.run.validation import mean_loss
from mlp_xp.step import Step
from mlp_xp.stopping import Stopping
from mlp_xp.training_loop import Descent


@dataclasses.dataclass
class Continuation:
    """What a later call of fit or partial_fit goes on from; a fit changes only a copy of it.

    Attributes
    ----------
    rule : rule
        Of the optimizer, which has made `t` steps and remembers `state`.
    rates : Rates
        Learning rate, schedule and their history.
    dropout : Dropout or None
        Its masks go on where they ended, as the step's number does.
    order : DrawnOrder or None
        For warm_start="continue": draws the rows of the next epoch.
    seed : int or None
        Likewise, of an order that is a function of it.
    split : pair of arrays, or None
        Likewise, the rows of training and validation.
    latest : array or None
        The flat parameters after the last step, where the estimator has those of the best epoch.
    """

    rule: Rule
    rates: Rates
    dropout: Dropout | None
    t: int = 0
    state: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    order: DrawnOrder | None = None
    seed: int | None = None
    split: tuple[np.ndarray, np.ndarray] | None = None
    latest: Array | None = None

    def copied(self) -> "Continuation":
        """The same, but what a fit changes in place is its own."""
        rates, history = copy.copy(self.rates), self.rates.history
        train, validation = [*history.train_losses], [*history.validation_losses]
        rates.history = dataclasses.replace(history, train_losses=train, validation_losses=validation)
        return dataclasses.replace(self, rates=rates, order=self.order and self.order.copied())

    def optimizer(self, parameters: Parameters) -> Optimizer:
        """The optimizer, for the parameters of a network."""
        made = (
            Optimizer(self.rule, parameters)
            if parameters.members is None
            else MemberOptimizer([self.rule] * parameters.members, parameters)
        )
        if self.t:
            made.restore(self.t, self.state)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Host arrays only: a pickle is read where no GPU is."""
        state = {name: to_host(vector) for name, vector in self.state.items()}
        latest = None if self.latest is None else to_host(self.latest)
        return vars(self) | {"state": state, "latest": latest}


@dataclasses.dataclass(frozen=True)
class Validation:
    """Rows held out, for the loss; and what gives their score with the network's parameters of now."""

    loader: Loader
    score: Callable[[], float]


def epoch_loss(losses: EpochLosses, loader: Loader, scale: float) -> float:
    """An epoch's loss as scikit-learn reports it: each step's J counts by its rows.

    Σ_steps n (scale · Σ s_i L_i + λ R) / Σ s_i  /  Σ_steps n
    """
    total, left = 0.0, loader.n_rows
    for loss, penalty, divisor in losses.steps():
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
        In training, within this call of fit.
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


BEST = {
    "Training loss": ("best_loss_", 1.0),
    "Validation loss": ("best_validation_loss_", 1.0),
    "Validation score": ("best_validation_score_", -1.0),
}
"""The attribute that has the best of what is watched, and the sign with which less of it is better."""


class FitMonitor(Monitor):
    """Looks at losses and scores, counts epochs without improvement, and divides an adaptive rate.

    The estimator gets `n_iter_`, `t_`, `loss_`, `loss_curve_` and their like; its parameters say when to
    stop. The best epoch and patience are of solvers that make steps: "lbfgs" ends by itself. With early
    stopping the run's `best` becomes the weights that are the best on the rows held out.

    Attributes
    ----------
    is_early, found_best : bool
        Whether rows held out decide, and whether they had a best epoch.
    now : float
        What is watched, after the last epoch.
    """

    def __init__(self, estimator: Perceptron, training: Training, validation: Validation | None) -> None:
        self.estimator, self.training, self.validation = estimator, training, validation
        self.makes_steps = training.optimizer.rule.search is None
        self.stopping = Stopping(estimator.max_iter, time_budget=estimator.time_budget)
        self.is_early = self.makes_steps and estimator.early_stopping and validation is not None
        self.watched = "Training loss"
        if self.is_early:
            self.watched = "Validation loss" if estimator.scoring == "loss" else "Validation score"
        self.now = math.nan
        self.loss: float | None = None
        self.score: float | None = None
        self.found_best = False

    def look(self, train_loss: float) -> None:
        """Losses and scores after an epoch."""
        estimator, training, held_out = self.estimator, self.training, self.validation
        objective, history = training.objective, training.history
        estimator.n_iter_ += 1
        estimator.loss_ = self.now = train_loss
        history.train_losses.append(train_loss)
        self._say("Iteration {}, loss = {:.8f}", estimator.n_iter_, train_loss)
        if self.makes_steps:
            estimator.t_ += training.loader.n_rows
            estimator.loss_curve_.append(train_loss)
        if held_out is None:
            return
        mean = mean_loss(objective.network, held_out.loader, objective.loss.judge, objective.ranks)
        self.loss = loss = estimator._targets.loss_scale(estimator.n_outputs_) * mean
        history.validation_losses.append(loss)
        estimator.validation_loss_curve_.append(loss)
        if self.watched == "Validation loss":
            self.now = loss
            return
        self.score = score = training.agreed(held_out.score())
        estimator.validation_scores_.append(score)
        self._say("Validation score: {:f}", score)
        if self.is_early:
            self.now = score

    def decide(self) -> str | None:
        """Keep the best weights; say why the run is over."""
        estimator, training = self.estimator, self.training
        training.history.rows_at_epoch_start = estimator.t_  # of all fits, as "invscaling" counts
        over = self._patience_is_over() if self.makes_steps else None
        over = over or self.stopping.out_of_time(training.history)
        if not (over or self.is_early or math.isfinite(estimator.loss_) or training.parameters.are_finite()):
            over = "diverged"  # weights that are not finite never are again
        return over

    def _patience_is_over(self) -> str | None:
        """Count epochs without improvement; where they are too many, divide an adaptive rate, or say so."""
        estimator, rates = self.estimator, self.training.rates
        estimator._no_improvement_count = 0 if self._improved() else estimator._no_improvement_count + 1
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return None
        reason = (
            f"{self.watched} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        is_adaptive = estimator._is_adaptive()
        if is_adaptive and rates.base > 1e-6:
            rates.base /= 5.0
            self._say("{} Setting learning rate to {:f}", reason, rates.base)
            estimator._no_improvement_count = 0
            return None
        self._say("{}{} Stopping.", reason, " Learning rate too small." * is_adaptive)
        return reason

    def _improved(self) -> bool:
        """Compare an epoch with the best one, by more than `tol`; keep what is better."""
        estimator, training = self.estimator, self.training
        name, sign = BEST[self.watched]
        value, best = sign * self.now, sign * getattr(estimator, name)
        if value < best:
            setattr(estimator, name, self.now)
            if self.is_early:
                training.best, self.found_best = training.copied(), True
        return not value > best - estimator.tol

    def _say(self, text: str, *values: object) -> None:
        if self.estimator.verbose:
            sys.stdout.write(text.format(*values) + "\n")

    def progress(self, seconds: float) -> Progress:
        """What is told of the epoch that ended last."""
        estimator, network = self.estimator, self.training.objective.network
        rate, snapshot = self.training.rates.last, functools.partial(estimator.snapshot_of, network)
        return Progress(estimator.n_iter_, estimator.loss_, self.loss, self.score, rate, seconds, snapshot)


class Listeners:
    """Tells the callbacks of a fit of its epochs; they may ask for the training data as given."""

    def __init__(
        self, estimator: Perceptron, network: Network, X: ArrayLike, y: ArrayLike, metadata: object
    ) -> None:
        self.estimator = estimator
        self.task = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.root: Any = None
        self.epoch: Any = None
        if hasattr(estimator, "_init_callback_context"):  # scikit-learn 1.9 has callbacks
            self.root = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self.wanted = bool(getattr(estimator, "_skl_callbacks", []))
        self._now = functools.partial(estimator._as_fitted, network)

    def begin(self) -> None:
        """Fit begins."""
        if self.wanted:
            self.root.call_on_fit_task_begin(**self.task)

    def begin_epoch(self) -> None:
        """An epoch begins."""
        if self.wanted:
            self.epoch = self.root.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.task)

    def end_epoch(self, progress: Progress) -> bool:
        """An epoch ends. True: stop."""
        stop = False
        if self.wanted:
            stop = self.epoch.call_on_fit_task_end(reconstruction_attributes=self._now, **self.task)
        if self.estimator.callback is not None:
            stop |= bool(self.estimator.callback(progress))
        return stop

    def end(self) -> None:
        """Fit ends."""
        if self.wanted:
            self.root.call_on_fit_task_end(reconstruction_attributes=self._now, **self.task)


class Together(Descent):
    """The method that makes steps of all members, at one rate."""

    def step_of(self, training: Training) -> Step:
        """What makes the updates."""
        objective, rates = cast(MemberObjective, training.objective), training.rates
        optimizer, norms = cast(MemberOptimizer, training.optimizer), [self.clip_norm] * objective.n
        members = Members(objective, optimizer, norms, OneRate(rates, objective.n))
        return member_step(self.way, members, schedules_more=rates.schedules_more)


class OneRate(NamedTuple):
    """The rates of all members: the same."""

    rates: Rates
    n_members: int

    def of_each(self) -> list[float]:
        """At the step under way."""
        return [self.rates.last] * self.n_members

    def ahead_of_each(self, n_steps: int) -> np.ndarray:
        """At the coming steps, (n_steps, 1)."""
        return np.array(self.rates.ahead(n_steps))[:, np.newaxis]
