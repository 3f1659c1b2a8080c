"""Tries of one shape: members of one network, trained at once, of which the worse ones are let go."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlp_xp.regularizers import ElasticNet
from mlp_xp.run.state import TrainingState
from mlp_xp.tables.fitting import Data, fit, loader_for, new_model
from mlp_xp.tables.options import TrainingOptions


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a try has come to: its epochs, the held-out loss after each, and the lowest of them.

    With folds losses are the means over them; the lowest is infinite if the try diverged.
    """

    epochs: int
    losses: list[float]
    best: float


class Group:
    """Tries of one shape at some epoch: their numbers and options, data read as these say, their state.

    `price` is what a try's epoch took when they were last trained on: seconds of one thread.
    """

    def __init__(
        self, data: Data, tries: Sequence[tuple[int, TrainingOptions]], state: TrainingState | None = None
    ) -> None:
        self.data, self.tries, self.state = data, list(tries), state
        self.n_each, self.price = data.options.folds or 1, 0.0

    def advance(self, until: int, is_over: Callable[[], bool]) -> None:
        """Train on to an epoch, unless it is over before one; one thread computes, so that none decides."""
        if is_over():
            return
        began = time.monotonic()
        try:
            for n_made, epoch in enumerate(self._epochs(), 1):
                if epoch.number == until or epoch.stopped:
                    self.state = epoch.state()
                    self.price = (time.monotonic() - began) / (n_made * len(self.tries))
                    return
                if is_over():
                    return
        except FloatingPointError:  # all have diverged
            self.state, self.tries = None, []

    def _epochs(self) -> Any:
        given = [options for _, options in self.tries]
        each = [options for options in given for _ in range(self.n_each)]
        model = new_model(self.data, len(given))
        penalties = [ElasticNet(options.l1, options.l2) for options in each]
        own: dict[str, Any] = {
            "learning_rate": [options.read("learning_rate") for options in each],
            "optimizer": [options.read("optimizer") for options in each],
            "dropout": [_rates(options) for options in each],
            "regularizer": [penalty if penalty.l1 or penalty.l2 else None for penalty in penalties],
            "seed": [options.seed + n % self.n_each for n, options in enumerate(each)],
            "time_budget": None,
            "threads": 1,
        }
        if not any(map(any, own["dropout"])):
            own["dropout"] = 0.0
        loader = loader_for(self.data.options, self.data.parts.training_of(len(given)))
        return fit(self.data, model.network, loader, state=self.state, copies=len(given), own=own)

    def standings(self) -> dict[int, Standing]:
        """What each try has come to, by its number."""
        if self.state is None:
            return {}
        members = self.state.numbers["members"]
        found = {}
        for at, (number, _) in enumerate(self.tries):
            own = members[at * self.n_each : (at + 1) * self.n_each]
            is_over = any(str(each["stopped"]).startswith("diverged") for each in own)
            watched = [each["validation_losses"] or each["train_losses"] for each in own]
            n_epochs = min(map(len, watched))
            losses = np.mean([each[:n_epochs] for each in watched], axis=0).tolist() if n_epochs else []
            best = math.inf if is_over else float(np.mean([each["best_loss"] for each in own]))
            found[number] = Standing(max(map(len, watched)), losses, best)
        return found

    def keep(self, numbers: set[int]) -> None:
        """Let go of all other tries."""
        kept = [at for at, (number, _) in enumerate(self.tries) if number in numbers]
        self.tries = [self.tries[at] for at in kept]
        if self.state is None or not kept:
            self.state = None
            return
        rows = [at * self.n_each + n for at in kept for n in range(self.n_each)]
        numbers_of = self.state.numbers
        arrays = {
            name: array
            if name == "epoch.steps"
            else np.ascontiguousarray(array[:, rows] if name in BY_COLUMN else array[rows])
            for name, array in self.state.arrays.items()
        }
        members = [numbers_of["members"][row] for row in rows]
        self.state = dataclasses.replace(self.state, arrays=arrays, numbers=numbers_of | {"members": members})

    def best_of(self, number: int) -> np.ndarray:
        """The weights of a try at its best epoch, (n_parameters,) or (folds, n_parameters)."""
        if self.state is None:
            raise ValueError(f"try {number} has no weights.")
        at = [one for one, _ in self.tries].index(number)
        best = self.state.arrays["best"][at * self.n_each : (at + 1) * self.n_each]
        return best if self.data.options.folds else best[0]


BY_COLUMN = ("epoch.values", "epoch.divisors")
"""Arrays of a state with a column for each member; the others have a row."""


def _rates(options: TrainingOptions) -> tuple[float, ...]:
    """Dropout of each hidden layer."""
    rates, n_hidden = options.dropout_rates, len(options.read("hidden"))
    return tuple(rates) * n_hidden if len(rates) == 1 else tuple(rates)
