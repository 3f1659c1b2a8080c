"""A fitted estimator as a JSON document beside its network, and back: what a model file holds of it.

The optimizer's state is not in it: an estimator that was loaded predicts, and trains anew.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlp_xp.activations import ACTIVATIONS, Custom
from mlp_xp.estimators.parameters import Parameters
from mlp_xp.estimators.targets import Labels
from mlp_xp.initializers import INITIALIZERS, Given
from mlp_xp.losses import LOSSES
from mlp_xp.network import Network
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.schedules import SCHEDULES
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import describe

HISTORY = (
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "validation_loss_curve_",
    "best_validation_loss_",
    "_no_improvement_count",
)
"""Attributes that epochs go on with, and that a fit from the start forgets."""

FITTED = (
    "n_features_in_",
    "n_iter_",
    "t_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "stopped_",
    *HISTORY,
)
"""Attributes that are numbers, texts or lists of them."""


def description_of(estimator: Parameters) -> dict[str, Any]:
    """What `estimator_of` reads back.

    Random states, callbacks and scorers that are no names are left out, as are given weights: what a
    file holds is never run.

    Raises ValueError: its loss, update rule, schedule or penalty is a user's own.
    """
    known = {kind for each in (LOSSES, OPTIMIZERS, SCHEDULES, REGULARIZERS) for kind in each.values()}
    own = [
        f"{name}={value!r} is its user's own Python code, which a model file cannot hold: save the network "
        "alone (`save(model.network, path)`)."
        for name, value in estimator.get_params(deep=False).items()
        if name in ("loss", "solver", "learning_rate", "regularizer")
        and not isinstance(value, str | Mapping | float | int | None)
        and type(value) not in known
    ]
    checks.refuse(own)
    fitted = {name: vars(estimator)[name] for name in FITTED if name in vars(estimator)}
    document = {
        "class": type(estimator).__name__,
        "parameters": {name: to_json(value) for name, value in estimator.get_params(deep=False).items()},
        "fitted": {name: to_json(value) for name, value in fitted.items()},
    }
    if hasattr(estimator, "feature_names_in_"):
        document["feature_names"] = list(estimator.feature_names_in_)
    labels = getattr(estimator, "_labels", None)
    if labels is not None:
        document["labels"] = {
            "kind": labels.kind,
            "sparse": labels.sparse,
            "classes": [{"dtype": c.dtype.str, "values": _as_json(c)} for c in labels.of_each],
        }
    return document


def estimator_of(
    kinds: Mapping[str, type[Parameters]], document: Mapping[str, Any], network: Network
) -> Parameters:
    """The estimator of a document and its network, on whose device it is; `kinds` are the classes by name."""
    kind = kinds[document["class"]]
    estimator = kind()
    known = estimator.get_params(deep=False)
    given = {name: from_json(value) for name, value in document["parameters"].items()}
    estimator.set_params(**{name: value for name, value in given.items() if name in known})
    n_hidden = network.n_layers - 1
    if any(isinstance(f, Custom) for f in network.activations):
        estimator.activation = [
            (f.value, f.derivative_of_z) if isinstance(f, Custom) else f
            for f in network.activations[:n_hidden]
        ]
    if estimator.device is not None:
        estimator.device = network.backend.name
    for name in FITTED:
        if name in document["fitted"]:
            setattr(estimator, name, from_json(document["fitted"][name]))
    if "feature_names" in document:
        estimator.feature_names_in_ = np.asarray(document["feature_names"], dtype=object)
    if "labels" in document:
        labels = document["labels"]
        columns = [_classes(column) for column in labels["classes"]]
        several = labels["kind"] == "multioutput"
        estimator._labels = Labels(labels["kind"], columns if several else columns[0], labels["sparse"])
        estimator.classes_ = estimator._labels.classes
        sizes, n_outputs = [len(each) for each in columns], network.layer_sizes[-1]
        if estimator._labels.n_outputs(1) != n_outputs or (
            labels["kind"] == "binary" and not 1 <= sizes[0] <= 2
        ):
            raise ValueError(f"{labels['kind']} labels of {sizes} classes do not fit {n_outputs} outputs")
    estimator.device_, estimator._home_marker = network.backend.name, np.empty(0)
    estimator._publish(network)
    return estimator


AS_JSON = {"M": str, "m": np.int64}
"""What classes that are dates or durations are in a file, by the kind of their dtype."""

WIDE_BYTES = 1 << 20
"""Classes that are texts are as wide as the longest needs, whatever was said, where that takes more."""


def _as_json(classes: np.ndarray) -> list[Any]:
    """Classes as JSON values."""
    values: list[Any] = classes.astype(AS_JSON.get(classes.dtype.kind, classes.dtype)).tolist()
    return values


def _classes(column: Mapping[str, Any]) -> np.ndarray:
    dtype, values = np.dtype(column["dtype"]), column["values"]
    if dtype.kind not in "biufUOMm" or any(isinstance(value, list | dict) for value in values):
        raise ValueError(f"class labels of dtype {dtype} are none")
    if dtype.kind == "U" and dtype.itemsize * len(values) > WIDE_BYTES:
        dtype = np.dtype("U")
    classes = np.array(values, dtype=dtype)
    if _as_json(classes) != values or len(np.unique(classes)) != len(values):
        raise ValueError(f"class labels of dtype {dtype} are none: some are alike, or have no room in it")
    return classes


def to_json(value: object) -> object:
    """Numbers, texts and lists as they are; objects of the catalogues by name; the rest as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [to_json(item) for item in value]}
    if isinstance(value, Mapping):
        return {"mapping": [[to_json(key), to_json(item)] for key, item in value.items()]}
    for catalogue in (ACTIVATIONS, OPTIMIZERS, SCHEDULES, LOSSES, REGULARIZERS, INITIALIZERS):
        if type(value) in catalogue.values() and not isinstance(value, Given):
            described = describe(catalogue, value)
            if isinstance(described, str):
                return described
            return {"object": {name: to_json(item) for name, item in described.items()}}
    return None


def from_json(value: object) -> object:
    """What `to_json` was given, objects as the mappings that name them."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    (tag, content), *more = value.items()
    if more or tag not in ("number", "tuple", "mapping", "object"):
        raise ValueError(f"{str(value)[:60]} is no value")
    if tag == "number":
        return float(content)
    if tag == "tuple":
        return tuple(from_json(item) for item in content)
    if tag == "mapping":
        return {from_json(key): from_json(item) for key, item in content}
    return {name: from_json(item) for name, item in content.items()}
