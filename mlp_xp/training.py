"""`train`: what a user gives, checked, becomes a run.

It is a generator of epochs. The caller's loop logs, plots, checkpoints and breaks; there are no callbacks.
"""

from collections.abc import Collection, Generator, Sequence
from typing import Any

import numpy as np

from mlp_xp.forward import Memo
from mlp_xp.history import History
from mlp_xp.losses import Loss
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.members.given import dropout_of, given_to
from mlp_xp.members.pieces import EachLoss, EachPenalty, as_one
from mlp_xp.members.rates import MemberRates
from mlp_xp.members.step import MemberObjective, MemberOptimizer
from mlp_xp.members.training import MemberDescent, MemberMonitor, MemberTraining
from mlp_xp.network import Network, seeds_of
from mlp_xp.objective import Objective
from mlp_xp.optimizers import NO_FACTORS, Optimizer, RateFactors
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.gather import CHECKED_ROWS, check_rows
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.source import refuse_weights
from mlp_xp.run.agreement import refuse_differences
from mlp_xp.run.epoch import Epoch, Epochs
from mlp_xp.run.full_batch import Search
from mlp_xp.run.monitor import LossMonitor
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Method, Observer, Training, TrainingState
from mlp_xp.run.validation import mean_losses
from mlp_xp.settings.precision import warn_if_coarse
from mlp_xp.settings.spelling import given as spell_given
from mlp_xp.settings.spelling import spelled
from mlp_xp.stopping import Stopping
from mlp_xp.training_loop import Descent, run
from mlp_xp.training_settings import Settings


def train(
    network: Network,
    loader: Loader,
    *,
    loss: object = "squared_error",
    optimizer: object = "adam",
    learning_rate: float | Sequence[float] = 1e-3,
    schedule: object = "constant",
    rate_factors: RateFactors | None = None,
    frozen: int | Collection[int] = (),
    decay_schedule: object = "constant",
    regularizer: object = None,
    dropout: float | Sequence[float] | Sequence[Sequence[float]] = 0.0,
    dropout_schedule: object = "constant",
    clip_norm: float | Sequence[float | None] | None = None,
    reduction: str = "mean",
    validation: Loader | None = None,
    watched_loss: object = None,
    max_epochs: int = 1000,
    patience: int | None = None,
    tolerance: float = 0.0,
    loss_below: float | None = None,
    time_budget: float | None = None,
    keep: str = "last",
    average: float = 0.0,
    on_divergence: str = "stop",
    checkpoints: Observer | None = None,
    ranks: Ranks | None = None,
    way: str = "fast",
    threads: int | None = None,
    seed: int | Sequence[int] = 0,
    state: TrainingState | None = None,
) -> Generator[Epoch]:
    """Train a network, and yield after every epoch.

    Everything is checked before the first epoch; a mistake changes nothing.

    Parameters
    ----------
    network : Network
        Its parameters are updated in place; its `output` becomes the link of the loss. Members each have
        numbers of their own, where they are given, losses, a best epoch and an end; one that has stopped or
        diverged no longer changes, and does not touch the others.
    loader : Loader
        The training rows. Its batch size makes this SGD, mini-batch SGD or gradient descent.
    loss : str, loss or pair of functions
        A name of `losses.LOSSES`, also with parameters ("huber:delta=2"), or an instance; or one's own, as
        all pieces may be (`mlp_xp.own`): here a pair (value, derivative) of functions of (z, y). Loss,
        optimizer and regularizer may also be a list with one for each member; or some of their numbers are
        k, one for each: the strengths of a penalty, the decay of weights, the smoothing of labels
        (``L2([0.1, 0.01, 0.0])``, ``"adamw:weight_decay=0.1/0.01/0"``).
    optimizer : str or rule
        A name of `optimizers.OPTIMIZERS` or an instance. "lbfgs" needs a full batch.
    learning_rate : float, or sequence of float with one for each member
        η, the base of the schedule.
    schedule : str, schedule or function
        A name of `schedules.SCHEDULES`, an instance, or a function of the history: the factor on η.
    rate_factors : RateFactors, optional
        Further factors on η, by group of parameters and by layer.
    frozen : int or collection of int
        Layers that stay as they are: 0 is the first, −1 the last.
    decay_schedule : str or schedule
        The factor on the decay of a rule that has one (`AdamW`), which falls with η too.
    regularizer : str or regularizer, optional
        A name of `regularizers.REGULARIZERS` or an instance.
    dropout : float or sequence of float
        Probability that a hidden unit is left out of a step: for all hidden layers, or for each. Or a
        sequence of such sequences, one for each member, in which one number is for all layers
        (``[[0.1], [0.2], [0.5]]``).
    dropout_schedule : str or schedule
        The factor on that probability.
    clip_norm : float, or sequence with one for each member, optional
        The largest Euclidean norm of a step's gradient.
    reduction : "mean" or "sum"
        J = (Σ s_i L_i + λ R) / Σ s_i, or without the division.
    validation : Loader, optional
        Rows held out: their loss is watched instead of the training loss.
    watched_loss : str or loss, optional
        What the rows held out are judged by, where it is another one. If not given it is `loss`, without the
        smoothing of labels.
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
    checkpoints : Checkpoints or object, optional
        Where and how often the run's state is written to disk. Of an object of your own
        ``after_step(training)`` is called after every step and ``after_epoch(training)`` after every epoch.
        Steps are made many at a time, which is faster, if its ``asks_in(training)`` says after how many it is
        to be called at the latest (``sys.maxsize``: it need not be).
    ranks : Ranks, optional
        The processes that train together (`data_parallel.world`), all with the same arguments; the loader's
        batch is the global one, of which each has its share.
    way : "fast", "fused" or "plain"
        How updates are made: with all that the device has, the same without launching a step as one (a CUDA
        graph), or by the rules as they are written. The result is the same up to rounding.
    threads : int, optional
        The most threads that share a step. If not given it follows from the size of the step and the cores
        that the process may use. Plain steps have the same bits with any number, compiled ones not.
    seed : int, or sequence of int with one for each member
        Of dropout; members have seed, seed + 1, … unless theirs are given. (The loader has the seed of the
        order, the network that of its starting weights.)
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
      (`OPENBLAS_CORETYPE` pins them);
    - exp, tanh and log: NumPy's version and the processor's vector instructions;
    - the device, and on GPUs CuPy, cuBLAS and TF32; the number of `ranks`;
    - `way`: compiled steps, which long trainings turn to where Numba is installed, sum in another order, that
      of their threads;
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
    _check_kinds(network, loader, validation, state)
    network.backend.runtime.select()
    named = {
        "loss": loss,
        "watched_loss": watched_loss,
        "optimizer": optimizer,
        "schedule": schedule,
        "decay_schedule": decay_schedule,
        "regularizer": regularizer,
        "dropout_schedule": dropout_schedule,
        "learning_rate": learning_rate,
        "dropout": dropout,
        "clip_norm": clip_norm,
        "reduction": reduction,
        "max_epochs": max_epochs,
        "patience": patience,
        "tolerance": tolerance,
        "loss_below": loss_below,
        "time_budget": time_budget,
        "keep": keep,
        "average": average,
        "on_divergence": on_divergence,
        "way": way,
        "threads": threads,
    }
    members, n_hidden = network.members, network.n_layers - 1
    if members is None:
        each = [Settings.of(named, seed, n_hidden)]
    else:
        seeds = enumerate(seeds_of(seed, members))
        each = [
            Settings.of(given_to(n, members, named), own_seed, n_hidden, n, members) for n, own_seed in seeds
        ]
    given = each[0]
    for part in (loader, validation):
        if part is not None:
            _check_fit(network, part, given.loss)
    _fit_memory(network, loader, given, ranks)
    if validation is not None:
        validation.fit_chunks(Memo.bytes_per_row(network))
    history = History(steps_per_epoch=loader.steps_per_epoch, max_epochs=max_epochs)
    layers = (frozen,) if isinstance(frozen, int) else tuple(frozen)
    factors = (rate_factors or NO_FACTORS).freezing(layers, network.n_layers) if layers else rate_factors
    training = _training(network, loader, each, history, factors, checkpoints, ranks)
    if state is not None:
        training.restore(state)
    if ranks is not None:
        if not ranks.have_agreed:
            compared = {"train": loader, "validation": validation}
            of_loaders = {
                f"{name} {part}": getattr(each, part, None)
                for name, each in compared.items()
                for part in ("batch_size", "seed", "order")
            }
            rows = {f"{name} rows": None if each is None else each.source for name, each in compared.items()}
            others = {"seed": seed, "frozen": layers, "rate_factors": rate_factors, "threads": None}
            refuse_differences(ranks, network, rows, {**named, **of_loaders, **others})
        ranks.broadcast(network.parameters.flat, network.backend)
    network.output = given.loss.link
    monitor = _monitor(training, validation, each)
    stopped = monitor.reason() if history.train_losses else None
    if state is not None and stopped is None:
        training.say_what_differs(state)
    return Epochs(run(training, monitor, keep=keep, stopped=stopped, threads=threads))


def _monitor(training: Training, validation: Any, each: Sequence[Settings]) -> LossMonitor:
    """What judges a run."""
    given, objective = each[0], training.objective
    stopping = Stopping(
        given.max_epochs, given.patience, given.tolerance, given.loss_below, given.time_budget
    )
    judge = as_one([one.watched_loss or one.loss.judge for one in each], EachLoss)

    def losses() -> list[float]:
        # The objective's network, which may compute with kernels of its own.
        return mean_losses(objective.network, validation, judge, objective.ranks)

    if isinstance(training, MemberTraining):
        return MemberMonitor(training, stopping, None if validation is None else losses)
    validate = None if validation is None else lambda: losses()[0]
    return LossMonitor(training, stopping, validate, rolls_back=given.on_divergence == "rollback")


def _training(
    network: Network,
    loader: Loader,
    each: Sequence[Settings],
    history: History,
    factors: RateFactors | None,
    checkpoints: Observer | None,
    ranks: Ranks | None,
) -> Training:
    """A run of one network, or of members that are trained together."""
    given, is_one = each[0], network.members is None
    if is_one:
        masks, method = given.masks, _method(given, loader)
    else:
        masks = dropout_of([one.masks for one in each], network.n_layers - 1, [one.seed for one in each])
        method = _method_of_members(each)
    loss = as_one([one.loss for one in each], EachLoss)
    penalty = as_one([one.regularizer for one in each], EachPenalty)
    kind = Objective if is_one else MemberObjective
    objective = kind(network, loss, penalty, masks, given.reduction, ranks)
    objective.frozen = () if factors is None else factors.frozen
    rates = Rates(
        float(given.learning_rate),
        given.schedule,
        history,
        given.decay_schedule,
        given.dropout_schedule,
        masks,
    )
    if isinstance(objective, MemberObjective):
        rules = MemberOptimizer([one.optimizer for one in each], network.parameters, factors)
        own_rates = MemberRates([float(one.learning_rate) for one in each], rates)
        return MemberTraining(objective, loader, rules, own_rates, method, checkpoints, given.average)
    optimizer = Optimizer(given.optimizer, network.parameters, factors)
    return Training(objective, loader, optimizer, rates, method, checkpoints, given.average)


def _method(given: Settings, loader: Loader) -> Method:
    """What makes the passes."""
    search = given.optimizer.search
    if search is None:
        return Descent(given.way, given.clip_norm)
    if loader.steps_per_epoch > 1 or given.masks or given.clip_norm or given.average:
        raise ValueError(
            f"L-BFGS works on the objective over all rows: it takes {spell_given('batch_size', 'full')}, and "
            f"no {spelled('dropout')}, {spelled('clip_norm')} or {spelled('average')}."
        )
    return Search(search)


def _method_of_members(each: Sequence[Settings]) -> Method:
    """What makes the passes of all members."""
    if each[0].optimizer.search is not None:
        raise ValueError("L-BFGS searches for one network: train the members one by one (`network.each()`).")
    if each[0].on_divergence == "rollback":
        raise ValueError("members that diverge are not rolled back, but left behind: on_divergence='stop'.")
    return MemberDescent([one.clip_norm for one in each], each[0].way)


def _fit_memory(network: Network, loader: Loader, given: Settings, ranks: Ranks | None) -> None:
    """Let an "auto" batch fit beside the vectors of the parameters' size."""
    # parameters, gradient, last good and best, the optimizer's, and the average
    vectors = 5 + len(given.optimizer.state) + bool(given.average)
    number = network.backend.xp.finfo(network.backend.dtype).bits // 8
    runtime = network.backend.runtime
    loader.fit_chunks(Memo.bytes_per_row(network))
    loader.fit_memory(
        Memo.bytes_per_row(network),
        vectors * network.parameters.size * number,
        # What a CPU has free differs from run to run, and what GPUs have from rank to rank.
        runtime.available() if runtime.overlaps and ranks is None else None,
    )


def _check_kinds(network: object, loader: object, validation: object, state: object) -> None:
    """Refuse what is no network, no loader or no state, data itself above all."""
    if not isinstance(network, Network):
        raise TypeError(
            f"network is a {type(network).__name__}; it must be a Network, such as Network((10, 64, 1))."
        )
    for name, given in (("loader", loader), ("validation", validation)):
        if not hasattr(given, "batches") and (given is not None or name == "loader"):
            raise TypeError(f"{name} is a {type(given).__name__}; it must be a Loader, such as Loader(x, y).")
    if not isinstance(state, TrainingState | None):
        raise TypeError(f"state is a {type(state).__name__}; it must be what `epoch.state()` gives.")


def _check_fit(network: Network, loader: Loader, loss: Loss) -> None:
    """Refuse a loader whose rows do not fit the network or the loss."""
    loader.backend_for(network.backend)
    source, n_inputs = loader.source, network.layer_sizes[0]
    if source.n_features != n_inputs:
        raise ValueError(
            f"x has {source.n_features} columns, but this network was built for {n_inputs} "
            f"(layer_sizes={network.layer_sizes})."
        )
    if source.n_weights not in (1, network.members or 1):
        raise ValueError(
            f"member_weight has {source.n_weights} columns, one for each member, but this network has "
            f"{f'{network.members} members' if network.members else 'none: Network(sizes, members=k) has k'}."
        )
    if source.n_targets == 0:
        raise ValueError("there are no targets to learn: give the loader y.")
    if loader.sample_weight is not None:
        refuse_weights(loader.sample_weight)
    targets = source.y
    if network.backend.dtype_name == "float32" and isinstance(source, ArraySource):
        known = {"x": source.x} if loss.labels or targets is None else {"x": source.x, "y": targets}
        for name, values in known.items():
            if values.dtype != np.float32:  # else nothing can be done any more
                warn_if_coarse(name, values)
    if targets is not None:
        for start in range(0, len(targets), CHECKED_ROWS):
            part = targets[start : start + CHECKED_ROWS]
            check_rows(
                lambda y: loss.check_targets(y, network.layer_sizes[-1]),
                part,
                np.arange(start, start + len(part)),
            )
