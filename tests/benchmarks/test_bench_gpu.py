"""The benchmark of the GPU, as far as it goes without one."""

import dataclasses
import functools
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mlp_xp.machine import cuda

ROOT = Path(__file__).parents[2]

bench = pytest.importorskip("bench.gpu", reason="the benchmarks are not here")
gpu_peers = pytest.importorskip("bench.peers.gpu")
step_peers = pytest.importorskip("bench.peers.step")

TRAINING = step_peers.Training((4, 3, 1), "tanh", False, 2, "sgd", steps=3, rounds=1)


@pytest.mark.skipif(cuda.problem() is None, reason="there is a GPU: it would be measured")
def test_without_a_gpu_it_says_why_and_writes_that_nothing_was_measured(tmp_path):
    command = [sys.executable, "-m", "bench", "gpu", "--out", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "Not measured." in run.stdout.splitlines()
    assert str(cuda.problem()) in run.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    check_not_measured(tmp_path / "gpu.json")


def check_not_measured(path):
    document = json.loads(path.read_text())
    assert document["measured"] is None
    assert set(document["targets"].values()) == {"not measured"}
    assert document["why"].endswith("or use device 'cpu'.")
    assert "rows" not in document


def test_what_is_kept_of_the_gpu_is_measured_or_says_that_it_is_not():
    folder = ROOT / "bench" / "results"
    measured = list(folder.glob("gpu-cuda_*.json"))
    assert measured or (folder / "gpu.json").exists()
    if (folder / "gpu.json").exists():
        check_not_measured(folder / "gpu.json")
    for path in measured:
        document = json.loads(path.read_text())
        assert document["machine"]["gpu"]
        assert document["measured"]


@pytest.mark.parametrize(
    ("sizes", "row", "expected"),
    [
        ((4, 256, 1), (4.0, 0.5, 0.1), ["reached"]),
        ((4, 256, 1), (3.9, 9.0, 9.0), ["NOT REACHED"]),
        ((4, 256, 1), (None, 9.0, 9.0), ["not measured"]),
        ((4, 257, 1), (1.0, 0.95, 0.1), ["reached"] * 2),
        ((4, 257, 1), (0.9, 0.94, 0.9), ["NOT REACHED"] * 2),
        (None, (1.0, 0.95, 0.85), ["reached"] * 3),
        (None, (1.0, 0.95, 0.84), ["reached", "reached", "NOT REACHED"]),
    ],
)
def test_figures_are_held_against_their_targets(sizes, row, expected):
    """Where arithmetic allows 85% of the products, that is one; the bound stands beside every figure."""
    training = dataclasses.replace(TRAINING, sizes=sizes) if sizes else bench.TRAININGS[-1]
    names = ("torch eager ÷ mlp_xp", "best peer ÷ mlp_xp", "products ÷ mlp_xp")
    bound = {"mlp_xp": 25.0, bench.LEAST: 12.5}
    *notes, last = bench.verdicts(training, dict(zip(names, row, strict=True)) | bound)
    assert [note.rpartition(": ")[2].rstrip(".") for note in notes] == expected
    assert last.endswith("products, update and memory moved take 12.5 µs alone, 50% of the time.")


def test_what_bounds_a_step_from_below():
    training = bench.TRAININGS[-1]  # 1024-2048-2048-10, batch 1024, Adam: 6.3 million parameters
    assert bench.bytes_moved(training) == pytest.approx(4 * (7 * 6.317e6 + 1024 * 22_558), rel=1e-3)
    row = bench.table_row(training, {"mlp_xp": 100.0, bench.BOUND: 50.0}, 1e13)
    assert row[bench.LEAST] == pytest.approx(50 + 26.9, rel=0.01)


def test_a_part_that_fails_is_a_note_and_what_there_is_is_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "diagnose", lambda index: "a card")
    monkeypatch.setattr(bench, "Result", types.SimpleNamespace)
    monkeypatch.setattr(bench, "run_tests", lambda *about: "tests pass")

    def fails(*arguments, **options):
        assert "tests pass" in (tmp_path / "gpu-so-far.json").read_text()
        raise MemoryError("no more")

    monkeypatch.setattr(bench, "time_steps", fails)
    monkeypatch.setattr(bench, "stream", lambda device, quick: ["streams"])
    result = bench.answer(quick=True, device="cuda")
    assert result.notes == ["tests pass", "tests pass", "steps: MemoryError: no more", "streams"]


def test_tests_that_fail_are_named(monkeypatch):
    out = "a.py::b PASSED [ 1%]\na.py::c FAILED [ 2%]\n=== 1 failed, 1 passed in 3 s ===\n"
    done = subprocess.CompletedProcess([], 1, stdout=out)
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: done)
    found = bench.run_tests("some", [], "cuda:0", 15)
    assert "cuda:0: a.py::c; 1 failed, 1 passed in 3 s (" in found


def test_they_are_named_also_where_time_runs_out(monkeypatch):
    def late(command, timeout, **options):
        raise subprocess.TimeoutExpired(
            command, timeout, output=b"a.py::b PASSED [ 1%]\na.py::c FAILED [ 2%]\n"
        )

    monkeypatch.setattr(subprocess, "run", late)
    found = bench.run_tests("some", [], "cuda:0", 15)
    assert "cuda:0: a.py::c; not through after 15 s, 2 lines" in found


@pytest.mark.needs("jax")
def test_jax_trains_alike_on_batches_that_are_placed():
    ends = []
    for placed in (False, True):
        run, weights = step_peers.jax_jit(step_peers.make_task(TRAINING, 3), placed=placed)
        run()
        ends.append(weights())
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="unknown part 'stream'; known: suite, gpu tests, steps, streaming"):
        bench.answer(quick=True, device="cuda", parts=["stream"])


def test_a_peer_is_measured(monkeypatch):
    monkeypatch.setitem(gpu_peers.PEERS, "here", (step_peers.mlp_xp, "mlp_xp"))
    found = gpu_peers.measure("here", TRAINING)
    assert found["microseconds"] > 0
    assert len(found["movement"]) == step_peers.N_PROJECTIONS


@pytest.mark.needs("torch")
def test_each_network_is_compiled_afresh(monkeypatch):
    """PyTorch compiles one function for so many networks only; the ones after that it runs as they are."""
    import torch
    from torch import _dynamo

    calls = []
    monkeypatch.setattr(_dynamo, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda f, mode: calls.append("compile") or f)
    for kind in (torch.nn.Module, torch.Tensor):
        monkeypatch.setattr(kind, "cuda", lambda here: here)
    make, _ = gpu_peers.PEERS["torch.compile"]
    for _ in range(2):
        make(step_peers.make_task(TRAINING, 2))
    assert calls == ["reset", "compile"] * 2


@pytest.mark.skipif(cuda.problem() is None, reason="there is a GPU")
def test_a_peer_that_fails_says_why():
    answers = bench.ask_peer("matrix products", [TRAINING, TRAINING])
    assert len(answers) == 2
    assert all("RuntimeError" in answer["error"] for answer in answers)


def test_the_table(monkeypatch):
    peers = {
        "mlp_xp": (None, "mlp_xp"),
        "matrix products": (None, "mlp_xp"),
        "torch eager": (None, "mlp_xp"),
        "JAX jit": (None, "a_module_that_nobody_has"),
    }
    monkeypatch.setattr(gpu_peers, "PEERS", peers)
    answers = {
        "mlp_xp": {"microseconds": 10.0, "movement": [1.0, 2.0], "idle": 0.25},
        "matrix products": {"microseconds": 9.0, "movement": []},
        "torch eager": {"microseconds": 50.0, "movement": [1.0, 2.5]},
    }
    monkeypatch.setattr(bench, "ask_peer", lambda name, trainings, seconds: [answers[name]] * len(trainings))
    (row,), notes = bench.time_steps([TRAINING])
    assert row["products ÷ mlp_xp"] == 0.9
    assert row["torch eager ÷ mlp_xp"] == row["best peer ÷ mlp_xp"] == 5.0
    assert (row["GPU idle"], row.get("JAX jit")) == (0.25, None)
    assert notes[0] == "JAX jit: not installed."
    assert notes[1].endswith("torch eager ÷ mlp_xp 5, target 4: reached.")
    assert "torch eager trains otherwise" in notes[2]


def test_ways_of_mlp_xp():
    ways = [make.keywords for make, _ in gpu_peers.PEERS.values() if isinstance(make, functools.partial)]
    assert {"way": "plain"} in ways
    assert {"way": "fused"} in ways
