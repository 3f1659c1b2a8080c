"""Is there a CUDA GPU that works, and if not, why not and what to do."""

import os
from dataclasses import dataclass
from typing import Any

OLDEST_CUPY = 14  # the first release for NumPy 2's rules of promotion, and with the extra [ctk]
CPU_INSTEAD = "or use device 'cpu'"

_working: set[tuple[int, int]] = set()
"""Processes and GPUs that have passed: every network asks, and the test waits for the GPU. A process that
another one forked passes for itself, since CUDA does not outlive a fork."""


@dataclass(frozen=True)
class Problem:
    """Why a CUDA device cannot be used.

    Parameters
    ----------
    code : str
        The kind of problem, for programs: ``"no-cupy"``, ``"no-driver"``, ...
    reason : str
        One sentence: what was found.
    remedy : str
        One sentence: what to do about it.

    Examples
    --------
    >>> print(Problem("no-gpu", "The NVIDIA driver shows no GPU.", "Use device 'cpu'."))
    The NVIDIA driver shows no GPU. Use device 'cpu'.
    """

    code: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} {self.remedy}"


@dataclass(frozen=True)
class Gpu:
    """One GPU that the driver shows to this process: N of ``cuda:N``, its model, and all of its bytes."""

    index: int
    name: str
    memory: int


def problem(index: int = 0) -> Problem | None:
    """Find out why ``cuda:index`` cannot be used; None if it can.

    A device can be used when it ran one elementwise kernel, which needs the run-time compiler and the CUDA
    headers, and one matrix product, which needs cuBLAS, and both results were right. The first such test in a
    process takes a second or so, while the driver sets up the device. Nothing is ever raised: what nobody
    foresaw is a Problem too.
    """
    try:
        return _cupy_problem() or _driver_problem(index) or _self_test_problem(index)
    except Exception as error:
        return Problem(
            "unforeseen",
            f"Looking for a CUDA GPU failed with {_one_line(error)}.",
            f"Check that nvidia-smi runs and that CuPy works by itself, {CPU_INSTEAD}.",
        )


def namespace(index: int = 0) -> tuple[Any, Any]:
    """Select ``cuda:index`` for the calling thread: its Array API namespace, and what ``device=`` takes.

    Arrays are made on whichever device is current in the calling thread (array-api-compat issue 337), so that
    every thread selects for itself.

    Raises RuntimeError: the device cannot be used; the message is the reason and the remedy.
    """
    if (os.getpid(), index) not in _working:
        found = problem(index)
        if found is not None:
            raise RuntimeError(str(found))
        _working.add((os.getpid(), index))
    import array_api_compat.cupy as xp
    import cupy

    device = cupy.cuda.Device(index)
    device.use()
    return xp, device


def devices() -> list[Gpu]:
    """List the GPUs that the driver shows, working or not; none where ``problem`` says why."""
    if _cupy_problem() is not None:
        return []
    import cupy

    runtime = cupy.cuda.runtime
    try:
        properties = [runtime.getDeviceProperties(i) for i in range(runtime.getDeviceCount())]
    except runtime.CUDARuntimeError:
        return []
    return [
        Gpu(index, each["name"].decode(), int(each["totalGlobalMem"]))
        for index, each in enumerate(properties)
    ]


def _cupy_problem() -> Problem | None:
    """Say what keeps CuPy from being imported."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return Problem(
                "no-cupy",
                "CuPy, which computes on CUDA GPUs, is not installed.",
                "Install the extra mlp-xp[cuda12] (pip install 'cupy-cuda12x[ctk]') or "
                "mlp-xp[cuda13] (pip install 'cupy-cuda13x[ctk]'), whichever the CUDA version "
                f"that nvidia-smi shows allows, {CPU_INSTEAD}.",
            )
        return _broken_cupy(_one_line(error))
    except Exception as error:  # a wheel for another NumPy, CUDA or machine fails in its own way
        return _broken_cupy(_one_line(error.__cause__ or error))
    version = str(getattr(cupy, "__version__", ""))
    major = version.partition(".")[0]
    if not major.isdigit():
        where = getattr(cupy, "__file__", None) or list(getattr(cupy, "__path__", []))
        return _broken_cupy(f"what Python finds under that name is not CuPy: {where}")
    if int(major) < OLDEST_CUPY:
        return Problem(
            "old-cupy",
            f"CuPy {version} is installed, but version {OLDEST_CUPY} or newer is needed.",
            f"Uninstall it and install the extra mlp-xp[cuda12] or mlp-xp[cuda13], {CPU_INSTEAD}.",
        )
    return None


def _broken_cupy(what: str) -> Problem:
    """Report a CuPy that is there and does not work."""
    return Problem(
        "broken-cupy",
        f"CuPy is installed but cannot be imported: {what}.",
        "Uninstall every package whose name begins with cupy (only one may be installed), then "
        f"install the extra mlp-xp[cuda12] or mlp-xp[cuda13], {CPU_INSTEAD}.",
    )


def _driver_problem(index: int) -> Problem | None:
    """Say what keeps the driver from showing the device."""
    import cupy

    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return _cuda_problem(error.status, error)
    if count == 0:
        return _no_gpu()
    if not 0 <= index < count:
        return Problem(
            "no-such-device",
            f"There is no device 'cuda:{index}': this process sees {count} "
            f"{'GPU' if count == 1 else 'GPUs'}, counted from 0{_visible_devices()}.",
            f"Use one of {', '.join(repr(f'cuda:{i}') for i in range(count))}, {CPU_INSTEAD}.",
        )
    return None


# What the CUDA runtime's and driver's error numbers mean for a user. The reasons for 35 and
# 100 depend on more than the number.
_STATUS = {
    2: Problem(
        "out-of-memory",
        "The GPU has no free memory left.",
        "End the programs that hold it (nvidia-smi lists them), choose another GPU with "
        f"device 'cuda:N', {CPU_INSTEAD}.",
    ),
    34: Problem(
        "stub-driver",
        "The libcuda that was loaded is the CUDA toolkit's stub, which only serves to link programs.",
        f"Take the toolkit's 'stubs' folder out of LD_LIBRARY_PATH, {CPU_INSTEAD}.",
    ),
    46: Problem(
        "busy-gpu",
        "The GPU is reserved by another program.",
        "Wait for that program to end, ask for the compute mode 'Default' (nvidia-smi -q shows the "
        f"mode), {CPU_INSTEAD}.",
    ),
    209: Problem(
        "unsupported-gpu",
        "This CuPy holds no code for this GPU's architecture.",
        "Install the extra mlp-xp[cuda12] instead of mlp-xp[cuda13] for a GPU older than compute "
        f"capability 7.5, a newer CuPy for a newer GPU, {CPU_INSTEAD}.",
    ),
    802: Problem(
        "not-ready",
        "The GPUs are not ready: their fabric manager has not started them.",
        f"Start the service nvidia-fabricmanager of the driver's release, {CPU_INSTEAD}.",
    ),
    803: Problem(
        "driver-mismatch",
        "The NVIDIA driver's kernel module and its libcuda are of different releases.",
        f"Reboot if the driver was updated (in a container, use the host's libcuda), {CPU_INSTEAD}.",
    ),
    999: Problem(
        "driver-failure",
        "The NVIDIA driver fails with the unknown error 999.",
        "Check that nvidia-smi runs; after a suspend or an update, reload the kernel module "
        f"nvidia_uvm or reboot, {CPU_INSTEAD}.",
    ),
}


def _cuda_problem(status: int, error: Exception) -> Problem:
    """Turn an error number of the CUDA runtime or driver into words."""
    if status == 35:
        return _driver_too_old_or_missing()
    if status == 100:
        return _no_gpu()
    if status in _STATUS:
        return _STATUS[status]
    return Problem(
        "cuda-error",
        f"CUDA fails with error {status} ({error}).",
        f"Check that nvidia-smi runs and look the error up in CUDA's manual, {CPU_INSTEAD}.",
    )


def _driver_too_old_or_missing() -> Problem:
    """Tell apart the two situations for which CUDA has one error number."""
    import cupy

    driver = cupy.cuda.runtime.driverGetVersion()
    built = cupy.cuda.runtime.runtimeGetVersion()
    if driver == 0:
        return Problem(
            "no-driver",
            "CuPy is installed, but there is no NVIDIA driver (its library libcuda is not found).",
            "Install NVIDIA's driver on a machine that has an NVIDIA GPU (in a container, start it "
            f"with the GPUs, as docker run --gpus all does), {CPU_INSTEAD}.",
        )
    usable, needed = driver // 1000, built // 1000
    older = f"install mlp-xp[cuda{usable}] in place of mlp-xp[cuda{needed}], "
    return Problem(
        "old-driver",
        f"The NVIDIA driver supports CUDA {_cuda_version(driver)}, but this CuPy needs CUDA {needed}.",
        "Update the NVIDIA driver (to release 525 or newer for CUDA 12, 580 or newer for CUDA 13), "
        f"{older if 12 <= usable < needed else ''}{CPU_INSTEAD}.",
    )


def _no_gpu() -> Problem:
    """Report a driver that shows no GPU."""
    setting = _visible_devices()
    first = (
        "Unset CUDA_VISIBLE_DEVICES or name a GPU that nvidia-smi lists"
        if setting
        else "Check that nvidia-smi lists a GPU (a container must be started with it)"
    )
    return Problem(
        "no-gpu",
        f"The NVIDIA driver works, but shows no GPU{setting}.",
        f"{first}, {CPU_INSTEAD}.",
    )


def _self_test_problem(index: int) -> Problem | None:
    """Run one elementwise kernel and one matrix product on the device and check the results."""
    import cupy

    runtime, driver = cupy.cuda.runtime, cupy.cuda.driver
    try:
        with cupy.cuda.Device(index):
            a = cupy.ones((8, 8), dtype=cupy.float32)
            b = cupy.asnumpy(a + a)
            c = cupy.asnumpy(a @ a)
    except MemoryError:
        return _STATUS[2]
    except (runtime.CUDARuntimeError, driver.CUDADriverError) as error:
        return _cuda_problem(error.status, error)
    except Exception as error:
        return _library_problem(error)
    if (b == 2).all() and (c == 8).all():
        return None
    return Problem(
        "wrong-result",
        f"The GPU 'cuda:{index}' computed wrong results in the self-test (1 + 1, and a product of "
        "two 8 × 8 matrices).",
        f"Look for hardware errors (nvidia-smi -q, dmesg), choose another GPU, {CPU_INSTEAD}.",
    )


# How the failures of libraries that are missing read, in CuPy's, pathfinder's and NVRTC's words.
_LIBRARIES = (
    (
        "no-nvrtc",
        ("libnvrtc", "nvrtc64", "nvrtc-builtins"),
        "NVRTC, CUDA's run-time compiler, was",
    ),
    ("no-headers", ("cuda headers", "open source file"), "the CUDA headers were"),
    ("no-cublas", ("libcublas", "cublas64"), "cuBLAS, CUDA's matrix product, was"),
)


def _library_problem(error: Exception) -> Problem:
    """Say which of CUDA's libraries is missing, or else what failed."""
    import cupy

    text = str(error)
    if "--gpu-architecture" in text:  # NVRTC refuses an architecture that it does not know
        return _STATUS[209]
    if "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return _STATUS[2]
    what = _one_line(error)
    # The first library that the text names is the missing one; lists of what is there may follow.
    named = [
        (text.lower().find(sign), code, missing)
        for code, signs, missing in _LIBRARIES
        for sign in signs
        if sign in text.lower()
    ]
    if named:
        _, code, missing = min(named)
        major = cupy.cuda.runtime.runtimeGetVersion() // 1000
        return Problem(
            code,
            f"There is a GPU, but {missing} not found: {what}.",
            f"Install the extra mlp-xp[cuda{major}] (pip install 'cupy-cuda{major}x[ctk]'), "
            f"point CUDA_PATH at a whole CUDA {major} toolkit, {CPU_INSTEAD}.",
        )
    return Problem(
        "failed-self-test",
        f"There is a GPU, but a kernel or a matrix product fails on it: {what}.",
        f"Check that the GPU is free and that CuPy works by itself, {CPU_INSTEAD}.",
    )


def _visible_devices() -> str:
    """Mention CUDA_VISIBLE_DEVICES where it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"


def _cuda_version(number: int) -> str:
    """Write CUDA's 12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _one_line(error: BaseException) -> str:
    """Name an error and the beginning of its text in one line, without a full stop."""
    text = " ".join(word for word in str(error).split() if word.strip("="))
    short = text if len(text) <= 200 else text[:200] + " ..."
    return f"{type(error).__name__}: {short}".rstrip(".: ")
