"""All weights and biases as ONE flat vector, with a view per layer.

    flat = [W_1 | … | W_L | b_1 | … | b_L]

Update, penalty, clipping, all-reduce, L-BFGS, best-so-far and checkpoint are then one call each on `flat`.
A gradient has the same layout and is a `Parameters` too.

The Array API does not promise that a reshaped slice is a view. It is one in NumPy, CuPy and PyTorch; a
library that copies (JAX) is refused here, by name.
"""

import itertools
import math
from collections.abc import Sequence

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

    Raises
    ------
    TypeError
        The array library copies where a view is needed.
    """

    def __init__(self, backend: Backend, layer_sizes: Sequence[int], bias: bool, extra: int = 0) -> None:
        self.backend = backend
        self.layer_sizes = tuple(layer_sizes)
        self.bias = bias
        weight_shapes = list(itertools.pairwise(layer_sizes))
        self.n_weights = sum(math.prod(shape) for shape in weight_shapes)
        bias_shapes = [(n_out,) for n_out in layer_sizes[1:]] if bias else []
        self.size = self.n_weights + sum(n for (n,) in bias_shapes)
        self.vector = backend.zeros((self.size + extra,))
        self.flat = self.vector[: self.size]
        self.flat_weights = self.flat[: self.n_weights]
        views, start = [], 0
        for shape in [*weight_shapes, *bias_shapes]:
            stop = start + math.prod(shape)
            views.append(self._view(start, stop, shape))
            start = stop
        self.weights, self.biases = views[: len(weight_shapes)], views[len(weight_shapes) :]
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
        return Parameters(self.backend, self.layer_sizes, self.bias, extra)

    def set_layer(self, layer: int, weights: np.ndarray, biases: np.ndarray | None) -> None:
        """Copy host arrays into one layer (0-based)."""
        self.weights[layer][...] = self.backend.asarray(weights)
        if biases is not None and self.bias:
            self.biases[layer][...] = self.backend.asarray(biases)

    def are_finite(self) -> bool:
        """Whether none is infinite or nan; reads the device."""
        xp = self.backend.xp
        return bool(xp.all(xp.isfinite(self.flat)))

    def to_host(self) -> np.ndarray:
        """The vector as a host array of its own."""
        return to_host(self.flat).copy()
