"""The diagnosis of CUDA where there is no CuPy: a stand-in shows each state that CuPy can show."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import array_api_compat
import numpy as np
import pytest
from stand_ins.cuda_refusal import assert_refused, run_python

from mlp_xp.machine import cuda
from mlp_xp.machine.cuda import diagnosis


class CudaError(RuntimeError):
    """Carries a status, as the errors of CuPy's runtime and driver modules do."""

    def __init__(self, status, text="cudaErrorSomething: something"):
        super().__init__(text)
        self.status = status


def raises(error):
    def raise_it(*args, **kwargs):
        raise error

    return raise_it


@pytest.fixture
def stand_in(monkeypatch):
    """Put a CuPy with one GPU, which works, in the place of CuPy; tests then break it."""
    runtime = SimpleNamespace(
        CUDARuntimeError=CudaError,
        driverGetVersion=lambda: 12040,
        runtimeGetVersion=lambda: 12090,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda i: {"name": b"Model %d" % i, "totalGlobalMem": 80 << 30},
    )
    device = SimpleNamespace(used=[])

    class Device(contextlib.nullcontext):
        def __init__(self, index):
            super().__init__()
            self.id = index

        def use(self):
            device.used.append(self.id)

    class CudaDriverError(CudaError):
        pass

    cupy = SimpleNamespace(
        __version__="14.2.0",
        cuda=SimpleNamespace(
            runtime=runtime, driver=SimpleNamespace(CUDADriverError=CudaDriverError), Device=Device
        ),
        ones=np.ones,
        float32=np.float32,
        asnumpy=np.asarray,
        used=device.used,
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    xp = SimpleNamespace(name="xp")
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", xp)
    # `import array_api_compat.cupy as xp` takes the package's attribute, once the real one was imported.
    monkeypatch.setattr(array_api_compat, "cupy", xp, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(diagnosis, "_working", set())
    return cupy


def check_text(problem):
    """A reason and a remedy, each one sentence, that end on what always works."""
    assert problem.reason.endswith(".")
    assert problem.remedy.endswith("or use device 'cpu'.")
    assert str(problem) == f"{problem.reason} {problem.remedy}"
    assert "\n" not in str(problem)


def test_a_gpu_that_works_has_no_problem(stand_in):
    assert cuda.problem() is None
    xp, device = cuda.namespace(0)
    assert xp.name == "xp"
    assert device.id == 0
    assert stand_in.used == [0]
    assert cuda.devices() == [cuda.Gpu(0, "Model 0", 80 << 30)]


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(diagnosis, "_working", set())
    problem = cuda.problem()
    assert problem.code == "no-cupy"
    assert "mlp-xp[cuda12]" in problem.remedy
    assert "mlp-xp[cuda13]" in problem.remedy
    check_text(problem)
    assert cuda.devices() == []
    with pytest.raises(RuntimeError) as refusal:
        cuda.namespace()
    assert str(refusal.value) == str(problem)


BANNER = """
try:
    import a_module_that_nobody_has
except ImportError as error:
    raise ImportError("=" * 60 + "some advice") from error
"""

BROKEN = {
    "library": ("raise ImportError('libmissing.so.1: cannot open shared object')", "libmissing"),
    "dependency": ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
    "another kind of error": ("raise RuntimeError('built for NumPy 1')", "built for NumPy 1"),
    "banner": (BANNER, "a_module_that_nobody_has"),
    "not CuPy": ("", "__init__.py"),
    "old": ("__version__ = '13.6.0'", "13.6.0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_cupy_that_does_not_work(name, tmp_path):
    text, sign = BROKEN[name]
    package = tmp_path / "stub" / "cupy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    code = "from mlp_xp.machine import cuda; p = cuda.problem(); print(p.code); print(p)"
    run = run_python("-c", code, folder=tmp_path, PYTHONPATH=package.parent)
    assert run.returncode == 0, run.stderr
    first, message = run.stdout.splitlines()
    assert first == ("old-cupy" if name == "old" else "broken-cupy")
    assert sign in message


def test_a_folder_that_happens_to_be_called_cupy(monkeypatch):
    folder = ModuleType("cupy")
    folder.__path__ = ["here/cupy"]
    monkeypatch.setitem(sys.modules, "cupy", folder)
    problem = cuda.problem()
    assert problem.code == "broken-cupy"
    assert "here/cupy" in problem.reason
    assert cuda.devices() == []


STATES = {
    2: ("out-of-memory", "no free memory"),
    34: ("stub-driver", "stub"),
    46: ("busy-gpu", "reserved"),
    100: ("no-gpu", "shows no GPU"),
    209: ("unsupported-gpu", "architecture"),
    802: ("not-ready", "fabric manager"),
    803: ("driver-mismatch", "different releases"),
    804: ("cuda-error", "804"),
    999: ("driver-failure", "999"),
}


@pytest.mark.parametrize("status", STATES)
def test_each_error_number_has_its_own_words(status, stand_in):
    code, sign = STATES[status]
    stand_in.cuda.runtime.getDeviceCount = raises(CudaError(status))
    problem = cuda.problem()
    assert problem.code == code
    assert sign in problem.reason
    check_text(problem)
    assert cuda.devices() == []

    # The same number may come only when the device is first used, from the driver's own calls.
    stand_in.cuda.runtime.getDeviceCount = lambda: 1
    stand_in.ones = raises(stand_in.cuda.driver.CUDADriverError(status))
    assert cuda.problem() == problem


def test_no_driver_and_old_driver_are_told_apart(stand_in):
    runtime = stand_in.cuda.runtime
    runtime.getDeviceCount = raises(CudaError(35))
    runtime.driverGetVersion = lambda: 0
    missing = cuda.problem()
    assert missing.code == "no-driver"
    check_text(missing)

    runtime.driverGetVersion = lambda: 11040
    old = cuda.problem()
    assert old.code == "old-driver"
    assert "supports CUDA 11.4" in old.reason
    assert "needs CUDA 12" in old.reason
    assert "cuda12" not in old.remedy
    check_text(old)

    runtime.driverGetVersion, runtime.runtimeGetVersion = lambda: 12040, lambda: 13000
    assert "install mlp-xp[cuda12] in place of mlp-xp[cuda13]" in cuda.problem().remedy


def test_a_hidden_gpu_names_the_variable_that_hides_it(stand_in, monkeypatch):
    stand_in.cuda.runtime.getDeviceCount = lambda: 0
    assert "CUDA_VISIBLE_DEVICES" not in str(cuda.problem())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    problem = cuda.problem()
    assert problem.code == "no-gpu"
    assert "CUDA_VISIBLE_DEVICES is ''" in problem.reason
    check_text(problem)


@pytest.mark.parametrize("index", [-1, 2, 7])
def test_a_device_that_does_not_exist(index, stand_in):
    stand_in.cuda.runtime.getDeviceCount = lambda: 2
    problem = cuda.problem(index)
    assert problem.code == "no-such-device"
    assert f"'cuda:{index}'" in problem.reason
    assert "'cuda:0', 'cuda:1'" in problem.remedy
    check_text(problem)
    with pytest.raises(RuntimeError, match="no device"):
        cuda.namespace(index)
    assert stand_in.used == []
    assert [gpu.index for gpu in cuda.devices()] == [0, 1]


def test_the_self_test_runs_a_kernel_and_a_product(stand_in):
    class WrongSum(np.ndarray):
        def __add__(self, other):
            return np.zeros(self.shape)

    class WrongProduct(np.ndarray):
        def __matmul__(self, other):
            return np.zeros(self.shape)

    for wrong in (WrongSum, WrongProduct):
        stand_in.ones = lambda shape, dtype, wrong=wrong: np.ones(shape, dtype).view(wrong)
        problem = cuda.problem()
        assert problem.code == "wrong-result"
        check_text(problem)


def test_a_gpu_that_works_is_not_tested_again(stand_in, monkeypatch):
    """Nor for a refusal: that is looked into anew. A forked process looks for itself."""
    tested = []
    stand_in.cuda.runtime.getDeviceCount = lambda: 2

    def ones(shape, dtype):
        tested.append(shape)
        return np.ones(shape, dtype)

    stand_in.ones = ones
    for index in (0, 0, 1, 0, 1):
        cuda.namespace(index)
    assert len(tested) == 2
    assert stand_in.used == [0, 0, 1, 0, 1]
    monkeypatch.setattr("os.getpid", lambda: -1)
    stand_in.ones = raises(RuntimeError("broken"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            cuda.namespace(0)
    stand_in.ones = ones
    cuda.namespace(0)
    assert len(tested) == 3


# Texts of CuPy 14.2, cuda-pathfinder 1.9 and NVRTC 12.9.
FAULTS = {
    "no-nvrtc": [
        RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file'),
        RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so.12.9."),
    ],
    "no-headers": [
        RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers."),
        RuntimeError('kern.cu(1): catastrophic error: could not open source file "cuda_fp16.h"'),
    ],
    "no-cublas": [
        ImportError('Failure finding "libcublasLt.so.13 or libcublasLt.so.12": No such file'),
        ImportError('Failure finding "libcublasLt.so.13": listdir(lib): libcudart.so libnvrtc.so'),
    ],
    "unsupported-gpu": [RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)")],
    "out-of-memory": [MemoryError("Out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
    "failed-self-test": [ValueError("something else"), RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")],
}


@pytest.mark.parametrize(("code", "error"), [(c, e) for c, es in FAULTS.items() for e in es])
def test_what_the_self_test_finds_missing(code, error, stand_in):
    stand_in.ones = raises(error)
    problem = cuda.problem()
    assert problem.code == code
    check_text(problem)
    if code.startswith("no-"):
        assert "mlp-xp[cuda12]" in problem.remedy


def test_nothing_is_ever_raised(stand_in):
    stand_in.cuda.runtime.getDeviceCount = raises(KeyError("nobody foresaw this"))
    problem = cuda.problem()
    assert problem.code == "unforeseen"
    assert "nobody foresaw this" in problem.reason
    check_text(problem)


def test_importing_the_file_imports_no_cupy(tmp_path):
    code = "import sys, mlp_xp.machine.cuda; sys.exit('cupy' in sys.modules)"
    run = run_python("-c", code, folder=tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("raise ModuleNotFoundError('no', name='cupy')", "is not installed."),
        (
            "raise ImportError('libmissing.so.1')",
            "cannot be imported: ImportError: libmissing.so.1.",
        ),
    ],
)
def test_the_command_line_refuses(text, sign, tmp_path):
    (tmp_path / "stub" / "cupy").mkdir(parents=True)
    (tmp_path / "stub" / "cupy" / "__init__.py").write_text(text)
    environment = {"PYTHONPATH": tmp_path / "stub"}
    code = "from mlp_xp.machine import cuda; print(cuda.problem())"
    message = run_python("-c", code, folder=tmp_path, **environment).stdout.strip()
    assert sign in message
    assert_refused(message, tmp_path / "empty", **environment)
