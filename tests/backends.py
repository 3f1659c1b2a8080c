"""The array libraries that the tests run over, and why one of them cannot run here."""

import re
import warnings
from importlib.util import find_spec

import browser

from mlp_xp.machine import cuda
from mlp_xp.machine.array_api import Backend, backend

OLDEST_STANDARD = "2024.12"
"""What mlp_xp asks of a library; the strict one then has nothing newer."""

STRICT_DEVICES = {
    "strict": "CPU_DEVICE",
    "strict-device1": "device1",
    "strict-device2": "device2",
    "strict-no_float64": "no_float64",
    "strict-no_x64": "no_x64",
}

ASK_FOR_LESS = {
    "strict": "strict-device1",
    "strict-device2": "strict-device1",
    "strict-no_float64": "strict-no_x64",
}
"""Those that find nothing wrong that another one does not: most tests leave them out."""

NAMES = ("numpy", "numpy-readonly", *STRICT_DEVICES, "torch", "cupy")


class UnavailableError(Exception):
    """Says why a backend cannot run here."""


def gpu_of(device):
    """N of "cuda:N", and 0 for "cuda"; None for the CPU."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    return None if match is None else int(match[1] or 0)


def make(name, device="cpu"):
    """Make the backend of that name, in float64 where it has that.

    Raises
    ------
    UnavailableError
        It cannot run here; the message says why.
    """
    if name in ("numpy", "numpy-readonly"):
        return backend("cpu", "float64")
    if name in STRICT_DEVICES:
        return _strict(name)
    return _torch() if name == "torch" else _cupy(gpu_of(device) or 0)


def is_here(library):
    """Whether a library can be imported or loaded, or the browser started."""
    if library == "chromium":
        return browser.chromium() is not None
    return _nccl_is_here() if library == "nccl" else find_spec(library) is not None


def _nccl_is_here():
    if not is_here("cupy"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's, where it is missing
        from cupy.cuda import nccl
    return bool(nccl.available)


def _strict(name):
    if not is_here("array_api_strict"):
        raise UnavailableError("array-api-strict is not installed")
    import array_api_strict

    array_api_strict.set_array_api_strict_flags(api_version=OLDEST_STANDARD)
    device = STRICT_DEVICES[name]
    known = {str(d): d for d in array_api_strict.__array_namespace_info__().devices()}
    known = {re.sub(r".*'(.*)'.*", r"\1", text): d for text, d in known.items()}
    if device not in known:
        raise UnavailableError(f"array-api-strict {array_api_strict.__version__} has no {device}")
    dtype = "float32" if device.startswith("no_") else "float64"
    return Backend(array_api_strict, known[device], dtype, name)


def _torch():
    if not is_here("torch"):
        raise UnavailableError("torch is not installed")
    import array_api_compat.torch as xp

    return Backend(xp, "cpu", "float64", "torch")


def _cupy(index):
    problem = cuda.problem(index)
    if problem is not None:
        raise UnavailableError(str(problem))
    return backend(f"cuda:{index}", "float64")
