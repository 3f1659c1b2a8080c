"""What cuBLAS is told, against a product that counts by columns as cuBLAS does."""

import contextlib
import ctypes
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from mlp_xp.fast.cuda import gemm
from mlp_xp.fast.cuda.graph import CAPTURING
from mlp_xp.machine.cuda import precision


def product_by_columns(of_a, of_b, m, n, k, a, stride_a, b, stride_b, c, stride_c):
    """C ← op(A) op(B) on flat memory, column after column (BLAS, xGEMM)."""

    def element(matrix, stride, operation, row, column):
        return matrix[row * stride + column if operation else column * stride + row]

    for row, column in itertools.product(range(m), range(n)):
        c[column * stride_c + row] = sum(
            element(a, stride_a, of_a, row, i) * element(b, stride_b, of_b, i, column) for i in range(k)
        )


def flat(array):
    """The memory from an array's first element on."""
    size = 1 + sum((n - 1) * s // array.itemsize for n, s in zip(array.shape, array.strides, strict=True))
    return np.lib.stride_tricks.as_strided(array, (size,), (array.itemsize,))


SHAPES = [(1, 1, 1), (1, 3, 2), (4, 1, 3), (2, 5, 1), (3, 4, 5), (1, 1, 4), (4, 1, 1), (1, 5, 1)]


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape, transposed_a, transposed_b, rng):
    n, k, m = shape
    a = rng.normal(size=(k, n)).T if transposed_a else rng.normal(size=(n, k))
    b = rng.normal(size=(m, k)).T if transposed_b else rng.normal(size=(k, m))
    wide = np.full((n, m + 2), np.nan)
    for out in (np.empty((n, m)), wide[:, :m]):
        of_b, of_a, rows, columns, inner, stride_b, stride_a, stride_out = gemm.arguments(out, a, b)
        product_by_columns(
            of_b, of_a, rows, columns, inner, flat(b), stride_b, flat(a), stride_a, flat(out), stride_out
        )  # fmt: skip
        np.testing.assert_allclose(out, a @ b, rtol=1e-12)
        # What BLAS asks of strides
        assert stride_out >= max(1, rows)
        assert stride_b >= max(1, inner if of_b else rows)
        assert stride_a >= max(1, columns if of_a else inner)
    assert np.isnan(wide[:, m:]).all()


def test_first_rows_and_columns_of_larger_arrays(rng):
    a, b = rng.normal(size=(9, 7))[:4, :3], rng.normal(size=(5, 8))[:3, 2:6]
    out = np.empty((4, 4))
    of_b, of_a, m, n, k, stride_b, stride_a, stride_out = gemm.arguments(out, a, b)
    product_by_columns(of_b, of_a, m, n, k, flat(b), stride_b, flat(a), stride_a, flat(out), stride_out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12)


@pytest.mark.parametrize(
    ("out", "a", "b", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), np.ones((4, 2)), "do not give"),
        (np.ones((2, 3)), np.ones((2, 3)), np.ones((3, 2)), "do not give"),
        (np.ones((2, 2)), np.ones((2, 6))[:, ::2], np.ones((3, 2)), "without gaps"),
        (np.ones((2, 2)).T, np.ones((2, 3)), np.ones((3, 2)), "side by side"),
    ],
)
def test_what_is_refused(out, a, b, message):
    with pytest.raises(ValueError, match=message):
        gemm.arguments(out, a, b)


# The handle, with a stand-in for the library


class Library:
    """Records calls; a product is computed as cuBLAS would."""

    def __init__(self, status=0):
        self.calls, self.status = [], status

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, arguments))
            if "gemm" in name:
                (self.multiply_of_members if "Batched" in name else self.multiply)(*arguments)
            if "Create" in name:
                arguments[0]._obj.value = 1234
            return self.status if "gemm" in name else 0

        return call

    def multiply_of_members(self, handle, *told):
        *sizes, alpha, a, lda, next_a, b, ldb, next_b, beta, c, ldc, next_c, members = told
        for n in range(members):
            at = [
                first + n * step * ctypes.sizeof(alpha._obj)
                for first, step in ((a, next_a), (b, next_b), (c, next_c))
            ]
            self.multiply(handle, *sizes, alpha, at[0], lda, at[1], ldb, beta, at[2], ldc)

    def multiply(self, handle, of_a, of_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        assert alpha._obj.value == 1.0
        assert beta._obj.value == 0.0
        kind = type(alpha._obj)
        a, b, c = ((kind * 10_000).from_address(each) for each in (a, b, c))
        product_by_columns(of_a, of_b, m, n, k, a, lda, b, ldb, c, ldc)


class OnDevice:
    """An array as CuPy shows it: with its address in `data.ptr`."""

    def __init__(self, array):
        self.array, self.data = array, SimpleNamespace(ptr=array.ctypes.data)
        self.shape, self.strides, self.itemsize = array.shape, array.strides, array.itemsize
        self.dtype, self.ndim, self.nbytes = array.dtype, array.ndim, array.nbytes

    def __getitem__(self, index):
        return OnDevice(self.array[index])


@pytest.fixture
def make(monkeypatch):
    def make(capability="90", status=0):
        import sys

        library = Library(status)
        device = contextlib.nullcontext()
        device.compute_capability = capability
        cupy = SimpleNamespace(
            cuda=SimpleNamespace(Device=lambda: device),
            empty=lambda shape, dtype: OnDevice(np.empty(shape, dtype)),
            uint8=np.uint8,
        )
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setattr(gemm, "load", lambda: library)
        return gemm.Gemm(SimpleNamespace(ptr=77)), library

    return make


def test_the_stream_comes_before_the_workspace(make):
    """Setting a stream takes the workspace away (cuBLAS manual, 2.4.7)."""
    product, library = make()
    names = [name for name, _ in library.calls]
    assert names == ["cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasSetMathMode"]
    arguments = dict(library.calls)
    assert arguments["cublasSetStream_v2"][1] == 77
    assert arguments["cublasSetWorkspace_v2"][2] == 32 * 2**20
    assert arguments["cublasSetMathMode"][1] == 0
    del product
    assert library.calls[-1][0] == "cublasDestroy_v2"


def test_handles_come_and_go_between_captures(make):
    """cuBLAS may wait for the whole device then, which breaks a capture in another thread."""
    may_end = []

    def of_another_thread():
        product, library = make()
        may_end.append("made")
        del product
        assert library.calls[-1][0] == "cublasDestroy_v2"
        may_end.append("gone")

    thread = threading.Thread(target=of_another_thread)
    with CAPTURING:
        thread.start()
        thread.join(0.05)
        assert not may_end
    thread.join()
    assert may_end == ["made", "gone"]


@pytest.mark.parametrize(("capability", "mebibytes"), [("75", 8.125), ("86", 8.125), ("90", 32), ("120", 32)])
def test_the_workspace(capability, mebibytes, make):
    _, library = make(capability)
    assert dict(library.calls)["cublasSetWorkspace_v2"][2] == mebibytes * 2**20


@pytest.mark.parametrize(("value", "mode"), [("1", 3), ("0", 0), ("", 0)])
def test_tf32_is_asked_for_by_cupys_variable(value, mode, make, monkeypatch):
    monkeypatch.setenv(precision.TF32_VARIABLE, value)
    _, library = make()
    assert dict(library.calls)["cublasSetMathMode"][1] == mode
    precision.allow_tf32()
    _, library = make()
    assert dict(library.calls)["cublasSetMathMode"][1] == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_one_call(dtype, make, rng):
    product, library = make()
    a, b = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=(4, 5)).astype(dtype)
    out, vector = np.empty((3, 5), dtype), np.empty(5, dtype)
    before = len(library.calls)
    product(OnDevice(out), OnDevice(a), OnDevice(b))
    product(OnDevice(vector), OnDevice(a[0]), OnDevice(b))
    assert [name for name, _ in library.calls[before:]] == [
        {"float32": "cublasSgemm_v2", "float64": "cublasDgemm_v2"}[dtype]
    ] * 2
    np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vector, a[0] @ b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shared", ["", "a", "b"])
def test_a_product_of_members_is_one_call(shared, dtype, make, rng):
    """Operands are shared, or have gaps between members, and may be transposed."""
    product, library = make()
    a, b = (
        rng.normal(size=(2, 9, 4)).astype(dtype)[:, 3:6],
        rng.normal(size=(2, 5, 4)).astype(dtype).swapaxes(1, 2),
    )
    a, b = a[0] if shared == "a" else a, b[0] if shared == "b" else b
    out = np.full((2, 3, 6), np.nan, dtype)[:, :, :5]
    product(OnDevice(out), OnDevice(a), OnDevice(b))
    name = {"float32": "cublasSgemmStridedBatched", "float64": "cublasDgemmStridedBatched"}[dtype]
    assert library.calls[-1][0] == name
    np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("status", "error"), [(3, MemoryError), (13, RuntimeError)])
def test_a_failure_is_an_error(status, error, make):
    product, _ = make(status=status)
    one = OnDevice(np.ones((1, 1)))
    with pytest.raises(error, match="cuBLAS"):
        product(one, one, one)


def test_the_signatures(monkeypatch):
    """Of the real library: every call has as many arguments as its C declaration."""
    import sys

    names = [
        "Create_v2",
        "Destroy_v2",
        "SetStream_v2",
        "SetWorkspace_v2",
        "SetMathMode",
        "Sgemm_v2",
        "Dgemm_v2",
        "SgemmStridedBatched",
        "DgemmStridedBatched",
    ]
    library = SimpleNamespace(**{f"cublas{name}": SimpleNamespace(argtypes=None) for name in names})
    found = SimpleNamespace(load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path=f"lib{name}"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", found)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: library)
    loaded = gemm.load()
    counts = {name: len(value.argtypes) for name, value in vars(loaded).items()}
    assert counts == {
        "cublasCreate_v2": 1,
        "cublasDestroy_v2": 1,
        "cublasSetStream_v2": 2,
        "cublasSetWorkspace_v2": 3,
        "cublasSetMathMode": 2,
        "cublasSgemm_v2": 14,
        "cublasDgemm_v2": 14,
        "cublasSgemmStridedBatched": 18,
        "cublasDgemmStridedBatched": 18,
    }
