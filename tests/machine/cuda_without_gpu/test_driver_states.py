"""Every state of the driver gives its own diagnosis: the real CuPy over a libcuda made for it."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from stand_ins.cuda_refusal import assert_refused, run_python

# For each code: what the fake driver is told, and words of the reason.
STATES = {
    "old-driver": ({"FAKE_DRIVER_VERSION": "11040", "FAKE_CUINIT": "0"}, "supports CUDA 11.4"),
    "no-gpu": ({"FAKE_CUINIT": "100"}, "shows no GPU."),
    "hidden: no-gpu": (
        {"FAKE_CUINIT": "100", "CUDA_VISIBLE_DEVICES": ""},
        "CUDA_VISIBLE_DEVICES is ''",
    ),
    "out-of-memory": ({"FAKE_CUINIT": "2"}, "no free memory"),
    "stub-driver": ({"FAKE_CUINIT": "34"}, "stub"),
    "busy-gpu": ({"FAKE_CUINIT": "46"}, "reserved by another program"),
    "not-ready": ({"FAKE_CUINIT": "802"}, "fabric manager"),
    "driver-mismatch": ({"FAKE_CUINIT": "803"}, "different releases"),
    "cuda-error": ({"FAKE_CUINIT": "804"}, "error 804 (cudaErrorCompatNotSupportedOnDevice"),
    "driver-failure": ({"FAKE_CUINIT": "999"}, "unknown error 999"),
}

DIAGNOSE = """
import json
from mlp_xp.machine import cuda
problem = cuda.problem()
try:
    cuda.namespace(0)
except RuntimeError as error:
    refusal = str(error)
print(json.dumps([problem.code, str(problem), refusal, len(cuda.devices())]))
"""


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    """Compile the fake driver; returns the folder that holds it."""
    if shutil.which("cc"):
        compiler = ["cc"]
    elif find_spec("ziglang"):
        compiler = [sys.executable, "-m", "ziglang", "cc"]
    else:
        pytest.fail("these tests need a C compiler: install gcc, or pip install ziglang")
    folder = tmp_path_factory.mktemp("fake_driver")
    source = Path(__file__).with_name("fake_libcuda.c")
    target = folder / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)]
    subprocess.run([*compiler, *options], check=True)
    return folder


@pytest.fixture(scope="session")
def unreadable_driver(tmp_path_factory):
    """Return a folder whose libcuda cannot be loaded, which hides one that the machine may have."""
    folder = tmp_path_factory.mktemp("unreadable_driver")
    (folder / "libcuda.so.1").touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def drivers_of_these_tests(fake_driver, tmp_path_factory):
    """Skip where something else in the environment comes first: another driver is preloaded, say."""
    ask = "import cupy; print(cupy.cuda.runtime.getDeviceCount())"
    given = {"LD_LIBRARY_PATH": str(fake_driver), "FAKE_CUINIT": "100"}
    run = run_python("-c", ask, folder=tmp_path_factory.mktemp("asked"), **given)
    if run.returncode == 0:
        pytest.skip("the driver that these tests make is not the one that CuPy loads here")


def check(code, words, tmp_path, **environment):
    run = run_python("-c", DIAGNOSE, folder=tmp_path, **environment)
    assert run.returncode == 0, run.stderr
    found, text, refusal, n_devices = json.loads(run.stdout)
    assert found == code.rpartition(" ")[2]
    assert words in text
    assert refusal == text
    assert n_devices == 0
    assert text.endswith("or use device 'cpu'.")
    return text


def test_no_driver(unreadable_driver, tmp_path):
    check("no-driver", "no NVIDIA driver", tmp_path, LD_LIBRARY_PATH=str(unreadable_driver))


@pytest.mark.parametrize("code", STATES)
def test_driver_state(code, fake_driver, tmp_path):
    environment, words = STATES[code]
    check(code, words, tmp_path, LD_LIBRARY_PATH=str(fake_driver), **environment)


def test_the_command_line_refuses_without_a_driver(unreadable_driver, tmp_path):
    environment = {"LD_LIBRARY_PATH": str(unreadable_driver)}
    text = check("no-driver", "no NVIDIA driver", tmp_path, **environment)
    assert_refused(text, tmp_path / "empty", **environment)


@pytest.mark.parametrize("code", STATES)
def test_the_command_line_refuses_in_each_driver_state(code, fake_driver, tmp_path):
    environment, words = STATES[code]
    environment = environment | {"LD_LIBRARY_PATH": str(fake_driver)}
    text = check(code, words, tmp_path, **environment)
    assert_refused(text, tmp_path / "empty", **environment)
