"""Weights, validation rows and orders, drawn as scikit-learn draws them from one RandomState."""

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import train_test_split

from mlp_xp.activations import Activation, Logistic
from mlp_xp.initializers import Given
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.parameters import Parameters


def draw_weights(
    random_state: np.random.RandomState, layer_sizes: Sequence[int], hidden: Sequence[Activation]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases of all layers, uniform in ±√(6 / (n_in + n_out)), or 2 for 6 in logistic layers.

    `hidden` are the activations of the hidden layers (at least one). scikit-learn draws the output
    layer by theirs, so this does.
    """
    weights, biases = [], []
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(layer_sizes)):
        activation = hidden[min(layer, len(hidden) - 1)]
        bound = math.sqrt((2.0 if isinstance(activation, Logistic) else 6.0) / (n_in + n_out))
        weights.append(random_state.uniform(-bound, bound, (n_in, n_out)))
        biases.append(random_state.uniform(-bound, bound, n_out))
    return weights, biases


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


def draw_validation(
    random_state: np.random.RandomState, n_rows: int, fraction: float, stratify: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the training rows and of the validation rows.

    Raises ValueError: there are too few rows to split.
    """
    training, validation = train_test_split(
        np.arange(n_rows), random_state=random_state, test_size=fraction, stratify=stratify
    )
    if len(validation) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    return training, validation


class DrawnOrder:
    """An order whose every epoch shuffles the order of the one before it; or rows as they come.

    It is not a function of seed and epoch, as the core's orders are: each call draws the next epoch.
    """

    def __init__(self, random_state: np.random.RandomState, n_rows: int, shuffle: bool) -> None:
        self.random_state, self.shuffle = random_state, shuffle
        self.n_rows, self.positions = n_rows, np.arange(n_rows)

    def copied(self) -> "DrawnOrder":
        """The same, with a generator of its own."""
        other = copy.copy(self)
        other.random_state = copy.deepcopy(self.random_state)
        return other

    def __call__(self, n_rows: int, seed: int, epoch: int) -> np.ndarray:
        """The rows of the next epoch."""
        if self.shuffle:
            drawn = np.arange(n_rows)
            self.random_state.shuffle(drawn)
            self.positions = self.positions[drawn]
        return self.positions
