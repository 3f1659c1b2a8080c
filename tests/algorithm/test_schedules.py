"""Schedules against torch's and closed forms; and that they are pure functions of the history."""

import copy
import dataclasses
import math

import numpy as np
import pytest

from mlp_xp.history import History
from mlp_xp.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    FlatCosine,
    InverseScaling,
    OneCycle,
    ReduceOnPlateau,
    Step,
    WarmUp,
)
from mlp_xp.settings.catalogue import describe, resolve

STEPS_PER_EPOCH, N_ROWS, MAX_EPOCHS = 7, 61, 12

SAMPLES = [
    Constant(),
    Step(every=3, factor=0.5),
    Exponential(0.9),
    FlatCosine(),
    FlatCosine(n_epochs=9, flat=0.25),
    InverseScaling(0.7),
    Cosine(n_epochs=5, final=0.1),
    Cosine(),
    WarmUp(n_steps=20, after=Exponential(0.9)),
    WarmUp(n_steps=9, after="step:every=2,factor=0.5"),
    OneCycle(),
    OneCycle(n_epochs=4, rise=0.25, start=0.2, final=0.01),
    ReduceOnPlateau(patience=2, floor=0.1),
]


def history_at(step, losses=None):
    """A run of so many steps, whose losses fall and rise."""
    n_epochs = step // STEPS_PER_EPOCH
    if losses is None:
        losses = [1.0 + math.sin(3.0 * epoch) for epoch in range(n_epochs)]
    return History(
        steps_per_epoch=STEPS_PER_EPOCH,
        max_epochs=MAX_EPOCHS,
        step=step,
        rows_at_epoch_start=n_epochs * N_ROWS,
        train_losses=losses,
    )


def factors(schedule, n_steps=MAX_EPOCHS * STEPS_PER_EPOCH):
    return np.array([schedule(history_at(step)) for step in range(n_steps)])


def torch_factors(make, n_steps, steps_per_call=1):
    """What a torch scheduler makes of a base rate of 1."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for step in range(1, n_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % steps_per_call == 0:
            scheduler.step()
    return np.array(rates)


def test_every_schedule_is_sampled():
    assert {type(schedule) for schedule in SAMPLES} == set(SCHEDULES.values())


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_a_pure_function_of_the_history(schedule):
    in_turn = factors(schedule)
    for step in np.random.default_rng(0).permutation(len(in_turn)):
        history = history_at(int(step))
        before = copy.deepcopy(history)
        assert schedule(history) == in_turn[step]
        assert history == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.anything = 1


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_once_an_epoch_is_true_where_it_is_said(schedule):
    by_epoch = factors(schedule).reshape(MAX_EPOCHS, STEPS_PER_EPOCH)
    changes_inside = (by_epoch != by_epoch[:, :1]).any()
    assert changes_inside == (not schedule.once_an_epoch)


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_factors_are_between_0_and_1_also_after_the_last_epoch(schedule):
    all_of_them = factors(schedule, 3 * MAX_EPOCHS * STEPS_PER_EPOCH)
    assert ((all_of_them >= 0) & (all_of_them <= 1)).all()


@pytest.mark.parametrize("schedule", SAMPLES, ids=repr)
def test_described_and_found_again(schedule):
    again = resolve("schedule", SCHEDULES, describe(SCHEDULES, schedule))
    assert again == schedule


def test_constant_and_step():
    assert (factors(Constant()) == 1).all()
    expected = np.repeat([1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.125], STEPS_PER_EPOCH)
    np.testing.assert_allclose(factors(Step(3, 0.5)), expected)


def test_exponential_falls_by_its_decay_in_every_epoch():
    rates = factors(Exponential(0.8))
    assert rates[0] == 1
    np.testing.assert_allclose(rates[STEPS_PER_EPOCH:] / rates[:-STEPS_PER_EPOCH], 0.8)
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(0.8) / STEPS_PER_EPOCH)


def test_cosine_at_the_angles_whose_cosine_is_known():
    schedule = Cosine(n_epochs=6, final=0.2)
    for epoch, cosine in ((0, 1.0), (2, 0.5), (3, 0.0), (4, -0.5), (6, -1.0), (9, -1.0)):
        factor = schedule(history_at(epoch * STEPS_PER_EPOCH))
        assert factor == pytest.approx(0.2 + 0.8 * (1 + cosine) / 2)


def test_one_cycle_passes_through_its_corners():
    schedule = OneCycle(n_epochs=10, rise=0.4, start=0.1, final=0.02)
    for epoch, factor in ((0, 0.1), (2, 0.55), (4, 1.0), (7, 0.51), (10, 0.02), (11, 0.02)):
        assert schedule(history_at(epoch * STEPS_PER_EPOCH)) == pytest.approx(factor)


def test_cycles_last_as_long_as_the_run_unless_told():
    end = MAX_EPOCHS * STEPS_PER_EPOCH
    assert Cosine(final=0.3)(history_at(end)) == pytest.approx(0.3)
    assert Cosine(final=0.3)(history_at(end - 1)) > 0.3
    assert OneCycle(final=0.3)(history_at(end)) == pytest.approx(0.3)


def test_warm_up_rises_to_the_rate_of_the_other_schedule():
    alone, with_step = factors(WarmUp(10)), factors(WarmUp(10, "step:every=1,factor=0.5"))
    np.testing.assert_allclose(alone[:10], np.arange(1, 11) / 10)
    assert (alone[10:] == 1).all()
    np.testing.assert_allclose(with_step, alone * factors(Step(1, 0.5)))


def test_reduce_on_plateau_counts_epochs_without_improvement():
    schedule = ReduceOnPlateau(factor=0.5, patience=2, tolerance=0.1, floor=0.2)

    def after(*losses):
        return schedule(history_at(0, list(losses)))

    assert after() == 1
    assert after(1.0, 0.95) == 1  # not better by the tolerance, but only once
    assert after(1.0, 0.95, 0.94) == 0.5
    assert after(1.0, 0.95, 0.85, 0.84) == 1  # an improvement starts the count again
    assert after(1.0, 1.0, 1.0, 1.0) == 0.5  # and so does a cut
    assert after(1.0, 1.0, 1.0, 1.0, 1.0) == 0.25
    assert after(*[1.0] * 50) == 0.2
    watched = History(train_losses=[3.0, 2.0, 1.0], validation_losses=[1.0, 1.0, 1.0])
    assert schedule(watched) == 0.5  # the validation loss decides where there is one


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("schedule", "make", "steps_per_call"),
    [
        (Step(3, 0.5), lambda s, o: s.StepLR(o, 3, 0.5), STEPS_PER_EPOCH),
        (Exponential(0.9), lambda s, o: s.ExponentialLR(o, 0.9 ** (1 / STEPS_PER_EPOCH)), 1),
        (Cosine(6, 0.2), lambda s, o: s.CosineAnnealingLR(o, 6 * STEPS_PER_EPOCH, 0.2), 1),
        (WarmUp(10), lambda s, o: s.LinearLR(o, 0.1, 1.0, 9), 1),
    ],
    ids=["step", "exponential", "cosine", "warm_up"],
)
def test_equal_to_torch_at_every_step(schedule, make, steps_per_call):
    n_steps = 6 * STEPS_PER_EPOCH  # torch's cosine rises again afterwards
    np.testing.assert_allclose(
        factors(schedule, n_steps), torch_factors(make, n_steps, steps_per_call), rtol=1e-9
    )


@pytest.mark.needs("torch")
def test_one_cycle_is_torchs():
    # torch reaches the end of each piece one step before ours, so the two agree as steps get finer.
    n_steps = 5000
    theirs = torch_factors(lambda s, o: s.OneCycleLR(o, 1.0, n_steps), n_steps)
    ours = [OneCycle()(History(steps_per_epoch=n_steps, step=step)) for step in range(n_steps)]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert ours[0] == pytest.approx(theirs[0])
    assert min(theirs) == pytest.approx(OneCycle().final)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("patience", [1, 3])
def test_reduce_on_plateau_is_torchs(rng, patience):
    import torch

    losses = (1 / np.arange(1, 60) + 0.05 * rng.normal(size=59)).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch cuts when the count exceeds its patience, ours when it reaches it
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.01, threshold_mode="abs", eps=0
    )
    ours = ReduceOnPlateau(0.5, patience, 0.01)
    for n_epochs in range(1, len(losses) + 1):
        theirs.step(losses[n_epochs - 1])
        assert ours(history_at(0, losses[:n_epochs])) == optimizer.param_groups[0]["lr"]


@pytest.mark.needs("sklearn")
def test_inverse_scaling_is_scikit_learns():
    from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

    theirs = SGDOptimizer([np.zeros(1)], 1.0, lr_schedule="invscaling", power_t=0.7)
    for epoch in range(5):
        assert InverseScaling(0.7)(history_at(epoch * STEPS_PER_EPOCH)) == pytest.approx(theirs.learning_rate)
        theirs.iteration_ends((epoch + 1) * N_ROWS)


def test_inverse_scaling_by_rows_seen():
    assert InverseScaling()(History()) == 1
    assert InverseScaling()(History(rows_at_epoch_start=99)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "bad", "message"),
    [
        (Step, {"every": 0, "factor": 0}, "every=0 .*\nfactor=0"),
        (Exponential, {"decay": 1.1}, "decay=1.1"),
        (InverseScaling, {"power": -1}, "power=-1"),
        (Cosine, {"n_epochs": 0, "final": 2}, "n_epochs=0 .*\nfinal=2"),
        (WarmUp, {"n_steps": 0}, "n_steps=0"),
        (WarmUp, {"after": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        (OneCycle, {"rise": 0, "start": -1, "final": 2}, "rise=0 .*\nstart=-1 .*\nfinal=2"),
        (
            ReduceOnPlateau,
            {"factor": 1, "patience": 0, "tolerance": -1, "floor": 2},
            "factor=1 .*\npatience=0 .*\ntolerance=-1 .*\nfloor=2",
        ),
    ],
)
def test_bad_parameters_are_refused_together(schedule, bad, message):
    with pytest.raises(ValueError, match=message):
        schedule(**bad)
