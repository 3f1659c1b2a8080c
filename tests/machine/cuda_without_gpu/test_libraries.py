"""What is asked of CUDA's own libraries exists, as far as that can be seen without a GPU."""

import warnings

import cupy
import pytest
from cuda import pathfinder

from mlp_xp.fast.cuda import gemm
from mlp_xp.fast.cuda.graph import Captured
from mlp_xp.machine import cuda
from mlp_xp.machine.cuda import all_reduce

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # CuPy warns where the library is missing
    from cupy.cuda import nccl


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
    cupy.cuda.MemoryPool: "malloc set_limit get_limit used_bytes free_bytes total_bytes",
    cupy.cuda.Device: "use synchronize compute_capability pci_bus_id __enter__",
    cupy.ndarray: "data set get size strides itemsize flags mT",
    cupy.cuda.MemoryHook: "malloc_preprocess __enter__",
}


@pytest.mark.parametrize("kind", INSTANCES, ids=lambda kind: kind.__name__)
def test_attributes_of_what_functions_return(kind):
    made_in_init = {"ptr"}
    missing = {name for name in INSTANCES[kind].split() if not hasattr(kind, name)} - made_in_init
    assert missing == set()


@pytest.mark.needs("nccl")
def test_a_communicator_adds_up():
    assert callable(nccl.NcclCommunicator.allReduce)


def test_a_capture_needs_a_driver():
    """The real CuPy's error, from as far as it comes."""

    class Stream:
        def begin_capture(self):
            cupy.cuda.runtime.streamBeginCapture(1, cupy.cuda.runtime.streamCaptureModeRelaxed)

    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        Captured(Stream(), lambda: None)


def test_where_nccl_is_missing_it_is_said(monkeypatch):
    assert (all_reduce._library_problem() is None) == nccl.available
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    monkeypatch.setattr(nccl, "available", False)
    assert f'pip install "nvidia-nccl-cu{major}"' in all_reduce._library_problem()


@pytest.mark.needs("nccl")
@pytest.mark.skipif(cuda.problem() is None, reason="with a GPU it would wait for the other rank for ever")
def test_nccl_takes_what_it_is_given():
    """As far as its own checks of arguments, and its search for a GPU."""
    identity = nccl.get_unique_id()
    assert type(identity) is bytes  # what `Ranks.bytes_from_first` sends
    assert len(identity) == 128
    assert {nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64, nccl.NCCL_SUM} == {7, 8, 0}
    with pytest.raises(nccl.NcclError, match="NCCL_ERROR"):
        nccl.NcclCommunicator(2, identity, 0)
    communicator = nccl.NcclCommunicator.__new__(nccl.NcclCommunicator)
    with pytest.raises(TypeError):
        communicator.allReduce("at", "at", 3, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, 0)
