"""The benchmark of the estimators at toy size: it refuses what does not end alike."""

import pytest

from bench import estimators
from bench.peers import estimator as estimator_peers

pytestmark = pytest.mark.needs("sklearn")


def test_both_libraries_fit_predict_and_are_pickled(in_this_process, draws):
    result = estimators.answer(quick=True, device="cpu")  # losses that differ are refused
    n_whole = len(estimator_peers.SOLVERS)
    n_measured = len(estimator_peers.BATCHES) + len(estimator_peers.TOY_PREDICTED) + 1
    assert len(result.rows) == len(estimators.TOY_DATA) * (n_whole + len(estimators.TOY_HIDDEN) * n_measured)
    assert all(row[name] > 0 for row in result.rows for name in estimator_peers.MODULES)
    pickles = [row for row in result.rows if row["measured"] == "pickle (bytes)"]
    assert all(row["mlp_xp"] <= row["scikit-learn"] for row in pickles)
    draws(estimators, result)


def test_losses_that_differ_are_refused(monkeypatch):
    losses = {"mlp_xp": 1.0, "scikit-learn": 1.0 + 3e-6}
    monkeypatch.setattr(estimators.measure, "in_process", lambda module, name, *more: {"loss": losses[name]})
    with pytest.raises(RuntimeError, match="the losses are"):
        estimators.in_turn(1, "digits")


@pytest.mark.parametrize("name", estimator_peers.DATA)
def test_data_sets_are_numbers_without_gaps(name):
    data = estimator_peers.DATA[name]
    try:
        x, y = data.read()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert len(x) == len(y) >= 442
    assert (abs(x).sum(axis=1) > 0).all()
    assert x.std(axis=0).max() > 0


def test_it_is_for_the_cpu():
    with pytest.raises(ValueError, match="CPU only"):
        estimators.answer(quick=True, device="cuda")
