"""Several processes train the same model as one, to rounding; without MPI nothing changes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import data_parallel_runs
import numpy as np
import pytest

from mlp_xp import data_parallel
from mlp_xp.loader import Share


@pytest.fixture(scope="module")
def alone():
    return data_parallel_runs.results()


def mpiexec(n_ranks, *command, **options):
    """Run a command on several ranks; the launcher of this environment, or that of the machine."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    return subprocess.run(
        [launcher, "-n", str(n_ranks), sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


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


FAILS_ON_ONE_RANK = """
import sys
from mlp_xp.data_parallel import world
ranks = world()
try:
    if ranks.rank == 1:
        raise ValueError("the one real error")
    ranks.sum_numbers([1.0])
except ValueError as error:
    print(error, file=sys.stderr, flush=True)
    ranks.abort(2)
"""


@pytest.mark.needs("mpi4py")
def test_a_rank_that_fails_ends_all():
    done = mpiexec(3, "-c", FAILS_ON_ONE_RANK)
    assert done.returncode != 0
    assert "the one real error" in done.stderr


def test_outside_of_mpi_nothing_is_imported_and_nothing_changes():
    program = (
        "import sys; from mlp_xp.data_parallel import world; "
        "assert world() is None; assert 'mpi4py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", data_parallel.SIGNS_OF_MPI)
def test_a_launcher_is_recognised_by_its_variables(name):
    assert data_parallel.under_mpi({name: "1"})
    assert not data_parallel.under_mpi({"PATH": "/bin"})


@pytest.mark.parametrize("n_rows", [1, 2, 5, 13, 100])
@pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 7, 150])
def test_every_row_of_a_batch_is_in_one_share(n_rows, n_ranks):
    shares = [Share(rank, n_ranks).of(20, 20 + n_rows) for rank in range(n_ranks)]
    rows = [row for start, stop in shares for row in range(start, stop)]
    assert rows == list(range(20, 20 + n_rows))
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1
