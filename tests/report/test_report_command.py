"""`mlp-xp train` with --report, --plot, --log and --tensorboard."""

import html
import json
import re
import shlex
import shutil

import pytest
from browser import look
from command_line import runner

from mlp_xp.cli.outputs import Outputs
from mlp_xp.report.epochs import Log
from mlp_xp.run.epoch import Epoch

run = pytest.fixture(runner)

TABLE = "width,<b>colour</b>,price\n" + "".join(
    f"{width / 10},{colour},{3 * width + 5 * (colour == 'red') + width % 3}\n"
    for width in range(40)
    for colour in ("red", "grün", '"a, b"', "")
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with blanks in its name and a table in it, where the command runs."""
    here = tmp_path / "my houses"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "houses & co.csv").write_text(TABLE, encoding="utf-8")
    return here


TRAIN = ("train", "houses & co.csv", "--target", "price", "--epochs", "4", "--hidden", "5", "--seed", "3")


def command_in(page):
    """What the page says to type."""
    return shlex.split(html.unescape(re.search(r"<code>(.*)</code>", page, re.DOTALL)[1]))


@pytest.mark.needs("matplotlib", "pyarrow")
def test_everything_that_is_asked_for_is_written(run, folder):
    asked = ("--report", "r.html", "--plot", "c.svg", "--log", "h.jsonl", "--tensorboard", "board")
    assert run(*TRAIN, *asked, "--quiet").status == 0
    lines = [json.loads(line) for line in (folder / "h.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert (folder / "c.svg").read_text().startswith("<svg")
    assert "tfevents" in next((folder / "board").iterdir()).name
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert "price from houses &amp; co.csv" in page
    assert "&lt;b&gt;colour&lt;/b&gt;" in page
    assert f"{lines[-1]['stopped']}." in page


@pytest.mark.needs("pyarrow")
def test_the_command_in_the_page_makes_the_same_model(run, folder):
    (folder / "run.toml").write_text('hidden = "6,5"\nlearning-rate = 0.01\n', encoding="utf-8")
    options = (
        "--recipe",
        "plain",
        "--no-bias",
        "--l2",
        "1e-4",
        "--validation",
        "0.25",
        "--quiet",
        "--report",
        "r.html",
    )
    first = ("train", "houses & co.csv", "--target", "price", "--epochs", "4", "--config", "run.toml")
    assert run(*first, *options, "--out", "a.safetensors").status == 0
    model = (folder / "a.safetensors").read_bytes()
    program, *arguments = command_in((folder / "r.html").read_text(encoding="utf-8"))
    assert program == "mlp-xp"
    assert arguments[:2] == ["train", "houses & co.csv"]
    assert {"--hidden", "--learning-rate", "--no-bias"} <= set(arguments)
    assert "--config" not in arguments
    (folder / "a.safetensors").unlink()
    assert run(*arguments).status == 0
    assert (folder / "a.safetensors").read_bytes() == model


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(
    "options", [(), ("--validation", "0"), ("--loss", "pinball:quantiles=0.1/0.9")], ids=str
)
def test_pages_of_other_runs(run, folder, options):
    assert run(*TRAIN, *options, "--quiet", "--report", "r.html").status == 0
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert ("held-out rows" in page) == ("--validation" not in options)


@pytest.mark.needs("chromium", "pyarrow")
def test_a_page_of_a_real_run_in_a_browser(run, folder):
    assert run(*TRAIN, "--schedule", "cosine", "--quiet", "--report", "r.html").status == 0
    widths, console = look([(folder / "r.html").read_text(encoding="utf-8")], 360, folder.parent)
    assert (widths, console) == ([360], [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--report", "houses & co.csv"), "--report 'houses & co.csv' is a file that is read"),
        (("--log", "nowhere/h.jsonl"), "--log nowhere/h.jsonl: there is no folder nowhere"),
        (("--plot", "c.jpeg"), "--plot c.jpeg: a picture is a .png or .svg file"),
        (("--tensorboard", "houses & co.csv"), "--tensorboard 'houses & co.csv' is a file: name a folder"),
        (("--plot", "."), "--plot . is a folder: name a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_training(run, folder, options, message):
    said = run(*TRAIN, *options, "--out", "m.safetensors")
    assert said.status == 2
    assert message in said.err
    assert sorted(path.name for path in folder.iterdir()) == ["houses & co.csv"]


def test_a_log_that_cannot_be_written_any_more_costs_no_training(tmp_path, capsys):
    log = tmp_path / "there" / "history.jsonl"
    log.parent.mkdir()

    def epochs():
        for number in (1, 2, 3):
            yield Epoch(number, 0.5, None, 1e-3, 1, 10, 0.1, True, None, None, None)
            if number == 1:
                shutil.rmtree(log.parent)

    assert [epoch.number for epoch in Outputs(log=log).watch(epochs())] == [1, 2, 3]
    assert capsys.readouterr().err == f"{log}: No such file or directory; going on without it\n"
    with pytest.raises(OSError, match="there is no folder"):
        Log(log).add({"epoch": 1})
