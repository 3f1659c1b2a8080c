"""Compiled steps against the plain ones: the same training up to rounding; the rule alone, bit for bit."""

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from arrays import host, readonly

from mlp_xp import epoch_losses
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.dropout import Dropout
from mlp_xp.fast import compiled, describe, on_cpu
from mlp_xp.fast.beside import is_loading
from mlp_xp.fast.compiled import compiler
from mlp_xp.fast.on_cpu import CompiledRule, CpuStep, first_compiled_of, first_compiled_step, plan_of
from mlp_xp.fast.programs import of_rule
from mlp_xp.history import History
from mlp_xp.losses import LOSSES
from mlp_xp.machine import blas
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, SGD, Adam, Optimizer, RateFactors
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.run.rates import Rates
from mlp_xp.saved.checkpoint import Checkpoints, Interruption
from mlp_xp.schedules import Constant
from mlp_xp.training import train

PAYS_AFTER = on_cpu.PAYS_AFTER

pytestmark = pytest.mark.needs("numba", "scipy")

ROOT = Path(__file__).parents[2]
N_ROWS, BATCH = 46, 10  # four whole steps an epoch, and a ragged one
RULES = [name for name, rule in OPTIMIZERS.items() if rule is not LBFGS]
COVERED = [name for name in LOSSES if name != "pinball"]
RECIPE = {
    "input_scale": True,
    "optimizer": "adamw:weight_decay=0.5",
    "rate_factors": RateFactors(),
    "schedule": "cosine",
    "decay_schedule": "flat_cosine",
    "dropout": 0.3,
    "dropout_schedule": "flat_cosine",
    "average": 0.3,
}
OWN = (lambda z: z / (1.0 + z * z), lambda z: (1.0 - z * z) / ((1.0 + z * z) * (1.0 + z * z)))


@pytest.fixture(autouse=True)
def compiled_from_the_first_step(monkeypatch):
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", 0.0)


@pytest.fixture
def calls(monkeypatch):
    """How many steps each compiled call made."""
    made, make_steps = [], CpuStep._make_steps

    def counting(self, *arguments):
        made.append(make_steps(self, *arguments))
        return made[-1]

    monkeypatch.setattr(CpuStep, "_make_steps", counting)
    return made


class EveryStep:
    """Checkpoints that are looked at after every step, and write nothing."""

    def asks_in(self, training):
        return 1

    def after_step(self, training):
        pass

    def after_epoch(self, training):
        pass


def rows(loss, n_rows=N_ROWS, n_features=4):
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=(n_rows, n_features)), rng.uniform(0.5, 2.0, n_rows)
    is_class = loss.startswith("softmax")
    y = rng.integers(0, 3, (n_rows, 1)) if is_class else rng.uniform(size=(n_rows, 1))
    return readonly(x), readonly(y), readonly(weight)


def run(way, loss="squared_error", *, hidden=(5, 3), weighted=False, batch=BATCH, n_rows=N_ROWS, **named):
    """Losses, parameters and state of a training."""
    x, y, weight = rows(loss, n_rows, named.pop("n_features", 4))
    network = Network(
        (x.shape[1], *hidden, 3 if loss.startswith("softmax") else 1),
        activation=named.pop("activation", "tanh"),
        bias=named.pop("bias", True),
        dtype=named.pop("dtype", "float64"),
        input_scale=named.pop("input_scale", False),
        seed=1,
    )
    loader = Loader(
        x, y, weight if weighted else None, batch_size=batch, chunk_rows=named.pop("chunk_rows", 4096), seed=2
    )
    named = {"max_epochs": 3, "learning_rate": 0.01, "loss": loss} | named
    losses = []
    for epoch in train(network, loader, way=way, **named):
        losses.append(epoch.train_loss)
        state = epoch.state()
    return np.array(losses), host(network.parameters.flat), state


def check_close(*arguments, rtol=1e-10, **named):
    expected, found = run("plain", *arguments, **named), run("fast", *arguments, **named)
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    np.testing.assert_allclose(found[1], expected[1], rtol=rtol, atol=rtol)
    check_layout(expected[2], found[2])


def check_layout(one, other):
    """States of two ways are interchangeable."""
    assert {name: (a.shape, a.dtype) for name, a in one.arrays.items()} == {
        name: (a.shape, a.dtype) for name, a in other.arrays.items()
    }
    assert one.numbers["t"] == other.numbers["t"]
    assert one.numbers["step"] == other.numbers["step"]


def check_same_bits(*arguments, **named):
    expected, found = run("plain", *arguments, **named), run("fast", *arguments, **named)
    for one, other in zip(expected[:2], found[:2], strict=True):
        np.testing.assert_array_equal(other, one)
    check_layout(expected[2], found[2])


# Whole steps


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, BATCH])
def test_every_activation(activation, bias, batch, calls):
    check_close(activation=activation, bias=bias, batch=batch)
    assert calls == [N_ROWS if batch == 1 else 5] * 3


@pytest.mark.parametrize("activation", ["leaky_relu:slope=0.3", "elu:alpha=0.5"])
def test_activations_with_parameters(activation, calls):
    check_close(activation=activation)
    assert calls


def test_an_activation_on_the_last_layer(calls):
    check_close(activation=["relu", "gelu", "softplus"])
    assert calls


@pytest.mark.parametrize(
    "loss",
    [
        *COVERED,
        "huber:delta=0.2",
        "poisson:deviance=true",
        "binary_cross_entropy:eps=0.3",
        "binary_cross_entropy:label_smoothing=0.1",
        "softmax_cross_entropy:label_smoothing=0.1",
        "softmax_cross_entropy:eps=0.3",
        "softmax_cross_entropy:label_smoothing=0.1,eps=0.3",
    ],
)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_loss(loss, weighted, reduction, calls):
    check_close(loss, weighted=weighted, reduction=reduction, learning_rate=1e-3)
    assert calls


@pytest.mark.parametrize("rule", [*RULES, Adam(eps_on="raw")])
@pytest.mark.parametrize("batch", [1, BATCH])
def test_every_rule(rule, batch, calls):
    check_close(optimizer=rule, batch=batch)
    assert calls


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [(), (1,), (50,), (48, 33), (7, 6, 5, 4)])
@pytest.mark.parametrize("batch", [1, 3, 64, "full"])
def test_every_size(hidden, batch, dtype, calls):
    # 40 × 48 × 64 multiplications are left to the BLAS, the others to loops.
    check_close(
        hidden=hidden,
        batch=batch,
        n_rows=150,
        n_features=40,
        activation="silu",
        optimizer="momentum",
        learning_rate=1e-3,
        dtype=dtype,
        rtol=1e-10 if dtype == "float64" else 1e-4,
    )
    assert calls


@pytest.mark.parametrize(
    ("penalty", "clip", "weighted", "schedule"),
    list(
        itertools.product(
            (None, "l1:strength=0.01", "l2:strength=0.02", ElasticNet(0.01, 0.02)),
            (None, 0.1),
            (True, False),
            ("constant", "cosine"),
        )
    ),
)
def test_every_option(penalty, clip, weighted, schedule, calls):
    check_close(regularizer=penalty, clip_norm=clip, weighted=weighted, schedule=schedule)
    assert calls


@pytest.mark.parametrize("activation", ["tanh", "relu", "mish"])
@pytest.mark.parametrize(
    "named",
    [
        RECIPE,
        {**RECIPE, "clip_norm": 0.1, "regularizer": ElasticNet(0.01, 0.02), "weighted": True},
        {"dropout": (0.0, 0.4), "batch": 1},
        {"dropout": 0.4, "dropout_schedule": "cosine:n_epochs=1"},
        {"dropout": 0.4, "hidden": (7,), "bias": False},
        {"input_scale": True, "bias": False},
        {"input_scale": True, "hidden": ()},
        {"rate_factors": RateFactors(biases=0.3)},
        {"optimizer": "adamw", "decay_schedule": "exponential:decay=0.5", "learning_rate": 0.1},
    ],
)
def test_what_the_recipe_for_tables_asks_for(activation, named, calls):
    check_close(activation=activation, **named)
    assert calls


@pytest.mark.parametrize("read_every", [3, 4, 7])
@pytest.mark.parametrize("penalty", [None, ElasticNet(0.01, 0.02)])
def test_values_are_stored_where_there_is_room(read_every, penalty, monkeypatch, calls):
    monkeypatch.setattr(epoch_losses, "READ_EVERY", read_every)
    own = RECIPE | {"average": 0.0}  # each step has numbers of its own
    check_close(regularizer=penalty, **own)
    assert calls == [5] * 3


def test_one_step_at_a_time_has_the_bits_of_several_at_once(calls):
    several = run("fast", schedule="cosine")
    assert max(calls) > 1
    calls.clear()
    one = run("fast", schedule="cosine", checkpoints=EveryStep())
    assert set(calls) == {1}
    np.testing.assert_array_equal(one[1], several[1])
    np.testing.assert_array_equal(one[0], several[0])


def test_weights_that_sum_to_zero_change_nothing():
    x, y, _ = rows("squared_error")
    weight = np.r_[np.zeros(BATCH), np.ones(N_ROWS - BATCH)]
    found = []
    for way in ("plain", "fast"):
        network = Network((4, 3, 1), dtype="float64")
        loader = Loader(x, y, weight, batch_size=BATCH, order="sequential")
        named = {"regularizer": "l2:strength=0.01", "way": way}
        found.append([epoch.train_loss for epoch in train(network, loader, max_epochs=3, **named)])
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "gelu"])
def test_a_loss_that_is_not_finite_ends_the_epoch(activation, monkeypatch):
    monkeypatch.setattr(epoch_losses, "READ_EVERY", 4)
    x, y, _ = rows("squared_error")
    network = Network((4, 3, 1), activation=activation, dtype="float64")
    before = host(network.parameters.flat)
    epochs = train(network, Loader(x, y, batch_size=2), optimizer="sgd", learning_rate=1e300)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step \d"):
        list(epochs)
    np.testing.assert_array_equal(host(network.parameters.flat), before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["half_squared_error", "huber", "softmax_cross_entropy"])
def test_nan_is_not_hidden(activation, loss):
    x, y, _ = rows(loss)
    network = Network((4, 3, 3 if loss.startswith("softmax") else 1), activation=activation)
    network.parameters.flat[...] = np.nan
    with pytest.raises(FloatingPointError, match="epoch 1, step 1 of"):
        next(train(network, Loader(x, y, batch_size=4), loss=loss))


# Threads


WIDE = {"hidden": (300, 200), "n_features": 40, "batch": 180, "n_rows": 400, "max_epochs": 2}
"""Large enough for three threads; the last step, of 40 rows, is for one alone."""


@pytest.fixture
def parts(monkeypatch):
    """Over how many threads each compiled call was shared out."""
    found, share_out = [], CpuStep._share_out

    def noting(self, n_parts, *arguments):
        found.append(n_parts)
        share_out(self, n_parts, *arguments)

    monkeypatch.setattr(CpuStep, "_share_out", noting)
    return found


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "named",
    [
        {"loss": "softmax_cross_entropy", "activation": "relu"},
        {"activation": "gelu", "weighted": True, "regularizer": ElasticNet(0.01, 0.02), "clip_norm": 0.1},
        {"activation": ["tanh", "silu", "softplus"], "optimizer": "adamw", "bias": False},
        {"optimizer": "sgd", "dtype": "float32", "rtol": 1e-4},
        {**RECIPE, "average": 0.0},
        {**RECIPE, "average": 0.0, "clip_norm": 0.1},
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_steps_are_shared_out_to_threads(named, threads, at_once, monkeypatch, parts):
    monkeypatch.setattr(on_cpu, "n_threads", lambda: threads)
    check_close(**WIDE, **named, **({} if at_once else {"checkpoints": EveryStep()}))
    assert set(parts) == ({threads} if at_once else {threads, 1})


def test_threads_give_the_same_bits_each_time(monkeypatch, parts):
    monkeypatch.setattr(on_cpu, "n_threads", lambda: 2)
    first, again, one_by_one = (run("fast", **WIDE, checkpoints=c) for c in (None, None, EveryStep()))
    np.testing.assert_array_equal(again[1], first[1])
    np.testing.assert_array_equal(one_by_one[1], first[1])


@pytest.mark.parametrize("dying", [0, 1, 2])
def test_a_part_that_dies_before_the_first_meeting_leaves_no_thread_waiting(dying, monkeypatch):
    from mlp_xp.fast.compiled import steps

    make_steps = steps.make_steps

    def dies(part, *arguments):
        if part == dying:
            raise KeyboardInterrupt("of a part")
        make_steps(part, *arguments)

    monkeypatch.setattr(on_cpu, "n_threads", lambda: 3)
    monkeypatch.setattr(steps, "make_steps", dies)
    network, caught = Network((WIDE["n_features"], *WIDE["hidden"], 1)), []
    before = host(network.parameters.flat)
    x, y, _ = rows("squared_error", WIDE["n_rows"], WIDE["n_features"])

    def one_epoch():
        try:
            next(train(network, Loader(x, y, batch_size=WIDE["batch"])))
        except KeyboardInterrupt as error:
            caught.append(str(error))

    thread = threading.Thread(target=one_epoch, daemon=True)
    thread.start()
    thread.join(60)
    assert caught == ["of a part"]
    np.testing.assert_array_equal(host(network.parameters.flat), before)


FORKED = """
import os, signal, threading
import numpy as np
from mlp_xp import Loader, Network, train
from mlp_xp.fast import on_cpu
from mlp_xp.fast.compiled import steps
on_cpu.PAYS_AFTER, on_cpu.n_threads = 0.0, lambda: 2
begun, is_over, make_steps = threading.Event(), threading.Event(), steps.make_steps

def held_up(part, *arguments):
    if threading.current_thread() is other:
        begun.set()
        is_over.wait()
    make_steps(part, *arguments)

def fit():
    rows = Loader(np.ones((1000, 64)), np.ones(1000), batch_size=1000)
    list(train(Network((64, 128, 1)), rows, max_epochs=1))

steps.make_steps, other = held_up, threading.Thread(target=fit)
other.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(60)  # it would wait for a thread that only its parent has
    fit()
    os._exit(0)
is_over.set()
raise SystemExit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_beside_a_step_that_is_shared_out_can_train():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("every", [None, "1h", "2epochs", "3steps"])
def test_whoever_waits_for_signals_leaves_steps_at_once(every, calls, tmp_path):
    """5 steps an epoch: a checkpoint by steps is the only thing that comes between them."""
    with contextlib.nullcontext(Interruption()) if every is None else Checkpoints(tmp_path, every) as waiting:
        run("fast", checkpoints=waiting)
    assert calls == ([3, 2, 1, 3, 1, 2, 3] if every == "3steps" else [5] * 3)


def test_there_are_as_many_threads_as_the_blas_may_use(monkeypatch):
    assert on_cpu.n_threads() == blas.n_threads() >= 1
    with blas.multiplying(1):  # who computes beside us changes nothing
        assert on_cpu.n_threads() == blas.n_threads()
    with blas.at_most(1):
        assert on_cpu.n_threads() == 1
    nothing = blas.Threads([])
    monkeypatch.setattr(blas, "_both", lambda: (nothing, nothing))
    assert on_cpu.n_threads() == 1


# What is not covered


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_update_rule_alone_has_the_plain_bits(rule, dtype, calls):
    named = RECIPE | {"optimizer": rule, "dtype": dtype, "clip_norm": 0.5}
    check_same_bits(chunk_rows=4, **named)
    assert not calls


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_on_vectors_of_any_length(rule, dtype, rng):
    from mlp_xp.fast.compiled.steps import apply_rule

    rule = OPTIMIZERS[rule]()
    for size in (1, 7, 64, 1001):
        p = rng.normal(size=size).astype(dtype)
        compiled_rule = CompiledRule(rule, of_rule(rule), np.dtype(dtype).name)
        q, theirs = p.copy(), {name: np.zeros(size, dtype) for name in rule.state}
        mine = [*(np.zeros(size, dtype) for _ in rule.state), q, q][:2]
        for t in range(1, 40):
            g = rng.normal(size=size).astype(dtype)
            p[: size // 2] *= 1.0 - 0.01 * rule.weight_decay
            rule.update(np, t, 0.01, p, g, **theirs)
            ((numbers,),) = compiled_rule.numbers(t, [0.01])
            apply_rule(compiled_rule.address, numbers, q, g, *mine, 0, size, size // 2)
        np.testing.assert_array_equal(q, p)


@pytest.mark.parametrize(
    "named",
    [
        {"frozen": [1]},
        {"activation": ["relu", OWN]},
        {"loss": "pinball:quantiles=0.5"},
        {"chunk_rows": 4},
    ],
)
def test_steps_that_are_not_covered_are_plain(named, calls):
    check_same_bits(**named)
    assert not calls


def test_a_rule_of_ones_own_is_applied_as_it_is_written(calls):
    class Mine(SGD):
        def update(self, xp, t, rate, p, g):
            p -= 0.5 * rate * g

    check_same_bits(optimizer=Mine())
    assert not calls


def test_what_a_plan_covers():
    def plan(loss="squared_error", **named):
        return plan_of(Objective(Network((4, 3, 1), **named), LOSSES[loss]()))

    assert plan().sizes.tolist() == [4, 3, 1]
    assert plan("poisson") is not None
    assert plan("pinball") is None
    assert plan(activation=OWN) is None
    assert plan(input_scale=True) is not None


# When


def test_steps_are_compiled_once_that_has_paid(monkeypatch):
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", PAYS_AFTER)  # what `calls` has made nothing
    small, wide = first_compiled_step(6, 29), first_compiled_step(4106, 6_300_000)
    assert 5_000 < small < 20_000
    assert 30 < wide < 200
    of_recipe = Network((30, 128, 128, 128, 1), activation="mish", input_scale=True)
    objective = Objective(of_recipe, LOSSES["squared_error"](), None, Dropout((0.1,) * 3))
    assert 1_000 < first_compiled_of(objective) < 2_000


@pytest.fixture
def from_step_7(monkeypatch):
    monkeypatch.setattr(on_cpu, "first_compiled_step", lambda *sizes: 7)


def test_a_run_turns_at_a_step_and_not_before(from_step_7, calls):
    plain, turned = run("plain", max_epochs=1), run("fast", max_epochs=1)
    np.testing.assert_array_equal(turned[1], plain[1])
    assert not calls
    check_close(max_epochs=4)
    assert calls == [3, 5, 5]  # the rest of the second epoch, then whole blocks


def test_what_is_compiled_is_loaded_beside_the_steps_before(from_step_7, monkeypatch):
    """A thread begins after half of them; steps go on without it, and the first compiled one waits for it."""
    for thread in threading.enumerate():  # of a run that ended before it turned
        if thread.name.startswith("mlp_xp loads"):
            thread.join()
    began, may_end, load = [], threading.Event(), CpuStep._load

    def slow(self):
        began.append(threading.current_thread() is threading.main_thread())
        assert may_end.wait(60)
        return load(self)

    monkeypatch.setattr(CpuStep, "_load", slow)
    x, y, _ = rows("squared_error")
    loads = []

    class Watch:
        def after_step(self, training):
            loads.append(is_loading())
            if training.history.step == 7:
                may_end.set()

        def after_epoch(self, training):
            """Nothing."""

    list(train(Network((4, 5, 1), seed=1), Loader(x, y, batch_size=BATCH), max_epochs=3, checkpoints=Watch()))
    assert began == [False]
    assert loads[:7] == [False] * 3 + [True] * 4


@pytest.mark.parametrize(("max_epochs", "loads"), [(1, False), (2, True)])
def test_a_run_that_is_to_end_before_loads_nothing(max_epochs, loads, from_step_7, monkeypatch):
    began, load = [], CpuStep._load
    monkeypatch.setattr(CpuStep, "_load", lambda self: began.append(1) or load(self))
    run("fast", max_epochs=max_epochs)
    assert bool(began) == loads


def test_what_goes_wrong_while_it_is_loaded_is_raised(from_step_7, monkeypatch):
    monkeypatch.setattr(CpuStep, "_load", lambda self: 1 // 0)
    x, y, _ = rows("squared_error")
    with pytest.raises(ZeroDivisionError):
        list(train(Network((4, 5, 1), seed=1), Loader(x, y, batch_size=BATCH), max_epochs=3))


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_cut_off(from_step_7, stop_after):
    x, y, _ = rows("squared_error")

    def start(state=None):
        network = Network((4, 5, 1), seed=1)
        return network, train(network, Loader(x, y, batch_size=BATCH), max_epochs=5, state=state)

    whole, epochs = start()
    list(epochs)
    _, epochs = start()
    for _ in range(stop_after):
        state = next(epochs).state()
    rest, epochs = start(state)
    list(epochs)
    np.testing.assert_array_equal(host(rest.parameters.flat), host(whole.parameters.flat))


def test_a_rolled_back_run_goes_on(calls):
    x, y, _ = rows("squared_error")
    network = Network((4, 3, 1), activation="leaky_relu", dtype="float64")
    loader = Loader(np.tile(x, (9, 1)), np.tile(y, (9, 1)), batch_size=1)
    named = {"optimizer": "sgd", "learning_rate": 20.0, "on_divergence": "rollback", "max_epochs": 4}
    with pytest.warns(UserWarning, match="Rolled back"):
        losses = [epoch.train_loss for epoch in train(network, loader, **named)]
    assert losses[-1] < losses[0]
    assert calls


def test_buffers_are_let_go(calls):
    network = Network((4, 3, 1))
    update = CpuStep(Objective(network, LOSSES["squared_error"]()), Optimizer(SGD(), network.parameters))
    x, y, _ = rows("squared_error")
    for block in Loader(x, y).blocks(0, network.backend):
        assert update.at_once(block, 0, 1, Rates(0.1, Constant(), History())) == 1
    assert update._memory.size > 0
    update.forget_buffers()
    assert update._memory.size == 0


SCRIPT = """
import sys
blocked = {blocked!r}
for name in blocked:
    sys.modules[name] = None
import numpy as np
from mlp_xp import Loader, Network, train
from mlp_xp.fast import describe, on_cpu
on_cpu.PAYS_AFTER = 0.0
found = []
for way in {ways!r}:
    network = Network((3, 4, 1), seed=1)
    rng = np.random.default_rng(0)
    loader = Loader(rng.normal(size=(30, 3)), rng.normal(size=30), batch_size=7)
    list(train(network, loader, max_epochs=3, way=way))
    found.append(network.parameters.flat)
np.testing.assert_array_equal(found[0], found[-1])
print("numba" in sys.modules and sys.modules["numba"] is not None)
print(describe())
"""


def script(blocked, ways, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(blocked=blocked, ways=ways)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(("blocked", "name"), [("numba", "Numba"), ("scipy", "SciPy")])
def test_without_numba_or_scipy_steps_are_plain(blocked, name):
    used, said = script([blocked], ["plain", "fast"])
    assert used == str(blocked != "numba")
    assert said == f'plain steps: {name} is not installed: pip install "mlp-xp[fast]"'


def test_switched_off_it_is_not_imported():
    assert script([], ["plain"])[0] == "False"


def test_the_way_is_described():
    assert describe() == "compiled steps (Numba)"


def test_a_version_that_does_not_fit_is_described(monkeypatch):
    def refuse(module):
        raise ImportError("Numba needs NumPy 2.3 or less\nand so on")

    monkeypatch.setattr(compiled.importlib, "import_module", refuse)
    assert compiled.problem.__wrapped__() == "Numba cannot be used: Numba needs NumPy 2.3 or less"


# Elementary functions


def ends(real):
    """Numbers about which exp, or 1 + x, ends to be a normal number."""
    of = np.finfo(real)
    for end in (np.log(of.max), np.log(of.smallest_normal), np.log(of.smallest_subnormal), real(-1.0)):
        yield from (end + np.linspace(-1.0, 1.0, 301, dtype=real)).tolist()
    yield from (of.max, of.smallest_normal, of.smallest_subnormal, math.inf)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "expm1", "tanh", "log1p"])
def test_elementary_functions(name, real, rng):
    """Within three units of the last place of the result that NumPy finds in a higher precision."""
    from mlp_xp.fast.compiled import elementary

    function = (elementary.IN_SINGLE if real is np.float32 else elementary.IN_DOUBLE)[name]
    whole = {4: np.uint32, 8: np.uint64}[real().itemsize]
    any_bits = rng.integers(np.iinfo(whole).max, size=5000, dtype=whole, endpoint=True).view(real)
    sizes = np.array([*np.geomspace(np.finfo(real).tiny, 700.0, 2000), *ends(real), 0.0], dtype=real)
    with np.errstate(all="ignore"):
        x = np.concatenate([any_bits, sizes, -sizes, np.linspace(-40.0, 40.0, 801, dtype=real)])
        found = np.array([function(each) for each in x], dtype=real)
        exact = getattr(np, name)(x.astype(np.longdouble))
        right = exact.astype(real)
        units = np.abs(found - exact) / np.spacing(np.abs(right))
    is_same = (found == right) | (np.isnan(found) & np.isnan(right))
    assert x[~is_same & ~(units < 3.0)].size == 0


@pytest.mark.parametrize("n_in", [511, 512])
def test_weights_that_are_read_in_their_order_first_give_the_same_product(n_in, rng):
    """Infinite sums of them and what was in the memory before are no part of it."""
    from mlp_xp.fast.compiled.products import forward

    w = rng.standard_normal((n_in, 513), dtype=np.float32) * np.float32(1e35)
    a = rng.standard_normal((n_in, 16), dtype=np.float32) * np.float32(1e-35)
    w[:, 0], a[:, 0] = np.finfo(np.float32).max, 0.0
    z = np.full((513, 16), np.nan, dtype=np.float32)
    forward(w, a, z)
    assert np.isfinite(z).all()
    np.testing.assert_allclose(z, w.T.astype(float) @ a.astype(float), rtol=1e-4, atol=1e-3)


# What is kept on disk


def test_what_is_compiled_is_another_once_any_file_has_changed(tmp_path, monkeypatch):
    """Steps contain products: those of an older version must not be taken from the disk."""
    (tmp_path / "products.py").write_text("a = 1")
    before = compiler.state_of(tmp_path)
    compiler.state_of.cache_clear()
    (tmp_path / "products.py").write_text("a = 2")
    assert compiler.state_of(tmp_path) != before
    monkeypatch.setattr(compiler, "state_of", lambda folder: "other")

    def double(x):
        return 2.0 * x

    made = compiler.in_any_order(double)
    assert made(3.0) == 6.0
    assert made.py_func.__qualname__.endswith("double_other")
