"""What a training shows while it runs, in a terminal of any width and where there is none."""

import contextlib
import dataclasses
import io
import mmap
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import environment, runner
from rich.console import Console

from mlp_xp.cli import progress as live
from mlp_xp.cli.printing import aligned, printable, say
from mlp_xp.run.epoch import Epoch

run = pytest.fixture(runner)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_a_terminal(folder, width, *arguments, **further):
    """What `mlp-xp` writes to a terminal of that width, and its exit status."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    master, slave = pty.openpty()
    size = np.array([30, width, 0, 0], dtype=np.uint16).tobytes()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    given = environment(**{"TERM": "xterm"} | further)
    for name in ("NO_COLOR", "LINES"):
        given.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "mlp_xp", *arguments],
        cwd=folder,
        env=given,
        stdout=slave,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while part := os.read(master, 65536):
            written += part
    os.close(master)
    return written.decode(), process.wait(60)


def screen(written):
    """The lines that are left on the screen: what was drawn over is gone."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r\n|\r|\n|[^\x1b\r\n]+", written):
        if token in ("\n", "\r\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            pass
        elif token == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d*)A", token):
            row -= int(up[1] or 1)
        elif not token.startswith("\x1b"):
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


TRAIN = ("train", "--epochs", "100000", "--patience", "0", "--time-budget", "1")


@pytest.mark.parametrize(("width", "n_lines"), [(150, {1}), (60, {2, 3}), (24, {5, 6})])
def test_a_bar_in_a_terminal(tmp_path, width, n_lines):
    written, status = in_a_terminal(tmp_path, width, *TRAIN)
    assert status == 0
    assert written.count("\x1b[2K") > 2  # redrawn in place
    left = screen(written)
    (first,) = [number for number, line in enumerate(left) if line.startswith("epoch ")]
    last = next(number for number, line in enumerate(left) if "held-out rows" in line)
    bar = left[first:last]
    assert len(bar) in n_lines
    assert all(len(line) <= width for line in bar)
    for part in ("/100000", "━", "loss", "validation loss", "learning rate", "rows/s", "MB"):
        assert part in " ".join(bar)
    assert "at most" not in "\n".join(left)  # it is over
    assert "at most" in ESCAPES.sub("", written)
    assert "Traceback" not in written


def test_an_introduction_is_broken_between_words(tmp_path):
    written, _ = in_a_terminal(tmp_path, 60, "train", "--epochs", "1")
    words = re.findall(r"\S+", ESCAPES.sub("", written))
    assert {"progression", "(regression)", "float32"} <= set(words)


def test_a_dumb_terminal_gets_plain_lines(tmp_path):
    written, status = in_a_terminal(tmp_path, 80, "train", "--epochs", "3", TERM="dumb")
    assert status == 0
    assert "\x1b" not in written
    assert "epoch 1/3" in written


# Without a terminal


def epoch(number, stopped=None, *, validation_loss=0.25, is_best=True):
    filled = dict.fromkeys((field.name for field in dataclasses.fields(Epoch)), None)
    filled |= {
        "number": number,
        "train_loss": 0.5,
        "validation_loss": validation_loss,
        "learning_rate": 1e-3,
        "is_best": is_best,
        "stopped": stopped,
    }
    return Epoch(**filled)


@pytest.fixture
def clock(monkeypatch):
    """`clock(seconds)` lets time pass; memory stays what it is."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "memory_taken", lambda: 1_234_000_000)

    def sleep(seconds):
        now[0] += seconds

    return sleep


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_plain_lines_are_few(capsys, clock):
    with live.PlainLines(10_000, n_rows=100) as bar:
        for number in range(1, 10_001):
            clock(0.1)
            bar.passed(100)
            bar.show(epoch(number, "reached 10000 epochs" if number == 10_000 else None))
    said = lines(capsys)
    assert said[0] == (
        "epoch 1/10000  loss 0.5  validation loss 0.25  learning rate 0.001  1,000 rows/s  1,234 MB  "
        "at most 16:40 min left"
    )
    assert said[1].startswith("epoch 11/10000")  # a second later
    assert said[-1] == (
        "epoch 10000/10000  loss 0.5  validation loss 0.25  learning rate 0.001  1,000 rows/s  1,234 MB"
    )
    assert 50 < len(said) < 300  # of 1,000 seconds


def test_a_long_epoch_shows_how_far_it_is(capsys, clock):
    with live.PlainLines(4, n_rows=1000) as bar:
        for _ in range(10):
            clock(1.0)
            bar.passed(100)
        bar.show(epoch(1))
    said = lines(capsys)
    assert said[0] == "epoch 1/4 at 30%  100 rows/s  1,234 MB  at most 37 s left"
    assert said[1] == "epoch 1/4 at 40%  100 rows/s  1,234 MB  at most 36 s left"
    assert said[-1] == (
        "epoch 1/4  loss 0.5  validation loss 0.25  learning rate 0.001  100 rows/s  1,234 MB  "
        "at most 30 s left"
    )


def test_a_time_budget_bounds_the_time_left(capsys, clock):
    with live.PlainLines(1000, n_rows=10, time_budget=5.0) as bar:
        clock(1.0)
        bar.passed(10)
        bar.show(epoch(1, validation_loss=None))
    assert lines(capsys) == [
        "epoch 1/1000  loss 0.5  learning rate 0.001  10 rows/s  1,234 MB  at most 4.0 s left"
    ]


def test_time_left_of_a_run_that_goes_on(capsys, clock):
    with live.PlainLines(100, n_rows=10) as bar:
        for number in (91, 92):
            clock(2.0)
            bar.passed(10)
            bar.show(epoch(number, validation_loss=None))
    assert lines(capsys)[-1].endswith("  5 rows/s  1,234 MB  at most 16 s left")


def test_rows_that_a_search_gathers_once_pass_at_each_iteration(clock):
    bar = live.Tally(100, n_rows=10)
    bar.passed(10)
    for number in (1, 2, 3):
        clock(1.0)
        bar.show(epoch(number))
    assert "10 rows/s" in bar.facts()


def test_silence_counts(capsys, clock):
    with live.Tally(5, n_rows=10) as bar:
        bar.passed(7)
        bar.passed(3)
        bar.show(epoch(1))
        bar.show(epoch(2, is_best=False))
    assert (bar.rows_gathered, bar.epoch.number, bar.best.number) == (10, 2, 1)
    assert lines(capsys) == []


@pytest.mark.parametrize("width", range(10, 130, 7))
def test_the_bar_fits_any_width(width, clock):
    console = Console(width=width, height=20, force_terminal=True, color_system=None, file=io.StringIO())
    bar = live.LiveBar(1000, 100, None, console)
    for number in (0, 1, 999):
        clock(3.0)
        bar.passed(150)
        if number:
            bar.show(epoch(number))
        drawn = console.render_lines(bar._render(), pad=False)
        text = ["".join(segment.text for segment in line) for line in drawn]
        assert all(len(line) <= width for line in text)
        assert len(text) <= 8


@pytest.mark.skipif(not live.MEMORY.exists(), reason="only Linux says how much memory a process takes")
def test_memory_is_that_of_this_process():
    before = live.memory_taken()
    # Pages of its own: an array may get those that another test has freed.
    taken = np.frombuffer(mmap.mmap(-1, 50_000_000), dtype=np.uint8)
    taken[:] = 1
    assert 40e6 < live.memory_taken() - before < 60e6
    assert taken[-1] == 1
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    assert 0 < before < 1.02 * peak


def test_the_memory_of_a_gpu(monkeypatch, clock):
    monkeypatch.setattr(live.cuda, "memory_taken", {0: 5_000_000, 3: 7_000_000}.__getitem__)
    for device, expected in (("cpu", []), ("cuda:3", ["7 MB on the GPU"]), ("cuda:0", ["5 MB on the GPU"])):
        assert live.Tally(3, n_rows=10, device=device).facts() == ["0 rows/s", "1,234 MB", *expected]


def test_memory_is_left_out_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(live, "MEMORY", tmp_path / "statm")
    assert live.memory_taken() is None
    assert live.Tally(3, n_rows=10).facts() == ["0 rows/s"]


def test_numba_that_compiles_is_said(capsys, clock, monkeypatch):
    monkeypatch.setattr(live, "is_loading", lambda: True)
    monkeypatch.setattr(live, "SECONDS_BETWEEN_LINES", 0.0)
    bar = live.Tally(3, n_rows=10)
    assert bar.facts()[-1] == "Numba compiles the steps, once on a machine"
    bar.show(epoch(3, "reached 3 epochs"))
    assert "Numba" not in " ".join(bar.facts())
    with live.PlainLines(3, n_rows=10) as bar:
        bar.loading.join(60)  # nobody shows an epoch: whoever makes the steps waits
    assert lines(capsys) == ["epoch 0/3  0 rows/s  1,234 MB  Numba compiles the steps, once on a machine"]


def test_what_suits_the_place(capsys):
    assert type(live.progress(3, 10, None, quiet=True)) is live.Tally
    assert type(live.progress(3, 10, None, quiet=False)) is live.PlainLines


# The reading of large files


class Terminal:
    """A text stream that says it is a terminal."""

    def __init__(self, is_terminal):
        self.is_terminal, self.text, self.encoding = is_terminal, "", "utf-8"

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_reading_says_how_far_it_is(monkeypatch, clock, is_terminal):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with live.ReadingProgress("a" * 30 + ".csv", quiet=False) as reading:
        for part in range(100):
            clock(0.1)
            reading("looking at the columns", part / 100)
    if is_terminal:
        shown = stream.text.split("\r")
        assert all(len(line) < 40 for line in shown)
        assert shown[-1] == ""
        assert shown[-2].strip() == ""  # taken away
        assert len(shown) > 20
    else:
        assert stream.text.splitlines()[0] == f"{'a' * 30}.csv: looking at the columns, 49%"
        assert "\r" not in stream.text
        assert len(stream.text.splitlines()) == 2


def test_reading_that_is_short_or_quiet_says_nothing(monkeypatch, clock):
    for quiet, seconds in ((False, 0.01), (True, 10.0)):
        stream = Terminal(True)
        monkeypatch.setattr(sys, "stderr", stream)
        with live.ReadingProgress("a.csv", quiet=quiet) as reading:
            clock(seconds)
            reading("converting", 0.5)
        assert stream.text == ""


# Words


def test_values_stand_below_each_other():
    assert aligned([("a", "1"), ("long name", "2"), ("empty", "")]) == "a          1\nlong name  2\nempty"
    assert aligned([]) == ""


def test_what_could_steer_a_terminal_is_written_out(capsys):
    assert printable("größe \U0001f600 \x1b[2J\n\u202e\ud800") == "größe \U0001f600 \\x1b[2J\\n\\u202e\\ud800"
    say("\x1b[31mred")
    assert capsys.readouterr().err == "\\x1b[31mred\n"
