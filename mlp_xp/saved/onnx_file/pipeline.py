"""A pipeline of scikit-learn as an ONNX file: its steps before the last are skl2onnx's, the last is ours."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.saved.onnx_file.graph import OPSET


@runtime_checkable
class Pipeline(Protocol):
    """What is asked of a pipeline of scikit-learn."""

    steps: list[Any]

    @property
    def n_features_in_(self) -> int:
        """Columns of what it is given."""

    def __getitem__(self, at: Any) -> Any:
        """A step, or a pipeline of some."""


def with_steps_before(pipeline: Pipeline, last: bytes, example: ArrayLike | None) -> bytes:
    """The file of a pipeline's last step with the other steps before it.

    Raises ModuleNotFoundError: skl2onnx is not installed; ValueError: columns have names, and no example says
    of which type they are.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted.
    last : bytes
        A file with one input, the matrix that the last step is given.
    example : array or DataFrame, or None
        A few rows, whose columns and types become the file's inputs; for None, float32 numbers.
    """
    try:
        import skl2onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "writing a pipeline as an ONNX file needs the package skl2onnx: pip install skl2onnx.",
            name="skl2onnx",
        ) from None
    import onnx

    if example is None:
        if hasattr(pipeline, "feature_names_in_"):
            raise ValueError(
                "example=None: the pipeline's columns have names; give a few rows as an example: "
                "export_onnx(pipeline, path, example=X[:5])."
            )
        example = np.zeros((1, pipeline.n_features_in_), np.float32)
    before = skl2onnx.to_onnx(pipeline[:-1], example, target_opset={"": OPSET, "ai.onnx.ml": 3})
    after = onnx.load_from_string(last)
    (given,), (taken,) = before.graph.output, after.graph.input
    cast = onnx.helper.make_node("Cast", [given.name], ["mlp_xp_input"], to=taken.type.tensor_type.elem_type)
    before.graph.node.append(cast)
    given.name = "mlp_xp_input"
    given.type.tensor_type.elem_type = taken.type.tensor_type.elem_type
    before.ir_version = after.ir_version
    merged = onnx.compose.merge_models(
        before,
        onnx.compose.add_prefix(after, "mlp_xp_", rename_inputs=True, rename_outputs=False),
        io_map=[("mlp_xp_input", f"mlp_xp_{taken.name}")],
    )
    onnx.checker.check_model(merged, full_check=True)
    return bytes(merged.SerializeToString(deterministic=True))
