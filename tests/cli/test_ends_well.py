"""Nothing that was made or given is lost, whatever is named, full, closed, replaced or interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_line import environment, run_process, runner

from mlp_xp import load
from mlp_xp.cli import completion
from mlp_xp.cli.commands import COMMANDS
from mlp_xp.saved import model_file
from mlp_xp.saved.checkpoint import Checkpoints

run = pytest.fixture(runner)

QUICK = ("--epochs", "2", "--hidden", "4", "--quiet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for part in range(2):
        x = rng.normal(size=(60, 3))
        np.savetxt(
            f"data/p{part}.csv", np.c_[x, x.sum(1)], delimiter=",", header="a,b,c,y", comments="", fmt="%.6f"
        )
    return tmp_path


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "m.safetensors", "data/*.csv", "--out", "data/p0.csv"),
        ("predict", "m.safetensors", "data", "--out", "data/p0.csv"),
        ("train", "data", "--target", "y", *QUICK, "--log", "data/p0.csv"),
        ("train", "data", "--target", "y", *QUICK, "--out", "data/p0.csv"),
        ("train", "data", "--target", "y", *QUICK, "--out", "n.safetensors", "--report", "n.safetensors"),
        ("train", "data", "--target", "y", *QUICK, "--out", "n", "--log", "n.toml"),
        ("train", "data", "--target", "y", *QUICK, "--config", "own.toml", "--out", "own"),
        ("export", "m.safetensors", "--out", "data/p1.csv"),
    ],
    ids=" ".join,
)
def test_no_output_takes_the_place_of_an_input_or_of_another_output(run, folder, arguments):
    assert run("train", "data", "--target", "y", *QUICK, "--out", "m.safetensors").status == 0
    (folder / "own.toml").write_text("# mine\nseed = 1\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = run(*arguments)
    assert outcome.status == 2
    assert any(
        said in outcome.err
        for said in ("is a file that is read", "are the same file", "writes its options", "Name a .onnx file")
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_file_of_weights_is_not_written_over(run, folder):
    for name in ("x", "y", "w"):
        np.save(name, np.ones((20, 2)) if name == "x" else np.arange(20.0))
    arguments = ("train", "x.npy", "--target", "y.npy", "--weight-column", "w.npy", *QUICK, "--out", "w.npy")
    assert "--out w.npy is a file that is read" in run(*arguments).err


def test_options_that_a_command_wrote_are_written_anew(run, folder):
    assert run("train", "data", "--target", "y", *QUICK, "--out", "m").status == 0
    assert run("train", "--config", "m.toml", "--seed", "3").status == 0
    assert "seed = 3" in (folder / "m.toml").read_text()


@pytest.mark.skipif(os.name == "nt", reason="names of files")
def test_a_line_break_in_a_models_name_breaks_no_line_of_its_options(run, folder):
    assert run("train", *QUICK, "--out", "m\nseed = 5\n").status == 0
    assert run("train", "--config", "m\nseed = 5\n.toml").status == 0


@pytest.mark.skipif(os.name == "nt", reason="names of files")
def test_a_line_break_in_a_name_breaks_no_error(run, folder):
    (folder / "d\ne.csv").write_text("a,y\n" + "1,2\n" * 9 + "1,\n")
    found = run("train", "d\ne.csv", "--target", "y", "--epochs", "1")
    lines = found.err.splitlines()
    assert len([line for line in lines if line.startswith("mlp-xp: error: ")]) == 1
    assert "d\\ne.csv" in lines[-1]


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--out", "m.onnx", "mlp-xp export writes .onnx from it"),
        ("--out", "-", "only predictions and ONNX files can go to standard output"),
        ("--report", "r.pdf", "the page is written as .html"),
    ],
)
def test_names_that_promise_something_else_are_refused(run, folder, option, name, said):
    outcome = run("train", *QUICK, option, name)
    assert outcome.status == 2
    assert said in outcome.err
    assert not (folder / name).exists()


@pytest.mark.needs("pyarrow")
def test_a_model_to_go_on_from_and_checkpoints(run, folder):
    assert run("train", "data", "--target", "y", *QUICK, "--out", "m").status == 0
    more = ("train", "data", "--init", "m", "--epochs", "2", "--quiet", "--checkpoint-dir", "c")
    assert run(*more, "--out", "n").status == 0
    assert run(*more, "--resume", "--out", "n2").status == 0
    assert (folder / "n").read_bytes() == (folder / "n2").read_bytes()


def test_a_model_that_cannot_be_written_there_is_kept_elsewhere(run, folder, monkeypatch):
    write = model_file.write_whole

    def full(path, content):
        if os.fspath(path).endswith("full/m.safetensors"):
            raise OSError(28, "No space left on device", os.fspath(path))
        write(path, content)

    monkeypatch.setattr(model_file, "write_whole", full)
    (folder / "full").mkdir()
    outcome = run("train", *QUICK, "--json", "--out", "full/m.safetensors")
    assert outcome.status == 2
    assert "full/m.safetensors cannot be written: the model is in " in outcome.err
    kept = json.loads(outcome.out)["model"]
    assert load(kept).predict(np.zeros((1, 10))).shape == (1, 1)


def test_more_epochs_need_no_override(run, folder):
    train = ("train", "--hidden", "4", "--quiet", "--patience", "0", "--json")
    kept = ("--checkpoint-dir", "c", "--checkpoint-every", "1epoch")
    assert run(*train, *kept, "--epochs", "3").status == 0
    outcome = run(*train, *kept, "--epochs", "5", "--resume", "--out", "m")
    assert json.loads(outcome.out)["resumed_from"]["epoch"] == 3
    assert run(*train, "--epochs", "5", "--out", "n").status == 0
    assert (folder / "m").read_bytes() == (folder / "n").read_bytes()
    assert "seed: 0 then, 1 now" in run(*train, *kept, "--epochs", "5", "--resume", "--seed", "1").err


def test_a_schedule_over_all_epochs_is_said_to_change(run, folder):
    train = ("train", "--hidden", "4", "--patience", "0", "--schedule", "cosine")
    train += ("--checkpoint-dir", "c", "--checkpoint-every", "1epoch")
    assert run(*train, "--epochs", "3").status == 0
    said = run(*train, "--epochs", "5", "--resume").err
    assert "--schedule cosine: over 5 epochs from here on, and over 3 before" in said


@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_a_run_that_ended_goes_on_also_with_another_seed(run, recipe, folder):
    train = ("train", "--recipe", recipe, "--hidden", "4", "--json", "--quiet", "--checkpoint-dir", "c")
    assert run(*train, "--epochs", "3").status == 0
    outcome = run(*train, "--epochs", "5", "--resume", "--override", "--seed", "3")
    assert json.loads(outcome.out)["resumed_from"]["epoch"] == 3  # written as the run ended
    assert json.loads(outcome.out)["epochs"] == 5


def training_of(folder, seed):
    from mlp_xp import Loader, Network, train

    x = np.random.default_rng(seed).normal(size=(40, 3))
    run = Checkpoints(folder, "1epoch", configuration={"seed": seed})
    loader = Loader(x, x[:, :1], batch_size=10)
    return run, train(Network((3, 4, 1), seed=seed), loader, max_epochs=9, checkpoints=run)


def test_a_run_does_not_write_into_the_folder_of_another(tmp_path):
    first, epochs = training_of(tmp_path / "run", 1)
    next(epochs)
    next(epochs)
    shutil.rmtree(tmp_path / "run")
    second, others = training_of(tmp_path / "run", 2)
    next(others)
    next(others)
    before = {path: path.read_bytes() for path in second.paths()}
    with pytest.warns(UserWarning, match="another run is using it now"):
        next(epochs)
    assert {path: path.read_bytes() for path in second.paths()} == before
    second.close()
    with pytest.warns(UserWarning, match="has checkpoints of another run now"):
        next(epochs)
    assert {path: path.read_bytes() for path in second.paths()} == before
    first.close()


@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
def test_what_is_no_file_hides_no_checkpoint(run, folder):
    train = ("train", "--hidden", "4", "--quiet", "--checkpoint-dir", "c", "--epochs", "2", "--resume")
    assert run(*train, "--out", "m").status == 0
    os.mkfifo(folder / "c" / "checkpoint-000000090-000000000001.safetensors")
    (folder / "c" / "checkpoint-000000091-000000000001.safetensors").symlink_to("/dev/zero")
    (folder / "c" / "checkpoint-000000092-000000000001.safetensors").mkdir()
    assert run(*train, "--out", "n").status == 0
    assert (folder / "m").read_bytes() == (folder / "n").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="files with holes")
@pytest.mark.filterwarnings("default")
def test_a_checkpoint_larger_than_memory_hides_no_other(run, folder):
    train = ("train", "--hidden", "4", "--quiet", "--checkpoint-dir", "c", "--epochs", "2", "--resume")
    assert run(*train, "--out", "m").status == 0
    huge = folder / "c" / "checkpoint-000000093-000000000001.safetensors"
    huge.write_bytes((1000).to_bytes(8, "little") + b"{")
    os.truncate(huge, 2**40)
    outcome = run(*train, "--out", "n")
    assert outcome.status == 0
    assert f"c/{huge.name} cannot be read" in outcome.err
    assert (folder / "m").read_bytes() == (folder / "n").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
def test_a_lock_that_is_a_link_is_not_followed(run, folder):
    (folder / "c").mkdir()
    (folder / "c" / "lock").symlink_to(folder / "planted")
    assert run("train", *QUICK, "--checkpoint-dir", "c").status == 2
    assert not (folder / "planted").exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.parametrize(
    "arguments", [("show", "pipe"), ("train", "--config", "pipe"), ("train", "pipe.csv", "--target", "y")]
)
def test_a_pipe_is_refused_and_not_waited_for(folder, arguments):
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.csv")
    outcome = run_process(*arguments, folder=folder)
    assert outcome.status == 2
    assert "pipe" in outcome.errors[0]


@pytest.mark.skipif(os.name == "nt", reason="/dev/full")
@pytest.mark.parametrize("ending", ["2>/dev/full", "2>&- >&-", "<&- 2>&-"])
def test_streams_that_are_full_or_closed(folder, ending):
    command = f"{sys.executable} -m mlp_xp train --epochs 2 --out m {ending}"
    assert subprocess.run(command, shell=True, env=environment(), cwd=folder, check=False).returncode == 0
    assert load(folder / "m").network.n_weights


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_streams_that_lack_a_character(run, folder, encoding):
    rows = "".join(f"{np.sin(i):.3f},{'ja' if i % 2 else 'né🎉'}\n" for i in range(60))
    (folder / "d.csv").write_text("é🎉,y\n" + rows, encoding="utf-8")
    assert run("train", "d.csv", "--target", "y", *QUICK, "--out", "m").status == 0
    for command in (("show", "m"), ("predict", "m", "d.csv")):
        done = subprocess.run(
            [sys.executable, "-m", "mlp_xp", *command],
            cwd=folder,
            env=environment(PYTHONIOENCODING=encoding),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can handle")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_after_the_last_epoch_waits_for_the_model(folder, number, status):
    """The signal is sent by the process itself while it measures what it has trained."""
    program = (
        "import os, sys; from mlp_xp.cli import main, stages; measure = stages.result_of\n"
        f"def result_of(*a): os.kill(os.getpid(), {int(number)}); return measure(*a)\n"
        "stages.result_of = result_of; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "train", *QUICK, "--out", "m"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert load(folder / "m").training["epochs"] == 2


@pytest.mark.needs("pyarrow")
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("most", [100_000, 120_000, 150_000, 200_000, 400_000])
def test_too_little_memory_is_called_so(folder, most, threads):
    """In kilobytes: room for the imports, for the threads of the BLAS, or not even that."""
    command = f"ulimit -v {most}; {sys.executable} -m mlp_xp train data --target y --epochs 2 --out m"
    done = subprocess.run(
        command,
        shell=True,
        env=environment(OPENBLAS_NUM_THREADS=threads),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "not enough memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux calls a signal that a thread raises")
def test_threads_of_a_blas_that_cannot_be_started_are_no_interruption(folder):
    """As OpenBLAS does, a signal is raised while NumPy is imported."""
    program = (
        "import signal, sys\nfrom mlp_xp.cli import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main(['train', '--epochs', '2'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "the threads of NumPy's BLAS could not be started. Raise the limits" in done.stderr


@pytest.mark.needs("pyarrow")
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize(
    "command",
    [
        "predict m data/p0.csv",
        "predict m data/p0.csv --json",
        "evaluate m data/p0.csv --target y",
        "show m --json",
        "train --epochs 1 --out n",
        "train --epochs 1 --json --quiet --out n",
        "export m --out -",
        "cache",
        "train --help",
        "--help",
        "--version",
    ],
)
def test_a_full_standard_output_is_said(run, folder, command):
    if " m" in command:
        assert run("train", "data", "--target", "y", *QUICK, "--out", "m").status == 0
    done = subprocess.run(
        f"{sys.executable} -m mlp_xp {command} > /dev/full",
        shell=True,
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    said = "mlp-xp: error: standard output could not be written to its end: No space left on device."
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, said)
    assert (folder / "n").exists() == command.startswith("train --epochs")


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    "library", ["mlp_xp.cli.application", "typer", "mlp_xp.cli.train", "numpy", "rich.live"]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_it_starts_has_its_line_and_its_status(folder, library, number, status):
    """The signal is sent by another process when a library is looked for."""
    program = (
        "import os, signal, subprocess, sys\nfrom mlp_xp.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background ignores it
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {library!r}: subprocess.run(['kill', '-{int(number)}', str(os.getpid())])\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "train", "--epochs", "2", "--out", "m"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode in (
        status,
        -number,
    )  # as it ends where a caller has given the arguments, or at once
    assert done.stderr == "mlp-xp: error: interrupted.\n"
    assert [path.name for path in folder.iterdir()] == ["data"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_is_none_of_ctrl_c_where_python_runs_a_text(folder):
    """Python ends by SIGINT where KeyboardInterrupt has passed a text that it ran, as dataclasses have."""
    (folder / "program.py").write_text(
        "import sys; from mlp_xp.cli import main\n"
        "def report(*_, **__): exec('import os, signal; os.kill(os.getpid(), signal.SIGTERM)')\n"
        "from mlp_xp.cli import devices; devices.show = report\n"
        "sys.argv[1:] = ['devices']; main()\n"
    )
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "mlp-xp: error: interrupted.\n")


LOOP = """
import os, signal, sys
if sys.argv[1] == "shell":  # where Ctrl-C is not ignored, in a process group of its own
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    loop = 'for n in 1 2; do "$0" "$1" command; done; echo went on'
    os.execvp("bash", ["bash", "-c", loop, sys.executable, sys.argv[0]])
signal.signal(signal.SIGINT, signal.default_int_handler)
from mlp_xp.cli import main, stages
measure = stages.result_of

def result_of(*arguments):
    os.killpg(0, signal.SIGINT)
    return measure(*arguments)

stages.result_of = result_of
sys.argv[1:] = ["train", "--epochs", "2", "--hidden", "4", "--quiet", "--out", f"m{os.getpid()}"]
main()
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="a shell")
def test_ctrl_c_ends_the_loop_of_a_shell_too(folder):
    (folder / "loop.py").write_text(LOOP)
    command = [sys.executable, "loop.py", "shell"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    assert len(list(folder.glob("m*.toml"))) == 1  # the training that was interrupted has written its model


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_while_the_command_ends_has_its_status(folder, number, status):
    program = (
        "import os, sys; from mlp_xp.cli import application, main; say = application.say\n"
        f"def last(*a, **k): os.kill(os.getpid(), {int(number)}); return say(*a, **k)\n"
        "application.say = last; main(['train', '--epochs', '0'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_between_two_lines_of_the_parser_is_one(folder, number, status):
    program = (
        "import os, sys; from mlp_xp.cli import application, main; build = application.function_of\n"
        "def function_of(*a, **k):\n"
        "    function = build(*a, **k)\n"
        f"    def call(*a, **k): os.kill(os.getpid(), {int(number)}); return function(*a, **k)\n"
        "    call.__signature__ = function.__signature__; return call\n"
        "application.function_of = function_of; main(['train', '--epochs', '1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (status, "mlp-xp: error: interrupted.")


def test_help_and_completion_import_nothing_that_computes(folder):
    code = (
        "import sys\nfrom mlp_xp.cli import main\n"
        "try: main({arguments})\nexcept SystemExit: pass\n"
        "print([m for m in {unneeded} if m in sys.modules])"
    )
    asked = {"_MLP_XP_COMPLETE": "complete_bash", "COMP_WORDS": "mlp-xp train --sc", "COMP_CWORD": "2"}
    parser, computing = ["typer", "rich", "pydantic"], ["numpy", "pyarrow", "safetensors"]
    for arguments, further, unneeded in (
        (["--version"], {}, parser + computing),
        (["--help"], {}, parser + computing),
        ([], asked, parser + computing),
        (["train", "--help"], {}, [*parser, "pyarrow", "safetensors", "mlp_xp.network"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments=arguments, unneeded=unneeded)],
            env=environment(**further),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_every_option_is_offered():
    for name, kind in COMMANDS.items():
        offered = {each for each, _ in completion.candidates([name], "--")}
        assert len(offered) >= sum(known.position is None for known in kind.described().values())
    assert [each for each, _ in completion.candidates([], "tr")] == ["train"]
