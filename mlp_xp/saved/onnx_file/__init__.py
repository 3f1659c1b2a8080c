"""Models as ONNX files: from raw columns to predictions, with standard operators alone."""

from mlp_xp.saved.onnx_file.graph import signature
from mlp_xp.saved.onnx_file.model import export_onnx, onnx_bytes

__all__ = ["export_onnx", "onnx_bytes", "signature"]
