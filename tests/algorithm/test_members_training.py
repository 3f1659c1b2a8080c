"""Members that are trained together: each to what it would be alone, bit for bit, by the plain way."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from arrays import host

from mlp_xp.losses import BinaryCrossEntropy, Huber, SoftmaxCrossEntropy
from mlp_xp.machine import threads
from mlp_xp.members.compiled import CompiledMemberStep
from mlp_xp.members.losses import exact_sums
from mlp_xp.members.side_by_side import SideBySide
from mlp_xp.network import Network
from mlp_xp.optimizers import AdamW, RateFactors
from mlp_xp.regularizers import L1, L2, ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.training import train

K = 3
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(70, 5))
Y = X[:, :1] - np.sin(2 * X[:, 1:2]) + 0.1 * GENERATOR.normal(size=(70, 1))
CLASSES = (Y[:, 0] > 0).astype(int) + (Y[:, 0] > 1)

TOGETHER = {"max_epochs": 4, "way": "plain", "seed": 11}


def network(members=None, seed=7, sizes=(5, 8, 4, 1), **options):
    return Network(sizes, activation="tanh", dtype="float64", seed=seed, members=members, **options)


def loader(y=Y, **options):
    return Loader(X, y, **{"batch_size": 16, "seed": 3, "prefetch": "never", **options})


def trained_alone(each, sizes=(5, 8, 4, 1), y=Y, validation=None, loader_options=None):
    """Networks and epochs of members trained one by one, each with its own arguments."""
    networks, epochs = [], []
    for n, options in enumerate(each):
        alone = network(seed=7 + n, sizes=sizes)
        held_out = None if validation is None else Loader(*validation)
        arguments = {**TOGETHER, "seed": 11 + n, "validation": held_out, **options}
        rows = loader(y, **({} if loader_options is None else loader_options[n]))
        epochs.append(list(train(alone, rows, **arguments)))
        networks.append(alone)
    return networks, epochs


def check(together, epochs, alone, alone_epochs):
    """Compare weights, and the losses of every epoch that a member made."""
    for n, one in enumerate(alone):
        np.testing.assert_array_equal(host(together.parameters.flat)[n], host(one.parameters.flat))
        for epoch, own in zip(epochs, alone_epochs[n], strict=False):
            assert epoch.members[n].train_loss == own.train_loss
            assert epoch.members[n].validation_loss == own.validation_loss
            assert epoch.members[n].learning_rate == own.learning_rate
            assert epoch.members[n].is_best == own.is_best


@pytest.fixture(params=[1, 2], ids="{} thread".format)
def shared_out(request, monkeypatch):
    """Members are shared out to so many threads, whatever their size and the machine."""
    monkeypatch.setattr(threads, "n_parts", lambda n, work: min(n, request.param))


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "learning_rate": 0.05, "clip_norm": 0.3},
        {"regularizer": "elastic_net:l1=0.01,l2=0.02"},
        {"dropout": 0.3},
        {"dropout": (0.0, 0.2), "dropout_schedule": "cosine"},
        {"average": 0.3},
        {"reduction": "sum", "learning_rate": 1e-4, "regularizer": "l2:strength=0.1"},
        {"optimizer": "adamw", "schedule": "one_cycle", "rate_factors": RateFactors()},
        {"optimizer": "nadam", "schedule": "exponential", "loss": "huber"},
        {"max_epochs": 12, "schedule": "reduce_on_plateau:patience=1", "learning_rate": 0.1},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_each_is_trained_as_alone(options):
    together = network(K)
    epochs = list(train(together, loader(), **{**TOGETHER, **options}))
    check(together, epochs, *trained_alone([options] * K))
    assert epochs[-1].train_loss == pytest.approx(np.mean([m.train_loss for m in epochs[-1].members]))


OWN = {
    "learning_rate": ("learning_rate", [0.1, 0.01, 0.001]),
    "clip_norm": ("clip_norm", [0.1, None, 0.5]),
    "dropout": ("dropout", [(0.0, 0.0), (0.3, 0.0), (0.5, 0.5)]),
    "penalty": ("regularizer", [L2(0.1), None, L1(0.01)]),
    "decay": ("optimizer", [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)]),
}


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("which", OWN)
def test_numbers_of_each_ones_own(which):
    name, values = OWN[which]
    together = network(K)
    epochs = list(train(together, loader(), **TOGETHER, **{name: values}))
    check(together, epochs, *trained_alone([{name: value} for value in values]))


NUMBERS = {
    "penalty": ("regularizer", L2([0.1, 0.0, 0.01]), [L2(0.1), L2(0.0), L2(0.01)]),
    "penalties": (
        "regularizer",
        ElasticNet(l1=np.array([0.1, 0.0, 0.01]), l2=0.02),
        [ElasticNet(l1, 0.02) for l1 in (0.1, 0.0, 0.01)],
    ),
    "a name": ("regularizer", "l1:strength=0.1/0/0.01", [L1(0.1), L1(0), L1(0.01)]),
    "decay": (
        "optimizer",
        AdamW(weight_decay=[0.0, 0.1, 0.5]),
        [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)],
    ),
    "dropout": ("dropout", [[0.0], [0.3], [0.5]], [0.0, 0.3, 0.5]),
    "dropout of an array": ("dropout", np.array([[0.0], [0.3], [0.5]]), [0.0, 0.3, 0.5]),
}


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("which", NUMBERS)
def test_pieces_with_a_number_for_each(which):
    name, together_given, each = NUMBERS[which]
    together = network(K)
    epochs = list(train(together, loader(), **TOGETHER, **{name: together_given}))
    check(together, epochs, *trained_alone([{name: value} for value in each]))


@pytest.mark.usefixtures("shared_out")
def test_smoothing_of_each_ones_own():
    together, options = network(K, sizes=(5, 8, 4, 3)), {"sizes": (5, 8, 4, 3), "y": CLASSES}
    each = [SoftmaxCrossEntropy(smoothing) for smoothing in (0.0, 0.1, 0.2)]
    epochs = list(train(together, loader(CLASSES), **TOGETHER, loss=SoftmaxCrossEntropy([0.0, 0.1, 0.2])))
    check(together, epochs, *trained_alone([{"loss": loss} for loss in each], **options))


@pytest.mark.parametrize(("members", "said"), [(2, "2 members"), (None, "no members")])
def test_numbers_of_each_that_do_not_fit_the_network_are_refused(members, said):
    with pytest.raises(ValueError, match=f"regularizer: strength has 3 numbers.*{said}"):
        train(network(members), loader(), regularizer=L2([0.1, 0.0, 0.01]))
    with pytest.raises(ValueError, match="strength=-1"):
        L2([0.1, -1])


@pytest.mark.usefixtures("shared_out")
def test_losses_of_each_ones_own():
    losses = [SoftmaxCrossEntropy(smoothing) for smoothing in (0.0, 0.1, 0.2)]
    together, sizes = network(K, sizes=(5, 8, 3)), (5, 8, 3)
    epochs = list(train(together, loader(CLASSES), **TOGETHER, loss=losses))
    check(together, epochs, *trained_alone([{"loss": loss} for loss in losses], sizes, CLASSES))
    assert together.predict(X).sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("average", [0.0, 0.3])
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.usefixtures("shared_out")
def test_each_stops_by_itself_and_keeps_its_best_or_last(average, keep):
    validation = X[:20], Y[:20] + 0.5
    options = {
        "max_epochs": 60, "patience": 2, "keep": keep, "average": average,
        "learning_rate": [0.3, 0.03, 0.1],
    }  # fmt: skip
    together = network(K)
    epochs = list(train(together, loader(), **{**TOGETHER, **options}, validation=Loader(*validation)))
    alone, own = trained_alone(
        [{**options, "learning_rate": rate} for rate in options["learning_rate"]], validation=validation
    )
    check(together, epochs, alone, own)
    assert len({len(each) for each in own}) > 1
    assert len(epochs) == max(map(len, own))
    assert [m.stopped for m in epochs[-1].members] == [each[-1].stopped for each in own]
    assert epochs[-1].stopped is not None


@pytest.mark.usefixtures("shared_out")
def test_one_that_diverges_leaves_the_others_alone():
    together, rates = network(K), [0.01, 1e200, 0.02]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        epochs = list(train(together, loader(), **TOGETHER, optimizer="sgd", learning_rate=rates))
    assert "member 1 of 3 diverged in epoch 1" in str(caught[0].message)
    alone, own = trained_alone([{"optimizer": "sgd", "learning_rate": rate} for rate in (0.01, 0.02)])
    flat = host(together.parameters.flat)
    np.testing.assert_array_equal(flat[0], host(alone[0].parameters.flat))
    assert np.isfinite(flat).all()
    np.testing.assert_array_equal(flat[1], host(network(seed=8).parameters.flat))
    assert epochs[-1].members[1].stopped == "diverged in epoch 1"
    assert epochs[-1].members[0].train_loss == own[0][-1].train_loss


def test_all_that_diverge_are_an_error():
    together = network(K)
    before = host(together.parameters.flat).copy()
    with pytest.raises(FloatingPointError, match="epoch 1"):
        list(train(together, loader(), **TOGETHER, optimizer="sgd", learning_rate=1e200))
    np.testing.assert_array_equal(host(together.parameters.flat), before)


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("batch_size", [1, 16, "full"])
@pytest.mark.parametrize("chunk_rows", [4096, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_rows_of_each_ones_own(batch_size, chunk_rows, optimizer):
    weights = GENERATOR.integers(0, 3, (70, K)).astype(float)
    options = {"batch_size": batch_size, "chunk_rows": chunk_rows}
    together, more = network(K), {"optimizer": optimizer, "regularizer": "l2:strength=0.01"}
    validation = Loader(X, Y, member_weight=1.0 * (weights == 0))
    rows = loader(**options, member_weight=weights)
    epochs = list(train(together, rows, **TOGETHER, **more, validation=validation))
    each = [{**options, "sample_weight": weights[:, n]} for n in range(K)]
    for n in range(K):
        out = weights[:, n] == 0
        alone, own = trained_alone([more] * K, loader_options=each, validation=(X[out], Y[out]))
        np.testing.assert_array_equal(host(together.parameters.flat)[n], host(alone[n].parameters.flat))
        assert [e.members[n].train_loss for e in epochs] == [e.train_loss for e in own[n]]
        found = [e.members[n].validation_loss for e in epochs]
        assert found == pytest.approx([e.validation_loss for e in own[n]])


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_run_goes_on_from_a_state(stop_at):
    options = {
        **TOGETHER, "max_epochs": 7, "patience": 2, "tolerance": 0.3, "average": 0.2, "dropout": 0.1,
        "learning_rate": [0.1, 0.01, 0.001],
    }  # fmt: skip
    whole = network(K)
    all_epochs = list(train(whole, loader(), **options))
    half = network(K)
    for epoch in train(half, loader(), **options):
        if epoch.number == stop_at:
            state = epoch.state()
            break
    rest = network(K, seed=0)
    later = list(train(rest, loader(), **options, state=state))
    np.testing.assert_array_equal(host(rest.parameters.flat), host(whole.parameters.flat))
    assert [e.members for e in later] == [e.members for e in all_epochs[stop_at:]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": [0.1, 0.2]}, "learning_rate has 2 entries for 3 members"),
        ({"learning_rate": [0.1, -0.2, 0.1]}, "learning_rate=-0.2"),
        ({"regularizer": ["l1", "l2"]}, "regularizer has 2 entries"),
        ({"optimizer": "lbfgs"}, "one by one"),
        ({"on_divergence": "rollback"}, "rolled back"),
        ({"optimizer": ["adam", "sgd", "adam"]}, "same vectors"),
        ({"loss": ["squared_error", "poisson", "squared_error"]}, "one link"),
    ],
)
def test_what_members_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train(network(K), loader(batch_size="full"), **TOGETHER, **options)


def test_another_librarys_members_train(backend):
    together = Network((5, 8, 1), members=K, device=backend, seed=7)
    rows = Loader(X.astype("float32"), Y, member_weight=GENERATOR.integers(1, 3, (70, K)), batch_size=16)
    options = {"max_epochs": 2, "learning_rate": [0.1, 0.01, 0.02], "dropout": 0.2, "clip_norm": 1.0}
    epochs = list(train(together, rows, **options, regularizer="l2", validation=Loader(X, Y)))
    assert all(np.isfinite(m.validation_loss) for m in epochs[-1].members)
    assert together.predict(X).shape == (70, 1)


COMPILED = {
    "plain": {},
    "own rates": {"learning_rate": [0.1, 0.01, 0.001], "schedule": "cosine"},
    "own penalties": {"regularizer": [L2(0.1), None, L1(0.01)], "clip_norm": [0.1, None, 0.5]},
    "dropout": {"dropout": 0.3, "dropout_schedule": "cosine"},
    "own dropout": {"dropout": [(0.0, 0.0), (0.3, 0.0), (0.5, 0.5)]},
    "average": {"average": 0.3},
    "groups": {"optimizer": "adamw", "rate_factors": RateFactors(), "decay_schedule": "cosine"},
    "own decays": {"optimizer": [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)]},
    "own losses": {"loss": [Huber(0.3), Huber(0.7), Huber(1.3)]},
    "own decays by schedule": {
        "optimizer": [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)],
        "decay_schedule": "cosine",
        "dropout": 0.2,
    },
    "stopping": {"patience": 1, "tolerance": 0.05, "learning_rate": [0.1, 0.01, 0.001], "keep": "best"},
}


@pytest.fixture(params=["one by one", "side by side"])
def compiled_way(request, monkeypatch):
    """How compiled steps of members are made, whatever their sizes."""
    pytest.importorskip("numba")
    fewest = 1 if request.param == "side by side" else K + 1
    monkeypatch.setattr("mlp_xp.members.side_by_side.FEWEST", fewest)
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    return request.param


@pytest.mark.parametrize("which", COMPILED)
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_steps_are_the_same_but_for_rounding(which, weighted, compiled_way, monkeypatch):
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0002)
    options = {**TOGETHER, "max_epochs": 8, **COMPILED[which]}
    mask = np.random.default_rng(4).integers(1, 3, (70, K)) if weighted else None
    plain, fast = network(K), network(K)
    n_made, deal_out = [], CompiledMemberStep._deal_out

    def counted(self, make, groups, steps):
        n_made.append(len(steps.divisors))
        deal_out(self, make, groups, steps)

    monkeypatch.setattr(CompiledMemberStep, "_deal_out", counted)
    one = list(train(plain, loader(member_weight=mask), **options))
    assert not n_made
    other = list(train(fast, loader(member_weight=mask), **{**options, "way": "fast"}))
    np.testing.assert_allclose(host(fast.parameters.flat), host(plain.parameters.flat), rtol=1e-6, atol=1e-9)
    for epoch, own in zip(one, other, strict=True):
        found = [member.train_loss for member in own.members]
        assert found == pytest.approx([member.train_loss for member in epoch.members], rel=1e-8)
        assert [member.stopped for member in own.members] == [member.stopped for member in epoch.members]
    assert max(n_made) > 1
    monkeypatch.setattr("mlp_xp.fast.on_cpu.n_threads", lambda: 2)  # three members for two threads
    again = network(K)
    list(train(again, loader(member_weight=mask), **{**options, "way": "fast"}))
    np.testing.assert_array_equal(host(again.parameters.flat), host(fast.parameters.flat))


@pytest.fixture
def side_by_side(monkeypatch):
    """Calls that make steps of members side by side, as they do from the first step on."""
    pytest.importorskip("numba")
    monkeypatch.setattr("mlp_xp.members.side_by_side.FEWEST", 1)
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    calls, make = [], SideBySide.make
    monkeypatch.setattr(SideBySide, "make", lambda *given: calls.append(make(*given)))
    return calls


@pytest.mark.parametrize("which", ["dropout", "own dropout", "own decays by schedule", "own losses"])
def test_what_is_made_side_by_side(which, side_by_side):
    list(train(network(K), loader(), **{**TOGETHER, "way": "fast", **COMPILED[which]}))
    assert side_by_side


@pytest.mark.parametrize(
    ("loss", "y", "n_outputs"),
    [
        (SoftmaxCrossEntropy([0.0, 0.1, 0.2], eps=1e-3), CLASSES, 3),
        ([SoftmaxCrossEntropy(0.1, eps) for eps in (0.0, 1e-3, 0.2)], CLASSES, 3),
        (BinaryCrossEntropy(label_smoothing=[0.05, 0.1, 0.2]), CLASSES > 0, 1),
    ],
    ids=["smoothing", "bound", "two classes"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_that_differ_in_numbers_are_made_side_by_side(loss, y, n_outputs, weighted, side_by_side):
    mask = np.random.default_rng(4).integers(1, 3, (70, K)) if weighted else None
    found, sizes = [], (5, 4, n_outputs)
    for way in ("plain", "fast"):
        together = network(K, sizes=sizes)
        epochs = list(
            train(together, loader(y, member_weight=mask), **{**TOGETHER, "loss": loss, "way": way})
        )
        found.append([*host(together.parameters.flat), [m.train_loss for m in epochs[-1].members]])
    assert side_by_side
    for plain, fast in zip(*found, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-11)


def test_losses_that_differ_in_formulas_are_made_one_by_one(side_by_side):
    options = {**TOGETHER, "loss": ["huber", "squared_error", "huber"]}
    plain, fast = network(K), network(K)
    list(train(plain, loader(), **options))
    list(train(fast, loader(), **{**options, "way": "fast"}))
    assert not side_by_side
    np.testing.assert_allclose(host(fast.parameters.flat), host(plain.parameters.flat), rtol=1e-9, atol=1e-11)


def test_a_member_that_diverges_in_compiled_steps_leaves_the_others_alone(compiled_way):
    together, options = network(K), {**TOGETHER, "optimizer": "sgd", "way": "fast"}
    with pytest.warns(UserWarning, match="member 1 of 3 diverged"):
        epochs = list(train(together, loader(), **options, learning_rate=[0.01, 1e200, 0.02]))
    alone = network(seed=9)
    list(train(alone, loader(), **{**options, "seed": 13}, learning_rate=0.02))
    np.testing.assert_allclose(host(together.parameters.flat)[2], host(alone.parameters.flat), rtol=1e-9)
    assert epochs[-1].members[1].stopped == "diverged in epoch 1"


@pytest.mark.parametrize("way", ["plain", "fast"])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "average": 0.3}], ids=["plain", "more"])
@pytest.mark.parametrize("sizes", [(64, 128, 128, 1), (64, 1024, 512, 1)], ids=["rows", "weights"])
def test_members_take_no_more_memory_than_as_many_networks(way, options, sizes, monkeypatch):
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    x = GENERATOR.normal(size=(1024, 64)).astype(np.float32)

    def peak(members, sizes=sizes):
        tracemalloc.start()
        try:
            given = Network(sizes, members=members)
            more = {"max_epochs": 2, "way": way, "keep": "best", "validation": Loader(x[:256], x[:256, 0])}
            list(train(given, Loader(x, x[:, 0], batch_size=128, prefetch="never"), **more, **options))
            given.predict(x)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(None, (64, 9, 9, 1)), peak(2, (64, 9, 9, 1))  # what is compiled and loaded once
    alone = peak(None)
    assert peak(2) < 2.1 * alone
    assert peak(8) < 8 * alone


@pytest.mark.parametrize("loss", ["softmax_cross_entropy:label_smoothing=0.1", "huber", "poisson"])
@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("members", [9, 40])
def test_side_by_side_every_kind_of_loss(loss, batch_size, members, monkeypatch):
    """Nine members leave lanes over, forty are trained by several calls."""
    pytest.importorskip("numba")
    monkeypatch.setattr("mlp_xp.fast.on_cpu.PAYS_AFTER", 0.0)
    monkeypatch.setattr("mlp_xp.members.side_by_side.NARROWEST", 16)
    y, sizes = (CLASSES, (5, 4, 3)) if loss.startswith("softmax") else (np.abs(Y), (5, 4, 1))
    mask = np.random.default_rng(4).integers(1, 3, (70, members))
    options = {**TOGETHER, "max_epochs": 2, "loss": loss, "learning_rate": np.linspace(0.001, 0.01, members)}
    found = []
    for way in ("plain", "fast"):
        together = network(members, sizes=sizes)
        list(train(together, loader(y, batch_size=batch_size, member_weight=mask), **{**options, "way": way}))
        found.append(host(together.parameters.flat))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_calls_of_few_steps_give_the_same_bits(compiled_way, monkeypatch):
    found = []
    for most in (2**20, 2 * K):
        monkeypatch.setattr("mlp_xp.members.compiled.MOST_OF_EACH", most)
        together = network(K)
        list(train(together, loader(), **{**TOGETHER, "way": "fast"}, learning_rate=[0.01, 0.02, 0.03]))
        found.append(host(together.parameters.flat))
    np.testing.assert_array_equal(*found)


def test_neighbours_of_one_that_diverges_keep_their_bits(compiled_way):
    found = []
    for rate in (0.01, 1e200):
        together, rates = network(K), [0.01, rate, 0.02]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {**TOGETHER, "optimizer": "sgd", "way": "fast"}
            list(train(together, loader(), **options, learning_rate=rates))
        found.append(host(together.parameters.flat)[[0, 2]])
    np.testing.assert_array_equal(*found)


def test_sums_are_rounded_once():
    values = np.random.default_rng(2).normal(size=(1001, 5)) * 10.0 ** np.arange(5)
    values[0] = 1e16
    assert exact_sums(values).tolist() == [math.fsum(column) for column in values.T.tolist()]
    assert exact_sums(values[:0]).tolist() == [0.0] * 5
