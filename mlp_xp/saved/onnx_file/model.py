"""A network, a fitted estimator or a table model as an ONNX file."""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.network import Network
from mlp_xp.saved.model_file import Model, TableEstimator, no_model, without_contract
from mlp_xp.saved.onnx_file.columns import features, matrix_problem
from mlp_xp.saved.onnx_file.graph import Graph
from mlp_xp.saved.onnx_file.network import Layers, functions_of
from mlp_xp.saved.onnx_file.pipeline import Pipeline, with_steps_before
from mlp_xp.settings import checks
from mlp_xp.settings.precision import is_coarse
from mlp_xp.settings.spelling import given
from mlp_xp.tables.files.one_value import Gaps
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.version import VERSION

MATRIX = "X"
"""The name of the one input of a file with `matrix_input`."""

OUTPUTS = ("prediction", "label", "probabilities")


def export_onnx(
    model: Model | TableEstimator | Pipeline,
    path: str | os.PathLike[str],
    *,
    matrix_input: bool = False,
    example: ArrayLike | None = None,
) -> None:
    """Write a model as an ONNX file: from raw columns to predictions, with standard operators alone.

    Inputs are float32 [N, 1] for numbers and booleans (NaN is a gap), text [N, 1] ("" is a gap) and int64
    [N, 1] for dates (seconds since 1970 UTC; the least int64 is a gap), each named as its column; or one
    float32 matrix X [N, n_columns], for columns without names too. Numbers whose float32 steps are coarse
    against their spread are float64, and so are such predictions. Outputs are `prediction` [N, n_outputs] in
    the targets' units, or `label` [N] and `probabilities` [N, n_classes], in the dtype of the network. Of
    several labels a row, `label` is [N, n_labels].

    Booleans are 0 and 1: predictions for rows with other numbers there are nan.

    Parameters
    ----------
    model : Network, TableModel, fitted estimator, or Pipeline that ends in one
        Steps before the last are written by skl2onnx, which must be installed.
    path : path
        Usually ``*.onnx``. Replaced at once, when the new file is complete.
    matrix_input : bool
        One input X instead of one a column.
    example : array or DataFrame, optional
        For a pipeline: a few rows, whose columns and types become the inputs; one float32 X if not given.

    Raises
    ------
    ValueError
        The model cannot be written so; the message says why.
    ModuleNotFoundError
        onnx is not installed, or skl2onnx for a pipeline.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import onnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_onnx(Network((3, 8, 1), seed=0), f"{folder}/model.onnx")
    ...     [value.name for value in onnx.load(f"{folder}/model.onnx").graph.output]
    ['prediction']
    """
    write_whole(path, onnx_bytes(model, matrix_input=matrix_input, example=example))


def onnx_bytes(
    model: Model | TableEstimator | Pipeline, *, matrix_input: bool = False, example: ArrayLike | None = None
) -> bytes:
    """What `export_onnx` writes; the same model gives the same bytes."""
    if isinstance(model, Pipeline):
        return with_steps_before(model, onnx_bytes(model[-1], matrix_input=True), example)
    model = without_contract(model)
    parts = _parts(model)
    functions_of(parts.network)
    checks.refuse([matrix_problem(parts.inputs) if matrix_input else _names_problem(parts.inputs.names)])
    matrix = MATRIX if matrix_input or not parts.has_names else None
    graph = Graph([*parts.inputs.names, MATRIX, *OUTPUTS])
    dtype = parts.network.backend.dtype_name
    layers = Layers(graph, dtype)
    x, neither = features(graph, parts.inputs, matrix=matrix, gaps=parts.gaps)
    found = layers.outputs(parts.network, graph.cast(x, dtype))

    def known(value: str, dtype: str) -> str:
        """Outputs, nan where a boolean is neither true nor false."""
        return value if neither is None else graph.op("Add", value, graph.cast(neither, dtype))

    n_outputs = parts.network.layer_sizes[-1]
    if parts.classes is not None:
        _give_classes(layers, known(found, dtype), parts, parts.classes)
    elif parts.targets is not None:
        coarse = map(is_coarse, parts.targets.means, parts.targets.scales)
        units = "float64" if any(coarse) else dtype
        restored = _restored(graph, found, parts.targets, units, n_outputs)
        graph.output("prediction", known(restored, units), units, n_outputs)
    else:
        graph.output("prediction", found, dtype, n_outputs)
    return graph.to_bytes(_about(model))


def _about(model: object) -> dict[str, str]:
    """The metadata: by which version it was written, and of a table how it was trained, as JSON."""
    known = {"mlp_xp": VERSION}
    if isinstance(model, TableModel) and model.training:
        known["training"] = json.dumps(model.training, sort_keys=True)
        known["ranges"] = json.dumps(model.inputs.ranges, sort_keys=True)
    return known


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the three kinds of models are made of.

    Attributes
    ----------
    has_names : bool
        Whether the columns have names of the user's.
    targets : Targets or None
        How predictions come to the user's units; None: they are there.
    classes : list of array, or None
        The classes of each target; None where numbers are predicted.
    many_labels : bool
        Whether each output is a label by itself, which is there (1) or not (0).
    gaps : Gaps or None
        What stands for a gap, where that is known.
    """

    network: Network
    inputs: Inputs
    has_names: bool
    targets: Targets | None = None
    classes: Sequence[ArrayLike] | None = None
    many_labels: bool = False
    gaps: Gaps | None = None


def _parts(model: Model) -> Parts:
    if isinstance(model, TableModel):
        classes = None if model.levels is None else [np.array(model.levels, dtype=object)]
        return Parts(model.network, model.inputs, True, model.targets, classes, gaps=model.written.gaps)
    if isinstance(model, Network):
        n_inputs, n_outputs = model.layer_sizes[0], model.layer_sizes[-1]
        classes = [np.arange(n_outputs)] if model.output.probabilities == "together" else None
        return Parts(model, Inputs.plain([f"x{i}" for i in range(n_inputs)]), False, None, classes)
    if not hasattr(model, "network"):
        raise no_model(model, "exported")
    names = getattr(model, "feature_names_in_", None)
    n_inputs = model.network.layer_sizes[0]
    inputs = Inputs.plain([f"x{i}" for i in range(n_inputs)] if names is None else [*map(str, names)])
    known = getattr(model, "classes_", None)
    if known is None:
        return Parts(model.network, inputs, names is not None)
    classes = list(known) if isinstance(known, list) else [np.asarray(known)]
    if len(classes[0]) == 1:
        raise ValueError(
            f"this model knows a single class, {str(classes[0][0])!r}: there is nothing to export."
        )
    many_labels = model.network.output.probabilities == "each" and model.network.layer_sizes[-1] > 1
    return Parts(model.network, inputs, names is not None, None, classes, many_labels)


def _names_problem(names: Sequence[str]) -> str | None:
    """Why columns cannot be inputs under their names; None if they can."""
    wrong = [name for name in names if name in OUTPUTS or not name]
    if not wrong:
        return None
    return (
        f"column {', '.join(map(repr, wrong))}: an ONNX file has its outputs under the names "
        f"{', '.join(OUTPUTS)}, and no empty name. Rename the column and train again, or use "
        f"{given('matrix_input', True)}."
    )


def _restored(graph: Graph, z: str, targets: Targets, dtype: str, n_outputs: int) -> str:
    """Predictions in the targets' units: mean + scale · z, in float64 as `Targets.restore`."""
    if targets == Targets.unscaled(targets.names):
        return z
    repeat = n_outputs // len(targets.names)
    scales, means = (
        graph.constant(np.repeat(each, repeat), "float64") for each in (targets.scales, targets.means)
    )
    exact = graph.op("Add", graph.op("Mul", graph.cast(z, "float64"), scales), means)
    if targets.limits:
        least, most = (
            graph.constant(np.repeat(bound, repeat), "float64") for bound in zip(*targets.limits, strict=True)
        )
        exact = graph.op("Min", graph.op("Max", exact, least), most)
    return graph.cast(exact, dtype)


def _give_classes(layers: Layers, p: str, parts: Parts, classes: Sequence[ArrayLike]) -> None:
    """The outputs `label` and `probabilities` from what the network predicts."""
    graph, n_outputs = layers.graph, parts.network.layer_sizes[-1]
    if parts.many_labels:
        label = graph.cast(layers.op("Greater", p, 0.5), "int64")
        graph.output("label", label, "int64", n_outputs)
        graph.output("probabilities", p, layers.dtype, n_outputs)
        return
    if n_outputs == 1:
        p = graph.beside([layers.op("Sub", 1.0, p), p])
    known = [_plain_labels(each) for each in classes]
    stops = np.cumsum([len(each) for each in known]).tolist()
    if len(known) == 1:
        chosen = graph.op("ArgMax", p, axis=1, keepdims=0)
        label = graph.op("Gather", graph.constant(known[0]), chosen)
    else:
        labels = []
        for stop, each in zip(stops, known, strict=True):
            group = graph.columns(p, range(stop - len(each), stop))
            labels.append(graph.op("Gather", graph.constant(each), graph.op("ArgMax", group, axis=1)))
        label = graph.beside(labels)
    dtype = "str" if known[0].dtype.kind == "O" else known[0].dtype.name
    graph.output("label", label, dtype, None if len(known) == 1 else len(known))
    graph.output("probabilities", p, layers.dtype, stops[-1])


def _plain_labels(classes: ArrayLike) -> np.ndarray:
    """Names of classes as int64, float64 or bool where that keeps them, else as texts."""
    labels = np.asarray(classes)
    plain = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}.get(labels.dtype.kind)
    if plain is None or (labels.dtype.kind == "u" and labels.max() > np.iinfo(np.int64).max):
        return labels.astype(str).astype(object)
    return labels.astype(plain)
