"""The benchmarks of whole epochs, predictions and growth, at toy size."""

import dataclasses
import math

import pytest

from bench import epochs, growth, predict, steps, threads, turning
from bench.harness import measure
from bench.peers import epoch as epoch_peers
from bench.peers import predict as predict_peers
from mlp_xp.fast import on_cpu


def test_fast_steps_have_ratios_of_their_own():
    training = steps.TRAININGS[0]
    row = steps.table_row(
        training, {"mlp_xp": 8.0, "mlp_xp fast": 2.0, "matrix products": 4.0, "thinc": 16.0}
    )
    assert row["mlp_xp ÷ products"] == 2.0
    assert row["mlp_xp fast ÷ products"] == 0.5
    assert row["best peer ÷ mlp_xp"] == 2.0
    assert row["best peer ÷ mlp_xp fast"] == 8.0
    assert steps.table_row(training, {"mlp_xp": 8.0})["mlp_xp fast ÷ products"] is None


def test_every_library_passes_whole_epochs(in_this_process, draws):
    result = epochs.answer(quick=True, device="cpu")
    absent = {note.partition(":")[0] for note in result.notes if note.endswith("not installed.")}
    assert len(result.rows) == len(epoch_peers.CASES)
    for row in result.rows:
        assert {name for name in epoch_peers.PEERS if row[name] is None} == absent
        assert all(row[name] > 0 for name in epoch_peers.PEERS if name not in absent)
    draws(epochs, result)


@pytest.mark.parametrize("case", epoch_peers.CASES)
def test_an_epoch_lowers_the_loss(case, monkeypatch):
    monkeypatch.setattr(epoch_peers, "RATE", 0.01)
    small = dataclasses.replace(case, sizes=(5, 8, case.sizes[-1]), n_rows=300, batch=20)
    epoch = epoch_peers.mlp_xp(small, *epoch_peers.rows(small))
    losses = [epoch().train_loss for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.needs("sklearn")
def test_libraries_predict_alike(in_this_process, draws):
    result = predict.answer(quick=True, device="cpu")  # its peers refuse predictions that are off
    assert len(result.rows) == len(predict_peers.SIZES) * len(predict.TOY_ROWS)
    assert all(row["scikit-learn ÷ mlp_xp"] > 0 for row in result.rows)
    draws(predict, result)


def test_a_library_that_predicts_something_else_is_refused(monkeypatch):
    other = predict_peers.Peer(lambda weights: lambda x: predict_peers.written_out(weights, x) + 1, ())
    monkeypatch.setitem(predict_peers.PEERS, "other", other)
    with pytest.raises(RuntimeError, match="other predicts what is off by 1"):
        predict_peers.time_predictions("other", (3, 4, 1), 5, 0.0)


def test_growth_is_that_of_the_multiplications(draws):
    result = growth.answer(quick=True, device="cpu")
    assert set(result.column("what grows")) == set(growth.SERIES)
    rows = [row for row in result.rows if row["what grows"] == "rows"]
    assert [row["expected ×"] for row in rows] == [1.0, 4.0]
    for row in result.rows:
        assert row["epoch (s)"] > 0
        assert row["peak ÷ least"] >= 1
    draws(growth, result)


def test_a_wide_step_takes_little_more_memory_than_it_must():
    size = growth.Size(width=512)
    assert growth.step_bytes(size, "plain") < 1.25 * growth.least_bytes(size)


def test_the_law_for_batches_goes_through_the_first_and_the_last():
    sizes = [growth.Size(batch=batch) for batch in (1, 8, 64)]
    seconds = [size.rows / size.batch * (3.0 + 0.5 * size.batch * size.n_weights) for size in sizes]
    law = growth.expected("batch", sizes, [seconds[0], math.nan, seconds[2]])
    assert law == pytest.approx([each / seconds[0] for each in seconds])


def test_threads_are_chosen_alone_and_beside_busy_processes(draws):
    result = threads.answer(quick=True, device="cpu")
    assert set(result.column("beside")) == {"nothing", "2 busy processes"}
    for row in result.rows:
        assert row["mlp_xp ÷ best"] >= 1
        assert (row["all cores"] is None) == (row["steps"] == "compiled")
    draws(threads, result)


@pytest.mark.needs("numba", "scipy")
def test_where_compiled_steps_pay(in_this_process, draws):
    result = turning.answer(quick=True, device="cpu")
    for row in result.rows:
        assert row["saved"] == pytest.approx(row["plain"] - row["compiled"])
        assert row["compiled from step"] * row["taken to be saved"] == pytest.approx(1e6 * on_cpu.PAYS_AFTER)
    assert result.curves["loading (s)"] > 0
    draws(turning, result)


@pytest.mark.parametrize("module", [epochs, predict, growth, threads, turning])
def test_they_are_for_the_cpu(module):
    with pytest.raises(ValueError, match="CPU only"):
        module.answer(quick=True, device="cuda")


def test_a_process_that_fails_is_named_with_what_it_said():
    with pytest.raises(RuntimeError, match=r"bench.peers.predict nobody 0 1 0 failed: KeyError: 'nobody'"):
        measure.in_process("bench.peers.predict", "nobody", 0, 1, 0)
