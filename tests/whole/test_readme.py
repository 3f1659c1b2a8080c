"""README's command lines run, one after the other, and its pictures and files are there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from command_line import runner

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

run = pytest.fixture(runner)


def command_lines():
    """What README tells to type after `mlp-xp`, where one process on a CPU can do it."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mlp-xp"] and not any(word.startswith("cuda") for word in words):
                yield words[1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that README's examples name, where the commands run."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    monkeypatch.chdir(tmp_path)
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
        "sold": priced,
        "new": priced.drop_columns("price"),
    }.items():
        csv.write_csv(table, tmp_path / f"{name}.csv")
    parquet.write_table(
        pa.table({"a": rng.normal(size=500), "y": rng.normal(size=500)}), tmp_path / "big.parquet"
    )
    np.save(tmp_path / "x.npy", rng.normal(size=(300, 4)))
    np.save(tmp_path / "y.npy", rng.normal(size=300))
    return tmp_path


@pytest.mark.needs("matplotlib", "onnx", "pyarrow", "sklearn")
def test_command_lines(run, folder):
    given = list(command_lines())
    assert {words[0] for words in given} >= {"train", "predict", "evaluate", "show", "devices"}
    for words in given:
        said = run(*words)
        assert said.status == 0, f"mlp-xp {shlex.join(words)}\n{said.err}"


def test_what_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    named = re.findall(r"`((?:mlp_xp|bench|tests|docs)/[\w/.]+)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()] == []
