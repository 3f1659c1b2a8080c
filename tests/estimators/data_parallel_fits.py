"""Fits of the estimators on files and streams, on one process or several ranks: `python FILE FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np

from mlp_xp import Loader, MLPClassifier, MLPRegressor
from mlp_xp.machine.data_parallel import world
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.streams import BatchSource

N_ROWS = 70


def rows():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(N_ROWS, 4))
    return x, np.sin(x[:, 0]) + 0.1 * generator.normal(size=N_ROWS), generator.uniform(0.5, 2, N_ROWS)


def write(folder):
    x, y, _ = rows()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "labels.npy", (y > 0).astype(int))


COMMON = {
    "hidden_layer_sizes": (6, 5),
    "max_iter": 4,
    "batch_size": 16,
    "dtype": "float64",
    "random_state": 0,
}


def fits(folder):
    """The estimators, by name."""
    x, y, weight = rows()
    parts = [(x[start : start + 9], y[start : start + 9]) for start in range(0, N_ROWS, 9)]
    held = {"X_val": x[:20], "y_val": y[:20]}
    return {
        "a file": MLPRegressor(**COMMON).fit(str(folder / "x.npy"), str(folder / "y.npy")),
        "dropout, weights, held out": MLPRegressor(
            **COMMON, dropout=0.2, early_stopping=True, scoring="loss"
        ).fit(ArraySource(x, y, weight), **held),
        "a score": MLPRegressor(**COMMON, early_stopping=True).fit(ArraySource(x, y, weight), **held),
        "a stream": MLPRegressor(**COMMON).fit(BatchSource(parts, buffer_rows=20)),
        "a loader": MLPRegressor(**COMMON).fit(Loader(x, y, batch_size=7, seed=5)),
        "classes": MLPClassifier(**COMMON).fit(str(folder / "x.npy"), str(folder / "labels.npy")),
        "l-bfgs": MLPRegressor(**COMMON | {"max_iter": 2}, solver="lbfgs").fit(ArraySource(x, y, weight)),
    }


def results(folder):
    """Parameters and losses of all, by name."""
    return {
        name: np.concatenate(
            [*map(np.ravel, model.coefs_), *model.intercepts_, [model.loss_, model.n_iter_]]
        ).tolist()
        for name, model in fits(folder).items()
    }


def main(folder):
    import warnings

    warnings.simplefilter("ignore")  # of epochs that are too few
    ranks = world()
    found = results(folder)
    alone = MLPRegressor(**COMMON).fit(*rows()[:2])  # arrays are each process's own
    found["arrays"] = alone.coefs_[0].ravel().tolist()
    x, y, _ = rows()
    free = MLPRegressor(**COMMON | {"random_state": None, "dropout": 0.3}).fit(Loader(x, y, batch_size=16))
    found["no random_state"] = free.coefs_[0].ravel().tolist()
    Path(folder, f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
