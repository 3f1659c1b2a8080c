"""Several processes train the same model as one, to rounding; without MPI nothing changes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import data_parallel_runs
from mpi import check_ended, environment, mpiexec

from mlp_xp import Loader
from mlp_xp.machine import data_parallel, launcher
from mlp_xp.machine.array_api import backend
from mlp_xp.rows.batch import Share


@pytest.fixture(scope="module")
def alone():
    return data_parallel_runs.results()


@pytest.mark.needs("mpi4py")
@pytest.mark.parametrize("n_ranks", [2, 3, 4])
def test_ranks_train_the_model_that_one_process_trains(n_ranks, alone, tmp_path):
    done = mpiexec(n_ranks, data_parallel_runs.__file__, tmp_path)
    assert done.returncode == 0, done.stderr
    first = None
    for rank in range(n_ranks):
        found = json.loads((tmp_path / f"{rank}-of-{n_ranks}.json").read_text())
        assert found.keys() == alone.keys()
        for name, result in found.items():
            np.testing.assert_allclose(result, alone[name], rtol=1e-12, atol=1e-12, err_msg=name)
        first = first or found
        assert found == first, "ranks differ from each other"


@given(
    n_rows=st.integers(1, 200),
    batch_size=st.integers(1, 70),
    chunk_rows=st.integers(1, 30),
    n_ranks=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_every_row_is_seen_once_by_one_rank(n_rows, batch_size, chunk_rows, n_ranks, epoch):
    x = np.arange(float(n_rows))[:, None]
    host, n_steps = backend("cpu", "float64"), -(-n_rows // min(batch_size, n_rows))
    seen = [[] for _ in range(n_steps)]
    for rank in range(n_ranks):
        loader = Loader(x, x, batch_size=min(batch_size, n_rows), chunk_rows=chunk_rows, seed=3)
        steps = loader.batches(epoch, host, share=(rank, n_ranks))
        for number, step in enumerate(steps):
            rows = [row for chunk in step for row in chunk.x[:, 0].tolist()]
            seen[number] += zip(itertools.count(step.first_row), rows, strict=False)
    in_order = [row for step in seen for _, row in sorted(step)]
    assert in_order == np.asarray(loader.order(n_rows, 3, epoch)[0:n_rows]).tolist()
    assert sorted(in_order) == list(range(n_rows))


@pytest.mark.parametrize("n_rows", [1, 2, 5, 13, 100])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 7, 150])
def test_shares_differ_by_one_row_at_most(n_rows, n_ranks):
    shares = [Share(rank, n_ranks).of(20, 20 + n_rows) for rank in range(n_ranks)]
    assert [row for start, stop in shares for row in range(start, stop)] == list(range(20, 20 + n_rows))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1


TRAINS_FOR_EVER = """
import os, sys
from pathlib import Path
from mlp_xp import Loader, Network, train
from mlp_xp.machine.data_parallel import world

class Source:
    n_rows, n_features, n_targets = 64, 1, 1

    def rows(self, index, x, y, weight):
        x[:, 0] = y[:, 0] = index
        if ranks.rank in RAISING and next(calls) > 40:
            Path(folder, "raised").touch()
            raise ValueError("the one real error")

ranks, calls, folder = world(), iter(range(10**9)), Path(sys.argv[1])
RAISING = [int(rank) for rank in sys.argv[2:]]
for epoch in train(Network((1, 2, 1)), Loader(Source(), batch_size=8), ranks=ranks, max_epochs=10**9,
                   learning_rate=1e-5):
    if epoch.number == 3:
        Path(folder, f"{ranks.rank}-{os.getpid()}").touch()
"""


@pytest.fixture
def training(tmp_path):
    """`training(*ranks)`: three ranks in the middle of training, of which some will raise; all must end."""
    runs = []

    def start(*raising):
        run = mpiexec(3, "-c", TRAINS_FOR_EVER, tmp_path, *raising, start=subprocess.Popen)
        runs.append(run)
        while len(found := list(tmp_path.glob("*-*"))) < 3:
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        return run, {int(rank): int(process) for rank, process in (each.name.split("-") for each in found)}

    yield start
    for run in runs:
        run.kill()


@pytest.mark.needs("mpi4py", "psutil")
@pytest.mark.parametrize("raising", [[0], [2], [0, 1, 2]])
def test_a_rank_that_raises_ends_all_with_its_error(raising, training, tmp_path):
    run, processes = training(*raising)
    said = check_ended(run, processes.values(), lambda: (tmp_path / "raised").stat().st_mtime)
    assert said.count("ValueError: the one real error") == 1
    assert said.count("Traceback") == 1


@pytest.mark.needs("mpi4py", "psutil")
def test_a_rank_that_is_killed_ends_all(training):
    run, processes = training()
    killed = time.time()
    os.kill(processes[1], signal.SIGKILL)
    check_ended(run, processes.values(), lambda: killed)


THREADS = """
import json
import numpy, threadpoolctl
from mlp_xp.machine.data_parallel import world
ranks = world()
threads = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
found = ranks.gather_numbers(ranks.own_cores()), ranks.gather_numbers(threads[0])
if ranks.rank == 0:
    print(json.dumps(found))
"""

BOUND = """
import os
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cores[int(os.environ["PMI_RANK"])::2])
"""


@pytest.mark.needs("mpi4py", "threadpoolctl")
def test_ranks_share_the_cores():
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    done = mpiexec(2, "-c", THREADS)
    each = max(1, n_cores // 2)
    assert json.loads(done.stdout) == [[each, each], [each, each]], done.stderr
    for setting in data_parallel.THREAD_SETTINGS:  # the user's own
        done = mpiexec(2, "-c", THREADS, environment={"OPENBLAS_NUM_THREADS": "3"} | {setting: "3"})
        assert json.loads(done.stdout)[1] != [each, each] or each == 3


@pytest.mark.needs("mpi4py")
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores to bind"
)
def test_cores_that_the_launcher_has_bound_are_not_divided_again():
    done = mpiexec(2, "-c", BOUND + THREADS)
    n_cores = len(os.sched_getaffinity(0))
    each = sorted([n_cores // 2, n_cores - n_cores // 2])
    assert sorted(json.loads(done.stdout)[0]) == each, done.stderr


MESSAGES = """
import json
from mlp_xp.machine import cuda
from mlp_xp.machine.data_parallel import world

ranks = world()
cuda.devices = lambda: ["cards"] * 2
found = {
    "numbers": ranks.gather_numbers(ranks.rank * 1.5),
    "texts": ranks.gather_on_machine(f"0000:0{ranks.rank}:00.0"),
    "sums": ranks.sum_numbers([1.0, ranks.rank]),
    "bytes": [each.decode() for each in (ranks.bytes_from_first(b"abc"), ranks.bytes_from_first(b""))],
    "nothing": ranks.bytes_from_first(None if ranks.rank == 0 else b"mine"),
    "first": ranks.from_first(7.0 + ranks.rank),
    "devices": [ranks.own_device(name) for name in ("cpu", "cuda:3", "cuda")],
}
same = {name: each for name, each in found.items() if name != "devices"}
assert ranks.bytes_from_first(json.dumps(same).encode()) == json.dumps(same).encode()
total = ranks.sum_numbers([float(found["devices"][2][-1])])
if ranks.rank == 0:
    print(json.dumps(found | {"cards": total}))
"""


@pytest.mark.needs("mpi4py")
def test_small_messages_and_devices():
    done = mpiexec(3, "-c", MESSAGES)
    assert json.loads(done.stdout) == {
        "numbers": [0.0, 1.5, 3.0],
        "texts": ["0000:00:00.0", "0000:01:00.0", "0000:02:00.0"],
        "sums": [3.0, 3.0],
        "bytes": ["abc", ""],
        "nothing": None,
        "first": 7.0,
        "devices": ["cpu", "cuda:3", "cuda:0"],
        "cards": [0.0 + 1.0 + 0.0],  # the third rank shares the first card
    }, done.stderr


def test_outside_of_mpi_nothing_is_imported_and_nothing_changes():
    program = (
        "import sys; from mlp_xp.machine.data_parallel import world; "
        "assert world() is None; assert 'mpi4py' not in sys.modules; "
        "assert sys.excepthook is sys.__excepthook__"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=environment())


@pytest.mark.parametrize("name", launcher.SIGNS_OF_MPI)
def test_a_launcher_is_recognised_by_its_variables(name):
    assert launcher.under_mpi({name: "1"})
    assert not launcher.under_mpi({"PATH": "/bin"})


NO_LIBRARY = {"MPI4PY_LIBMPI": "/nowhere/libmpi.so"}


@pytest.mark.needs("mpi4py")
@pytest.mark.parametrize("name", launcher.SIZES_OF_MPI)
def test_without_an_mpi_library_each_process_is_alone_and_says_so(name):
    program = "from mlp_xp.machine.data_parallel import world; assert world() is None"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=environment(**NO_LIBRARY, **{name: size}),
        ).stderr
        for size in ("1", "4")
    ]
    assert said[0] == ""
    assert "4 processes were started together, but each trains on its own" in said[1]
    assert "mpi4py finds no MPI library" in said[1]


def test_mpi4py_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert data_parallel.mpi_problem() == 'mpi4py is not installed: pip install "mlp-xp[mpi]".'
    monkeypatch.setattr("mlp_xp.machine.data_parallel.under_mpi", lambda: True)
    assert data_parallel.describe().startswith("not usable: mpi4py is not installed")


DIFFERENT = """
import json, os, sys
import numpy as np
from mlp_xp import Loader, MLPRegressor, Network, train
from mlp_xp.machine.data_parallel import world
from mlp_xp.regularizers import L2

said = []
for change in json.loads(sys.argv[1]):
    x = np.random.default_rng(0).normal(size=(60, 3))
    network, loader, training = {}, {"batch_size": 20}, {"max_epochs": 3}
    fit = {"hidden_layer_sizes": (5,), "max_iter": 3, "alpha": 0.1}
    if world().rank == 1:
        exec(change)
    try:
        rows = Loader(x, x[:, 0], **loader)
        if "fit" in change:
            MLPRegressor(**fit, random_state=0).fit(rows)
        else:
            list(train(Network((3, 4, 1), **network), rows, ranks=world(), **training))
        said.append("trained")
    except ValueError as error:
        said.append(str(error))
if world().rank == 0:
    print(json.dumps(said))
"""

CHANGES = {
    "": "trained",
    "x[31, 0] += 1e-9": "train rows '60 rows, 3 columns, 1 targets",
    "x = x[:50]": "train rows '50 rows",
    "loader['sample_weight'] = np.arange(60.0)": "train rows '60 rows",
    "loader['batch_size'] = 30": "train batch_size '30' against '20'",
    "loader['seed'] = 1": "train seed '1' against '0'",
    "loader['order'] = 'sequential'": "train order",
    "network['dtype'] = 'float64'": "dtype \"'float64'\" against",
    "network['bias'] = False": "bias 'False' against 'True'",
    "network['activation'] = 'tanh'": "activations",
    "training['max_epochs'] = 300": "max_epochs '300' against '3'",
    "training['learning_rate'] = 0.1": "learning_rate '0.1'",
    "training['regularizer'] = L2(0.1)": "regularizer 'L2(",
    "training['seed'] = 3": "seed '3' against '0'",
    "training['validation'] = rows": "validation rows",
    "fit['max_iter'] = 9": "max_iter '9' against",
    "x[31, 0] += 1e-9 # fit": "rows '60 rows",
    "fit['hidden_layer_sizes'] = (7,)": "layer_sizes '(3, 7, 1)' against '(3, 5, 1)'",
}
"""What one rank does otherwise, and what is said of it."""


@pytest.mark.needs("mpi4py", "sklearn")
def test_ranks_that_were_given_different_things_say_what_differs():
    done = mpiexec(2, "-c", DIFFERENT, json.dumps(list(CHANGES)))
    assert done.returncode == 0, done.stderr
    for (change, expected), said in zip(CHANGES.items(), json.loads(done.stdout), strict=True):
        assert expected in said, change
        assert not change or "agree, but rank 1 differs from rank 0: " in said, change


BESIDE = """
import sys
from mlp_xp.cli import main
from mlp_xp.machine import data_parallel
data_parallel.SECONDS_TO_MEET = 1
main(sys.argv[1:])
"""


@pytest.mark.needs("mpi4py")
@pytest.mark.parametrize("other", [["--version"], ["train", "--epochs", "100000", "--no-mpi", "--quiet"]])
def test_a_training_does_not_wait_for_ever_for_ranks_that_never_come(other, tmp_path):
    began = ["-c", BESIDE, "train", "--epochs", "2", "--quiet"]
    done = mpiexec(2, began, ["-m", "mlp_xp", *other], timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "error: this process waited 1 seconds, where MPI begins, for the others" in done.stderr
