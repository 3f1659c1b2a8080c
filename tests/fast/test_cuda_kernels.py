"""What the CUDA kernels compute, against the plain rules: their source runs on the host, as C++."""

import contextlib
import functools
import itertools
import sys
import threading
import typing
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import host
from stand_ins import host_kernels
from stand_ins.all_programs import ARGUMENTS, RULES
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import training_loop
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.dropout import Dropout
from mlp_xp.fast import programs
from mlp_xp.fast.cuda import engine as engine_room
from mlp_xp.fast.cuda import kernels
from mlp_xp.fast.cuda.engine import Engine, engine_of
from mlp_xp.fast.cuda.graph import Captured, NotCapturedError
from mlp_xp.fast.on_cuda import CudaStep
from mlp_xp.losses import LOSSES, GroupedCrossEntropy, Pinball, Pointwise, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.cuda import feeding
from mlp_xp.network import Network
from mlp_xp.optimizers import OPTIMIZERS, Optimizer, clip_by_global_norm
from mlp_xp.parameters import Parameters
from mlp_xp.regularizers import ElasticNet
from mlp_xp.rows.loader import Loader
from mlp_xp.settings.catalogue import resolve
from mlp_xp.step import Step
from mlp_xp.training import train

pytestmark = pytest.mark.skipif(host_kernels.compiler() is None, reason="needs a C++ compiler")

DTYPES = ("float32", "float64")
POINTWISE = [
    *(name for name, loss in LOSSES.items() if issubclass(loss, Pointwise) and loss is not Pinball),
    *("binary_cross_entropy:eps=0.1", "poisson:deviance=true"),
]
MAKERS = [value for name, value in vars(kernels).items() if name.endswith("_kernel")]


@pytest.fixture(scope="module", autouse=True)
def on_the_host(tmp_path_factory):
    """Every kernel of the room, made with a stand-in for CuPy and compiled together."""
    shop = host_kernels.Shop(tmp_path_factory.mktemp("kernels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", shop.cupy())
        for maker in MAKERS:
            maker.cache_clear()
            hints = typing.get_type_hints(maker.__wrapped__)
            hints.pop("return")
            combinations = itertools.product(*map(typing.get_args, hints.values()))
            for arguments in ARGUMENTS.get(maker.__name__, combinations):
                maker(*arguments)
        yield
    for maker in MAKERS:
        maker.cache_clear()


def close(found, expected, dtype, factor=1.0):
    tolerance = factor * {"float32": 3e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype, rng):
    backend, plain = find_backend("cpu", dtype), ACTIVATIONS[name]()
    there, back = programs.of_activation(plain, dtype)
    values = np.r_[rng.normal(size=60), [0.0, 1e-4, -1e-4, 30.0, -30.0, 200.0, -200.0, 1e30, -1e30, 3, -3, 1]]
    z = values.reshape(12, 6).astype(dtype)
    for biases in (rng.normal(size=6).astype(dtype), np.zeros(1, dtype)):
        a, expected = z.copy(), z.copy()
        kept, expected_kept = (None, None) if plain.keeps_output else (np.empty_like(z), np.empty_like(z))
        with np.errstate(all="ignore"):
            plain.activate(backend, expected, biases, expected_kept)
        kernels.activate(there, a, biases, kept)
        close(a, expected, dtype)
        for_predictions = z.copy()
        kernels.activate(there, for_predictions, biases, None)
        np.testing.assert_array_equal(for_predictions, a)
        delta = rng.normal(size=z.shape).astype(dtype)
        expected_delta = delta.copy()
        plain.chain(backend, expected_delta, expected.copy() if kept is None else expected_kept.copy())
        kernels.chain(back, delta, expected if kept is None else expected_kept)
        close(delta, expected_delta, dtype)
    broken = np.full((1, 6), np.nan, dtype)
    kernels.activate(there, broken, np.zeros(1, dtype), None)
    assert np.isnan(broken).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_rules(name, dtype, rng):
    backend, rule = find_backend("cpu", dtype), OPTIMIZERS[name]()
    parameters, gradient = (Parameters(backend, (5, 4, 2), True) for _ in range(2))
    parameters.flat[:] = rng.normal(size=parameters.size)
    p, optimizer = parameters.flat.copy(), Optimizer(rule, parameters)
    state = {each: np.zeros_like(p) for each in rule.state}
    for t in range(1, 6):
        gradient.flat[:] = rng.normal(size=p.size)
        scalars = np.zeros(kernels.N_SCALARS, dtype)
        program = programs.of_rule(rule)
        numbers = programs.numbers_of_step(rule, program, t, 0.05)
        scalars[: len(numbers)] = numbers
        vectors = (gradient.flat, parameters.n_weights, p, *state.values())
        kernels.update(program, bool(rule.weight_decay), scalars, *vectors)
        optimizer.step(gradient, 0.05)
        close(p, parameters.flat, dtype)
        for each, vector in state.items():
            close(vector, optimizer.state[each], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", POINTWISE)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_pointwise_losses(loss, n_outputs, dtype, rng):
    backend, loss, n_rows = find_backend("cpu", dtype), resolve("loss", LOSSES, loss), 9
    z = rng.normal(size=(n_rows, n_outputs)).astype(dtype)
    y = rng.uniform(size=(n_rows, n_outputs)).astype(dtype)
    z[0], z[1], z[2], y[3] = y[0], 30.0, -30.0, 0.0
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    program = programs.of_loss(loss, dtype)
    for s in (None, weight):
        delta, expected, values = z.copy(), z.copy(), np.full_like(z, np.nan)
        kernels.differentiate(program, delta, y, s, values)
        close(values.sum(), loss(backend, expected, y, s), dtype, factor=10)
        close(delta, expected, dtype, factor=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 10, 31, 32, 33, 100])
@pytest.mark.parametrize(("smoothing", "eps"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-6), (0.2, 1e-3)])
def test_cross_entropy(n_classes, smoothing, eps, dtype, rng):
    backend, n_rows = find_backend("cpu", dtype), 7
    z = (3 * rng.normal(size=(n_rows, n_classes))).astype(dtype)
    z[1] = 0.0  # all tie
    z[2, 0], z[3] = 80.0, -500.0
    y = rng.integers(0, n_classes, (n_rows, 1)).astype(np.int32)
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    loss = SoftmaxCrossEntropy(smoothing, eps)
    engine = object.__new__(Engine)
    for s in (None, weight):
        delta, expected, per_row = z.copy(), z.copy(), np.empty(n_rows, dtype)
        engine.cross_entropy(delta, y, s, (n_classes,), smoothing, eps, per_row)
        value = loss(backend, expected, y, s)
        close(per_row.sum(), value, dtype, factor=10)
        close(delta, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [(3,), (2, 40, 3), (5, 2)])
@pytest.mark.parametrize(("smoothing", "eps"), [(0.0, 0.0), (0.1, 0.0), (0.2, 1e-3)])
def test_cross_entropy_of_several_targets(groups, smoothing, eps, dtype, rng):
    backend, n_rows = find_backend("cpu", dtype), 6
    z = (3 * rng.normal(size=(n_rows, sum(groups)))).astype(dtype)
    y = np.stack([rng.integers(0, size, n_rows) for size in groups], axis=1).astype(np.int32)
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    loss, engine = GroupedCrossEntropy(groups, smoothing, eps), object.__new__(Engine)
    for s in (None, weight):
        delta, expected, per_row = z.copy(), z.copy(), np.full(n_rows, np.nan, dtype)
        engine.cross_entropy(delta, y, s, groups, smoothing, eps, per_row)
        value = loss(backend, expected, y, s)
        close(per_row.sum(), value, dtype, factor=10)
        close(delta, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantiles", [(0.5,), (0.1, 0.5, 0.95)])
@pytest.mark.parametrize("n_targets", [1, 3])
def test_pinball(n_targets, quantiles, dtype, rng):
    backend, n_rows, loss = find_backend("cpu", dtype), 9, Pinball(quantiles)
    z = rng.normal(size=(n_rows, n_targets * len(quantiles))).astype(dtype)
    y, weight = (rng.uniform(0.5, 2, (n_rows, n)).astype(dtype) for n in (n_targets, 1))
    z[0] = np.repeat(y[0], len(quantiles))  # exactly met: the derivative is 0
    for s in (None, weight):
        delta, expected, per_output = z.copy(), z.copy(), np.full_like(z, np.nan)
        kernels.pinball(delta, y, s, np.array(quantiles, dtype), per_output)
        value = loss(backend, expected, y, s)
        close(per_output.sum(), value, dtype, factor=10)
        close(delta, expected, dtype)
        assert not delta[0].any()
    z[1, 0] = np.nan
    kernels.pinball(z, y, None, np.array(quantiles, dtype), per_output)
    assert np.flatnonzero(np.isnan(per_output).any(axis=1)).tolist() == [1]


def test_cross_entropy_keeps_what_is_not_a_number():
    z = np.zeros((3, 4), "float64")
    z[1, 2] = np.nan
    y, per_row = np.zeros((3, 1), np.int32), np.empty(3)
    kernels.cross_entropy(z, y, None, (4,), 0.0, None, per_row)
    np.testing.assert_array_equal(np.isnan(per_row), [False, True, False])
    np.testing.assert_array_equal(np.isnan(z).all(axis=1), [False, True, False])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [0, 1, 2**31, 2**40 + 7])
@pytest.mark.parametrize("seed", [0, 12345, 2**40 + 3])
def test_dropout_masks_are_the_same(step, seed, dtype):
    backend, dropout = find_backend("cpu", dtype), Dropout((0.3, 0.5), seed)
    counters = np.array([step, 0])
    for layer, first_row in ((0, 0), (1, 0), (1, 1000), (0, 2**31 - 5)):
        mask = np.empty((33, 21), dtype)
        threshold, factor = dropout.threshold(layer)
        kernels.dropout_mask(mask, counters, seed, layer, first_row, threshold, factor)
        np.testing.assert_array_equal(mask, dropout.mask(backend, mask.shape, step, layer, first_row))
    assert 0 < (mask == 0).mean() < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 255, 70_001])
def test_penalties_and_norms(size, dtype, rng):
    backend = find_backend("cpu", dtype)
    w, sums = rng.normal(size=size).astype(dtype), kernels.Sums(np.dtype(dtype))
    w[:1] = 0.0
    penalty = ElasticNet(0.3, 0.2)
    close(sums.penalty(w, 0.3, 0.2), penalty.value(backend, w), dtype, factor=10)
    gradient, expected = rng.normal(size=(2, size)).astype(dtype)
    expected[:] = gradient
    kernels.penalty_gradient(w, gradient, np.array([0.7], dtype), 0.3, 0.2)
    penalty.add_gradient(backend, w, expected, 0.7)
    close(gradient, expected, dtype)
    for limit in (1e-3, 1e6):
        parameters = Parameters(backend, (size, 1), False)
        parameters.flat[:] = gradient
        clipped = gradient.copy()
        sums.clip(clipped, limit)
        clip_by_global_norm(parameters, limit)
        close(clipped, parameters.flat, dtype, factor=10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_step_begins_with_its_rows_and_numbers(weighted, labels, dtype, rng):
    x = rng.normal(size=(300, 70)).astype(dtype)
    y = rng.integers(0, 9, (300, 1)).astype("int32" if labels else dtype)
    sources = (x, y, rng.normal(size=(300, 1)).astype(dtype) if weighted else None)
    targets = tuple(None if each is None else np.zeros_like(each) for each in sources)
    scalars, counters = np.zeros(kernels.N_SCALARS, dtype), np.zeros(2, np.int64)
    numbers = tuple(rng.normal(size=kernels.N_SCALARS))
    kernels.begin_step(sources, targets, scalars, numbers, counters, 2**40, 77)
    for source, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(source, target)
    np.testing.assert_array_equal(scalars, np.array(numbers, dtype))
    assert counters.tolist() == [2**40, 77]
    kernels.begin_step((None,) * 3, (None,) * 3, scalars, numbers[::-1], counters, 3, 4)
    np.testing.assert_array_equal(scalars, np.array(numbers[::-1], dtype))
    np.testing.assert_array_equal(targets[0], x)
    waiting = np.zeros(9, dtype)
    kernels.record(np.array(1.5, dtype), np.array(2.5, dtype), counters, waiting)
    assert waiting[3:7].tolist() == [0.0, 1.5, 2.5, 0.0]
    kernels.record(np.array(3.5, dtype), None, counters, waiting)
    assert waiting[3:7].tolist() == [0.0, 3.5, 2.5, 0.0]


# A whole training with these kernels


class HostEngine(Engine):
    """The real engine, but for streams, cuBLAS and capture."""

    def __init__(self, dtype):
        stand_in = StandInEngine(dtype)
        self.sums = kernels.Sums(np.dtype(dtype))
        self.scalars, self.counters = np.zeros(kernels.N_SCALARS, dtype), np.zeros(2, np.int64)
        self.inverse = self.scalars[kernels.INVERSE : kernels.INVERSE + 1]
        self.penalty, self.clip, self.number = self.sums.penalty, self.sums.clip, -1
        self.writer = stand_in.writer
        stand_in.scalars = self.scalars
        self.capture = functools.partial(StandInEngine.capture, self)
        self.captures, self.calls, self.graphs = True, [], 0

    def is_current(self):
        return True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_training_with_all_of_it(rule, dtype, rng, monkeypatch):
    x, y, weight = rng.normal(size=(46, 4)), rng.integers(0, 3, 46), rng.uniform(0.5, 2, 46)
    found, engine = [], HostEngine(dtype)
    monkeypatch.setattr(
        training_loop,
        "ways",
        lambda name, way, **_: Step if way == "plain" else functools.partial(CudaStep, engine=engine),
    )
    for way in ("plain", "fast"):
        network = Network((4, 6, 5, 3), activation=["gelu", "elu"], dtype=dtype, seed=3)
        losses = [
            (epoch.train_loss, epoch.validation_loss)
            for epoch in train(
                network,
                Loader(x, y, weight, batch_size=10, seed=1),
                loss="softmax_cross_entropy",
                optimizer=rule,
                learning_rate=0.01,
                regularizer=ElasticNet(1e-3, 1e-3),
                dropout=0.2,
                clip_norm=1.0,
                validation=Loader(x, y, batch_size=16),
                max_epochs=3,
                way=way,
            )
        ]
        found.append((np.array(losses), host(network.parameters.flat)))
    for plain, fused in zip(*found, strict=True):
        close(fused, plain, dtype, factor=100)
    assert engine.graphs == 1


# Everything together: streams, staging, engine and update as they are, on a machine that does all at once


class OnDevice(np.ndarray):
    """An array as CuPy has it, with `set`."""

    def set(self, host, stream):
        self[...] = host


class AtOnce:
    """A stream or an event of a machine that has always done all its work."""

    ptr = 77

    def __init__(self, **options):
        pass

    def record(self, stream=None):
        return self

    def wait_event(self, event):
        pass

    synchronize = begin_capture = lambda self: None

    def end_capture(self):
        raise RuntimeError("not here")

    __enter__ = record

    def __exit__(self, *error):
        pass


class Product:
    """cuBLAS, as far as it is a product."""

    def __init__(self, stream):
        self.stream = stream

    def __call__(self, out, a, b):
        np.matmul(a, b, out=out)


@pytest.fixture
def backend_of_a_machine(monkeypatch):
    cupy = sys.modules["cupy"]

    class Device(contextlib.nullcontext):
        id = 0

        def __init__(self, index=0):
            super().__init__()

        def use(self):
            pass

        synchronize = use

    stream = AtOnce()
    cuda = SimpleNamespace(
        Device=Device,
        Stream=AtOnce,
        Event=AtOnce,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        using_allocator=lambda malloc: contextlib.nullcontext(),
        get_current_stream=lambda: stream,
        runtime=SimpleNamespace(CUDARuntimeError=RuntimeError, memGetInfo=lambda: (2**30, 2**30)),
    )
    both = SimpleNamespace(**vars(cupy), cuda=cuda)
    both.empty = lambda shape, dtype: np.empty(shape, dtype).view(OnDevice)
    pool = dict.fromkeys(("total_bytes", "used_bytes", "free_bytes", "get_limit"), lambda: 0)
    both.get_default_memory_pool = lambda: SimpleNamespace(**pool)
    monkeypatch.setitem(sys.modules, "cupy", both)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    monkeypatch.setattr(engine_room, "Gemm", Product)

    def make(dtype):
        return Backend(np, "cpu", dtype, "cuda:0", runtime=feeding.Streams(0))

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"batch_size": 10}, {"batch_size": 16, "chunk_rows": 6}])
def test_the_whole_way_of_a_row(options, dtype, rng, backend_of_a_machine, monkeypatch, caplog):
    monkeypatch.setattr(Captured, "__init__", _refuse)
    x, y, weight = rng.normal(size=(46, 4)), rng.integers(0, 3, 46), rng.uniform(0.5, 2, 46)
    found = []
    for way, device in (("plain", "cpu"), ("fast", backend_of_a_machine(dtype))):
        network = Network((4, 6, 5, 3), activation=["gelu", "elu"], device=device, dtype=dtype, seed=3)
        loader = Loader(x, y, weight, seed=1, **options)
        losses = [
            (epoch.train_loss, epoch.validation_loss)
            for epoch in train(
                network,
                loader,
                loss="softmax_cross_entropy",
                learning_rate=0.01,
                regularizer=ElasticNet(1e-3, 1e-3),
                dropout=0.2,
                clip_norm=1.0,
                validation=Loader(x, y, batch_size=16),
                max_epochs=3,
                way=way,
            )
        ]
        found.append((np.array(losses), host(network.parameters.flat)))
    for plain, fast in zip(*found, strict=True):
        close(fast, plain, dtype, factor=100)
    expected = ["a reason"] if "chunk_rows" not in options else []
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == expected


def _refuse(captured, stream, run):
    raise NotCapturedError("a reason")


def test_a_thread_has_one_engine_for_each_device_and_dtype(monkeypatch):
    monkeypatch.setattr(engine_room, "Engine", lambda streams, dtype: [streams, dtype])
    streams, others = object(), []
    thread = threading.Thread(target=lambda: others.append(engine_of(streams, "float32")))
    thread.start()
    thread.join()
    assert engine_of(streams, "float32") is engine_of(streams, "float32")
    assert engine_of(streams, "float64") == [streams, "float64"]
    assert others[0] is not engine_of(streams, "float32")
