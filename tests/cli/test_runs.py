"""Runs that last: checkpoints, resuming, signals, several processes; class weights and the cache."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mpi import mpiexec

from mlp_xp.cli import main
from mlp_xp.settings.options import amount


def mlp_xp(*arguments):
    """Run a command in this process; its exit status."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def train_json(capsys, *arguments):
    status = mlp_xp("train", "--quiet", "--json", *arguments)
    said = capsys.readouterr()
    assert status == 0, said.err
    return json.loads(said.out)


QUICK = ("--recipe", "plain", "--epochs", 6, "--patience", 0, "--hidden", 8, "--batch-size", 50)


def test_resuming_ends_with_the_same_bytes(tmp_path, capsys, device):
    whole = train_json(capsys, *QUICK, "--device", device, "--out", tmp_path / "a.safetensors")
    assert whole["resumed_from"] is None
    where = ("--device", device, "--checkpoint-dir", tmp_path / "c", "--out", tmp_path / "b.safetensors")
    first = train_json(capsys, *QUICK, *where, "--checkpoint-every", "7steps")
    assert first["steps_this_run"] == whole["steps_this_run"] == 48
    for path in sorted((tmp_path / "c").glob("checkpoint-*"))[1:]:
        path.unlink()
    (tmp_path / "b.safetensors").unlink()
    again = train_json(capsys, *QUICK, *where, "--checkpoint-every", "7steps", "--resume")
    assert again["resumed_from"] == {"epoch": 4, "step": 35}  # the last three are kept: 35, 42, and the end
    assert again["steps_this_run"] == 13
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    "members",
    [
        ("--members", 3, "--dropout", 0.2, "--recipe", "tables"),
        ("--members", 3, "--bootstrap"),
        ("--folds", 3, "--average", 0.3, "--schedule", "reduce_on_plateau:patience=1"),
    ],
    ids=["members", "bootstrap", "folds"],
)
def test_a_killed_run_of_members_ends_with_the_same_bytes(tmp_path, capsys, members):
    options = [*QUICK, *members, "--epochs", 30]
    whole = train_json(capsys, *options, "--out", tmp_path / "a.safetensors")
    where = ["--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "7steps"]
    more = ["train", "--quiet", *options, *where]
    run = subprocess.Popen([sys.executable, "-m", "mlp_xp", *map(str, more)])
    while not list((tmp_path / "c").glob("checkpoint-*")):
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.wait()
    again = train_json(capsys, *options, *where, "--resume", "--out", tmp_path / "b.safetensors")
    assert again["resumed_from"]["step"] > 0
    assert again.get("cross_validation") == whole.get("cross_validation")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_resuming_in_an_empty_folder_starts_from_the_beginning_and_says_so(tmp_path, capsys):
    assert mlp_xp("train", *QUICK, "--checkpoint-dir", tmp_path / "new", "--resume") == 0
    assert "no checkpoint yet: starting from the beginning" in capsys.readouterr().err


def test_an_earlier_runs_folder_is_not_written_over(tmp_path, capsys):
    where = ("--checkpoint-dir", tmp_path, "--checkpoint-every", "1epoch")
    assert mlp_xp("train", *QUICK, *where) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert mlp_xp("train", *QUICK, *where) == 2
    assert "--resume" in capsys.readouterr().err
    assert mlp_xp("train", *QUICK, *where, "--resume", "--seed", 1) == 2
    assert "seed: 0 then, 1 now" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert mlp_xp("train", *QUICK, *where, "--resume", "--seed", 1, "--override") == 0


def test_options_that_need_each_other(tmp_path, capsys):
    assert mlp_xp("train", "--resume", "--checkpoint-every", "soon", "--memory-limit", "x") == 2
    said = capsys.readouterr().err
    for part in ("--checkpoint-dir DIR", "--checkpoint-every='soon'", "--memory-limit='x'"):
        assert part in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_checkpoint_and_model_and_the_run_goes_on(number, tmp_path):
    command = [sys.executable, "-m", "mlp_xp", "train", "--epochs", "1000000", "--patience", "0"]
    command += [
        "--plain-steps",
        "--hidden",
        "8",
        "--checkpoint-dir",
        tmp_path / "c",
        "--out",
        tmp_path / "m.safetensors",
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "rows to train on" in run.stderr.readline()
    while "  loss " not in run.stderr.readline():  # an epoch is over
        pass
    time.sleep(0.05)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == -number, said
    assert "go on with --resume" in said
    assert (tmp_path / "m.safetensors").exists()
    more = ["--resume", "--time-budget", "0.2s", "--json", "--quiet"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["resumed_from"]["step"] > 0
    assert found["steps_this_run"] > 0


@pytest.mark.needs("mpi4py")
def test_several_processes_train_the_same_model_and_only_one_speaks(tmp_path, capsys):
    options = [*map(str, QUICK), "--dtype", "float64", "--json"]
    alone = train_json(capsys, *options[:-1])
    done = mpiexec(3, "-m", "mlp_xp", "train", *options, "--out", tmp_path / "m.safetensors")
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["ranks"] == 3
    assert sum(together["rows_gathered"]) == 398 * 6
    assert together["metrics"]["rmse"] == pytest.approx(alone["metrics"]["rmse"], rel=1e-9)
    assert done.stderr.count("rows to train on") == 1


@pytest.mark.needs("mpi4py")
def test_an_error_of_all_ranks_is_said_once():
    done = mpiexec(2, "-m", "mlp_xp", "train", "--optimizer", "adm")
    assert done.returncode != 0
    assert done.stderr.count("unknown optimizer 'adm'") == 1


def test_class_weights(tmp_path, capsys):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    np.savez(tmp_path / "d.npz", x=x, y=(x[:, 0] > 1.3).astype(int))
    file = tmp_path / "d.npz"
    plain = train_json(capsys, file, *QUICK, "--learning-rate", "0.01")
    balanced = train_json(capsys, file, *QUICK, "--learning-rate", "0.01", "--class-weight", "balanced")
    assert plain["metrics"] != balanced["metrics"]
    assert mlp_xp("train", *QUICK, "--class-weight", "balanced") == 2
    assert "regression" in capsys.readouterr().err


def test_accumulated_batches_are_one_step(capsys):
    apart = train_json(capsys, *QUICK, "--dtype", "float64", "--batch-size", 100)
    added = train_json(capsys, *QUICK, "--dtype", "float64", "--accumulate", 2)
    assert added["steps_this_run"] == apart["steps_this_run"]
    assert added["metrics"]["rmse"] == pytest.approx(apart["metrics"]["rmse"], rel=1e-9)


@pytest.mark.needs("pyarrow")
def test_a_table_above_the_limit_is_cached_listed_and_cleared(tmp_path, capsys):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(3000, 4))
    file = tmp_path / "big.csv"
    np.savetxt(file, rows, delimiter=",", header="a,b,c,y", comments="")
    folder = ("--cache-dir", tmp_path / "cache")
    options = (file, "--target", "y", *QUICK, "--epochs", 2)
    in_memory = train_json(capsys, *options)
    for _ in range(2):
        cached = train_json(capsys, *options, *folder, "--memory-limit", "20kB")
        assert cached["metrics"] == in_memory["metrics"]
    assert mlp_xp("cache", *folder) == 0
    assert "1 table" in (said := capsys.readouterr().out)
    assert "big.csv" in said
    assert mlp_xp("cache", "--clear", *folder) == 0
    assert mlp_xp("cache", *folder) == 0
    assert "0 tables" in capsys.readouterr().out.splitlines()[-1]


def test_amounts_of_memory():
    assert amount("m", "500MB") == 500_000_000
    assert amount("m", "2GiB") == 2**31
    assert amount("m", "1.5 kB") == 1500
    assert amount("m", "77") == 77
    for wrong in ("", "GB", "-1MB", "0MB", "1XB"):
        with pytest.raises(ValueError, match="m="):
            amount("m", wrong)
