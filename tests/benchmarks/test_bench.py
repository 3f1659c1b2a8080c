"""Every benchmark works at toy size and finds what it must; how long it takes is not tested."""

import csv
import dataclasses
import importlib
import itertools
import json
import math
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import __main__ as command
from bench import activations, batch_size, checkpoints, loader, members, memoisation, steps, streaming, tables
from bench.harness import measure, results
from bench.peers import loader as loader_peers
from bench.peers import members as member_peers
from bench.peers import step as step_peers
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.fast import on_cpu
from mlp_xp.machine.array_api import backend as find_backend

ROOT = Path(__file__).parents[2]
NAMES = (*command.ON_ANY_DEVICE, *command.ON_THE_CPU)


def row_of(result, column, value):
    return next(row for row in result.rows if row[column] == value)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_every_benchmark_is_known_to_the_command_and_asks_a_question():
    files = {path.stem for path in (ROOT / "bench").glob("*.py") if "\ndef answer(" in path.read_text()}
    names = {*NAMES, *command.ON_A_GPU}
    assert files == names
    for name in names:
        assert importlib.import_module(f"bench.{name}").__doc__.splitlines()[0].endswith("?")


# Memoisation


def test_memoisation_counts_paths_and_weights(device, draws):
    result = memoisation.answer(quick=True, device=device)
    seed = row_of(result, "network", "4-3-2-1")
    assert seed["paths Π n"] == 4 * 3 * 2 * 1
    assert seed["weights Σ n n'"] == 4 * 3 + 3 * 2 + 2 * 1
    assert seed["without memo (µs)"] > 0
    assert all(row["memo (bytes)"] > 0 for row in result.rows)
    draws(memoisation, result)


@pytest.mark.parametrize("block", [1, 7, 50, 10**6])
@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 4), (2, 3, 4, 3), (2, 3, 2, 3, 2, 2)])
def test_every_path_is_walked_once(sizes, block, monkeypatch):
    # With a = 1, δ = 1 and ∂z_m/∂z_u = 1, a derivative is the number of paths from unit j on.
    monkeypatch.setattr(memoisation, "BLOCK", block)
    without = memoisation.WithoutMemo(memoisation.tanh_network(sizes, "cpu"))
    edges = [np.ones((1, n_out, n_in)) for n_in, n_out in itertools.pairwise(sizes[1:])]
    delta = np.ones((1, sizes[-1]))
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        found = without.of_layer(np.ones((1, n_in)), edges[layer:], delta)
        np.testing.assert_array_equal(found, np.full((n_in, n_out), math.prod(sizes[layer + 2 :])))


@pytest.mark.parametrize("block", [1, 9, 60, 10**6])
def test_without_memo_is_the_derivative_for_several_rows(block, monkeypatch, rng):
    monkeypatch.setattr(memoisation, "BLOCK", block)
    network = memoisation.tanh_network((3, 4, 2, 3, 2), "cpu")
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    flat = network.parameters.flat

    def loss():
        return ((network.predict(x, output="raw") - y) ** 2).sum()

    quotients = []
    for i in range(flat.size):
        flat[i] += 1e-6
        above = loss()
        flat[i] -= 2e-6
        quotients.append((above - loss()) / 2e-6)
        flat[i] += 1e-6
    found = memoisation.WithoutMemo(network).derivatives(x, y)
    np.testing.assert_allclose(np.concatenate([d.ravel() for d in found]), quotients, atol=1e-7)


def test_derivatives_that_differ_are_not_timed():
    with pytest.raises(RuntimeError, match="differ by 1e-08"):
        memoisation.difference([np.array([1.0, 2.0])], [np.array([1.0, 2.0 + 2e-8])])


# Members


def test_members_are_timed_for_each_of_the_fits_that_were_made(draws):
    training = dataclasses.replace(members.TRAININGS[0], members=128, steps=100)
    slices = [{"mlp_xp": 0.0128 * n, "scikit-learn": 0.04, "torch bmm": 1.28} for n in (1, 2)]
    row = members.table_row(training, slices)
    assert row["mlp_xp"] == pytest.approx(1.5)
    assert row["scikit-learn ÷"] == pytest.approx(75.0)  # of four fits
    assert row["torch bmm ÷"].least == pytest.approx(50.0)
    assert row["JAX scan of vmap ÷"] is None
    draws(members, results.Result(question="How long?", rows=[row]))


@pytest.mark.needs("numba", "scipy")
def test_members_take_memory_for_each(monkeypatch):
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", on_cpu.PAYS_AFTER)  # it sets it
    both = members.answer(quick=False, device="cpu", only=("memory",)).curves["memory"]
    assert 1.0 < both["members"] / both["one"] <= both["k"]


@pytest.mark.needs("numba", "scipy", "sklearn")
def test_members_train_alike_in_other_libraries(monkeypatch):
    monkeypatch.setattr(on_cpu, "PAYS_AFTER", on_cpu.PAYS_AFTER)  # some set it
    training = dataclasses.replace(members.toy(members.TRAININGS[3]), members=4)
    task = step_peers.make_task(training, 4)
    found = {}
    for name in ("mlp_xp", "mlp_xp one by one", "scikit-learn"):
        run_all, weights = member_peers.PEERS[name].make(task)
        run_all()
        found[name] = weights()
    for other in ("mlp_xp one by one", "scikit-learn"):
        for one, theirs in zip(found["mlp_xp"], found[other], strict=True):
            np.testing.assert_allclose(theirs, one, rtol=1e-3, atol=1e-4)


# Checkpoints


def test_checkpoints_are_written_after_every_epoch(device, draws):
    result = checkpoints.answer(quick=True, device=device)
    (row,) = result.rows
    n_parameters = sum((a + 1) * b for a, b in itertools.pairwise(checkpoints.TOY_SIZES))
    assert row["checkpoint (bytes)"] > 3 * 4 * n_parameters  # weights, and Adam's two vectors
    assert 0 < row["checkpoint (s)"] < row["with a checkpoint (s)"]
    draws(checkpoints, result)


# Activations


def test_activations_are_all_there_and_agree(device, draws):
    result = activations.answer(quick=True, device=device)
    assert result.column("activation") == list(activations.MEASURED)
    assert row_of(result, "activation", "tanh")["f' is kept as"] == "a"
    assert row_of(result, "activation", "gelu")["f' is kept as"] == "f'(z)"
    assert all(seconds > 0 for seconds in result.column("epoch (s)"))
    draws(activations, result)


@pytest.mark.parametrize("name", activations.MEASURED)
def test_derivative_recomputed_from_z_is_that_of_the_value(name, rng):
    backend = find_backend("cpu", "float64")
    z, h = 3.0 * rng.standard_normal(500), 1e-6
    z = z[np.abs(z) > 1e-3]  # away from the kinks

    def value(z):
        a = z[:, None].copy()
        ACTIVATIONS[name]().forward(backend, a, None)
        return a[:, 0]

    quotient = (value(z + h) - value(z - h)) / (2 * h)
    np.testing.assert_allclose(activations.DERIVATIVE_OF_Z[name](np, z), quotient, atol=1e-8)


def test_a_wrong_derivative_is_not_timed():
    backend = find_backend("cpu")
    layer = activations.Layer(ACTIVATIONS["tanh"](), backend, backend.asarray([[0.5]]))
    with pytest.raises(RuntimeError, match="tanh"):
        activations.check("tanh", layer, backend.asarray([[0.5]]))


# Batch sizes


def test_batch_sizes_make_the_right_number_of_steps(device, draws):
    result = batch_size.answer(quick=True, device=device)
    assert result.column("batch") == ["1", "10", "all 60"]
    assert result.column("steps an epoch") == [60, 6, 1]
    memory = result.column("memory of a step (bytes)")
    assert memory == sorted(memory)
    for curve in result.curves.values():
        assert curve["seconds"][0] == 0.0
        assert curve["loss"][-1] < curve["loss"][0]
    draws(batch_size, result)


def test_a_training_that_diverges_is_said_to(device):
    x, y = batch_size.points(40)
    training = batch_size.Training(find_backend(device), "full", 1e30, x, y)
    for _ in range(5):
        training.advance(0.0)
    assert training.losses[-1] == math.inf


# Steps


def test_libraries_train_alike(draws):
    trainings = (step_peers.TRAININGS[0], step_peers.TRAININGS[4])
    result = steps.answer(quick=True, device="cpu", trainings=trainings)
    why = ("not installed.", "(--compile).")
    absent = {note.partition(":")[0] for note in result.notes if note.endswith(why)}
    assert "torch.compile" in absent
    assert [note for note in result.notes if "failed" in note] == []
    for row in result.rows:
        assert {name for name in step_peers.PEERS if row[name] is None} == absent
        assert row["mlp_xp ÷ products"] > 0
    draws(steps, result)


class TwoPeers:
    """Stands in for the processes of mlp_xp and another library."""

    def __init__(self, theirs):
        self.theirs = theirs

    def ask_together(self, order, **details):
        pass

    def ask(self, order, **details):
        return {"mlp_xp": [1.0, 0.0], "other": self.theirs, "matrix products": []}


def test_a_library_that_trains_differently_is_refused():
    training = step_peers.TRAININGS[0]
    assert steps.compare(training, TwoPeers([1.01, 0.0])) == pytest.approx(0.01)
    with pytest.raises(RuntimeError, match=r"4-3-2-1 .* other are off mlp_xp's by 10.00%"):
        steps.compare(training, TwoPeers([1.0, 0.1]))


def test_a_peer_that_fails_is_left_out_and_named():
    with steps.Workers(["mlp_xp", "matrix products"]) as workers:
        workers.alive["matrix products"].process.kill()
        answers = workers.ask("run")
    assert answers.keys() == {"mlp_xp"}
    assert workers.failures[0].startswith("matrix products failed")


def test_steps_are_for_the_cpu_and_known_peers():
    with pytest.raises(ValueError, match="CPU only"):
        steps.answer(quick=True, device="cuda")
    with pytest.raises(ValueError, match="unknown peer 'keras'"):
        steps.answer(quick=True, device="cpu", peers=["keras"])


# Loader


def test_loaders_are_timed_and_compared(draws):
    result = loader.answer(quick=True, device="cpu")
    (row,) = result.rows
    assert row["mlp_xp ÷ np.take"] > 0
    absent = [name for name in loader_peers.PEERS if row[name] is None]
    assert [f"{name}: not installed." for name in absent] == result.notes[3:]
    draws(loader, result)


@pytest.mark.parametrize("wrong", [[0, 1, 2, 2], [0, 1, 2], [0, 1, 2, 3]])
def test_a_loader_that_passes_other_rows_is_not_timed(wrong):
    batches = [(None, np.array(wrong)[:, None])]
    with pytest.raises(RuntimeError, match="every row once, in random order"):
        loader_peers.check(lambda number: iter(batches), 4)


# Streaming


@pytest.mark.needs("pyarrow")
def test_streaming_is_measured_in_three_parts(tmp_path, draws):
    result = streaming.answer(quick=True, device="cpu", folder=tmp_path)
    sources = result.column("rows from")
    assert sources[:4] == ["memory", "mapped file"] * 2
    assert sources[-3:] == ["CSV, converted", "its cache", "CSV, streamed"]
    assert result.rows[-3]["R² held out"] == result.rows[-2]["R² held out"]
    assert all(row["rows a second, before"] > 0 for row in result.rows[-3:])
    assert all(speed > 0 for speed in result.column("rows a second"))
    assert list(tmp_path.iterdir()) == []  # all is deleted
    draws(streaming, result)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux shows it so")
@pytest.mark.parametrize("kind", ["MAP_PRIVATE", "MAP_SHARED"])
def test_own_memory_is_what_a_process_holds(kind):
    """Pages of the system's own: an array may lie where others were freed, which the process holds anyway."""
    n_bytes = 40_000_000
    before = streaming.own_memory(os.getpid())
    with mmap.mmap(-1, n_bytes, flags=mmap.MAP_ANONYMOUS | getattr(mmap, kind)) as held:
        np.frombuffer(held, np.uint8)[...] = 1
        assert streaming.own_memory(os.getpid()) - before == pytest.approx(n_bytes, rel=0.1)


def test_loading_is_measured_on_the_cpu():
    for benchmark in (loader, streaming):
        with pytest.raises(ValueError, match="CPU only"):
            benchmark.answer(quick=True, device="cuda")


# Tables


@pytest.mark.needs("pandas", "pyarrow", "sklearn")
def test_tables_are_compared_with_trees(draws):
    result = tables.answer(quick=True, device="cpu")
    assert len(result.rows) >= len(tables.TOY_TABLES)
    draws(tables, result)


# What they share


def test_calls_are_timed_in_turn():
    called = []
    medians = measure.paired_medians(
        {name: lambda name=name: called.append(name) for name in "ab"}, seconds=0.0
    )
    assert medians.keys() == {"a", "b"}
    assert all(seconds > 0 for seconds in medians.values())
    assert called[-2:] == ["a", "b"]


def test_a_median_and_its_multiples_know_their_spread():
    micro = 1e6 * measure.Median([4e-6, 1e-6, 2e-6]) / 2
    assert (micro, micro.least, micro.most) == pytest.approx((1.0, 0.5, 2.0))
    assert results.show(micro) == "1 (0.5 – 2)"
    assert results.show(measure.Median([3.0])) == "3"
    assert results.show(micro / micro) == "1"
    found = results.Result(question="?", rows=[{"name": "a", "µs": micro}]).document()
    assert json.loads(json.dumps(found))["spread"] == [{"µs": pytest.approx([0.5, 2.0])}]


def test_allocated_bytes_are_those_of_arrays_that_stay():
    assert measure.allocated_bytes(lambda: [np.ones(1000), np.ones(10)[:5]]) == 8080


def test_blas_kernels_are_not_pinned(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert "OPENBLAS_CORETYPE" not in measure.environment()
    assert measure.environment()["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), ("text", "text"), (0.0, "0"), (1234567, "1,234,567"), (2 * 10**12, "2.0e+12"),
     (0.01234, "0.0123"), (12.345, "12.3"), (1234.5, "1,234"), (1.5e-7, "1.50e-07")],
)  # fmt: skip
def test_numbers_are_short(value, shown):
    assert results.show(value) == shown


@pytest.fixture
def result():
    rows = [{"name": "a", "time (s)": 1.5, "n": 3}, {"name": "b|c", "time (s)": None, "n": 4}]
    return results.Result(question="Which?", rows=rows, notes=["A note."], curves={"a": [1.0]})


def test_a_result_says_what_it_ran_on(result):
    text = result.text()
    assert text.startswith("Which?\n\n| name")
    assert f"numpy {np.__version__}" in text
    assert "threads: " in text
    assert "\n- A note." in text


@pytest.mark.needs("matplotlib")
def test_a_result_is_written_in_three_forms(result, tmp_path):
    result.save(tmp_path, "which", lambda result, figure: figure.subplots().plot(result.curves["a"]))
    document = json.loads((tmp_path / "which.json").read_text(encoding="utf-8"))
    assert document["rows"] == result.rows
    assert document["machine"]["cores"] >= 1
    with (tmp_path / "which.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file))[1] == {"name": "b|c", "time (s)": "", "n": "4"}
    from matplotlib.image import imread

    np.testing.assert_array_equal(imread(tmp_path / "which.png")[0, 0], 1.0)  # white, opaque


def test_without_matplotlib_the_rest_is_written_and_the_extra_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"mlp-xp\[plot\]"):
        result.save(tmp_path, "which", lambda result, figure: None)
    assert {path.name for path in tmp_path.iterdir()} == {"which.json", "which.csv"}


@pytest.mark.needs("matplotlib")
def test_one_command_runs_benchmarks_and_writes_them(tmp_path):
    # Pinned kernels, to see that the benchmark is started anew without them.
    done = run("bench", "memoisation", "--quick", "--out", str(tmp_path), OPENBLAS_CORETYPE="Prescott")
    assert done.returncode == 0, done.stderr
    assert "4-3-2-1" in done.stdout
    assert "Prescott" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "memoisation.json",
        "memoisation.csv",
        "memoisation.png",
    }


def test_quick_results_are_not_kept(tmp_path):
    before = sorted((ROOT / "bench").rglob("results/*"))
    done = run("bench.activations", "--quick")
    assert done.returncode == 0, done.stderr
    assert sorted((ROOT / "bench").rglob("results/*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "memoization"], "unknown benchmark memoization; known: memoisation"),
        (["bench.memoisation", "--quick", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_what_is_not_known_is_refused(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
