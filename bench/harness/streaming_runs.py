"""Trainings from files, to be watched by `bench.streaming`, each in a process of its own.

python -m bench.harness.streaming_runs FILE SECONDS     train on FILE for so long, at least an epoch
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp import Loader, Network, train

SMALL, WIDE = (32, 100, 1), (784, 512, 512, 10)
BATCH = {SMALL: 200, WIDE: 128}
LOSS = {SMALL: "squared_error", WIDE: "softmax_cross_entropy"}

_PART = 2**16
"""Rows written at a time."""


def write(folder: Path, n_rows: int, sizes: tuple[int, ...]) -> tuple[Path, Path]:
    """Write x.npy, float32, and y.npy, numbers or class numbers; noise, a part at a time."""
    generator = np.random.default_rng(0)
    for name, width in (("x", sizes[0]), ("y", 1)):
        is_classes = name == "y" and sizes[-1] > 1
        dtype = np.int32 if is_classes else np.float32
        out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (n_rows, width))
        for start in range(0, n_rows, _PART):
            n = min(_PART, n_rows - start)
            out[start : start + n] = (
                generator.integers(sizes[-1], size=(n, 1))
                if is_classes
                else generator.standard_normal((n, width), dtype=np.float32)
            )
        out.flush()
    return folder / "x.npy", folder / "y.npy"


def training(x: np.ndarray, y: np.ndarray, sizes: tuple[int, ...]) -> tuple[int, Any]:
    """Rows an epoch, and the epochs of a training with Adam."""
    network = Network(sizes, seed=0)
    loader = Loader(x, y, batch_size=BATCH[sizes])
    epochs = train(network, loader, loss=LOSS[sizes], optimizer="adam", learning_rate=1e-4, max_epochs=10**9)
    return loader.n_rows, epochs


def train_on_file(folder: Path, seconds: float) -> float:
    """Train the small network on memory maps; rows a second of the epochs."""
    x, y = (np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    n_rows, epochs = training(x, y, SMALL)
    began, n_passed = time.perf_counter(), 0
    for _ in epochs:
        n_passed += n_rows
        spent = time.perf_counter() - began
        if spent >= seconds:
            break
    return n_passed / spent


if __name__ == "__main__":
    print(json.dumps(train_on_file(Path(sys.argv[1]), float(sys.argv[2]))))
