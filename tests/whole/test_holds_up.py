"""Threads, forks, hundreds of models, interruptions and limits: nothing grows, nothing breaks."""

import gc
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from arrays import readonly
from command_line import environment

from mlp_xp import Loader, Network, train

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and open files are those of Linux")


def run(program, *arguments, **further):
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env=environment(**further),
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_eight_threads_predict_on_one_model(device, rng):
    network = Network((5, 64, 64, 3), device=device)
    parts = [readonly(rng.normal(size=(200 + 31 * number, 5)).astype(np.float32)) for number in range(8)]
    alone = [network.predict(x) for x in parts]
    start = threading.Barrier(8)

    def predict(number):
        start.wait()
        return [network.predict(parts[number]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for number, predictions in enumerate(pool.map(predict, range(8))):
            for found in predictions:
                np.testing.assert_array_equal(found, alone[number])


@linux
def test_two_hundred_models_leave_nothing_behind(device):
    x = np.linspace(-1, 1, 64).reshape(-1, 1)

    def train_one(number):
        network = Network((1, 16, 1), device=device, seed=number)
        loader = Loader(x, np.sin(3 * x), batch_size=16, prefetch="always")
        held_out = Loader(x[:20], np.sin(3 * x[:20]), batch_size="full")
        list(train(network, loader, validation=held_out, max_epochs=2, dropout=0.1, keep="best"))
        network.predict(x)

    def left():
        gc.collect()
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    for number in range(10):
        train_one(number)
    tracemalloc.start()
    try:
        train_one(10)
        before, bytes_before = left(), tracemalloc.get_traced_memory()[0]
        for number in range(11, 200):
            train_one(number)
        assert left() == before
        assert tracemalloc.get_traced_memory()[0] - bytes_before < 100_000
    finally:
        tracemalloc.stop()


WORKERS = """
    import multiprocessing, sys, warnings
    import numpy as np
    from mlp_xp import Loader, Network, train

    def trained(seed):
        x = np.linspace(-1, 1, 400).reshape(-1, 1)
        network = Network((1, 64, 64, 1), seed=seed)
        loader = Loader(x, np.sin(3 * x), batch_size=200, prefetch="always")
        list(train(network, loader, max_epochs=3))
        return network.predict(x).tobytes()

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        here = [trained(seed) for seed in range(4)]  # BLAS has its threads, and a loader had one
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            assert pool.map(trained, range(4)) == here
        print("the same")
"""


@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=linux)])
def test_workers_train_the_same_models(method, tmp_path):
    program = tmp_path / "workers.py"  # a file: spawned workers import it
    program.write_text(textwrap.dedent(WORKERS))
    # Two threads of BLAS, which a fork must not break.
    done = subprocess.run(
        [sys.executable, program, method],
        env=environment(OPENBLAS_NUM_THREADS="2"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


@pytest.mark.needs("sklearn")
def test_workers_of_joblib_fit_the_same_estimators():
    done = run("""
        import numpy as np
        from sklearn.model_selection import cross_val_score
        from mlp_xp import MLPRegressor
        x = np.random.default_rng(0).normal(size=(120, 3))
        model = MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0, tol=0)
        scores = [cross_val_score(model, x, x[:, 0], cv=4, n_jobs=n).tobytes() for n in (1, 2)]
        print(scores[0] == scores[1])
    """, PYTHONWARNINGS="ignore")  # fmt: skip
    assert done.stdout == "True\n", done.stderr


INTERRUPTED = """
    import random, signal, sys, threading, time
    import numpy as np
    from mlp_xp import Loader, Network, train

    x = np.linspace(-1, 1, 5000).reshape(-1, 1)
    def alive():
        # Python lists a thread for good whose start was interrupted before there was one.
        return sum(thread.is_alive() for thread in threading.enumerate())

    network, n_threads = Network((1, 32, 1)), alive()
    n_interrupted = 0
    random.seed(0)
    for number in range(40):
        loader = Loader(x, np.sin(3 * x), batch_size=10, prefetch=("always", "never")[number % 2])
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.05))
        try:
            for epoch in train(network, loader):
                pass
        except KeyboardInterrupt:
            n_interrupted += 1
        assert np.isfinite(network.predict(x)).all()
        for _ in range(1000):  # a thread that was interrupted while it started ends by itself
            if alive() == n_threads:
                break
            time.sleep(0.01)
        assert alive() == n_threads, threading.enumerate()
    last = None
    for epoch in train(network, loader, max_epochs=3):
        last = epoch
    print(n_interrupted, last.number, last.train_loss < 0.1)
"""


@linux
def test_an_interruption_at_any_moment_leaves_usable_weights():
    """As Ctrl-C in a notebook: KeyboardInterrupt wherever Python is, and the next cell goes on."""
    start = "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
    done = run(start + textwrap.dedent(INTERRUPTED))
    assert done.stdout == "40 3 True\n", done.stderr


LIMITED = """
    import resource, sys
    from mlp_xp.cli import main
    resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
    main(["train", *sys.argv[3:]])
"""


@linux
def test_a_limit_of_memory_is_our_error(tmp_path):
    done = run(
        LIMITED, "RLIMIT_AS", 1_500_000_000, "--hidden", "20000,20000", "--quiet", "--out", tmp_path / "m"
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("mlp-xp: error: ")
    assert "there is not enough memory: Unable to allocate" in line
    assert not list(tmp_path.iterdir())


@linux
@pytest.mark.parametrize("errors", ["go on", "stop"])
def test_a_limit_of_file_sizes_is_our_error(errors, tmp_path):
    given = ("--hidden", "300,300", "--epochs", 3, "--quiet", "--checkpoint-errors", errors)
    folder = ("--checkpoint-dir", tmp_path / "c", "--checkpoint-every", "1epoch")
    done = run(LIMITED, "RLIMIT_FSIZE", 100_000, *given, *folder, "--out", tmp_path / "m.safetensors")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("mlp-xp: ") for line in lines)
    assert ("Training goes on" in lines[0]) == (errors == "go on")
    assert len(lines) == (4 if errors == "go on" else 1)  # three checkpoints and the model
    assert "File too large" in lines[-1]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]


def test_a_few_trainings_of_the_soak():
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.soak", "--runs", "12", "--seed", "3"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 trainings" in done.stdout
