"""How a GPU's kernels take the places of the plain parts, with NumPy in the place of the GPU."""

import functools
import itertools
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import host, readonly
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import epoch_losses, training_loop
from mlp_xp.activations import ACTIVATIONS, Identity
from mlp_xp.fast import on_cuda, ways
from mlp_xp.fast.on_cpu import CpuStep
from mlp_xp.fast.on_cuda import EAGER_STEPS, CudaStep, FusedLoss
from mlp_xp.fast.programs import of_rule
from mlp_xp.losses import LOSSES, GroupedCrossEntropy, IdentityLink, Loss, Pinball, SoftmaxCrossEntropy
from mlp_xp.network import Network
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, SGD, AdamW
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.step import Step
from mlp_xp.training import train
from mlp_xp.training_settings import WAYS

N_ROWS, BATCH, EPOCHS = 46, 10, 3  # four whole steps an epoch, and a ragged one
RULES = [name for name, rule in OPTIMIZERS.items() if rule is not LBFGS]


def rows(loss):
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=(N_ROWS, 4)), rng.uniform(0.5, 2.0, N_ROWS)
    y = rng.integers(0, 3, (N_ROWS, 1)) if LOSSES[loss].labels else rng.uniform(size=(N_ROWS, 1))
    return readonly(x), readonly(y), readonly(weight)


def run(
    engine, loss="squared_error", *, weighted=False, chunk_rows=4096, batch=BATCH, epochs=EPOCHS, **named
):
    """Losses and parameters of a training: with an engine, or by the plain rules where there is none."""
    x, y, weight = rows(loss)
    n_outputs = 3 if LOSSES[loss].labels else 1
    network = Network(
        (4, 5, 3, n_outputs),
        activation=named.pop("activation", "tanh"),
        bias=named.pop("bias", True),
        dtype="float64",
        seed=1,
    )
    loader = Loader(x, y, weight if weighted else None, batch_size=batch, chunk_rows=chunk_rows, seed=2)
    validation = Loader(x, y, batch_size="full")
    epochs_ = train(
        network,
        loader,
        loss=loss,
        validation=validation,
        max_epochs=epochs,
        learning_rate=0.01,
        way="plain" if engine is None else "fast",
        **named,
    )
    found = [(each.train_loss, each.validation_loss) for each in epochs_]
    return np.array(found), host(network.parameters.flat)


@pytest.fixture
def with_engine(monkeypatch):
    """`with_engine(engine)`: trainings take that engine, as they take a GPU's."""

    def use(engine, **named):
        make = functools.partial(CudaStep, engine=engine, **named)
        monkeypatch.setattr(training_loop, "ways", lambda name, way, **_: Step if way == "plain" else make)
        return engine

    return use


def check_equal(engine, *arguments, **named):
    expected, found = run(None, *arguments, **named), run(engine, *arguments, **named)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-11)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-12)


def test_rows_held_out_are_judged_by_the_plain_loss_without_smoothing():
    fused = FusedLoss(SoftmaxCrossEntropy(label_smoothing=0.1), None, None, Identity())
    assert fused.judge == SoftmaxCrossEntropy()


def test_which_way():
    assert ways("cpu", "plain") is Step
    assert ways("cpu") is CpuStep
    assert ways("strict") is Step
    assert ways("cuda:0", "plain") is Step
    for name, captures in (("fast", True), ("fused", False)):
        way = ways("cuda:1", name)
        assert (way.func, way.keywords) == (CudaStep, {"captures": captures, "schedules_more": False})
    assert set(WAYS) == {"fast", "fused", "plain"}
    loader = Loader(np.ones((3, 4)), np.ones(3))
    with pytest.raises(ValueError, match="unknown way 'fats'; did you mean 'fast'"):
        train(Network((4, 1)), loader, way="fats")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_activation(activation, bias, with_engine):
    engine = with_engine(StandInEngine())
    check_equal(engine, activation=activation, bias=bias)
    assert ("activate" in engine.calls) == (activation != "identity")
    assert engine.calls.count("activate") >= engine.calls.count("chain")


def test_an_activation_on_the_last_layer_and_a_users_own(with_engine):
    pair = (lambda z: z / (1.0 + z * z), lambda z: (1.0 - z * z) / ((1.0 + z * z) * (1.0 + z * z)))
    check_equal(with_engine(StandInEngine()), activation=["relu", pair, "softplus"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [True, False])
def test_every_loss(loss, weighted, with_engine):
    engine = with_engine(StandInEngine())
    check_equal(engine, loss, weighted=weighted)
    kernels = {"softmax_cross_entropy": "cross_entropy", "pinball": "pinball"}
    for kernel in ("differentiate", *kernels.values()):
        assert (kernel in engine.calls) == (kernel == kernels.get(loss, "differentiate"))


class Squared(Loss):
    """A user's own, whose value is what `as_value` makes of it."""

    link = IdentityLink()

    def __init__(self, as_value):
        self.as_value = as_value

    def __call__(self, backend, z, y, weight):
        r, s = z - y, 1.0 if weight is None else weight
        z[...] = 2 * s * r
        return self.as_value((s * r * r).sum())


@pytest.mark.parametrize("as_value", [float, np.float64])
def test_a_users_loss_may_return_a_number_of_any_kind(as_value, with_engine):
    """A captured step stores it without the host: as the network's dtype."""
    engine = with_engine(StandInEngine("float32"))
    x, y, _ = rows("squared_error")
    found = []
    for way in ("plain", "fast"):
        network = Network((4, 5, 1), activation="tanh", dtype="float32", seed=1)
        loader = Loader(x, y, batch_size=BATCH, seed=2)
        epochs = train(network, loader, loss=Squared(as_value), max_epochs=EPOCHS, way=way)
        found.append([epoch.train_loss for epoch in epochs])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert engine.graphs == 1


SEVERAL = {
    "pinball": (Pinball((0.1, 0.5, 0.9)), 2, 6),
    "cross_entropy": (GroupedCrossEntropy((3, 2), label_smoothing=0.1), 2, 5),
}
"""Losses whose kernel sees several targets: the loss, targets and outputs."""


@pytest.mark.parametrize("kernel", SEVERAL)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("chunk_rows", [4096, 4])
def test_losses_of_several_targets(kernel, weighted, chunk_rows, with_engine, caplog, monkeypatch):
    monkeypatch.setitem(LOSSES, "grouped", GroupedCrossEntropy)  # the estimators' own
    loss, n_targets, n_outputs = SEVERAL[kernel]
    x, _, weight = rows("squared_error")
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, (N_ROWS, n_targets)) if loss.labels else rng.normal(size=(N_ROWS, n_targets))
    engine, found = with_engine(StandInEngine()), []
    for way in ("plain", "fast"):
        network = Network((4, 5, n_outputs), dtype="float64", seed=1)
        own = weight if weighted else None
        loader = Loader(x, y, own, batch_size=BATCH, chunk_rows=chunk_rows, seed=2)
        epochs = train(network, loader, loss=loss, max_epochs=EPOCHS, learning_rate=0.01, way=way)
        found.append(([epoch.train_loss for epoch in epochs], host(network.parameters.flat)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-11)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9, atol=1e-12)
    assert kernel in engine.calls
    assert engine.graphs == (1 if chunk_rows > BATCH else 3)  # the first chunk, further ones, the update
    assert caplog.records == []


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, with_engine):
    engine = with_engine(StandInEngine())
    check_equal(engine, optimizer=rule)
    assert engine.calls.count("update") == 5 * EPOCHS
    assert engine.calls.count("begin") == 3 * EPOCHS  # three steps together, one, and the ragged one


@pytest.mark.parametrize(
    ("penalty", "dropout", "clip", "reduction", "weighted"),
    list(
        itertools.product(
            (None, ElasticNet(0.01, 0.02)), (0.0, 0.4), (None, 0.1), ("mean", "sum"), (True, False)
        )
    ),
)
def test_every_option(penalty, dropout, clip, reduction, weighted, with_engine):
    named = {"regularizer": penalty, "dropout": dropout, "clip_norm": clip, "reduction": reduction}
    engine = with_engine(StandInEngine())
    check_equal(engine, weighted=weighted, schedule="cosine", seed=9, **named)
    for name, wanted in (("penalty", penalty), ("drop", dropout), ("clip", clip)):
        assert (name in engine.calls) == bool(wanted)


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
@pytest.mark.parametrize("weighted", [True, False])
def test_steps_of_several_chunks(rule, weighted, with_engine):
    engine = with_engine(StandInEngine())
    named = {"regularizer": ElasticNet(0.01, 0.02), "dropout": 0.3, "clip_norm": 0.1}
    check_equal(engine, chunk_rows=4, weighted=weighted, optimizer=rule, **named)
    assert engine.graphs == 3  # the first chunk, further ones, the update
    assert engine.calls.count("update") == 5 * EPOCHS


def test_steps_are_captured_once_and_ragged_ones_are_not(with_engine):
    engine = with_engine(StandInEngine())
    check_equal(engine, epochs=4)
    assert engine.graphs == 1
    assert engine.calls.count("launch") == 4 * 4 - EAGER_STEPS


def test_a_step_of_all_rows_is_captured(with_engine):
    engine = with_engine(StandInEngine())
    check_equal(engine, batch="full", epochs=6)
    assert engine.calls.count("launch") == 6 - EAGER_STEPS


def test_what_a_graph_reads_lives_as_long_as_the_graph(with_engine, monkeypatch):
    """The memo makes larger arrays in place: the old ones must not become somebody else's."""
    made = []
    monkeypatch.setattr(CudaStep, "__init__", keeping(made, CudaStep.__init__))
    with_engine(StandInEngine())
    run(StandInEngine())
    (step,) = made
    old = weakref.ref(step.objective.memo.z[0])
    step.objective.memo.of(1000)
    assert step.objective.memo.z[0] is not old()
    assert old() is not None
    step.forget_buffers()
    assert old() is None


def keeping(made, initialize):
    def keep(self, *arguments, **named):
        made.append(self)
        initialize(self, *arguments, **named)

    return keep


def test_another_thread_goes_on_with_an_engine_of_its_own(monkeypatch):
    """That of the first one may be at work there for another training."""
    here, first = [StandInEngine(), StandInEngine()], threading.current_thread()
    monkeypatch.setattr(on_cuda, "engine_of", lambda *_: here[threading.current_thread() is not first])
    monkeypatch.setattr(training_loop, "ways", lambda *_, **__: CudaStep)
    x, y, _ = rows("squared_error")
    network = Network((4, 5, 3, 1), activation="tanh", dtype="float64", seed=1)
    epochs = train(
        network, Loader(x, y, batch_size=BATCH, seed=2), max_epochs=4, learning_rate=0.01, dropout=0.3
    )
    losses = []
    with ThreadPoolExecutor(1) as other:
        for is_elsewhere in (False, True, True, False):
            idle = here[not is_elsewhere]
            before = len(idle.calls)
            losses.append((other.submit(next, epochs).result() if is_elsewhere else next(epochs)).train_loss)
            assert len(idle.calls) == before
    assert [engine.graphs for engine in here] == [2, 1]
    plain, flat = run(None, epochs=4, dropout=0.3)
    np.testing.assert_allclose(losses, plain[:, 0], rtol=1e-11)
    np.testing.assert_allclose(host(network.parameters.flat), flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("drops", [False, True])
def test_decay_may_have_a_schedule_in_a_captured_step(drops, weighted, monkeypatch):
    """Dropout may have none: a captured step would keep its masks."""
    engine = StandInEngine()
    make = functools.partial(CudaStep, engine=engine)
    monkeypatch.setattr(
        training_loop,
        "ways",
        lambda name, way, **more: Step if way == "plain" else functools.partial(make, **more),
    )
    named = {"optimizer": AdamW(weight_decay=0.1), "decay_schedule": "cosine", "weighted": weighted}
    if drops:
        named |= {"dropout": 0.3, "dropout_schedule": "cosine"}
    check_equal(engine, **named)
    assert engine.graphs == (0 if drops else 1)


def test_without_graphs_nothing_is_captured(with_engine):
    engine = with_engine(StandInEngine(), captures=False)
    check_equal(engine)
    assert engine.graphs == 0


def test_a_failed_capture_is_logged_once_and_training_goes_on(with_engine, caplog):
    engine = with_engine(StandInEngine(captures=False))
    with caplog.at_level(logging.WARNING):
        check_equal(engine)
    assert [record.getMessage() for record in caplog.records] == [
        "steps are launched kernel by kernel, since this one cannot be captured: a reason"
    ]


@pytest.mark.parametrize("read_every", [3, 4, 5])
@pytest.mark.parametrize("penalty", [None, ElasticNet(0.01, 0.02)])
def test_values_are_stored_where_there_is_room(read_every, penalty, with_engine, monkeypatch):
    monkeypatch.setattr(epoch_losses, "READ_EVERY", read_every)
    check_equal(with_engine(StandInEngine()), regularizer=penalty)


def test_weights_that_sum_to_zero_change_nothing(with_engine):
    x, y, _ = rows("squared_error")
    weight = np.r_[np.zeros(BATCH), np.ones(N_ROWS - BATCH)]
    found = []
    for engine in (None, with_engine(StandInEngine())):
        network = Network((4, 3, 1), dtype="float64")
        loader = Loader(x, y, weight, batch_size=BATCH, order="sequential")
        way = "plain" if engine is None else "fast"
        found.append([epoch.train_loss for epoch in train(network, loader, max_epochs=3, way=way)])
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_a_loss_that_is_not_finite_ends_the_epoch(with_engine, monkeypatch):
    monkeypatch.setattr(epoch_losses, "READ_EVERY", 4)
    with_engine(StandInEngine())
    x, y, _ = rows("squared_error")
    network = Network((4, 3, 1), activation="identity", dtype="float64")
    before = host(network.parameters.flat)
    epochs = train(network, Loader(x, y, batch_size=2), optimizer="sgd", learning_rate=1e300)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d"):
        list(epochs)
    np.testing.assert_array_equal(host(network.parameters.flat), before)


def test_a_rolled_back_run_goes_on_with_new_kernels(with_engine):
    engine = with_engine(StandInEngine())
    x, y, _ = rows("squared_error")
    network = Network((4, 3, 1), activation="leaky_relu", dtype="float64")
    loader = Loader(np.tile(x, (9, 1)), np.tile(y, (9, 1)), batch_size=1)
    named = {"optimizer": "sgd", "learning_rate": 20.0, "on_divergence": "rollback", "max_epochs": 4}
    with pytest.warns(UserWarning, match="Rolled back"):
        losses = [epoch.train_loss for epoch in train(network, loader, **named)]
    assert losses[-1] < losses[0]
    assert engine.graphs > 1


def test_a_rule_of_ones_own_is_applied_as_it_is_written(with_engine):
    class Mine(SGD):
        def update(self, xp, t, rate, p, g):
            p -= 0.5 * rate * g

    assert of_rule(Mine()) is None
    engine = with_engine(StandInEngine())
    check_equal(engine, optimizer=Mine())
    assert engine.graphs == 1  # forward and backward
