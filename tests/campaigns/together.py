"""Trainings at once, in threads, in processes and in ranks: each ends as it does alone.

    python -m tests.campaigns.together --times 20
    python -m tests.campaigns.together --minutes 5 --seed 3

Threads of one process train with other sizes at the same time, some compiled, some plain: each has the bits
of itself alone. Two commands start at once with one cache, and end with the same file. Ranks of MPI, where
there is one, end with the weights of one process up to rounding.
"""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from mlp_xp import Loader, Network, load, train
from mlp_xp.fast import on_cpu
from tests.campaigns import draws
from tests.campaigns.kills import ROOT, Run, write_table


def check(drawn: random.Random, folder: Path) -> None:
    """All three."""
    threads(drawn)
    processes(folder)
    if shutil.which("mpiexec"):
        ranks(drawn, folder)


def threads(drawn: random.Random) -> None:
    """Several trainings in threads of this process."""
    before, on_cpu.PAYS_AFTER = on_cpu.PAYS_AFTER, drawn.choice((0.0, 1e9))
    try:
        sizes = [drawn.choice((30, 300)) for _ in range(drawn.randint(2, 4))]
        alone = [trained(size) for size in sizes]
        found: dict[int, bytes] = {}

        def work(at: int) -> None:
            found[at] = trained(sizes[at])

        workers = [threading.Thread(target=work, args=(at,)) for at in range(len(sizes))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if [found[at] for at in range(len(sizes))] != alone:
            raise AssertionError(f"threads of sizes {sizes} ended otherwise than alone")
    finally:
        on_cpu.PAYS_AFTER = before


def trained(size: int) -> bytes:
    """The weights of a training."""
    x = np.random.default_rng(size).normal(size=(600, 20)).astype(np.float32)
    network = Network((20, size, size, 1), seed=size)
    for _ in train(network, Loader(x, x[:, :1], batch_size=200), max_epochs=3):
        pass
    return network.parameters.flat.tobytes()


def processes(folder: Path) -> None:
    """Two commands that make one cache."""
    data = folder / "table.csv"
    write_table(data, 5000)
    runs = [Run(folder / name, data, 1, folder / "cache") for name in ("a", "b")]
    started = [run.start() for run in runs]
    said = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        raise AssertionError(f"two at once: {said}")
    if runs[0].model.read_bytes() != runs[1].model.read_bytes():
        raise AssertionError("two at once ended otherwise")


def ranks(drawn: random.Random, folder: Path) -> None:
    """Two or three processes that train together."""
    data, number = folder / "small.csv", drawn.choice((2, 3))
    write_table(data, 400)
    command = [sys.executable, "-m", "mlp_xp", "train", str(data), "--target", "y", "--recipe", "plain"]
    command += ["--epochs", "2", "--batch-size", "64", "--dtype", "float64", "--quiet", "--validation", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    flat = []
    for name, before in (("alone", []), ("ranks", ["mpiexec", "-n", str(number)])):
        out = folder / f"{name}.safetensors"
        done = subprocess.run(
            [*before, *command, "--out", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise AssertionError(f"{name}: {done.stderr}")
        flat.append(load(out).network.parameters.flat)
    np.testing.assert_allclose(flat[1], flat[0], rtol=1e-9, atol=1e-11, err_msg=f"{number} ranks")


if __name__ == "__main__":
    sys.exit(draws.main(check, "together", "Trainings at once are those alone in", times=20))
