"""What is asked of CUDA's own libraries exists, as far as that can be seen without a GPU."""

import cupy
import pytest
from cuda import pathfinder

from mlp_xp.cuda import gemm
from mlp_xp.cuda.graph import Captured


def test_cublas_is_looked_for_where_cupy_looks():
    assert "cublas" in pathfinder.SUPPORTED_NVIDIA_LIBNAMES
    found = cublas_or_error()
    if isinstance(found, RuntimeError):  # .ci/run leaves cuBLAS out
        assert "cublas" in str(found)
    else:
        assert found.cublasSgemm_v2.argtypes


def cublas_or_error():
    try:
        return gemm.load()
    except RuntimeError as error:
        return error


INSTANCES = {
    cupy.cuda.Stream: "ptr record wait_event synchronize begin_capture end_capture",
    cupy.cuda.Event: "record synchronize",
    cupy.cuda.Graph: "launch upload",
    cupy.cuda.MemoryPool: "malloc set_limit get_limit used_bytes free_bytes",
    cupy.cuda.Device: "use synchronize compute_capability __enter__",
    cupy.ndarray: "data set size strides itemsize flags mT",
    cupy.cuda.MemoryHook: "malloc_preprocess __enter__",
}


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
def test_attributes_of_what_functions_return(kind):
    made_in_init = {"ptr"}
    missing = {name for name in INSTANCES[kind].split() if not hasattr(kind, name)} - made_in_init
    assert missing == set()


def test_a_capture_needs_a_driver():
    """The real CuPy's error, from as far as it comes."""

    class Stream:
        def begin_capture(self):
            cupy.cuda.runtime.streamBeginCapture(1, cupy.cuda.runtime.streamCaptureModeRelaxed)

    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        Captured(Stream(), lambda: None)
