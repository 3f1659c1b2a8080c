"""A file format added as CONTRIBUTING says: one description, and every way to read a table knows it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlp_xp
from mlp_xp.rows.files import local_file
from mlp_xp.tables.files.arrow_files import Format
from mlp_xp.tables.files.blocks import Part
from mlp_xp.tables.files.typed_table import TypedTable

pytestmark = pytest.mark.needs("pyarrow")

NEW = """

def _new(file: File) -> Any:
    from pyarrow import orc

    return orc.ORCFile(file.open())


NEW = Format(
    "ORC",
    (".orc",),
    b"ORC",
    columns=lambda file: [(field.name, field.type) for field in _new(file).schema],
    parts=lambda file: [Part(file, 1, _new(file).nrows)],
    batches=lambda part, names: _new(part.file).read(columns=list(names)).to_batches(),
)
WRONG = dataclasses.replace(
    NEW, name="Wrong", suffixes=(".wrong",), mark=b"", batches=lambda part, names: part.nothing
)

"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The package with one more format, which its trial in another process has too, and a table of it."""
    import pyarrow as pa
    from pyarrow import orc

    folder = tmp_path_factory.mktemp("orc")
    shutil.copytree(Path(mlp_xp.__file__).parent, folder / "mlp_xp")
    catalogue = folder / "mlp_xp/tables/files/arrow_files.py"
    before, line, after = catalogue.read_text(encoding="utf-8").partition("\nFORMATS = ")
    after = after.replace("(PARQUET", "(NEW, WRONG, PARQUET")
    catalogue.write_text(before + NEW + line + after, encoding="utf-8")
    x = np.linspace(-1.0, 1.0, 200)
    table = pa.table({"x": x, "side": np.where(x > 0, "right", "left"), "y": 3 * x})
    orc.write_table(table, folder / "t.orc")
    whole = (folder / "t.orc").read_bytes()
    for name in ("t.csv", "t.wrong"):
        (folder / name).write_bytes(whole)
    (folder / "cut.orc").write_bytes(whole[: len(whole) // 2])
    return folder


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout if done.returncode == 0 else done.stderr


def test_a_new_format_is_trained_on_and_predicted_from(folder):
    code = """
import numpy as np
from mlp_xp import fit_table
model = fit_table("t.orc", "y", epochs=30)
assert model.inputs.names == ("x", "side")
assert model.training["metrics"]["r2"] > 0.9
print(np.corrcoef(model.predict("t.orc").ravel(), np.linspace(-1.0, 1.0, 200))[0, 1])
"""
    assert float(run(folder, "-c", code)) > 0.95


def test_the_command_line_knows_a_new_format(folder):
    train = ("-m", "mlp_xp", "train", "--target", "y", "--epochs", "1")
    assert "can not be read to the end" in run(folder, *train, "cut.orc")
    assert "it begins like an ORC file: let its name end in .orc" in run(folder, *train, "t.csv")
    assert "no attribute 'nothing'" in run(folder, *train, "t.wrong")
    assert ".orc" in run(folder, "-m", "mlp_xp", "train", "--help")


class Damage(Exception):
    """A reader's own."""


def fails_in(function, error, tmp_path):
    """Read a table of a format one of whose functions raises an error."""
    import pyarrow as pa

    def batches(part, names):
        yield pa.RecordBatch.from_pydict({"x": [1.0]})
        raise error

    def fails(*_):
        raise error

    known = {
        "columns": lambda file: [("x", pa.float64())],
        "parts": lambda file: [Part(file, 1, 2)],
        "batches": lambda part, names: [],
    }
    path = tmp_path / "t.new"
    path.write_bytes(b"NEW")
    form = Format("New", (".new",), b"", **known | {function: batches if function == "batches" else fails})
    list(TypedTable([local_file(path)], form).blocks(["x"]))


@pytest.mark.parametrize("function", ["columns", "parts", "batches"])
@pytest.mark.parametrize("error", [KeyError("x"), IndexError("5"), Damage("odd"), ValueError("bad")])
def test_what_a_reader_raises_is_said_of_the_file(function, error, tmp_path):
    said = f"t.new can not be read to the end; .*: {type(error).__name__} in the reader of New files: "
    with pytest.raises(ValueError, match=said) as caught:
        fails_in(function, error, tmp_path)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("function", ["columns", "parts", "batches"])
@pytest.mark.parametrize("fault", [TypeError("f() takes 2"), AttributeError("no x"), NameError("x")])
def test_a_fault_of_a_readers_code_stays_one(function, fault, tmp_path):
    with pytest.raises(type(fault)) as caught:
        fails_in(function, fault, tmp_path)
    assert caught.value is fault
