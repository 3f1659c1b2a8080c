"""A run of several members: each with a past, a best epoch and an end of its own."""

import dataclasses
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import numpy as np

from mlp_xp.history import History
from mlp_xp.machine.array_api import Array, to_host
from mlp_xp.members.losses import mean_of
from mlp_xp.members.rates import MemberRates
from mlp_xp.members.step import MemberObjective, MemberOptimizer, Members
from mlp_xp.members.ways import member_step
from mlp_xp.own import OwnSchedule
from mlp_xp.run.monitor import LossMonitor
from mlp_xp.run.state import Member, Training, TrainingState
from mlp_xp.step import Step
from mlp_xp.stopping import Stopping
from mlp_xp.training_loop import Descent

DIVERGED = "diverged in epoch"
"""How a reason begins why a member has stopped."""


@dataclasses.dataclass(eq=False, repr=False)
class MemberTraining(Training):
    """One run of several members; `stopped` says of each why it no longer changes."""

    objective: MemberObjective
    optimizer: MemberOptimizer
    rates: MemberRates
    steps_average: ClassVar[bool] = True

    def __post_init__(self, averaged: float) -> None:
        """All members run."""
        super().__post_init__(averaged)
        n = self.objective.n
        self.stopped: list[str | None] = [None] * n
        self._end: dict[int, Array] = {}  # of those that have stopped, where their average would move on
        self._is_best, self._diverged = [False] * n, 0

    @property
    def running(self) -> list[bool]:
        """Which members still change; the objective and its losses heed it."""
        return self.objective.losses.running

    def stop(self, member: int, why: str) -> None:
        """Leave a member as it is now."""
        self.stopped[member], self.running[member] = why, False
        if self.average is not None:
            xp = self.parameters.backend.xp
            self._end[member] = xp.asarray(self.parameters.flat[member, ...], copy=True)

    def is_finite(self, train_loss: float) -> bool:
        """Whether any member's loss and weights are; one whose are not ends with its last good ones."""
        xp = self.parameters.backend.xp
        losses = self.objective.losses.of_each()
        are_finite = to_host(xp.all(xp.isfinite(self.parameters.flat), axis=-1)).tolist()
        broken = [
            n
            for n, is_running in enumerate(self.running)
            if is_running and not (math.isfinite(losses[n]) and are_finite[n])
        ]
        if len(broken) + self._diverged == self.objective.n:
            return False
        self._diverged += len(broken)
        for n in broken:
            self._put(n, self.last_good[n, ...])
            epoch = len(self.history.train_losses) + 1
            self.stop(n, f"{DIVERGED} {epoch}")
            warnings.warn(
                f"member {n} of {self.objective.n} diverged in epoch {epoch} "
                f"(learning_rate={self.rates.latest[n]:g}): it keeps the weights of its last good "
                "epoch, and the others go on.",
                stacklevel=3,
            )
        return True

    def _put(self, member: int, vector: Any) -> None:
        """Give a member other weights, and the average that they have."""
        self.parameters.flat[member, ...] = vector
        if self.average is not None:
            self.average.flat[member, ...] = vector

    def keep_good(self) -> None:
        """Keep the weights of an epoch; those of members that have stopped stay theirs."""
        if self.average is not None:
            self.average.use()
            for n, end in self._end.items():
                self.parameters.flat[n, ...] = end
        super().keep_good()

    def keep_best(self) -> bool:
        """Keep each member's weights where its watched loss is its lowest so far; whether any's is."""
        epoch = len(self.history.train_losses)
        best = self.copied()
        for n, history in enumerate(self.rates.histories):
            self._is_best[n] = self.running[n] and history.watched[-1] < history.best_loss
            if self._is_best[n]:
                history.best_loss, history.best_epoch = history.watched[-1], epoch
            else:
                best[n, ...] = self.best[n, ...]
        self.best = best  # who was given the one before may keep it
        if self.history.watched[-1] < self.history.best_loss:
            self.history.best_loss, self.history.best_epoch = self.history.watched[-1], epoch
        return any(self._is_best)

    def members_now(self) -> tuple[Member, ...]:
        """What each member has come to."""
        rates = self.rates.latest
        return tuple(
            Member(
                train_loss=history.train_losses[-1] if history.train_losses else math.nan,
                validation_loss=history.validation_losses[-1] if history.validation_losses else None,
                learning_rate=rates[n],
                is_best=self._is_best[n],
                best_epoch=history.best_epoch,
                stopped=self.stopped[n],
            )
            for n, history in enumerate(self.rates.histories)
        )

    def put_best_back(self) -> None:
        """Give each member the weights of its best epoch."""
        for n, history in enumerate(self.rates.histories):
            if history.best_epoch:
                self.parameters.flat[n, ...] = self.best[n, ...]

    def state(self) -> TrainingState:
        """Everything that the run needs to go on from here."""
        state = super().state()
        members = [
            dataclasses.asdict(history) | {"stopped": why, "behind": behind}
            for history, why, behind in zip(
                self.rates.histories, self.stopped, self.optimizer.behind, strict=True
            )
        ]
        ends = to_host(self.parameters.flat).copy()
        for n, end in self._end.items():
            ends[n] = to_host(end)
        arrays = state.arrays | {"end": ends}
        arrays["epoch.values"][:, ~np.array(self.running)] = 0.0  # nan, where one has diverged
        return dataclasses.replace(state, arrays=arrays, numbers=state.numbers | {"members": members})

    def restore(self, state: TrainingState) -> None:
        """Go on from a state."""
        super().restore(state)
        for n, numbers in enumerate(state.numbers["members"]):
            own = {field.name: numbers[field.name] for field in dataclasses.fields(History)}
            own |= {name: list(value) for name, value in own.items() if isinstance(value, list)}
            own |= {name: getattr(self.history, name) for name in ("step", "steps_per_epoch", "max_epochs")}
            self.rates.histories[n] = History(**own)
            self.stopped[n], self.optimizer.behind[n] = numbers["stopped"], numbers["behind"]
            self.running[n] = self.stopped[n] is None
            if self.average is not None and not self.running[n]:
                self._end[n] = self.parameters.backend.asarray(state.arrays["end"][n])
        self._diverged = sum(str(why).startswith(DIVERGED) for why in self.stopped)
        self.rates.forget()


class MemberDescent(Descent):
    """The method that makes steps of all members, each with a limit on its gradient's Euclidean norm."""

    def __init__(self, clip_norms: Sequence[float | None], way: str = "plain") -> None:
        super().__init__(way, loss_of=operator.methodcaller("objective"))
        self.clip_norms = clip_norms

    def step_of(self, training: Training) -> Step:
        """What makes the updates."""
        of = cast(MemberTraining, training)
        rates = of.rates
        looks_at_losses = isinstance(rates.schedule, OwnSchedule)
        members = Members(of.objective, of.optimizer, self.clip_norms, rates, of.average)
        way = "plain" if looks_at_losses else self.way
        return member_step(way, members, schedules_more=rates.schedules_more)


class MemberMonitor(LossMonitor):
    """Watches the losses of each member, also on rows held out, and ends it by its own."""

    def __init__(
        self,
        training: MemberTraining,
        stopping: Stopping,
        validate: Callable[[], list[float]] | None = None,
    ) -> None:
        super().__init__(training, stopping)
        self.members, self.validate_each = training, validate

    def look(self, train_loss: float) -> None:
        """Keep the good weights, and the losses of all members that run, and their means."""
        members, run = self.members, self.training.history
        members.keep_good()
        losses = members.objective.losses.of_each()
        held_out = None if self.validate_each is None else self.validate_each()
        running = np.flatnonzero(members.running).tolist()
        for n in running:
            history = members.rates.histories[n]
            history.train_losses.append(losses[n])
            history.validation_losses += [] if held_out is None else [held_out[n]]
        for each, means in ((losses, run.train_losses), (held_out, run.validation_losses)):
            if each is not None:
                means.append(mean_of([each[n] for n in running]) if running else means[-1])

    def reason(self) -> str | None:
        """Why the run is over: for all, or as its last member has stopped."""
        members, run = self.members, self.training.history
        for n, history in enumerate(members.rates.histories):
            history.seconds = run.seconds
            if members.running[n] and (why := self.stopping.of_losses(history)) is not None:
                members.stop(n, why)
        if not any(members.running):
            reasons = sorted({str(why) for why in members.stopped})
            return reasons[0] if len(reasons) == 1 else f"all {len(members.stopped)} members have stopped"
        return self.stopping.of_clock(run)
