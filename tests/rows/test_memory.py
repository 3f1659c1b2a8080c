"""Memory by bytes: rows on the device, in buffers and in checksums are fewer where there are many columns."""

import tracemalloc

import numpy as np
import pytest

from mlp_xp import Loader, Network, train
from mlp_xp.rows import loader as loaders
from mlp_xp.rows.fingerprint import fingerprint
from mlp_xp.rows.source import Source


class Made(Source):
    """Rows that are made when they are asked for."""

    def __init__(self, n_rows, n_features, n_classes=0):
        self.n_rows, self.n_features, self.n_targets = n_rows, n_features, 1
        self.labels, self.n_classes = bool(n_classes), n_classes

    def rows(self, index, x, y, weight):
        x[...] = np.sin(index)[:, None]
        if y is not None:
            y[...] = index[:, None] % self.n_classes if self.n_classes else 0.5
        if weight is not None:
            weight[...] = 1


def peak(function):
    """Bytes that a call had at a time, at most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def trained(n_features, n_classes, **named):
    network = Network((n_features, n_classes), seed=0)
    loader = Loader(Made(1500, n_features, n_classes), batch_size="full", **named)
    validation = Loader(Made(1500, n_features, n_classes), batch_size="full", memory_limit=1)
    run = train(
        network, loader, loss="softmax_cross_entropy", validation=validation, max_epochs=1, way="plain"
    )
    return next(iter(run)).train_loss, loader.chunk_rows


@pytest.mark.parametrize(("n_features", "n_classes"), [(1, 20_000), (60_000, 3)])
def test_rows_on_the_device_fit_the_limit_however_many_outputs_or_inputs(n_features, n_classes):
    assert peak(lambda: trained(n_features, n_classes, memory_limit=1)) < 6 * loaders.LEAST_CHUNK_BYTES


def test_chunks_by_bytes_change_no_result_but_by_rounding():
    (by_bytes, few), (at_once, many) = trained(1, 20_000, memory_limit=1), trained(1, 20_000, chunk_rows=1500)
    assert few < many == 1500
    assert by_bytes == pytest.approx(at_once, rel=1e-5)


def test_what_is_given_and_what_is_narrow_stays():
    assert Loader(Made(9000, 2), batch_size="full").chunk_rows == 4096
    loader = Loader(Made(9000, 100_000), batch_size="full", chunk_rows=5000)
    loader.fit_chunks(10**9)
    assert loader.chunk_rows == 5000


def test_a_fingerprint_takes_no_memory_for_rows():
    assert peak(lambda: fingerprint(Made(300_000, 2))) < 1.5 * peak(lambda: fingerprint(Made(100_000, 2)))
