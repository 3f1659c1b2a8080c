"""`mlp-xp` on several ranks: one voice, one file, and runs that go on after one of them has died."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mpi import check_ended, environment, mpiexec

from mlp_xp import load

pytestmark = pytest.mark.needs("mpi4py")

COMMAND = ("-m", "mlp_xp")
PLAIN = ("--recipe", "plain", "--patience", "0", "--hidden", "8", "--batch-size", "50", "--dtype", "float64")
TRAIN = (*COMMAND, "train", *PLAIN)


def parameters(path):
    return load(path).network.parameters.to_host()


def test_a_run_goes_on_on_another_number_of_ranks(tmp_path):
    """The model is that of an uninterrupted process, up to the rounding of sums."""
    options = (*TRAIN, "--epochs", "6", "--json", "--quiet")
    whole = tmp_path / "whole.safetensors"
    subprocess.run([sys.executable, *options, "--out", whole], check=True, env=environment())
    folder = ("--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "7steps")
    assert mpiexec(2, *options, *folder).returncode == 0
    for path in sorted((tmp_path / "c").glob("checkpoint-*"))[1:]:
        path.unlink()
    done = mpiexec(3, *options, *folder, "--resume", "--out", tmp_path / "m.safetensors")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["resumed_from"] == {"epoch": 4, "step": 35}
    assert (found["ranks"], found["steps_this_run"]) == (3, 13)
    assert len(found["rows_gathered"]) == 3
    assert sum(found["rows_gathered"]) == 398 * 6 - (4 * 398 + 3 * 50)
    np.testing.assert_allclose(parameters(tmp_path / "m.safetensors"), parameters(whole), rtol=1e-10)


@pytest.mark.parametrize(
    "members",
    [("--members", "3", "--dropout", "0.2", "--clip-norm", "1"), ("--folds", "3", "--l2", "0.01")],
    ids=["members", "folds"],
)
def test_members_are_trained_on_ranks_and_go_on_on_others(tmp_path, members):
    options = (*TRAIN, *members, "--epochs", "4", "--json", "--quiet")
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    alone = subprocess.run(
        [sys.executable, *options, "--out", whole], check=True, env=environment(), capture_output=True
    )
    folder = ("--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "5steps")
    assert mpiexec(2, *options, *folder).returncode == 0
    for path in sorted((tmp_path / "c").glob("checkpoint-*"))[1:]:
        path.unlink()
    done = mpiexec(2, *options, *folder, "--resume", "--out", parts)
    assert done.returncode == 0, done.stderr
    one, other = json.loads(alone.stdout), json.loads(done.stdout)
    assert other["resumed_from"]["step"] > 0
    assert other["ranks"] == 2
    assert load(parts).network.members == 3
    np.testing.assert_allclose(parameters(parts), parameters(whole), rtol=1e-9)
    for name in one.get("cross_validation", {}):
        assert other["cross_validation"][name] == pytest.approx(one["cross_validation"][name], rel=1e-6)
    assert ("cross_validation" in one) == ("--folds" in members)


def ranks_in_training(run, folder):
    """The processes of all ranks, once there is a checkpoint."""
    import psutil

    while not list(folder.glob("checkpoint-*")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    children = psutil.Process(run.pid).children(recursive=True)
    return [each.pid for each in children if "mlp_xp" in each.cmdline()]


@pytest.mark.needs("psutil")
def test_a_signal_to_one_rank_ends_all_after_the_same_step(tmp_path):
    folder = ("--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "2epochs")
    options = (*TRAIN, *folder, "--out", tmp_path / "m.safetensors")
    run = mpiexec(3, *options, "--epochs", "1000000", start=subprocess.Popen)
    ranks = ranks_in_training(run, tmp_path / "c")
    sent = time.time()
    os.kill(ranks[2], signal.SIGTERM)
    said = check_ended(run, ranks, lambda: sent)
    assert run.returncode == 128 + signal.SIGTERM
    assert said.count("interrupted after step") == 1
    assert "error" not in said
    assert (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("first", ["find()", "None"], ids=["MPI has begun", "MPI has not begun"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_interruption_of_a_rank_that_has_not_met_the_others_ends_them(rank, first):
    """The other rank waits in its first message, or where MPI begins."""
    program = (
        "import os, signal\nfrom mlp_xp.cli import main\nfrom mlp_xp.machine import data_parallel\n"
        "find = data_parallel.mpi_problem\n"
        "def mpi_problem():\n"
        f"    if os.environ['PMI_RANK'] == {rank!r}: {first}; os.kill(os.getpid(), signal.SIGINT)\n"
        "    return find()\n"
        "data_parallel.mpi_problem = mpi_problem\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main(['train', '--epochs', '2', '--quiet'])"
    )
    done = mpiexec(2, "-c", program, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("mlp-xp: error: interrupted.") == 1


def test_an_interruption_before_the_first_epoch_is_over_is_said_once(tmp_path):
    signalling = """
import os, signal, sys
from mlp_xp.rows.loader import Loader
from mlp_xp.cli import main
blocks, seen = Loader.blocks, []

def signal_in_the_first_epoch(*arguments, **named):
    if not seen and os.environ["PMI_RANK"] == "1":
        os.kill(os.getpid(), signal.SIGINT)
    seen.append(1)
    return blocks(*arguments, **named)

Loader.blocks = signal_in_the_first_epoch
main(sys.argv[1:])
"""
    done = mpiexec(2, "-c", signalling, *TRAIN[2:], "--quiet", "--epochs", "3")
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.count("mlp-xp: error: interrupted.") == 1


@pytest.mark.needs("psutil")
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on(tmp_path):
    folder = ("--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "5steps")
    run = mpiexec(3, *TRAIN, "--epochs", "1000000", "--quiet", *folder, start=subprocess.Popen)
    ranks = ranks_in_training(run, tmp_path / "c")
    assert len(ranks) == 3
    killed = time.time()
    os.kill(ranks[1], signal.SIGKILL)
    said = check_ended(run, ranks, lambda: killed)
    assert "Traceback" not in said
    assert "mlp-xp: error" not in said
    latest = max(each.name for each in (tmp_path / "c").glob("checkpoint-*"))
    epoch = int(latest.split("-")[1])
    options = (*TRAIN, "--quiet", "--json", "--resume", "--override", "--epochs", epoch + 2)
    done = mpiexec(2, *options, *folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == epoch + 2


@pytest.mark.needs("pyarrow")
def test_an_error_of_one_rank_ends_all(tmp_path):
    (tmp_path / "x.csv").write_text("a,y\n" + "1,2\n2,3\n" * 50)
    good = (*COMMAND, "train", tmp_path / "x.csv", "--target", "y", "--epochs", "1000000", "--patience", "0")
    done = mpiexec(2, list(good), [*good, "--optimizer", "adm"])
    assert done.returncode != 0
    assert done.stderr.count("mlp-xp: error: ") == 1
    assert "unknown optimizer 'adm'" in done.stderr
    assert "(rank 1)" in done.stderr


def test_a_training_that_diverges_on_all_ranks_is_said_once():
    diverging = ("--optimizer", "sgd", "--learning-rate", "1e300", "--epochs", "3", "--quiet")
    done = mpiexec(2, *TRAIN, *diverging)
    assert done.returncode != 0
    assert done.stderr.count("became infinite or nan in epoch 1") == 1


COUNTED = """
import os, sys, time
from pathlib import Path
from mlp_xp.tables.files import opening
write, folder = opening.write_records, Path(sys.argv.pop(1))

def counted(*arguments):
    Path(folder, f"written-by-{os.getpid()}").touch()
    time.sleep(0.2)
    return write(*arguments)

opening.write_records = counted
from mlp_xp.cli import main
main()
"""


@pytest.mark.needs("pyarrow")
def test_one_rank_of_a_machine_converts_the_table(tmp_path):
    rows = np.random.default_rng(0).normal(size=(3000, 3))
    np.savetxt(tmp_path / "big.csv", rows, delimiter=",", header="a,b,y", comments="")
    (tmp_path / "program.py").write_text(COUNTED)
    options = ("train", tmp_path / "big.csv", "--target", "y", "--memory-limit", "20kB", "--epochs", "2")
    options += ("--cache-dir", tmp_path / "cache", "--json", "--quiet")
    done = mpiexec(3, tmp_path / "program.py", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ranks"] == 3
    assert len(list(tmp_path.glob("written-by-*"))) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_every_rank_alone_where_that_is_asked_for(tmp_path):
    done = mpiexec(2, *TRAIN, "--epochs", "2", "--json", "--quiet", "--no-mpi")
    assert done.returncode == 0, done.stderr
    # Two that print at once may share a line.
    assert re.findall(r'"ranks": (\d+)', done.stdout) == ["1", "1"]


def devices(**further):
    done = subprocess.run(
        [sys.executable, *COMMAND, "devices"], capture_output=True, text=True, env=environment(**further)
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("mpi ")]
    return line


def test_devices_says_which_mpi_there_is():
    alone, together = devices(), mpiexec(3, *COMMAND, "devices").stdout
    assert alone.startswith("mpi     ready: ")
    assert "1 rank (" in alone
    (line,) = [line for line in together.splitlines() if line.startswith("mpi ")]
    assert "3 ranks" in line
    from mpi4py import __version__

    for said in (alone, line):
        assert f"mpi4py {__version__}" in said


@pytest.mark.parametrize("further", [{}, {"PMI_SIZE": "1"}])
def test_devices_says_that_there_is_no_mpi_library(further):
    said = devices(MPI4PY_LIBMPI="/nowhere/libmpi.so", **further)
    assert said.startswith("mpi     not usable: mpi4py finds no MPI library (")
    assert said.endswith("): install one, such as MPICH.")


def test_unknown_ways_to_sum_are_refused():
    done = subprocess.run(
        [sys.executable, *COMMAND, "train", "--all-reduce", "ring"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 2
    assert "unknown --all-reduce 'ring'; known: auto, nccl, host, mpi." in done.stderr


def test_ranks_that_were_given_something_else_are_refused(tmp_path):
    """Rank 1 has other epochs, or other rows under the same name."""
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        x = np.random.default_rng(rank).normal(size=(40, 2))
        np.save(tmp_path / str(rank) / "x.npy", x)
        np.save(tmp_path / str(rank) / "y.npy", x[:, 0])
    program = (
        "import os, sys; from mpi4py import MPI; from mlp_xp.cli import main\n"
        "rank = MPI.COMM_WORLD.Get_rank(); os.chdir(sys.argv[1 + rank])\n"
        "main(['train', 'x.npy', '--target', 'y.npy', '--quiet', '--epochs', sys.argv[3 + rank]])"
    )
    folders = (tmp_path / "0", tmp_path / "1")
    done = mpiexec(2, "-c", program, folders[0], folders[0], "2", "3")
    assert done.returncode == 2
    assert "rank 1 differs from rank 0: epochs 3 against 2" in done.stderr
    done = mpiexec(2, "-c", program, *folders, "2", "2")
    assert done.returncode == 2
    assert "rank 1 differs from rank 0: data" in done.stderr
