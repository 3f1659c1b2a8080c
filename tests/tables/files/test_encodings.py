"""Files in other encodings, compressed, of other formats than their names say: read, or refused plainly."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zipfile

import numpy as np
import pytest

from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import open_source

pytestmark = pytest.mark.needs("pyarrow")

TEXT = "é,größe,y\n" + "".join(f"{n}.5,{'né' if n % 2 else 'ja 🏠'},{n}\n" for n in range(50))


def rows(path, **named):
    source = open_source(path, "y", text="code", dtype="float64", **named)
    x = np.empty((source.n_rows, 2))
    source.rows(np.arange(source.n_rows), x, None, None)
    return source.columns, x.tolist()


@pytest.fixture
def expected(tmp_path):
    (tmp_path / "plain.csv").write_bytes(TEXT.encode())
    return rows(tmp_path / "plain.csv")


@pytest.mark.parametrize(
    "written",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
    ],
    ids=["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16 of Windows"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_says_the_encoding(tmp_path, expected, written, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(written) if packed else written)
    assert rows(path) == expected


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_without_a_mark_the_advice_is_one_that_works(tmp_path, expected, name):
    (tmp_path / "t.csv").write_bytes(TEXT.encode(name))
    with pytest.raises(ValueError, match=f"zero bytes. It reads as text with encoding='{name}'"):
        rows(tmp_path / "t.csv")
    assert rows(tmp_path / "t.csv", csv=CsvForm(encoding=name)) == expected


def zipped(text):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("t.csv", text)
    return written.getvalue()


def as_npy(text):
    written = io.BytesIO()
    np.save(written, np.arange(30.0))
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "pack", "said"),
    [
        ("t.csv", gzip.compress, "a gzip file"),
        ("t.csv", bz2.compress, "a bzip2 file"),
        ("t.csv", lzma.compress, "an xz file"),
        ("t.csv", zipped, "a zip archive"),
        ("t.csv", as_npy, "a NumPy array"),
        ("t.csv", lambda text: b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n" + text, "a PDF document"),
        ("t.csv", lambda text: b"PAR1" + bytes(20) + b"PAR1", "a Parquet file"),
        ("t.csv", lambda text: bytes(40) + text, "holds zero bytes. It is no CSV file"),
        ("t.csv", lambda text: codecs.BOM_UTF8, "is empty"),
        ("t.csv", lambda text: b'[{"a": 1, "y": 2}]', "no row below its first line"),
        ("t.parquet", gzip.compress, "a gzip file"),
        ("t.arrow", zipped, "a zip archive"),
    ],
)
def test_another_format_than_the_name_says_is_said(tmp_path, name, pack, said):
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    with pytest.raises(ValueError, match=said) as refused:
        rows(tmp_path / name)
    assert name in str(refused.value)


def test_a_column_may_have_the_name_of_a_format(tmp_path):
    (tmp_path / "t.csv").write_text("PAR1,y\n1,2\n3,4\n")
    assert open_source(tmp_path / "t.csv", "y").columns[0].name == "PAR1"


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
@pytest.mark.parametrize("suffix", [b".csv", b".parquet"])
def test_a_name_that_is_no_utf_8_is_refused_as_such(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"bad\xff" + suffix)
    try:
        path.write_text(TEXT)
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(ValueError, match="a name that is no UTF-8"):
        rows(path)
