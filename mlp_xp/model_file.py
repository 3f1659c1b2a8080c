"""Model files: safetensors with the weights by layer, and everything else as one JSON document.

A file is data: nothing in it is ever run. The same training gives the same bytes: no times, paths or host
names are in it. It is written whole or not at all.
"""

import itertools
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mlp_xp.activations import ACTIVATIONS, Custom
from mlp_xp.array_api import DTYPES, to_host
from mlp_xp.catalogue import describe
from mlp_xp.initializers import Given
from mlp_xp.losses import LINKS
from mlp_xp.network import Network, resolve_link
from mlp_xp.tables.model import TableModel

FORMAT = 1
"""The version of the document's layout; files of a newer one are refused."""

METADATA_KEY = "mlp_xp"


def save(model: Network | TableModel, path: str | os.PathLike[str]) -> None:
    """Write a model file.

    Parameters
    ----------
    model : Network or TableModel
        What `load` will give back.
    path : path
        Usually ``*.safetensors``. An existing file is replaced, at once and only when the new one is
        complete.

    Raises
    ------
    OSError
        The file cannot be written; what was there is untouched.
    TypeError
        `model` is nothing that can be saved.
    """
    if isinstance(model, Network):
        document: dict[str, Any] = {"kind": "network"}
        network = model
    elif isinstance(model, TableModel):
        document = {"kind": "table", "table": model.description()}
        network = model.network
    else:
        raise TypeError(f"{model!r} cannot be saved: give a Network or a TableModel.")
    document |= {"format": FORMAT, "network": _network_description(network)}
    tensors = {f"weights.{layer}": to_host(w) for layer, w in enumerate(network.parameters.weights)}
    tensors |= {f"biases.{layer}": to_host(b) for layer, b in enumerate(network.parameters.biases)}
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    metadata = {METADATA_KEY: json.dumps(document, sort_keys=True, allow_nan=False)}
    write_whole(path, safetensors.numpy.save(contiguous, metadata))


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    activations: Mapping[str, Any] | None = None,
) -> Any:
    """Read a model file, whatever device it was trained on.

    Parameters
    ----------
    path : path
        What `save` wrote.
    device : str
        "cpu", "cuda", "cuda:N": where the network's parameters go.
    activations : mapping of str to (value, derivative), optional
        A user's own activations by the name of their value function: a file holds names, not code.

    Returns
    -------
    Network or TableModel
        What was saved.

    Raises
    ------
    ValueError
        The file is not a model file, is damaged, is of a newer version, or needs activations.
    OSError
        It cannot be read.
    RuntimeError
        The device cannot be used here.
    """
    path = Path(path)
    with path.open("rb"):
        pass  # OSError with the path, which safetensors' own errors lack
    try:
        with safetensors.safe_open(path, framework="np") as file:
            document = json.loads((file.metadata() or {})[METADATA_KEY])
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a model file of mlp_xp: {error or type(error).__name__}.") from None
    version = document.get("format") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"{path} is not a model file of mlp_xp: it states no format version.")
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, but this mlp_xp reads up to {FORMAT}: upgrade it (pip install -U "
            "mlp-xp)."
        )
    try:
        network = _network(document["network"], tensors, device, activations or {})
        return TableModel.of(document["table"], network) if document["kind"] == "table" else network
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {error!r}.") from None


def _network_description(network: Network) -> dict[str, Any]:
    return {
        "layer_sizes": list(network.layer_sizes),
        "activations": [
            {"custom": f.name} if isinstance(f, Custom) else describe(ACTIVATIONS, f)
            for f in network.activations
        ],
        "bias": network.parameters.bias,
        "dtype": network.backend.dtype_name,
        "output": describe(LINKS, network.output),
    }


def _network(
    description: dict[str, Any], tensors: dict[str, np.ndarray], device: str, own: Mapping[str, Any]
) -> Network:
    sizes, bias, dtype = description["layer_sizes"], description["bias"], description["dtype"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        shapes[f"weights.{layer}"] = (n_in, n_out)
        if bias:
            shapes[f"biases.{layer}"] = (n_out,)
    # Before anything is made of these sizes: they must be those of the tensors that the file really has.
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != shapes or dtype not in DTYPES or any(t.dtype != dtype for t in tensors.values()):
        raise ValueError(f"the model file's weights have shapes {found}, but its document says {shapes}.")
    n_layers = len(sizes) - 1
    weights = [tensors[f"weights.{layer}"] for layer in range(n_layers)]
    biases = [tensors[f"biases.{layer}"] for layer in range(n_layers)] if bias else None
    network = Network(
        sizes,
        activation=[_activation(f, own) for f in description["activations"]],
        bias=bias,
        initializer=Given(weights, biases),
        device=device,
        dtype=dtype,
    )
    network.output = resolve_link(description["output"])
    return network


def _activation(described: Any, own: Mapping[str, Any]) -> Any:
    if not (isinstance(described, dict) and "custom" in described):
        return described
    name = described["custom"]
    if name not in own:
        raise ValueError(
            f"this model was trained with the activation {name!r} of its user, and a file holds no code: "
            f"load(path, activations={{{name!r}: (value, derivative)}})."
        )
    return own[name]


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to disk, and rename it.

    Raises
    ------
    OSError
        Nothing is left of the attempt, and what was at `path` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
