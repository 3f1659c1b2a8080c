"""`--log`: one JSON object an epoch, there as soon as the epoch is over."""

import json

import numpy as np

from mlp_xp import Loader, Network, train
from mlp_xp.report.epochs import Log, numbers_of


def training(n_epochs, **options):
    """Epochs of a small regression, with a part held out."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ np.ones((3, 1))
    network = Network((3, 4, 1))
    held_out = Loader(x[30:], y[30:])
    return train(
        network, Loader(x[:30], y[:30], batch_size=10), validation=held_out, max_epochs=n_epochs, **options
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_there_when_its_epoch_is_over(tmp_path):
    log = Log(tmp_path / "history.jsonl")
    for epoch in training(3):
        log.add(numbers_of(epoch))
        assert [line["epoch"] for line in lines_of(log.path)] == list(range(1, epoch.number + 1))
        last = lines_of(log.path)[-1]
        assert (last["train_loss"], last["validation_loss"]) == (epoch.train_loss, epoch.validation_loss)
        assert (last["learning_rate"], last["steps"], last["rows"]) == (1e-3, 3, 30)
    assert last["stopped"] == epoch.stopped
    assert last["seconds"] >= lines_of(log.path)[0]["seconds"] > 0


def test_a_new_run_replaces_the_log_of_another(tmp_path):
    path = tmp_path / "history.jsonl"
    for n_epochs in (3, 2):
        log = Log(path)
        for epoch in training(n_epochs):
            log.add(numbers_of(epoch))
    assert [line["epoch"] for line in lines_of(path)] == [1, 2]


def test_a_run_that_goes_on_keeps_the_epochs_before_it(tmp_path):
    path = tmp_path / "history.jsonl"
    log = Log(path)
    for epoch in training(5):
        log.add(numbers_of(epoch))
        if epoch.number == 2:
            state = epoch.state()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"epoch": 1, "cut off')
    before = lines_of_complete(path)
    resumed = Log(path)
    for epoch in training(4, state=state):
        resumed.add(numbers_of(epoch))
    after = lines_of(path)
    assert [line["epoch"] for line in after] == [1, 2, 3, 4]
    assert after[:2] == before[:2]
    assert [line["train_loss"] for line in after[2:]] == [line["train_loss"] for line in before[2:4]]


def lines_of_complete(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def test_numbers_that_are_not_finite_are_null():
    epoch = next(training(1))
    object.__setattr__(epoch, "validation_loss", float("inf"))
    assert numbers_of(epoch)["validation_loss"] is None
    json.dumps(numbers_of(epoch), allow_nan=False)
