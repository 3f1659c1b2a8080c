"""Dropout masks: rates, independence, and that chunks and backends do not matter."""

import itertools
import math

import numpy as np
import pytest
from arrays import host
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from mlp_xp.dropout import Dropout, _mix, _mix_host, resolve_dropout
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import LOSSES
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network
from mlp_xp.objective import Objective

CPU = find_backend("cpu", "float64")
SHAPE = (400, 300)


def kept(rate=0.5, shape=SHAPE, *, seed=0, step=0, layer=0, first_row=0):
    """Which units survive, as booleans."""
    masks = Dropout((rate,) * (layer + 1), seed)
    return masks.mask(CPU, shape, step, layer, first_row) > 0


def assert_chi_square(statistic, degrees):
    """Within five standard deviations of what chance gives."""
    assert abs(statistic - degrees) < 5 * math.sqrt(2 * degrees)


def assert_independent(first, second, rate):
    """Two masks agree as often as chance has it: the 2 × 2 table of both, with known margins."""
    n, q = first.size, 1 - rate
    for a, p_a in ((True, q), (False, rate)):
        for b, p_b in ((True, q), (False, rate)):
            p = p_a * p_b
            count = np.count_nonzero((first == a) & (second == b))
            assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_rate_and_scale(rate):
    mask = Dropout((rate,)).mask(CPU, SHAPE, 3, 0, 0)
    np.testing.assert_array_equal(np.unique(mask), [0, 1 / (1 - rate)])
    deviation = math.sqrt(rate * (1 - rate) / mask.size)
    assert abs(np.mean(mask == 0) - rate) < 5 * deviation
    assert abs(mask.mean() - 1) < 5 * deviation / (1 - rate)  # what passes on is the same on average


@pytest.mark.parametrize("rate", [1 - 1e-9, 1 - 1e-12, math.nextafter(1, 0)])
def test_a_rate_next_to_one_drops_next_to_everything(rate):
    assert not kept(rate).any()


def test_a_rate_next_to_zero_drops_next_to_nothing():
    assert kept(1e-12).all()


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_every_row_and_every_unit_is_dropped_at_the_rate(rate):
    dropped = ~kept(rate)
    for axis, n in ((0, SHAPE[0]), (1, SHAPE[1])):
        counts = dropped.sum(axis=axis)
        statistic = ((counts - n * rate) ** 2).sum() / (n * rate * (1 - rate))
        assert_chi_square(statistic, counts.size)


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 64, 128, 256])
def test_rows_and_units_are_independent(rate, lag):
    mask = kept(rate)
    assert_independent(mask[lag:], mask[:-lag], rate)
    assert_independent(mask[:, lag:], mask[:, :-lag], rate)
    assert_independent(mask[lag:, lag:], mask[:-lag, :-lag], rate)


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 255, 2**16, 2**32, 2**32 + 1])
def test_steps_and_seeds_are_independent(rate, lag):
    mask = kept(rate)
    assert_independent(mask, kept(rate, step=lag), rate)
    assert_independent(mask, kept(rate, seed=lag), rate)
    # Not the same rows a few positions on, either.
    for shift in (1, 2, 5):
        assert_independent(mask[shift:], kept(rate, step=lag)[:-shift], rate)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_layers_are_independent(rate):
    layers = [kept(rate, layer=layer) for layer in range(4)]
    for i in range(4):
        for j in range(i):
            assert_independent(layers[i], layers[j], rate)
    assert_independent(kept(rate, step=1, layer=0), kept(rate, step=0, layer=1), rate)
    assert_independent(kept(rate, seed=1, step=0), kept(rate, seed=0, step=1), rate)


def test_patterns_of_eight_come_equally_often():
    along_units = kept()[:, :296].reshape(-1, 8)
    along_rows = kept().T.reshape(-1, 8)
    along_steps = np.stack([kept(shape=(100, 100), step=step).ravel() for step in range(8)], axis=1)
    for bits in (along_units, along_rows, along_steps):
        counts = np.bincount(bits @ (1 << np.arange(8)), minlength=256)
        expected = len(bits) / 256
        assert_chi_square(((counts - expected) ** 2 / expected).sum(), 255)


def test_four_corners_of_a_rectangle_are_independent():
    # A hash that only adds a row's and a unit's part would make the fourth follow from three.
    mask = kept()
    for rows, units in ((1, 1), (3, 5), (64, 128)):
        odd = mask[rows:, units:] ^ mask[:-rows, units:] ^ mask[rows:, :-units] ^ mask[:-rows, :-units]
        assert abs(odd.mean() - 0.5) < 5 * 0.5 / math.sqrt(odd.size)


def test_one_unit_over_many_steps_is_dropped_at_the_rate():
    for unit in (0, 1):
        dropped = [not kept(0.3, (1, 2), step=step)[0, unit] for step in range(4000)]
        assert abs(np.mean(dropped) - 0.3) < 5 * math.sqrt(0.21 / 4000)


@settings(max_examples=40, deadline=None)
@given_any(
    cuts=st.lists(st.integers(0, 50), max_size=6),
    n_units=st.integers(1, 9),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**64 - 1),
    first_row=st.integers(0, 2**33),
)
def test_chunks_of_a_batch_get_the_rows_of_its_mask(cuts, n_units, step, seed, first_row):
    masks = Dropout((0.4,), seed)
    whole = masks.mask(CPU, (50, n_units), step, 0, first_row)
    bounds = sorted({0, 50, *cuts})
    parts = [
        masks.mask(CPU, (stop - start, n_units), step, 0, first_row + start)
        for start, stop in itertools.pairwise(bounds)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_same_mask_on_every_backend(backend):
    masks = Dropout((0.1, 0.4), seed=2**35 + 5)
    here = masks.mask(backend, (33, 21), 123_456, 1, 2**31 - 10)
    on_cpu = masks.mask(CPU.with_dtype(backend.dtype_name), (33, 21), 123_456, 1, 2**31 - 10)
    assert here.dtype == backend.dtype
    np.testing.assert_array_equal(host(here), on_cpu)


def test_device_and_host_scramble_alike_and_one_to_one(backend):
    numbers = np.concatenate([np.arange(5000), [2**31 - 1, -1, -(2**31), 0x1234567]])
    scrambled = host(_mix(backend.asarray(numbers, "int32")))
    np.testing.assert_array_equal(scrambled.astype(np.uint32), [_mix_host(int(number)) for number in numbers])
    assert np.unique(scrambled).size == np.unique(numbers).size


def test_forward_multiplies_hidden_outputs_only(device):
    network = Network((3, 8, 6, 2), activation="tanh", device=device, dtype="float64")
    masks, backend, memo = Dropout((0.5, 0.25), 9), network.backend, Memo(network, 5)
    x = np.random.default_rng(0).normal(size=(5, 3))
    z = host(forward(network, backend.asarray(x), memo, masks, 4, 10))
    a = x
    for layer in range(3):
        a = a @ host(network.parameters.weights[layer])
        if layer < 2:
            a = np.tanh(a) * masks.mask(CPU, a.shape, 4, layer, 10)
    np.testing.assert_allclose(z, a, rtol=1e-12)


def test_prediction_drops_nothing(device):
    network = Network((3, 8, 2), device=device)
    x = np.ones((4, 3))
    np.testing.assert_array_equal(network.predict(x), network.predict(x))


def test_one_rate_for_all_or_one_for_each():
    assert resolve_dropout(0.5, 3, 7) == Dropout((0.5, 0.5, 0.5), 7)
    assert resolve_dropout([0.1, 0], 2, 7) == Dropout((0.1, 0.0), 7)
    assert resolve_dropout(0, 3, 7) is None
    assert resolve_dropout((0.0, 0.0), 2, 7) is None
    assert resolve_dropout(0.0, 0, 7) is None


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (1.0, "dropout=1.0 must be a finite number >= 0 and < 1"),
        (-0.1, "dropout=-0.1"),
        ([0.5], "dropout has 1 rates, but this network has 2 hidden layers"),
        ([2, -1], "dropout=2 .*\ndropout=-1"),
        (None, "dropout=None"),
    ],
)
def test_bad_rates_are_refused(rates, message):
    with pytest.raises(ValueError, match=message):
        resolve_dropout(rates, 2, 0)


def test_what_is_no_longer_dropped_is_not_left_out_on_the_way_back():
    """A schedule may end at 0: the masks of the step before must not meet the derivatives of this one."""
    network = Network((3, 4, 1), seed=0, dtype="float64")
    objective = Objective(network, LOSSES["squared_error"]())
    x = np.random.default_rng(0).normal(size=(6, 3))
    found = []
    for dropout in (None, Dropout((0.5,)), Dropout((0.0,)), None):
        objective.dropout = dropout
        objective.add_chunk(x, x[:, :1], None, None, 0, 0, add=False)
        found.append(objective.gradient.flat.copy())
    assert not np.array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_array_equal(found[3], found[0])


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
@pytest.mark.parametrize("first", [0, 2**32 - 2])
def test_many_steps_are_drawn_as_one_by_one(seed, first):
    dropout, factors = Dropout((0.3, 0.0, 0.999), seed), np.array([1.0, 0.5, 0.0, 1.0])
    for step, of_step in enumerate(dropout.of_steps(first, factors)):
        own = dropout.times(float(factors[step]))
        for layer, rate in enumerate(own.rates):
            one = (*own.keys(first + step, layer), *own.threshold(layer)) if rate else (0, 0, 0, 0)
            assert tuple(of_step[layer]) == one
