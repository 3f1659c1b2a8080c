"""Starting weights: their distributions, and that they are the same everywhere."""

import math

import numpy as np
import pytest
from arrays import host, readonly

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.initializers import INITIALIZERS, Given, Normal, Orthogonal, Uniform
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.network import Network

N_IN, N_OUT = 300, 200

VARIANCES = {
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "glorot_normal": 2 / (N_IN + N_OUT),
    "he_uniform": 2 / N_IN,
    "he_normal": 2 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "lecun_normal": 1 / N_IN,
    "uniform": 0.1**2 / 12,
    "normal": 0.05**2,
    "orthogonal": 1 / N_IN,
}

RANDOM = [name for name in INITIALIZERS if name not in ("given", "zeros")]


def draw(initializer, n_in=N_IN, n_out=N_OUT, seed=0):
    return initializer.weights(np.random.default_rng(seed), 0, n_in, n_out)


def test_every_initializer_is_tested():
    assert set(VARIANCES) == set(RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_mean_and_variance(name):
    weights, variance = draw(INITIALIZERS[name]()), VARIANCES[name]
    assert weights.shape == (N_IN, N_OUT)
    assert weights.dtype == np.float64
    n = weights.size
    assert abs(weights.mean()) < 5 * math.sqrt(variance / n)
    # The variance of a sample variance is (kurtosis − 1) σ⁴ / n; no kurtosis here is above 3.
    assert abs(np.mean(weights**2) - variance) < 5 * variance * math.sqrt(2 / n)


@pytest.mark.parametrize("name", [name for name in RANDOM if name.endswith("uniform")])
def test_uniform_weights_fill_their_range_evenly(name):
    weights, bound = draw(INITIALIZERS[name]()).ravel(), math.sqrt(3 * VARIANCES[name])
    counts, _ = np.histogram(weights, bins=20, range=(-bound, bound))
    assert counts.sum() == weights.size  # none outside
    expected = weights.size / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 19) < 5 * math.sqrt(2 * 19)


@pytest.mark.parametrize("name", [name for name in RANDOM if name.endswith("normal")])
def test_normal_weights_have_normal_tails(name):
    scaled = draw(INITIALIZERS[name]()).ravel() / math.sqrt(VARIANCES[name])
    for bound, within in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
        share = np.mean(np.abs(scaled) < bound)
        assert abs(share - within) < 5 * math.sqrt(within * (1 - within) / scaled.size)


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 7), (9, 4), (4, 9), (1, 5), (5, 1)])
def test_orthogonal_weights_are(n_in, n_out):
    weights = draw(Orthogonal(gain=1.5), n_in, n_out)
    assert weights.shape == (n_in, n_out)
    gram = weights.T @ weights if n_in >= n_out else weights @ weights.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(min(n_in, n_out)), atol=1e-12)


def test_orthogonal_weights_prefer_no_direction():
    # The columns of a plain QR have signs that favour one side; a uniform Q has mean 0 and E q² = 1/n.
    drawn = np.stack([draw(Orthogonal(), 4, 4, seed) for seed in range(2000)])
    assert (np.abs(drawn.mean(axis=0)) < 5 * math.sqrt(1 / 4 / 2000)).all()
    assert np.linalg.det(drawn).mean() == pytest.approx(0, abs=5 / math.sqrt(2000))


def test_plain_bounds_and_moments():
    weights = draw(Uniform(low=2, high=3))
    assert weights.min() >= 2
    assert weights.max() < 3
    assert draw(Normal(mean=7, deviation=0.01)).mean() == pytest.approx(7, abs=1e-3)


@pytest.mark.parametrize("name", [*RANDOM, "zeros"])
def test_biases_are_drawn_where_a_deviation_is_given(name):
    weights, biases = (
        getattr(INITIALIZERS[name](bias_deviation=0.5), of)(np.random.default_rng(1), 0, 3, 20_000)
        for of in ("weights", "biases")
    )
    assert np.array_equal(weights, INITIALIZERS[name]().weights(np.random.default_rng(1), 0, 3, 20_000))
    assert abs(biases.mean()) < 5 * 0.5 / math.sqrt(biases.size)
    assert abs(biases.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * biases.size)
    with pytest.raises(ValueError, match=r"bias_deviation=-1 must be a finite number >= 0"):
        INITIALIZERS[name](bias_deviation=-1)


def test_each_layer_may_have_its_own(device):
    start = ["lecun_normal:bias_deviation=0.5", "he_uniform", "zeros"]
    network = Network((4, 5, 6, 2), activation="selu", initializer=start, device=device, seed=3)
    weights, biases = map(host, network.parameters.weights), map(host, network.parameters.biases)
    generator = np.random.default_rng(3)
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        expected_w = [
            lambda: generator.normal(0, math.sqrt(1 / 4), (4, 5)),
            lambda: generator.uniform(-math.sqrt(6 / 5), math.sqrt(6 / 5), (5, 6)),
            lambda: np.zeros((6, 2)),
        ][layer]()
        np.testing.assert_allclose(w, expected_w, rtol=1e-6)
        np.testing.assert_allclose(b, generator.normal(0, 0.5, 5) if layer == 0 else 0.0, rtol=1e-6)
    with pytest.raises(ValueError, match="initializer has 2 entries, but this network has 3 layers"):
        Network((4, 5, 6, 2), initializer=["he_normal", "zeros"])


@pytest.mark.parametrize("name", [*RANDOM, "zeros"])
def test_biases_start_at_zero(name):
    biases = INITIALIZERS[name]().biases(np.random.default_rng(0), 0, N_IN, N_OUT)
    np.testing.assert_array_equal(biases, np.zeros(N_OUT))


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_decides_and_layers_differ(name, device):
    def start(seed):
        made = Network((6, 6, 6, 6), initializer=name, device=device, seed=seed)
        return [host(weights) for weights in made.parameters.weights]

    first, again, other = start(1), start(1), start(2)
    for layer in range(3):
        np.testing.assert_array_equal(first[layer], again[layer])
        assert not np.isclose(first[layer], other[layer]).any()
    assert not np.isclose(first[0], first[1]).any()


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_weights_on_every_backend(backend, name):
    sizes = (3, 4, 2)
    here = Network(sizes, initializer=name, device=backend, dtype=backend.dtype_name, seed=3)
    on_cpu = Network(sizes, initializer=name, device=find_backend(), dtype=backend.dtype_name, seed=3)
    np.testing.assert_array_equal(host(here.parameters.flat), host(on_cpu.parameters.flat))


def test_single_and_double_precision_start_alike(device):
    single, double = (
        host(Network((5, 4), device=device, dtype=dtype).parameters.flat) for dtype in ("float32", "float64")
    )
    np.testing.assert_array_equal(single, double.astype("float32"))


def test_given_weights_are_taken_and_copied(backend):
    weights = [readonly(np.arange(6.0).reshape(2, 3)), readonly([[1.0], [2.0], [3.0]])]
    biases = [np.array([1.0, 2.0, 3.0]), np.array([4.0])]
    made = Network((2, 3, 1), initializer=Given(weights, biases), device=backend, dtype=backend.dtype_name)
    biases[0][:] = 0
    flat = [0, 1, 2, 3, 4, 5, 1, 2, 3, 1, 2, 3, 4]
    np.testing.assert_array_equal(host(made.parameters.flat), flat)


def test_given_weights_without_biases(device):
    made = Network((2, 1), initializer=Given([[[1.0], [2.0]]]), device=device)
    np.testing.assert_array_equal(host(made.parameters.flat), [1, 2, 0])
    bare = Network((2, 1), initializer=Given([[[1.0], [2.0]]]), bias=False, device=device)
    np.testing.assert_array_equal(host(bare.parameters.flat), [1, 2])


@pytest.mark.parametrize(
    ("weights", "biases", "message"),
    [
        ([np.ones((3, 2))], None, r"weights of layer 1: needed .* \(2, 3\), got shape \(3, 2\)"),
        ([np.ones((2, 3))], None, "weights of layer 2: .* got nothing"),
        ([np.full((2, 3), np.nan), np.ones((3, 1))], None, "weights of layer 1: needed finite"),
        ([np.ones((2, 3)), np.ones((3, 1))], [np.ones(3)], "biases of layer 2: .* got nothing"),
        ([np.ones((2, 3)), np.ones((3, 1))], [np.ones(2), [1]], "biases of layer 1"),
    ],
)
def test_given_weights_that_do_not_fit(weights, biases, message):
    with pytest.raises(ValueError, match=message):
        Network((2, 3, 1), initializer=Given(weights, biases))


def test_every_activation_has_a_suited_initializer():
    assert {f.initializer for f in ACTIVATIONS.values()} <= set(INITIALIZERS)


@pytest.mark.parametrize(
    ("activation", "initializer", "kept"),
    [("relu", "he_normal", 1.0), ("selu", "lecun_normal", 1.0), ("identity", "glorot_normal", 1.0)],
)
def test_signals_keep_their_size_through_many_layers(rng, activation, initializer, kept):
    # What these initializers were derived for: E a² does not grow or shrink with depth.
    made = Network([256] * 13, activation=activation, initializer=initializer, dtype="float64")
    x = rng.normal(size=(200, 256))
    ratio = np.mean(made.predict(x) ** 2) / np.mean((x @ host(made.parameters.weights[0])) ** 2)
    assert ratio == pytest.approx(kept, rel=0.5)


@pytest.mark.parametrize(
    ("initializer", "bad", "message"),
    [
        (Orthogonal, {"gain": 0}, "gain=0"),
        (Uniform, {"low": 1, "high": 1}, "high=1 must be a finite number > 1"),
        (Uniform, {"low": "a", "high": math.inf}, "low='a' .*\nhigh=inf"),
        (Normal, {"mean": math.nan, "deviation": 0}, "mean=nan .*\ndeviation=0"),
    ],
)
def test_bad_parameters_are_refused(initializer, bad, message):
    with pytest.raises(ValueError, match=message):
        initializer(**bad)
