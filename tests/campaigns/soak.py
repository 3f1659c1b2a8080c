"""Trainings with random options, one after the other in one process, watched for growth.

    python -m tests.campaigns.soak                 for 30 minutes
    python -m tests.campaigns.soak --minutes 10 --seed 3
    python -m tests.campaigns.soak --runs 12

Options are drawn from all activations, losses, optimizers, schedules and orders; runs are broken off, gone on
with, saved, loaded and made to diverge. At the end there are the threads and open files of the beginning, and
the memory of the last quarter is that of the second: 1% and 8 MB more at most.
"""

import argparse
import contextlib
import gc
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from mlp_xp import Loader, Network, load, save, train
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.losses import LOSSES
from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.rows.order import ORDERS
from mlp_xp.saved.checkpoint import Checkpoints
from mlp_xp.schedules import SCHEDULES

MOST_BYTES, MOST_SHARE = 8_000_000, 0.01


def one_training(drawn: random.Random, folder: Path) -> str:
    """Train with drawn options; what was trained, and how it ended."""
    loss_name = drawn.choice([name for name in LOSSES if name != "pinball"])
    loss, optimizer = LOSSES[loss_name](), drawn.choice(list(OPTIMIZERS))
    is_lbfgs = optimizer == "lbfgs"
    n_rows, n_features = drawn.choice((50, 300, 2000)), drawn.choice((1, 4, 20))
    hidden = [drawn.choice((1, 8, 40)) for _ in range(drawn.randrange(4))]
    n_classes = drawn.choice((2, 5)) if loss.labels else None
    generator = np.random.default_rng(drawn.randrange(2**32))
    x = generator.normal(size=(n_rows, n_features))
    y = generator.integers(0, n_classes or 2, n_rows) if loss.labels else generator.uniform(0, 1, (n_rows, 1))
    if loss_name == "binary_cross_entropy":
        y = y.round()
    network = Network(
        (n_features, *hidden, loss.n_outputs(1, n_classes)),
        activation=drawn.choice(list(ACTIVATIONS)),
        bias=drawn.random() < 0.8,
        dtype=drawn.choice(("float32", "float64")),
        seed=drawn.randrange(1000),
    )
    loader = Loader(
        x,
        y,
        generator.uniform(0, 2, n_rows) if drawn.random() < 0.3 else None,
        batch_size="full" if is_lbfgs else drawn.choice((7, 32, "full", "auto")),
        order="sequential" if is_lbfgs else drawn.choice(list(ORDERS)),
        prefetch=drawn.choice(("always", "never", "auto")),
        chunk_rows=drawn.choice((64, 4096)),
    )
    options = {
        "loss": loss,
        "optimizer": optimizer,
        "schedule": drawn.choice([name for name in SCHEDULES if name != "given"]),
        "learning_rate": drawn.choice((1e-3, 0.1, 1e6)),
        "regularizer": drawn.choice((None, "l1", "l2")),
        "dropout": 0.0 if is_lbfgs or not hidden else drawn.choice((0.0, 0.3)),
        "clip_norm": None if is_lbfgs else drawn.choice((None, 1.0)),
        "validation": Loader(x[:20], y[:20], batch_size="full") if drawn.random() < 0.5 else None,
        "max_epochs": drawn.choice((1, 3, 8)),
        "patience": drawn.choice((None, 2)),
        "keep": drawn.choice(("best", "last")),
        "on_divergence": drawn.choice(("stop", "rollback")),
        "way": drawn.choice(("fast", "plain")),
    }
    last, stop_at = None, drawn.choice((None, None, 1, 2))
    with contextlib.ExitStack() as stack:
        if drawn.random() < 0.3:
            place = tempfile.TemporaryDirectory(dir=folder)
            checkpoints = Checkpoints(stack.enter_context(place), drawn.choice(("2steps", "1epoch", "1h")))
            options["checkpoints"] = stack.enter_context(checkpoints)
        try:
            for epoch in train(network, loader, **options):
                last = epoch
                if epoch.number == stop_at:
                    break
            if stop_at is not None and last is not None:
                for epoch in train(network, loader, **options, state=last.state()):
                    last = epoch
        except FloatingPointError:
            return f"{optimizer}, {loss_name}: diverged"
    if not np.isfinite(network.parameters.flat).all():
        raise AssertionError(f"weights that are not finite: {options}")
    path = folder / "model.safetensors"
    save(network, path)
    again = load(path).predict(x[:30])
    np.testing.assert_array_equal(again, network.predict(x[:30]))
    return f"{optimizer}, {loss_name}: {last.stopped if last else 'nothing left'}"


def left() -> tuple[int, int]:
    """Threads and open files."""
    gc.collect()
    folder = Path("/proc/self/fd")
    return threading.active_count(), len(list(folder.iterdir())) if folder.exists() else 0


def memory() -> int:
    """Bytes that are resident, where Linux says so."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * 4096 if path.exists() else 0


def main() -> int:
    """The exit status is 1 where something grew."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--runs", type=int, help="so many trainings, instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    drawn, end = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    sizes: list[int] = []
    before: tuple[int, int] | None = None
    with tempfile.TemporaryDirectory(prefix="mlp-xp-soak-") as folder:
        while len(sizes) < options.runs if options.runs else time.monotonic() < end:
            one_training(drawn, Path(folder))
            sizes.append(memory())
            if len(sizes) == min(200, (options.runs or 400) // 2):
                before = left()
        after = left()
    quarter = max(1, len(sizes) // 4)
    early, late = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    print(
        f"{len(sizes):,} trainings: threads and open files {before} then, {after} at the end; resident "
        f"memory {early / 1e6:.1f} MB in the second quarter, {late / 1e6:.1f} MB in the last"
    )
    has_grown = late - early > max(MOST_BYTES, MOST_SHARE * early) and not options.runs
    return int(has_grown or (before is not None and after != before))


if __name__ == "__main__":
    sys.exit(main())
