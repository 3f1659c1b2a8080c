"""These tests need CuPy but no GPU; without CuPy none is collected, and the run says so."""

import importlib.util

CUPY_IS_HERE = importlib.util.find_spec("cupy") is not None

collect_ignore_glob = [] if CUPY_IS_HERE else ["*.py"]


def pytest_terminal_summary(terminalreporter):
    if not CUPY_IS_HERE:
        terminalreporter.section("not run: tests/machine/cuda_without_gpu")
        terminalreporter.line(
            "These tests need CuPy (but no GPU), and it is not installed here. '.ci/run' runs them "
            "in environments of their own, one for each CUDA release."
        )
