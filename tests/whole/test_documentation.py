"""README and the site's pages: command lines run, pictures and files are there, public names are complete.

Their Python is run as doctests; Sphinx, which checks the links between pages, is run by .ci/run.
"""

import http.client
import json
import pkgutil
import re
import runpy
import shlex
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from command_line import runner

import mlp_xp

ROOT = Path(__file__).parents[2]
PAGES = {
    page.name: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}

run = pytest.fixture(runner)


def command_lines(text):
    """What a page tells to type after `mlp-xp`, where one process on a CPU can do it."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mlp-xp"] and not any(word.startswith("cuda") for word in words):
                yield words[1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the examples name, where the commands run."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 9, 300)
    columns = {
        "rooms": rooms,
        "area": rooms * 20 + rng.normal(size=300),
        "town": rng.choice(["Oslo", "Rome", None], 300),
        "garden": rng.random(300) < 0.5,
        "sold": np.datetime64("2024-01-01") + rng.integers(0, 400, 300),
    }
    priced = pa.table(columns | {"price": columns["area"] * 3000 + rng.normal(size=300)})
    for name, table in {
        "houses": priced,
        "old": priced,
        "sold": priced.append_column("street", pa.array([f"s{number}" for number in rooms])),
        "new": priced.drop_columns("price"),
    }.items():
        csv.write_csv(table, tmp_path / f"{name}.csv")
    parquet.write_table(
        pa.table({"a": rng.normal(size=500), "y": rng.normal(size=500)}), tmp_path / "big.parquet"
    )
    return tmp_path


@pytest.mark.needs("matplotlib", "onnx", "pyarrow", "sklearn")
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if any(command_lines(text))])
def test_command_lines(run, folder, page):
    for words in command_lines(PAGES[page]):
        said = run(*words)
        assert said.status == 0, f"mlp-xp {shlex.join(words)}\n{said.err}"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page):
    text, folder = PAGES[page], ROOT if page == "README.md" else ROOT / "docs"
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
    named = re.findall(r"`((?:mlp_xp|bench|tests|docs)/[\w/.]+)`", text)
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()] == []


def test_every_page_is_in_the_contents():
    contents = re.findall(r"^(\w+)$", PAGES["index.md"], re.MULTILINE)
    assert sorted([*(f"{name}.md" for name in contents), "README.md", "index.md"]) == sorted(PAGES)


@pytest.mark.needs("optuna", "sklearn")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_recipe_for_optuna(tmp_path, rng):
    (program,) = re.findall(r"```python\n(import optuna.*?)```", PAGES["tuning.md"], re.DOTALL)
    assert "n_trials=50" in program
    (tmp_path / "recipe.py").write_text(program.replace("n_trials=50", "n_trials=3"))
    x = rng.normal(size=(80, 3))
    found = runpy.run_path(str(tmp_path / "recipe.py"), {"X": x, "y": x[:, 0] - x[:, 1]})["study"]
    assert len(found.trials) == 3
    assert set(found.best_params) == {"width", "depth", "learning_rate_init", "alpha", "dropout"}
    assert found.best_value < 2


def test_public_names_are_on_the_page_about_them():
    documented = re.findall(r"auto(?:class|function):: (?:mlp_xp\.)?([\w.]+)", PAGES["api.md"])
    assert {name.partition(".")[0] for name in documented} >= set(mlp_xp.__all__)
    for name in documented:
        pkgutil.resolve_name(f"mlp_xp.{name}")


def test_the_service_has_twenty_lines_and_answers(tmp_path, monkeypatch):
    program = re.search(r"```python\n(# serve\.py.*?)```", PAGES["serving.md"], re.DOTALL)[1]
    assert len([line for line in program.splitlines()[1:] if line]) <= 20
    (tmp_path / "serve.py").write_text(program)
    mlp_xp.save(mlp_xp.Network((2, 3, 1), seed=0), tmp_path / "m.safetensors")
    servers = []
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda server: servers.append(server))
    monkeypatch.setattr("sys.argv", ["serve.py", str(tmp_path / "m.safetensors"), "0"])
    runpy.run_path(str(tmp_path / "serve.py"))

    def answer(content):
        thread = threading.Thread(target=servers[0].handle_request)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", servers[0].server_port, timeout=60)
        connection.request("POST", "/", content)
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        thread.join()
        return found

    status, predicted = answer("[[1, 2], [3, 4]]")
    assert status == 200
    np.testing.assert_allclose(
        predicted, mlp_xp.Network((2, 3, 1), seed=0).predict([[1, 2], [3, 4]]), rtol=1e-6
    )
    status, said = answer("[[1, 2, 3]]")
    assert status == 400
    assert "3" in said["error"]
    servers[0].server_close()
