"""A run between two steps: all that changes, and how it is kept and gone on with."""

import dataclasses
import math
import sys
import warnings
from collections.abc import Generator
from typing import Any, ClassVar, Protocol

import numpy as np

from mlp_xp.averaging import Average
from mlp_xp.history import History
from mlp_xp.machine.array_api import Array, to_host
from mlp_xp.objective import Objective
from mlp_xp.optimizers import Optimizer
from mlp_xp.rows.loader import Loader
from mlp_xp.run.rates import Rates

Pass = tuple[float, str | None]
"""One pass over the data: its loss and, where the method has come to an end with it, why."""


class Observer(Protocol):
    """Whoever a run is shown to by `train`: what writes checkpoints, say."""

    def after_step(self, training: "Training", /) -> None:
        """Look, between two steps; an exception ends the run there."""

    def after_epoch(self, training: "Training", /) -> None:
        """Look, after an epoch."""


class Method(Protocol):
    """What makes the passes over the data: steps (`training_loop.Descent`) or a search (`run.full_batch`).

    Attributes
    ----------
    forgets : str or None
        What it does not go on with from a state, to be said to the user; None if it goes on bit for bit.
    """

    forgets: str | None

    def passes(self, training: "Training") -> Generator[Pass]:
        """Make one after the other, for ever or until it has come to an end."""


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
class Member:
    """One network among several that are trained together, after an epoch.

    Attributes
    ----------
    train_loss, validation_loss, learning_rate, is_best
        As of an `Epoch`; a member that has stopped has those of its last epoch.
    best_epoch : int
        The epoch with its lowest watched loss.
    stopped : str or None
        Why it no longer changes; None if it does.
    """

    train_loss: float
    validation_loss: float | None
    learning_rate: float
    is_best: bool
    best_epoch: int
    stopped: str | None


@dataclasses.dataclass(eq=False, repr=False)
class Training:
    """One run: everything that changes between two steps.

    `checkpoints` is shown the run between two steps, at the latest after ``asks_in(training)`` of them, 1
    without such a method. `averaged` is the part of the steps over which weights are averaged, and
    `steps_average` whether what makes several steps at once takes note of the weights after each.
    """

    objective: Objective
    loader: Loader
    optimizer: Optimizer
    rates: Rates
    method: Method
    checkpoints: Observer | None = None
    steps_average: ClassVar[bool] = False
    averaged: dataclasses.InitVar[float] = 0.0

    def __post_init__(self, averaged: float) -> None:
        """The weights of now are the best so far."""
        self.history = self.rates.history
        self.parameters = self.objective.network.parameters
        n_steps = self.history.max_epochs * self.history.steps_per_epoch
        self.average = Average(self.parameters, averaged, n_steps) if averaged else None
        self.last_good, self.best = self.copied(), self.copied()
        self.goes_on_inside_an_epoch, self.is_over = False, False

    def copied(self) -> Array:
        """The weights of now, in a vector of their own."""
        return self.parameters.backend.xp.asarray(self.parameters.flat, copy=True)

    def passes(self) -> Generator[Pass]:
        """Yield after each epoch its loss and, where the method itself has come to an end, why."""
        return self.method.passes(self)

    @property
    def next_step(self) -> tuple[int, int]:
        """The epoch and the step in it, both from 0, that a run which makes steps goes on with."""
        epoch = len(self.history.train_losses)
        if not self.goes_on_inside_an_epoch:
            return epoch, 0
        return epoch, self.history.step - epoch * self.history.steps_per_epoch

    def asks_in(self) -> int:
        """After how many steps, at most, `after_steps` is to be called."""
        if self.average is not None and not self.steps_average:
            return 1
        if self.checkpoints is None:
            return sys.maxsize
        asks_in = getattr(self.checkpoints, "asks_in", None)  # a user's own object may have none
        return 1 if asks_in is None else int(asks_in(self))

    def after_steps(self) -> None:
        """Let those who asked see the run, between two steps."""
        if self.average is not None:
            self.average.take(self.history.step)
        if self.checkpoints is not None:
            self.checkpoints.after_step(self)

    def after_epoch(self) -> None:
        """Let those who asked see the run, after an epoch."""
        if self.checkpoints is not None:
            self.checkpoints.after_epoch(self)

    def agreed(self, seconds: float) -> float:
        """The first rank's: the one thing for a decision that is not the same on all ranks by itself."""
        ranks = self.objective.ranks
        return seconds if ranks is None else ranks.from_first(seconds)

    def go_on(self) -> None:
        """Prepare for the next epoch, whichever thread the caller is in now."""
        self.parameters.backend.runtime.select()
        if self.average is not None:
            self.average.go_on()

    def is_finite(self, train_loss: float) -> bool:
        """Whether an epoch's loss and the weights are."""
        return math.isfinite(train_loss) and self.parameters.are_finite()

    def members_now(self) -> tuple[Member, ...]:
        """What each member has come to; none of a network without."""
        return ()

    def put_best_back(self) -> None:
        """Give the network the weights of the best epoch."""
        if self.history.best_epoch:
            self.parameters.flat[...] = self.best

    def keep_good(self) -> None:
        """Keep the weights of an epoch that was finite; where weights are averaged, their average."""
        if self.average is not None:
            self.average.use()
        self.last_good[...] = self.parameters.flat

    def keep_best(self) -> bool:
        """Keep them also where the watched loss is the lowest so far, and say so."""
        history = self.history
        if not history.watched[-1] < history.best_loss:
            return False
        history.best_loss, history.best_epoch = history.watched[-1], len(history.train_losses)
        self.best = self.copied()
        return True

    def state(self) -> TrainingState:
        """Everything that the run needs to go on from here, as host arrays and numbers, copied."""
        objective, history = self.objective, self.history
        self.parameters.backend.runtime.select()
        arrays = {
            **self._trained(),
            "last_good": to_host(self.last_good).copy(),
            "best": to_host(self.best).copy(),
            **{f"optimizer.{name}": vector for name, vector in self.optimizer.to_host().items()},
            **objective.losses.to_host(),
        }
        past = ((field.name, getattr(history, field.name)) for field in dataclasses.fields(History))
        numbers = {name: list(value) if isinstance(value, list) else value for name, value in past}
        numbers |= {"t": self.optimizer.t, "last_rate": self.rates.last}
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
        if self.method.forgets is not None:
            warnings.warn(self.method.forgets, stacklevel=3)
        if state.where != self._where():
            warnings.warn(
                f"a run on {state.where} goes on with {self._where()}: its result is that of an undisturbed "
                "run up to rounding.",
                stacklevel=3,
            )

    def restore(self, state: TrainingState) -> None:
        """Go on from a state; the network's parameters become those of the state.

        Raises ValueError: the state is that of another network or optimizer.
        """
        averaged = [] if self.average is None else ["average"]
        remembers = [f"optimizer.{name}" for name in self.optimizer.state]
        vectors = sorted(["parameters", "last_good", "best", *averaged, *remembers])
        needed = dict.fromkeys(vectors, tuple(self.parameters.flat.shape))
        found = {name: array.shape for name, array in state.arrays.items() if name in needed}
        if found != needed:
            raise ValueError(
                f"the state has arrays of shapes {found}, but this network and optimizer need {needed}: "
                "go on with the same ones."
            )
        on_device = self.parameters.backend.asarray
        self.parameters.flat[...] = on_device(state.arrays["parameters"])
        if self.average is not None:
            self.average.flat[...] = on_device(state.arrays["average"])
        self.last_good, self.best = on_device(state.arrays["last_good"]), on_device(state.arrays["best"])
        remembered = {name: state.arrays[f"optimizer.{name}"] for name in self.optimizer.state}
        self.optimizer.restore(state.numbers["t"], remembered)
        self.rates.last = state.numbers["last_rate"]
        kept = (self.history.steps_per_epoch, self.history.max_epochs)
        for field in dataclasses.fields(History):
            value = state.numbers[field.name]
            setattr(self.history, field.name, list(value) if isinstance(value, list) else value)
        same_steps = self.history.steps_per_epoch == kept[0]
        self.history.steps_per_epoch, self.history.max_epochs = kept
        steps_done = len(self.history.train_losses) * self.history.steps_per_epoch
        if same_steps:
            self.objective.losses.restore(state.arrays)
        else:  # other batches: the epoch under way begins anew
            self.history.step = steps_done
        self.goes_on_inside_an_epoch = self.method.forgets is None and self.history.step > steps_done
