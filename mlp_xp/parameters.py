"""All weights and biases as ONE flat vector, with a view per layer.

    flat = [W_1 | … | W_L | b_1 | … | b_L | s]

Update, penalty, clipping, all-reduce, L-BFGS, best-so-far and checkpoint are then one call each on `flat`.
A gradient has the same layout and is a `Parameters` too. Of k networks of one shape, the members, there are k
such vectors, one below the other, and every view has an axis of members before its own.

The Array API does not promise that a reshaped slice is a view. It is one in NumPy, CuPy and PyTorch; a
library that copies (JAX) is refused here, by name.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.machine.array_api import Array, Backend, to_host


class Parameters:
    """The weights and biases of a network, or their gradient.

    Parameters
    ----------
    backend : Backend
        Where the vector lives.
    layer_sizes : sequence of int
        Units per layer, inputs first.
    bias : bool
        Whether layers have biases.
    extra : int
        Further elements behind `flat`, which travel with it in one message (`vector`).
    input_scale : bool
        Whether inputs have a scale s.
    members : int, optional
        How many networks; one, without an axis of its own, if not given.
    vector : array, optional
        What to be views of; zeros of their own if not given.

    Attributes
    ----------
    flat : array (size,), or (members, size)
        All weights and biases.
    vector : array (members × size + extra,)
        Everything, of which `flat` is a view.
    flat_weights : array (n_weights,), or (members, n_weights)
        The part of `flat` that holds weights: what penalties apply to.
    weights : list of arrays (n_in, n_out), or (members, n_in, n_out)
        W_1 … W_L, views of `flat`; 0-based.
    biases : list of arrays (n_out,), or (members, 1, n_out)
        b_1 … b_L, views of `flat`; empty without biases. Those of members are rows, as they are added to
        rows.
    input_scale : array (n_inputs, 1), or (members, n_inputs, 1), or None
        s, a view of `flat`: a column, as it multiplies the rows of W_1.
    size, n_weights : int
        Of one network.

    Raises
    ------
    TypeError
        The array library copies where a view is needed.
    """

    def __init__(
        self,
        backend: Backend,
        layer_sizes: Sequence[int],
        bias: bool,
        extra: int = 0,
        *,
        input_scale: bool = False,
        members: int | None = None,
        vector: Array = None,
    ) -> None:
        self.backend = backend
        self.layer_sizes = tuple(layer_sizes)
        self.bias, self.members = bias, members
        self._lead: tuple[int, ...] = () if members is None else (members,)
        row = () if members is None else (1,)
        weight_shapes = list(itertools.pairwise(layer_sizes))
        self.n_weights = sum(math.prod(shape) for shape in weight_shapes)
        self.most_weights = max(math.prod(shape) for shape in weight_shapes)
        self._most_of_one_unit = max((n_in for n_in, n_out in weight_shapes if n_out == 1), default=0)
        bias_shapes = [(*row, n_out) for n_out in layer_sizes[1:]] if bias else []
        scale_shapes = [(layer_sizes[0], 1)] if input_scale else []
        self.size = sum(math.prod(shape) for shape in [*weight_shapes, *bias_shapes, *scale_shapes])
        n_all = math.prod((*self._lead, self.size))
        self.vector = backend.zeros((n_all + extra,)) if vector is None else vector
        self.extra = self.vector[n_all:]
        self.flat = backend.xp.reshape(self.vector[:n_all], (*self._lead, self.size), copy=False)
        self.flat_weights = self.flat[..., : self.n_weights]
        views, start = [], 0
        for shape in [*weight_shapes, *bias_shapes, *scale_shapes]:
            stop = start + math.prod(shape)
            views.append(self._view(start, stop, shape))
            start = stop
        n_layers = len(weight_shapes)
        self.weights, self.biases = views[:n_layers], views[n_layers : n_layers + len(bias_shapes)]
        self.input_scale: Array = views[-1] if input_scale else None
        self._probe()

    def _view(self, start: int, stop: int, shape: tuple[int, ...]) -> Array:
        return self.backend.xp.reshape(self.flat[..., start:stop], (*self._lead, *shape), copy=False)

    def _probe(self) -> None:
        """Write one element of the vector and read it back through the first view."""
        library = self.backend.xp.__name__
        refusal = (
            f"{library} copies where mlp_xp needs views of one parameter vector. Use NumPy, CuPy, or another "
            "Array API library whose slices and reshapes are views that can be written."
        )
        try:
            before = float(self.vector[0])
            self.vector[:1] = self.backend.ones((1,))
        except TypeError as error:
            raise TypeError(refusal) from error
        seen = float(self.weights[0][*(0 for _ in self._lead), 0, 0])
        self.vector[:1] = before
        if seen != 1.0:
            raise TypeError(refusal)

    def largest_products(self, n_rows: int) -> tuple[int, int]:
        """Multiplications of a layer for so many rows, at most: with a vector, and of matrices."""
        if n_rows == 1:
            return self.most_weights, 0
        return n_rows * self._most_of_one_unit, n_rows * self.most_weights

    def zeros_like(self, extra: int = 0) -> "Parameters":
        """Zeros in the same layout: a gradient to fill."""
        return Parameters(**self._layout(), extra=extra)

    def _layout(self) -> dict[str, Any]:
        """What others of the same layout are made with."""
        return {
            "backend": self.backend,
            "layer_sizes": self.layer_sizes,
            "bias": self.bias,
            "input_scale": self.input_scale is not None,
            "members": self.members,
        }

    def each(self) -> "list[Parameters]":
        """Those of each member, as one network's, views of the same vector; itself alone without members."""
        if self.members is None:
            return [self]
        alone = {**self._layout(), "members": None}
        return [Parameters(**alone, vector=self.flat[n, ...]) for n in range(self.members)]

    def some(self, first: int, stop: int) -> "Parameters":
        """Those of some members, views of the same vector."""
        layout = {**self._layout(), "members": stop - first}
        return Parameters(**layout, vector=self.vector[first * self.size : stop * self.size])

    def set_layer(self, layer: int, weights: np.ndarray, biases: np.ndarray | None) -> None:
        """Copy host arrays into one layer (0-based)."""
        self.weights[layer][...] = self.backend.asarray(weights)
        if biases is not None and self.bias:
            self.biases[layer][...] = self.backend.asarray(biases)

    def set_input_scale(self, scale: np.ndarray) -> None:
        """Copy a host array (n_inputs,) into the scale of the inputs."""
        self.input_scale[...] = self.backend.asarray(np.reshape(scale, self.input_scale.shape))

    def are_finite(self) -> bool:
        """Whether none is infinite or nan; reads the device."""
        xp = self.backend.xp
        return bool(xp.all(xp.isfinite(self.flat)))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has a vector of its own, and views of that one."""
        return _with_vector, (self._layout(), to_host(self.vector).copy())

    def to_host(self) -> np.ndarray:
        """The vector as a host array of its own."""
        return to_host(self.flat).copy()


def _with_vector(layout: dict[str, Any], vector: np.ndarray) -> Parameters:
    """Parameters that are copied."""
    return Parameters(**layout, vector=layout["backend"].asarray(vector))
