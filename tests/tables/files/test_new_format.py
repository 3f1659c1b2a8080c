"""A file format added as CONTRIBUTING says: one description, and every way to read a table knows it."""

import numpy as np
import pytest

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture
def orc_file(tmp_path, monkeypatch):
    """A table of a format that nobody knew, and its description in the catalogue."""
    import pyarrow as pa
    from pyarrow import orc

    from mlp_xp.tables.files import arrow_files, opening
    from mlp_xp.tables.files.blocks import Part

    def opened(file):
        return orc.ORCFile(file.open())

    new = arrow_files.Format(
        suffixes=(".orc",),
        mark=b"ORC",
        columns=lambda file: [(field.name, field.type) for field in opened(file).schema],
        parts=lambda file: [Part(file, 1, opened(file).nrows)],
        batches=lambda part, names: opened(part.file).read(columns=list(names)).to_batches(),
    )
    monkeypatch.setitem(arrow_files.FORMATS, "ORC", new)
    monkeypatch.setitem(opening.SUFFIXES, "ORC", new.suffixes)
    # It reads on trial in a process of its own, which has the catalogue that is in the file.
    monkeypatch.setattr(opening, "read_in_sandbox", lambda table, names: None)
    x = np.linspace(-1.0, 1.0, 200)
    orc.write_table(
        pa.table({"x": x, "side": np.where(x > 0, "right", "left"), "y": 3 * x}), tmp_path / "t.orc"
    )
    return tmp_path / "t.orc"


def test_a_new_format_is_trained_on_and_predicted_from(orc_file):
    from mlp_xp import fit_table

    model = fit_table(orc_file, "y", epochs=30)
    assert model.training["metrics"]["r2"] > 0.9
    assert model.inputs.names == ("x", "side")
    predicted = model.predict(orc_file).ravel()
    assert np.corrcoef(predicted, np.linspace(-1.0, 1.0, 200))[0, 1] > 0.95
