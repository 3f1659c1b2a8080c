"""All weights and biases as ONE flat vector, with a view per layer.

    flat = [W_1 | … | W_L | b_1 | … | b_L | s]

Update, penalty, clipping, all-reduce, L-BFGS, best-so-far and checkpoint are then one call each on `flat`.
A gradient has the same layout and is a `Parameters` too.

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

    Attributes
    ----------
    flat : array (size,)
        All weights and biases.
    vector : array (size + extra,)
        Everything, of which `flat` is a view.
    flat_weights : array (n_weights,)
        The part of `flat` that holds weights: what penalties apply to.
    weights : list of arrays (n_in, n_out)
        W_1 … W_L, views of `flat`; 0-based.
    biases : list of arrays (n_out,)
        b_1 … b_L, views of `flat`; empty without biases.
    input_scale : array (n_inputs, 1) or None
        s, a view of `flat`: a column, as it multiplies the rows of W_1.

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
    ) -> None:
        self.backend = backend
        self.layer_sizes = tuple(layer_sizes)
        self.bias = bias
        weight_shapes = list(itertools.pairwise(layer_sizes))
        self.n_weights = sum(math.prod(shape) for shape in weight_shapes)
        self.most_weights = max(math.prod(shape) for shape in weight_shapes)
        bias_shapes = [(n_out,) for n_out in layer_sizes[1:]] if bias else []
        scale_shapes = [(layer_sizes[0], 1)] if input_scale else []
        self.size = sum(math.prod(shape) for shape in [*weight_shapes, *bias_shapes, *scale_shapes])
        self.vector = backend.zeros((self.size + extra,))
        self.flat = self.vector[: self.size]
        self.flat_weights = self.flat[: self.n_weights]
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
        return self.backend.xp.reshape(self.flat[start:stop], shape, copy=False)

    def _probe(self) -> None:
        """Write one element of the vector and read it back through the first view."""
        library = self.backend.xp.__name__
        refusal = (
            f"{library} copies where mlp_xp needs views of one parameter vector. Use NumPy, CuPy, or another "
            "Array API library whose slices and reshapes are views that can be written."
        )
        try:
            self.flat[:1] = self.backend.ones((1,))
        except TypeError as error:
            raise TypeError(refusal) from error
        seen = float(self.weights[0][0, 0])
        self.flat[:1] = self.backend.zeros((1,))
        if seen != 1.0:
            raise TypeError(refusal)

    def zeros_like(self, extra: int = 0) -> "Parameters":
        """Zeros in the same layout: a gradient to fill."""
        has_scale = self.input_scale is not None
        return Parameters(self.backend, self.layer_sizes, self.bias, extra, input_scale=has_scale)

    def set_layer(self, layer: int, weights: np.ndarray, biases: np.ndarray | None) -> None:
        """Copy host arrays into one layer (0-based)."""
        self.weights[layer][...] = self.backend.asarray(weights)
        if biases is not None and self.bias:
            self.biases[layer][...] = self.backend.asarray(biases)

    def set_input_scale(self, scale: np.ndarray) -> None:
        """Copy a host array (n_inputs,) into the scale of the inputs."""
        self.input_scale[...] = self.backend.asarray(np.reshape(scale, (-1, 1)))

    def are_finite(self) -> bool:
        """Whether none is infinite or nan; reads the device."""
        xp = self.backend.xp
        return bool(xp.all(xp.isfinite(self.flat)))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has a vector of its own, and views of that one."""
        extra, has_scale = self.vector.shape[0] - self.size, self.input_scale is not None
        arguments = (self.backend, self.layer_sizes, self.bias, extra, has_scale)
        return _with_vector, (*arguments, to_host(self.vector).copy())

    def to_host(self) -> np.ndarray:
        """The vector as a host array of its own."""
        return to_host(self.flat).copy()


def _with_vector(
    backend: Backend, layer_sizes: Sequence[int], bias: bool, extra: int, has_scale: bool, vector: np.ndarray
) -> Parameters:
    """Parameters that are copied."""
    made = Parameters(backend, layer_sizes, bias, extra, input_scale=has_scale)
    made.vector[...] = backend.asarray(vector)
    return made
