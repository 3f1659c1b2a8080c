"""Every name of CuPy that the package uses exists in the installed CuPy."""

import pytest
from machine.cuda_without_gpu.cupy_names import missing_names
from stand_ins.cuda_refusal import ROOT

PACKAGE = ROOT / "mlp_xp"
SOURCES = [p for p in PACKAGE.rglob("*.py") if "cuda" in p.relative_to(PACKAGE).parts]
SOURCES += (ROOT / "bench").rglob("gpu.py")


def test_there_is_something_to_check():
    assert any("cupy" in source.read_text() for source in SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_all_names_exist(source, need):
    text = source.read_text()
    if "nccl" in text:
        need("nccl")
    assert missing_names(text) == []


FOUND = """
import cupy
import cupy as cp
import cupyx.profiler
from cupy.cuda import nvtx, Stream as S
from cupy.cuda.memory import OutOfMemoryError

def f(array):
    runtime, driver = cupy.cuda.runtime, cupy.cuda.driver
    device = cp.cuda.Device(0)
    device.use()
    with S(non_blocking=True) as stream:
        stream.wait_event(cupy.cuda.Event().record())
    try:
        return cupyx.profiler.benchmark(f), array.anything, cupy.float32, cupy.ones(3).anything
    except runtime.CUDARuntimeError as error:
        return error.status, nvtx.RangePush
"""


def test_names_that_exist():
    assert missing_names(FOUND) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import cupy\ncupy.vecdot(1, 2)", "cupy.vecdot"),
        ("import cupy as cp\ncp.cuda.OutOfMemoryError", "cupy.cuda.OutOfMemoryError"),
        ("from cupy.cuda import Streem", "cupy.cuda.Streem"),
        ("from cupy.cudo import Stream", "cupy.cudo.Stream"),
        ("import cupy\ncupy.ndarray.to_device", "cupy.ndarray.to_device"),
        ("import cupy\nr = cupy.cuda.runtime\nr.getDevices()", "cupy.cuda.runtime.getDevices"),
        ("import cupy\na, b = cupy.cuda, 1\nc = a\nc.Strm", "cupy.cuda.Strm"),
        ("import cupy\nd = cupy.cuda.Device(0)\nd.select()", "cupy.cuda.Device.select"),
        ("import cupy\ncupy.cuda.Device(0).select()", "cupy.cuda.Device.select"),
        ("import cupy\nwith cupy.cuda.Stream() as s:\n    s.wait(1)", "cupy.cuda.Stream.wait"),
    ],
)
def test_names_that_do_not(source, name):
    assert [each[1] for each in missing_names(source)][-1] == name
