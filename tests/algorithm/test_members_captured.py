"""Members on a GPU: steps of all of them are handed over together, with NumPy in the place of the GPU."""

import numpy as np
import pytest
from arrays import host
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp.fast import on_cuda
from mlp_xp.machine.array_api import Backend
from mlp_xp.network import Network
from mlp_xp.optimizers import AdamW, RateFactors
from mlp_xp.regularizers import L1, L2, ElasticNet
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.own_rows import OwnRows
from mlp_xp.training import train

K, N_ROWS, BATCH = 3, 70, 16  # four whole steps an epoch, and a ragged one
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N_ROWS, 5))
Y = np.abs(X[:, :1] - np.sin(2 * X[:, 1:2]))
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 0] > 1)
WEIGHT = GENERATOR.integers(1, 3, (N_ROWS, K))


@pytest.fixture
def engine(monkeypatch):
    """What members train with on a device that says that it is a GPU."""
    made = StandInEngine(members=K)
    monkeypatch.setattr(on_cuda, "engine_of", lambda runtime, dtype, members: made)
    return made


def run(way, loader, sizes=(5, 8, 4, 1), **options):
    network = Network(
        sizes, activation="tanh", device=Backend(np, "cpu", "float64", "cuda:0"), seed=7, members=K
    )
    epochs = list(train(network, loader(), **{"max_epochs": 4, "seed": 11, "way": way, **options}))
    return epochs, host(network.parameters.flat)


def check_equal(loader, **options):
    """Return the epochs of the fast way."""
    (plain, expected), (fast, found) = (run(way, loader, **options) for way in ("plain", "fast"))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    for one, other in zip(plain, fast, strict=True):
        losses = [[member.train_loss for member in epoch.members] for epoch in (one, other)]
        np.testing.assert_allclose(*losses, rtol=1e-9)
        assert [m.stopped for m in one.members] == [m.stopped for m in other.members]
        assert [m.learning_rate for m in one.members] == [m.learning_rate for m in other.members]
    return fast


def loader(y=Y, **options):
    return lambda: Loader(X, y, **{"batch_size": BATCH, "seed": 3, **options})


TOGETHER = {
    "alike": {},
    "own rates": {"learning_rate": [0.1, 0.01, 0.001], "schedule": "cosine"},
    "own penalties": {"regularizer": [L2(0.1), None, L1(0.01)], "clip_norm": [0.1, None, 0.5]},
    "penalty": {"regularizer": ElasticNet(0.01, 0.02), "clip_norm": 0.3, "reduction": "sum"},
    "dropout": {"dropout": 0.3},
    "own dropout": {"dropout": [(0.0, 0.0), (0.3, 0.0), (0.5, 0.5)]},
    "average": {"average": 0.3},
    "own decays": {"optimizer": [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)]},
    "own losses": {"loss": ["squared_error", "huber", "squared_error"]},
    "a loss": {"loss": "poisson"},
    "decay's schedule": {"optimizer": "adamw", "decay_schedule": "cosine"},
}


@pytest.mark.parametrize("which", TOGETHER)
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_are_the_plain_ones_and_captured_once(which, weighted, engine):
    check_equal(loader(member_weight=WEIGHT if weighted else None), **TOGETHER[which])
    assert engine.graphs == 1
    assert engine.calls.count("update") == 4 * 5  # all of them, ragged ones too
    if which != "average":
        assert engine.calls.count("begin") == 4 * 3  # three together, one, and the ragged one


def test_classes_of_each_ones_own_rows(engine):
    def rows():
        own = OwnRows(ArraySource(X, CLASSES[:, None]), np.arange(N_ROWS) % K, K, left_out=False)
        return Loader(own, batch_size=8, seed=3)

    check_equal(rows, sizes=(5, 8, 3), loss="softmax_cross_entropy", dropout=0.2)
    assert engine.graphs == 1


def test_one_that_stops_no_longer_moves_and_the_others_go_on(engine):
    options = {"patience": 1, "tolerance": 0.05, "max_epochs": 12}
    epochs = check_equal(loader(), learning_rate=[0.1, 0.01, 0.001], **options)
    stopped = [next((n for n, e in enumerate(epochs) if e.members[k].stopped), None) for k in range(K)]
    assert len(set(stopped)) > 1


def test_one_that_diverges_leaves_the_others_alone(engine):
    with pytest.warns(UserWarning, match="member 1 of 3 diverged"):
        epochs = check_equal(loader(), optimizer="sgd", learning_rate=[0.01, 1e200, 0.02])
    assert epochs[-1].members[1].stopped == "diverged in epoch 1"


def test_where_a_member_has_no_rows_it_does_not_move(engine):
    """And the rule counts a step less for it from then on."""
    weight = WEIGHT.copy()
    weight[:20, 1] = 0
    check_equal(loader(order="sequential", member_weight=weight), optimizer="adam")
    assert engine.calls.count("update") == 4 * 5
    assert engine.graphs == 3  # a whole step; forward and backward, and the update, of such a step


def test_members_whose_rows_end_before_others_do(engine):
    def rows():
        own = OwnRows(ArraySource(X, Y), np.repeat(range(K), (4, 33, 33)), K, left_out=False)
        return Loader(own, batch_size=16, seed=3, chunk_rows=16)

    check_equal(rows, optimizer="adam")
    assert engine.calls.count("update") == 4 * 5


IN_PARTS = {
    "chunks": ({}, 3, 4 * 5),  # the first chunk, further ones, the update
    "frozen": ({"frozen": [0]}, 1, 0),  # forward and backward
    "factors": ({"rate_factors": RateFactors()}, 1, 0),
    "several rules": ({"optimizer": ["momentum", "nesterov", "rmsprop"]}, 1, 0),
    "dropout's schedule": ({"dropout": 0.3, "dropout_schedule": "cosine"}, 0, 0),
    "a schedule of one's own": ({"schedule": lambda history: 1.0 / (1 + history.step)}, 0, 0),
}
"""How many graphs there are, and updates by a kernel."""


@pytest.mark.parametrize("which", IN_PARTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_captured_in_parts(which, weighted, engine):
    options, n_graphs, n_updates = IN_PARTS[which]
    chunk_rows, weight = 5 if which == "chunks" else 4096, WEIGHT if weighted else None
    check_equal(loader(chunk_rows=chunk_rows, member_weight=weight), **options)
    assert (engine.graphs, engine.calls.count("update")) == (n_graphs, n_updates)
