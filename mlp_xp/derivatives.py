"""What a network's derivatives and hidden activations are for some rows, all at once, without training it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlp_xp.backprop import backprop
from mlp_xp.forward import Memo, forward, unflagged
from mlp_xp.losses import LOSSES
from mlp_xp.machine.array_api import Array, ArrayLike, on_host, to_host
from mlp_xp.own import resolve
from mlp_xp.parameters import Parameters
from mlp_xp.rows.arrays import as_real

if TYPE_CHECKING:
    from mlp_xp.network import Network


@unflagged()
def gradient(
    network: "Network", x: ArrayLike, y: ArrayLike, loss: object, sample_weight: ArrayLike
) -> tuple[Any, Parameters]:
    """See `Network.gradient`."""
    value, _, found = _there_and_back(network, x, y, loss, sample_weight)
    return value, found


@unflagged()
def input_gradient(
    network: "Network", x: ArrayLike, y: ArrayLike, loss: object, sample_weight: ArrayLike
) -> np.ndarray:
    """See `Network.input_gradient`."""
    _, delta, _ = _there_and_back(network, x, y, loss, sample_weight)
    return to_host(_of_inputs(network, delta))


@unflagged()
def jacobian(network: "Network", x: ArrayLike) -> np.ndarray:
    """∂z_L / ∂x of each row, (n_rows, n_outputs, n_inputs), for a network without members."""
    rows, unused = _rows(network, x), network.parameters.zeros_like()
    with network.backend.runtime.working():
        found = []
        memo = Memo(network, rows.shape[0])
        for output in range(network.layer_sizes[-1]):
            delta = forward(network, rows, memo)
            delta[...] = 0.0
            delta[:, output] = 1.0
            found.append(to_host(_of_inputs(network, backprop(network, memo, delta, unused))))
    return np.stack(found, axis=1)


def _of_inputs(network: "Network", delta: Array) -> Array:
    """∂/∂x, from δ_1."""
    of_inputs = delta @ network.parameters.weights[0].mT
    if network.parameters.input_scale is not None:
        of_inputs = of_inputs * network.parameters.input_scale.mT
    return of_inputs


@unflagged()
def hidden(network: "Network", x: ArrayLike) -> list[np.ndarray]:
    """See `Network.hidden`."""
    rows = _rows(network, x)
    memo = Memo(network, rows.shape[0])
    with network.backend.runtime.working():
        forward(network, rows, memo)
    return [to_host(a).copy() for a in memo.z[:-1]]


def _rows(network: "Network", x: ArrayLike) -> Array:
    backend = network.backend
    backend.runtime.select()
    rows = x if backend.owns(x) else on_host(x)
    if rows.ndim != 2 or rows.shape[1] != network.layer_sizes[0] or not rows.shape[0]:
        raise ValueError(
            f"x has shape {tuple(rows.shape)}, but this network needs (n_rows, {network.layer_sizes[0]}) "
            "with at least one row."
        )
    return backend.xp.astype(rows, backend.dtype, copy=False) if backend.owns(rows) else backend.asarray(rows)


def _there_and_back(
    network: "Network", x: ArrayLike, y: ArrayLike, loss: object, sample_weight: ArrayLike
) -> tuple[Any, Array, Parameters]:
    """J, δ_1 and ∂J/∂w over all rows, with J = Σ s_i L_i / Σ s_i; of each member, where there are some."""
    backend, rows = network.backend, _rows(network, x)
    resolved = resolve("loss", LOSSES, loss)
    targets, weight = _column(y, "y", rows.shape[0]), None
    resolved.check_targets(targets, network.layer_sizes[-1])
    divisor = float(rows.shape[0])
    if sample_weight is not None:
        s = _column(sample_weight, "sample_weight", rows.shape[0])
        if s.shape[1] != 1 or not np.isfinite(s).all() or s.min() < 0 or not s.sum() > 0:
            raise ValueError("sample_weight must be one finite number >= 0 for each row, not all of them 0.")
        weight, divisor = backend.asarray(s), float(s.sum())
    found = network.parameters.zeros_like()
    with backend.runtime.working():
        memo = Memo(network, rows.shape[0])
        z = forward(network, rows, memo)
        on_device = backend.asarray(targets, "int32" if resolved.labels else None)
        value = resolved(backend, z, on_device, weight)
        z *= 1.0 / divisor
        delta = backprop(network, memo, z, found, add=False)
        losses = to_host(value).astype(np.float64) / divisor
        return float(losses) if network.members is None else losses, delta, found


def _column(given: ArrayLike, name: str, n_rows: int) -> np.ndarray:
    found = as_real(name, on_host(given))
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[0] != n_rows:
        raise ValueError(f"{name} has shape {tuple(found.shape)}, but x has {n_rows} rows.")
    return found
