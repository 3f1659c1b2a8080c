"""The past of a run: what is made of its losses does not cost more with every epoch that has passed."""

import copy
import math

import pytest

from mlp_xp.history import History
from mlp_xp.run.rates import Rates
from mlp_xp.schedules import ReduceOnPlateau, WarmUp
from mlp_xp.stopping import Stopping


class CountedLosses(list):
    """Losses that count how many of them are read."""

    read = 0

    def __getitem__(self, at):
        found = super().__getitem__(at)
        CountedLosses.read += len(found) if isinstance(at, slice) else 1
        return found

    def __iter__(self):
        CountedLosses.read += len(self)
        return super().__iter__()


def losses_read(n_epochs):
    """Losses that stopping and a schedule read in so many epochs."""
    history = History(steps_per_epoch=2, max_epochs=10**9, train_losses=CountedLosses())
    rates = Rates(1.0, WarmUp(n_steps=3, after=ReduceOnPlateau(patience=3)), history)
    stopping = Stopping(max_epochs=10**9, patience=50, tolerance=0.1)
    CountedLosses.read = 0
    for epoch in range(n_epochs):
        history.train_losses.append(1.0 - epoch + (epoch % 7) * 0.1)
        assert stopping.reason(history) is None
        rates.ahead(2)
        history.step += 2
    return CountedLosses.read


def test_an_epoch_reads_as_many_losses_however_many_have_passed():
    assert losses_read(800) < 2.2 * losses_read(400)


def plateau(losses, patience, factor, tolerance):
    """The schedule by its definition, over all losses at once."""
    scale, best, waited = 1.0, math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best - tolerance else (best, waited + 1)
        if waited == patience:
            scale, waited = scale * factor, 0
    return scale


def test_what_is_remembered_of_losses_is_what_they_say(rng):
    schedule, stopping = ReduceOnPlateau(patience=4, factor=0.5), Stopping(max_epochs=10**9, patience=6)
    history = History()
    for n in range(1, 200):
        history.train_losses.append(float(rng.choice([rng.normal(), 0.5, math.nan])))
        if n % 37 == 0:  # put back to an earlier epoch
            history.train_losses = [float(rng.normal()) for _ in range(n // 2)]
        if n % 50 == 0:
            history = copy.deepcopy(history)
        losses = history.train_losses
        assert schedule(history) == plateau(losses, 4, 0.5, 1e-4)
        known = [math.inf if math.isnan(loss) else loss for loss in losses]
        is_over = len(losses) > 6 and not min(known[-6:]) < min(known[:-6])
        assert (stopping.no_improvement(history) is not None) == is_over


def test_a_fold_that_lags_leaves_out_the_last():
    history = History(train_losses=[1.0, 2.0, 3.0])
    assert history.fold("sum", lambda total, loss: total + loss, 0.0, but_last=1) == 3.0
    history.train_losses.append(4.0)
    assert history.fold("sum", lambda total, loss: total + loss, 0.0, but_last=1) == 6.0
    assert history == History(train_losses=[1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("patience", [1, 3])
def test_validation_losses_are_what_is_folded_where_there_are_some(patience):
    history = History(train_losses=[1.0, 2.0], validation_losses=[5.0, 4.0])
    assert history.fold(patience, min, math.inf) == 4.0
