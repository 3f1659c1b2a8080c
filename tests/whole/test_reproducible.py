"""Same seed, same bits, in any process, prefetching and pause; and nothing leaks from held-out rows."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from arrays import readonly

from mlp_xp import Loader, Network, load, train
from mlp_xp.cli import main
from mlp_xp.fast import on_cpu
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.saved.checkpoint import Checkpoints


def rows(n_rows=300):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(n_rows, 4))
    return readonly(x), readonly(np.sin(x[:, :1]) + x[:, 1:2] ** 2)


def trained(device, *, checkpoints=None, x=None, loader=None, validation=None, **options):
    """The bits of the weights after four epochs, and the losses."""
    x, y = rows() if x is None else x
    network = Network((4, 16, 16, 1), device=device, seed=2)
    loader = Loader(x, y, batch_size=32, seed=4, **(loader or {}))
    options = {"dropout": 0.1, "max_epochs": 4, "learning_rate": 0.01, **options}
    *_, last = train(network, loader, validation=validation, checkpoints=checkpoints, **options)
    return network.parameters.to_host().tobytes(), last.training.history.train_losses


PROGRAM = """
    import sys
    from whole.test_reproducible import trained
    print(trained(sys.argv[1])[0].hex())
"""


def test_two_processes(device):
    tests = Path(__file__).parents[1]
    found = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), device],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.strip())
    assert found == {trained(device)[0].hex()}


def test_any_prefetching(device):
    assert len({trained(device, loader={"prefetch": each})[0] for each in ("always", "never", "auto")}) == 1


def test_another_seed_is_another_result(device):
    assert trained(device)[0] != trained(device, seed=1)[0]


class FromThreads(ArraySource):
    """A source whose rows are gathered by several threads, in no order."""

    threads_may_share = True

    def __init__(self, x, y, n_threads):
        super().__init__(x, y)
        self.n_threads = n_threads

    def rows(self, index, x, y, weight):
        parts = np.array_split(np.arange(len(index)), self.n_threads)
        with ThreadPoolExecutor(self.n_threads) as pool:
            for part in reversed(parts):
                if len(part):
                    pool.submit(
                        super().rows,
                        index[part],
                        x[part[0] : part[-1] + 1],
                        y[part[0] : part[-1] + 1],
                        None if weight is None else weight[part[0] : part[-1] + 1],
                    )


def test_any_number_of_threads_that_gather(device):
    x, y = rows()
    found = set()
    for n_threads in (1, 2, 5):
        network = Network((4, 16, 1), device=device, seed=2)
        loader = Loader(FromThreads(x, y, n_threads), batch_size=32, seed=4, prefetch="always")
        list(train(network, loader, max_epochs=3))
        found.add(network.parameters.to_host().tobytes())
    assert len(found) == 1


@pytest.mark.needs("numba", "scipy")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_steps_that_turn_to_compiled_ones_on_the_way(dropout, device, tmp_path, monkeypatch):
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", 13 * on_cpu.SAVED_PER_STEP)  # within the second epoch
    whole = trained(device, dropout=dropout)
    with Checkpoints(tmp_path, "1steps") as checkpoints:
        assert trained(device, dropout=dropout, checkpoints=checkpoints) == whole
    for path in sorted(tmp_path.glob("checkpoint-*"))[1:]:
        path.unlink()
    with Checkpoints(tmp_path, "1h") as checkpoints:
        state = checkpoints.latest()
        assert trained(device, dropout=dropout, checkpoints=checkpoints, state=state) == whole


def test_validation_rows_change_no_weight(device):
    held_out = Loader(readonly(np.full((50, 4), 1e30)), readonly(np.full(50, -1e30)), batch_size="full")
    assert trained(device, validation=held_out, keep="last") == trained(device)


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("poison", [1e12, -1e30])
def test_poisoned_validation_rows_change_neither_statistics_nor_weights(poison, device, tmp_path):
    x, y = rows()
    models = []
    for number, value in enumerate((0.5, poison)):
        table = np.column_stack([np.arange(len(x)), x, y])
        table[-30:, 1:] = value
        data, out = tmp_path / f"{number}.csv", tmp_path / f"{number}.safetensors"
        np.savetxt(data, table, delimiter=",", header="when,a,b,c,d,y", comments="", fmt="%.17g")
        given = ["--target", "y", "--time", "when", "--validation", "0.1", "--epochs", "3", "--keep", "last"]
        with pytest.raises(SystemExit) as ended:
            main(["train", str(data), *given, "--quiet", "--device", device, "--out", str(out)])
        assert ended.value.code == 0
        models.append(load(out))
    first, second = models
    assert first.network.parameters.to_host().tobytes() == second.network.parameters.to_host().tobytes()
    assert first.inputs == second.inputs
    assert first.targets == second.targets
