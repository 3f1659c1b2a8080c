"""Matrix products by cuBLAS, called directly.

`cupy.matmul` cannot be captured in a CUDA graph: it sets the stream of CuPy's handle before every call, and
refuses while a stream is capturing (CuPy issue 6290). A handle of our own gets its stream and its workspace
once; then a product is one call that allocates nothing, inside a capture or outside, and gives the same bits
every time.

What no machine without a GPU can confirm: the results, and that cuBLAS captures with a workspace of its own.
"""

import ctypes
from typing import Any

from mlp_xp.fast.cuda.graph import CAPTURING
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.cuda.precision import tf32_is_allowed

_NO, _TRANSPOSE = 0, 1  # cublasOperation_t
_FP32, _TF32 = 0, 3  # cublasMath_t: CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH


def _operation(x: Array) -> tuple[int, int]:
    """How cuBLAS, which counts by columns, must see a matrix: as it is or transposed, and its stride."""
    rows, columns = x.shape
    by_row, by_column = x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
    # The stride of an axis of length 1 means nothing, and may be anything.
    if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
        return _NO, by_row if rows > 1 else columns
    if (by_row == 1 or rows == 1) and (by_column >= rows or columns == 1):
        return _TRANSPOSE, by_column if columns > 1 else rows
    raise ValueError(f"a matrix of shape {x.shape} and strides {x.strides} has no axis without gaps.")


def arguments(out: Array, a: Array, b: Array) -> tuple[int, int, int, int, int, int, int, int]:
    """What to tell cuBLAS so that out ← a b.

    C = A B by rows is Cᵀ = Bᵀ Aᵀ by columns: the operands change places.

    Parameters
    ----------
    out : array (n, m)
        By rows without gaps between columns.
    a, b : array (n, k), array (k, m)
        By rows, or views `.mT` of such.

    Returns
    -------
    tuple of int
        operations of b and a, m, n, k, and the strides of b, a and out in elements.
    """
    (n, k), m = a.shape, b.shape[1]
    if b.shape[0] != k or out.shape != (n, m):
        raise ValueError(f"shapes {a.shape} and {b.shape} do not give {out.shape}.")
    if m > 1 and out.strides[1] != out.itemsize:
        raise ValueError("the product's columns must lie side by side.")
    (of_a, stride_a), (of_b, stride_b) = _operation(a), _operation(b)
    return of_b, of_a, m, n, k, stride_b, stride_a, max(out.strides[0] // out.itemsize, m)


class Gemm:
    """out ← a b for float32 and float64 matrices, vectors and members' matrices on one stream.

    The device of the stream must be current. Raises RuntimeError: cuBLAS reports a failure; the message has
    its number.
    """

    def __init__(self, stream: Any) -> None:
        import cupy

        self._library, self._device = load(), cupy.cuda.Device()
        self._handle = ctypes.c_void_p()
        with CAPTURING:
            self._check(self._library.cublasCreate_v2(ctypes.byref(self._handle)), "cublasCreate")
        # PyTorch's sizes: Hopper and later want more.
        major = int(self._device.compute_capability[:-1])
        self._workspace = cupy.empty((2**25 if major >= 9 else 2**23 + 2**17,), dtype=cupy.uint8)
        self._stream = stream  # setting it takes the workspace away: stream first, workspace after
        self._check(self._library.cublasSetStream_v2(self._handle, stream.ptr), "cublasSetStream")
        self._check(
            self._library.cublasSetWorkspace_v2(
                self._handle, self._workspace.data.ptr, self._workspace.nbytes
            ),
            "cublasSetWorkspace",
        )
        mode = _TF32 if tf32_is_allowed() else _FP32
        self._check(self._library.cublasSetMathMode(self._handle, mode), "cublasSetMathMode")
        self._calls = {
            char: (
                getattr(self._library, f"cublas{letter}gemm_v2"),
                getattr(self._library, f"cublas{letter}gemmStridedBatched"),
                kind(1.0),
                kind(0.0),
            )
            for char, letter, kind in (("f", "S", ctypes.c_float), ("d", "D", ctypes.c_double))
        }

    def __call__(self, out: Array, a: Array, b: Array, *, add: bool = False) -> None:
        """out ← a b, or out ← out + a b.

        a may be a vector (k,), then out is one (m,); out may have an axis of members before its own, and a
        and b too, where they do not share them.
        """
        if a.ndim == 1:
            a, out = a[None, :], out[None, :]
        one_each = [x[0] if x.ndim == 3 else x for x in (out, a, b)]
        of_b, of_a, m, n, k, stride_b, stride_a, stride_out = arguments(*one_each)
        call, call_of_members, one, zero = self._calls[out.dtype.char]
        alpha, beta = ctypes.byref(one), ctypes.byref(one if add else zero)
        told = (self._handle, of_b, of_a, m, n, k, alpha)
        if out.ndim == 2:
            status = call(
                *told, b.data.ptr, stride_b, a.data.ptr, stride_a, beta, out.data.ptr, stride_out
            )  # fmt: skip
        else:
            next_out, next_a, next_b = (
                x.strides[0] // x.itemsize if x.ndim == 3 else 0 for x in (out, a, b)
            )  # fmt: skip
            status = call_of_members(
                *told, b.data.ptr, stride_b, next_b, a.data.ptr, stride_a, next_a,
                beta, out.data.ptr, stride_out, next_out, out.shape[0],
            )  # fmt: skip
        self._check(status, "a matrix product")

    def _check(self, status: int, what: str) -> None:
        if status == 3:  # CUBLAS_STATUS_ALLOC_FAILED
            raise MemoryError(f"cuBLAS found no memory for {what}.")
        if status != 0:
            raise RuntimeError(f"cuBLAS failed with status {status} in {what}.")

    def __del__(self) -> None:
        """Let go of the handle, on its device: this waits for all that the device does."""
        handle = getattr(self, "_handle", None)
        if handle:
            with CAPTURING, self._device:
                self._library.cublasDestroy_v2(handle)


def load() -> Any:
    """The cuBLAS library that CuPy uses, with the signatures of what is called.

    Raises RuntimeError: it is not found (cuda-pathfinder says where it looked).
    """
    from cuda.pathfinder import load_nvidia_dynamic_lib

    library = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasDestroy_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.cublasSetMathMode.argtypes = [pointer, integer]
    told = [pointer, *[integer] * 5, pointer]
    for letter in "SD":
        getattr(library, f"cublas{letter}gemm_v2").argtypes = [
            *told, pointer, integer, pointer, integer, pointer, pointer, integer,
        ]  # fmt: skip
        getattr(library, f"cublas{letter}gemmStridedBatched").argtypes = [
            *told, pointer, integer, long, pointer, integer, long, pointer, pointer, integer, long, integer,
        ]  # fmt: skip
    return library
