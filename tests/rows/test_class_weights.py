"""Class weights travel with rows: as if each row of a class had been given that sample weight."""

import numpy as np
import pytest
from arrays import readonly

from mlp_xp import Loader, Network, train
from mlp_xp.machine.array_api import backend
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.streams import BatchSource


@pytest.fixture
def rows(rng):
    x = rng.normal(size=(90, 3))
    return readonly(x), readonly((x[:, 0] > 0.8).astype(int)), readonly(rng.uniform(0.5, 2, 90))


def trained(loader, device):
    network = Network((3, 5, 2), device=device, dtype="float64")
    list(train(network, loader, loss="softmax_cross_entropy", max_epochs=3))
    return network.parameters.to_host()


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("given", [{0: 0.5, 1: 4.0}, {1: 3.0}, "balanced"])
def test_they_are_sample_weights(given, with_weights, rows, device):
    x, y, weight = rows
    own = weight if with_weights else None
    counts = np.bincount(y)
    table = {0: 45 / counts[0], 1: 45 / counts[1]} if given == "balanced" else {0: 1.0, 1: 1.0} | given
    expected = np.where(y == 1, table[1], table[0]) * (weight if with_weights else 1.0)
    np.testing.assert_allclose(
        trained(Loader(x, y, own, class_weight=given, batch_size=20), device),
        trained(Loader(x, y, expected, batch_size=20), device),
        rtol=1e-12,
    )


def test_bad_ones_are_refused(rows):
    x, y, _ = rows
    with pytest.raises(ValueError, match=r"class_weight\[1\]=-1"):
        Loader(x, y, class_weight={1: -1.0})
    with pytest.raises(ValueError, match="class=-2"):
        Loader(x, y, class_weight={-2: 1.0})
    with pytest.raises(ValueError, match="unknown class_weight 'balance'; did you mean 'balanced'"):
        Loader(x, y, class_weight="balance")
    with pytest.raises(ValueError, match="2 targets"):
        Loader(ArraySource(x, readonly(np.zeros((90, 2)))), class_weight={1: 1.0})


def test_they_travel_with_a_stream_of_batches(rows):
    x, y, _ = rows
    stream = BatchSource([(x[:40], y[:40]), (x[40:], y[40:])], buffer_rows=16)
    loader = Loader(stream, class_weight={1: 3.0}, batch_size=20)
    for step in loader.batches(0, backend("cpu", "float64"), labels=True):
        for chunk in step:
            np.testing.assert_array_equal(chunk.weight, np.where(chunk.y == 1, 3.0, 1.0))


def test_a_class_that_no_row_is_of_is_refused(rows):
    x, y, _ = rows
    with pytest.raises(ValueError, match=r"class 2, which no row is of; there are 0, 1"):
        Loader(x, y, class_weight={2: 3.0})


@pytest.mark.parametrize("targets", [[-1, 1, 0, 2], [0.5, 1.0, 0.0, 1.5], [-0.5, 1.0, 0.0, 2.0**40]])
def test_a_target_that_no_weight_is_for_has_that_of_one(targets):
    """Numbers from the end, and parts of numbers, were other classes."""
    loader = Loader(
        np.zeros((4, 1)), targets, class_weight={1: 3.0, 0: 2.0}, order="sequential", batch_size=4
    )
    (batch,) = loader.batches(0, backend("cpu", "float64"))
    (chunk,) = batch
    assert chunk.weight.ravel().tolist() == [{1: 3.0, 0: 2.0}.get(target, 1.0) for target in targets]


def test_balanced_classes_are_whole_numbers():
    with pytest.raises(ValueError, match=r"whole class numbers, but there is a target of 0\.5"):
        Loader(np.zeros((4, 1)), [0.5, 1.0, 0.0, 1.0], class_weight="balanced")


def test_class_numbers_may_be_large():
    """A table of all numbers up to them would take terabytes."""
    loader = Loader(np.zeros((3, 1)), [0.0, 1e12, 0.0], class_weight="balanced", order="sequential")
    ((chunk,),) = loader.batches(0, backend("cpu", "float64"))
    assert chunk.weight.ravel().tolist() == [0.75, 1.5, 0.75]
