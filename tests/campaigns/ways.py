"""Random options, by compiled steps and by plain ones: the same training up to rounding.

python -m tests.campaigns.ways --times 500
python -m tests.campaigns.ways --minutes 5 --seed 3
"""

import math
import random
import sys
from pathlib import Path

import numpy as np

from mlp_xp import Loader, Network, train
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.fast import on_cpu
from mlp_xp.losses import LOSSES
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.regularizers import ElasticNet
from mlp_xp.schedules import SCHEDULES
from tests.campaigns import draws

RULES = [name for name in OPTIMIZERS if name != "lbfgs"]


def check(drawn: random.Random, _: Path) -> None:
    """One set of options."""
    rng = np.random.default_rng(drawn.randrange(2**32))
    loss = LOSSES[drawn.choice([name for name in LOSSES if name != "pinball"])]()
    n_rows, n_features = drawn.choice((5, 64, 301)), drawn.choice((1, 3, 17))
    n_classes = drawn.choice((2, 4)) if loss.labels else None
    x = rng.normal(size=(n_rows, n_features))
    y = rng.integers(0, n_classes, n_rows) if loss.labels else rng.integers(0, 2, (n_rows, 1)).astype(float)
    weight = rng.uniform(0, 2, n_rows) * (rng.random(n_rows) < 0.9) + 1e-3 if drawn.random() < 0.3 else None
    n_outputs = loss.n_outputs(1, n_classes)
    layers = [drawn.choice((1, 2, 9, 40)) for _ in range(drawn.randrange(4))]
    of_network = {
        "activation": drawn.choice(list(ACTIVATIONS)),
        "bias": drawn.random() < 0.8,
        "dtype": drawn.choice(("float64", "float64", "float32")),
        "seed": drawn.randrange(1000),
    }
    of_loader = {
        "batch_size": drawn.choice((1, 7, 32, "full")),
        "chunk_rows": drawn.choice((16, 4096)),
        "seed": drawn.randrange(1000),
    }
    options = {
        "loss": loss,
        "optimizer": drawn.choice(RULES),
        "schedule": drawn.choice([name for name in SCHEDULES if name != "given"]),
        "learning_rate": drawn.choice((1e-4, 1e-3, 1e-2)),
        "regularizer": drawn.choice((None, "l1:strength=0.01", "l2:strength=0.01", ElasticNet(0.01, 0.02))),
        "dropout": drawn.choice((0.0, 0.0, 0.3)) if layers else 0.0,
        "clip_norm": drawn.choice((None, 0.5)),
        "average": drawn.choice((0.0, 0.0, 0.5)),
        "reduction": drawn.choice(("mean", "sum")),
        "max_epochs": 3,
    }
    found = []
    before, on_cpu.PAYS_AFTER = on_cpu.PAYS_AFTER, drawn.choice((0.0, 0.0, 1e-4))
    try:
        for way in ("plain", "fast"):
            network = Network((n_features, *layers, n_outputs), **of_network)
            loader, losses = Loader(x, y, weight, **of_loader), []
            try:
                losses = [epoch.train_loss for epoch in train(network, loader, way=way, **options)]
            except FloatingPointError:
                losses.append(math.nan)
            found.append((losses, np.array(network.parameters.flat)))
    finally:
        on_cpu.PAYS_AFTER = before
    rtol = 1e-7 if of_network["dtype"] == "float64" else 2e-2
    (plain, weights), (fast, fast_weights) = found
    np.testing.assert_allclose(fast, plain, rtol=rtol, err_msg=f"{of_network} {of_loader} {options}")
    size = max(1.0, float(np.abs(weights).max()))
    np.testing.assert_allclose(fast_weights, weights, rtol=rtol, atol=rtol * size, err_msg=f"{options}")


if __name__ == "__main__":
    sys.exit(draws.main(check, "ways", "Compiled and plain steps agree in", times=500))
