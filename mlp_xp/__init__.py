"""Multilayer perceptrons trained by explicit, memoised backpropagation, on NumPy or CuPy.

The lesson, in the order to read it: `network`, `forward`, `backprop`, `losses`, `optimizers`, `objective`,
`training_loop`.
"""

from typing import Any

from mlp_xp.machine import data_parallel
from mlp_xp.network import Network
from mlp_xp.rows.loader import Loader
from mlp_xp.saved.model_file import load, save
from mlp_xp.saved.onnx_file import export_onnx
from mlp_xp.training_loop import Epoch, train

__version__ = "0.1.0"
__all__ = [
    "Epoch",
    "Loader",
    "MLPClassifier",
    "MLPRegressor",
    "Network",
    "data_parallel",
    "export_onnx",
    "load",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the estimators when they are asked for: they bring scikit-learn."""
    if name in ("MLPClassifier", "MLPRegressor"):
        from mlp_xp import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module 'mlp_xp' has no attribute {name!r}")
