"""Rows of arrays that are on a device already, of any Array API library: gathered where they are."""

import contextlib
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from mlp_xp.machine.array_api import Array, ArrayLike, Backend, Namespace, to_host
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.source import Source, Taken
from mlp_xp.settings import checks

CPU = 1  # kDLCPU in DLPack's header


def is_elsewhere(x: object) -> bool:
    """Whether x is an array of an Array API library other than NumPy."""
    is_array = array_api_compat.is_array_api_obj(x) and hasattr(x, "__dlpack_device__")
    return is_array and not isinstance(x, np.ndarray)


class ResidentSource(Source):
    """Rows of arrays of any Array API library on a device, which are *read* only.

    A network on the same device gets them from there; for any other one they are brought to the host block by
    block. Targets and sample weights, there or on the host, are read once, to be checked.

    Raises ValueError, TypeError: as for `ArraySource`.
    """

    def __init__(self, x: Array, y: ArrayLike = None, sample_weight: ArrayLike = None) -> None:
        self.x = x
        self._on_host = x.__dlpack_device__()[0] == CPU
        # Where the host cannot read x itself, an array without memory stands for it: its shape is checked.
        seen = to_host(x) if self._on_host else np.broadcast_to(np.int8(0), x.shape)
        self._host = host = ArraySource(seen, host_values(y), host_values(sample_weight))
        self.n_rows, self.n_features, self.n_targets = host.n_rows, host.n_features, host.n_targets
        self.y, self.sample_weight, self.has_weights = host.y, host.sample_weight, host.has_weights
        self.labels, self.dtype = host.labels, "float64" if str(x.dtype).endswith("float64") else "float32"
        if not self._on_host:
            with _on_device_of(x):
                problem = _not_finite(x, array_api_compat.array_namespace(x))
            checks.refuse([problem])
        self._targets: dict[tuple[str, bool], tuple[Any, Any]] = {}

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill host arrays with the rows of `index`."""
        self._host.rows(index, x, y, weight)
        if not self._on_host:
            x[...] = to_host(take_rows(self.x, index))

    def on_device(self, backend: Backend, *, labels: bool) -> Callable[[np.ndarray], Taken] | None:
        """What gives rows where they are; None where a backend is not that of the arrays."""
        if not backend.owns(self.x):
            return None
        xp, key = backend.xp, (backend.dtype_name, labels)
        if key not in self._targets:
            y = np.empty((self.n_rows, 0)) if self.y is None else self.y
            weight = self.sample_weight
            self._targets[key] = (
                backend.asarray(y, "int32" if labels else None),
                None if weight is None else backend.asarray(weight[:, None]),
            )
        y, weight = self._targets[key]

        def take(index: np.ndarray) -> Taken:
            with _on_device_of(self.x):
                rows = _row_numbers(index, self.x)
                x = xp.astype(xp.take(self.x, rows, axis=0), backend.dtype, copy=False)
                taken = xp.take(y, rows, axis=0)
                if weight is None or self.sample_weight is None:
                    return x, taken, None, None
                return x, taken, xp.take(weight, rows, axis=0), self.sample_weight[index]

        return take


def take_rows(array: Array, index: np.ndarray) -> Array:
    """array[index] for row numbers on the host, where the array is."""
    with _on_device_of(array):
        return array_api_compat.array_namespace(array).take(array, _row_numbers(index, array), axis=0)


def _row_numbers(index: np.ndarray, array: Array) -> Array:
    """Row numbers where an array is: int32, because some devices have no other integers."""
    xp, device = array_api_compat.array_namespace(array), array_api_compat.device(array)
    return xp.asarray(index.astype(np.int32), device=device, copy=True)


def _on_device_of(array: Array) -> contextlib.AbstractContextManager[Any]:
    """Computes where an array is: a library with a current device (CuPy) computes there and nowhere else."""
    device = array_api_compat.device(array)
    return device if hasattr(device, "__enter__") else contextlib.nullcontext()


def host_values(given: ArrayLike) -> ArrayLike:
    """An array of any library as NumPy's; anything else as it is."""
    return to_host(given) if given is not None and is_elsewhere(given) else given


def _not_finite(x: Array, xp: Namespace) -> str | None:
    """Where the first number that is infinite or nan is, in words; None if there is none."""
    if not xp.isdtype(x.dtype, "real floating") or bool(xp.all(xp.isfinite(x))):
        return None
    row = int(np.argmin(to_host(xp.all(xp.isfinite(x), axis=1))))
    values = to_host(x[row, ...])
    column = int(np.argmin(np.isfinite(values)))
    return (
        f"x[{row}, {column}] is {values[column]} (row {row}, column {column}, counted from 0); finite "
        "numbers are needed. Fill the gaps or leave these rows out."
    )
