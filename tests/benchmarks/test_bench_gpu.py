"""The benchmark of the GPU, as far as it goes without one."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
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
    assert tuple(document["targets"]) == bench.TARGETS


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


@pytest.fixture
def found(monkeypatch, tmp_path):
    """What is found, kept in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return bench.Found([TRAINING])


def kept(folder):
    return json.loads((folder / "gpu-so-far.json").read_text())


@pytest.fixture
def without_work(monkeypatch, tmp_path):
    """`answer` finds a card and nothing to do; the seconds that each part had go to the list."""
    had = []

    def part(what):
        def work(found, *arguments, end=None, **options):
            had.append((what, (arguments[-1] if end is None else end) - time.monotonic()))
            found.note(what)

        return work

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "diagnose", lambda index: "a card")
    monkeypatch.setattr(bench, "Result", types.SimpleNamespace)
    monkeypatch.setattr(bench, "run_tests", part("tests"))
    monkeypatch.setattr(bench, "time_steps", part("steps"))
    monkeypatch.setattr(bench, "stream", part("streams"))
    return had


def test_a_part_that_fails_is_a_note_and_what_there_is_is_written(monkeypatch, tmp_path, without_work):
    def fails(found, end):
        assert kept(tmp_path)["notes"] == ["tests", "tests"]
        raise MemoryError("no more")

    monkeypatch.setattr(bench, "time_steps", fails)
    result = bench.answer(quick=True, device="cuda")
    assert result.notes == ["tests", "tests", "steps: MemoryError: no more", "streams"]
    assert kept(tmp_path)["notes"] == result.notes


def test_all_parts_share_one_deadline_and_each_has_what_is_left_before_it(without_work):
    bench.answer(quick=True, device="cuda", seconds=1000)
    parts, seconds = zip(*without_work, strict=True)
    assert parts == ("tests", "tests", "steps", "streams")
    np.testing.assert_allclose(seconds, np.cumsum([0.35, 0.15, 0.35, 0.15]) * 960, atol=30)
    without_work.clear()
    bench.answer(quick=True, device="cuda", seconds=1000, parts=["streaming", "suite"])
    np.testing.assert_allclose([each for _, each in without_work], [672, 960], atol=30)


def test_a_deadline_that_is_over_leaves_every_part_out(without_work, tmp_path):
    result = bench.answer(quick=True, device="cuda", seconds=0)
    assert without_work == []
    assert [note.partition(":")[0] for note in result.notes] == list(bench.PARTS)
    assert "suite: left out, since its share of 0 s is over." in kept(tmp_path)["notes"]


SAID = """a.py::b PASSED [ 1%]
a.py::c[x y] FAILED [ 2%]
a.py::d ERROR [ 3%]
==== short test summary info ====
FAILED a.py::c[x y] - assert [1]
ERROR a.py::d - OSError
ERROR e.py - ImportError
"""


def pytest_says(monkeypatch, text, *, then=""):
    class Says(bench.Child):
        def __init__(self, command, seconds):
            self.asked = command
            super().__init__([sys.executable, "-c", f"print({text!r}, flush=True)\n{then}"], seconds)

    monkeypatch.setattr(bench, "Child", Says)


def test_tests_that_fail_are_named(monkeypatch, found, tmp_path):
    pytest_says(monkeypatch, SAID + "=== 1 failed, 1 passed, 2 errors in 3.21s ===")
    bench.run_tests(found, "some", [], "cuda:0", time.monotonic() + 60)
    *failed, last = kept(tmp_path)["notes"]
    assert failed == [f"some: failed: {name}" for name in ("a.py::c[x y]", "a.py::d", "e.py")]
    assert last.startswith("some, --device cuda:0: 1 failed, 1 passed, 2 errors in 3.21s (")


def test_they_are_named_also_where_time_runs_out(monkeypatch, found, tmp_path):
    pytest_says(monkeypatch, SAID, then="import time; time.sleep(600)")
    bench.run_tests(found, "some", [], "cuda:0", time.monotonic() + 1)
    *failed, last = kept(tmp_path)["notes"]
    assert len(failed) == 3
    assert "not through after 1 s; 1 passed before, 3 failed (" in last


def test_a_pytest_that_refuses_says_why(monkeypatch, found):
    pytest_says(monkeypatch, "", then="import sys; sys.exit('ERROR: --device cuda: no GPU')")
    bench.run_tests(found, "some", [], "cuda:0", time.monotonic() + 60)
    assert "exit status 1: ERROR: --device cuda: no GPU; 0 passed before, 0 failed" in found.notes[0]


def test_only_tests_that_touch_the_device_are_asked_for(without_work, monkeypatch):
    asked = []
    monkeypatch.setattr(
        bench, "run_tests", lambda found, what, arguments, device, end: asked.extend(arguments)
    )
    bench.answer(quick=True, device="cuda", parts=["suite"])
    assert {"--on-device", "--backend=cupy"} <= set(asked)


def wait_until(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


CUT_OFF = """
import sys
from pathlib import Path
from bench import gpu
gpu.diagnose = lambda index: "a card"
gpu.run_tests = lambda found, what, arguments, device, end: found.note("tests pass")
here = Path.cwd()
HANGS = '''
import os, pathlib, sys, time
print("{}", flush=True)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
'''
class Hangs(gpu.Child):
    def __init__(self, command, seconds, given, environment):
        super().__init__([sys.executable, "-c", HANGS, str(here / "child")], seconds)
gpu.Child = Hangs
sys.argv = ["gpu", "--quick"]
sys.exit(gpu.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_what_is_cut_off_leaves_what_it_has_and_no_process(name, tmp_path):
    """While a library is measured that never ends."""
    number = getattr(signal, name)
    command = [sys.executable, "-c", CUT_OFF]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        wait_until((tmp_path / "child").exists)
        wait_until((tmp_path / "child").read_text)
        wait_until(lambda: kept(tmp_path)["under way"])
        run.send_signal(number)
        try:
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    document = kept(tmp_path)
    assert document["notes"][:2] == ["tests pass", "tests pass"]
    assert document["under way"] == "steps: mlp_xp"
    assert len(document["rows"]) == len(bench.TRAININGS)
    if name == "SIGKILL":  # which nobody can answer
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    else:
        assert run.returncode == 128 + number
        assert said == f"cut off; what there is: {tmp_path / 'gpu-so-far.json'}\n"
        wait_until(lambda: not is_running(int((tmp_path / "child").read_text())))


@pytest.mark.needs("jax")
def test_jax_trains_alike_on_batches_that_are_placed():
    import jax

    precision, ends = jax.config.jax_default_matmul_precision, []
    for make in (step_peers.jax_jit, gpu_peers.PEERS["JAX jit"][0]):
        run, weights = make(step_peers.make_task(TRAINING, 3))
        run()
        ends.append(weights())
    jax.config.update("jax_default_matmul_precision", precision)
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
def test_a_peer_that_fails_says_why(found):
    found.trainings = [TRAINING, TRAINING]
    bench.ask_peer(found, "matrix products", 60)
    assert len(found.answers["matrix products"]) == 2
    assert all("RuntimeError" in answer["error"] for answer in found.answers["matrix products"])


def answers_of(monkeypatch, code):
    class Answers(bench.Child):
        def __init__(self, command, seconds, given, environment):
            super().__init__([sys.executable, "-c", code], seconds, given)

    monkeypatch.setattr(bench, "Child", Answers)


def test_the_widest_is_measured_first_and_what_time_cuts_off_says_so(monkeypatch, found, tmp_path):
    wide = dataclasses.replace(TRAINING, sizes=(4, 300, 1))
    found.trainings = [TRAINING, wide]
    answers_of(monkeypatch, "import time; print(input(), flush=True); time.sleep(600)")
    bench.ask_peer(found, "torch eager", 2)
    first, last = found.answers["torch eager"]
    assert first == {"error": "not through after 2 s"}
    assert last["sizes"] == [4, 300, 1]
    assert len(kept(tmp_path)["rows"]) == 2


def test_the_table(monkeypatch, found):
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

    def ask(found, name, seconds):
        found.answers[name] = [answers[name]]

    monkeypatch.setattr(bench, "ask_peer", ask)
    bench.time_steps(found, time.monotonic() + 60)
    (row,), notes = bench.table(found.trainings, found.answers)
    assert row["products ÷ mlp_xp"] == 0.9
    assert row["torch eager ÷ mlp_xp"] == row["best peer ÷ mlp_xp"] == 5.0
    assert (row["GPU idle"], row.get("JAX jit")) == (0.25, None)
    assert found.notes == ["JAX jit: not installed."]
    assert notes[0].endswith("torch eager ÷ mlp_xp 5, target 4: reached.")
    assert "torch eager trains otherwise" in notes[1]


def test_where_no_time_was_measured_the_picture_is_empty(found):
    rows, _ = bench.table([TRAINING], {name: [{}] for name in gpu_peers.PEERS})
    result = types.SimpleNamespace(rows=rows, column=lambda name: [row.get(name) for row in rows])
    bench.draw(result, types.SimpleNamespace(subplots=lambda: None))


def test_each_library_has_its_part_of_the_time_and_what_those_before_it_left(monkeypatch, found):
    given = []
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda module: True)
    monkeypatch.setattr(bench, "ask_peer", lambda found, name, seconds: given.append((name, seconds)))
    bench.time_steps(found, time.monotonic() + 700)
    n = len(gpu_peers.PEERS)
    np.testing.assert_allclose([each for _, each in given], [700 / (n - i) for i in range(n)], atol=30)
    assert given[-1][0] == "torch.compile"  # compiles longest


def test_streams_are_held_against_their_targets(monkeypatch, found):
    line = {"order": "blocks", "speed": 1e6, "bandwidth": 5e10, "resident": 0.96, "share": 0.5}
    lines = "".join(json.dumps(line | {"name": name}) + "\n" for name in ("compute-bound", "copy-bound"))
    pytest_says(monkeypatch, lines.strip(), then="import sys; sys.exit('ran out')")
    bench.stream(found, "cuda:0", quick=True, end=time.monotonic() + 60)
    compute, copy, end = found.notes
    assert compute.endswith("target 95%: reached.")
    assert copy.endswith("50% of the pinned copy bandwidth (50.0 GB/s); target 85%: NOT REACHED.")
    assert end == "streaming: exit status 1: ran out."


def test_ways_of_mlp_xp():
    ways = [make.keywords for make, _ in gpu_peers.PEERS.values() if isinstance(make, functools.partial)]
    assert {"way": "plain"} in ways
    assert {"way": "fused"} in ways
