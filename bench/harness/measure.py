"""How long does a call take, measured in turn with others, how much does it allocate, and on what?"""

import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mlp_xp
from mlp_xp.fast import on_cpu
from mlp_xp.machine.array_api import Backend

SAMPLE_SECONDS = 2e-3
"""Calls shorter than this are repeated until a sample lasts so long: far above the clock's 0.1 µs."""

THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Median(float):
    """The median of some samples; it and its multiples know the least and the most of them, too.

    Attributes
    ----------
    least, most : float
    """

    least: float
    most: float

    def __new__(cls, samples: Iterable[float]) -> "Median":
        """Of samples, one or more."""
        ordered = sorted(samples)
        median = super().__new__(cls, statistics.median(ordered))
        median.least, median.most = ordered[0], ordered[-1]
        return median

    def _times(self, factor: float) -> "Median":
        return Median(factor * each for each in (self.least, float(self), self.most))

    def __mul__(self, factor: float) -> float:
        """A multiple."""
        return float(self) * factor if isinstance(factor, Median) else self._times(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> float:
        """A part; of two medians the ratio alone."""
        return float(self) / float(divisor) if isinstance(divisor, Median) else self._times(1.0 / divisor)

    def __rtruediv__(self, dividend: float) -> "Median":
        """So many a second, of seconds."""
        return Median(dividend / each for each in (self.least, float(self), self.most))


def environment() -> dict[str, str]:
    """The environment for a process that is measured: this one's, with the BLAS free to choose its kernels.

    OPENBLAS_CORETYPE may pin NumPy's BLAS to an old processor (for results that are the same
    everywhere); the libraries it is compared with have BLAS of their own, which it does not touch.
    """
    return {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}


def in_process(module: str, *arguments: Any) -> Any:
    """What a module writes as the last line of its output, one JSON document, when it runs as a command.

    Raises
    ------
    RuntimeError
        It failed; with the last line of what it said.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{module} {' '.join(map(str, arguments))} failed: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def waiter(backend: Backend) -> Callable[[], None]:
    """What waits until the device has done all it was given; nothing on the CPU."""
    synchronize = getattr(backend.device, "synchronize", None)
    return synchronize or (lambda: None)


def paired_medians(
    calls: Mapping[Any, Callable[[], object]],
    *,
    seconds: float,
    wait: Callable[[], None] = lambda: None,
) -> dict[Any, Median]:
    """Median seconds a call of each function, measured in turn: a machine that drifts, drifts for all.

    Parameters
    ----------
    calls : mapping of name to function
        They take no arguments.
    seconds : float
        About how long to measure each of them; at least three rounds unless it is 0, which means one.
    wait : function
        Ends every sample: see `waiter`.
    """

    def sample(call: Callable[[], object], loops: int) -> float:
        began = time.perf_counter()
        for _ in range(loops):
            call()
        wait()
        return (time.perf_counter() - began) / loops

    loops = {}
    for name, call in calls.items():
        once = sample(call, 1)  # the first call pays for caches, buffers and kernels
        if seconds and once < 50 * SAMPLE_SECONDS:
            once = sample(call, 1)
        loops[name] = max(1, int(SAMPLE_SECONDS / once)) if seconds else 1
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    while True:
        for name, call in calls.items():
            samples[name].append(sample(call, loops[name]))
        rounds = len(next(iter(samples.values())))
        spent = time.perf_counter() - began
        if not seconds or (rounds >= 3 and spent >= seconds * len(calls)):
            return {name: Median(each) for name, each in samples.items()}


def allocated_bytes(make: Callable[[], object]) -> int:
    """Bytes of array data on the host that the object returned by `make` holds on to."""
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    tracemalloc.start()
    try:
        made = make()
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    del made
    return sum(trace.size for trace in snapshot.filter_traces([arrays]).traces)


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor, its cores that this process may use, the GPU if it is one, the system."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device != "cpu":
        from mlp_xp.machine import cuda

        index = int(device.partition(":")[2] or 0)
        found["gpu"] = next(gpu.name for gpu in cuda.devices() if gpu.index == index)
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of mlp_xp, Python, NumPy and those of the packages that are installed."""
    found = {"mlp_xp": mlp_xp.__version__, "python": platform.python_version()}
    for package in ("numpy", "array-api-compat", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> str:
    """NumPy's BLAS with its version, and how many threads it uses."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        set_by = [f"{name}={os.environ[name]}" for name in THREAD_SETTINGS if name in os.environ]
        return f"{built['name']} {built['version']}, threads: {', '.join(set_by) or 'its default'}"
    np.ones((2, 2)) @ np.ones((2, 2))
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    described = {
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown kernels')}), "
        f"threads: {pool['num_threads']}"
        for pool in pools
    }
    return "; ".join(sorted(described)) or "unknown"


@contextlib.contextmanager
def compiled_at_once() -> Iterator[None]:
    """Steps are compiled from the first one on: in the epoch that is not timed."""
    was, on_cpu.PAYS_AFTER = on_cpu.PAYS_AFTER, 0.0
    try:
        yield
    finally:
        on_cpu.PAYS_AFTER = was


def seconds_of_next(training: Iterator[object]) -> Callable[[], float]:
    """What trains an epoch and returns its seconds."""

    def epoch() -> float:
        began = time.perf_counter()
        next(training)
        return time.perf_counter() - began

    return epoch
