"""Members of an estimator: they start differently, see the same batches, and end together."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlp_xp.initializers import Given
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.members.step import MemberObjective, MemberOptimizer, Members
from mlp_xp.members.ways import member_step
from mlp_xp.parameters import Parameters
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Training
from mlp_xp.step import Step
from mlp_xp.training_loop import Descent


class Together(Descent):
    """The method that makes steps of all members, at one rate."""

    def step_of(self, training: Training) -> Step:
        """What makes the updates."""
        objective, optimizer, rates = training.objective, training.optimizer, training.rates
        if not (isinstance(objective, MemberObjective) and isinstance(optimizer, MemberOptimizer)):
            raise TypeError("members have an objective and an optimizer of their own.")
        members = Members(objective, optimizer, [self.clip_norm] * objective.n, OneRate(rates, objective.n))
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


def set_weights(
    parameters: Parameters, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike] | None
) -> None:
    """Give a network weights that somebody has already; its members' have an axis of members first.

    Raises ValueError: their shapes are not those of the parameters, or there are more of them.
    """
    members, unused = parameters.members, np.random.default_rng()
    n_layers = len(parameters.weights)
    if any(len(each) > n_layers for each in (weights, biases or ())):
        raise ValueError(f"weights or biases of more layers are given than the network has: {n_layers}.")
    for n, own in enumerate(parameters.each()):
        if members is None:
            given = Given(weights, biases)
        elif all(len(each) == members for each in [*weights, *(biases or ())]):
            rows = None if biases is None else [np.ravel(each[n]) for each in biases]
            given = Given([each[n] for each in weights], rows)
        else:
            raise ValueError(f"weights of {members} members have an axis of so many before their own.")
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(parameters.layer_sizes)):
            of_layer = (given.weights, given.biases)
            own.set_layer(layer, *(of(unused, layer, n_in, n_out) for of in of_layer))
