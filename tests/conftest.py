"""What the whole suite runs on: one device for the public API, and every array library there is.

    pytest                      on the CPU, over every library that is here; the end says which are not
    pytest --device cuda        the same suite on a GPU; without one it fails at once, with the reason
    pytest --backend strict     only these libraries (a name, several with commas, or given again)
    pytest --require torch,jax  fail at once where one of these is missing
    pytest -n0                  in this process; else one for each core shares the files out (pytest-xdist)

A test that needs an optional library is marked `needs("torch")`, a file whose imports need one by
`pytestmark = pytest.mark.needs("torch")`, and a fixture calls `need("torch")`; a doctest says it by its own
import. Where the library is missing they are skipped, and the end of the run says how many and why.
"""

import collections
import doctest
import gc
import os
import re

import backends
import numpy as np
import pytest
from arrays import host, readonly

# JAX is an oracle on the CPU; on a GPU it would take most of the memory for itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Before SciPy is imported: without it scikit-learn skips its Array API checks in silence.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

OPTIONAL = (
    "aiohttp",
    "autograd",
    "chromium",
    "fsspec",
    "jax",
    "mpi4py",
    "matplotlib",
    "nccl",
    "numba",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "polars",
    "psutil",
    "pyarrow",
    "scipy",
    "skl2onnx",
    "sklearn",
    "tensorboard",
    "threadpoolctl",
    "torch",
)
"""What a test may need beyond the core and pytest's own company."""


def pytest_addoption(parser):
    group = parser.getgroup("mlp_xp")
    group.addoption(
        "--device",
        default="cpu",
        metavar="cpu|cuda|cuda:N",
        help="where the tests of the public API train (default: cpu)",
    )
    group.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help=f"array libraries to run over (default: all that are here): {', '.join(backends.NAMES)}",
    )
    group.addoption(
        "--on-device",
        action="store_true",
        help="only the tests that compute where --device or --backend says",
    )
    group.addoption(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help="fail at once where one of these optional libraries or backends is missing",
    )


def _names(given):
    return [name for item in given for name in item.split(",") if name]


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "needs(*libraries): skipped, and reported, where one of them is not installed"
    )
    config.addinivalue_line("markers", "every_backend: also over those that ask for no more than another one")
    device = config.getoption("device")
    if device != "cpu" and backends.gpu_of(device) is None:
        raise pytest.UsageError(f"--device {device}: must be cpu, cuda or cuda:N.")
    wanted, required = _names(config.getoption("backend")), _names(config.getoption("require"))
    _refuse_unknown("--backend", wanted, backends.NAMES)
    _refuse_unknown("--require", required, (*backends.NAMES, *OPTIONAL))
    needed = {*wanted, *required} | ({"cupy"} if device != "cpu" else set())
    config.stash[AVAILABLE], config.stash[MISSING] = {}, {}
    for name in backends.NAMES:
        if wanted and name not in needed:  # to import torch takes seconds
            continue
        try:
            config.stash[AVAILABLE][name] = backends.make(name, device)
        except backends.UnavailableError as reason:
            if name in needed:
                asked = f"--device {device}" if name == "cupy" and device != "cpu" else name
                raise pytest.UsageError(f"{asked}: {reason}") from None
            config.stash[MISSING][name] = str(reason)
    absent = [name for name in required if name in OPTIONAL and not backends.is_here(name)]
    if absent:
        raise pytest.UsageError(f"--require: not installed: {', '.join(absent)}")
    config.stash[WANTED] = [n for n in config.stash[AVAILABLE] if not wanted or n in wanted]
    # A plugin and not a hook of this file, which would not be asked about the package's doctests.
    config.pluginmanager.register(MissingLibraries(config))


AVAILABLE = pytest.StashKey[dict]()
MISSING = pytest.StashKey[dict]()
WANTED = pytest.StashKey[list]()
NOT_INSTALLED = "is not installed"


def pytest_xdist_auto_num_workers(config):
    """One process on a GPU, whose memory is not shared out; else one for each core."""
    return 0 if config.getoption("device") != "cpu" else None


def pytest_xdist_setupnodes(config, specs):
    """What computes in a worker has one thread: two of two wait for one another more than they compute."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _refuse_unknown(option, names, known):
    unknown = [name for name in names if name not in known]
    if unknown:
        raise pytest.UsageError(f"{option} {', '.join(unknown)}: known are {', '.join(known)}.")


def pytest_report_header(config):
    return [
        f"mlp_xp: device {config.getoption('device')}, backends {', '.join(config.stash[WANTED])}",
        *(f"mlp_xp: not here: {name}: {why}" for name, why in config.stash[MISSING].items()),
    ]


def pytest_generate_tests(metafunc):
    if "backend_name" not in metafunc.fixturenames:
        return
    names = metafunc.config.stash[WANTED]
    is_narrow = metafunc.definition.get_closest_marker("every_backend") is None
    if is_narrow and not metafunc.config.getoption("backend"):
        less = [*backends.ASK_FOR_LESS]
        if "given" not in metafunc.fixturenames:  # which makes the difference
            less.append("numpy-readonly")
        names = [name for name in names if name not in less]
    metafunc.parametrize("backend_name", names, scope="session")


FIRST = (
    "test_on_cpu.py",
    "test_cuda_kernels.py",
    "test_members_training.py",
    *("cli", "benchmarks", "estimators", "campaigns", "whole", "machine"),
)
"""What has steps compiled, which others then find on disk and do not compile beside it; the longest files;
then the folders whose files take longest."""


def _turn(item):
    """A worker takes a file at a time: none is to be left alone with a long one at the end."""
    return next((turn for turn, name in enumerate(FIRST) if name in item.path.parts), len(FIRST))


def pytest_collection_modifyitems(config, items):
    items.sort(key=_turn)
    if config.getoption("on_device"):
        where = {"device", "backend", "gpu"}
        others = [item for item in items if where.isdisjoint(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def pytest_collection_finish(session):
    """What is imported and collected stays to the end: the collector of garbage need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    for marker in item.iter_markers("needs"):
        for library in marker.args:
            _need(item.config, library)


def _need(config, library):
    assert library in OPTIONAL, f"needs({library!r}): not among {OPTIONAL}"
    if not backends.is_here(library):
        pytest.skip(f"{library} {NOT_INSTALLED}")


@pytest.fixture
def need(request):
    """`need("pandas")` skips the test where that library is missing."""
    return lambda library: _need(request.config, library)


class MissingLibraries:
    """Skips files and doctests that end for want of an optional library that they say they need."""

    def __init__(self, config):
        self.config = config
        self.skipped = {}  # the library that a file misses; half of it stays among the modules

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        report = yield
        if report.failed and isinstance(collector, pytest.Module):
            error = report.call.excinfo.value
            cause = error.__cause__ or error.__context__ or error
            library = _missing(error) or self.skipped.get(getattr(cause, "path", None))
            if library in (OPTIONAL if _is_doctest(collector) else _needed(collector.path)):
                self.skipped[str(collector.path)] = library
                self._skip(report, collector.path, library)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        error = call.excinfo and call.excinfo.value
        if isinstance(error, doctest.UnexpectedException):
            library = _missing(error.exc_info[1])
            if library in OPTIONAL:
                self._skip(report, item.path, library)
        return report

    def _skip(self, report, path, library):
        report.outcome = "skipped"
        report.longrepr = (str(path), 1, f"Skipped: {library} {NOT_INSTALLED}")


def _is_doctest(collector):
    return type(collector).__name__ == "DoctestModule"


def _needed(path):
    """What a file's `pytestmark` says that its imports need."""
    found = re.search(
        r"^pytestmark = .*?mark\.needs\(([^)]*)\)", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return re.findall(r"\w+", found[1]) if found else ()


def _missing(error):
    """The library whose absence an error comes from; None for any other error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            library = error.name.partition(".")[0]
            return None if backends.is_here(library) else library
        error = error.__cause__ or error.__context__
    return None


def pytest_terminal_summary(terminalreporter, config):
    missing = config.stash[MISSING]
    reports = terminalreporter.stats.get("skipped", ())
    reasons = {report.nodeid: str(report.longrepr[-1]).removeprefix("Skipped: ") for report in reports}
    not_run = collections.Counter(
        reason.removesuffix(f" {NOT_INSTALLED}")
        for reason in reasons.values()
        if reason.endswith(NOT_INSTALLED)
    )
    if missing or not_run:
        terminalreporter.section("not run")
        for name, why in missing.items():
            terminalreporter.line(f"backend {name}: {why}")
        for library, count in sorted(not_run.items()):
            terminalreporter.line(
                f"{count} tests or files that need {library}, which is not installed "
                f"(--require {library} makes this a failure)"
            )


@pytest.fixture(scope="session")
def device(request):
    """The device string for tests of the public API: what --device says."""
    return request.config.getoption("device")


@pytest.fixture
def backend(request, backend_name):
    """A Backend of each array library in turn, in float64 where it has that."""
    return request.config.stash[AVAILABLE][backend_name]


@pytest.fixture
def given(backend, backend_name):
    """`given(values, dtype)`: an array on the backend that the code under test may only read.

    With numpy-readonly, NumPy itself refuses to write it; on every backend, it must be unchanged
    when the test ends.
    """
    handed_out = []

    def give(values, dtype=None):
        array = backend.asarray(values, dtype)
        if backend_name == "numpy-readonly":
            array.flags.writeable = False
        handed_out.append((array, readonly(host(array))))
        return array

    yield give
    for array, before in handed_out:
        np.testing.assert_array_equal(host(array), before)


@pytest.fixture
def rng():
    """NumPy's generator, the same for every test."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session", autouse=True)
def one_process_for_trials():
    """Files are read on trial in one process, and not each in its own: hundreds of tests read some."""
    if not backends.is_here("pyarrow"):
        yield
        return
    from campaigns.fuzz.worker import LastingSandbox

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlp_xp.tables.files.sandbox.Sandbox", LastingSandbox)
        yield
    LastingSandbox.one._end()
