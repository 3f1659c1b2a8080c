"""Rows a second from the host to a GPU, where training may take a tenth of their memory on it.

python -m bench.harness.gpu_streams cuda:N [--quick]     a line of JSON for each kind and order of rows
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlp_xp import Loader, Network, train
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.machine.cuda import memory


def measure(device: str, *, quick: bool) -> Iterator[dict[str, Any]]:
    """For each network and order: rows a second, and what part of the bounds that is.

    ``resident`` is the part of what rows on the device give, ``share`` that of the copy of pinned memory.
    """
    index = int(device.partition(":")[2])
    asarray, n_features = find_backend(device, "float32").asarray, 1024
    n_rows = 2**12 if quick else 2**20  # 4 GiB
    x = np.ones((n_rows, n_features), dtype=np.float32)
    x[:, 0] = np.linspace(-1, 1, n_rows, dtype=np.float32)
    y = x[:, :1].copy()
    few = slice(0, n_rows // 16)
    bandwidth = pinned_bandwidth(index)
    for name, sizes, batch in (
        ("compute-bound", (n_features, 2048, 2048, 1), 1024),
        ("copy-bound", (n_features, 16, 1), 4096),
    ):
        resident = rows_a_second(device, sizes, batch, asarray(x[few]), asarray(y[few]))
        memory.limit(str(max(3 * 2**27, x.nbytes // 10)), index)
        try:
            for order in ("shuffled", "blocks"):
                speed = rows_a_second(device, sizes, batch, x, y, order=order)
                yield {
                    "name": name,
                    "order": order,
                    "speed": speed,
                    "resident": speed / resident,
                    "share": speed * n_features * 4 / bandwidth,
                    "bandwidth": bandwidth,
                }
        finally:
            memory.limit("100%", index)


def pinned_bandwidth(index: int, n_bytes: int = 2**28, repeats: int = 5) -> float:
    """Bytes a second from a pinned buffer to the device, the best of a few copies."""
    import cupy
    import cupyx

    with cupy.cuda.Device(index):
        stream = cupy.cuda.Stream(non_blocking=True)
        host, device = cupyx.empty_pinned((n_bytes,), np.uint8), cupy.empty((n_bytes,), np.uint8)
        seconds = []
        for _ in range(repeats + 1):
            began, ended = cupy.cuda.Event(), cupy.cuda.Event()
            began.record(stream)
            device.set(host, stream=stream)
            ended.record(stream)
            ended.synchronize()
            seconds.append(cupy.cuda.get_elapsed_time(began, ended) / 1e3)
    return n_bytes / min(seconds[1:])


def rows_a_second(
    device: str, sizes: tuple[int, ...], batch: int, x: Any, y: Any, order: str = "shuffled"
) -> float:
    """Rows a second of training, the median of two epochs after a first one."""
    network = Network(sizes, device=device)
    loader = Loader(x, y, batch_size=min(batch, x.shape[0]), order=order)
    epochs = train(network, loader, learning_rate=1e-4, max_epochs=4)
    next(epochs)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        next(epochs)
        seconds.append(time.perf_counter() - began)
    epochs.close()
    return float(x.shape[0] / statistics.median(seconds))


if __name__ == "__main__":
    for found in measure(sys.argv[1], quick="--quick" in sys.argv[2:]):
        print(json.dumps(found), flush=True)
