"""Whether two checkouts train to the same bits: ``python -m tests.campaigns.same_results BEFORE [AFTER]``.

A grid of small trainings by the plain way, through what is documented alone: `train`, the estimators and the
command line. Each checkout makes them in a process of its own and says a hash of every result; what differs
is listed. A script of one machine: its BLAS and vector instructions decide the bits.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def grid():
    """Yield (name, arguments) of trainings; names are the arguments written out."""
    base = {
        "sizes": (5, 7, 4, 1),
        "activation": "tanh",
        "loss": "squared_error",
        "optimizer": "adam",
        "schedule": "constant",
        "regularizer": None,
        "dropout": 0.0,
        "dtype": "float64",
        "batch_size": 8,
        "weights": False,
        "bias": True,
        "reduction": "mean",
        "clip_norm": None,
        "keep": "last",
        "validation": False,
        "initializer": None,
        "chunk_rows": 4096,
    }
    one_by_one = {
        "activation": [
            *("elu", "gelu", "identity", "leaky_relu", "logistic", "mish", "relu", "selu", "silu", "softplus")
        ],
        "loss": ["half_squared_error", "absolute_error", "huber", "poisson", "pinball"],
        "optimizer": ["sgd", "momentum", "nesterov", "rmsprop", "adamw", "nadam", "lbfgs"],
        "schedule": ["cosine", "step", "exponential", "reduce_on_plateau", "one_cycle", "inverse_scaling"],
        "regularizer": ["l1:strength=0.01", "l2:strength=0.01", "elastic_net:l1=0.01,l2=0.02"],
        "dropout": [0.3],
        "dtype": ["float32"],
        "batch_size": [1, 3, "full"],
        "weights": [True],
        "bias": [False],
        "reduction": ["sum"],
        "clip_norm": [0.1],
        "keep": ["best"],
        "validation": [True],
        "initializer": ["glorot_normal", "he_normal", "he_uniform", "lecun_normal", "orthogonal"],
        "chunk_rows": [5],
    }
    yield base
    for name, values in one_by_one.items():
        for value in values:
            yield base | {name: value}
    for loss, sizes in (("softmax_cross_entropy", (5, 7, 3)), ("binary_cross_entropy", (5, 7, 1))):
        for dtype in ("float32", "float64"):
            yield base | {"loss": loss, "sizes": sizes, "activation": "relu", "dtype": dtype, "weights": True}
    yield base | {"activation": "mish", "dtype": "float32", "optimizer": "adamw", "dropout": 0.2}
    yield base | {"optimizer": "momentum", "schedule": "cosine", "regularizer": "l2:strength=0.1"}
    yield base | {"optimizer": "nadam", "validation": True, "keep": "best", "chunk_rows": 3, "weights": True}


COMMANDS = (
    ["--plain-steps", "--epochs", "5"],
    ["--plain-steps", "--epochs", "4", "--optimizer", "lbfgs", "--batch-size", "full"],
    ["--plain-steps", "--epochs", "4", "--hidden", "9", "--dropout", "0.2", "--l2", "1e-3"],
    ["--plain-steps", "--epochs", "3", "--dtype", "float64", "--batch-size", "16", "--patience", "2"],
)


def results():
    """Yield (name, hash) of every training of the grid with the mlp_xp that this process imports."""
    import hashlib
    import warnings

    import numpy as np

    import mlp_xp

    def digest(*arrays):
        of_all = hashlib.sha256()
        for array in arrays:
            of_all.update(np.ascontiguousarray(array).tobytes())
        return of_all.hexdigest()[:16]

    def trained(sizes, activation, loss, optimizer, dtype, weights, bias, initializer, validation, **options):
        rng = np.random.default_rng(5)
        x = rng.normal(size=(43, sizes[0]))
        y = np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
        if loss == "softmax_cross_entropy":
            y = rng.integers(0, sizes[-1], 43)
        elif loss == "binary_cross_entropy":
            y = (y > 0).astype(float)
        elif loss == "poisson":
            y = np.floor(np.exp(y))
        s = rng.uniform(0.5, 2, 43) if weights else None
        made = {} if initializer is None else {"initializer": initializer}
        network = mlp_xp.Network(sizes, activation=activation, bias=bias, dtype=dtype, seed=3, **made)
        batch, chunk = options.pop("batch_size"), options.pop("chunk_rows")
        batch = "full" if optimizer == "lbfgs" else batch
        loader = mlp_xp.Loader(x, y, s, batch_size=batch, chunk_rows=chunk, seed=4)
        held_out = mlp_xp.Loader(x[::3], y[::3]) if validation else None
        losses = []
        for epoch in mlp_xp.train(
            network,
            loader,
            loss=loss,
            optimizer=optimizer,
            learning_rate=0.01,
            max_epochs=6,
            validation=held_out,
            way="plain",
            seed=2,
            **options,
        ):
            losses += [epoch.train_loss, epoch.validation_loss or 0.0]
        return digest(np.array(losses), network.parameters.to_host(), network.predict(x))

    warnings.simplefilter("ignore")
    for arguments in grid():
        yield f"train {json.dumps(arguments)}", trained(**arguments)
    yield from _estimators(digest, mlp_xp, np)


def _estimators(digest, mlp_xp, np):
    from sklearn.datasets import load_diabetes, load_iris

    for name, kind, load in (
        ("MLPRegressor", mlp_xp.MLPRegressor, load_diabetes),
        ("MLPClassifier", mlp_xp.MLPClassifier, load_iris),
    ):
        x, y = load(return_X_y=True)
        for options in (
            {},
            {"solver": "lbfgs"},
            {"solver": "sgd", "learning_rate": "adaptive", "momentum": 0.5},
            {"early_stopping": True, "n_iter_no_change": 3},
            {"activation": "logistic", "alpha": 0.1, "batch_size": 13},
            {"dropout": 0.2, "hidden_layer_sizes": (7, 5)},
            {"warm_start": True, "max_iter": 4},
        ):
            model = kind(random_state=1, **({"max_iter": 12} | options))
            model.fit(x, y)
            if "warm_start" in options:
                model.fit(x, y)
            yield f"{name} {json.dumps(options)}", digest(model.predict(x), *model.coefs_, *model.intercepts_)
        model = kind(random_state=1)
        for _ in range(3):
            model.partial_fit(x, y, **({"classes": np.unique(y)} if name == "MLPClassifier" else {}))
        yield f"{name} partial_fit", digest(model.predict(x), *model.coefs_)


def of_command_line(checkout, folder):
    """Yield (command, hash of its predictions) of trainings by the command line."""
    import hashlib

    recipe = ["--recipe", "plain"] if "--recipe" in _said(checkout, folder, "train", "--help") else []
    for arguments in COMMANDS:
        _said(checkout, folder, "train", *arguments, *recipe, "--out", "model.safetensors", "--quiet")
        program = (
            "import mlp_xp, numpy as np, sys; m = mlp_xp.load('model.safetensors');"
            "n = getattr(m, 'network', m); sys.stdout.write(n.parameters.to_host().tobytes().hex())"
        )
        found = _run(checkout, folder, "-c", program)
        yield f"mlp-xp train {' '.join(arguments)}", hashlib.sha256(found.encode()).hexdigest()[:16]


def _run(checkout, folder, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(map(str, arguments))}\n{done.stderr[-2000:]}")
    return done.stdout


def _said(checkout, folder, *arguments):
    return _run(checkout, folder, "-m", "mlp_xp", *arguments)


def of_checkout(checkout):
    """The hashes of all trainings of a checkout, by name."""
    import tempfile

    program = (
        "import importlib.util, json, sys;"
        f"spec = importlib.util.spec_from_file_location('same_results', {__file__!r});"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "print(json.dumps(dict(module.results())))"
    )
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(_run(checkout, folder, "-c", program).splitlines()[-1])
        return found | dict(of_command_line(checkout, folder))


def main():
    """The exit status is 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=ROOT)
    given = parser.parse_args()
    before, after = (of_checkout(each.resolve()) for each in (given.before, given.after))
    differing = [name for name in before if before[name] != after.get(name)]
    for name in differing:
        print(f"{before[name]}  {after.get(name)}  {name}")
    print(f"{len(before) - len(differing)} of {len(before)} the same")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
