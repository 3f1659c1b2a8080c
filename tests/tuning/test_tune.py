"""The search for settings: what is tried, what is dropped, and that it is the same again."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from command_line import run_process

from mlp_xp import TableModel, load, tune
from mlp_xp.cli.tune import _result
from mlp_xp.machine import blas
from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tuning.group import Group, Standing
from mlp_xp.tuning.space import OF_ONE_SHAPE, SHAPE, draw
from mlp_xp.tuning.tune import PRICE_ALONE, Halving, search

QUICK = {"dataset": "diabetes", "epochs": 4, "hidden": "8", "scaling": "standard"}


def options(**more):
    return TrainingOptions.of({**QUICK, **more})


def found(given=None, **more):
    return search(given or options(), **{"tries": 6, "fixed": tuple(QUICK), **more})


def weights(tuning):
    return tuning.model.network.parameters.to_host()


def test_the_first_try_has_the_recipes_settings():
    base = read_data(options()).options
    tries = draw(base, 20, ())
    assert tries[0] == base
    assert tries == draw(base, 30, ())[:20]
    shapes = [tuple(getattr(one, name) for name in SHAPE) for one in tries]
    assert len(set(shapes[:OF_ONE_SHAPE])) == 1
    assert len(set(shapes)) > 1
    assert len({one.learning_rate for one in tries}) > 15
    assert len({one.learning_rate for one in draw(base, 20, ("learning_rate",))}) == 1


def test_the_worse_half_is_dropped():
    tuning = found(tries=8)
    assert sorted(one.standing.epochs for one in tuning.tries) == [1, 1, 1, 1, 2, 2, 4, 4]
    assert tuning.tries[0].standing.best == min(one.standing.best for one in tuning.tries[:2])
    assert all(len(one.standing.losses) == one.standing.epochs for one in tuning.tries)
    assert tuning.stopped == "reached 4 epochs"


def test_the_best_is_what_a_training_with_its_options_is():
    tuning = found()
    own = tuning.options
    data = read_data(own)
    model = new_model(data)
    loader = loader_for(data.options, data.parts.training)
    list(fit(data, model.network, loader, own={"threads": 1, "way": "plain"}))
    np.testing.assert_array_equal(model.network.parameters.to_host(), weights(tuning))


@pytest.mark.parametrize("folds", [None, 3])
def test_the_same_seed_finds_the_same_again(folds, tmp_path, monkeypatch):
    given = options(folds=folds) if folds else options()
    once = found(given, folder=tmp_path / "a")
    monkeypatch.setattr("mlp_xp.machine.blas.n_threads", lambda: 1)
    again = found(given)
    assert [one.number for one in once.tries] == [one.number for one in again.tries]
    np.testing.assert_array_equal(weights(once), weights(again))
    if folds:
        assert once.model.network.members == 3
        assert once.model.training["cross_validation"]["rmse"]["mean"] > 0


def test_a_search_goes_on_where_it_was(tmp_path):
    whole = found()
    cut_short = found(folder=tmp_path / "a", time_budget=1e-9)
    assert cut_short.stopped == "time budget used after 1 of 4 epochs, then the best alone"
    assert [one.standing.epochs for one in cut_short.tries] == [4, 1, 1, 1, 1, 1]
    assert cut_short.tries[0].standing.best == min(cut_short.tries[0].standing.losses)
    said = []
    rest = found(folder=tmp_path / "a", say=said.append)
    assert "going on" in said[0]
    np.testing.assert_array_equal(weights(rest), weights(whole))
    with pytest.raises(ValueError, match="another one"):
        found(options(seed=1), folder=tmp_path / "a")


def halving(monkeypatch, prices, tries=16, shapes=2):
    """A search whose groups have such prices of a try's epoch, by one thread."""
    data = read_data(options())
    shaped = [{"hidden": str(4 + n % shapes)} for n in range(tries)]
    drawn = [(n, dataclasses.replace(data.options, **own)) for n, own in enumerate(shaped)]
    advance = Group.advance

    def advance_at(group, *told):
        advance(group, *told)
        group.price = prices[int(group.data.options.hidden) - 4]

    monkeypatch.setattr(Group, "advance", advance_at)
    monkeypatch.setattr("mlp_xp.machine.blas.n_threads", lambda: 1)
    return Halving(data, drawn, None, lambda line: None)


def test_a_comparison_leaves_time_for_the_best_alone(monkeypatch):
    """Eight tries for one epoch at their shapes' prices, and one of the dearer shape for two epochs more."""
    run = halving(monkeypatch, (1.0, 10.0))
    run.to_the_end(lambda: 0.0)
    assert run.rung == 1
    run = halving(monkeypatch, (1.0, 10.0))
    run._advanced(1, lambda: math.inf)
    run.rung = 1
    run._let_go_but([0, 2, 4, 1])
    needed = 3 * 1.0 + 10.0 + PRICE_ALONE * 2 * 10.0
    assert run.seconds_of_next() == pytest.approx(needed)
    monkeypatch.setattr("mlp_xp.machine.blas.n_threads", lambda: 2)
    assert run.seconds_of_next() == pytest.approx(10.0 + PRICE_ALONE * 2 * 10.0)


def test_tries_that_would_begin_late_are_let_go(monkeypatch, tmp_path):
    run = halving(monkeypatch, (0.0, 0.0, 0.0, 0.0), shapes=4)
    run.folder = tmp_path
    left = iter([90.0, 80.0, 59.0, 58.0])
    stopped = run.to_the_end(lambda: next(left, math.inf))
    assert sorted(run.standings) == [0, 1, 4, 5, 8, 9, 12, 13]
    assert stopped == "reached 4 epochs; 8 of 16 tries"
    assert not list(tmp_path.iterdir())


def test_what_ends_one_group_ends_the_others(monkeypatch):
    """Ctrl-C, say: nobody waits for an epoch, and no other one is begun."""
    run = halving(monkeypatch, (0.0, 0.0))
    monkeypatch.setattr("mlp_xp.machine.blas.n_threads", lambda: 2)
    first, other = run.groups
    begun, is_over, epochs = threading.Event(), threading.Event(), other._epochs

    def interrupted():
        begun.wait()
        raise KeyboardInterrupt
        yield

    def slow():
        for epoch in epochs():
            begun.set()
            is_over.wait()
            yield dataclasses.replace(epoch, number=0)

    monkeypatch.setattr(first, "_epochs", interrupted)
    monkeypatch.setattr(other, "_epochs", slow)
    with pytest.raises(KeyboardInterrupt):
        run._advanced(2, lambda: math.inf)
    is_over.set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join()
    assert other.state is None


def test_a_search_whose_last_tries_diverge_is_an_error(monkeypatch):
    advance = Group.advance

    def advance_and_diverge(group, until, *told):
        advance(group, until, *told)
        if until > 2:
            group.keep(set())

    monkeypatch.setattr(Group, "advance", advance_and_diverge)
    with pytest.raises(FloatingPointError, match="all tries diverged"):
        found()


@pytest.mark.needs("pyarrow")
def test_a_search_has_no_more_threads_than_it_may(monkeypatch):
    module, asked = importlib.import_module("mlp_xp.tuning.tune"), []
    monkeypatch.setattr("mlp_xp.machine.blas.cores", lambda: 8)
    monkeypatch.setattr(blas.Threads, "usual", lambda _: 8)
    pool = module.ThreadPoolExecutor
    monkeypatch.setattr(module, "ThreadPoolExecutor", lambda n: asked.append(n) or pool(n))
    table = {"x": [float(n % 13) for n in range(60)], "y": [float(n % 7) for n in range(60)]}
    tune(table, "y", tries=1, threads=3, epochs=1, hidden="4")
    assert asked == [3]


def test_a_search_of_other_data_is_not_gone_on_with(tmp_path):
    pytest.importorskip("pyarrow")
    table = {"x": [float(n % 13) for n in range(60)], "y": [float(n % 7) for n in range(60)]}
    arguments = {"tries": 2, "folder": tmp_path / "a", "epochs": 2, "hidden": "4", "scaling": "standard"}
    once = tune(table, "y", **arguments)
    assert isinstance(once.model, TableModel)
    assert once.model.evaluate(table)["rmse"] > 0
    np.testing.assert_array_equal(weights(once), weights(tune(table, "y", **arguments)))
    with pytest.raises(ValueError, match="of other data"):
        tune({**table, "x": table["x"][::-1]}, "y", **arguments)


def test_a_search_is_shown_in_a_line():
    shown = repr(found(tries=3))
    assert shown.startswith("Tuning(best of 3 tries: Try(")
    assert "held-out loss" in shown
    assert "learning_rate=" in shown
    assert len(shown) < 400


def test_a_search_whose_tries_all_diverge_is_an_error():
    with pytest.raises(FloatingPointError, match="all tries diverged"):
        found(options(learning_rate=1e30, optimizer="sgd"), fixed=(*QUICK, "learning_rate", "optimizer"))


def test_the_command_writes_model_options_and_picture(tmp_path):
    out, plot = tmp_path / "m.safetensors", tmp_path / "t.svg"
    arguments = ["--dataset", "diabetes", "--epochs", "3", "--hidden", "8", "--tries", "5", "--json"]
    done = run_process("tune", *arguments, "--out", out, "--plot", plot, folder=tmp_path)
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert len(result["tries"]) == 5
    assert math.isfinite(result["metrics"]["rmse"])
    assert "<svg" in plot.read_text(encoding="utf-8")
    assert load(out).network.layer_sizes[1:] == (8, 1)
    named = {"dataset": "diabetes", "epochs": 3, "hidden": "8"}
    in_python = search(TrainingOptions.of(named), tries=5, fixed=tuple(named))
    assert [one.number for one in in_python.tries] == [one["number"] for one in result["tries"]]
    np.testing.assert_array_equal(weights(in_python), load(out).network.parameters.to_host())
    again = run_process("train", "--config", f"{out}.toml", "--json", "--quiet", folder=tmp_path)
    assert again.status == 0, again.err
    rmse = json.loads(again.out)["metrics"]["rmse"]
    assert rmse == pytest.approx(result["metrics"]["rmse"], rel=1e-4)


def test_a_try_that_diverged_has_no_loss():
    tuning = found(tries=2)
    worst = dataclasses.replace(tuning.tries[1], standing=Standing(1, [], math.inf))
    tuning = dataclasses.replace(tuning, tries=[tuning.tries[0], worst])
    text = json.dumps(_result(tuning), allow_nan=False)
    assert [one["loss"] for one in json.loads(text)["tries"]] == [tuning.tries[0].standing.best, None]


def test_a_search_that_is_killed_goes_on(tmp_path):
    arguments = [
        "tune",
        *("--dataset", "diabetes"),
        *("--epochs", "60"),
        *("--hidden", "8"),
        *("--folds", "2"),
    ]
    arguments += ["--tries", "6", "--json", "--kept-in", str(tmp_path / "kept")]
    run = subprocess.Popen([sys.executable, "-m", "mlp_xp", *arguments], stdout=subprocess.DEVNULL)
    while not (tmp_path / "kept" / "search.json").exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.wait()
    rest = run_process(*arguments, folder=tmp_path)
    assert "going on from" in rest.err
    whole = run_process(*arguments[:-2], folder=tmp_path)
    parts = [{**json.loads(done.out), "seconds": 0} for done in (rest, whole)]
    assert parts[0] == parts[1]
    assert parts[0]["cross_validation"]["rmse"]["mean"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [({"members": 3}, "members"), ({"optimizer": "lbfgs"}, "steps")],
)
def test_what_cannot_be_searched_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        found(options(**more))
