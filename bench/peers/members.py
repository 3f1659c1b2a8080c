"""The same training steps of several networks at once in each library, to be timed by `bench.members`.

See `bench.peers.step`, whose tasks these are. The weights that a peer gives have an axis of members first; a
peer of which only some fits are made, one after the other, gives none.

As a command, `python -m bench.peers.members NAME` obeys orders on standard input.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.peers import step
from bench.peers.step import Peer, Run, Task, Training, Weights

MOST_FITS: Mapping[str, int] = {"mlp_xp one by one": 16, "scikit-learn": 4, "scikit-learn, joblib": 4}
"""Networks that are fitted one by one, where there are more members: further ones take as long as these."""


def n_fits(name: str, training: Training) -> int:
    """Of how many networks a peer makes the steps."""
    return min(training.members, MOST_FITS.get(name, training.members))


def _singles(name: str, task: Task) -> list[Task]:
    """The tasks of networks that are trained one by one."""
    alone = dataclasses.replace(task.training, members=0)
    return [
        task._replace(training=alone, weights=[w[n] for w in task.weights])
        for n in range(n_fits(name, task.training))
    ]


def _one_after_the_other(tasks: list[Task], members: int, peer: Any) -> tuple[Run, Weights]:
    made = [peer(task) for task in tasks]

    def run() -> None:
        for run_one, _ in made:
            run_one()

    def weights() -> list[np.ndarray]:
        each = [weights_of_one() for _, weights_of_one in made]
        return [np.stack(parts) for parts in zip(*each, strict=True)] if len(each) == members else []

    return run, weights


def one_by_one(task: Task) -> tuple[Run, Weights]:
    """Networks without members, each trained by compiled steps that may use all cores."""
    peer = functools.partial(step.mlp_xp, way="fast")
    return _one_after_the_other(_singles("mlp_xp one by one", task), task.training.members, peer)


def scikit_learn(task: Task) -> tuple[Run, Weights]:
    """One epoch of `partial_fit` of each estimator."""
    tasks = _singles("scikit-learn", task)
    return _one_after_the_other(tasks, task.training.members, step.scikit_learn)


def _fit(task: Task) -> None:
    step.scikit_learn(task)[0]()


def scikit_learn_joblib(task: Task) -> tuple[Run, Weights]:
    """The same by two processes of joblib's, which begin anew with each slice."""
    import joblib

    pool, tasks = joblib.Parallel(n_jobs=2), _singles("scikit-learn, joblib", task)
    return lambda: pool(joblib.delayed(_fit)(each) for each in tasks), list


def torch_bmm(task: Task) -> tuple[Run, Weights]:
    """Weights with an axis of members, `baddbmm`, autograd, the fused optimizer."""
    import torch
    from torch.nn import functional

    training, k = task.training, task.training.members
    nonlinear = {"tanh": torch.tanh, "relu": torch.relu}[training.activation]
    layers = [
        (torch.tensor(w, requires_grad=True), torch.zeros(k, 1, w.shape[-1], requires_grad=True))
        for w in task.weights
    ]
    rule = torch.optim.Adam if training.optimizer == "adam" else torch.optim.SGD
    optimizer = rule([part for layer in layers for part in layer], lr=task.rate, fused=True)
    batches = [(x, y[:, 0].astype(np.int64) if training.classes else y) for x, y in task.batches]

    def objective(x: Any, y: Any) -> Any:
        a = x.expand(k, *x.shape)
        for number, (w, b) in enumerate(layers):
            a = torch.baddbmm(b, a if number == 0 else nonlinear(a), w)
        if training.classes:
            return k * functional.cross_entropy(a.flatten(0, 1), y.repeat(k))
        return 0.5 * k * functional.mse_loss(a, y.expand(k, *y.shape))

    def run() -> None:
        for x, y in batches:
            optimizer.zero_grad()
            objective(torch.from_numpy(x), torch.from_numpy(y)).backward()
            optimizer.step()

    return run, lambda: [part for w, b in layers for part in (w.detach().numpy(), b.detach().numpy()[:, 0])]


PEERS = {
    "mlp_xp": Peer(functools.partial(step.mlp_xp, way="fast"), "mlp-xp[fast]", "numba"),
    "mlp_xp one by one": Peer(one_by_one, "mlp-xp[fast]", "numba"),
    "scikit-learn": Peer(scikit_learn, "scikit-learn", "sklearn"),
    "scikit-learn, joblib": Peer(scikit_learn_joblib, "scikit-learn", "sklearn"),
    "torch bmm": Peer(torch_bmm, "torch", "torch"),
    "JAX scan of vmap": Peer(step.jax_scan, "jax", "jax"),
}


if __name__ == "__main__":
    step.serve(PEERS[sys.argv[1]])
