"""Trainings that `mpiexec` runs on several ranks, and the tests on one: the results must be the same.

As a program, `python data_parallel_runs.py FOLDER`, each rank saves the parameters and histories of all runs.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import Loader, Network, train, training_loop
from mlp_xp.fast.on_cuda import CudaStep
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import backend
from mlp_xp.machine.data_parallel import world
from mlp_xp.machine.staging import Runtime
from mlp_xp.objective import Objective
from mlp_xp.regularizers import L2
from mlp_xp.rows.streams import BatchSource
from mlp_xp.run.full_batch import AllRows

RUNS = {
    "adam": {"optimizer": "adam"},
    "sgd, ragged, more ranks than rows": {"optimizer": "sgd", "batch_size": 2},
    "momentum, weights": {"optimizer": "momentum", "weights": True},
    "nesterov, dropout": {"optimizer": "nesterov", "dropout": 0.3},
    "rmsprop, elastic net, clipped": {
        "optimizer": "rmsprop",
        "regularizer": {"name": "elastic_net", "l1": 1e-3, "l2": 1e-2},
        "clip_norm": 0.3,
    },
    "adamw, one cycle": {"optimizer": "adamw", "schedule": "one_cycle"},
    "nadam, plateau, stops early": {
        "optimizer": "nadam",
        "schedule": "reduce_on_plateau:patience=1",
        "patience": 2,
        "tolerance": 0.05,
        "keep": "best",
    },
    "full batch in chunks, weights, dropout": {
        "optimizer": "sgd",
        "batch_size": "full",
        "chunk_rows": 11,
        "weights": True,
        "dropout": 0.2,
    },
    "stream of batches": {"optimizer": "adam", "weights": True, "streamed": True},
    "batches added up": {"optimizer": "adam", "batch_size": 7, "accumulated": 3, "weights": True},
    "summed by the device": {"optimizer": "adam", "weights": True, "clip_norm": 0.5, "device": True},
    "by a GPU's engine": {
        "optimizer": "adamw",
        "weights": True,
        "dropout": 0.2,
        "clip_norm": 0.5,
        "regularizer": {"name": "elastic_net", "l1": 1e-3, "l2": 1e-2},
        "device": True,
        "engine": True,
    },
    "sum": {"optimizer": "sgd", "learning_rate": 1e-4, "reduction": "sum", "weights": True},
}


class SumsByItself(Runtime):
    """A device that sums vectors in its own way, and leaves the numbers of the host to MPI."""

    def all_reduce(self, ranks):
        def add_up(vector, numbers):
            sums = ranks.sum_numbers(numbers)
            part = vector[: len(vector) - len(numbers)].copy()
            ranks.add_up(part)
            vector[: len(part)] = part
            vector[len(part) :] = np.nan  # not defined
            return sums

        return add_up


def run(name, ranks=None):
    """Train; the parameters and the history of losses."""
    options = dict(RUNS[name])
    generator = np.random.default_rng(11)
    x = generator.normal(size=(83, 4))
    y = np.sin(x[:, :1]) + 0.3 * x[:, 1:2]
    weight = generator.uniform(0.1, 3.0, 83) if options.pop("weights", False) else None
    batch = {key: options.pop(key) for key in ("batch_size", "chunk_rows") if key in options}
    own = None if weight is None else weight[:60]
    rows = (x[:60], y[:60], own)
    if options.pop("streamed", False):
        parts = [tuple(part[start : start + 9] for part in rows) for start in range(0, 60, 9)]
        rows = (BatchSource(parts, buffer_rows=20),)
    loader = Loader(*rows, **{"batch_size": 13, **batch})
    if "accumulated" in options:
        loader.accumulate(options.pop("accumulated"))
    held_out = Loader(x[60:], y[60:], None if weight is None else weight[60:], batch_size="full")
    # Only rank 0's start counts: it is sent to the others.
    device = backend("cpu", "float64")
    ways = training_loop.ways
    if options.pop("engine", False):
        training_loop.ways = lambda name, way, **_: functools.partial(CudaStep, engine=StandInEngine())
    if options.pop("device", False):
        device = dataclasses.replace(device, runtime=SumsByItself())
    network = Network((4, 9, 7, 1), device=device, dtype="float64", seed=ranks.rank if ranks else 0)
    defaults = {"learning_rate": 0.01, "max_epochs": 6}
    *_, epoch = train(network, loader, validation=held_out, ranks=ranks, **defaults | options)
    training_loop.ways = ways
    history = epoch.training.history
    losses = history.train_losses + history.validation_losses
    return np.concatenate([network.parameters.to_host(), losses, [epoch.number]])


def objective_of(ranks=None):
    """One evaluation of what L-BFGS minimises: value and gradient over all rows."""
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(50, 3)), generator.normal(size=50)
    network = Network((3, 6, 1), activation="tanh", dtype="float64", seed=1)
    loader = Loader(x, y, generator.uniform(0.5, 2.0, 50), batch_size="full", chunk_rows=7)
    objective = Objective(network, SquaredError(), L2(0.01), ranks=ranks)
    value, gradient = AllRows(objective, loader).value_and_gradient(network.parameters.to_host())
    return np.concatenate([[value], gradient])


def results(ranks=None):
    """All of it, by name."""
    return {name: run(name, ranks) for name in RUNS} | {"l-bfgs, one evaluation": objective_of(ranks)}


def main(folder):
    ranks = world()
    found = {name: result.tolist() for name, result in results(ranks).items()}
    Path(folder, f"{ranks.rank}-of-{ranks.size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
