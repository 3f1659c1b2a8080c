"""Mutated files of every kind end in success or in our error; `python -m tests.campaigns.fuzz` has more."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backends import is_here
from campaigns.fuzz.campaign import campaign
from campaigns.fuzz.judge import BYTES
from campaigns.fuzz.kinds import KINDS
from command_line import runner

from mlp_xp.rows.files import local_file
from mlp_xp.tables.files.opening import open_source
from mlp_xp.tables.files.sandbox import Sandbox

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux says it")

FILES = 60


@linux
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.needs(*KINDS[k].libraries)) for k in KINDS]
)
def test_a_few_mutated_files(kind):
    outcome = campaign(kind, FILES, seed=20)
    assert outcome.wrong == {}
    assert outcome.n_files == FILES
    assert outcome.ended["read"], "nothing gets past the first check"


def run_code(path):
    eval(path.read_text())


def write_elsewhere(path):
    (path.parent.parent / "elsewhere").write_text("")


def take_memory(path):
    np.ones(BYTES // 8 + 2_000_000).sum()


def raise_what_is_not_ours(path):
    np.load(path, allow_pickle=False)


def start_a_process(path):
    subprocess.run(["true"], check=True)


# In a process of its own: what watches a process is not taken away again.
JUDGED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from whole import test_hostile_files as tests
from campaigns.fuzz.judge import Judge
from campaigns.fuzz.kinds import Kind
folder = Path(sys.argv[2]) / "in"
folder.mkdir()
path = folder / "file"
path.write_text("1 + 1")
judge = Judge(folder)
for name in sys.argv[3:]:
    print(judge.use(Kind("", None, None, getattr(tests, name)), path)[1])
"""

NOTICED = {
    run_code: "code of <string> is run",
    write_elsewhere: "writes ",
    take_memory: " MB",
    raise_what_is_not_ours: "was raised at",
    start_a_process: "subprocess.Popen",
}


@linux
def test_the_judge_notices(tmp_path):
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", JUDGED, tests, tmp_path, *(use.__name__ for use in NOTICED)],
        env={**os.environ, "PYTHONPATH": str(tests.parent), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for said, noticed in zip(done.stdout.splitlines(), NOTICED.values(), strict=True):
        assert noticed in said


def test_a_good_file_that_cannot_be_used_ends_a_campaign(monkeypatch):
    with pytest.raises(RuntimeError, match="no good file of kind 'none'"):
        campaign("none", 1)


class Opened:
    """What unpickling would make of a file: a mark that code was run."""

    def __reduce__(self):
        return Path.touch, (Path("code-was-run"),)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_objects_are_refused_and_nothing_is_run(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([[Opened(), 1], [2, 3]], dtype=object)
    path = tmp_path / f"x{suffix}"
    np.save(path, objects) if suffix == ".npy" else np.savez(path, x=objects)
    with pytest.raises(ValueError, match=r"x\.np.* holds Python objects, which are never loaded"):
        open_source(path)
    assert not Path("code-was-run").exists()
    pickle.loads(pickle.dumps(Opened()))
    assert Path("code-was-run").exists(), "the file would have run code"


@pytest.mark.needs("pyarrow")
class TestTrial:
    def parquet(self, folder, n_bytes):
        """A small file with a page of so many bytes."""
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({"a": ["x" * (n_bytes // 16)] * 16, "y": range(16)})
        path = folder / "t.parquet"
        parquet.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 30)
        return path

    def test_what_is_read_in_sandbox_is_read(self, tmp_path):
        path = self.parquet(tmp_path, 1600)
        with Sandbox() as sandbox:
            for _ in range(2):
                sandbox.read("Parquet", local_file(path), ["a", "y"])
        assert open_source(path, target="y", text="code").n_rows == 16

    @linux
    def test_a_small_file_that_asks_for_much_memory_is_refused(self, tmp_path):
        path = self.parquet(tmp_path, 500_000_000)
        assert path.stat().st_size < 1_000_000
        with pytest.raises(ValueError, match=r"t\.parquet can not be read to the end.*alloc"):
            open_source(path, target="y", text="code")

    def test_the_end_of_the_process_becomes_an_error(self, tmp_path):
        path = self.parquet(tmp_path, 1600)
        with Sandbox() as sandbox:
            sandbox.read("Parquet", local_file(path), ["a"])
            sandbox._process.kill()
            with pytest.raises(ValueError, match=r"t\.parquet can not be read: it ended the process"):
                sandbox.read("Parquet", local_file(path), ["a"])
            sandbox.read("Parquet", local_file(path), ["a"])


@pytest.mark.needs("pyarrow")
def test_what_steers_a_terminal_is_written_out_in_errors(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("a,\x1b[2Jb\n1,2\n3,4\n")
    outcome = runner(capsys)("train", path, "--target", "y")
    assert outcome.status == 2
    assert "\x1b" not in outcome.err
    assert r"\x1b[2Jb" in outcome.err


@pytest.mark.parametrize(
    "text",
    [
        "seed = " + "9" * 5000,
        "hidden = " + "[" * 5000,
        "a = \x00",
        "a" * 1_000_000,
        "\ufeff = 1",
        ".".join("a" * 20_000) + " = 1",
        "[" + " . ".join("a" * 5_000) + "]",
        "seed = {" + ".".join(['"a"'] * 5_000) + " = 1}",
        ".".join(['"a b"'] * 5_000) + " = 1",
        "seed = 'a.b' # a.b\n" + ".".join(["'='"] * 5_000) + " = 1",
    ],
    ids=lambda text: text[:9],
)
def test_a_configuration_that_no_parser_can_read(text, tmp_path, capsys):
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    outcome = runner(capsys)("train", "--config", path)
    assert outcome.status == 2
    assert "c.toml is no TOML" in outcome.errors[0]
    assert ("so many parts" in outcome.errors[0]) == (text.count(".") > 1000)


def test_every_kind_has_good_files(tmp_path):
    for name, kind in KINDS.items():
        if all(map(is_here, kind.libraries)):
            folder = tmp_path / name
            folder.mkdir()
            assert len(kind.good(folder)) >= 1
