"""Model files: safetensors with the weights by layer, and everything else as one JSON document.

A file is data: nothing in it is ever run. The same training gives the same bytes: no times, paths or host
names are in it. It is written whole or not at all, with a checksum: a bit that turned since is noticed.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.numpy

from mlp_xp.activations import ACTIVATIONS, Activation, Custom, resolve_activation
from mlp_xp.losses import LINKS, Link
from mlp_xp.machine.array_api import DTYPES, to_host
from mlp_xp.machine.main_memory import require
from mlp_xp.machine.whole_file import is_address, open_plain, write_whole
from mlp_xp.network import Network, activation_name, resolve_link
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import describe
from mlp_xp.tables.model import TableModel

FORMAT = 3
"""The version of the document's layout; files of a newer one are refused."""

PLAIN_FORMAT = 2
"""The version that is written where nothing is in the file that came later: earlier readers know it."""

METADATA_KEY = "mlp_xp"

STATED = {"float32": "F32", "float64": "F64"}
"""What the header of a file calls a dtype."""

KINDS = ("network", "table", "estimator")


class Estimator(Protocol):
    """What is asked of a fitted estimator."""

    @property
    def network(self) -> Network:
        """What it predicts with."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Its parameters, by name."""

    def description(self) -> dict[str, Any]:
        """Everything but the network, as JSON values."""


class TableEstimator(Protocol):
    """What is asked of a fitted estimator of tables."""

    model_: TableModel


Model = Network | TableModel | Estimator
"""What a model file holds."""


def without_contract(model: Any) -> Model:
    """The table model of an estimator of tables, or what is a model by itself."""
    return model.model_ if hasattr(model, "model_") else model


def no_model(given: object, done: str) -> TypeError:
    """Why something cannot be saved or exported, and what to give instead."""
    found = hasattr(given, "best_estimator_")  # a search of scikit-learn
    instead = "its best_estimator_" if found else "a Network, a TableModel or a fitted estimator"
    return TypeError(f"{given!r} cannot be {done}: give {instead}.")


def save(model: Model | TableEstimator, path: str | os.PathLike[str]) -> None:
    """Write a model file: what `mlp_xp.save` does, which explains it."""
    model = without_contract(model)
    if isinstance(model, Network):
        document: dict[str, Any] = {"kind": "network"}
        network = model
    elif isinstance(model, TableModel):
        document = {"kind": "table", "table": model.description()}
        network = model.network
    elif hasattr(model, "get_params") and hasattr(model, "description"):
        document = {"kind": "estimator", "estimator": model.description()}
        network = model.network
    else:
        raise no_model(model, "saved")
    document |= {"network": _network_description(network)}
    document["format"] = FORMAT if has_news(document) else PLAIN_FORMAT
    tensors = {f"weights.{layer}": to_host(w) for layer, w in enumerate(network.parameters.weights)}
    tensors |= {f"biases.{layer}": to_host(b) for layer, b in enumerate(network.parameters.biases)}
    if network.parameters.input_scale is not None:
        tensors["input_scale"] = to_host(network.parameters.input_scale)[..., 0]
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("the network has weights that are nan or infinite; such a model is not saved.")
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    write_whole(path, safetensors.numpy.save(contiguous, {METADATA_KEY: sealed(document, contiguous)}))


def has_news(document: Mapping[str, Any]) -> bool:
    """Whether a document says what readers of `PLAIN_FORMAT` would not understand."""
    table = document.get("table", {"inputs": [], "targets": {}})
    is_encoded = any("encoding" in column for column in table["inputs"])
    is_new = {"input_scale", "members"} & document["network"].keys()
    return bool(is_new) or is_encoded or "limits" in table["targets"]


def sealed(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """The document as JSON text, with a checksum of itself and the tensors under "sha256"."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return json.dumps({**document, "sha256": checksum(text, tensors)}, sort_keys=True)


def checksum(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a text and of names, types, shapes and values of tensors, in hexadecimal digits."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    activations: Mapping[str, Any] | None = None,
) -> Model:
    """Read a model file: what `mlp_xp.load` does, which explains it."""
    contents = read(path)
    own = activations or {}
    checks.refuse(
        f"{path} was trained with the activation {name!r} of its user, and a file holds no code: "
        f"load(path, activations={{{name!r}: (value, derivative)}})."
        for name in contents.own_activations
        if name not in own
    )
    return contents.model(device, own)


@dataclasses.dataclass(frozen=True)
class OwnActivation:
    """The name of a user's own activation, whose functions no file holds."""

    name: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a model file says, checked, before a network is made of it.

    Activations are one a layer. Tensors are "weights.0" and, with biases, "biases.0" and so on, and where the
    inputs are scaled "input_scale" (n_inputs,); networks that are several have an axis of members. What the
    whole JSON document says of a table is not checked yet.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[Activation | OwnActivation, ...]
    bias: bool
    dtype: str
    output: Link
    members: int | None
    document: Mapping[str, Any]
    path: Path
    tensors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def activation_names(self) -> list[str]:
        """The name of each layer's activation."""
        return [f.name if isinstance(f, OwnActivation) else activation_name(f) for f in self.activations]

    @property
    def own_activations(self) -> list[str]:
        """Names of the activations that the file's user must give again."""
        return sorted({f.name for f in self.activations if isinstance(f, OwnActivation)})

    def model(self, device: str, own: Mapping[str, Any]) -> Model:
        """The network, or the table model or estimator around it."""
        activations = [own[f.name] if isinstance(f, OwnActivation) else f for f in self.activations]
        network = Network(
            self.layer_sizes,
            activation=activations,
            bias=self.bias,
            input_scale="input_scale" in self.tensors,
            initializer="zeros",
            device=device,
            dtype=self.dtype,
            members=self.members,
        )
        for layer in range(len(activations)):
            weights, biases = self.tensors[f"weights.{layer}"], self.tensors.get(f"biases.{layer}")
            network.parameters.set_layer(layer, weights, biases)
        if "input_scale" in self.tensors:
            network.parameters.set_input_scale(self.tensors["input_scale"])
        network.output = self.output
        if self.document["kind"] == "network":
            return network
        model_of = _estimator if self.document["kind"] == "estimator" else TableModel.of
        try:
            return model_of(self.document[self.document["kind"]], network)
        except DAMAGE as error:
            raise _damaged(self.path, error) from None


def _estimator(document: Mapping[str, Any], network: Network) -> Model:
    from mlp_xp.estimators import MLPClassifier, MLPRegressor
    from mlp_xp.estimators.saved import estimator_of

    kinds = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
    return estimator_of(kinds, document, network)


DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a document raises that is not as `save` writes it."""


def _damaged(path: Path, error: object) -> ValueError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ValueError(
        f"{path} is damaged, or was not written by mlp_xp: {what.rstrip('.')}. Train or copy it again."
    )


def read(path: str | os.PathLike[str]) -> Contents:
    """Read a model file and check all that a network is made of.

    Raises ValueError: the file is not a model file, is damaged, or is of a newer version; OSError: it cannot
    be read.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a model file.")
    if not path.exists():
        elsewhere = " Models are read from this machine alone: download it first." if is_address(path) else ""
        raise FileNotFoundError(f"there is no model file {path}.{elsewhere}")
    with open_plain(path):
        pass  # OSError with the path, which safetensors' own errors lack
    try:
        with safetensors.safe_open(path, framework="np") as file:
            document = _document(path, (file.metadata() or {}).get(METADATA_KEY))
            names = file.keys()
            stated = {name: file.get_slice(name) for name in names}
            shapes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in stated.items()}
            try:
                unread = _contents(path, document, shapes)
            except DAMAGE as error:
                raise _damaged(path, error) from None
            n_values = sum(math.prod(shape) for _, shape in shapes.values())
            require(n_values * np.dtype(unread.dtype).itemsize, f"the model {path}")
            tensors = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        if path.suffix == ".onnx":
            raise ValueError(
                f"{path} is written for other programs: name the model it was made of."
            ) from None
        raise ValueError(f"{path} is not a model file of mlp_xp, or is cut short: {error}.") from None
    _check_seal(path, document, tensors)
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise _damaged(path, "it has weights that are nan or infinite")
    return dataclasses.replace(unread, tensors=tensors)


def _check_seal(path: Path, document: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Take the checksum out of the document; refuse the file if it is wrong. Early files have none."""
    stated = document.pop("sha256", None)
    if stated is not None and stated != checksum(json.dumps(document, sort_keys=True), tensors):
        raise _damaged(path, "its checksum is wrong")


def _document(path: Path, text: str | None) -> dict[str, Any]:
    """The JSON document, if it is one of a version that is known."""
    if text is None:
        raise ValueError(f"{path} is not a model file of mlp_xp: it has no metadata under {METADATA_KEY!r}.")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    version = document.get("format") if isinstance(document, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError(f"{path} is not a model file of mlp_xp: it states no format version.")
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, but this mlp_xp reads up to {FORMAT}: upgrade it (pip install -U "
            "mlp-xp)."
        )
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _contents(
    path: Path, document: Mapping[str, Any], found: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Contents:
    """What a document and the header of its tensors say; no memory is set aside by what they claim."""
    kind, network = document["kind"], document["network"]
    if unknown := document.keys() - {"format", "kind", "network", "sha256", kind}:
        raise ValueError(f"it says something unknown: {', '.join(map(repr, sorted(unknown)))}")
    sizes, bias, dtype = network["layer_sizes"], network["bias"], network["dtype"]
    if kind not in KINDS or not isinstance(bias, bool) or dtype not in DTYPES or not isinstance(sizes, list):
        raise ValueError("kind, layer_sizes, bias or dtype are none")
    if len(sizes) < 2 or not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(f"layer_sizes={str(sizes)[:60]} are none")
    members = network.get("members")
    if members is not None and not (type(members) is int and members >= 1):
        raise ValueError(f"members={str(members)[:60]} are none")
    lead, row = ((), ()) if members is None else ((members,), (1,))
    layers = list(enumerate(itertools.pairwise(sizes)))
    stated = STATED[dtype]
    needed: dict[str, tuple[str, tuple[int, ...]]] = {
        f"weights.{layer}": (stated, (*lead, *shape)) for layer, shape in layers
    }
    if bias:
        needed |= {f"biases.{layer}": (stated, (*lead, *row, n_out)) for layer, (_, n_out) in layers}
    if network.get("input_scale", False):
        needed["input_scale"] = (stated, (*lead, sizes[0]))
    for name in sorted({*needed, *found}):
        if needed.get(name) != found.get(name):
            raise ValueError(
                f"its tensor {name!r} is {found.get(name, 'missing')}, but its document says "
                f"{needed.get(name, 'that there is none')}"
            )
    activations = tuple(_activation(described) for described in network["activations"])
    if len(activations) != len(layers):
        raise ValueError(f"{len(activations)} activations are named for {len(layers)} layers")
    output = resolve_link(network["output"])
    if misfit := output.misfit(sizes[-1]):
        raise ValueError(misfit)
    return Contents(tuple(sizes), activations, bias, dtype, output, members, document, path)


def _network_description(network: Network) -> dict[str, Any]:
    scale = {} if network.parameters.input_scale is None else {"input_scale": True}
    members = {} if network.members is None else {"members": network.members}
    return (
        scale
        | members
        | {
            "layer_sizes": list(network.layer_sizes),
            "activations": [
                {"custom": f.name} if isinstance(f, Custom) else describe(ACTIVATIONS, f)
                for f in network.activations
            ],
            "bias": network.parameters.bias,
            "dtype": network.backend.dtype_name,
            "output": describe(LINKS, network.output),
        }
    )


def _activation(described: object) -> Activation | OwnActivation:
    if isinstance(described, dict) and set(described) == {"custom"}:
        if not isinstance(described["custom"], str):
            raise TypeError("an activation's name is no text")
        return OwnActivation(described["custom"])
    if not isinstance(described, str | dict):
        raise TypeError(f"{described!r} names no activation")
    return resolve_activation(described)
