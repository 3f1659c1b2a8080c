"""The epoch loop: take points uniformly at random, forward, loss, backprop, update, till convergence.

`train` is a generator of epochs. The caller's loop logs, plots, checkpoints and breaks; there are no
callbacks.
"""

import contextlib
import dataclasses
import itertools
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from mlp_xp.averaging import Average
from mlp_xp.dropout import Dropout, resolve_dropout
from mlp_xp.fast import WAYS, ways
from mlp_xp.forward import Memo
from mlp_xp.history import History
from mlp_xp.losses import LOSSES
from mlp_xp.machine.array_api import Array, to_host
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.objective import Objective, mean_loss
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, Optimizer, RateFactors
from mlp_xp.own import find
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.rows.loader import CHECKED_ROWS, Loader, check_rows
from mlp_xp.rows.source import refuse_weights
from mlp_xp.run.full_batch import lbfgs, scipy_minimize
from mlp_xp.run.micro_batches import halve_chunks
from mlp_xp.schedules import SCHEDULES, Constant
from mlp_xp.settings import checks
from mlp_xp.stopping import Stopping
from mlp_xp.update import Update

MOST_ROLLBACKS = 10
"""Times that a diverging run is rolled back before it is given up."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingState:
    """A run at one moment, on the host: with it, `train` goes on to the very same result.

    Attributes
    ----------
    arrays : dict of str to array
        Parameters, those of the last good and of the best epoch, the optimizer's vectors, and the values of
        the epoch under way.
    numbers : dict of str to number or list
        The history and the optimizer's step count.
    where : str
        Device and number of processes, on which the bits of a result depend.
    """

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any]
    where: str = ""


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
    """

    number: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    steps: int
    n_rows: int
    seconds: float
    is_best: bool
    best_parameters: Array
    stopped: str | None
    training: "Training" = dataclasses.field(repr=False, compare=False)

    def state(self) -> TrainingState:
        """Everything that the run needs to go on from here; to be asked for before the next epoch.

        ``train(network, loader, ..., state=state)`` with the same arguments goes on as if it had never
        stopped, bit for bit.
        """
        return self.training.state()


def train(
    network: Network,
    loader: Loader,
    *,
    loss: Any = "squared_error",
    optimizer: Any = "adam",
    learning_rate: float = 1e-3,
    schedule: Any = "constant",
    rate_factors: RateFactors | None = None,
    decay_schedule: Any = "constant",
    regularizer: Any = None,
    dropout: float | Sequence[float] = 0.0,
    dropout_schedule: Any = "constant",
    clip_norm: float | None = None,
    reduction: str = "mean",
    validation: Loader | None = None,
    watched_loss: Any = None,
    max_epochs: int = 1000,
    patience: int | None = None,
    tolerance: float = 0.0,
    loss_below: float | None = None,
    time_budget: float | None = None,
    keep: str = "last",
    average: float = 0.0,
    on_divergence: str = "stop",
    checkpoints: Any = None,
    ranks: Ranks | None = None,
    way: str = "fast",
    seed: int = 0,
    state: TrainingState | None = None,
) -> Generator[Epoch]:
    """Train a network, and yield after every epoch.

    Everything is checked before the first epoch; a mistake changes nothing.

    Parameters
    ----------
    network : Network
        Its parameters are updated in place; its `output` becomes the link of the loss.
    loader : Loader
        The training rows. Its batch size makes this SGD, mini-batch SGD or gradient descent.
    loss : str, loss or pair of functions
        A name of `losses.LOSSES`, also with parameters ("huber:delta=2"), or an instance; or one's own, as
        all pieces may be (`mlp_xp.own`): here a pair (value, derivative) of functions of (z, y).
    optimizer : str or rule
        A name of `optimizers.OPTIMIZERS` or an instance. "lbfgs" needs a full batch.
    learning_rate : float
        η, the base of the schedule.
    schedule : str, schedule or function
        A name of `schedules.SCHEDULES`, an instance, or a function of the history: the factor on η.
    rate_factors : RateFactors, optional
        Further factors on η, by group of parameters.
    decay_schedule : str or schedule
        The factor on the decay of a rule that has one (`AdamW`), which falls with η too.
    regularizer : str or regularizer, optional
        A name of `regularizers.REGULARIZERS` or an instance.
    dropout : float or sequence of float
        Probability that a hidden unit is left out of a step: for all hidden layers, or for each.
    dropout_schedule : str or schedule
        The factor on that probability.
    clip_norm : float, optional
        The largest Euclidean norm of a step's gradient.
    reduction : "mean" or "sum"
        J = (Σ s_i L_i + λ R) / Σ s_i, or without the division.
    validation : Loader, optional
        Rows held out: their loss is watched instead of the training loss.
    watched_loss : str or loss, optional
        That of the rows held out, where it is another one: without the smoothing of labels, say.
    max_epochs : int
        Epochs at most.
    patience, tolerance : int or None, float
        Stop after `patience` epochs in which the watched loss did not fall by more than `tolerance`.
    loss_below : float, optional
        Stop when the watched loss is below it.
    time_budget : float, optional
        Seconds, looked at after every epoch.
    keep : "last" or "best"
        Which weights the network has when the run ends by itself. After a `break` it has those of the epoch
        yielded; the best ones are `epoch.best_parameters`.
    average : float in [0, 1)
        α > 0: the network has, whenever an epoch is yielded and in the end, not the weights of the last step
        but an average over the last part α of all steps (`averaging.Average`); it is what validation judges.
    on_divergence : "stop" or "rollback"
        What a loss or weights that are not finite lead to: an error, or going on from the best epoch so far
        with half the learning rate, ten times at most. (The last finite epoch is no place to go on from: its
        weights are on their way to infinity.)
    checkpoints : Checkpoints, optional
        Where and how often the run's state is written to disk.
    ranks : Ranks, optional
        The processes that train together (`data_parallel.world`), all with the same arguments; the loader's
        batch is the global one, of which each has its share.
    way : "fast", "fused" or "plain"
        How updates are made: with all that the device has, the same without launching a step as one (a CUDA
        graph), or by the rules as they are written. The result is the same up to rounding.
    seed : int
        Of dropout. (The loader has the seed of the order, the network that of its starting weights.)
    state : TrainingState, optional
        Go on from here (`Epoch.state`), with the same other arguments. L-BFGS goes on from its weights with
        an empty memory of gradients. With other batches the epoch under way begins anew.

    Yields
    ------
    Epoch

    Raises
    ------
    ValueError, TypeError
        An argument is refused.
    FloatingPointError
        The loss or the weights became infinite or nan. The message names epoch and step; the network has the
        weights of the last good epoch.

    Notes
    -----
    The same seeds and arguments give the same bits again: in another process, gone on with from any step,
    with any prefetching. What a result depends on beside them, by rounding alone, is the machine and what is
    installed:

    - the matrix products: NumPy's BLAS, its version, the kernels that it has for the processor
      (`OPENBLAS_CORETYPE` pins them) and its number of threads (`OPENBLAS_NUM_THREADS`);
    - exp, tanh and log: NumPy's version and the processor's vector instructions;
    - the device, and on GPUs CuPy, cuBLAS and TF32; the number of `ranks`;
    - `way`: compiled steps, which long trainings turn to where Numba is installed, sum in another order;
    - memory that runs out, which makes chunks smaller (`loader.ran_out_of_memory`);
    - time, where `time_budget` ends the run.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> network = Network((1, 16, 1), activation="tanh", seed=1)
    >>> loader = Loader(x, np.sin(3 * x), batch_size=16)
    >>> for epoch in train(network, loader, learning_rate=0.01, max_epochs=200):
    ...     pass
    >>> epoch.train_loss < 0.01
    True
    """
    _check_kinds(network, loader, validation)
    network.backend.runtime.select()
    problems: list[str | None] = []
    loss = find(problems, "loss", LOSSES, loss)
    if isinstance(watched_loss, str):
        watched_loss = find(problems, "watched_loss", LOSSES, watched_loss)
    rule = find(problems, "optimizer", OPTIMIZERS, optimizer)
    schedule = find(problems, "schedule", SCHEDULES, schedule)
    decay_schedule = find(problems, "decay_schedule", SCHEDULES, decay_schedule)
    dropout_schedule = find(problems, "dropout_schedule", SCHEDULES, dropout_schedule)
    if regularizer is not None:
        regularizer = find(problems, "regularizer", REGULARIZERS, regularizer)
    checks.refuse(
        [
            *problems,
            checks.number("learning_rate", learning_rate, above=0),
            checks.one_of("reduction", reduction, ("mean", "sum")),
            checks.one_of("keep", keep, ("last", "best")),
            checks.one_of("on_divergence", on_divergence, ("stop", "rollback")),
            checks.one_of("way", way, WAYS),
            checks.whole("max_epochs", max_epochs),
            checks.number("tolerance", tolerance, least=0),
            checks.number("average", average, least=0, below=1),
            checks.whole("seed", seed, least=0),
            None if clip_norm is None else checks.number("clip_norm", clip_norm, above=0),
            None if patience is None else checks.whole("patience", patience),
            None if loss_below is None else checks.number("loss_below", loss_below),
            None if time_budget is None else checks.number("time_budget", time_budget, above=0),
        ]
    )
    dropout_masks = resolve_dropout(dropout, network.n_layers - 1, seed)
    for part in (loader, validation):
        if part is not None:
            _check_fit(network, part, loss)
    if isinstance(rule, LBFGS) and (loader.steps_per_epoch > 1 or dropout_masks or clip_norm or average):
        raise ValueError(
            "L-BFGS works on the objective over all rows: give the loader batch_size='full', no dropout, no "
            "clip_norm and no average."
        )
    if isinstance(rule, LBFGS):
        scipy_minimize()  # refused here, before anything changes
    # parameters, gradient, last good and best, the optimizer's, and the average
    vectors = 5 + len(rule.state) + bool(average)
    number = network.backend.xp.finfo(network.backend.dtype).bits // 8
    runtime = network.backend.runtime
    loader.fit_memory(
        Memo.bytes_per_row(network),
        vectors * network.parameters.size * number,
        # What a CPU has free differs from run to run, and what GPUs have from rank to rank.
        runtime.available() if runtime.overlaps and ranks is None else None,
    )
    objective = Objective(network, loss, regularizer, dropout_masks, reduction, ranks)
    stopping = Stopping(max_epochs, patience, tolerance, loss_below, time_budget)
    history = History(steps_per_epoch=loader.steps_per_epoch, max_epochs=max_epochs)
    rates = Rates(float(learning_rate), schedule, history, decay_schedule, dropout_schedule, dropout_masks)
    training = Training(
        objective,
        loader,
        rule,
        rates,
        clip_norm,
        checkpoints,
        way,
        rate_factors=rate_factors,
        average=average,
    )
    if state is not None:
        training.restore(state)
        if not (history.train_losses and stopping.reason(history)):
            training.say_what_differs(state)
    if ranks is not None:
        ranks.broadcast(network.parameters.flat, network.backend)
    network.output = loss.link
    return training.epochs(validation, watched_loss, stopping, keep, on_divergence)


def _check_kinds(network: Any, loader: Any, validation: Any) -> None:
    """Refuse what is no network or no loader, data itself above all."""
    if not isinstance(network, Network):
        raise TypeError(
            f"network is a {type(network).__name__}; it must be a Network, such as Network((10, 64, 1))."
        )
    for name, given in (("loader", loader), ("validation", validation)):
        if not hasattr(given, "steps") and (given is not None or name == "loader"):
            raise TypeError(f"{name} is a {type(given).__name__}; it must be a Loader, such as Loader(x, y).")


def _check_fit(network: Network, loader: Loader, loss: Any) -> None:
    """Refuse a loader whose rows do not fit the network or the loss."""
    loader.backend_for(network.backend)
    source, n_inputs = loader.source, network.layer_sizes[0]
    if source.n_features != n_inputs:
        raise ValueError(
            f"x has {source.n_features} columns, but this network was built for {n_inputs} "
            f"(layer_sizes={network.layer_sizes})."
        )
    if source.n_targets == 0:
        raise ValueError("there are no targets to learn: give the loader y.")
    if loader.sample_weight is not None:
        refuse_weights(loader.sample_weight)
    targets = source.y
    if targets is not None:
        for start in range(0, len(targets), CHECKED_ROWS):
            part = targets[start : start + CHECKED_ROWS]
            check_rows(
                lambda y: loss.check_targets(y, network.layer_sizes[-1]),
                part,
                np.arange(start, start + len(part)),
            )


@dataclasses.dataclass
class Rates:
    """The learning rate of each step: base rate × schedule. And the dropout and decay, times theirs."""

    base: float
    schedule: Any
    history: History
    decay_schedule: Any = None
    dropout_schedule: Any = None
    dropout: Dropout | None = None

    def __post_init__(self) -> None:
        """The first step's rate."""
        self.last = self.now()
        decays, drops = (
            each is not None and not isinstance(each, Constant)
            for each in (self.decay_schedule, self.dropout_schedule)
        )
        self.schedules_more = decays or (drops and self.dropout is not None)

    def set_more(self, objective: Objective, optimizer: Optimizer) -> None:
        """Set dropout and decay for the coming step."""
        if self.decay_schedule is not None:
            optimizer.decay_factor = float(self.decay_schedule(self.history))
        if self.dropout is not None and self.dropout_schedule is not None:
            objective.dropout = self.dropout.times(float(self.dropout_schedule(self.history)))

    def now(self) -> float:
        """The rate that the history asks for; half of it for every time that it was rolled back."""
        return self.base * float(self.schedule(self.history)) * 0.5**self.history.rollbacks

    def ahead(self, n_steps: int) -> list[float]:
        """The rates of the coming steps, all of one epoch."""
        history, first = self.history, self.history.step
        rates = []
        for history.step in range(first, first + n_steps):
            rates.append(self.for_step())
            if self.schedule.once_an_epoch:
                break
        history.step = first
        return rates + rates[-1:] * (n_steps - len(rates))

    def for_step(self) -> float:
        """The rate of the coming step."""
        history = self.history
        if not self.schedule.once_an_epoch or history.step % history.steps_per_epoch == 0:
            self.last = self.now()
        return self.last


FLUSH_EVERY = 512
"""Updates between two flushes of the optimizer's state, at least. They come at the end of an epoch; of three
steps on 10-100-1 they would be 6% of its time."""


def descend(
    objective: Objective,
    loader: Loader,
    optimizer: Optimizer,
    rates: Rates,
    clip_norm: float | None,
    *,
    first_epoch: int = 0,
    first_step: int = 0,
    after_step: Callable[[], None] | None = None,
    way: str = "fast",
    average: Average | None = None,
) -> Generator[tuple[float, str | None]]:
    """w_new = w_old − η ∂J/∂w, step by step; yield each epoch's loss, and None: it has no end of its own.

    The first epoch may start at a later step, with what the objective knows of the steps before.
    An epoch in which a loss was not finite ends as soon as the host sees it. `after_step` is called when
    weights, optimizer and history agree: where a run can be left and gone on with. `way`: of `fast.WAYS`.
    `average` takes note of the weights after every step.
    """
    backend = objective.network.backend
    maker = ways(backend.name, way, schedules_more=rates.schedules_more)
    update = maker(objective, optimizer, clip_norm)
    for epoch in itertools.count(first_epoch):
        if not first_step:
            objective.start_epoch()
        with backend.runtime.working():
            make_steps(update, loader, epoch, first_step, rates, after_step, average)
            if rates.history.step % FLUSH_EVERY < rates.history.steps_per_epoch:  # it came past a multiple
                optimizer.flush_subnormals()
            loss = objective.epoch_loss()
        first_step = 0
        yield loss, None


def make_steps(
    update: Update,
    loader: Loader,
    epoch: int,
    first_step: int,
    rates: Rates,
    after_step: Callable[[], None] | None,
    average: Average | None = None,
) -> None:
    """Make the updates of an epoch; where memory runs out, the one under way again, in smaller chunks."""
    objective, optimizer, history = update.objective, update.optimizer, rates.history
    network, done, t = objective.network, first_step, optimizer.t
    one_by_one = after_step is not None or average is not None or rates.schedules_more
    while True:
        try:
            for group in loader.groups(epoch, network.backend, **objective.targets, first_step=done):
                n_made = 0 if one_by_one else update.at_once(group, rates)
                history.step, done, t = history.step + n_made, done + n_made, optimizer.t
                if objective.values.broken:
                    return
                for step in group.steps(n_made):
                    if rates.schedules_more:
                        rates.set_more(objective, optimizer)
                    update(step, history.step, rates.for_step())
                    if objective.values.broken:
                        return
                    history.step, done, t = history.step + 1, done + 1, optimizer.t
                    if average is not None:
                        average.take(history.step)
                    if after_step is not None:
                        after_step()
            return
        except MemoryError as error:
            if optimizer.t != t:  # the weights have begun to move
                raise
            halve_chunks(loader, network, error, 5 + len(optimizer.state))
        objective.forget_step()
        update.forget_buffers()


class Training:
    """One run: everything that changes between two steps.

    Parameters
    ----------
    objective : Objective
        Owns network, loss, memo and gradient.
    loader : Loader
        The training rows.
    rule : optimizer rule
        How to update.
    rates : Rates
        Learning rates, and the history that they are a function of.
    clip_norm : float or None
        Largest norm of a gradient.
    checkpoints : object, optional
        Its ``after_step(training)`` is called after every step and its ``after_epoch(training)`` after every
        epoch.
    way : str
        Of `fast.WAYS`.
    rate_factors : RateFactors, optional
        By group of parameters.
    average : float
        The part of the steps over which weights are averaged; 0 for none.
    """

    def __init__(
        self,
        objective: Objective,
        loader: Loader,
        rule: Any,
        rates: Rates,
        clip_norm: float | None,
        checkpoints: Any = None,
        way: str = "fast",
        *,
        rate_factors: RateFactors | None = None,
        average: float = 0.0,
    ) -> None:
        self.objective, self.loader, self.rule, self.way = objective, loader, rule, way
        self.rates, self.history, self.clip_norm = rates, rates.history, clip_norm
        self.parameters = objective.network.parameters
        self.optimizer = Optimizer(rule, self.parameters, rate_factors)
        n_steps = self.history.max_epochs * self.history.steps_per_epoch
        self.average = Average(self.parameters, average, n_steps) if average else None
        self.last_good, self.best = self._copy(), self._copy()
        self.goes_on_inside_an_epoch = False
        self.checkpoints = checkpoints
        self.good_state: TrainingState | None = None
        self.running: Generator[tuple[float, str | None]]

    def _copy(self) -> Array:
        return self.parameters.backend.xp.asarray(self.parameters.flat, copy=True)

    def passes(self) -> Generator[tuple[float, str | None]]:
        """Yield after each epoch its loss and, where the method itself has come to an end, why."""
        if isinstance(self.rule, LBFGS):
            n_left = self.history.max_epochs - len(self.history.train_losses)
            return lbfgs(self.objective, self.loader, self.rule, n_left)
        first_epoch, first_step = len(self.history.train_losses), 0
        if self.goes_on_inside_an_epoch:
            first_step = self.history.step - first_epoch * self.history.steps_per_epoch
        return descend(
            self.objective,
            self.loader,
            self.optimizer,
            self.rates,
            self.clip_norm,
            first_epoch=first_epoch,
            first_step=first_step,
            after_step=None if self.checkpoints is None else self._after_step,
            way=self.way,
            average=self.average,
        )

    def _after_step(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.after_step(self)

    def _roll_back(self) -> None:
        """Put the best epoch back, and go on from there with half the learning rate."""
        self.running.close()
        rollbacks = self.history.rollbacks + 1
        warnings.warn(
            f"{_divergence(self.objective, self.history, self.rates)} Rolled back to the best epoch so far, "
            f"with half the learning rate ({rollbacks} of {MOST_ROLLBACKS} times).",
            stacklevel=4,
        )
        if self.good_state is not None:
            self.restore(self.good_state)
        self.history.rollbacks = rollbacks
        self.rates.last = self.rates.now()
        self.running = self.passes()

    def epochs(
        self, validation: Loader | None, watched_loss: Any, stopping: Stopping, keep: str, on_divergence: str
    ) -> Generator[Epoch]:
        """Run the passes; after each one look at losses, remember the best, decide on stopping."""
        self.running = self.passes()
        try:
            yield from self._epochs(validation, watched_loss, stopping, on_divergence == "rollback")
        finally:
            self.running.close()
        if keep == "best" and self.history.best_epoch:
            self.parameters.flat[...] = self.best

    def _epochs(
        self, validation: Loader | None, watched_loss: Any, stopping: Stopping, may_roll_back: bool
    ) -> Generator[Epoch]:
        objective, history, loader = self.objective, self.history, self.loader
        clock = Clock(history.seconds)
        stopped = stopping.reason(history) if history.train_losses else None
        self.good_state = self.state() if may_roll_back else None
        while stopped is None:
            self.parameters.backend.runtime.select()  # the caller may have come from another thread
            # Overflow shows in the values that are checked here, not as NumPy's warnings.
            with np.errstate(all="ignore"):
                if self.average is not None:
                    self.average.go_on()
                train_loss, stopped = next(self.running)
                if not self._is_finite(train_loss):
                    if may_roll_back and history.rollbacks < MOST_ROLLBACKS:
                        self._roll_back()
                        continue
                    message = _divergence(objective, history, self.rates)
                    self.parameters.flat[...] = self.last_good
                    raise FloatingPointError(message)
                if self.average is not None:
                    self.average.use()
                self.last_good[...] = self.parameters.flat
                history.train_losses.append(train_loss)
                validation_loss = None
                if validation is not None:
                    judge = objective.loss if watched_loss is None else watched_loss
                    validation_loss = mean_loss(objective.network, validation, judge, objective.ranks)
                    history.validation_losses.append(validation_loss)
            history.rows_at_epoch_start += loader.n_rows
            history.seconds = clock.seconds()
            if objective.ranks is not None:  # the one decision that is not the same on all ranks by itself
                history.seconds = objective.ranks.from_first(history.seconds)
            number = len(history.train_losses)
            is_best = history.watched[-1] < history.best_loss
            if is_best:
                history.best_loss, history.best_epoch = history.watched[-1], number
                self.best = self._copy()
            stopped = stopped or stopping.reason(history)
            if may_roll_back and is_best:
                self.good_state = self.state()
            if self.checkpoints is not None:
                self.checkpoints.after_epoch(self)
            epoch = Epoch(
                number=number,
                train_loss=train_loss,
                validation_loss=validation_loss,
                learning_rate=self.rates.last,
                steps=loader.steps_per_epoch,
                n_rows=loader.n_rows,
                seconds=history.seconds,
                is_best=is_best,
                best_parameters=self.best,
                stopped=stopped,
                training=self,
            )
            with clock.stopped():
                yield epoch

    def _is_finite(self, train_loss: float) -> bool:
        return math.isfinite(train_loss) and self.parameters.are_finite()

    def state(self) -> TrainingState:
        """Everything that the run needs to go on from here, as host arrays and numbers, copied."""
        objective, history = self.objective, self.history
        self.parameters.backend.runtime.select()
        arrays = {
            **self._trained(),
            "last_good": to_host(self.last_good).copy(),
            "best": to_host(self.best).copy(),
            **{f"optimizer.{name}": vector for name, vector in self.optimizer.to_host().items()},
            **objective.epoch_so_far(),
        }
        numbers = dataclasses.asdict(history) | {"t": self.optimizer.t, "last_rate": self.rates.last}
        return TrainingState(arrays, numbers, self._where())

    def _trained(self) -> dict[str, np.ndarray]:
        """The weights, and their average."""
        if self.average is None:
            return {"parameters": self.parameters.to_host()}
        trained, mean = to_host(self.average.trained).copy(), to_host(self.average.mean).copy()
        return {"parameters": trained, "average": mean}

    def _where(self) -> str:
        ranks = self.objective.ranks
        n_processes = 1 if ranks is None else ranks.size
        return f"{self.parameters.backend.name}, {n_processes} process{'es' * (n_processes > 1)}"

    def say_what_differs(self, state: TrainingState) -> None:
        """Warn where a run that goes on from a state ends otherwise than if it had not stopped."""
        ranks = self.objective.ranks
        if ranks is not None and ranks.rank:
            return
        if isinstance(self.rule, LBFGS):
            warnings.warn("L-BFGS goes on from its weights with an empty memory of gradients.", stacklevel=3)
        if state.where != self._where():
            warnings.warn(
                f"a run on {state.where} goes on with {self._where()}: its result is that of an undisturbed "
                "run up to rounding.",
                stacklevel=3,
            )

    def restore(self, state: TrainingState) -> None:
        """Go on from a state; the network's parameters become those of the state.

        Raises
        ------
        ValueError
            The state is that of another network or optimizer.
        """
        own = {name: array.shape for name, array in self.state().arrays.items() if array.ndim}
        vectors = {
            *self._trained(),
            "last_good",
            "best",
            *(f"optimizer.{name}" for name in self.optimizer.state),
        }
        found = {name: state.arrays[name].shape for name in state.arrays if name in own}
        if any(found.get(name) != own[name] for name in vectors):
            raise ValueError(
                f"the state has arrays of shapes {found}, but this network and optimizer need "
                f"{ {name: own[name] for name in sorted(vectors)} }: go on with the same ones."
            )
        on_device = self.parameters.backend.asarray
        self.parameters.flat[...] = on_device(state.arrays["parameters"])
        if self.average is not None:
            self.average.is_in_use = False
            self.average.flat[...] = on_device(state.arrays["average"])
        self.last_good, self.best = on_device(state.arrays["last_good"]), on_device(state.arrays["best"])
        for name, vector in self.optimizer.state.items():
            vector[...] = on_device(state.arrays[f"optimizer.{name}"])
        self.optimizer.t, self.rates.last = state.numbers["t"], state.numbers["last_rate"]
        kept = (self.history.steps_per_epoch, self.history.max_epochs)
        for field in dataclasses.fields(History):
            value = state.numbers[field.name]
            setattr(self.history, field.name, list(value) if isinstance(value, list) else value)
        same_steps = self.history.steps_per_epoch == kept[0]
        self.history.steps_per_epoch, self.history.max_epochs = kept
        steps_done = len(self.history.train_losses) * self.history.steps_per_epoch
        if same_steps:
            self.objective.restore_epoch(state.arrays)
        else:  # other batches: the epoch under way begins anew
            self.history.step = steps_done
        self.goes_on_inside_an_epoch = not isinstance(self.rule, LBFGS) and self.history.step > steps_done


class Clock:
    """Seconds in training; the caller's time between epochs does not count.

    Parameters
    ----------
    before : float
        Seconds of the run so far, before it was resumed.
    """

    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time inside."""
        began = time.perf_counter()
        yield
        self._start += time.perf_counter() - began


def _divergence(objective: Objective, history: History, rates: Rates) -> str:
    epoch = len(history.train_losses) + 1
    step = objective.first_failure()
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
        "Lower the learning rate, clip the gradient (clip_norm) or standardise the inputs; the parameters "
        f"{kept} are kept."
    )
