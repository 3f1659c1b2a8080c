"""Layers, activations and links as operators that exist for float32 and float64 alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

from mlp_xp.activations import (
    Activation,
    Custom,
    Elu,
    Gelu,
    Identity,
    LeakyRelu,
    Logistic,
    Mish,
    Relu,
    Selu,
    Silu,
    Softplus,
    Tanh,
)
from mlp_xp.losses import (
    ExpLink,
    GroupedSoftmaxLink,
    IdentityLink,
    LogisticLink,
    SoftmaxLink,
    SortedLink,
    group_columns,
)
from mlp_xp.machine.array_api import to_host
from mlp_xp.network import Network, activation_name
from mlp_xp.saved.onnx_file.graph import Graph
from mlp_xp.settings import checks


@dataclasses.dataclass(frozen=True)
class Layers:
    """A graph, and the dtype of the arithmetic that is added to it.

    Attributes
    ----------
    graph : Graph
    dtype : str
        "float32" or "float64".
    """

    graph: Graph
    dtype: str

    def number(self, value: float) -> str:
        """A constant of the dtype."""
        return self.graph.constant(value, self.dtype)

    def op(self, kind: str, *values: str | float, **attributes: int) -> str:
        """An operator on values and numbers."""
        named = [self.number(value) if isinstance(value, float) else value for value in values]
        return self.graph.op(kind, *named, **attributes)

    def elu(self, z: str, alpha: float) -> str:
        """z where z > 0, else α (e^z − 1)."""
        below = self.op("Sub", self.op("Exp", self.op("Min", z, 0.0)), 1.0)
        return self.op("Add", self.op("Relu", z), self.op("Mul", below, alpha))

    def softplus(self, z: str) -> str:
        """max(z, 0) + log(1 + e^−|z|)."""
        e = self.op("Exp", self.op("Neg", self.op("Abs", z)))
        return self.op("Add", self.op("Relu", z), self.op("Log", self.op("Add", e, 1.0)))

    def gelu(self, z: str) -> str:
        """z/2 (1 + tanh(c (z + k z³)))."""
        bounded = self.op("Max", self.op("Min", z, 100.0), -100.0)
        cubic = self.op("Mul", self.op("Mul", bounded, bounded), Gelu.k)
        inner = self.op("Mul", self.op("Mul", bounded, Gelu.c), self.op("Add", cubic, 1.0))
        return self.op("Mul", z, self.op("Mul", self.op("Add", self.op("Tanh", inner), 1.0), 0.5))

    def activated(self, activation: Activation, z: str) -> str:
        """a = f(z)."""
        return ACTIVATIONS[type(activation)](self, activation, z)

    def outputs(self, network: Network, x: str) -> str:
        """What `Network.predict` gives for x [N, n_features] of the dtype: [N, n_outputs]."""
        a = x
        for layer, (weights, biases, activation) in enumerate(network.layers):
            if layer == 0 and network.parameters.input_scale is not None:
                weights = weights * network.parameters.input_scale
            z = self.op("MatMul", a, self.graph.constant(to_host(weights), self.dtype))
            if biases is not None:
                z = self.op("Add", z, self.graph.constant(to_host(biases), self.dtype))
            a = self.activated(activation, z)
        return LINKS[type(network.output)](self, network.output, a)

    def softmax_of_groups(self, z: str, groups: tuple[int, ...]) -> str:
        """Softmax over each group of neighbouring columns."""
        parts = [
            self.op("Softmax", self.graph.columns(z, range(columns.start, columns.stop)), axis=1)
            for columns in group_columns(groups)
        ]
        return self.graph.beside(parts)

    def in_order(self, z: str, n_quantiles: int) -> str:
        """Each group of `n_quantiles` neighbouring columns in ascending order."""
        grouped = self.op("Reshape", z, self.graph.constant([0, -1, n_quantiles], "int64"))
        largest = self.graph.constant([n_quantiles], "int64")
        ascending = self.graph.op("TopK", grouped, largest, n_outputs=2, axis=2, largest=0)
        return self.op("Reshape", ascending, self.op("Shape", z))


Written = Callable[[Layers, Any, str], str]

ACTIVATIONS: dict[type, Written] = {
    Identity: lambda to, f, z: z,
    Logistic: lambda to, f, z: to.op("Sigmoid", z),
    Tanh: lambda to, f, z: to.op("Tanh", z),
    Relu: lambda to, f, z: to.op("Relu", z),
    LeakyRelu: lambda to, f, z: to.op("Max", z, to.op("Mul", z, f.slope)),
    Elu: lambda to, f, z: to.elu(z, f.alpha),
    Selu: lambda to, f, z: to.op("Mul", to.elu(z, f.alpha), f.scale),
    Softplus: lambda to, f, z: to.softplus(z),
    Silu: lambda to, f, z: to.op("Mul", z, to.op("Sigmoid", z)),
    Gelu: lambda to, f, z: to.gelu(z),
    Mish: lambda to, f, z: to.op("Mul", z, to.op("Tanh", to.softplus(z))),
}

LINKS: dict[type, Written] = {
    IdentityLink: lambda to, link, z: z,
    LogisticLink: lambda to, link, z: to.op("Sigmoid", z),
    SoftmaxLink: lambda to, link, z: to.op("Softmax", z, axis=1),
    ExpLink: lambda to, link, z: to.op("Exp", z),
    SortedLink: lambda to, link, z: to.in_order(z, link.n_quantiles),
    GroupedSoftmaxLink: lambda to, link, z: to.softmax_of_groups(z, link.groups),
}


def check_activations(network: Network) -> None:
    """Refuse a network with activations of the user's own, or that nobody has written in operators.

    Raises
    ------
    ValueError
        With their names.
    """
    checks.refuse(
        f"the activation {f.name!r} is its user's own Python code, which an ONNX file cannot hold: train "
        "with one of the catalogue."
        for f in network.activations
        if isinstance(f, Custom)
    )
    checks.refuse(
        f"the activation {activation_name(f)!r} has no form in ONNX's operators yet: write it in "
        "ACTIVATIONS of mlp_xp/saved/onnx_file/network.py, or train with another one."
        for f in network.activations
        if type(f) not in ACTIVATIONS
    )
