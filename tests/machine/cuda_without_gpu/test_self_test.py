"""The self-test's diagnosis, with errors that the real CuPy and the real NVRTC raise."""

import contextlib
import functools
import importlib

import cupy
import pytest
from cupy.cuda import compiler

from mlp_xp.machine import cuda


def compile_with_nvrtc(source, *options):
    """Compile to PTX; needs no driver."""
    program = compiler._NVRTCProgram(source, "self_test.cu")
    return program.compile(options)


@pytest.fixture
def diagnose(monkeypatch):
    """Diagnose as if there were one GPU, on which the first operation does ``fault``."""

    def run(fault):
        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
        monkeypatch.setattr(cupy.cuda, "Device", lambda index: contextlib.nullcontext())
        monkeypatch.setattr(cupy, "ones", lambda shape, dtype: fault())
        return cuda.problem()

    return run


def raises(error):
    def fault():
        raise error

    return fault


def driver_error(status):
    """Make the error without its constructor, which asks the driver for words."""
    kind = cupy.cuda.driver.CUDADriverError
    error = kind.__new__(kind)
    error.status = status
    return error


def test_out_of_memory(diagnose):
    assert diagnose(raises(cupy.cuda.memory.OutOfMemoryError(512, 0))).code == "out-of-memory"
    assert diagnose(raises(cupy.cuda.runtime.CUDARuntimeError(2))).code == "out-of-memory"
    assert diagnose(raises(driver_error(2))).code == "out-of-memory"


def test_no_code_for_this_gpu(diagnose):
    assert diagnose(raises(driver_error(209))).code == "unsupported-gpu"
    assert diagnose(lambda: compile_with_nvrtc("", "-arch=sm_10")).code == "unsupported-gpu"


def test_missing_headers(diagnose):
    fault = functools.partial(compile_with_nvrtc, "#include <cuda_of_tomorrow.h>")
    assert diagnose(fault).code == "no-headers"


def test_missing_cublas(diagnose):
    problem = diagnose(lambda: importlib.import_module("cupy.cublas"))
    # .ci/run leaves cuBLAS out. Where it is installed, the module arrives and cannot be added up.
    assert problem.code == "no-cublas" or "TypeError" in problem.reason


def test_any_other_failure(diagnose):
    problem = diagnose(lambda: compile_with_nvrtc("this is not CUDA"))
    assert problem.code == "failed-self-test"
    assert "CompileException" in problem.reason
