"""`mlp-xp train`: the main job, from data to a model that is as good as it says."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import environment, run_process, runner

from mlp_xp import load
from mlp_xp.cli import progress as live
from mlp_xp.losses import Pinball, Poisson
from mlp_xp.machine import blas
from mlp_xp.tables.datasets import DATASETS, load_dataset
from mlp_xp.tables.holding_out import at_random

run = pytest.fixture(runner)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(outcome):
    assert (outcome.status, outcome.errors) == (0, [])
    return json.loads(outcome.out)


# The main job


def test_without_data_it_trains_to_convergence(run, folder, device):
    outcome = run("train", "--device", device)
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert [re.split("  +", line)[0] for line in lines[:10]] == [
        "44 held-out rows",
        "r2",
        "rmse",
        "mae",
        "median_error",
        "",
        "epochs",
        "stopped",
        "time",
        "device",
    ]
    assert "the held-out loss did not fall for" in lines[7]
    assert float(lines[1].split()[1]) > 0.3
    assert re.split("  +", lines[0])[1:] == ["model", "95% interval", "mean", "linear", "training rows"]
    introduction, network, *progress = outcome.err.splitlines()
    epochs = [line for line in progress if "  loss " in line]  # a slow one says in the middle how far it is
    assert introduction == (
        "diabetes: 398 rows to train on, 44 held out, 10 columns to predict progression (regression)"
    )
    assert network.startswith("network 10-64-64-1: 4,929 parameters on ")
    assert re.fullmatch(
        r"epoch 1/1000  loss \S+  validation loss \S+  learning rate 0.001  [\d,]+ rows/s  .*at most .* left",
        epochs[0],
    )
    assert re.fullmatch(
        r"epoch \d+/1000  loss \S+  validation loss \S+  learning rate \S+  [\d,]+ rows/s"
        r"(  +\S+ MB)?(  +\S+ MB on the GPU)?",
        epochs[-1],
    )
    assert list(folder.iterdir()) == []


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(
    ("dataset", "metric", "least"),
    [
        ("digits", "accuracy", 0.93),
        ("breast_cancer", "accuracy", 0.93),
        ("wine", "accuracy", 0.93),
        ("iris", "accuracy", 0.85),
        ("diabetes", "r2", 0.3),
        ("linnerud", "rmse_Waist", 0.0),
    ],
)
def test_every_data_set_trains(run, dataset, metric, least, device):
    options = ["--learning-rate", "0.01", "--epochs", "30", "--device", device, "--json", "--quiet"]
    found = result(run("train", "--dataset", dataset, *options))
    assert found["metrics"][metric] > least
    assert found["metrics_on"] == "held-out"
    assert dataset in DATASETS


def test_json_is_one_document(run, folder):
    found = result(run("train", "--epochs", "4", "--json", "--out", "m.safetensors"))
    seconds, metrics = found.pop("seconds"), found.pop("metrics")
    assert 0 < seconds < 60
    assert list(metrics) == ["r2", "rmse", "mae", "median_error"]
    low, high = found.pop("intervals")["rmse"]
    assert low < metrics["rmse"] < high
    assert found.pop("advice")[0].startswith("The last epoch was the best one")
    baselines = found.pop("baselines")
    assert list(baselines) == ["mean", "linear"]
    assert baselines["mean"]["r2"] < 0.1 < baselines["linear"]["r2"]
    assert found.pop("training_metrics")["rmse"] > 0
    train_loss, validation_loss = found.pop("train_loss"), found.pop("validation_loss")
    assert train_loss > 0
    assert validation_loss > 0
    assert found == {
        "classes": None,
        "metrics_on": "held-out",
        "rows_measured": 44,
        "epochs": 4,
        "best_epoch": 4,
        "stopped": "reached 4 epochs",
        "device": "cpu",
        "dtype": "float32",
        "steps_this_run": 8,
        "resumed_from": None,
        "ranks": 1,
        "rows_gathered": [4 * 398],
        "model": "m.safetensors",
    }


def test_a_metric_without_a_meaning_is_null(run, folder):
    np.savez("d.npz", x=np.arange(4.0)[:, None], y=np.array([1.0, 2.0, 3.0, 4.0]))
    found = result(run("train", "d.npz", "--epochs", "2", "--validation", "0.25", "--json"))
    assert found["metrics"]["r2"] is None
    assert found["metrics"]["mae"] > 0
    outcome = run("train", "d.npz", "--epochs", "2", "--validation", "0.25")
    assert re.search(r"r2  +undefined", outcome.out)


def test_quiet_says_nothing(run, folder):
    outcome = run("train", "--epochs", "2", "--quiet", "--out", "m.safetensors")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert (folder / "m.safetensors").is_file()


def test_the_same_from_python_m(tmp_path):
    outcome = run_process("train", "--epochs", "3", "--json", folder=tmp_path)
    assert outcome.status == 0
    assert json.loads(outcome.out)["epochs"] == 3
    assert "\x1b" not in outcome.err + outcome.out
    assert not any(line.endswith(" ") for line in outcome.out.splitlines())


# The user's own data


def test_array_files(run, folder):
    diabetes = load_dataset("diabetes")
    np.savez("d.npz", x=diabetes.x, y=diabetes.y)
    np.save("x.npy", diabetes.x.astype("f4"))
    np.save("y.npy", diabetes.y[:, 0].astype("i8"))
    shipped = result(run("train", "--epochs", "3", "--json"))
    for arguments in (["d.npz"], ["x.npy", "--target", "y.npy"]):
        own = result(run("train", *arguments, "--epochs", "3", "--json"))
        assert own["metrics"] == pytest.approx(shipped["metrics"], rel=1e-5)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_tables(run, folder, suffix):
    import pyarrow as pa
    from pyarrow import csv, feather, parquet

    diabetes = load_dataset("diabetes")
    columns = {"progression": diabetes.y[:, 0]} | dict(zip(diabetes.feature_names, diabetes.x.T, strict=True))
    write = {"csv": csv.write_csv, "parquet": parquet.write_table, "arrow": feather.write_feather}
    write[suffix](pa.table(columns), f"d.{suffix}")
    shipped = result(run("train", "--epochs", "3", "--json"))
    own = result(run("train", f"d.{suffix}", "--target", "progression", "--epochs", "3", "--json"))
    assert own["metrics"] == pytest.approx(shipped["metrics"], rel=1e-6)


@pytest.mark.needs("pyarrow")
def test_text_targets_are_classes(run, folder, rng):
    x = rng.normal(size=(90, 2))
    kinds = np.array(["left", "right, of course"])[(x[:, 0] > 0).astype(int)]
    lines = [f'{a},{b},"{kind}"' for (a, b), kind in zip(x, kinds, strict=True)]
    (folder / "d.csv").write_text("\n".join(["a,b,kind", *lines]))
    outcome = run("train", "d.csv", "--target", "kind", "--epochs", "100", "--out", "m.safetensors")
    assert outcome.status == 0
    assert "(classification: 2 classes, left, right, of course)" in outcome.err
    assert float(re.search(r"accuracy +(\S+)", outcome.out)[1]) > 0.8
    assert re.search(r"class +rows +precision +recall +f1\nleft +[0-9] ", outcome.out)
    assert load("m.safetensors").predict({"a": [-3.0, 3.0], "b": [0.0, 0.0]}).tolist() == [
        "left",
        "right, of course",
    ]


@pytest.mark.needs("pyarrow")
def test_several_targets_weights_and_columns_left_out(run, folder, rng):
    x = rng.normal(size=(60, 2))
    table = np.column_stack([x, x @ [1, 2], x @ [3, 4], rng.random(60), np.arange(60)])
    np.savetxt("d.csv", table, delimiter=",", header='a,b,"s, t",u,w,id', comments="")
    options = ["--weight-column", "w", "--exclude", "id", "--epochs", "2", "--json", "--out", "m"]
    found = result(run("train", "d.csv", "--target", '"s, t",u', *options))
    assert "rmse_s, t" in found["metrics"]
    model = load("m")
    assert (model.inputs.names, model.targets.names) == (("a", "b"), ("s, t", "u"))


def test_weights_change_the_training(run, folder, rng):
    x, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    np.savez("plain.npz", x=x, y=y)
    np.savez("ones.npz", x=x, y=y, sample_weight=np.ones(50))
    np.savez("weighted.npz", x=x, y=y, sample_weight=rng.random(50))
    losses = {
        name: result(run("train", f"{name}.npz", "--epochs", "3", "--json"))["train_loss"]
        for name in ("plain", "ones", "weighted")
    }
    assert losses["plain"] == pytest.approx(losses["ones"], rel=1e-5)
    assert losses["plain"] != pytest.approx(losses["weighted"], rel=1e-3)


# Standardised with the training part's statistics, reported in the user's units


def test_statistics_are_those_of_the_training_part(run, folder):
    diabetes = load_dataset("diabetes")
    run("train", "--epochs", "1", "--seed", "7", "--validation", "0.3", "--out", "m")
    training, _ = at_random(442, 0.3, 7)
    model = load("m")
    columns = model.inputs.columns
    np.testing.assert_allclose([column.centre for column in columns], diabetes.x[training].mean(axis=0))
    np.testing.assert_allclose([column.scale for column in columns], diabetes.x[training].std(axis=0))
    np.testing.assert_allclose(model.targets.means, diabetes.y[training].mean(axis=0))


@pytest.mark.needs("sklearn")
def test_metrics_are_in_the_users_units(run, folder):
    from sklearn.metrics import mean_absolute_error

    diabetes = load_dataset("diabetes")
    for unit in (1.0, 1000.0):
        np.savez("d.npz", x=diabetes.x, y=diabetes.y * unit)
        found = result(run("train", "d.npz", "--epochs", "5", "--json", "--out", "m"))
        _, held_out = at_random(442, 0.1, 0)
        predicted = load("m").predict(diabetes.x[held_out])
        expected = mean_absolute_error(diabetes.y[held_out] * unit, predicted)
        assert found["metrics"]["mae"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "loss", ["squared_error", "half_squared_error", "absolute_error", "huber:delta=2", "pinball"]
)
def test_targets_of_these_losses_are_standardised(run, folder, loss):
    run("train", "--epochs", "1", "--loss", loss, "--out", "m")
    model = load("m")
    assert model.targets.scales[0] == pytest.approx(77, rel=0.1)


def test_targets_of_other_losses_are_left_alone(run, folder):
    outcome = run("train", "--epochs", "20", "--loss", "poisson", "--json", "--out", "m")
    model = load("m")
    assert (model.targets.means, model.targets.scales) == ((0.0,), (1.0,))
    assert isinstance(model.loss, Poisson)
    assert "poisson_deviance" in result(outcome)["metrics"]
    assert model.predict(load_dataset("diabetes").x).min() > 0


def test_quantiles(run, folder):
    outcome = run("train", "--loss", "pinball:quantiles=0.1/0.9", "--epochs", "15", "--json", "--out", "m")
    found = result(outcome)["metrics"]
    assert 0.3 < found["coverage"] <= 1
    model = load("m")
    assert model.loss == Pinball((0.1, 0.9))
    predicted = model.predict(load_dataset("diabetes").x)
    assert (predicted[:, 0] <= predicted[:, 1]).all()


@pytest.mark.needs("sklearn")
def test_two_classes_by_binary_cross_entropy(run, folder):
    options = ["--loss", "binary_cross_entropy", "--epochs", "15", "--json", "--out", "m"]
    found = result(run("train", "--dataset", "breast_cancer", *options))
    assert found["metrics"]["accuracy"] > 0.9
    model = load("m")
    assert model.network.layer_sizes[-1] == 1
    assert model.levels == ("malignant", "benign")


# Options

EVERYTHING = {
    "hidden": ["", "5", "4,3,2"],
    "activation": ["identity", "tanh,relu", "leaky_relu:slope=0.2", "relu,gelu,identity"],
    "initializer": ["orthogonal", "lecun_normal"],
    "optimizer": ["sgd", "momentum", "nesterov", "rmsprop", "adamw", "nadam", "adam:beta1=0.8,eps=1e-6"],
    "schedule": ["step:every=2,factor=0.5", "cosine", "warm_up", "one_cycle", "reduce_on_plateau"],
    "batch-size": ["1", "full", "auto", "398"],
    "order": ["sequential", "with_replacement", "blocks"],
    "validation": ["0", "0.5"],
    "patience": ["0", "1"],
    "dropout": ["0.5", "0.5,0"],
    "clip-norm": ["0.1"],
    "reduction": ["sum"],
    "l1": ["1e-3"],
    "l2": ["1e-3"],
    "keep": ["last"],
    "on-divergence": ["rollback"],
    "dtype": ["float64"],
    "tolerance": ["0.1"],
    "loss": ["absolute_error", "huber:delta=0.5"],
}


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in EVERYTHING.items() for value in values]
)
def test_every_option_trains(run, option, value):
    options = ["--learning-rate", "1e-4", "--epochs", "2", "--quiet", "--json"]
    assert result(run("train", f"--{option}", value, *options))["epochs"] in (1, 2)


def test_threads_are_the_most_that_compute(run, monkeypatch):
    found = []
    monkeypatch.setattr(live.Tally, "passed", lambda self, n_rows: found.append(blas.n_threads()))
    assert run("train", "--quiet", "--epochs", "1", "--threads", "1").status == 0
    assert set(found) == {1}
    outcome = run("train", "--threads", "0")
    assert (outcome.status, outcome.errors) == (2, ["--threads=0 must be a whole number >= 1."])


@pytest.mark.needs("scipy")
def test_lbfgs(run):
    found = result(run("train", "--optimizer", "lbfgs", "--epochs", "30", "--json"))
    assert found["metrics"]["r2"] > 0.2
    assert found["epochs"] > 1
    assert found["rows_gathered"] == [398]  # which are kept from one evaluation to the next


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--epochs 2", "reached 2 epochs"),
        ("--patience 3", "the held-out loss did not fall for 3 epochs"),
        (
            "--patience 3 --validation 0 --tolerance 9",
            "the training loss did not fall by more than 9 for 3 epochs",
        ),
        ("--loss-below 100", "loss below 100"),
        ("--time-budget 1e-9", "time budget of 1e-09 seconds used"),
    ],
)
def test_it_says_why_it_stopped(run, arguments, reason):
    assert result(run("train", *arguments.split(), "--json"))["stopped"] == reason


def test_without_a_held_out_part_it_measures_the_training_part(run):
    found = result(run("train", "--validation", "0", "--epochs", "2", "--json"))
    assert (found["metrics_on"], found["rows_measured"]) == ("training", 442)
    assert found["validation_loss"] is None


@pytest.mark.parametrize("size", ["398", "399", "5000"])
def test_a_batch_larger_than_the_data_means_all_and_the_run_says_so(run, size):
    outcome = run("train", "--batch-size", size, "--epochs", "2", "--json")
    sentence = f"--batch-size {size} is more than the 398 rows there are: every step takes all of them"
    assert (sentence in outcome.err) == (size != "398")
    assert result(outcome)["steps_this_run"] == 2


def test_the_best_weights_are_kept_unless_the_last_are_asked_for(run, folder):
    options = ["--learning-rate", "0.03", "--epochs", "40", "--patience", "0", "--json"]
    best = result(run("train", *options, "--keep", "best"))
    last = result(run("train", *options, "--keep", "last"))
    assert best["epochs"] == last["epochs"] == 40
    assert best["best_epoch"] < 40
    assert best["metrics"]["rmse"] < last["metrics"]["rmse"]


def test_the_model_remembers_its_training(run, folder):
    found = result(run("train", "--epochs", "3", "--optimizer", "adam:beta1=0.8", "--json", "--out", "m"))
    training = load("m").training
    assert training["metrics"] == found["metrics"]
    assert training["optimizer"] == {"name": "adam", "beta1": 0.8}
    assert (training["epochs"], training["rows"], training["held_out_rows"]) == (3, 398, 44)


# Divergence

DIVERGING = ["--optimizer", "sgd", "--learning-rate", "0.5", "--epochs", "500", "--activation", "identity"]


def test_a_loss_that_becomes_nan_before_the_first_epoch_is_over(run, folder):
    outcome = run("train", "--optimizer", "sgd", "--learning-rate", "1e30", "--out", "m")
    assert outcome.status == 1
    (message,) = outcome.errors
    assert re.search(r"became infinite or nan in epoch 1, (the last|step \d) of 2", message)
    assert "learning_rate=1e+30" in message
    assert "Lower the learning rate" in message
    assert "Traceback" not in outcome.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_last_good_weights_are_kept(run, folder, keep):
    outcome = run("train", *DIVERGING, "--keep", keep, "--out", "m")
    assert outcome.status == 1
    (message,) = outcome.errors
    epoch, kept, has = map(
        int,
        re.search(
            r"in epoch (\d+), .* of epoch (\d+) are kept\. m has those of epoch (\d+)\.", message
        ).groups(),
    )
    assert kept == epoch - 1
    assert has == kept if keep == "last" else has <= kept
    model = load("m")
    assert np.isfinite(model.predict(load_dataset("diabetes").x)).all()
    until = ["--epochs", str(has), "--keep", "last", "--out", "again"]
    run("train", *DIVERGING, *until)
    assert (
        load("again").network.parameters.to_host().tobytes() == model.network.parameters.to_host().tobytes()
    )


# Interruption


def test_interrupted_it_writes_the_best_so_far(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mlp_xp",
        "train",
        "--epochs",
        "1000000",
        "--patience",
        "0",
        "--out",
        "m",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while not said.startswith("epoch"):
        said = process.stderr.readline()
        assert said, "it ended before its first epoch"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in err
    assert "interrupted" in out
    assert np.isfinite(load(tmp_path / "m").predict(load_dataset("diabetes").x)).all()


def test_interrupted_before_the_first_epoch_it_writes_nothing(run, folder, monkeypatch):
    def interrupt(self, n_rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.Tally, "passed", interrupt)
    outcome = run("train", "--quiet", "--out", "m")
    assert (outcome.status, outcome.errors) == (130, ["interrupted."])
    assert list(folder.iterdir()) == []


def test_folds_are_those_of_the_same_options_in_python(run):
    """Also behind what counts the rows: a member never learns from a row that it leaves out."""
    from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
    from mlp_xp.tables.members import cross_validated
    from mlp_xp.tables.options import TrainingOptions

    found = result(
        run("train", "--dataset", "diabetes", "--recipe", "tables", "--folds", "3", "--epochs", "3", "--json")
    )
    data = read_data(TrainingOptions.of({"dataset": "diabetes", "recipe": "tables", "folds": 3, "epochs": 3}))
    model = new_model(data)
    *_, epoch = fit(data, model.network, loader_for(data.options, data.parts.training))
    assert found["train_loss"] == pytest.approx(epoch.train_loss, rel=1e-5)
    known = cross_validated(model, data.parts, 0).description()["rmse"]
    assert found["cross_validation"]["rmse"] == pytest.approx(known, rel=1e-5)
    assert (found["metrics_on"], found["rows_measured"]) == ("left-out", 442)
