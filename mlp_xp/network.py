"""A multilayer perceptron: layer sizes, activations, parameters."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp import derivatives
from mlp_xp.activations import ACTIVATIONS, Activation, Custom, Identity, resolve_activation
from mlp_xp.forward import Memo, predict
from mlp_xp.initializers import INITIALIZERS, Initializer
from mlp_xp.losses import LINKS, IdentityLink, Link
from mlp_xp.machine.array_api import Array, ArrayLike, Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.own import resolve as resolve_own
from mlp_xp.parameters import Parameters
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import name_of, resolve


class Network:
    """A multilayer perceptron.

        z_l = a_{l−1} W_l + b_l        a_l = f_l(z_l)        a_0 = x or s ⊙ x,  l = 1 … L

    Parameters
    ----------
    layer_sizes : sequence of int
        Units per layer, inputs first, outputs last.
    activation : str, instance, pair of functions, or list of them
        f: one for all hidden layers, or a list with one for each hidden layer (or for every layer; the last
        is the identity unless given). A pair (value, derivative) of functions of z is a user's own.
    bias : bool
        Whether layers have biases.
    input_scale : bool
        Whether each input has a factor s that is trained like a weight, 1 at the start: an input that says
        nothing is turned down by one number, not by a row of weights.
    initializer : str, instance, or list of them, optional
        How the weights start: one for all layers, or a list with one for each, the output layer's last; what
        suits each layer's activation (`Activation.initializer`) if not given.
    device : str or Backend
        "cpu", "cuda", "cuda:N".
    dtype : str, optional
        "float32" (if not given, unless `device` is a Backend with a dtype of its own) or "float64".
    seed : int or sequence of int
        Of the starting weights, drawn on the host: the same on every device. Members have seeds of their own:
        seed, seed + 1, …, if they are not given one by one.
    members : int, optional
        k networks of one shape, trained and asked together: an axis of members before those of every weight
        (k, n_in, n_out), activation (k, n_rows, n_units) and output. Each is what it would be alone, bit for
        bit where updates are plain (`train`'s `way`).

    Attributes
    ----------
    parameters : Parameters
        Weights and biases.
    output : link
        What `predict` applies to the last z; `train` sets it to the link of its loss.

    Raises
    ------
    ValueError, TypeError
        A size, name or function is refused.
    RuntimeError
        The device cannot be used here; the message says why.

    Examples
    --------
    >>> network = Network((4, 3, 2, 1), activation="tanh", bias=False)
    >>> network.n_weights
    20

    References
    ----------
    Holzmüller, Grinsztajn and Steinwart, Better by default: strong pre-tuned MLPs and boosted trees on
    tabular data, NeurIPS 2024 (the scale of each input).
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        *,
        activation: object = "relu",
        bias: bool = True,
        input_scale: bool = False,
        initializer: object = None,
        device: str | Backend = "cpu",
        dtype: str | None = None,
        seed: int | Sequence[int] = 0,
        members: int | None = None,
    ) -> None:
        self.layer_sizes = _checked_sizes(layer_sizes)
        checks.refuse([None if members is None else checks.whole("members", members)])
        seeds = seeds_of(seed, members)
        self.activations = _one_a_layer(activation, len(self.layer_sizes) - 1)
        self.backend = find_backend(device, dtype)
        self.output: Link = IdentityLink()
        self.parameters = Parameters(
            self.backend, self.layer_sizes, bool(bias), input_scale=bool(input_scale), members=members
        )
        initializers = self._initializers(initializer)
        for parameters, own_seed in zip(self.parameters.each(), seeds, strict=True):
            self._initialise(parameters, initializers, own_seed)

    def _initializers(self, given: object) -> list[Initializer]:
        """One a layer."""
        a_layer = given if isinstance(given, list | tuple) else [given] * self.n_layers
        if len(a_layer) != self.n_layers:
            raise ValueError(
                f"initializer has {len(a_layer)} entries, but this network has {self.n_layers} layers of "
                "weights: give one for all, or one for each, the output layer's last."
            )
        return [
            resolve_own("initializer", INITIALIZERS, one or f.initializer)
            for one, f in zip(a_layer, self.activations, strict=True)
        ]

    def _initialise(self, parameters: Parameters, initializers: Sequence[Initializer], seed: int) -> None:
        """Draw all layers from one generator, from the first layer to the last."""
        generator = np.random.default_rng(seed)
        sizes = itertools.pairwise(self.layer_sizes)
        for layer, (initializer, (n_in, n_out)) in enumerate(zip(initializers, sizes, strict=True)):
            weights = initializer.weights(generator, layer, n_in, n_out)
            biases = initializer.biases(generator, layer, n_in, n_out)
            parameters.set_layer(layer, weights, biases)
        if parameters.input_scale is not None:
            parameters.input_scale[...] = 1.0

    @functools.cached_property
    def layers(self) -> list[tuple[Array, Array | None, Activation]]:
        """W_l, b_l (or None) and f_l of each layer, from the first to the last."""
        biases = self.parameters.biases or [None] * self.n_layers
        return list(zip(self.parameters.weights, biases, self.activations, strict=True))

    @functools.cached_property
    def memos(self) -> list[Memo]:
        """What predictions of few rows leave to the next: to make one takes as long as to predict a row."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: the layers are views of the vector, and follow from it."""
        return {name: value for name, value in vars(self).items() if name not in ("layers", "memos")}

    @functools.cached_property
    def output_is_linear(self) -> bool:
        """Whether the last layer's activation is the identity, as it is unless given."""
        return isinstance(self.activations[-1], Identity)

    @property
    def members(self) -> int | None:
        """How many networks; None where there is one, without an axis of its own."""
        return self.parameters.members

    def each(self) -> "list[Network]":
        """Each member as a network of its own, which shares its weights; itself alone without members."""
        if self.members is None:
            return [self]
        return [self.with_parameters(parameters) for parameters in self.parameters.each()]

    def some(self, first: int, stop: int) -> "Network":
        """Some of the members as a network, which shares their weights."""
        return self.with_parameters(self.parameters.some(first, stop))

    def with_parameters(self, parameters: Parameters) -> "Network":
        """The same functions with other weights, which are not copied."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__(), parameters=parameters)
        return other

    @functools.cached_property
    def n_layers(self) -> int:
        """L, the number of weight matrices."""
        return len(self.layer_sizes) - 1

    @property
    def n_weights(self) -> int:
        """The number of weights w_ij^k, biases not counted; of one member."""
        return self.parameters.n_weights

    def predict(
        self, x: ArrayLike, *, output: str = "link", members: str = "mean", chunk_rows: int | None = None
    ) -> Array:
        """Predictions for rows of x, a chunk at a time: memory does not grow with the number of rows.

        Safe to call from several threads at once.

        Parameters
        ----------
        x : array_like (n_rows, n_features)
            Read. Where it is an array of the network's own library on its device, it stays there, and so does
            the result.
        output : "link" or "raw"
            "link" applies the link of the loss that trained the network (probabilities, rates, quantiles in
            order); "raw" gives the last z.
        members : "mean" or "all"
            The mean of what the members predict (of probabilities, of means, of quantiles), or each of it.
        chunk_rows : int, optional
            Rows a chunk; by default 16,384 at most, and on a CPU no more than keep outputs in a cache.

        Returns
        -------
        array (n_rows, n_outputs), or (members, n_rows, n_outputs) of all members
            NumPy's, or the library's of x.

        Raises
        ------
        ValueError
            x has another number of columns than the network has inputs.
        """
        return predict(self, x, output=output, members=members, chunk_rows=chunk_rows)

    def gradient(
        self, x: ArrayLike, y: ArrayLike, *, loss: object = "squared_error", sample_weight: ArrayLike = None
    ) -> tuple[float, Parameters]:
        """The loss over some rows, J = Σ_i s_i L_i / Σ_i s_i, and its gradient; nothing is changed.

        Parameters
        ----------
        x : array_like (n_rows, n_features)
            Read, as all of these. All rows are taken at once.
        y : array_like (n_rows,) or (n_rows, n_targets)
            Targets, or class numbers for a loss on labels.
        loss : str, loss or pair of functions
            As in `train`.
        sample_weight : array_like (n_rows,), optional
            s; ones if not given.

        Returns
        -------
        float or array (members,), Parameters
            J, and ∂J/∂w in the layout of `parameters`: `weights[l]`, `biases[l]`, `flat`.

        Raises
        ------
        ValueError
            Shapes do not fit, or targets have no meaning for the loss.

        Examples
        --------
        >>> network = Network((2, 3, 1), seed=0)
        >>> value, gradient = network.gradient([[1.0, 2.0]], [3.0])
        >>> gradient.weights[0].shape
        (2, 3)
        """
        return derivatives.gradient(self, x, y, loss, sample_weight)

    def input_gradient(
        self, x: ArrayLike, y: ArrayLike, *, loss: object = "squared_error", sample_weight: ArrayLike = None
    ) -> np.ndarray:
        """∂J/∂x of the J of `gradient`: which way each input of each row moves the loss.

        Returns
        -------
        array (n_rows, n_features), or (members, n_rows, n_features)
        """
        return derivatives.input_gradient(self, x, y, loss, sample_weight)

    def hidden(self, x: ArrayLike) -> list[np.ndarray]:
        """a_1 … a_{L−1}, the activations of each hidden layer, for some rows, all at once.

        Returns
        -------
        list of array (n_rows, n_units), or (members, n_rows, n_units)
        """
        return derivatives.hidden(self, x)

    def __repr__(self) -> str:
        """Sizes, activations and device on one line."""
        names = [activation_name(f) for f in self.activations]
        return (
            f"Network({self.layer_sizes}, activation={names}, bias={self.parameters.bias}, "
            f"{'' if self.parameters.input_scale is None else 'input_scale=True, '}"
            f"{'' if self.members is None else f'members={self.members}, '}"
            f"device={self.backend.name!r}, dtype={self.backend.dtype_name!r})"
        )


def _checked_sizes(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(layer_sizes)
    except TypeError:
        raise TypeError(
            f"layer_sizes={layer_sizes!r} must be a sequence of whole numbers, such as (10, 64, 1)."
        ) from None
    if len(sizes) < 2:
        raise ValueError(f"layer_sizes={sizes!r} must name at least inputs and outputs, such as (10, 64, 1).")
    checks.refuse(checks.whole(f"layer_sizes[{i}]", size) for i, size in enumerate(sizes))
    return tuple(int(size) for size in sizes)


def seeds_of(seed: int | Sequence[int], members: int | None) -> list[int]:
    """A seed for each member: seed, seed + 1, … unless they are given one by one."""
    n = members or 1
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        checks.refuse(
            [checks.whole("seed", each, least=0) for each in seed]
            + [f"seed has {len(seed)} numbers for {n} members: give one, or {n}." if len(seed) != n else None]
        )
        return list(seed)
    checks.refuse([checks.whole("seed", seed, least=0)])
    return [seed + number for number in range(n)]


def _one_a_layer(activation: object, n_layers: int) -> list[Activation]:
    """One for all hidden layers, or one each; the last layer's is the identity unless given."""
    is_pair = isinstance(activation, tuple) and len(activation) == 2 and any(map(callable, activation))
    if isinstance(activation, list | tuple) and not is_pair:
        found = [resolve_activation(item) for item in activation]
        if len(found) == n_layers - 1:
            found.append(Identity())
        if len(found) != n_layers:
            raise ValueError(
                f"activation has {len(activation)} entries, but this network has {n_layers - 1} hidden "
                f"layers: give one for all, {n_layers - 1}, or {n_layers} with the output layer's."
            )
        return found
    return [resolve_activation(activation)] * (n_layers - 1) + [Identity()]


def activation_name(activation: Activation) -> str:
    """Its name in the catalogue, or that of a user's own function."""
    if isinstance(activation, Custom):
        return activation.name
    return name_of(ACTIVATIONS, activation)


def resolve_link(given: object) -> Link:
    """A link from what `describe` wrote of it."""
    return resolve("output", LINKS, given)
