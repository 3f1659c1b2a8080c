"""In whose library and on which device X lives: computed near it, results go back there.

NumPy arrays, lists, data frames and sparse matrices live on the host. Arrays of any other Array API
library are read through DLPack: those on a CUDA device are computed with on that device, where they stay if
they are CuPy's, those of a CPU on the CPU; results are arrays of their library on their device.
"""

from typing import NamedTuple

import array_api_compat
import numpy as np

from mlp_xp.machine.array_api import Array, ArrayLike, Namespace, to_host

_CUDA = 2  # kDLCUDA in DLPack's header


class Home(NamedTuple):
    """A namespace and a device; None twice for the host."""

    xp: Namespace | None = None
    device: object = None

    def __str__(self) -> str:
        return "NumPy" if self.xp is None else f"{self.xp.__name__}, device {self.device}"

    def send(self, a: np.ndarray) -> Array:
        """A host array as an array of this home; text has none but the host."""
        if self.xp is None or a.dtype.kind not in "biuf":
            return a
        return self.xp.asarray(a, device=self.device, copy=True)


HOST = Home()


def home_of(x: ArrayLike) -> Home:
    """Where an argument lives."""
    if isinstance(x, np.ndarray | list | tuple) or not array_api_compat.is_array_api_obj(x):
        return HOST
    if array_api_compat.is_numpy_array(x) or array_api_compat.is_pydata_sparse_array(x):
        return HOST
    return Home(array_api_compat.array_namespace(x), array_api_compat.device(x))


def on_host(x: ArrayLike) -> Array:
    """An Array API array as a NumPy array; anything else as it is."""
    return x if home_of(x) == HOST else to_host(x)


def stays(x: ArrayLike) -> bool:
    """Whether an array is left where it is: on a CUDA device. The host looks at its shape only."""
    return home_of(x) != HOST and x.__dlpack_device__()[0] == _CUDA


def seen_by_host(x: ArrayLike) -> np.ndarray:
    """What stands for an array that stays: one of its shape that takes no memory."""
    return np.broadcast_to(np.int8(0), x.shape)


def device_for(x: ArrayLike, wanted: str | None) -> str:
    """The device to compute on: the one asked for, else the one where x is.

    Raises ValueError: x is on another GPU than the one asked for, or on one while the CPU is asked for.
    """
    near = f"cuda:{x.__dlpack_device__()[1]}" if stays(x) else None
    if wanted is None:
        return near or "cpu"
    if near is not None and wanted not in (near, "cuda"):
        raise ValueError(f"device={wanted!r}, but X is on {near}: leave device out, or move X to {wanted}.")
    return near or wanted
