"""What the CUDA kernels compute, against the plain rules: their source runs on the host, as C++."""

import contextlib
import dataclasses
import functools
import itertools
import sys
import threading
import typing
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from arrays import host
from stand_ins import host_kernels
from stand_ins.all_programs import ARGUMENTS, RULES
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import training_loop
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.dropout import Dropout
from mlp_xp.fast import on_cuda, programs
from mlp_xp.fast.cuda import engine as engine_room
from mlp_xp.fast.cuda import kernels
from mlp_xp.fast.cuda.engine import Engine, engine_of
from mlp_xp.fast.cuda.graph import Captured, NotCapturedError
from mlp_xp.fast.on_cuda import CudaStep, FusedDropout
from mlp_xp.losses import LOSSES, GroupedCrossEntropy, Pinball, Pointwise, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Backend
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.cuda import feeding
from mlp_xp.machine.symbolic import Program
from mlp_xp.members.pieces import EachDropout
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
        patch.setattr(kernels, "address", lambda array: array.ctypes.data)
        for maker in MAKERS:
            maker.cache_clear()
            hints = typing.get_type_hints(maker.__wrapped__)
            hints.pop("return")
            combinations = itertools.product(*map(typing.get_args, hints.values()))
            for arguments in ARGUMENTS.get(maker.__name__, combinations):
                maker(*arguments)
        yield shop
    for maker in MAKERS:
        maker.cache_clear()


COUNTERS = np.zeros(kernels.N_COUNTERS, np.int64)


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
        kernels.chain(back, delta, expected if kept is None else expected_kept, COUNTERS)
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
        scalars = np.zeros((1, kernels.N_SCALARS), dtype)
        program = programs.of_rule(rule)
        numbers = programs.numbers_of_step(rule, program, t, 0.05)
        scalars[0, : len(numbers)] = numbers
        vectors = (gradient.flat, parameters.n_weights, p, *state.values())
        kernels.update(program, scalars, *vectors)
        optimizer.step(gradient, 0.05)
        close(p, parameters.flat, dtype)
        for each, vector in state.items():
            close(vector, optimizer.state[each], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", POINTWISE)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_pointwise_losses(loss, n_outputs, dtype, rng):
    loss, n_rows = resolve("loss", LOSSES, loss), 9
    z = rng.normal(size=(n_rows, n_outputs)).astype(dtype)
    y = rng.uniform(size=(n_rows, n_outputs)).astype(dtype)
    z[0], z[1], z[2], y[3] = y[0], 30.0, -30.0, 0.0
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    program = programs.of_loss(loss, dtype)
    check_loss(lambda kernel, *arrays: kernel.differentiate(program, *arrays), loss, z, y, weight)


def check_loss(run, loss, z, y, weight):
    """δ, biases before it, the factor behind it, and the sum, against the plain loss."""
    dtype = z.dtype.name
    factor, biases = np.array([[0.7]], dtype), np.linspace(-0.5, 1, z.shape[1]).astype(dtype)
    kernel = kernels.Loss(z.dtype, factor)
    for s, b in itertools.product((None, weight), (None, biases)):
        delta, expected = z.copy(), z + (0 if b is None else b)
        value = run(kernel, delta, b, y, s)
        assert (value.shape, value.dtype) == ((), z.dtype)
        close(value, loss(find_backend("cpu", dtype), expected, y, s), dtype, factor=10)
        close(delta, 0.7 * expected, dtype, factor=2)


def of_cross_entropy(loss, groups):
    engine, ends = object.__new__(Engine), np.cumsum(groups).astype(np.int32)

    def run(kernel, *arrays):
        engine._cross_entropy = kernel.cross_entropy
        return engine.cross_entropy(ends, loss.label_smoothing, loss.eps, *arrays)

    return run


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_classes", [2, 10, 31, 32, 33, 100])
@pytest.mark.parametrize(("smoothing", "eps"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-6), (0.2, 1e-3)])
def test_cross_entropy(n_classes, smoothing, eps, dtype, rng):
    n_rows = 20  # of two blocks of threads, and half a one
    z = (3 * rng.normal(size=(n_rows, n_classes))).astype(dtype)
    z[1] = 0.0  # all tie
    z[2, 0], z[3] = 80.0, -500.0
    y = rng.integers(0, n_classes, (n_rows, 1)).astype(np.int32)
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    loss = SoftmaxCrossEntropy(smoothing, eps)
    check_loss(of_cross_entropy(loss, (n_classes,)), loss, z, y, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [(3,), (2, 40, 3), (5, 2)])
@pytest.mark.parametrize(("smoothing", "eps"), [(0.0, 0.0), (0.1, 0.0), (0.2, 1e-3)])
def test_cross_entropy_of_several_targets(groups, smoothing, eps, dtype, rng):
    n_rows = 6
    z = (3 * rng.normal(size=(n_rows, sum(groups)))).astype(dtype)
    y = np.stack([rng.integers(0, size, n_rows) for size in groups], axis=1).astype(np.int32)
    weight = rng.uniform(0.5, 2, (n_rows, 1)).astype(dtype)
    loss = GroupedCrossEntropy(groups, smoothing, eps)
    check_loss(of_cross_entropy(loss, groups), loss, z, y, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantiles", [(0.5,), (0.1, 0.5, 0.95)])
@pytest.mark.parametrize("n_targets", [1, 3])
def test_pinball(n_targets, quantiles, dtype, rng):
    n_rows, loss, q = 9, Pinball(quantiles), np.array(quantiles, dtype)
    z = rng.normal(size=(n_rows, n_targets * len(quantiles))).astype(dtype)
    y, weight = (rng.uniform(0.5, 2, (n_rows, n)).astype(dtype) for n in (n_targets, 1))
    check_loss(lambda kernel, *arrays: kernel.pinball(q, *arrays), loss, z, y, weight)
    kernel = kernels.Loss(z.dtype, np.ones((1, 1), dtype))
    z[0] = np.repeat(y[0], len(quantiles))  # exactly met: the derivative is 0
    met = z.copy()
    kernel.pinball(q, met, None, y, None)
    assert not met[0].any()
    assert np.isfinite(kernel.value)
    z[1, 0] = np.nan
    assert np.isnan(kernel.pinball(q, z, None, y, None))


def test_sums_are_over_all_blocks_and_always_the_same(rng):
    """More values than one pass of all threads takes; what has arrived is counted from zero every time."""
    z, y = rng.normal(size=(2, 70_001, 1)).astype("float32")
    program, kernel = (
        programs.of_loss(LOSSES["squared_error"](), "float32"),
        kernels.Loss(z.dtype, np.ones((1, 1), "f")),
    )
    found = [float(kernel.differentiate(program, z.copy(), None, y, None)) for _ in range(3)]
    assert len(set(found)) == 1
    np.testing.assert_allclose(found[0], np.sum((z.astype(float) - y) ** 2), rtol=1e-6)


def test_cross_entropy_keeps_what_is_not_a_number():
    z = np.zeros((3, 4), "float64")
    z[1, 2] = np.nan
    run = of_cross_entropy(SoftmaxCrossEntropy(), (4,))
    assert np.isnan(run(kernels.Loss(z.dtype, np.ones((1, 1))), z, None, np.zeros((3, 1), np.int32), None))
    np.testing.assert_array_equal(np.isnan(z).all(axis=1), [False, True, False])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [0, 1, 2**31, 2**40 + 7])
@pytest.mark.parametrize("seed", [0, 12345, 2**40 + 3])
def test_dropout_is_the_same_both_ways(step, seed, dtype, rng):
    backend, dropout = find_backend("cpu", dtype), Dropout((0.3, 0.5), seed)
    chain = programs.of_activation(ACTIVATIONS["tanh"](), dtype).chain
    on = SimpleNamespace(backend=backend, activations=None, members=None)
    for layer, first_row in ((0, 0), (1, 0), (1, 1000), (0, 2**31 - 5)):
        counters, drops = np.array([step, 0, 0, first_row, 1]), FusedDropout(dropout, None, on).drops[layer]
        a, delta = rng.uniform(-1, 1, (2, 33, 21)).astype(dtype)
        mask, dropped = dropout.mask(backend, a.shape, step, layer, first_row), np.empty_like(a)
        kernels.drop(a, dropped, counters, drops)
        np.testing.assert_array_equal(dropped, a * mask)
        expected = delta * (1 - a * a) * mask
        kernels.chain(chain, delta, a, counters, drops=drops)
        close(delta, expected, dtype)
    assert 0 < (mask == 0).mean() < 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (70, 33), (kernels.SUMMED_ROWS, 64), (3000, 40)])
def test_derivatives_are_summed_and_made_of_a_product(shape, dtype, rng):
    chain = programs.of_activation(ACTIVATIONS["tanh"](), dtype).chain
    a, delta = rng.uniform(-1, 1, (2, *shape)).astype(dtype)
    column, row = rng.normal(size=(shape[0], 1)).astype(dtype), rng.normal(size=(1, shape[1])).astype(dtype)
    for product in (None, (column, row)):
        found, sums = delta.copy(), np.ones(shape[1], dtype)
        expected = (delta if product is None else column * row) * (1 - a * a)
        if shape[0] > kernels.SUMMED_ROWS:
            kernels.chain(chain, found, a, COUNTERS, product=product)
        else:
            kernels.chain(chain, found, a, COUNTERS, product=product, sums=sums)
            close(sums, expected.sum(axis=0), dtype, factor=10)
            again = delta.copy()
            kernels.chain(chain, again, a, COUNTERS, product=product, sums=sums, adds=True)
            close(sums, 2 * expected.sum(axis=0), dtype, factor=20)
        close(found, expected, dtype)


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
        sums.clip(clipped, np.array([limit], dtype))
        clip_by_global_norm(parameters, limit)
        close(clipped, parameters.flat, dtype, factor=10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_steps_that_are_begun_together_take_their_rows_and_numbers_in_turn(weighted, labels, dtype, rng):
    n_steps, n_rows, waiting = 3, 100, np.zeros(20, dtype)
    x = rng.normal(size=(n_steps * n_rows, 70)).astype(dtype)
    y = rng.integers(0, 9, (len(x), 1)).astype("int32" if labels else dtype)
    sources = (x, y, rng.normal(size=(len(x), 1)).astype(dtype) if weighted else None)
    targets = tuple(None if each is None else np.zeros_like(each[:n_rows]) for each in sources)
    table = np.zeros(kernels.ROOM // np.dtype(dtype).itemsize, dtype)
    scalars = np.zeros((1, kernels.N_SCALARS), dtype)
    addresses, counters = np.zeros(6, np.int64), np.zeros(kernels.N_COUNTERS, np.int64)
    numbers = rng.normal(size=(n_steps, 1, kernels.N_SCALARS)).astype(dtype)
    kernels.begin_steps(sources, numbers, table, addresses, counters, 2**40, 7, 55)
    assert counters.tolist() == [2**40, 7, 0, 55, 1]
    for step in range(n_steps):
        kernels.take_step(targets, addresses, counters, table, scalars)
        for source, target in zip(sources, targets, strict=True):
            if source is not None:
                np.testing.assert_array_equal(source[step * n_rows :][:n_rows], target)
        np.testing.assert_array_equal(scalars, numbers[step])
        value, penalty = np.array(step + 1.5, dtype), np.array(2.5, dtype)
        kernels.end_step(value, penalty if weighted else None, counters, waiting)
        assert counters.tolist() == [2**40 + step + 1, 7 + (step + 1) * (1 + weighted), step + 1, 55, 1]
    expected = [1.5, 2.5, 2.5, 2.5, 3.5, 2.5] if weighted else [1.5, 2.5, 3.5]
    np.testing.assert_array_equal(waiting[7:-1], expected + [0.0] * (12 - len(expected)))


# The same of members: each one's bits are those that it would have alone

K = 3


def with_gaps(rng, dtype, *shape):
    """Arrays of members, with something between one's and the next one's."""
    return rng.uniform(0.1, 1.0, (K, shape[0] + 2, *shape[1:])).astype(dtype)[:, : shape[0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_activations_of_members(name, dtype, rng):
    plain, both = ACTIVATIONS[name](), programs.of_activation(ACTIVATIONS[name](), dtype)
    z, delta, kept = (with_gaps(rng, dtype, 70, 33) for _ in range(3))
    biases, row, column = (with_gaps(rng, dtype, *shape) for shape in ((1, 33), (1, 33), (70, 1)))
    sums, counters = with_gaps(rng, dtype, 1, 33), np.array([5, 0, 0, 9, 1])
    own = [Dropout((0.0, 0.3), n) for n in range(K)]
    backend = find_backend("cpu", dtype)
    drops = []
    for each, members in ((EachDropout(own), K), *((one, None) for one in own)):
        on = SimpleNamespace(backend=backend, activations=[], members=members)
        drops.append(FusedDropout(each, None, on).drops[1])
    of = (both.forward, z, biases, kept, both.chain, delta, column, row, sums)
    alone = [[part if isinstance(part, Program) else part[n].copy() for part in of] for n in range(K)]
    for each, (there, z_, b, kept_, back, delta_, *product, sums_) in zip(drops, [of, *alone], strict=True):
        kernels.activate(there, z_, b if b.ndim == 3 else b[0], None if plain.keeps_output else kept_)
        kernels.chain(
            back, delta_, kept_, counters,
            product=tuple(product), sums=sums_ if sums_.ndim == 3 else sums_[0], adds=True, drops=each,
        )  # fmt: skip
        kernels.drop(z_, dropped := np.zeros(z_.shape, dtype), counters, each)
        z_[...] = dropped
    for n, (_, z_, _, kept_, _, delta_, _, _, sums_) in enumerate(alone):
        for together, one in ((z, z_), (kept, kept_), (delta, delta_), (sums, sums_)):
            np.testing.assert_array_equal(together[n], one)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("which", ["pointwise", "pinball", "cross_entropy"])
def test_losses_of_members(which, shared, dtype, rng):
    """Targets are for all, or each one's own; weights are for all, each one's own, or its rows' own."""
    z, biases = with_gaps(rng, dtype, 40, 6), with_gaps(rng, dtype, 1, 6)
    factor = with_gaps(rng, dtype, 4, 16)[:, :1, 15:]
    y = with_gaps(rng, dtype, 40, {"pointwise": 6, "pinball": 2, "cross_entropy": 1}[which])
    y = (6 * y).astype(np.int32) if which == "cross_entropy" else y
    y = y[0] if shared else y
    by_row = rng.uniform(0.5, 2, (40, K)).astype(dtype)
    for weight in (None, by_row[:, :1].copy(), by_row.T[..., None], with_gaps(rng, dtype, 40, 1)):
        found = []
        for of in (slice(None), *range(K)):
            own = [
                part[of].copy() if isinstance(of, int) and getattr(part, "ndim", 0) == 3 else part
                for part in (y, weight)
            ]
            kernel = kernels.Loss(z.dtype, factor[of].copy())
            run = {
                "pointwise": functools.partial(
                    kernel.differentiate, programs.of_loss(LOSSES["huber"](), dtype)
                ),
                "pinball": functools.partial(kernel.pinball, np.array([0.1, 0.5, 0.9], dtype)),
                "cross_entropy": functools.partial(
                    kernel.cross_entropy, np.array([6], np.int32), 0.1, (1e-6, 10.0)
                ),
            }[which]
            delta = np.full((K, 44, 6), np.nan, dtype)[of][..., :40, :]
            delta[...] = z[of]
            found.append(
                (np.copy(run(delta, biases[of] if of == slice(None) else biases[of][0], *own)), delta)
            )
        (values, deltas), *alone = found
        for n, (value, delta) in enumerate(alone):
            np.testing.assert_array_equal(values[n], value)
            np.testing.assert_array_equal(deltas[n], delta)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_vectors_of_members(rule, dtype, rng):
    """One whose 1 / Σ s_i is 0 does not move."""
    program, n_state = programs.of_rule(OPTIMIZERS[rule]()), len(OPTIMIZERS[rule].state)
    p, g, *state = rng.uniform(0.1, 1, (2 + n_state, K, 700)).astype(dtype)
    scalars = rng.uniform(0.1, 0.5, (K, kernels.N_SCALARS)).astype(dtype)
    scalars[1, kernels.INVERSE] = 0.0
    limits = np.array([0.1, 1.0, 100.0], dtype)
    of = (slice(None), *(slice(n, n + 1) for n in range(K)))
    found = []
    for each in of:
        is_all = each == slice(None)
        own_p, own_g, *own_state = ((part if is_all else part[each][0]).copy() for part in (p, g, *state))
        sums = kernels.Sums(np.dtype(dtype), K if is_all else None)
        penalty = np.copy(sums.penalty(own_p[..., :500], 0.3, 0.2))
        inverse = scalars[each, kernels.INVERSE :]
        kernels.penalty_gradient(own_p[..., :500], own_g[..., :500], inverse, 0.3, 0.2)
        sums.clip(own_g, limits[each])
        if is_all or each.start != 1:
            kernels.update(program, scalars[each], own_g, 500, own_p, *own_state)
        found.append((penalty, own_p, own_g, *own_state))
    for n, alone in enumerate(found[1:]):
        for together, one in zip(found[0], alone, strict=True):
            np.testing.assert_array_equal(together[n], one)
    np.testing.assert_array_equal(found[0][1][1], p[1])


@pytest.mark.parametrize("own_numbers", [True, False])
@pytest.mark.parametrize("own_rows", [True, False])
def test_steps_of_members_take_their_rows_and_numbers_in_turn(own_numbers, own_rows, rng):
    """Of many members with numbers of their own these need several launches."""
    k, n_steps, n_rows = 20, 3, 10
    x = rng.normal(size=(k, 40, 7))[:, : n_steps * n_rows] if own_rows else rng.normal(size=(30, 7))
    weight = rng.normal(size=(k, 50, 1))[:, : n_steps * n_rows] if own_rows else rng.normal(size=(30, k))
    targets = tuple(np.zeros((*each.shape[:-2], n_rows, each.shape[-1])) for each in (x, weight))
    table, scalars = np.zeros(kernels.at_once(8) * k * kernels.N_SCALARS), np.zeros((k, kernels.N_SCALARS))
    addresses, counters = np.zeros(6, np.int64), np.zeros(kernels.N_COUNTERS, np.int64)
    numbers = rng.normal(size=(n_steps, k if own_numbers else 1, kernels.N_SCALARS))
    kernels.begin_steps((x, None, weight), numbers, table, addresses, counters, 4, 2, 0)
    waiting = np.zeros((20, k))
    for step in range(n_steps):
        kernels.take_step((targets[0], None, targets[1]), addresses, counters, table, scalars)
        for source, target in zip((x, weight), targets, strict=True):
            np.testing.assert_array_equal(source[..., step * n_rows :, :][..., :n_rows, :], target)
        np.testing.assert_array_equal(scalars, np.broadcast_to(numbers[step], scalars.shape))
        kernels.end_step(np.arange(k) + 1.0, np.arange(k) + 50.0, counters, waiting)
    np.testing.assert_array_equal(waiting[2:8], np.tile([np.arange(k) + 1.0, np.arange(k) + 50.0], (3, 1)))


# A whole training with these kernels


class Queue:
    """A stream of a machine that does all at once: it knows how many launches come one after the other."""

    def __init__(self):
        self.in_a_row, self.ptr = 0, id(self)

    def launched(self):
        self.in_a_row += 1

    def record(self, event):
        event.in_a_row = self.in_a_row
        return event

    def wait_event(self, event):
        self.in_a_row = max(self.in_a_row, event.in_a_row)


class HostEngine(Engine):
    """The real engine, but for streams, cuBLAS and capture."""

    def __init__(self, dtype, monkeypatch, shop, members=None):
        self.stream, self.side = Queue(), Queue()
        monkeypatch.setattr(shop, "on_launch", self.stream.launched)
        monkeypatch.setattr(engine_room, "_event", SimpleNamespace)
        self._make_buffers(np.dtype(dtype), members)
        self.gemm, self.gemm_aside = Product(self.stream), Product(self.side)
        self.captures, self.calls, self.graphs, self.lengths = True, [], 0, []

    def is_current(self):
        return True

    def capture(self, run):
        def measured():
            before = self.stream.in_a_row
            value = run()
            self.lengths.append(self.stream.in_a_row - before)
            return value

        return StandInEngine.capture(self, measured)


class Counted(np.ndarray):
    """An array of which every function of the library is a launch."""

    on_launch = None

    def __array_ufunc__(self, function, method, *inputs, out=(), **options):
        Counted.on_launch()
        inputs = [np.asarray(each) if isinstance(each, Counted) else each for each in inputs]
        if out:
            options["out"] = tuple(np.asarray(each) for each in out)
        found = getattr(function, method)(*inputs, **options)
        return out[0] if out else np.asarray(found).view(Counted)


def counting(make):
    return lambda shape, dtype, device: make(shape, dtype).view(Counted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "bias", "options", "most"),
    [
        ((4, 3, 2, 1), False, {"activation": "tanh", "loss": "half_squared_error", "optimizer": "sgd"}, 12),
        ((4, 3, 2, 1), True, {"activation": "tanh", "loss": "half_squared_error", "optimizer": "adam"}, 12),
        ((4, 3, 2, 1), True, {"dropout": 0.5}, 14),
        ((32, 100, 1), True, {}, 9),
        ((20, 30, 20, 10), True, {"loss": "softmax_cross_entropy"}, 13),
        ((20, 30, 20, 20, 20, 10), True, {"loss": "softmax_cross_entropy"}, 21),
    ],
)
def test_launches_of_a_captured_step_in_a_row(
    sizes, bias, options, most, dtype, monkeypatch, on_the_host, rng
):
    """What waits for one another; derivatives with respect to the parameters are made aside."""
    engine = HostEngine(dtype, monkeypatch, on_the_host)
    monkeypatch.setattr(Counted, "on_launch", engine.stream.launched)
    network = Network(sizes, activation=options.pop("activation", "relu"), bias=bias, dtype=dtype, seed=3)
    counted = ModuleType("counted")
    vars(counted).update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
    for name in ("empty", "zeros", "ones"):
        vars(counted)[name] = counting(vars(np)[name])
    network.backend = dataclasses.replace(network.backend, xp=counted)
    monkeypatch.setattr(training_loop, "ways", lambda *_, **__: functools.partial(CudaStep, engine=engine))
    x, y = rng.normal(size=(40, sizes[0])), rng.integers(0, sizes[-1], 40)
    for _ in train(network, Loader(x, y, batch_size=10), max_epochs=2, **options):
        pass
    assert len(engine.lengths) == 2 * 4 - 2
    assert set(engine.lengths) == {most}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_training_with_all_of_it(rule, dtype, rng, monkeypatch, on_the_host):
    x, y, weight = rng.normal(size=(46, 4)), rng.integers(0, 3, 46), rng.uniform(0.5, 2, 46)
    found, engine = [], HostEngine(dtype, monkeypatch, on_the_host)
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


def test_a_step_that_breaks_off_leaves_nothing_behind(rng, monkeypatch, on_the_host):
    """What it has begun aside is over before anything that comes next, in memory that is free now."""
    engine, chain = HostEngine("float64", monkeypatch, on_the_host), Engine.chain

    def interrupted(*given):
        if engine.stream.in_a_row > 12:
            raise KeyboardInterrupt
        chain(engine, *given)

    monkeypatch.setattr(engine, "chain", interrupted)
    monkeypatch.setattr(training_loop, "ways", lambda *_, **__: functools.partial(CudaStep, engine=engine))
    network = Network((4, 6, 5, 3), activation="tanh", dtype="float64", seed=3)
    with pytest.raises(KeyboardInterrupt):
        list(train(network, Loader(rng.normal(size=(46, 4)), rng.normal(size=(46, 3)), batch_size=10)))
    assert engine._readers == {}
    assert engine.stream.in_a_row >= engine.side.in_a_row > 0
    found = []
    for way in (functools.partial(CudaStep, engine=engine), Step):
        monkeypatch.setattr(engine, "chain", functools.partial(chain, engine))
        monkeypatch.setattr(training_loop, "ways", lambda *_, way=way, **__: way)
        again = Network((4, 6, 5, 3), activation="tanh", dtype="float64", seed=3)
        rows = Loader(np.linspace(-1, 1, 80).reshape(20, 4), np.ones((20, 3)), batch_size=10)
        found.append(next(train(again, rows)).train_loss)
    close(*found, "float64", factor=100)


def test_units_that_a_schedule_drops_count_for_no_bias(rng, monkeypatch, on_the_host):
    """The kernel that sums derivatives knows of them."""
    engine, found = HostEngine("float64", monkeypatch, on_the_host), []
    x, y = rng.normal(size=(46, 4)), rng.normal(size=46)
    fused = functools.partial(CudaStep, engine=engine, schedules_more=True)
    for way in (Step, fused):
        monkeypatch.setattr(training_loop, "ways", lambda *_, way=way, **__: way)
        network = Network((4, 6, 5, 1), activation=["gelu", "elu"], dtype="float64", seed=3)
        named = {"dropout": 0.3, "dropout_schedule": "cosine", "max_epochs": 3, "learning_rate": 0.01}
        losses = [epoch.train_loss for epoch in train(network, Loader(x, y, batch_size=10), **named)]
        found.append((np.array(losses), host(network.parameters.flat)))
    close(found[1][0], found[0][0], "float64", factor=100)
    close(found[1][1], found[0][1], "float64", factor=100)


def test_a_captured_step_of_members_has_no_more_launches_in_a_row(monkeypatch, on_the_host, rng):
    engine = HostEngine("float32", monkeypatch, on_the_host, K)
    monkeypatch.setattr(on_cuda, "engine_of", lambda *_: engine)
    device = Backend(np, "cpu", "float32", "cuda:0")
    network = Network((4, 3, 2, 1), activation="tanh", device=device, seed=3, members=K)
    loader = Loader(rng.normal(size=(40, 4)), rng.normal(size=40), batch_size=10)
    for _ in train(network, loader, loss="half_squared_error", max_epochs=2):
        pass
    assert set(engine.lengths) == {12}
    assert len(engine.lengths) == 2 * 4 - 2


OF_MEMBERS = {
    "steps": ({}, 3),  # whole ones; a chunk and the update, where a member has no rows
    "chunks": ({"chunk_rows": 4}, 3),  # the first chunk, further ones, the update
    "dropout's schedule": ({"dropout_schedule": "cosine"}, 0),
}
"""More of what members may have, and how many graphs are captured."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["momentum", "adamw"])
@pytest.mark.parametrize("name", OF_MEMBERS)
def test_a_training_of_members_with_all_of_it(name, rule, dtype, rng, monkeypatch, on_the_host):
    """In the first two batches of each epoch one has no rows."""
    more, n_graphs = OF_MEMBERS[name]
    x, y, weight = rng.normal(size=(46, 4)), rng.integers(0, 3, 46), rng.integers(1, 3, (46, K))
    weight[:20, 1] = 0
    rows = Loader(
        x,
        y,
        batch_size=10,
        chunk_rows=more.get("chunk_rows"),
        order="sequential",
        member_weight=weight,
    )
    more = {option: value for option, value in more.items() if option != "chunk_rows"}
    found, engine = [], HostEngine(dtype, monkeypatch, on_the_host, K)
    monkeypatch.setattr(on_cuda, "engine_of", lambda *_: engine)
    device = Backend(np, "cpu", dtype, "cuda:0")
    for way in ("plain", "fast"):
        network = Network((4, 6, 5, 3), activation=["gelu", "elu"], device=device, seed=3, members=K)
        epochs = train(
            network,
            rows,
            loss="softmax_cross_entropy",
            learning_rate=[0.01, 0.02, 0.005],
            regularizer=ElasticNet(1e-3, 1e-3),
            dropout=[(0.2, 0.1), (0.0, 0.0), (0.5, 0.3)],
            clip_norm=[1.0, 0.1, None],
            max_epochs=3,
            way=way,
            **{"optimizer": rule} | more,
        )
        losses = [[member.train_loss for member in epoch.members] for epoch in epochs]
        found.append((np.array(losses), host(network.parameters.flat)))
    for plain, fused in zip(*found, strict=True):
        close(fused, plain, dtype, factor=100)
    assert engine.graphs == n_graphs


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

    def __call__(self, out, a, b, *, add=False):
        getattr(self.stream, "launched", int)()
        out[...] = np.asarray(a) @ np.asarray(b) + (np.asarray(out) if add else 0)


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
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["a reason"]


def _refuse(captured, stream, run):
    raise NotCapturedError("a reason")


def test_a_thread_has_one_engine_for_each_device_and_dtype(monkeypatch):
    monkeypatch.setattr(engine_room, "Engine", lambda streams, dtype, members: [streams, dtype, members])
    streams, others = object(), []
    thread = threading.Thread(target=lambda: others.append(engine_of(streams, "float32")))
    thread.start()
    thread.join()
    assert engine_of(streams, "float32") is engine_of(streams, "float32")
    assert engine_of(streams, "float64") == [streams, "float64", None]
    assert engine_of(streams, "float64", 3) == [streams, "float64", 3]
    assert others[0] is not engine_of(streams, "float32")
