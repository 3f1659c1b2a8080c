"""The one door for what commands print: nothing that a file holds, or is called, steers a terminal."""

import ast
import io
import sys
import unicodedata
from pathlib import Path

import pytest
from command_line import runner

from mlp_xp import cli

run = pytest.fixture(runner)

OWN_WORDS = {
    ("__init__.py", 'print(f"mlp-xp {VERSION}")'),
    ("__init__.py", "print(help_page.page(command))"),
    ("completion.py", 'print("\\n".join(lines))'),
}
"""Printed without the door: nothing in it is anybody else's."""

NAMES = ("\x1b]0;pwned\x07a", "\x1b[2Jb", "\x9bc", "\u202ey")
TEXTS = ("\x1b[31m", "\u2066x")


def test_everything_goes_through_the_door():
    found = set()
    for path in Path(cli.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in WRITES and path.name != "printing.py":
                found.add((path.name, ast.get_source_segment(text, node)))
    assert found == OWN_WORDS


WRITES = ("print", "sys.stdout.write", "sys.stderr.write", "sys.stdout.writelines", "sys.stderr.writelines")


def steering(text):
    """Characters that a terminal acts upon, line ends apart."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder whose files have names, columns and texts that steer a terminal."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},{i % 7},{TEXTS[i % 2]},{i % 5}\n" for i in range(80))
    Path("d\x1b[2J.csv").write_text(",".join(NAMES) + "\n" + rows, encoding="utf-8")
    return tmp_path


@pytest.mark.needs("pyarrow")
def test_no_command_prints_what_steers_a_terminal(run, hostile):
    data, model = "d\x1b[2J.csv", "m\x1b[2J.safetensors"
    train = ("train", data, "--target", NAMES[3], "--epochs", "2", "--hidden", "4")
    said = [
        run(*train, "--out", model, "--checkpoint-dir", "c\x1b[2J", "--checkpoint-every", "1epoch"),
        run(*train, "--checkpoint-dir", "c\x1b[2J"),
        run(*train, "--checkpoint-dir", "c\x1b[2J", "--resume"),
        run(*train, "--task", "regression", "--memory-limit", "1kB", "--cache-dir", "k\x1b[2J"),
        run("cache", "--cache-dir", "k\x1b[2J"),
        run("evaluate", model, data),
        run("show", model),
        run("show", model, "--json"),
        run("predict", model, data, "--out", "p\x1b[2J.csv"),
        run("predict", model, data, "--json"),
        run("predict", model, "n\x1b[2J.csv"),
        run("evaluate", model, data, "--target", "\x1b[2J"),
        run("train", data, "--target", "\x1b[2J\x0c\x85z"),
        run("train", "--\x1b[2J"),
        run("\x1b[2J"),
        run("train", "--optimizer", "\x1b[2J", "--debug"),
    ]
    for outcome in said:
        assert not steering(outcome.out + outcome.err)
    assert [outcome.status for outcome in said] == [0, 2, *[0] * 8, *[2] * 6]
    assert all(line.startswith("mlp-xp: ") for outcome in said[10:15] for line in outcome.err.splitlines())


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_predictions_are_written_as_they_are_but_in_a_terminal(run, hostile, monkeypatch, is_terminal):
    data = "d\x1b[2J.csv"
    assert run("train", data, "--target", NAMES[3], "--epochs", "1", "--quiet", "--out", "m").status == 0
    predict = ("predict", "m", data, "--keep", f'"{NAMES[2]}"', "--quiet", "--out")
    assert run(*predict, "p.csv").status == 0
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit):
            cli.main([*predict, "-"])
    if is_terminal:
        assert not steering(stream.getvalue())
        assert stream.getvalue().count("\n") == 81
    else:
        assert stream.getvalue() == Path("p.csv").read_text(encoding="utf-8")
        assert steering(stream.getvalue()) >= {"\x9b", "\x1b"}
