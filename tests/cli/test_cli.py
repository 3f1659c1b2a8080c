"""`mlp-xp` itself: what it says of its commands, how it ends, and what it never does."""

import subprocess
import sys

import pytest
from command_line import ROOT, Outcome, environment, run_process, runner, snapshot
from stand_ins.cuda_refusal import one_line

import mlp_xp
from mlp_xp.cli import help_page
from mlp_xp.cli.commands import COMMANDS
from mlp_xp.machine import cuda

run = pytest.fixture(runner)

MODEL = ROOT / "tests" / "saved" / "model_files" / "format_1_table.safetensors"

NAMES = list(COMMANDS)


@pytest.fixture
def broken(monkeypatch):
    """`broken(error)`: a command line whose `devices` raises this error."""

    def break_it(error):
        def fail():
            raise error

        monkeypatch.setattr(cuda, "devices", fail)

    return break_it


@pytest.mark.parametrize("command", NAMES)
def test_every_option_is_explained_with_its_default(command):
    entries = list(help_page.entries(COMMANDS[command]))
    options = COMMANDS[command].described()
    assert len(entries) == len(options) + 1  # --help
    assert all(text for _, text, _ in entries)
    named = [(left, text) for left, text, panel in entries if panel != "Arguments" and left != "--help"]
    assert len(named) == sum(known.position is None for known in options.values())
    assert [left for left, text in named if "[default: " not in text or text.endswith(": ]")] == []


UNITS = {
    "learning_rate": "> 0",
    "batch_size": "rows a step",
    "epochs": "passes over the data",
    "validation": "part of the rows",
    "patience": "epochs",
    "tolerance": "in units of the loss",
    "loss_below": "in units of the loss",
    "time_budget": "seconds",
    "dropout": "probability",
    "clip_norm": "norm",
    "hidden": "units",
}


def test_options_name_their_units():
    helps = {name: known.text().lower() for name, known in COMMANDS["train"].described().items()}
    assert [name for name, unit in UNITS.items() if unit not in helps[name]] == []


@pytest.mark.parametrize("command", [(), *((name,) for name in NAMES)])
def test_help(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for option in ("--help", "-h"):
        outcome = run(*command, option)
        assert (outcome.status, outcome.err) == (0, "")
        assert all(name in outcome.out for name in command or NAMES)
        assert max(map(len, outcome.out.splitlines())) <= 100
    spelled = [each for name in command for each, _, _ in help_page.entries(COMMANDS[name])]
    assert all(f"\n  {each} " in outcome.out or f"\n  {each}\n" in outcome.out for each in spelled)


def test_help_is_asked_for_before_a_command_or_after_it(run):
    assert run("-h", "train").out == run("--help").out == run("--debug").out
    assert run("train", "--epochs", "3", "--help").out == run("train", "-h", "nowhere.csv").out
    assert "DATA is missing" in run("predict", "--", "--help").err
    assert run("tran", "--help").status == 2


def test_without_a_command_it_shows_its_help(run):
    assert run().status == 0
    assert run().out == run("--help").out


def test_version(run):
    assert run("--version") == Outcome(0, f"mlp-xp {mlp_xp.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tran"], "No such command 'tran'."),
        (["train", "--epoch", "3"], "No such option: --epoch; did you mean --epochs?"),
        (["train", "--lr", "1"], "No such option: --lr; did you mean --learning-rate?"),
        (["train", "--zzzz", "1"], "No such option: --zzzz"),
        (["train", "--epochs", "three"], "'three' is not a whole number."),
        (
            ["train", "--learning-rate", "fast"],
            "'fast' is not a number.",
        ),
        (["train", "a.csv", "b.csv"], "unexpected extra argument"),
        (["--frobnicate"], "No such option: --frobnicate"),
    ],
)
def test_what_is_not_understood_is_refused(run, arguments, said):
    outcome = run(*arguments)
    assert outcome.status == 2
    (message,) = outcome.errors
    assert said in message
    assert "--help" in message


def test_help_is_named_of_the_command_that_was_meant(run):
    assert "See mlp-xp train --help." in run("train", "--epochs", "three").err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("that is refused"), 2, "that is refused"),
        (RuntimeError("no device"), 2, "no device"),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), 2, "a.csv: No such file or directory."),
        (PermissionError("no permission"), 2, "no permission"),
        (ModuleNotFoundError("pip install it"), 2, "pip install it"),
        (MemoryError(), 2, "there is not enough memory"),
        (FloatingPointError("nan in epoch 7"), 1, "nan in epoch 7"),
        (ZeroDivisionError("by zero"), 3, "ZeroDivisionError: by zero. That is an error of mlp-xp itself"),
        (KeyError("x"), 3, "KeyError: 'x'"),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
)
def test_exit_statuses_without_a_traceback(run, broken, error, status, said):
    broken(error)
    outcome = run("devices")
    assert outcome.status == status
    assert outcome.errors[0].startswith(said)
    assert "Traceback" not in outcome.err


def test_each_line_of_an_error_is_marked(run, broken):
    broken(ValueError("one.\ntwo\nin a name."))
    assert run("devices").err == "mlp-xp: error: one.\nmlp-xp: error: two\\nin a name.\n"


@pytest.mark.parametrize("arguments", [["--debug", "devices"], ["devices", "--debug"]])
def test_debug_shows_the_traceback(run, broken, arguments):
    broken(ZeroDivisionError("by \x1b[2Jzero"))
    outcome = run(*arguments)
    assert outcome.status == 3
    assert outcome.err.startswith("Traceback")
    assert "ZeroDivisionError: by \\x1b[2Jzero\nmlp-xp: error: " in outcome.err


def test_no_traceback_without_debug_in_a_process_of_its_own(tmp_path):
    plain = run_process("train", "--epochs", "0", folder=tmp_path)
    assert (plain.status, plain.out) == (2, "")
    assert plain.errors == ["--epochs=0 must be a whole number >= 1."]
    debug = run_process("train", "--epochs", "0", "--debug", folder=tmp_path)
    assert debug.status == 2
    assert "Traceback" in debug.err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(MODEL.read_bytes())
    command = [sys.executable, "-m", "mlp_xp", "predict", "m.safetensors", "--dataset", "diabetes"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_cuda_where_there_is_none_is_refused_with_the_text_of_devices(run, tmp_path, monkeypatch):
    problem = cuda.problem()
    if problem is None:
        pytest.skip("this machine has a GPU that works")
    monkeypatch.chdir(tmp_path)
    listed = run("devices")
    assert listed.status == 0
    assert str(problem) in one_line(listed.out)
    for command in (["train", "--out", "m.safetensors"], ["evaluate", "m", "--dataset", "diabetes"]):
        outcome = run(*command, "--device", "cuda")
        assert outcome.status == 2
        assert outcome.errors == [str(problem)]
    assert snapshot(tmp_path) == {}


def test_devices_lists_the_cpu_first(run):
    assert run("devices").out.startswith("cpu     ready: ")


def test_the_package_imports_neither_typer_nor_rich():
    code = "import sys, mlp_xp; print([m for m in ('typer', 'rich', 'click', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_command_line_starts_without_the_optional_libraries():
    code = (
        "import sys, mlp_xp.cli; "
        "print([m for m in ('sklearn', 'pyarrow', 'scipy', 'matplotlib', 'cupy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout == "[]\n"
