"""Multilayer perceptrons trained by explicit, memoised backpropagation, on NumPy or CuPy.

Arrays are trained on by `Network`, `Loader` and `train`, or in scikit-learn's place by `MLPClassifier` and
`MLPRegressor`; tables by `fit_table` and `tune`, or in scikit-learn's contract by `TableClassifier` and
`TableRegressor`. `save`, `load` and `export_onnx` write and read models.

The lesson, in the order to read it: `network`, `forward`, `backprop`, `losses`, `optimizers`, `objective`,
`training_loop`.
"""

from mlp_xp.version import VERSION

TYPE_CHECKING = False  # as typing's, which takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from mlp_xp.estimators import MLPClassifier, MLPRegressor
    from mlp_xp.in_python.table_estimators import TableClassifier, TableRegressor
    from mlp_xp.in_python.table_model import TableModel, fit_table, load, save
    from mlp_xp.in_python.tune import tune
    from mlp_xp.machine import data_parallel
    from mlp_xp.network import Network
    from mlp_xp.report.learning_rate import find_learning_rate
    from mlp_xp.rows.loader import Loader
    from mlp_xp.run.epoch import Epoch
    from mlp_xp.saved.onnx_file import export_onnx
    from mlp_xp.training import train

__version__ = VERSION
__all__ = [
    "Epoch",
    "Loader",
    "MLPClassifier",
    "MLPRegressor",
    "Network",
    "TableClassifier",
    "TableModel",
    "TableRegressor",
    "data_parallel",
    "export_onnx",
    "find_learning_rate",
    "fit_table",
    "load",
    "save",
    "train",
    "tune",
]

_PLACES = {
    "Epoch": "run.epoch",
    "Loader": "rows.loader",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "Network": "network",
    "TableClassifier": "in_python.table_estimators",
    "TableModel": "in_python.table_model",
    "TableRegressor": "in_python.table_estimators",
    "data_parallel": "machine",
    "export_onnx": "saved.onnx_file",
    "find_learning_rate": "report.learning_rate",
    "fit_table": "in_python.table_model",
    "load": "in_python.table_model",
    "save": "in_python.table_model",
    "train": "training",
    "tune": "in_python.tune",
}
"""Where each name is, below this package."""


def __getattr__(name: str) -> "Any":
    """Import a name, or a file of the package, when it is asked for: `mlp-xp --version` needs no NumPy."""
    import importlib.util

    if name in _PLACES:
        place = importlib.import_module(f"mlp_xp.{_PLACES[name]}")
        return getattr(place, name, None) or importlib.import_module(f"mlp_xp.{_PLACES[name]}.{name}")
    if not name.startswith("_") and importlib.util.find_spec(f"mlp_xp.{name}") is not None:
        return importlib.import_module(f"mlp_xp.{name}")
    raise AttributeError(f"module 'mlp_xp' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What users are meant to find."""
    return [*__all__, "__version__"]
