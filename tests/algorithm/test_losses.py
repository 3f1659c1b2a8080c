"""Every loss with its link: value and δ to the last digits, also at |z| = 1e4; weights; outputs."""

import math

import numpy as np
import pytest
from arrays import host, readonly, tolerance
from drawn import drawn, sizes_of, targets
from oracles import exact

from mlp_xp import losses
from mlp_xp.losses import (
    LINKS,
    LOSSES,
    BinaryCrossEntropy,
    GroupedCrossEntropy,
    GroupedSoftmaxLink,
    Huber,
    IdentityLink,
    Pinball,
    Poisson,
    SoftmaxCrossEntropy,
    SortedLink,
    SquaredError,
)
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.own import check_loss
from mlp_xp.settings import fields
from mlp_xp.settings.catalogue import resolve

CPU = find_backend("cpu", "float64")
DTYPES = ("float32", "float64")
ALL_LOSSES = {**LOSSES, "grouped_cross_entropy": GroupedCrossEntropy}
# Each loss, some with more than their defaults: name, parameters, targets of one row, outputs.
ROWS = [(name, {}, *sizes_of(loss())) for name, loss in LOSSES.items()] + [
    ("huber", {"delta": 0.25}, 1, 1),
    ("pinball", {"quantiles": (0.125, 0.5, 0.75)}, 2, 6),
    ("poisson", {"deviance": True}, 2, 2),
    ("binary_cross_entropy", {}, 1, 1),
    ("binary_cross_entropy", {"label_smoothing": 0.125}, 2, 2),
    ("softmax_cross_entropy", {"label_smoothing": 0.125}, 1, 4),
    ("grouped_cross_entropy", {"groups": (2, 3)}, 2, 5),
]


def test_every_name_has_an_oracle():
    assert ALL_LOSSES.keys() == exact.LOSSES.keys()
    classes = {c for c in vars(losses).values() if hasattr(c, "check_targets")}
    assert classes - {losses.Loss, losses.Pointwise} == set(ALL_LOSSES.values())


@pytest.mark.parametrize("name", LOSSES)
def test_delta_is_the_derivative_of_the_value_whatever_its_numbers(name, rng):
    """By differences of the value, but for an ε: it bounds the value alone."""
    kind = LOSSES[name]
    alone = {"eps": 0.0} if "eps" in fields.of(kind) else {}
    for _ in range(20):
        check_loss(drawn(kind, rng, **alone))


def make(name, parameters):
    return resolve("loss", ALL_LOSSES, {"name": name, **parameters})


def dtype_of(loss):
    return "int32" if loss.labels else None


def differentiate(loss, backend, given, z, y, weight=None):
    """Value and δ as host numbers; y and weight are arrays that nobody may write."""
    z = backend.asarray(z)
    s = None if weight is None else given(np.reshape(weight, (-1, 1)))
    value = loss(backend, z, given(y, dtype_of(loss)), s)
    assert value.shape == ()
    assert value.dtype == z.dtype == backend.dtype
    assert value.device == z.device
    return float(host(value)), host(z)


@pytest.mark.parametrize(("name", "parameters", "n_targets", "n_outputs"), ROWS)
def test_value_and_delta(name, parameters, n_targets, n_outputs, backend, given, rng):
    loss = make(name, parameters)
    z = rng.normal(scale=2.0, size=(6, n_outputs)).astype("float32")
    y = targets(rng, loss, (6, n_targets), n_outputs)
    expected = [exact.loss(name, *row, **parameters) for row in zip(z, y, strict=True)]
    values, deltas = zip(*expected, strict=True)
    value, delta = differentiate(loss, backend, given, z, y)
    assert value == pytest.approx(math.fsum(values), rel=tolerance(backend, 1e-14, 1e-6))
    np.testing.assert_allclose(delta, deltas, rtol=tolerance(backend, 1e-13, 1e-5), atol=1e-7)


@pytest.mark.parametrize(("name", "parameters", "n_targets", "n_outputs"), ROWS)
def test_weights_multiply_rows(name, parameters, n_targets, n_outputs, backend, given, rng):
    loss = make(name, parameters)
    z = rng.normal(size=(4, n_outputs))
    y = targets(rng, loss, (4, n_targets), n_outputs)
    weight = np.array([0.5, 0.0, 2.0, 1.25])
    rows = [differentiate(loss, backend, given, z[i : i + 1], y[i : i + 1]) for i in range(4)]
    value, delta = differentiate(loss, backend, given, z, y, weight)
    rtol = tolerance(backend, 1e-14, 1e-6)
    assert value == pytest.approx(sum(s * v for s, (v, _) in zip(weight, rows, strict=True)), rel=rtol)
    expected = [s * d[0] for s, (_, d) in zip(weight, rows, strict=True)]
    np.testing.assert_allclose(delta, expected, rtol=rtol)
    ones = differentiate(loss, backend, given, z, y, np.ones(4))
    none = differentiate(loss, backend, given, z, y)
    assert ones[0] == pytest.approx(none[0], rel=rtol)
    np.testing.assert_array_equal(ones[1], none[1])


# Exactness from logits. One row at a time: in a sum the large ones would hide the small ones.

LOGITS = [0.0, 1e-6, 0.5, 3.0, 20.0, 37.5, 88.0, 90.0, 104.0, 709.0, 746.0, 1e4]


def agree(given, expected, dtype, scale=0.0):
    """Relative to the value, down to the smallest normal number (or to `scale`)."""
    rtol = 1e-14 if dtype == "float64" else 4e-6
    atol = max(2 * float(np.finfo(dtype).smallest_normal), scale * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol)


def dtypes_of(backend):
    return [dtype for dtype in DTYPES if dtype == "float32" or backend.dtype_name == dtype]


@pytest.mark.parametrize("z", [s * z for z in LOGITS for s in (1, -1)])
def test_binary_cross_entropy_is_exact_from_logits(z, backend, given):
    for dtype in dtypes_of(backend):
        there, z = backend.with_dtype(dtype), float(np.dtype(dtype).type(z))
        for y in (0.0, 1.0, 0.25):
            expected, (slope,) = exact.loss("binary_cross_entropy", [z], [y])
            value, delta = differentiate(BinaryCrossEntropy(), there, there.asarray, [[z]], [[y]])
            agree(value, expected, dtype)
            # With y strictly between, δ = σ(z) − y crosses zero: its error is one of y.
            agree(delta[0, 0], slope, dtype, scale=0.0 if y in (0.0, 1.0) else 2.0)


SCORES = [
    (0.0, 0.0, 0.0),
    (1e4, 0.0, -1e4),
    (-1e4, -1e4, -1e4),
    (1e4, 1e4, 1e4),
    (1e4, 1e4, 0.0),
    (1e4, 1e4 - 32.0, 1e4 - 64.0),
    (-1e4, -1e4 + 1.0, -1e4 + 17.0),
    (50.0, 0.0, 0.5),
    (0.25, 88.0, -5.0),
    (700.0, -3.0, 20.0),
    (2.0, 2.0 + 2**-10, -1.0),
]


@pytest.mark.parametrize("smoothing", [0.0, 0.125])
@pytest.mark.parametrize("z", SCORES)
def test_softmax_cross_entropy_is_exact_from_logits(z, smoothing, backend):
    loss = SoftmaxCrossEntropy(label_smoothing=smoothing)
    for dtype in dtypes_of(backend):
        there = backend.with_dtype(dtype)
        for y in range(3):
            expected, slopes = exact.loss("softmax_cross_entropy", z, [y], label_smoothing=smoothing)
            value, delta = differentiate(loss, there, there.asarray, [z], [[y]])
            agree(value, expected, dtype)
            # With smoothing, p − t crosses zero: its error is one of t.
            agree(delta[0], slopes, dtype, scale=2.0 if smoothing else 0.0)
            assert np.isfinite([value, *delta[0]]).all()


@pytest.mark.parametrize("n_classes", [1, 2, 1000])
def test_softmax_cross_entropy_of_many_classes(n_classes, backend, given):
    value, delta = differentiate(
        SoftmaxCrossEntropy(), backend, given, np.zeros((2, n_classes)), np.zeros((2, 1))
    )
    rtol = tolerance(backend, 1e-13, 1e-6)
    assert value == pytest.approx(2 * math.log(n_classes), rel=rtol)
    np.testing.assert_allclose(delta[:, 0], 1 / n_classes - 1, rtol=rtol, atol=1e-15)
    np.testing.assert_allclose(delta[:, 1:], 1 / n_classes, rtol=rtol)


@pytest.mark.parametrize("name", ["squared_error", "absolute_error", "huber", "pinball"])
@pytest.mark.parametrize("z", [1e4, -1e4])
def test_errors_are_exact_at_large_z(name, z, backend, given):
    expected, (slope,) = exact.loss(name, [z], [0.5])
    value, delta = differentiate(make(name, {}), backend, given, [[z]], [[0.5]])
    assert value == pytest.approx(expected, rel=tolerance(backend, 1e-15, 1e-7))
    assert delta[0, 0] == pytest.approx(slope, rel=tolerance(backend, 1e-15, 1e-7))


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 88.7), ("float64", 709.7)])
def test_poisson_is_infinite_only_where_the_rate_is(dtype, largest, backend):
    if dtype not in dtypes_of(backend):
        return
    there = backend.with_dtype(dtype)
    for z in (-1e4, -largest, 0.0, largest):
        z = float(np.dtype(dtype).type(z))
        for y in (0.0, 3.0):
            expected, (slope,) = exact.loss("poisson", [z], [y])
            value, delta = differentiate(Poisson(), there, there.asarray, [[z]], [[y]])
            rtol = (2 + abs(z)) * float(np.finfo(dtype).eps)  # e^z doubles the error of z
            assert value == pytest.approx(expected, rel=rtol, abs=1e-37)
            assert delta[0, 0] == pytest.approx(slope, rel=rtol, abs=1e-37)
    with np.errstate(over="ignore"):
        for z in (largest + 0.2, 1e4):
            value, delta = differentiate(Poisson(), there, there.asarray, [[z]], [[3.0]])
            assert value == math.inf
            assert delta[0, 0] == math.inf


def test_the_deviance_is_zero_where_the_rate_is_right(backend, given):
    y = np.array([[0.5, 1.0, 2.0, 7.0]])
    value, _ = differentiate(Poisson(deviance=True), backend, given, np.log(y), y)
    assert value == pytest.approx(0.0, abs=tolerance(backend, 1e-14, 1e-5))


@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("z", [-1e4, -3.0, 0.5, 1e4])
def test_a_bounded_probability_bounds_the_value_and_leaves_delta(y, z, backend, given):
    eps = 2.0**-10
    p = 1 / (1 + np.exp(-z)) if z > -1e3 else 0.0
    expected = -math.log(np.clip(p if y else 1 - p, eps, 1 - eps))
    _, free = differentiate(BinaryCrossEntropy(), backend, given, [[z]], [[y]])
    value, delta = differentiate(BinaryCrossEntropy(eps=eps), backend, given, [[z]], [[y]])
    assert value == pytest.approx(expected, rel=tolerance(backend, 1e-12, 1e-5))
    np.testing.assert_array_equal(delta, free)
    _, free = differentiate(SoftmaxCrossEntropy(), backend, given, [[0.0, z]], [[y]])
    value, delta = differentiate(SoftmaxCrossEntropy(eps=eps), backend, given, [[0.0, z]], [[y]])
    assert value == pytest.approx(expected, rel=tolerance(backend, 1e-12, 1e-5))
    np.testing.assert_array_equal(delta, free)


# Ties, groups, statistics


@pytest.mark.parametrize("loss", [make("absolute_error", {}), Pinball((0.25,)), Huber()])
def test_a_residual_of_zero_pulls_nowhere(loss, backend, given):
    value, delta = differentiate(loss, backend, given, [[2.0]], [[2.0]])
    assert value == 0.0
    assert delta[0, 0] == 0.0


def test_pinball_groups_outputs_by_target(backend, given):
    """Column t · n_quantiles + q."""
    quantiles = (0.25, 0.5, 0.875)
    y = np.array([[10.0, -10.0]])
    z = np.zeros((1, 6))
    value, delta = differentiate(Pinball(quantiles), backend, given, z, y)
    np.testing.assert_allclose(delta, [[-0.25, -0.5, -0.875, 0.75, 0.5, 0.125]])
    assert value == pytest.approx(10 * sum(quantiles) + 10 * sum(1 - q for q in quantiles))


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_pinball_is_least_at_the_quantile(q, rng):
    y = np.sort(rng.normal(size=(999, 1)), axis=0)
    loss = Pinball(q)

    def mean(z):
        return float(loss(CPU, np.full_like(y, z), y, None))

    at = y[round(q * 999 - 0.5), 0]
    assert mean(at) < min(mean(at - 0.05), mean(at + 0.05))


def test_the_median_is_half_the_absolute_error(backend, given, rng):
    z, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    half, halves = differentiate(Pinball(), backend, given, z, y)
    whole, wholes = differentiate(make("absolute_error", {}), backend, given, z, y)
    assert half == pytest.approx(whole / 2)
    np.testing.assert_allclose(halves, wholes / 2)


def test_outputs_each():
    assert SquaredError().n_outputs(3, None) == 3
    assert Pinball((0.1, 0.5, 0.9)).n_outputs(2, None) == 6
    assert SoftmaxCrossEntropy().n_outputs(1, 7) == 7
    assert BinaryCrossEntropy().n_outputs(4, None) == 4


# Links


def test_every_link_is_of_a_loss():
    used = {make(name, parameters).link.__class__ for name, parameters, *_ in ROWS}
    assert used == set(LINKS.values())


@pytest.mark.parametrize("name", ["identity", "logistic", "softmax", "exp"])
def test_links_are_exact(name, backend):
    for dtype in dtypes_of(backend):
        there = backend.with_dtype(dtype)
        z = np.array([[0.0, 1.0, -2.0], [30.0, -80.0, 87.0], [-1e4, -1e4, -1e4 + 2]])
        z = z.astype(dtype)
        expected = [exact.link(name, row) for row in z]
        predictions = host(LINKS[name]()(there, there.asarray(z)))
        assert predictions.dtype == dtype
        np.testing.assert_allclose(
            predictions,
            expected,
            rtol=200 * float(np.finfo(dtype).eps),
            atol=2 * float(np.finfo(dtype).smallest_normal),
        )


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_probabilities_at_the_ends(name, backend):
    z = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]])
    p = host(LINKS[name]()(backend, backend.asarray(z)))
    together = [0.5, 0.5] if name == "softmax" else [1.0, 1.0]
    np.testing.assert_allclose(p, [[1.0, 0.0], [0.0, 1.0], together], atol=1e-37)


def test_probabilities_of_each_group_are_a_softmax(backend, rng):
    z = rng.normal(size=(4, 5))
    p = host(GroupedSoftmaxLink((2, 3))(backend, backend.asarray(z)))
    expected = [exact.link("softmax", row[:2]) + exact.link("softmax", row[2:]) for row in z]
    np.testing.assert_allclose(p, expected, rtol=tolerance(backend))


def test_quantiles_are_sorted_for_each_target(backend, given):
    z = [[3.0, 1.0, 2.0, -1.0, -3.0, -2.0], [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]]
    predictions = host(SortedLink(3)(backend, given(z)))
    np.testing.assert_array_equal(
        predictions, [[1.0, 2.0, 3.0, -3.0, -2.0, -1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    )
    np.testing.assert_array_equal(host(SortedLink(1)(backend, given(z))), z)
    assert Pinball((0.1, 0.9)).link == SortedLink(2)
    assert SquaredError().link == IdentityLink()


# What is refused


@pytest.mark.parametrize(
    ("given_loss", "sign"),
    [
        ("huber:delta=0", "delta"),
        ("huber:delta=-1", "delta"),
        ("pinball:quantiles=0/0.5", "quantiles"),
        ("pinball:quantiles=0.9/0.1", "ascending"),
        ("pinball:quantiles=0.5/0.5", "ascending"),
        ("softmax_cross_entropy:label_smoothing=1", "label_smoothing"),
        ("squared_eror", "did you mean 'squared_error'"),
        ("huber:detla=1", "did you mean 'delta'"),
    ],
)
def test_refused_losses(given_loss, sign):
    with pytest.raises(ValueError, match=sign):
        resolve("loss", LOSSES, given_loss)


@pytest.mark.parametrize(
    ("loss", "y", "n_outputs", "sign"),
    [
        (SquaredError(), [[1.0, 2.0]], 1, "2 target columns"),
        (Pinball((0.1, 0.9)), [[1.0]], 1, "2 outputs"),
        (Poisson(), [[1.0], [-2.0]], 1, "row 1, column 0 has -2"),
        (BinaryCrossEntropy(), [[1.0, 0.5], [0.0, 2.0]], 2, "row 1, column 1 has 2"),
        (SoftmaxCrossEntropy(), [[0], [3]], 3, "row 1 has 3"),
        (SoftmaxCrossEntropy(), [[-1]], 3, "row 0 has -1"),
        (SoftmaxCrossEntropy(), [[0.0], [0.5]], 3, "row 1 has 0.5"),
        (SoftmaxCrossEntropy(), [[0, 1]], 3, "2 columns"),
        (GroupedCrossEntropy((2, 3)), [[0]], 5, "1 columns"),
        (GroupedCrossEntropy((2, 3)), [[1, 3]], 5, "row 0 has 3"),
    ],
)
def test_targets_without_meaning_are_refused(loss, y, n_outputs, sign):
    with pytest.raises(ValueError, match=sign):
        loss.check_targets(readonly(y), n_outputs)
