"""One epoch of shuffled mini-batches by each loader, to be timed by `bench.loader`, one a process.

All pass the same rows, x (n_rows, 64) and y (n_rows, 1) float32 in memory, in batches, in an order drawn anew
for each epoch, which is part of the time. Nothing is computed from them. Before the clock starts, an epoch is
passed whose rows must be all rows, each once.

As a command, `python -m bench.peers.loader NAME N_ROWS BATCH N_EPOCHS` writes the seconds of each epoch, one
JSON list.
"""

import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

N_FEATURES = 64

Batches = Iterator[tuple[Any, Any]]
Epoch = Callable[[int], Batches]
"""The batches x, y of an epoch by its number; each to be used before the next."""


def take(x: np.ndarray, y: np.ndarray, batch: int) -> Epoch:
    """The bound: a permutation, and two calls of `np.take` a batch, into arrays that are used again."""
    n_rows = len(x)
    x_out, y_out = np.empty((batch, N_FEATURES), x.dtype), np.empty((batch, 1), y.dtype)

    def epoch(number: int) -> Batches:
        order = np.random.default_rng(number).permutation(n_rows)
        for start in range(0, n_rows, batch):
            index = order[start : start + batch]
            # With the default mode NumPy fills a copy first.
            np.take(x, index, axis=0, out=x_out[: len(index)], mode="clip")
            np.take(y, index, axis=0, out=y_out[: len(index)], mode="clip")
            yield x_out[: len(index)], y_out[: len(index)]

    return epoch


def mlp_xp(x: np.ndarray, y: np.ndarray, batch: int) -> Epoch:
    """A Loader as `train` uses it: arrays are used again."""
    from mlp_xp import Loader
    from mlp_xp.machine.array_api import backend

    loader, cpu = Loader(x, y, batch_size=batch), backend("cpu")

    def epoch(number: int) -> Batches:
        for step in loader.batches(number, cpu):
            for chunk in step:
                yield chunk.x, chunk.y

    return epoch


def mlp_xp_iterated(x: np.ndarray, y: np.ndarray, batch: int) -> Epoch:
    """A Loader as a user iterates over it: arrays of their own."""
    from mlp_xp import Loader

    loader = Loader(x, y, batch_size=batch)
    return lambda number: ((chunk.x, chunk.y) for step in loader for chunk in step)


def torch_data_loader(x: np.ndarray, y: np.ndarray, batch: int, n_workers: int = 0) -> Epoch:
    """PyTorch's DataLoader over a TensorDataset, shuffled, with so many worker processes."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    dataset = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=n_workers)
    return lambda number: iter(loader)


def torch_whole_batches(x: np.ndarray, y: np.ndarray, batch: int) -> Epoch:
    """The same, told to fetch a batch at once: a sampler of batches, and no batching of its own."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    dataset = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    sampler = BatchSampler(RandomSampler(dataset), batch, drop_last=False)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None)
    return lambda number: iter(loader)


class Peer(NamedTuple):
    """How an epoch is made, and the module it needs."""

    make: Callable[..., Epoch]
    module: str = "numpy"


PEERS = {
    "mlp_xp": Peer(mlp_xp),
    "mlp_xp, iterated": Peer(mlp_xp_iterated),
    "np.take": Peer(take),
    "torch DataLoader": Peer(torch_data_loader, "torch"),
    "its 2 workers": Peer(functools.partial(torch_data_loader, n_workers=2), "torch"),
    "its whole batches": Peer(torch_whole_batches, "torch"),
}


def rows(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """x at random; y their numbers, which float32 holds exactly."""
    x = np.random.default_rng(0).standard_normal((n_rows, N_FEATURES), dtype=np.float32)
    return x, np.arange(n_rows, dtype=np.float32)[:, None]


def check(epoch: Epoch, n_rows: int) -> None:
    """Pass an epoch; RuntimeError unless each row comes once, and not in the order of before."""
    passed = np.concatenate([np.array(y)[:, 0] for _, y in epoch(0)])
    if not np.array_equal(np.sort(passed), np.arange(n_rows)) or np.array_equal(passed, np.arange(n_rows)):
        raise RuntimeError("an epoch does not pass every row once, in random order")


def time_epochs(name: str, n_rows: int, batch: int, n_epochs: int) -> list[float]:
    """Seconds of each epoch of a peer."""
    x, y = rows(n_rows)
    epoch = PEERS[name].make(x, y, batch)
    check(epoch, n_rows)
    marks = [time.perf_counter()]
    for number in range(1, n_epochs + 1):
        for _ in epoch(number):
            pass
        marks.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(marks)]


if __name__ == "__main__":
    print(json.dumps(time_epochs(sys.argv[1], *map(int, sys.argv[2:]))))
