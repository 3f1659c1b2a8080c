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

from mlp_xp.fast import ways
from mlp_xp.machine import blas
from mlp_xp.rows.loader import Loader
from mlp_xp.run.clock import Clock
from mlp_xp.run.divergence import Divergence
from mlp_xp.run.epoch import Epoch, epoch_now
from mlp_xp.run.micro_batches import within_memory
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Attended, Pass, Training
from mlp_xp.step import Step
from mlp_xp.stopping import Stopping

FLUSH_EVERY = 512
"""Updates between two flushes of the optimizer's state, at least. They come at the end of an epoch; of three
steps on 10-100-1 they would be 6% of its time."""


def run(
    training: Training,
    validate: Callable[[], float] | None,
    stopping: Stopping,
    *,
    keep: str,
    rolls_back: bool,
    threads: int | None = None,
) -> Generator[Epoch]:
    """Make the passes; after each one look at losses, remember the best, decide on stopping."""
    history, loader = training.history, training.loader
    clock = Clock(history.seconds)
    divergence = Divergence(training, rolls_back=rolls_back)
    stopped = stopping.reason(history) if history.train_losses else None
    passes = training.passes()
    try:
        while stopped is None:
            training.go_on()
            # Overflow shows in the values that are checked here, not as NumPy's warnings.
            with np.errstate(all="ignore"), blas.at_most(threads):
                train_loss, stopped = next(passes)
                if not training.is_finite(train_loss):
                    passes.close()
                    divergence.handle()
                    passes = training.passes()
                    continue
                training.keep_good()
                history.train_losses.append(train_loss)
                if validate is not None:
                    history.validation_losses.append(validate())
            history.rows_at_epoch_start += loader.n_rows
            history.seconds = training.agreed(clock.seconds())
            if is_best := training.keep_best():
                divergence.remember()
            stopped = stopped or stopping.reason(history)
            training.is_over = stopped is not None
            training.after_epoch()
            with clock.stopped():
                yield epoch_now(training, is_best=is_best, stopped=stopped)
    finally:
        passes.close()
    if keep == "best" and history.best_epoch:
        training.parameters.flat[...] = training.best


def descend(
    step: Step,
    loader: Loader,
    rates: Rates,
    attended: Attended,
    *,
    first_epoch: int = 0,
    first_step: int = 0,
) -> Generator[Pass]:
    """w_new = w_old − η ∂J/∂w, step by step; yield each epoch's loss, and None: it has no end of its own.

    The first epoch may start at a later step, with what the objective knows of the steps before. An epoch in
    which a loss was not finite ends as soon as the host sees it.
    """
    objective, optimizer, history = step.objective, step.optimizer, rates.history
    network = objective.network
    for epoch in itertools.count(first_epoch):
        if not first_step:
            objective.losses.start()
        make_all = functools.partial(
            make_steps, step, loader, epoch, history.step - first_step, rates, attended
        )
        with network.backend.runtime.working():
            within_memory(loader, network, make_all, step.forget, optimizer)
            if history.step % FLUSH_EVERY < history.steps_per_epoch:  # it came past a multiple
                optimizer.flush_subnormals()
            loss = objective.losses.objective()
        first_step = 0
        yield loss, None


def make_steps(
    step: Step, loader: Loader, epoch: int, started_at: int, rates: Rates, attended: Attended
) -> None:
    """Make the updates of an epoch that are still to be made: those of its batches, in turn."""
    objective, optimizer, history = step.objective, step.optimizer, rates.history
    backend, n_made = objective.network.backend, history.step - started_at
    for block in loader.blocks(epoch, backend, **objective.targets, first_step=n_made):
        n = 0
        while n < block.n_batches:
            n_at_once = step.at_once(block, n, attended.asks_in(), rates)
            if not n_at_once:  # one, by the plain rules
                rates.set_more(objective, optimizer)
                step(block.batch(n), history.step, rates.for_step())
            if objective.losses.broken:
                return
            n += n_at_once or 1
            history.step += n_at_once or 1
            attended.after_steps()


class Descent:
    """The method that makes steps: SGD, mini-batch SGD or gradient descent, whatever the batch.

    Parameters
    ----------
    way : str
        Of `fast.WAYS`.
    clip_norm : float, optional
        The largest Euclidean norm of a step's gradient.
    """

    forgets: str | None = None

    def __init__(self, way: str, clip_norm: float | None) -> None:
        self.way, self.clip_norm = way, clip_norm

    def passes(self, training: Training) -> Generator[Pass]:
        """One epoch after the other."""
        rates, backend = training.rates, training.parameters.backend
        make_step = ways(backend.name, self.way, schedules_more=rates.schedules_more)
        step = make_step(training.objective, training.optimizer, self.clip_norm)
        epoch, first_step = training.next_step
        return descend(step, training.loader, rates, training, first_epoch=epoch, first_step=first_step)
