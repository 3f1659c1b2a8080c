"""`mlp-xp train` on tables above the memory limit: from the cache, from a stream, and in batches that fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import runner

from mlp_xp import Loader, Network, train
from mlp_xp.cli import stages
from mlp_xp.machine import staging
from mlp_xp.tables.files.table_cache import cached

run = pytest.fixture(runner)

N_ROWS = 600


@pytest.fixture(params=["csv", "parquet"])
def table(request, tmp_path, rng, monkeypatch, need):
    need("pyarrow")
    import pyarrow as pa
    from pyarrow import csv, parquet

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    x = rng.normal(size=(N_ROWS, 2)).round(4)
    columns = {
        "a": x[:, 0],
        "b": x[:, 1],
        "y": (np.tanh(2 * x[:, 0]) + x[:, 1]).round(4),
        "k": ["small" if value < 0 else "large" for value in x[:, 0]],
        "w": np.arange(N_ROWS) % 3,
    }
    if request.param == "csv":
        csv.write_csv(pa.table(columns), "t.csv")
    else:
        parquet.write_table(pa.table(columns), "t.parquet", row_group_size=100)
    return f"t.{request.param}"


def options(target="y", *others, memory="1kB", epochs=30):
    return [
        *("--target", target, "--memory-limit", memory, "--epochs", epochs, "--learning-rate", 0.01),
        *("--batch-size", 32, "--json", *others),
    ]


def found_in(outcome):
    assert outcome.status == 0, outcome.err
    return json.loads(outcome.out)


def test_a_stream_trains_and_leaves_no_file(run, table, tmp_path):
    streamed = run("train", table, *options("y", "--exclude", "k,w", "--no-cache"))
    found = found_in(streamed)
    assert not (tmp_path / "home").exists()
    assert "600 rows are read from their files in each epoch" in streamed.err
    assert found["metrics_on"] == "held-out"
    assert 20 < found["rows_measured"] < 120  # a row is held out by its values: about a tenth
    assert found["metrics"]["r2"] > 0.9
    assert found["rows_gathered"] == [found["epochs"] * (N_ROWS - found["rows_measured"])]
    again = found_in(run("train", table, *options("y", "--exclude", "k,w", "--no-cache")))
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_the_run_says_where_the_cache_is_and_finds_it_again(run, table, tmp_path):
    arguments = options("y", "--exclude", "k,w", "--cache-dir", "mine", epochs=2)
    first = run("train", table, *arguments)
    (file,) = cached("mine")
    assert f"rows are read from the cache: {file.path} (600 rows, {file.size:,} bytes)" in first.err
    before = file.path.stat().st_mtime_ns
    second = run("train", table, *arguments)
    assert str(file.path) in second.err
    assert file.path.stat().st_mtime_ns == before
    assert {**found_in(second), "seconds": 0} == {**found_in(first), "seconds": 0}


def test_classes_weights_and_gradient_descent_on_a_stream(run, table):
    found = found_in(
        run("train", table, *options("k", "--no-cache", "--weight-column", "w", "--class-weight", "balanced"))
    )
    assert found["metrics"]["accuracy"] > 0.9
    full = found_in(run("train", table, *options("y", "--no-cache", "--batch-size", "full", epochs=3)))
    assert full["steps_this_run"] == full["epochs"] == 3
    alone = found_in(run("train", table, *options("y", "--no-cache", "--validation", "0", epochs=3)))
    assert (alone["metrics_on"], alone["rows_measured"]) == ("training", N_ROWS)


@pytest.mark.parametrize("more", [(), ("--members", 3, "--bootstrap")], ids=["one", "bootstrap"])
def test_a_stream_goes_on_where_it_was_cut_off(run, table, more):
    arguments = options("y", "--no-cache", *more, "--out", "whole.safetensors", epochs=4)
    whole = found_in(run("train", table, *arguments))
    where = ("--checkpoint-dir", "run", *more)
    cut = options("y", "--no-cache", *where, "--checkpoint-every", "7steps", epochs=2)
    found_in(run("train", table, *cut))
    rest = options("y", "--no-cache", *where, "--resume", "--override", epochs=4)
    resumed = found_in(run("train", table, *rest))
    assert resumed["resumed_from"]["step"] > 0
    assert resumed["train_loss"] == whole["train_loss"]
    assert resumed["metrics"] == whole["metrics"]


def test_other_orders_of_a_stream_are_refused(run, table):
    outcome = run("train", table, *options("y", "--no-cache", "--order", "sequential"))
    assert outcome.status == 2
    assert "--order sequential: a table that is streamed has an order of its own" in outcome.err


@pytest.mark.parametrize(
    ("n_rows", "memory", "said"),
    [
        (
            640,
            "1GB",
            "--batch-size auto: 16 rows a step, the power of two that makes 32 steps an epoch or more",
        ),
        (
            640,
            "134kB",
            "--batch-size auto: 8 rows a step, the power of two whose step fits the memory there is",
        ),
        (140_000, "1GB", "--batch-size auto: 4,096 rows a step, the most that 'auto' takes"),
    ],
)
def test_the_run_says_which_bound_decided_an_automatic_batch(
    run, tmp_path, monkeypatch, n_rows, memory, said
):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(n_rows, 1)).astype("float32"))
    np.save("y.npy", np.load("x.npy")[:, 0])
    arguments = ["--target", "y.npy", "--validation", 0, "--epochs", 1, "--memory-limit", memory]
    outcome = run("train", "x.npy", *arguments, "--batch-size", "auto")
    assert outcome.status == 0, outcome.err
    assert said in outcome.err


def test_every_bound_has_a_sentence():
    x = np.zeros((140_000, 1))
    bounds = {Loader(x[:n], x[:n], batch_size="auto").batch_bound for n in (640, 140_000)}
    assert {*bounds, "memory"} == set(stages.BOUNDS)


def test_an_automatic_batch_fits_the_memory_of_a_device(monkeypatch):
    x = np.zeros((6400, 3))
    loaders = []
    for overlaps in (False, True):
        monkeypatch.setattr(staging.Runtime, "overlaps", overlaps)
        monkeypatch.setattr(staging.Runtime, "available", lambda self: 200_000)
        loaders.append(Loader(x, x[:, :1], batch_size="auto"))
        train(Network((3, 256, 1)), loaders[-1]).close()
    assert [(each.batch_bound, each.batch_size) for each in loaders] == [("rows / 32", 128), ("memory", 32)]


@pytest.mark.parametrize("more", [(), ("--no-cache",)], ids=["cached", "stream"])
def test_folds_of_a_table_above_the_memory_limit(run, table, more):
    arguments = options("y", "--exclude", "w", "--group", "k", "--folds", 2, "--report", "r.html", *more)
    outcome = run("train", table, *arguments, "--out", "m.safetensors")
    found = found_in(outcome)
    assert "600 rows to train on in 2 folds (by group, k)" in outcome.err
    assert "in each of 2 members" in outcome.err
    (means, page) = found["cross_validation"], Path("r.html").read_text(encoding="utf-8")
    # Half of the plane is left out, and a hyperbolic tangent is not what a network goes on with.
    assert means["r2"]["mean"] < found["metrics"]["r2"]
    assert means["r2"]["deviation"] > 0
    assert "left-out folds" in page
    assert "left-out folds" in run("show", "m.safetensors").out
