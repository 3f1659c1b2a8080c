"""Tables on the command line: which columns and rows are used for what, and what goes on from what."""

import csv
import io
import json
import re
import subprocess
import sys
import tomllib
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import environment, runner
from mpi import mpiexec

from mlp_xp import MLPRegressor, Network, load, save
from mlp_xp.cli.commands import Train
from mlp_xp.cli.configuration import keys
from mlp_xp.tables.holding_out import whole_groups

pytestmark = pytest.mark.needs("pyarrow", "sklearn")


run = pytest.fixture(runner)

QUICK = ("--epochs", "2", "--hidden", "4", "--quiet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def houses(folder, rng):
    """A table with every kind of column, and gaps."""
    write_houses(folder / "houses.csv", rng)
    return folder


def write_houses(path, rng, n_rows=200):
    with path.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["id", "owner", "size", "income", "kind", "garden", "sold", "weight", "price", "taxes"]
        )
        for i in range(n_rows):
            size, income, kind = rng.normal(80, 20), rng.lognormal(), rng.choice(["flat", "house", "boat"])
            garden, day = rng.random() < 0.5, np.datetime64("2020-01-01") + int(rng.integers(0, 900))
            price = 3 * size + 20 * garden + 50 * (kind == "house") + income
            writer.writerow(
                [
                    *(f"row {i}", f"owner {i % 20}", f"{size:.2f}", f"{income:.3f}" if i % 9 else ""),
                    *(kind if i % 7 else "", "true" if garden else "false", day, f"{rng.random():.2f}"),
                    *(f"{price:.2f}", f"{price / 10:.2f}"),
                ]
            )


def good(outcome):
    assert (outcome.status, outcome.errors) == (0, [])
    return outcome


def result(outcome):
    return json.loads(good(outcome).out)


def refused(outcome):
    assert (outcome.status, outcome.out) == (2, "")
    return "\n".join(outcome.errors)


TRAIN = ("train", "houses.csv", "--target", "price", "--exclude", "id,taxes")


# Columns


def test_every_kind_of_column_trains_predicts_evaluates_and_is_shown(run, houses):
    options = (
        "--epochs",
        "40",
        "--learning-rate",
        "0.01",
        "--out",
        "my houses.safetensors",
        "--json",
        "--quiet",
    )
    found = result(run(*TRAIN, "--exclude", "id,taxes,owner,weight", *options))
    assert found["metrics"]["r2"] > 0.8
    measured = result(run("evaluate", "my houses.safetensors", "houses.csv", "--json"))
    assert measured["rows_measured"] == 200
    assert measured["metrics"]["r2"] > 0.8
    lines = good(run("predict", "my houses.safetensors", "houses.csv")).out.splitlines()
    assert len(lines) == 201
    np.testing.assert_allclose(
        load("my houses.safetensors").predict("houses.csv").ravel(),
        [float(line) for line in lines[1:]],
        rtol=1e-6,
    )
    shown = good(run("show", "my houses.safetensors")).out
    assert "inputs: 5 columns, 14 features" in shown
    assert "kind    text, 1 for each of 3 levels (boat, flat, house), 1 for a gap" in shown
    assert ", 1 for a gap\n  kind" in shown
    assert "sin and cos of week, sin and cos of year" in shown


def test_bounds_of_dates_are_shown_as_dates(run, houses):
    good(run(*TRAIN, *QUICK, "--scaling", "encoded", "--out", "m"))
    shown = good(run("show", "m")).out
    assert re.search(r"date, days since 1970: .*, from 2020-0\d-\d\d to 2022-0\d-\d\d, ", shown)


def test_columns_are_chosen_by_name_in_the_order_given(run, houses):
    good(
        run("train", "houses.csv", "--target", "taxes,price", "--columns", "kind,size", *QUICK, "--out", "m")
    )
    model = load("m")
    assert (model.inputs.names, model.targets.names) == (("kind", "size"), ("taxes", "price"))


def test_numbers_can_be_taken_as_names_of_groups(run, folder):
    (folder / "t.csv").write_text("zip,y\n" + "".join(f"0{1000 + i % 3},{i % 5}.5\n" for i in range(40)))
    good(run("train", "t.csv", "--target", "y", "--text", "zip", *QUICK, "--out", "m"))
    assert load("m").inputs.columns[0].levels == ("01000", "01001", "01002")
    (folder / "t.csv").write_text("zip\n01002\n01000\n")
    good(run("predict", "m", "t.csv"))


@pytest.mark.parametrize("scaling", ["standard", "robust", "none"])
def test_scaling(run, houses, scaling):
    good(run(*TRAIN, "--scaling", scaling, *QUICK, "--learning-rate", "1e-5", "--out", "m"))
    size = next(column for column in load("m").inputs.columns if column.name == "size")
    assert (size.centre, size.scale) == (0.0, 1.0) if scaling == "none" else 60 < size.centre < 100
    assert size.clipped == (scaling == "robust")


def test_weights_and_balanced_classes(run, houses):
    weighted = result(run(*TRAIN, "--weight-column", "weight", *QUICK, "--json"))
    plain = result(run(*TRAIN, *QUICK, "--json"))
    assert weighted["train_loss"] != plain["train_loss"]
    target = ("train", "houses.csv", "--target", "garden", "--exclude", "id")
    balanced = result(run(*target, "--class-weight", "balanced", *QUICK, "--json"))
    assert balanced["train_loss"] != result(run(*target, *QUICK, "--json"))["train_loss"]
    assert "no classes" in refused(run(*TRAIN, "--class-weight", "balanced", *QUICK))


# The held-out part


def held_out_rows(run, houses, *options):
    """Numbers of the rows that a training held out, by what they weigh in its statistics."""
    found = result(run(*TRAIN, *options, *QUICK, "--json", "--out", "m"))
    return found["rows_measured"], load("m")


def rows_of(folder, name):
    with (folder / "houses.csv").open(encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_whole_groups_are_held_out(run, houses):
    n_held, model = held_out_rows(run, houses, "--group", "owner", "--validation", "0.2")
    assert n_held == 40
    assert "owner" not in model.inputs.names
    # The model's mean is that of the rows of 16 owners: which ones, there is one answer to.
    owners, sizes = np.array(rows_of(houses, "owner")), np.array(rows_of(houses, "size"), dtype=float)
    training, held = whole_groups(np.unique(owners, return_inverse=True)[1], 0.2, 0, "owner")
    assert not set(owners[training]) & set(owners[held])
    size = next(column for column in model.inputs.columns if column.name == "size")
    assert size.centre == pytest.approx(sizes[training].mean())


def test_the_latest_rows_are_held_out(run, houses):
    n_held, model = held_out_rows(run, houses, "--time", "sold")
    dates = np.array(rows_of(houses, "sold"), dtype="M8[D]")
    last = np.sort(dates)[-21]
    assert n_held == (dates > last).sum() <= 20
    sold = next(column for column in model.inputs.columns if column.name == "sold")
    assert sold.centre == pytest.approx(dates[dates <= last].astype(int).mean())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--group", "owner", "--time", "sold"], "--group and --time are two ways"),
        (["--group", "owner", "--validation", "0"], "--group: with --validation 0 no rows are held out"),
        (["--group", "woner"], "has no column 'woner' beside its targets to split the rows by; did you mean"),
        (["--time", "kind"], "--time kind: it holds text, and a time is a date or a number"),
        (["--time", "income"], "--time income: row 1 has nothing there"),
        (["--group", "kind"], "--group kind: row 1 has nothing there"),
        (["--group", "owner", "--no-cache", "--memory-limit", "1kB"], "is split at random alone"),
        (["--scaling", "log"], "unknown --scaling 'log'"),
        (["--max-levels", "0"], "--max-levels=0 must be a whole number >= 1"),
        (["--columns", "size,size"], "column 'size' is named twice"),
        (["--delimiter", ";;"], "--delimiter ';;' must be one character"),
        (["--order", "sequential", "--no-cache", "--memory-limit", "1kB"], "has an order of its own"),
    ],
)
def test_what_does_not_go_together(run, houses, options, said):
    assert said in refused(run(*TRAIN, *options, *QUICK, "--out", "m"))
    assert [path.name for path in houses.iterdir()] == ["houses.csv"]


def test_a_group_is_an_input_only_if_it_is_named_and_a_time_unless_it_is_excluded(run, houses):
    for options, names in [
        (["--columns", "size,owner", "--group", "owner"], ("size", "owner")),
        (["--columns", "size", "--group", "owner"], ("size",)),
        (["--columns", "size", "--time", "sold"], ("size",)),
    ]:
        good(run("train", "houses.csv", "--target", "price", *options, *QUICK, "--out", "m"))
        assert load("m").inputs.names == names
    good(run(*TRAIN, "--time", "sold", *QUICK, "--out", "m"))
    assert "sold" in load("m").inputs.names
    good(run(*TRAIN[:-1], "id,taxes,sold", "--time", "sold", *QUICK, "--out", "m"))
    assert "sold" not in load("m").inputs.names


def test_held_out_rows_leave_no_trace_in_what_is_trained(run, folder, rng):
    """Other values, texts, dates and gaps in the held-out rows: weights and statistics stay bit for bit."""
    write_houses(folder / "houses.csv", rng)
    options = ("--time", "id", "--keep", "last", "--patience", "0", "--scaling", "robust", *QUICK, "--json")
    with (folder / "houses.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for number, row in enumerate(rows[1:]):
        row[0] = number
    poison = ["poison", "1e9", "", "poison", "true", "1900-01-01", "1", "1e12", "1"]
    found = []
    for name, last in (("clean", rows[181:]), ("poisoned", [[row[0], *poison] for row in rows[181:]])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8") as file:
            csv.writer(file).writerows([*rows[:181], *last])
        train = (
            "train",
            f"{name}.csv",
            "--target",
            "price",
            "--exclude",
            "taxes,id",
            "--weight-column",
            "weight",
        )
        assert result(run(*train, *options, "--out", name))["rows_measured"] == 20
        found.append(load(name))
    clean, poisoned = found
    assert (clean.inputs, clean.targets) == (poisoned.inputs, poisoned.targets)
    assert clean.network.parameters.to_host().tobytes() == poisoned.network.parameters.to_host().tobytes()
    assert clean.training["metrics"] != poisoned.training["metrics"]


# A table that is streamed, on any number of threads


def test_a_table_larger_than_memory_is_cached_or_streamed(run, houses):
    limit = ("--memory-limit", "5kB", "--cache-dir", "cache")
    in_memory = result(run(*TRAIN, *QUICK, "--json", "--out", "a"))
    cached = result(run(*TRAIN, *QUICK, *limit, "--json", "--out", "b"))
    assert cached["metrics"] == in_memory["metrics"]
    assert load("a").inputs == load("b").inputs
    streamed = result(run(*TRAIN, *QUICK, *limit, "--no-cache", "--json", "--out", "c"))
    assert streamed["rows_measured"] + load("c").training["rows"] == 200
    assert [type(column) for column in load("c").inputs.columns] == [
        type(column) for column in load("a").inputs.columns
    ]
    predicted = [
        good(run("predict", "a", "houses.csv", *more)).out for more in ([], ["--cache-dir", "cache"])
    ]
    assert predicted[0] == predicted[1]


def test_streamed_classes(run, houses):
    options = ("--memory-limit", "5kB", "--no-cache", "--json", *QUICK)
    found = result(run("train", "houses.csv", "--target", "garden", "--exclude", "id", *options))
    assert 0 < found["metrics"]["accuracy"] <= 1


@pytest.mark.needs("mpi4py")
def test_columns_are_prepared_alike_on_any_number_of_threads_and_ranks(houses):
    """Also where medians come from a sample: of 100 rows here."""
    code = "import sys; from mlp_xp.tables import statistics; statistics.SAMPLE_ROWS = 100; "
    code += "from mlp_xp.cli import main; main(sys.argv[1:])"
    options = (*TRAIN, "--scaling", "robust", *QUICK)
    found = {}
    for n_ranks, n_threads in ((1, 1), (1, 2), (3, 1)):
        out = f"{n_ranks}-{n_threads}"
        command = ("-c", code, *options, "--out", out)
        if n_ranks > 1:
            done = mpiexec(n_ranks, *command, cwd=houses)
        else:
            threads = {"OPENBLAS_NUM_THREADS": str(n_threads), "OMP_NUM_THREADS": str(n_threads)}
            done = subprocess.run(
                [sys.executable, *command],
                cwd=houses,
                env=environment(**threads),
                capture_output=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        found[out] = load(houses / out)
    assert len({model.inputs for model in found.values()}) == 1
    assert len({model.targets for model in found.values()}) == 1


@pytest.mark.parametrize("way", [[], ["--no-cuda-graph"], ["--plain-steps"]])
def test_ways_to_make_steps(run, houses, way):
    assert result(run(*TRAIN, *QUICK, "--json", *way))["metrics"]["r2"] is not None


def test_plain_steps_compile_nothing(run, houses, monkeypatch):
    from mlp_xp.tables import fitting

    ways = []
    train = fitting.train
    monkeypatch.setattr(fitting, "train", lambda *a, **named: ways.append(named["way"]) or train(*a, **named))
    for option in ("--plain-steps", "--no-cuda-graph", "--cuda-graph"):
        good(run(*TRAIN, *QUICK, option))
    assert ways == ["plain", "fused", "fast"]


# Going on from a model


def test_a_model_goes_on_with_its_own_statistics(run, houses, rng):
    good(run(*TRAIN, *QUICK, "--epochs", "20", "--out", "m"))
    write_houses(houses / "new.csv", rng, n_rows=150)
    found = result(
        run("train", "new.csv", "--init", "m", *("--epochs", "1", "--quiet", "--json", "--out", "n"))
    )
    before, after = load("m"), load("n")
    assert (before.inputs, before.targets) == (after.inputs, after.targets)
    assert after.training["rows"] == 135
    assert found["train_loss"] < result(run("train", "new.csv", *TRAIN[2:], *QUICK, "--json"))["train_loss"]
    assert not np.array_equal(before.network.parameters.to_host(), after.network.parameters.to_host())


def test_classes_go_on_by_name(run, houses):
    train = ("train", "houses.csv", "--target", "garden", "--columns", "size,price", *QUICK)
    good(run(*train, "--out", "m"))
    (houses / "new.csv").write_text("price,size,garden\n" + "300,90,1\n200,70,0\n" * 20)
    found = result(run("train", "new.csv", "--init", "m", "--quiet", "--epochs", "2", "--json", "--out", "n"))
    assert "accuracy" in found["metrics"]
    assert load("n").levels == ("false", "true")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--hidden", "4", "--columns", "size"],
            "--columns, --hidden: --init goes on from a model, which has",
        ),
        (["--target", "taxes"], "--target taxes: the model of --init predicts price"),
        (["--init", "none"], "there is no model file none"),
        (["--init", "network"], "--init network holds a Network: name a model that mlp-xp train wrote"),
        (["--out", "houses.csv"], "--out houses.csv is a file that is read"),
    ],
)
def test_models_and_options_that_do_not_fit(run, houses, options, said):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    save(Network((2, 1)), "network")
    assert said in refused(run("train", "houses.csv", "--init", "m", *options))


def test_a_table_without_the_models_columns_is_refused(run, houses):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    (houses / "new.csv").write_text("size,price\n1,2\n3,4\n")
    said = refused(run("train", "new.csv", "--init", "m"))
    assert "new.csv has no columns 'owner', 'income', 'kind', 'garden', 'sold', 'weight'" in said


# A file of options


def train_options():
    return keys(Train)


def test_every_option_is_written_beside_the_model_and_gives_it_again(run, houses):
    out = "my houses.safetensors"
    good(run(*TRAIN, *QUICK, "--no-bias", "--dropout", "0.1", "--out", out))
    text = (houses / f"{out}.toml").read_text()
    written = tomllib.loads(text)
    unset = {line.split()[1] for line in text.splitlines() if line.endswith("is not given.")}
    assert written.keys() | unset == train_options().keys()
    assert (written["exclude"], written["bias"], written["epochs"]) == ("id,taxes", False, 2)
    first = (houses / out).read_bytes()
    (houses / out).unlink()
    good(run("train", "--config", f"{out}.toml"))
    assert (houses / out).read_bytes() == first
    good(run("train", "--config", f"{out}.toml", "--seed", "1", "--out", "other"))
    assert tomllib.loads((houses / "other.toml").read_text()) == written | {"seed": 1, "out": "other"}


def test_lists_numbers_and_odd_names_in_a_file_of_options(run, houses):
    text = (houses / "houses.csv").read_text().replace("owner,size", '"owner, ""\U0001f600""",size')
    (houses / "houses.csv").write_text(text)
    (houses / "run.toml").write_text(
        'data = "houses.csv"\ntarget = ["price", "taxes"]\nexclude = ["id", "owner, \\"\U0001f600\\""]\n'
        'hidden = [4, 3]\nbatch-size = 16\nlearning-rate = 1e-2\nepochs = 2\nquiet = true\nout = "m"\n'
    )
    good(run("train", "--config", "run.toml"))
    assert load("m").network.layer_sizes[1:] == (4, 3, 2)
    assert "owner" not in " ".join(load("m").inputs.names)
    good(run("train", "--config", "m.toml", "--out", "n"))
    assert (houses / "m").read_bytes() == (houses / "n").read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = ", "run.toml is no TOML"),
        ("epoch = 3", "run.toml: 'epoch' is no option; did you mean 'epochs'?"),
        ("resume = true", "run.toml: 'resume' is no option"),
        ("epochs = 2.5", "'2.5' is not a whole number"),
        ("epochs = true", "run.toml: epochs = True must be a number, a text or a list of them"),
        ("bias = 'yes'", "run.toml: bias = 'yes' must be true or false"),
        ("seed = {a = 1}", "run.toml: seed = {'a': 1} must be a number, a text or a list of them"),
        ("scaling = 'log'", "unknown --scaling 'log'"),
        ("seed = " + "9" * 5000, "run.toml is no TOML: a number has more digits than any that"),
    ],
)
def test_files_of_options_that_are_refused(run, folder, text, said):
    (folder / "run.toml").write_text(text)
    assert said in refused(run("train", "--config", "run.toml"))


def test_a_file_of_options_that_is_not_there(run, folder):
    assert "run.toml" in refused(run("train", "--config", "run.toml"))


# Predictions


def test_kept_columns_are_copied_as_they_are(run, houses):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    outcome = good(run("predict", "m", "houses.csv", "--keep", "id,sold,income"))
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert list(rows[0]) == ["id", "sold", "income", "prediction"]
    for name in ("id", "sold", "income"):
        assert [row[name] for row in rows] == rows_of(houses, name)
    assert "has no column 'sodl'; did you mean 'sold'" in refused(
        run("predict", "m", "houses.csv", "--keep", "sodl")
    )
    assert "only a table has columns" in refused(run("predict", "m", "--dataset", "iris", "--keep", "a"))


def test_probabilities_can_be_left_out(run, houses):
    train = ("train", "houses.csv", "--target", "garden", "--columns", "size,price,kind", *QUICK)
    good(run(*train, "--out", "m"))
    whole = list(csv.DictReader(good(run("predict", "m", "houses.csv", "--proba")).out.splitlines()))
    assert list(whole[0]) == ["probability_false", "probability_true", "prediction"]
    alone = good(run("predict", "m", "houses.csv", "--no-proba")).out.splitlines()
    assert alone == ["prediction", *(row["prediction"] for row in whole)]


def test_predictions_as_json(run, houses):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    document = result(run("predict", "m", "houses.csv", "--keep", "id", "--json"))
    assert document["columns"] == ["id", "prediction"]
    assert [row[0] for row in document["rows"]] == rows_of(houses, "id")
    np.testing.assert_allclose(
        [[row[1]] for row in document["rows"]], load("m").predict("houses.csv"), rtol=1e-6
    )
    found = result(run("predict", "m", "houses.csv", "--out", "p.csv", "--json"))
    assert found.pop("unlike") == {}
    assert found == {"predictions": 200, "columns": ["prediction"], "out": "p.csv", "model": "m"}


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
def test_standard_input(run, houses, monkeypatch, form):
    from pyarrow import csv as arrow_csv
    from pyarrow import feather, parquet

    good(run(*TRAIN, *QUICK, "--out", "m"))
    content = (houses / "houses.csv").read_bytes()
    expected = good(run("predict", "m", "houses.csv")).out
    if form != "csv":
        table = arrow_csv.read_csv(
            "houses.csv", convert_options=arrow_csv.ConvertOptions(strings_can_be_null=True)
        )
        {"parquet": parquet.write_table, "arrow": feather.write_feather}[form](table, "t")
        content = (houses / "t").read_bytes()
    for command in (["predict", "m", "-"], ["evaluate", "m", "-"], [*TRAIN[:1], "-", *TRAIN[2:], *QUICK]):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        outcome = good(run(*command))
        if command[0] == "predict":
            assert outcome.out == expected
    assert {path.name for path in houses.iterdir()} == {
        "houses.csv",
        "m",
        "m.toml",
        *({"t"} if form != "csv" else ()),
    }


def test_mistakes_in_standard_input_are_those_of_standard_input(run, houses, monkeypatch):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    assert "error: standard input is empty" in run("predict", "m", "-").err


def test_a_pipe_of_commands(run, houses):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    command = [sys.executable, "-m", "mlp_xp", "predict", "m", "-", "--keep", "id"]
    with (houses / "houses.csv").open("rb") as file:
        done = subprocess.run(
            command, stdin=file, cwd=houses, env=environment(), capture_output=True, check=True
        )
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 201


# How a CSV file is written


def test_a_csv_file_in_another_form(run, folder):
    lines = ["größe\tname\twert\tam"]
    lines += [f"{i},5\t{'leer' if i % 5 == 0 else 'ü'}\t{i * 2},5\t0{i % 9 + 1}/02/2024" for i in range(40)]
    (folder / "t.txt.csv").write_text("\n".join(lines), encoding="latin-1")
    form = ["--delimiter", "tab", "--decimal", ",", "--encoding", "latin-1", "--null", "leer,weg"]
    form += ["--date-format", "day first"]
    outcome = good(run("train", "t.txt.csv", "--target", "wert", *form, "--epochs", "2", "--out", "m"))
    assert r"delimiter '\t', encoding latin-1" in outcome.err
    kinds = {column.name: (column.kind, getattr(column, "gaps", None)) for column in load("m").inputs.columns}
    assert kinds == {"größe": ("number", False), "name": ("text", True), "am": ("date", False)}
    good(run("evaluate", "m", "t.txt.csv", *form))
    good(run("predict", "m", "t.txt.csv", *form, "--keep", "name,am"))


def test_what_was_recognised_is_said(run, folder):
    (folder / "t.csv").write_text("a;b\n" + "".join(f"{i},5;{i}\n" for i in range(30)))
    outcome = good(run("train", "t.csv", "--target", "b", "--task", "regression", "--epochs", "1"))
    assert "t.csv: delimiter ';', encoding utf-8" in outcome.err
    assert "column 'a' is read as number with a decimal comma" in outcome.err


@pytest.mark.parametrize("names", [["no", "yes"], ["2020-01-01", "2021-06-30"]], ids=" ".join)
def test_classes_with_names_in_arrays(run, folder, names):
    x = np.repeat([[0.0], [5.0]], 30, axis=0) + np.arange(60)[:, None] / 100
    np.save("x.npy", x)
    np.save("y.npy", np.repeat(np.array(names, "U10" if names[0] == "no" else "M8[s]"), 30))
    good(run("train", "x.npy", "--target", "y.npy", "--epochs", "20", "--out", "m.safetensors"))
    assert load("m.safetensors").levels == tuple(names)
    good(run("predict", "m.safetensors", "x.npy", "--out", "p.csv"))
    found = [line.split(",")[-1] for line in (folder / "p.csv").read_text().splitlines()[1:]]
    assert found == [names[0]] * 30 + [names[1]] * 30
    outcome = good(run("evaluate", "m.safetensors", "x.npy", "--target", "y.npy", "--json"))
    assert json.loads(outcome.out)["metrics"]["accuracy"] == 1.0


def test_numbers_that_look_like_dates_are_said(run, folder):
    rows = [f"{20230101 + 100 * (i % 12) + i % 28},{19_000_000 + i * 9999},{i}" for i in range(40)]
    (folder / "t.csv").write_text("\n".join(["day,cost,y", *rows]))
    outcome = good(run("train", "t.csv", "--target", "y", "--task", "regression", "--epochs", "1"))
    assert "column 'day' is read as a number, and its values look like dates" in outcome.err
    assert "'cost'" not in outcome.err


# Every command


def test_json_of_every_command(run, houses):
    good(run(*TRAIN, *QUICK, "--out", "m"))
    for command in (
        ["evaluate", "m", "houses.csv"],
        ["show", "m"],
        ["devices"],
        ["cache", "--cache-dir", "cache"],
        ["cache", "--cache-dir", "cache", "--clear"],
    ):
        json.loads(good(run(*command, "--json")).out)
    devices = json.loads(run("devices", "--json").out)["devices"]
    assert devices[0]["device"] == "cpu"
    assert devices[0]["problem"] is None


@pytest.mark.parametrize(
    ("shell", "line", "found", "others"),
    [
        ("bash", "mlp-xp tr", ["train"], ["predict"]),
        ("zsh", "mlp-xp train --sc", ["--scaling", "--schedule"], ["--seed"]),
        ("fish", "mlp-xp train --optimizer na", ["nadam"], ["adamw"]),
        ("bash", "mlp-xp train --activation sof", ["softplus"], ["relu"]),
    ],
)
def test_shells_complete_commands_options_and_names(shell, line, found, others, tmp_path):
    given = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_TYPER_COMPLETE_ARGS": line}
    given |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-m", "mlp_xp"],
        env=environment(**given, _MLP_XP_COMPLETE=f"complete_{shell}"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert [word for word in found if word not in done.stdout] == []
    assert [word for word in others if word in done.stdout] == []


def test_an_estimator_still_predicts_and_evaluates(run, folder):
    rows = np.arange(60.0).reshape(20, 3)
    estimator = MLPRegressor(hidden_layer_sizes=(3,), max_iter=300, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(estimator.fit(rows[:, :2], rows[:, 2]), "m")
    np.savetxt("t.csv", rows, delimiter=",", header="a,b,c", comments="")
    assert len(good(run("predict", "m", "t.csv", "--exclude", "c", "--keep", "c")).out.splitlines()) == 21
    (folder / "t.csv").write_text("a,b\n1,x\n")
    assert "where a number is needed" in refused(run("predict", "m", "t.csv"))
