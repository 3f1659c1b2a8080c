"""Where arrays live: a namespace `xp`, a device and a dtype, and what a device string means.

The rest of the package computes with `backend.xp` and never asks which library that is. NumPy (>= 2.1) is
itself an Array API namespace; CuPy comes through array-api-compat.
"""

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import array_api_compat
import numpy as np

from mlp_xp.machine import threads
from mlp_xp.machine.staging import IN_STEP, Runtime
from mlp_xp.settings import checks

Array = Any
"""An array of any Array API library."""

ArrayLike = Any
"""What a user gives as an array: one of any library, or nested sequences."""

Namespace = Any
"""The functions of an Array API library."""

DTYPES = ("float32", "float64")

CACHE_BLOCK = 32_768
"""Elements that an elementwise pass over a long vector handles at a time on a CPU: a few float32 operands of
this length stay in a core's second-level cache (Adam on 670,000 elements: 3.7 ms whole, 1.0 ms in blocks)."""

_DEVICE_CPU = 1  # kDLCPU in DLPack's header


@dataclasses.dataclass(frozen=True, eq=False)
class Backend:
    """A namespace, a device and a dtype.

    Parameters
    ----------
    xp : module
        An Array API namespace (2024.12 or later) whose arrays can be written in place and viewed.
    device : object
        The namespace's own device object.
    dtype_name : str
        "float32" or "float64": the dtype of parameters, data and arithmetic.
    name : str
        What people call it: "cpu", "cuda:0".
    block : int
        Elements that an elementwise pass over a long vector handles at a time.
    runtime : Runtime
        How host and device work together.
    write : callable (out, f, *args) -> array, optional
        What `into` is, where the library's ``out=`` is not the best there is.
    write_gradient : callable (out, left, right, add), optional
        What writes a product to a gradient, or adds it, where nobody reads it before the step's end.
    large_matmul : callable (left, right, out) -> array, optional
        What multiplies large matrices, where the library's own is not the best there is.
    large_matmuls : callable (products), optional
        The same for several products (left, right, out) at once.
    """

    xp: Namespace
    device: object
    dtype_name: str
    name: str
    block: int = 2**62
    runtime: Runtime = IN_STEP
    write: Callable[..., Array] | None = None
    write_gradient: Callable[[Array, Array, Array, bool], None] | None = None
    large_matmul: Callable[..., Array] | None = None
    large_matmuls: Callable[[Sequence[tuple[Array, Array, Array]]], None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """What has a name is found by it again; another library's namespace cannot be copied."""
        if self.name != "cpu" and not self.name.startswith("cuda:"):
            raise TypeError(
                f"a network on {self.name} cannot be copied this way: use mlp_xp.save, and mlp_xp.load with "
                "a device."
            )
        return backend, (self.name, self.dtype_name)

    @functools.cached_property
    def dtype(self) -> Any:
        """The namespace's dtype object."""
        return getattr(self.xp, self.dtype_name)

    @functools.cached_property
    def into(self) -> Callable[..., Array]:
        """`into(out, f, *args)` is ``out ← f(*args)``: the one spelling of "without a temporary".

        Where the library's functions take ``out=``, no temporary is made; elsewhere the result is assigned.
        `out` is filled and returned; a boolean result fills it with ones and zeros.
        """
        if self.write is not None:
            return self.write
        matrix, vector = self.zeros((1, 1)), self.zeros((1,))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch resizes what vector @ matrix is written to, and warns
            try:
                for f, arguments, out in (
                    (self.xp.add, (matrix, matrix), matrix),
                    (self.xp.maximum, (matrix, 0.0), matrix),
                    (self.xp.greater, (matrix, 0.0), matrix),
                    (self.xp.matmul, (matrix, self.zeros((1, 1))), self.zeros((1, 1))),
                    (self.xp.matmul, (vector, matrix), self.zeros((1,))),
                ):
                    f(*arguments, out=out)
            except (TypeError, ValueError, RuntimeError, UserWarning):
                return self._assign
        return _write_into

    def matmul(self, work: int) -> Callable[..., Array]:
        """What multiplies matrices, in products of at most so many multiplications of numbers."""
        if self.large_matmul is None or work < 2 * threads.PIECE_WORK:
            matmul: Callable[..., Array] = self.xp.matmul
            return matmul
        return self.large_matmul

    def _assign(self, out: Array, f: Callable[..., Array], *args: Any) -> Array:
        out[...] = self.xp.astype(f(*args), out.dtype)
        return out

    def asarray(self, host: ArrayLike, dtype: str | None = None) -> Array:
        """Copy a host array to the device, as `dtype` (default: the backend's)."""
        name = self.dtype_name if dtype is None else dtype
        return self.xp.asarray(
            np.asarray(host, dtype=name), dtype=getattr(self.xp, name), device=self.device, copy=True
        )

    def owns(self, x: object) -> bool:
        """Whether x is an array of this library on this device."""
        own = self._sample
        return isinstance(x, type(own)) and bool(x.device == own.device)

    @functools.cached_property
    def _sample(self) -> Array:
        return self.empty((0,))

    def empty(self, shape: tuple[int, ...]) -> Array:
        """An array of the backend's dtype on its device, not yet filled."""
        return self.xp.empty(shape, dtype=self.dtype, device=self.device)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """An array of zeros of the backend's dtype on its device."""
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def ones(self, shape: tuple[int, ...]) -> Array:
        """An array of ones of the backend's dtype on its device."""
        return self.xp.ones(shape, dtype=self.dtype, device=self.device)

    def arange(self, stop: int) -> Array:
        """The int32 numbers 0 … stop − 1 on the device."""
        return self.xp.arange(stop, dtype=self.xp.int32, device=self.device)

    def blocks(self, *shape: int) -> Iterator[slice]:
        """Slices that cover vectors of `shape[-1]` elements, each small enough for a core's cache."""
        block = max(1, self.block // math.prod(shape[:-1]))
        for start in range(0, shape[-1], block):
            yield slice(start, min(start + block, shape[-1]))

    def with_dtype(self, dtype: str) -> "Backend":
        """The same namespace and device with another dtype."""
        return self if dtype == self.dtype_name else dataclasses.replace(self, dtype_name=dtype)


def _write_into(out: Array, f: Callable[..., Array], *args: Any) -> Array:
    return f(*args, out=out)


def to_host(a: Array) -> np.ndarray:
    """A NumPy array with the values of `a`, read from its device; may share its memory, so only read it."""
    if isinstance(a, np.ndarray | np.generic):
        return np.asarray(a)
    if a.__dlpack_device__()[0] != _DEVICE_CPU:
        return np.asarray(array_api_compat.to_device(a, "cpu"))
    return np.from_dlpack(a)


def on_host(given: ArrayLike) -> np.ndarray:
    """What a user gave as a NumPy array: also from a device that NumPy itself cannot read."""
    return to_host(given) if hasattr(given, "__dlpack_device__") else np.asarray(given)


def backend(device: "str | Backend" = "cpu", dtype: str | None = None) -> Backend:
    """What a device string means.

    Raises ValueError: the device or the dtype is not known; RuntimeError: this machine cannot compute on that
    device; the message says why and what to do.

    Parameters
    ----------
    device : str or Backend
        "cpu", "cuda", "cuda:N", or a Backend for any other Array API library.
    dtype : str, optional
        "float32" or "float64"; a Backend's own, else "float32", if not given.
    """
    if dtype is None:
        dtype = device.dtype_name if isinstance(device, Backend) else "float32"
    checks.refuse([checks.one_of("dtype", dtype, DTYPES)])
    if isinstance(device, Backend):
        return device.with_dtype(dtype)
    if device == "cpu":
        large, several = threads.matmul, threads.multiply
        return Backend(np, "cpu", dtype, "cpu", CACHE_BLOCK, large_matmul=large, large_matmuls=several)
    match = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        raise ValueError(f"unknown device {device!r}; known: 'cpu', 'cuda', 'cuda:N' (N a GPU's number).")
    from mlp_xp.machine import cuda

    index = int(match[1] or 0)
    xp, device_object = cuda.namespace(index)
    return Backend(xp, device_object, dtype, f"cuda:{index}", runtime=cuda.streams(index))
