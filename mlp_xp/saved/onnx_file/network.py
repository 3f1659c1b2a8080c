"""Layers, activations and links as operators that exist for float32 and float64 alike.

What is computed of each element follows from the code itself, as a `Program`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from mlp_xp import losses, own
from mlp_xp.activations import Activation, Custom, Logistic, Relu
from mlp_xp.fast import programs
from mlp_xp.losses import GroupedSoftmaxLink, Link, SoftmaxLink, SortedLink, group_columns
from mlp_xp.machine.array_api import to_host
from mlp_xp.machine.symbolic import Program
from mlp_xp.network import Network, activation_name
from mlp_xp.saved.onnx_file.graph import Graph
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import known_name

OPERATORS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "negative": "Neg",
    "absolute": "Abs",
    "where": "Where",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "equal": "Equal",
}
"""Of a program's operations."""

SHORTER: dict[str, Activation] = {"Relu": Relu(), "Sigmoid": Logistic()}
"""Operators that stand for several of those."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """A graph, and the dtype of the arithmetic that is added to it: "float32" or "float64"."""

    graph: Graph
    dtype: str

    def number(self, value: float) -> str:
        """A constant of the dtype."""
        return self.graph.constant(value, self.dtype)

    def op(self, kind: str, *values: str | float, **attributes: int) -> str:
        """An operator on values and numbers."""
        named = [self.number(value) if isinstance(value, float) else value for value in values]
        return self.graph.op(kind, *named, **attributes)

    def computed(self, program: Program, x: str) -> str:
        """The first output of a program of one input."""
        known = {kind: programs.of_prediction(f, self.dtype) for kind, f in SHORTER.items()}

        @functools.cache
        def at(place: int) -> str:
            name, *places = program.steps[place]
            for kind, both in known.items():
                inputs = both and inputs_of(both, program, place)
                if inputs:
                    return self.op(kind, *map(at, inputs))
            match name:
                case "input":
                    return x
                case "number":
                    return self.number(program.numbers[places[0]])
                case "expm1":
                    return self.op("Sub", self.op("Exp", *map(at, places)), 1.0)
                case "log1p":
                    return self.op("Log", self.op("Add", *map(at, places), 1.0))
                case "not_equal":
                    return self.op("Not", self.op("Equal", *map(at, places)))
            return self.op(OPERATORS[name], *map(at, places))

        return at(program.outputs[0])

    def outputs(self, network: Network, x: str) -> str:
        """What `Network.predict` gives for x [N, n_features] of the dtype: [N, n_outputs].

        The values of members have an axis for them before N until they are averaged.
        """
        a, functions = x, functions_of(network)
        for layer, (program, (weights, biases, _)) in enumerate(zip(functions, network.layers, strict=True)):
            if layer == 0 and network.parameters.input_scale is not None:
                weights = weights * network.parameters.input_scale
            z = self.op("MatMul", a, self.graph.constant(to_host(weights), self.dtype))
            if biases is not None:
                z = self.op("Add", z, self.graph.constant(to_host(biases), self.dtype))
            a = self.computed(program, z)
        predictions = self.linked(network.output, a)
        if network.members is None:
            return predictions
        return self.op("ReduceMean", predictions, self.graph.constant([0], "int64"), keepdims=0)

    def linked(self, link: Link, z: str) -> str:
        """The predictions."""
        program = programs.of_prediction(link, self.dtype)
        return LINKS[type(link)](self, link, z) if program is None else self.computed(program, z)

    def softmax_of_groups(self, z: str, groups: tuple[int, ...]) -> str:
        """Softmax over each group of neighbouring columns."""
        parts = [
            self.op("Softmax", self.graph.columns(z, range(columns.start, columns.stop)), axis=-1)
            for columns in group_columns(groups)
        ]
        return self.graph.beside(parts)

    def in_order(self, z: str, n_quantiles: int) -> str:
        """Each group of `n_quantiles` neighbouring columns in ascending order."""
        parts = [self.op("Shape", z, end=-1), self.graph.constant([-1, n_quantiles], "int64")]
        grouped = self.op("Reshape", z, self.op("Concat", *parts, axis=0))
        largest = self.graph.constant([n_quantiles], "int64")
        ascending = self.graph.op("TopK", grouped, largest, n_outputs=2, axis=-1, largest=0)
        return self.op("Reshape", ascending, self.op("Shape", z))


LINKS: dict[type, Callable[[Layers, Any, str], str]] = {
    SoftmaxLink: lambda to, link, z: to.op("Softmax", z, axis=-1),
    SortedLink: lambda to, link, z: to.in_order(z, link.n_quantiles),
    GroupedSoftmaxLink: lambda to, link, z: to.softmax_of_groups(z, link.groups),
}
"""Links that are more than a function of each element."""


def inputs_of(pattern: Program, program: Program, place: int) -> set[int] | None:
    """The place of a pattern's input, if a program computes at a place what the pattern does; else None."""

    def found(place: int, its_place: int) -> set[int] | None:
        (name, *places), (its_name, *its_places) = program.steps[place], pattern.steps[its_place]
        if its_name == "input":
            return {place}
        if name != its_name:
            return None
        if name == "number":
            return set() if program.numbers[places[0]] == pattern.numbers[its_places[0]] else None
        parts = [found(*both) for both in zip(places, its_places, strict=True)]
        return None if None in parts else set().union(*filter(None, parts))

    inputs = found(place, pattern.outputs[0])
    return inputs if inputs and len(inputs) == 1 else None


def functions_of(network: Network) -> list[Program]:
    """What each layer's activation computes.

    Raises ValueError: some are the user's own, or use what has no form, as the output may; with their names.
    """
    checks.refuse(
        f"the activation {f.name!r} is its user's own Python code, which an ONNX file cannot hold: train "
        "with one of the catalogue."
        for f in network.activations
        if isinstance(f, Custom)
    )
    dtype, link = network.backend.dtype_name, network.output
    found = {f: programs.of_prediction(f, dtype) for f in network.activations}
    without: dict[str, Activation | Link] = {
        f"activation {activation_name(f)!r}": f for f, program in found.items() if program is None
    }
    if type(link) not in LINKS and programs.of_prediction(link, dtype) is None:
        without[f"output {known_name(losses.LINKS, link) or own.name_of(link)!r}"] = link
    checks.refuse(
        f"the {what} has no form in ONNX's operators: {_why_not(piece, dtype)}. Train with another one."
        for what, piece in without.items()
    )
    return [program for f in network.activations if (program := found[f])]


def _why_not(piece: Activation | Link, dtype: str) -> str:
    missing = programs.missing_in(piece, dtype)
    return f"it uses {missing}, which has none" if missing else "it is more than a formula of each element"
