"""Whole epochs in each library, as its users write them, to be timed by `bench.epochs`, one a process.

All train the same network from weights of their own on the same rows (NumPy arrays in memory), shuffled anew
each epoch, with Adam and the paper's defaults. Each uses what it offers for that: its loader, its `fit`.

As a command, `python -m bench.peers.epoch NAME CASE N_EPOCHS [N_ROWS]` writes the seconds of each epoch, one
JSON list, after one that is not timed.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set, and the network that is trained on it.

    Parameters
    ----------
    sizes : tuple of int
        Units per layer; relu in the hidden ones.
    n_rows, batch : int
        Rows an epoch and a step.
    classes : bool
        Softmax cross-entropy over the outputs, rather than half squared error of one.
    epochs : int
        Timed by each process.
    """

    sizes: tuple[int, ...]
    n_rows: int
    batch: int
    classes: bool
    epochs: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        layers = "-".join(map(str, self.sizes))
        return f"{self.n_rows:,} × {self.sizes[0]}, {layers}, batch {self.batch}"


CASES = (
    Case((32, 100, 1), 20_000, 200, classes=False, epochs=20),
    Case((784, 512, 512, 10), 60_000, 128, classes=True, epochs=2),
)

Epoch = Callable[[], object]


def rows(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Random rows with targets that are noise: no gradient dies out."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((case.n_rows, case.sizes[0]), dtype=np.float32)
    if case.classes:
        return x, generator.integers(0, case.sizes[-1], case.n_rows)
    return x, generator.standard_normal(case.n_rows, dtype=np.float32)


def mlp_xp(case: Case, x: np.ndarray, y: np.ndarray, way: str = "plain") -> Epoch:
    """`train` with a Loader."""
    from mlp_xp import Loader, Network, train
    from mlp_xp.fast import on_cpu

    on_cpu.PAYS_AFTER = 0.0  # import and compilation in the epoch that is not timed
    network = Network(case.sizes)
    epochs = train(
        network,
        Loader(x, y, batch_size=case.batch),
        loss="softmax_cross_entropy" if case.classes else "half_squared_error",
        learning_rate=RATE,
        max_epochs=10**9,
        way=way,
    )
    return functools.partial(next, epochs)


def scikit_learn(case: Case, x: np.ndarray, y: np.ndarray) -> Epoch:
    """`partial_fit`, which passes all rows once, shuffled."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPClassifier if case.classes else MLPRegressor
    model = kind(
        hidden_layer_sizes=case.sizes[1:-1], alpha=0.0, batch_size=case.batch, learning_rate_init=RATE
    )
    if case.classes:
        return lambda: model.partial_fit(x, y, classes=np.arange(case.sizes[-1]))
    return lambda: model.partial_fit(x, y)


def torch_data_loader(case: Case, x: np.ndarray, y: np.ndarray, *, slices: bool = False) -> Epoch:
    """The loop of PyTorch's tutorials, with a DataLoader or parts of a permutation, and the fused Adam."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    layers: list[Any] = []
    for n_in, n_out in zip(case.sizes, case.sizes[1:], strict=False):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    loss = torch.nn.CrossEntropyLoss() if case.classes else torch.nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    tensors = torch.from_numpy(x), torch.from_numpy(y if case.classes else y[:, None])
    loader = DataLoader(TensorDataset(*tensors), batch_size=case.batch, shuffle=True)

    def batches() -> Any:
        order = torch.randperm(case.n_rows)
        return ((tensors[0][index], tensors[1][index]) for index in order.split(case.batch))

    def epoch() -> None:
        for inputs, targets in batches() if slices else loader:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()

    return epoch


class Peer(NamedTuple):
    """How an epoch is made, and the module it needs."""

    make: Callable[[Case, np.ndarray, np.ndarray], Epoch]
    module: str


PEERS = {
    "mlp_xp": Peer(mlp_xp, "mlp_xp"),
    "mlp_xp fast": Peer(functools.partial(mlp_xp, way="fast"), "numba"),
    "scikit-learn": Peer(scikit_learn, "sklearn"),
    "torch DataLoader": Peer(torch_data_loader, "torch"),
    "torch slices": Peer(functools.partial(torch_data_loader, slices=True), "torch"),
}


def time_epochs(name: str, case: Case, n_epochs: int) -> list[float]:
    """Seconds of each epoch."""
    epoch = PEERS[name].make(case, *rows(case))
    epoch()
    seconds = []
    for _ in range(n_epochs):
        began = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    name_, case_, n_epochs_, *n_rows_ = sys.argv[1:]
    chosen = CASES[int(case_)]
    if n_rows_:
        chosen = dataclasses.replace(chosen, n_rows=int(n_rows_[0]))
    print(json.dumps(time_epochs(name_, chosen, int(n_epochs_))))
