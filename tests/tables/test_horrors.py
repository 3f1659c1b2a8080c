"""Tables as they are found: each trains and predicts, or is refused with file, line, column and remedy."""

import csv

import numpy as np
import pytest
from command_line import runner

from mlp_xp import load

pytestmark = pytest.mark.needs("pyarrow")


run = pytest.fixture(runner)

N_ROWS = 60


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(header, row, *, sep=",", end="\n", n_rows=N_ROWS):
    """The text of a table whose row i has the values row(i)."""
    return end.join([header, *(sep.join(map(str, row(i))) for i in range(n_rows))]) + end


def plain(i):
    return i % 7, i * 3 % 11, i % 7 + 2 * (i * 3 % 11)


PLAIN = table("a,b,price", plain)

WORKS = {
    "a byte order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16": PLAIN.encode("utf-16"),
    "semicolons": table("a;b;price", plain, sep=";"),
    "tabs": table("a\tb\tprice", plain, sep="\t"),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "old Macintosh line ends": PLAIN.replace("\n", "\r"),
    "no newline at the end": PLAIN.rstrip(),
    "empty lines": PLAIN.replace("\n", "\n\n"),
    "quoted newlines": table('"a\nb",k,price', lambda i: (i, '"x\ny"' if i % 2 else '"z, w"', i * 2)),
    "European decimals": table("a;b;price", lambda i: (f"{i},5", f"{i % 7},25", f"{i * 2},75"), sep=";"),
    "thousands separators": table("a;b;price", lambda i: (f"1.{i:03},5", i, 2 * i), sep=";"),
    "emoji names": table("\U0001f600,größe ü,price", plain),
    "a name that is empty": table(",b,price", plain),
    "a constant column": table("a,b,price", lambda i: (7, i, 2 * i)),
    "a column of all gaps": table("a,b,price", lambda i: ("", i, 2 * i)),
    "10,000 categories": table("k,b,price", lambda i: (f"c{i % 10_000}", i, 2 * i), n_rows=20_001),
    "a text for each row": table("k,b,price", lambda i: (f"c{i}", i, 2 * i)),
    "ints, then decimals": table("a,b,price", lambda i: (i if i < 50 else i + 0.5, i, 2 * i)),
    "gaps in many spellings": table(
        "a,b,price", lambda i: (["", "NA", "?", "null", "nan", i][i % 6], i, 2 * i)
    ),
    "booleans in several cases": table("a,b,price", lambda i: ("True" if i % 2 else "FALSE", i, 2 * i)),
    "European dates": table("a,b,price", lambda i: (f"{i % 28 + 1:02}.03.2024", i, 2 * i)),
}


@pytest.mark.parametrize("content", WORKS.values(), ids=WORKS.keys())
def test_it_trains_and_predicts(run, folder, content):
    (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = run("train", "t.csv", "--target", "price", "--epochs", "2", "--quiet", "--out", "m")
    assert (outcome.status, outcome.err) == (0, "")
    outcome = run("predict", "m", "t.csv", "--out", "p.csv", "--quiet")
    assert (outcome.status, outcome.err) == (0, "")
    with (folder / "p.csv").open() as file:
        predicted = [float(row["prediction"]) for row in csv.DictReader(file)]
    assert len(predicted) in (N_ROWS, 20_001)
    assert np.isfinite(predicted).all()


def column(name):
    """The prepared column of a model that was trained in this folder."""
    return next(each for each in load("m").inputs.columns if each.name == name)


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [
        (WORKS["quoted newlines"], "k", "text"),
        (WORKS["European decimals"], "a", "number"),
        (WORKS["ints, then decimals"], "a", "number"),
        (WORKS["gaps in many spellings"], "a", "number"),
        (WORKS["booleans in several cases"], "a", "bool"),
        (WORKS["European dates"], "a", "date"),
    ],
)
def test_columns_are_what_a_person_would_say(run, folder, content, name, kind):
    (folder / "t.csv").write_text(content)
    run("train", "t.csv", "--target", "price", "--epochs", "1", "--out", "m")
    assert column(name).kind == kind


def test_of_10_000_categories_the_most_frequent_are_told_apart(run, folder):
    (folder / "t.csv").write_text(WORKS["10,000 categories"])
    run("train", "t.csv", "--target", "price", "--epochs", "1", "--max-levels", "9", "--out", "m")
    assert (len(column("k").levels), column("k").other) == (9, True)
    assert load("m").predict({"k": ["never seen", None], "b": [1, None]}).shape == (2, 1)


def test_ints_then_decimals_after_200_000_rows(run, folder):
    (folder / "t.csv").write_text(
        table("a,b,price", lambda i: (i if i < 200_000 else i + 0.5, i % 7, i % 5), n_rows=200_050)
    )
    options = ["--task", "regression", "--epochs", "1", "--batch-size", "4096", "--quiet", "--out", "m"]
    assert run("train", "t.csv", "--target", "price", *options).err == ""
    training = 200_050 - 20_005
    assert load("m").training["rows"] == training
    assert column("a").kind == "number"
    assert column("a").centre == pytest.approx(100_025, rel=0.01)


REFUSED = {
    "duplicate column names": (table("a,a,price", plain), "t.csv has more than one column named 'a'"),
    "one typo among numbers": (
        table("a,b,price", lambda i: ("oops" if i == 40 else i, i, 2 * i)),
        """t.csv, row 41 (line 42), column 'a' holds 'oops', where a number is needed.
Mend it, leave such columns out with --exclude, or say that they are text (--text a), or what stands for""",
    ),
    "European decimals between commas": (
        table("a,b,price", lambda i: (f'"{i},5"', i, 2 * i)),
        "t.csv, row 1 (line 2), column 'a' holds '0,5', where a number is needed",
    ),
    "an integer column beyond 2^53": (
        table("a,b,price", lambda i: (2**53 + 1 + i, i, 2 * i)),
        "t.csv, row 1 (line 2), column 'a' holds '9007199254740993', which is beyond 2^53",
    ),
    "a target with one class": (
        table("a,b,price", lambda i: (i, i, "yes")),
        "target price has a single value in the 54 rows to train on",
    ),
    "a target of all gaps": (
        table("a,b,price", lambda i: (i, i, "")),
        "t.csv, row 1 (line 2), column 'price' holds nothing, where a value is needed",
    ),
    "columns of all gaps alone": (
        table("a,price", lambda i: ("", 2 * i)),
        "every column has a single value in the 54 rows to train on",
    ),
    "another encoding": (
        table("k,b,price", lambda i: ("größe" if i % 2 else "x", i, 2 * i)).encode("latin-1"),
        "is no UTF-8. Name the encoding of the file, e.g. --encoding latin-1",
    ),
    "dates that are read two ways": (
        table("a,b,price", lambda i: (f"{i % 12 + 1:02}/03/2024", i, 2 * i)),
        "Say which, e.g. --date-format 'day first'",
    ),
    "a row with too few values": (PLAIN + "1,2\n", "t.csv, row 61 (line 62) has 2 values"),
    "a quote that is not closed": (PLAIN + '1,2,"3\n1,2,3\n', "t.csv, row 61"),
    "zero bytes": (PLAIN + "\0,1,2\n", "t.csv is no text in UTF-8: it holds zero bytes"),
    "a long line": (PLAIN + "1," + "2" * 3_000_000 + ",3\n" + PLAIN, "t.csv: line 62 is longer than 1 MiB"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused(run, folder, content, said):
    (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = run("train", "t.csv", "--target", "price", "--epochs", "2", "--out", "m")
    assert (outcome.status, outcome.out) == (2, "")
    assert said in "\n".join(outcome.errors)
    assert [path.name for path in folder.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("duplicate column names", ["--exclude", "a"]),
        ("one typo among numbers", ["--text", "a"]),
        ("one typo among numbers", ["--null", "oops"]),
        ("European decimals between commas", ["--decimal", ","]),
        ("an integer column beyond 2^53", ["--text", "a"]),
        ("an integer column beyond 2^53", ["--columns", "b"]),
        ("another encoding", ["--encoding", "latin-1"]),
        ("dates that are read two ways", ["--date-format", "month first"]),
    ],
)
def test_the_remedy_that_is_named_is_one(run, folder, case, options):
    content, _ = REFUSED[case]
    if case == "duplicate column names":
        content = table("a,a,b,price", lambda i: (i, i, i % 5, 2 * i))
    (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = run("train", "t.csv", "--target", "price", "--epochs", "2", "--quiet", *options)
    assert (outcome.status, outcome.err) == (0, "")


# A model meets other tables than it was trained on

HOUSES = table(
    "id,size,kind,garden,sold,price",
    lambda i: (
        *(i, 50 + i % 13, ["flat", "house", "boat", ""][i % 4]),
        *("true" if i % 3 else "false", f"2024-{i % 12 + 1:02}-03", 3 * i),
    ),
)


@pytest.fixture
def trained(run, folder):
    (folder / "t.csv").write_text(HOUSES)
    assert (
        run("train", "t.csv", "--target", "price", "--exclude", "id", "--epochs", "2", "--out", "m").status
        == 0
    )
    return folder


def predictions(run, *arguments):
    outcome = run("predict", "m", *arguments)
    assert (outcome.status, outcome.errors) == (0, [])
    return [float(row["prediction"]) for row in csv.DictReader(outcome.out.splitlines())]


def test_columns_come_in_any_order_and_others_are_ignored(run, trained):
    rows = list(csv.DictReader(HOUSES.splitlines()))
    with (trained / "other.csv").open("w") as file:
        writer = csv.DictWriter(file, ["extra", "sold", "garden", "kind", "size"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "extra": "?"} for row in rows)
    assert predictions(run, "other.csv") == predictions(run, "t.csv")


@pytest.mark.needs("pandas")
def test_python_predicts_what_the_command_line_does(run, trained):
    import pandas as pd

    frame = pd.read_csv("t.csv", parse_dates=["sold"])
    frame.to_parquet("t.parquet")
    expected = predictions(run, "t.csv")
    assert predictions(run, "t.parquet") == expected
    model = load("m")
    for given in (frame, frame.astype({"kind": "category"}), "t.csv", frame.to_dict("list")):
        np.testing.assert_allclose(model.predict(given).ravel(), expected, rtol=1e-6)


def test_a_table_in_which_a_column_looks_like_another_kind(run, trained):
    """Texts that are numbers, booleans that are 0 and 1, dates and numbers that are gaps alone."""
    (trained / "other.csv").write_text("size,kind,garden,sold\n,12,1,\n,13,0,\n")
    found = predictions(run, "other.csv")
    known = {"size": [None, None], "kind": ["boot", "tent"], "garden": [True, False], "sold": [None, None]}
    np.testing.assert_allclose(found, load("m").predict(known).ravel(), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("size,garden,sold\n1,true,2024-01-01\n", "other.csv has no column 'kind'"),
        (
            "size,kind,garden,sold\n1,flat,true,2024-01-01\nbig,flat,true,2024-01-01\n",
            "other.csv, row 2 (line 3), column 'size' holds 'big', where numbers are needed",
        ),
        ("size,kind,garden,sold\n1,flat,true,soon\n", "column 'sold' holds 'soon', where dates are needed"),
        ("size,kind,garden,sold\n1,flat,maybe,2024-01-01\n", "'maybe', where true and false are needed"),
        ("size,kind,garden,sold\ninf,flat,true,2024-01-01\n", "column 'size' holds 'inf', which is infinite"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(run, trained, content, said):
    (trained / "other.csv").write_text(content)
    outcome = run("predict", "m", "other.csv", "--out", "p.csv")
    assert outcome.status == 2
    assert said in "\n".join(outcome.errors)
    assert not (trained / "p.csv").exists()
