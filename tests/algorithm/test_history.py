"""What a history derives from what it is told."""

from mlp_xp.history import History


def test_a_new_run():
    history = History()
    assert history.epochs == 0
    assert history.watched == []


def test_epochs_are_fractions():
    assert History(steps_per_epoch=4, step=10).epochs == 2.5


def test_the_validation_loss_is_watched_where_there_is_one():
    assert History(train_losses=[3.0, 2.0]).watched == [3.0, 2.0]
    assert History(train_losses=[3.0, 2.0], validation_losses=[5.0, 6.0]).watched == [5.0, 6.0]


def test_histories_share_no_lists():
    first, second = History(), History()
    first.train_losses.append(1.0)
    assert second.train_losses == []
