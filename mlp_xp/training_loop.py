"""The epoch loop: take points uniformly at random, forward, loss, backprop, update, till convergence.

    for batch in loader:                          the rows of one update
        for x, y, weight in batch:                its chunks: one, or several whose gradients add up
            z = forward(network, x, memo)         z_l = a_{l−1} W_l + b_l,     a_l = f_l(z_l)
            value = loss(z, y, weight)            Σ s_i L_i;                   z is now δ_L
            backprop(network, memo, z, gradient)  adds a_{l−1}ᵀ δ_l;           δ_{l−1} = (δ_l W_lᵀ) ⊙ f'_{l−1}
        optimizer.step(gradient, rate)            w_new = w_old − η ∂J/∂w

The chunks are summed in `objective.py`, the step is in `step.py`; here they make epochs, and epochs a run.
"""

import functools
import itertools
from collections.abc import Callable, Generator

import numpy as np

from mlp_xp.epoch_losses import EpochLosses
from mlp_xp.fast import ways
from mlp_xp.machine import blas
from mlp_xp.run.clock import Clock
from mlp_xp.run.epoch import Epoch, epoch_now
from mlp_xp.run.micro_batches import within_memory
from mlp_xp.run.monitor import Monitor
from mlp_xp.run.state import Pass, Training
from mlp_xp.step import Step

FLUSH_EVERY = 512
"""Updates between two flushes of the optimizer's state, at least. They come at the end of an epoch; of three
steps on 10-100-1 they would be 6% of its time."""


def run(
    training: Training,
    monitor: Monitor,
    *,
    keep: str = "last",
    stopped: str | None = None,
    threads: int | None = None,
) -> Generator[Epoch]:
    """Make the passes; after each one look at losses, remember the best, decide on stopping."""
    history, loader = training.history, training.loader
    clock = Clock(history.seconds)
    passes = training.passes()
    try:
        while stopped is None:
            training.go_on()
            # Overflow shows in the values that are checked here, not as NumPy's warnings.
            with np.errstate(all="ignore"), blas.at_most(threads):
                train_loss, stopped = next(passes)
                if not monitor.is_sound(train_loss):
                    passes.close()
                    monitor.go_back()
                    passes = training.passes()
                    continue
                monitor.look(train_loss)
            history.rows_at_epoch_start += loader.n_rows
            history.seconds = training.agreed(clock.seconds())
            decided = monitor.decide()
            stopped = stopped or decided
            training.is_over = stopped is not None
            training.after_epoch()
            clock.stop()
            yield epoch_now(training, stopped)
            clock.go_on()
    finally:
        passes.close()
    if keep == "best":
        training.put_best_back()


class Descent:
    """The method that makes steps, w_new = w_old − η ∂J/∂w: SGD, mini-batch SGD or gradient descent.

    `loss_of` gives an epoch's loss, from those of its steps: J over all of them.
    """

    forgets: str | None = None

    def __init__(
        self,
        way: str = "fast",
        clip_norm: float | None = None,
        loss_of: Callable[[EpochLosses], float] = EpochLosses.objective,
    ) -> None:
        self.way, self.clip_norm, self.loss_of = way, clip_norm, loss_of

    def step_of(self, training: Training) -> Step:
        """What makes the updates."""
        schedules_more = training.rates.schedules_more
        make_step = ways(training.parameters.backend.name, self.way, schedules_more=schedules_more)
        return make_step(training.objective, training.optimizer, self.clip_norm)

    def passes(self, training: Training) -> Generator[Pass]:
        """One epoch after the other; yield each one's loss, and None: they have no end of their own.

        The first one may start at a later step, with what the objective knows of the steps before. An epoch
        in which a loss was not finite ends as soon as the host sees it.
        """
        objective, optimizer = training.objective, training.optimizer
        history, loader = training.history, training.loader
        step = self.step_of(training)
        first_epoch, first_step = training.next_step
        for epoch in itertools.count(first_epoch):
            if not first_step:
                objective.losses.start()
            make_all = functools.partial(make_steps, step, training, epoch, history.step - first_step)
            with objective.network.backend.runtime.working():
                within_memory(loader, objective.network, make_all, step.forget, optimizer)
                if history.step % FLUSH_EVERY < history.steps_per_epoch:  # it came past a multiple
                    optimizer.flush_subnormals()
                loss = self.loss_of(objective.losses)
            first_step = 0
            yield loss, None


def make_steps(step: Step, training: Training, epoch: int, started_at: int) -> None:
    """Make the updates of an epoch that are still to be made: those of its batches, in turn."""
    objective, optimizer, rates = step.objective, step.optimizer, training.rates
    history, backend = training.history, objective.network.backend
    n_made = history.step - started_at
    for block in training.loader.blocks(epoch, backend, **objective.targets, first_step=n_made):
        n = 0
        while n < block.n_batches:
            n_at_once = step.at_once(block, n, training.asks_in(), rates)
            if not n_at_once:  # one, by the plain rules
                rates.set_more(objective, optimizer)
                step(block.batch(n), history.step, rates.for_step())
            if objective.losses.broken:
                return
            n += n_at_once or 1
            history.step += n_at_once or 1
            training.after_steps()
