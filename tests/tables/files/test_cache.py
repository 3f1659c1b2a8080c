"""The cache of converted tables: whole or not there, private, found again, safe to share."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.tables.files.opening import open_source
from mlp_xp.tables.files.table_cache import cache_folder, cached, clear_cache

pytestmark = pytest.mark.needs("pyarrow")


N_ROWS = 20_000


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,t\n" + "".join(f"{i},{i * 2},{'xyz'[i % 3]}\n" for i in range(N_ROWS)))
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "cache"


def convert(path, folder, **options):
    return open_source(path, "b", memory_limit=0, cache_dir=folder, **{"text": "code", **options})


def check(source):
    index = np.random.default_rng(0).integers(0, N_ROWS, 1_000)
    x, y = np.empty((1_000, 2)), np.empty((1_000, 1))
    source.rows(index, x, y, None)
    np.testing.assert_array_equal(x, np.stack([index, index % 3], 1))
    np.testing.assert_array_equal(y[:, 0], 2 * index)


def test_a_table_that_fits_leaves_no_file(table, folder):
    source = open_source(table, "b", text="code", cache_dir=folder)
    check(source)
    assert not folder.exists()
    assert source.notes[-1] == "20,000 rows in memory (240,000 bytes)"


def test_the_second_run_finds_what_the_first_converted(table, folder, monkeypatch):
    first = convert(table, folder)
    check(first)
    (file,) = cached(folder)
    assert file.made_from == str(table)
    assert file.size == file.path.stat().st_size
    assert str(file.path) in first.notes[-1]
    assert f"{file.size:,} bytes" in first.notes[-1]
    said = []
    check(convert(table, folder, progress=lambda *what: said.append(what)))
    assert said == []
    assert len(cached(folder)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        lambda path: path.write_text(path.read_text() + "1,2,x\n"),
        lambda path: os.utime(path, ns=(1, 1)),
    ],
    ids=["size", "mtime"],
)
def test_changed_data_is_converted_again(table, folder, changed):
    convert(table, folder)
    changed(table)
    said = []
    convert(table, folder, progress=lambda *what: said.append(what))
    assert said
    assert len(cached(folder)) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float64"},
        {"gaps": "keep"},
        {"exclude": "t"},
        {"columns": ["t", "a"]},
        {"weight_column": "a"},
    ],
)
def test_other_options_are_another_file(table, folder, options):
    convert(table, folder)
    convert(table, folder, **options)
    assert len(cached(folder)) == 2


def test_the_folder_is_private(table, folder):
    convert(table, folder)
    (file,) = cached(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    folder.chmod(0o777)
    convert(table, folder, gaps="keep")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_in_which_others_may_write_is_refused(table, folder):
    folder.mkdir(parents=True)
    (folder / "of somebody").touch()
    folder.chmod(0o777)
    with pytest.raises(RuntimeError, match="others may write there; use a folder of your own"):
        convert(table, folder)
    folder.chmod(0o755)
    check(convert(table, folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o666, 0o620])
def test_a_file_that_others_could_have_written_is_made_anew(table, folder, mode):
    check(convert(table, folder))
    (file,) = cached(folder)
    content = bytearray(file.path.read_bytes())
    content[-8:] = np.float64(7).tobytes()  # a value of the last row
    file.path.write_bytes(content)
    file.path.chmod(mode)
    check(convert(table, folder))


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_in_the_place_of_one_is_replaced(table, folder, put):
    check(convert(table, folder))
    (file,) = cached(folder)
    file.path.unlink()
    put(file.path)
    check(convert(table, folder))
    assert cached(folder)[0].path.is_file()


def test_a_run_goes_on_where_another_has_made_the_same_file(table, folder):
    source = convert(table, folder)
    other = folder / "other"
    other.write_bytes(Path(source.cache.path).read_bytes())
    os.utime(other, ns=(1, 1))
    other.replace(source.cache.path)
    check(source)
    os.utime(source.cache.path, ns=(2, 2))  # and what is in the place of ours is no matter of ours
    check(source)


def test_clearing_deletes_what_is_ours_and_nothing_else(table, folder):
    source = convert(table, folder)
    others = ["note.txt", "patients.records.csv", "my.records", "0" * 31 + ".records"]
    for name in others:
        (folder / name).touch()
    (folder / f"{'1' * 32}.records").mkdir()
    (folder / f"{'2' * 32}.records").symlink_to(table)
    others += [f"{'1' * 32}.records", f"{'2' * 32}.records"]
    unfinished = cached(folder)[0].path.with_suffix(".records.part-1-aa")
    unfinished.touch()
    assert [each.made_from for each in cached(folder)] == [str(table), "unfinished"]
    assert len(clear_cache(folder)) == 2
    assert sorted(each.name for each in folder.iterdir()) == sorted(others)
    assert cached(folder) == clear_cache(folder) == []
    with pytest.raises(RuntimeError, match=r"\.records was deleted or moved while it was in use"):
        source.rows(np.array([0]), np.empty((1, 2)), None, None)


def test_a_folder_that_is_not_there_holds_nothing(folder):
    assert cached(folder) == clear_cache(folder) == []


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", ("mlp_xp",)),
        ("win32", "LOCALAPPDATA", ("mlp_xp",)),
    ],
)
def test_the_platform_s_own_folder(tmp_path, monkeypatch, platform, variable, expected):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path.joinpath(*expected)
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"


def test_the_home_folder_where_the_platform_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "mlp_xp"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "mlp_xp"


PROGRAM = """
import sys
import numpy as np
from mlp_xp.tables.files.opening import open_source
source = open_source(sys.argv[1], "b", memory_limit=0, cache_dir=sys.argv[2], text="code")
x, y = np.empty((source.n_rows, 2)), np.empty((source.n_rows, 1))
source.rows(np.arange(source.n_rows), x, y, None)
print(source.n_rows, int(x[:, 0].sum()), int(y.sum()))
"""
PRINTED = f"{N_ROWS} {N_ROWS * (N_ROWS - 1) // 2} {N_ROWS * (N_ROWS - 1)}"


def start(table, folder, before=""):
    """Convert in a process of its own, which runs `before` first."""
    return subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, str(table), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_start_at_once(table, folder):
    processes = [start(table, folder) for _ in range(3)]
    results = [process.communicate() for process in processes]
    assert [out.strip() for out, _ in results] == [PRINTED] * 3, results
    assert len(cached(folder)) == 1
    assert len(list(folder.iterdir())) == 1


def test_a_killed_conversion_leaves_nothing_that_is_read(table, folder):
    """Killed at many moments: what has its name is whole, the rest is cleaned up in time."""
    for delay in (0.05, 0.3, 0.4, 0.5, 0.6):
        process = start(table, folder)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    check(convert(table, folder))
    for each in folder.iterdir():
        if ".part" in each.name:
            os.utime(each, (1, 1))
    (folder / f"{'0' * 32}.records.part-1-ff").touch()
    os.utime(folder / f"{'0' * 32}.records.part-1-ff", (1, 1))
    convert(table, folder, gaps="keep")
    assert all(".part" not in each.name for each in folder.iterdir())


def test_an_interrupted_conversion_leaves_no_file(table, folder):
    def interrupt(doing, share):
        if doing == "converting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(table, folder, progress=interrupt)
    assert list(folder.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(table, folder, monkeypatch):
    usage = shutil.disk_usage(table.parent)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RuntimeError, match=r"240,000 bytes are needed: 1,000 bytes are free\. Make room"):
        convert(table, folder)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_up_while_it_is_written(table, folder):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    process = start(table, folder, before=limit)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "RuntimeError: the rows can not be kept in the cache folder" in error
    assert "File too large. Make room, name another folder with cache_dir" in error
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(table, folder):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    folder.parent.chmod(0o500)
    with pytest.raises(RuntimeError, match="Permission denied"):
        convert(table, folder / "more")


def test_a_folder_that_can_not_be_made(table):
    with pytest.raises(RuntimeError, match=r"can not be kept in the cache folder .*: Not a directory"):
        convert(table, table / "cache")


DAMAGES = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "not ours": lambda content: b"x" + content[1:],
    "another version": lambda content: content.replace(b'"format": 2', b'"format": 9'),
    "no JSON": lambda content: content.replace(b'{"format"', b'["format"'),
    "a length that lies": lambda content: content[:16] + b"\xff" * 8 + content[24:],
    "no dtype": lambda content: content.replace(b'"float32"', b'"float16"'),
    "no rows": lambda content: content.replace(b'"n_rows": 20000', b'"n_rows": -9999'),
    "other rows": lambda content: content.replace(b'"n_rows": 20000', b'"n_rows": 99999'),
    "no kind": lambda content: content.replace(b'"number"', b'"numbxr"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_used_but_made_anew(table, folder, damage):
    convert(table, folder)
    (file,) = cached(folder)
    content = file.path.read_bytes()
    broken = DAMAGES[damage](content)
    assert broken != content
    file.path.write_bytes(broken)
    source = convert(table, folder)
    check(source)
    assert any("is not used:" in note for note in source.notes)
    assert file.path.read_bytes() == content


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_damaged_bytes_end_in_rows_or_are_made_anew(tmp_path_factory, seed):
    place = tmp_path_factory.mktemp("damaged")
    path = place / "t.csv"
    path.write_text("a,t\n1,x\n2,y\n")
    options = {"target": "a", "text": "code", "memory_limit": 0, "cache_dir": place / "cache"}
    open_source(path, **options)
    (file,) = cached(place / "cache")
    content = np.frombuffer(file.path.read_bytes(), np.uint8).copy()
    generator = np.random.default_rng(seed)
    for _ in range(generator.integers(1, 5)):
        content[generator.integers(250)] = generator.integers(256)
    file.path.write_bytes(content.tobytes())
    source = open_source(path, **options)
    source.rows(np.array([0, 1]), np.empty((2, 1)), np.empty((2, 1)), None)
    cached(place / "cache")


def test_a_cache_file_that_is_cut_short_while_it_is_used_is_an_error_and_no_crash(table, folder):
    source = convert(table, folder)
    (file,) = cached(folder)
    os.truncate(file.path, 5_000)
    for look in (
        lambda: source.rows(np.array([N_ROWS - 1]), np.empty((1, 2)), None, None),
        source.check_unchanged,
    ):
        with pytest.raises(RuntimeError, match=r"\.records was changed while it was in use"):
            look()


def test_gaps_that_were_kept_are_found_by_the_check(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n,3\n")
    source = open_source(tmp_path / "t.csv", "b", gaps="keep")
    with pytest.raises(ValueError, match="row 2, column 'a' is nan"):
        source.check_finite()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files")
def test_no_file_stays_open(table, folder):
    def n_open():
        return len(list(Path("/proc/self/fd").iterdir()))

    convert(table, folder)
    before = n_open()
    for _ in range(5):
        check(convert(table, folder))
        with contextlib.suppress(ValueError):
            open_source(table, "nothing")
        open_source(table, "b", text="code")
    assert n_open() <= before
