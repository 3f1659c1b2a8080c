"""An ONNX graph while it is being built: values have names, operators make new values of others."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.machine.array_api import ArrayLike

OPSET = 19
"""The first version of the standard operators whose `Equal` compares texts."""

IR_VERSION = 9
"""The version of the file format that belongs to it."""

LARGEST = 2**31 - 1
"""Bytes that a protocol buffer may have."""

ROWS = "N"
"""The name of the axis whose length is not fixed."""


class Graph:
    """Inputs, operators and outputs, each value under a name of its own; none gets one of those `taken`.

    Raises ModuleNotFoundError: onnx is not installed.
    """

    def __init__(self, taken: Sequence[str]) -> None:
        try:
            import onnx
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "writing ONNX files needs the package onnx: pip install 'mlp-xp[onnx]'."
            ) from None
        self._onnx: Any = onnx
        self._taken, self._numbers = set(taken), itertools.count()
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="mlp_xp")
        self._model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
        # All is added in its place: kept apart at first, an input would be in memory three times.
        self._graph = self._model.graph
        self._graph.name = "mlp_xp"

    def _new_name(self, kind: str) -> str:
        return next(
            name for number in self._numbers if (name := f"{kind.lower()}_{number}") not in self._taken
        )

    def _value(self, name: str, dtype: str, n_columns: int | None) -> object:
        shape = [ROWS] if n_columns is None else [ROWS, n_columns]
        return self._onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: str) -> int:
        return int(getattr(self._onnx.TensorProto, DTYPES[dtype]))

    def input(self, name: str, dtype: str, n_columns: int) -> str:
        """A new input [N, n_columns]; its name."""
        self._graph.input.append(self._value(name, dtype, n_columns))
        return name

    def output(self, name: str, value: str, dtype: str, n_columns: int | None) -> None:
        """Give a value out under a name, [N, n_columns] or, for None, [N]."""
        self._graph.node.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._graph.output.append(self._value(name, dtype, n_columns))

    def constant(self, values: ArrayLike, dtype: str | None = None) -> str:
        """A tensor that the file holds: numbers with a dtype of NumPy's, or texts."""
        name = self._new_name("constant")
        array = np.asarray(values, dtype=dtype)
        if array.dtype.kind in "UO":
            texts = [str(text) for text in array.reshape(-1)]
            made = self._onnx.helper.make_tensor(name, self._type("str"), array.shape, texts)
        else:
            made = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._graph.initializer.append(made)
        return name

    def op(self, kind: str, *inputs: str, n_outputs: int = 1, **attributes: int) -> str:
        """A standard operator on values; the name of its first output."""
        names = [self._new_name(kind) for _ in range(n_outputs)]
        self._graph.node.append(self._onnx.helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def cast(self, value: str, dtype: str) -> str:
        """A value in another dtype."""
        return self.op("Cast", value, to=self._type(dtype))

    def columns(self, value: str, numbers: Sequence[int]) -> str:
        """Some columns of a value, in this order."""
        return self.op("Gather", value, self.constant(numbers, "int64"), axis=-1)

    def beside(self, values: Sequence[str]) -> str:
        """Values with the same rows, side by side."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=-1)

    def to_bytes(self, about: Mapping[str, str]) -> bytes:
        """The file, with metadata.

        Raises ValueError: it would be larger than an ONNX file may be.
        """
        model = self._model
        self._onnx.helper.set_model_props(model, dict(about))
        if model.ByteSize() > LARGEST:
            raise ValueError(
                f"the model takes {model.ByteSize():,} bytes, but an ONNX file holds {LARGEST:,}."
            )
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


DTYPES = {"float32": "FLOAT", "float64": "DOUBLE", "int64": "INT64", "bool": "BOOL", "str": "STRING"}
"""NumPy's names and ONNX's."""


def signature(content: bytes) -> dict[str, list[dict[str, Any]]]:
    """What goes in and what comes out of an ONNX file: "inputs" and "outputs" with name, dtype and shape."""
    import onnx

    graph = onnx.load_from_string(content).graph
    names = {getattr(onnx.TensorProto, theirs): ours for ours, theirs in DTYPES.items()}
    return {
        part: [
            {
                "name": value.name,
                "dtype": names[value.type.tensor_type.elem_type],
                "shape": [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
            }
            for value in values
        ]
        for part, values in (("inputs", graph.input), ("outputs", graph.output))
    }
