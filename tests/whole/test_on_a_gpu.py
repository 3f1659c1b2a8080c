"""What only a GPU can show: kernels, copies and graphs at work. Run with --device cuda."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from arrays import host, readonly
from mpi import mpiexec

from mlp_xp import load
from mlp_xp.activations import ACTIVATIONS, Tanh
from mlp_xp.dropout import resolve_dropout
from mlp_xp.fast import ways
from mlp_xp.fast.cuda import graph
from mlp_xp.history import History
from mlp_xp.losses import LOSSES, GroupedCrossEntropy, Pinball, SoftmaxCrossEntropy
from mlp_xp.machine import cuda
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.cuda import memory
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, Adam, AdamW, Optimizer, RateFactors
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.own_rows import OwnRows
from mlp_xp.run.rates import Rates
from mlp_xp.schedules import Constant
from mlp_xp.training import train

RULES = [name for name, rule in OPTIMIZERS.items() if rule is not LBFGS]
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}  # the rounding of some thirty steps


@pytest.fixture
def gpu(device, monkeypatch):
    if device == "cpu":
        pytest.skip("needs a GPU: --device cuda")
    monkeypatch.setitem(LOSSES, "grouped", GroupedCrossEntropy)  # the estimators' own
    return device


def run(
    gpu,
    way,
    loss="squared_error",
    dtype="float64",
    *,
    epochs=3,
    n_rows=330,
    batch=32,
    resident=False,
    **named,
):
    """Losses and parameters of a training on the GPU."""
    rng = np.random.default_rng(6)
    x, weight = rng.normal(size=(n_rows, 20)), rng.uniform(0.5, 2, n_rows)
    loss = LOSSES[loss]() if isinstance(loss, str) else loss
    n_targets, n_outputs = named.pop("n_targets", 1), named.pop("n_outputs", 5 if loss.labels else 1)
    shape, members = (n_rows, n_targets), named.pop("members", None)
    of_each = rng.integers(0, 3, (n_rows, members)) if named.pop("weight_of_each", False) else None
    y = rng.integers(0, n_outputs // n_targets, shape) if loss.labels else rng.uniform(size=shape)
    network = Network(
        (20, *named.pop("hidden", (33, 17)), n_outputs),
        activation=named.pop("activation", "relu"),
        device=gpu,
        dtype=dtype,
        seed=1,
        members=members,
        input_scale=named.pop("input_scale", False),
    )
    data = tuple(map(readonly, (x, y, weight)))
    if resident:
        asarray = network.backend.asarray
        data = asarray(x), asarray(y, "int32" if loss.labels else None), asarray(weight)
    options = {"chunk_rows": named.pop("chunk_rows", 4096), "member_weight": of_each}
    loader = Loader(*data, batch_size=batch, seed=3, **options)
    losses = [
        epoch.train_loss
        for epoch in train(
            network, loader, loss=loss, max_epochs=epochs, way=way, **{"learning_rate": 0.01, **named}
        )
    ]
    return np.array(losses), host(network.parameters.flat)


def check_close(found, expected, dtype):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_activations_are_the_plain_ones(activation, dtype, gpu):
    named = {"activation": activation, "dtype": dtype, "dropout": 0.2}
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rule", RULES)
def test_fused_rules_are_the_plain_ones(rule, dtype, gpu):
    named = {"optimizer": rule, "dtype": dtype, "regularizer": ElasticNet(1e-3, 1e-3), "clip_norm": 1.0}
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("loss", LOSSES)
def test_fused_losses_are_the_plain_ones(loss, dtype, gpu):
    named = {"loss": loss, "dtype": dtype, "chunk_rows": 20}
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)
    del named["chunk_rows"]
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["quantiles", "several targets"])
def test_fused_losses_of_several_outputs_are_the_plain_ones(name, dtype, gpu):
    named = CAPTURED[name] | {"dtype": dtype}
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)


def test_the_gpu_trains_as_the_cpu_does(gpu):
    named = {"loss": "softmax_cross_entropy", "regularizer": ElasticNet(1e-3, 1e-3), "dropout": 0.2}
    check_close(run(gpu, "fast", **named), run("cpu", "plain", **named), "float64")


CAPTURED = {
    "plain": {},
    "classes": {"loss": "softmax_cross_entropy"},
    "everything": {
        "loss": "softmax_cross_entropy",
        "optimizer": "adamw",
        "regularizer": ElasticNet(1e-3, 1e-3),
        "dropout": 0.2,
        "clip_norm": 1.0,
        "schedule": "cosine",
        "activation": "gelu",
    },
    "huber": {"loss": "huber", "optimizer": "nesterov"},
    "poisson": {"loss": "poisson", "optimizer": "rmsprop"},
    "binary": {"loss": "binary_cross_entropy", "optimizer": "nadam", "activation": "silu"},
    "quantiles": {"loss": Pinball((0.1, 0.5, 0.9)), "n_outputs": 3},
    "several targets": {"loss": GroupedCrossEntropy((3, 2)), "n_outputs": 5, "n_targets": 2},
}


MEMBERS = {
    "members": {},
    "members with everything": CAPTURED["everything"],
    "members with their own": {
        "optimizer": [AdamW(weight_decay=decay) for decay in (0.0, 0.1, 0.5)],
        "learning_rate": [0.01, 0.02, 0.005],
        "regularizer": [ElasticNet(1e-3, 1e-3), None, ElasticNet(0.0, 1e-2)],
        "dropout": [(0.2, 0.1), (0.0, 0.0), (0.5, 0.3)],
        "clip_norm": [1.0, None, 0.1],
        "weight_of_each": True,
    },
}
CAPTURED |= {name: {**options, "members": 3} for name, options in MEMBERS.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", MEMBERS)
def test_fused_steps_of_members_are_the_plain_ones(name, dtype, gpu):
    named = CAPTURED[name] | {"dtype": dtype}
    check_close(run(gpu, "fused", **named), run(gpu, "plain", **named), dtype)


def test_members_have_rows_of_their_own(gpu):
    rng = np.random.default_rng(6)
    source = ArraySource(rng.normal(size=(120, 20)), rng.uniform(size=(120, 1)))
    found = []
    for way in ("fast", "plain"):
        network = Network((20, 33, 1), device=gpu, dtype="float64", seed=1, members=3)
        rows = Loader(
            OwnRows(source, np.repeat(range(3), (10, 50, 60)), 3, left_out=False), batch_size=16, seed=3
        )
        losses = [epoch.train_loss for epoch in train(network, rows, max_epochs=3, way=way)]
        found.append((np.array(losses), host(network.parameters.flat)))
    check_close(*found, "float64")


OF_MEMBERS = {
    "chunks": {"chunk_rows": 20},
    "frozen": {"frozen": [1]},
    "factors": {"rate_factors": RateFactors(biases=2.0)},
    "decay": {"optimizer": AdamW(weight_decay=0.1), "decay_schedule": "cosine"},
    "dropout's schedule": {"dropout": 0.3, "dropout_schedule": "cosine"},
    "several rules": {"optimizer": ["momentum", "nesterov", "rmsprop"], "chunk_rows": 20},
    "average": {"average": 0.5},
}


@pytest.mark.parametrize("way", ["fast", "fused"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", OF_MEMBERS)
def test_more_of_what_members_may_have(name, weighted, way, gpu):
    named = OF_MEMBERS[name] | {"members": 3, "weight_of_each": weighted, "loss": "softmax_cross_entropy"}
    check_close(run(gpu, way, **named), run(gpu, "plain", **named), "float64")


@pytest.mark.needs("sklearn")
def test_members_of_an_estimator_take_captured_steps(gpu, monkeypatch):
    from mlp_xp import MLPRegressor

    launches, launch = [], graph.Captured.launch
    monkeypatch.setattr(graph.Captured, "launch", lambda self: (launches.append(1), launch(self)))
    x = np.random.default_rng(1).normal(size=(90, 4))
    y, found = x[:, 0] - np.sin(x[:, 1]), []
    for device in (gpu, "cpu"):
        named = {"batch_size": 30, "max_iter": 8, "random_state": 0, "members": 3, "device": device}
        model = MLPRegressor(hidden_layer_sizes=(6, 5), **named)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 8 epochs are few
            found.append(model.fit(x, y).coefs_)
    assert len(launches) == 3 * 8 - 2
    check_close(*found, "float64")


class Reads(Tanh):
    """One whose derivative reads a number from the device, which no capture allows."""

    def derivative(self, backend, kept):
        float(kept[0, 0])
        return super().derivative(backend, kept)


def test_a_step_that_cannot_be_captured_is_launched_kernel_by_kernel(gpu, caplog):
    """It breaks off in the middle, when products have been begun aside."""
    named = {"activation": ["tanh", Reads()]}
    with caplog.at_level(logging.WARNING):
        check_close(run(gpu, "fast", **named), run(gpu, "plain", **named), "float64")
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "steps are launched kernel by kernel, since this one cannot be captured"
    ]


class Mine(Tanh):
    """One without kernels, whose way back consumes its output, which is a layer's input."""


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("more", [{"activation": Mine()}, {"input_scale": True}])
@pytest.mark.parametrize("hidden", [(33, 17), (9, 1, 6)])
def test_what_is_made_aside_reads_what_it_ought_to(hidden, more, members, gpu):
    named = {"hidden": hidden, "loss": "softmax_cross_entropy", "members": members, **more}
    plain = run(gpu, "plain", **named)
    for way in ("fast", "fused"):
        check_close(run(gpu, way, **named), plain, "float64")


def test_trainings_go_on_in_any_thread(gpu):
    """Each epoch in whichever thread is free, several trainings at once: the bits are those of one alone."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(330, 20)), rng.uniform(size=(330, 1))

    def begun(seed):
        network = Network((20, 33, 17, 1), device=gpu, seed=seed)
        return network, train(network, Loader(x, y, batch_size=32, seed=seed), max_epochs=6, dropout=0.2)

    alone = [begun(seed) for seed in range(4)]
    for _, epochs in alone:
        list(epochs)
    together = [begun(seed) for seed in range(4)]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(6):
            list(threads.map(lambda each: next(each[1]), together))
    for (one, _), (other, _) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(host(one.parameters.flat), host(other.parameters.flat))


def test_a_graphs_memory_is_given_back_on_its_device(gpu):
    """Whichever device is current then: a pool looks at that one alone, and leaks on the others."""
    import cupy

    network = Network((20, 33, 1), device=gpu)
    runtime, pool = network.backend.runtime, []

    def work():
        pool.append(cupy.cuda.get_allocator())
        return cupy.ones(2**20) * 2.0

    with runtime.working():
        work()
        captured = graph.Captured(runtime.compute, work)
        captured.launch()
    held = captured._pool
    with cupy.cuda.Device(len(cuda.devices()) - 1 - runtime.index):
        del captured
    with runtime.device:
        assert held.total_bytes() == 0


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_gives_the_same_bits(name, resident, dtype, gpu, monkeypatch, caplog):
    launches = []
    launch = graph.Captured.launch
    monkeypatch.setattr(graph.Captured, "launch", lambda self: (launches.append(1), launch(self)))
    named = {"dtype": dtype, "resident": resident} | CAPTURED[name]
    with caplog.at_level(logging.WARNING):
        captured, eager = run(gpu, "fast", **named), run(gpu, "fused", **named)
    assert [record.getMessage() for record in caplog.records] == []
    assert len(launches) == 3 * 10 - 2
    for one, other in zip(captured, eager, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_bits(gpu):
    for one, other in zip(run(gpu, "fast"), run(gpu, "fast"), strict=True):
        np.testing.assert_array_equal(one, other)


def allocations():
    """Counts what is taken from CuPy's pool inside."""
    import cupy

    class Count(cupy.cuda.MemoryHook):
        name = "mlp_xp allocations"
        n_blocks = 0

        def malloc_preprocess(self, **about):
            self.n_blocks += 1

    return Count()


@pytest.mark.parametrize("resident", [False, True])
def test_steps_take_no_memory(resident, gpu):
    """An epoch takes as many blocks from the pool however many steps it has."""
    taken = []
    for n_rows in (32 * 10, 32 * 100):
        rng = np.random.default_rng(1)
        network = Network((20, 64, 1), device=gpu)
        x, y = rng.normal(size=(n_rows, 20)), rng.normal(size=n_rows)
        if resident:
            x, y = network.backend.asarray(x), network.backend.asarray(y)
        epochs = train(
            network, Loader(x, y, batch_size=32), regularizer=ElasticNet(1e-3, 1e-3), clip_norm=1.0
        )
        next(epochs)
        with allocations() as count:
            next(epochs)
        taken.append(count.n_blocks)
    # Rows that are on the device are gathered in blocks of several steps, into new arrays.
    assert taken[1] - taken[0] <= (20 if resident else 0)


@pytest.mark.parametrize("together", [True, False])
def test_steps_do_not_wait_for_the_gpu(together, gpu):
    """CuPy refuses, inside a step, to read the device or to wait for it."""
    import cupyx

    rng = np.random.default_rng(2)
    x, y, weight = rng.normal(size=(330, 20)), rng.integers(0, 5, 330), rng.uniform(0.5, 2, 330)
    network = Network((20, 33, 17, 5), device=gpu, seed=1)
    backend = network.backend
    dropout = resolve_dropout(0.2, 2, 0)
    objective = Objective(network, SoftmaxCrossEntropy(), ElasticNet(1e-3, 1e-3), dropout)
    update = ways(backend.name)(objective, Optimizer(Adam(), network.parameters), 1.0)
    loader = Loader(x, y, weight, batch_size=32)
    with backend.runtime.working(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy deprecates what it has no other word for
        rates = Rates(1e-3, Constant(), History(max_epochs=1))
        for block in loader.blocks(0, backend, **objective.targets):
            while (n := rates.history.step) < block.n_batches:
                batch = block.batch(n)
                with cupyx.allow_synchronize(False):
                    n_made = update.at_once(block, n, 3, rates) if together else update(batch, n, 1e-3)
                assert n_made != 0
                rates.history.step += n_made if together else 1
        assert rates.history.step == loader.steps_per_epoch
        assert np.isfinite(objective.losses.objective())


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    "options", [{"batch_size": 8, "chunk_rows": 64}, {"batch_size": 1000, "chunk_rows": 300}]
)
def test_every_step_reads_its_own_rows(options, slow, gpu):
    """Rows carry their numbers; kernels that take long run before and after the sums over them."""
    n_rows, backend = 5_000, find_backend(gpu, "float64")
    x = np.repeat(np.arange(float(n_rows))[:, None], 500, axis=1)
    loader = Loader(
        x, np.arange(n_rows), batch_size=options["batch_size"], chunk_rows=options["chunk_rows"], seed=8
    )
    large = backend.ones((1500, 1500))
    for epoch in range(3):
        sums, lengths = [], []
        with backend.runtime.working():
            for step in loader.batches(epoch, backend):
                for chunk in step:
                    if slow and len(sums) % 7 == 0:
                        large @ large
                    sums.append(backend.xp.sum(chunk.x) + backend.xp.sum(chunk.y))
                    lengths.append(chunk.x.shape[0])
            found = np.array([float(each) for each in sums])
        order = np.asarray(loader.order(n_rows, 8, epoch)[0:n_rows])
        parts = np.split(order, np.cumsum(lengths)[:-1])
        np.testing.assert_array_equal(found, [501.0 * part.sum() for part in parts])


def test_memory_that_runs_out(gpu):
    """A step of all rows that does not fit is made in chunks, with the same result."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(4096, 64)), rng.normal(size=4096)
    found = []
    for limit in (None, "120MiB"):
        network = Network((64, 1024, 512, 1), device=gpu, dtype="float64", seed=2)
        try:
            if limit is not None:
                memory.limit(limit, int(network.backend.name.partition(":")[2]))
            loader = Loader(x, y, batch_size="full")
            epochs = train(network, loader, max_epochs=2, optimizer="sgd", learning_rate=1e-3)
            if limit is None:
                losses = [epoch.train_loss for epoch in epochs]
            else:
                with pytest.warns(UserWarning, match="rows at a time do not fit the memory of cuda"):
                    losses = [epoch.train_loss for epoch in epochs]
                assert loader.chunk_rows < 4096
        finally:
            memory.limit("100%", int(network.backend.name.partition(":")[2]))
        found.append((losses, host(network.parameters.flat)))
    check_close(*found, "float64")


@pytest.mark.needs("mpi4py")
@pytest.mark.parametrize("way", ["auto", "nccl", "host"])
def test_ranks_train_as_one_process_does(way, gpu, tmp_path, need):
    """On a machine with one GPU both share it, and their gradients go through the host."""
    if way == "nccl" and len(cuda.devices()) < 2:
        pytest.skip("NCCL needs two GPUs")
    if way == "nccl":
        need("nccl")
    options = ("-m", "mlp_xp", "train", "--epochs", "3", "--patience", "0", "--dtype", "float64", "--quiet")
    options += ("--device", "cuda", "--dropout", "0.2", "--all-reduce", way, "--out")
    found = []
    for n_ranks in (1, 2):
        done = mpiexec(n_ranks, *options, tmp_path / f"{n_ranks}.safetensors")
        assert done.returncode == 0, done.stderr
        found.append(load(tmp_path / f"{n_ranks}.safetensors").network.parameters.to_host())
    np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-10)
