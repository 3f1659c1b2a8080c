"""What is said to be tried after a training: each sentence where it is due, and nowhere else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import runner

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def advice(run, columns, *options):
    """What a training on columns says, of which the last is the target."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    Path("d.csv").write_text("\n".join(lines), encoding="utf-8")
    named = ("train", "d.csv", "--target", list(columns)[-1], "--hidden", "16", "--quiet", "--json")
    outcome = run(*named, "--epochs", "200", "--learning-rate", "0.01", *options)
    assert outcome.errors == []
    return json.loads(outcome.out)["advice"]


@pytest.fixture
def table(rng):
    """Columns with a curved target, about which there is nothing to say."""
    a, b = rng.normal(size=(2, 400)).round(4)
    return {"a": a, "b": b, "y": (np.sin(2 * a) + b**2 + 0.1 * rng.normal(size=400)).round(4)}


def test_where_all_is_well_nothing_is_said(run, table):
    assert advice(run, table, "--patience", "0", "--schedule", "cosine") == []


def test_a_column_that_says_the_target(run, table):
    leaked = {"after": (table["y"] * 1.19 + 1).round(4)} | table
    (said, *_) = advice(run, leaked, "--exclude", "b")
    assert said == (
        "Column 'after' says the target almost exactly. If it is known only afterwards, leave it out: "
        "--exclude b,after."
    )
    (said, *_) = advice(run, {"before": (-table["y"]).round(4)} | leaked)
    assert said == (
        "Columns 'before', 'after' say the target almost exactly. If they are known only afterwards, leave "
        "them out: --exclude before,after."
    )


def test_a_column_that_names_the_classes(run, table):
    kind = np.where(table["y"] > 1, "yes", "no")
    (said, *_) = advice(run, {"a": table["a"], "code": np.where(kind == "yes", "Q", "Z"), "y": kind})
    assert said.startswith("Column 'code' says the target almost exactly")
    said = advice(run, {"a": table["a"], "code": np.arange(400) % 3, "y": kind}, "--text", "code")
    assert not any("code" in each for each in said)


def test_a_column_that_divides_the_classes(run, table, rng):
    is_back = table["y"] > 1
    refund = np.where(is_back, rng.gamma(2.0, 50.0, 400), 0.0).round(2)
    when = np.where(is_back, [f"2024-01-{1 + at % 28:02}" for at in range(400)], "")
    why = np.where(is_back, np.where(table["a"] > 0, "broken", "late"), "")
    kind = np.where(is_back, "back", "kept")
    for name, column in {"refund": refund, "when": when, "why": why}.items():
        (said, *_) = advice(run, {"a": table["a"], name: column, "kind": kind})
        assert said.startswith(f"Column {name!r} says the target almost exactly."), said
        assert said.endswith(f"--exclude {name}.")
    refund[[3, 5]] = 17.0, 0.0
    kind[[3, 5]] = "kept", "back"
    assert not any("says the target" in each for each in advice(run, {"refund": refund, "kind": kind}))


def test_a_column_that_rises_with_the_target_alone(run, table):
    (said, *_) = advice(run, {"a": table["a"], "log": np.exp(table["y"]).round(6), "y": table["y"]})
    assert said.startswith("Column 'log' says the target almost exactly.")


def test_rows_that_are_copies(run, table):
    thrice = {name: np.tile(column, 3) for name, column in table.items()}
    (said,) = advice(run, thrice, "--schedule", "cosine", "--patience", "0")
    assert re.match(r"\d+ of \d+ held-out rows are training rows too, value by value, so that", said)
    assert not any("value by value" in each for each in advice(run, thrice | {"y": np.arange(1200) / 7.0}))


def test_rows_that_are_alike_by_their_few_values(run, rng):
    colour, size = rng.choice(["red", "blue", "green"], 400), rng.integers(0, 60, 400)
    said = advice(run, {"colour": colour, "size": size, "kind": np.where(size > 30, "big", "small")})
    assert not any("value by value" in each for each in said)


@pytest.mark.parametrize("row", [37, 200])
def test_one_row_that_makes_the_loss(run, table, row):
    table["y"][row] = 5000.0
    said = [each for each in advice(run, table) if each.startswith(f"Row {row + 1} alone makes")]
    assert len(said) == 1
    assert "rows: look whether its values are right" in said[0]
    assert said[0].endswith("--loss huber heeds such rows less.")
    assert not any("huber" in each for each in advice(run, table, "--loss", "huber"))


def test_one_row_says_nothing_of_the_others(run, table):
    for row in (3, 200, 201):
        spoilt = table["y"].copy()
        spoilt[row] = 50_000.0
        said = advice(run, table | {"y": spoilt}, "--recipe", "tables", "--hidden", "8", "--epochs", "20")
        assert all(re.match(r"Row \d+ alone makes", each) for each in said), said
        assert said[-1].startswith(f"Row {row + 1} ")


def test_numbers_of_rows(run, table):
    said = advice(run, {"id": np.arange(1000, 1400)} | table)
    assert any("Column 'id' is a whole number that differs in every row" in each for each in said)
    assert any(each.endswith("--exclude id.") for each in said)


def test_a_class_that_is_not_found(run, rng):
    kind = np.where(rng.random(600) < 0.03, "rare", "common")
    said = advice(run, {"a": rng.normal(size=600), "kind": kind}, "--validation", "0.4")
    assert any("held-out rows of class 'rare' is found" in each for each in said)
    assert any("--class-weight balanced" in each for each in said)
    kind[:2] = "rarer"
    (said,) = [each for each in advice(run, {"a": rng.normal(size=600), "kind": kind}) if "is found" in each]
    assert re.match(r"None of the \d+ held-out rows of class 'rare' is found", said)


def test_rows_that_are_weighed_are_not_compared_with_others(run, rng):
    x = rng.normal(size=600)
    kind = np.where(x + rng.normal(size=600) > 2.2, "rare", "common")
    said = advice(run, {"a": x, "kind": kind}, "--class-weight", "balanced", "--recipe", "tables")
    assert not any("majority" in each for each in said)


def test_no_better_than_a_constant(run, table, rng):
    table["y"] = rng.normal(size=400)
    said = advice(run, table, "--epochs", "300", "--keep", "last", "--patience", "0")
    assert any(each.startswith("The model is ") and "than the mean alone" in each for each in said)


def test_hardly_better_than_a_constant(run, rng):
    noise = {"a": rng.normal(size=2000), "y": rng.normal(size=2000)}
    assert any("no better than the mean alone" in each for each in advice(run, noise, "--recipe", "tables"))
    kind = np.where(rng.random(2000) < 0.3, "x", "y")
    said = advice(run, {"a": rng.normal(size=2000), "kind": kind}, "--recipe", "tables")
    assert any("no better than the majority alone" in each for each in said)


def test_rows_that_are_learned_by_heart(run, rng):
    x = rng.normal(size=(30, 100)).round(4)
    table = {f"x{at}": values for at, values in enumerate(x)} | {"y": x[0] + rng.normal(size=100)}
    half = ("--validation", "0.4", "--patience", "0", "--batch-size", "16")
    assert not any("rises after" in each for each in advice(run, table, *half))  # the best epoch is kept
    (*_, rises, by_heart) = advice(run, table, *half, "--keep", "last")
    assert re.match(r"The held-out loss rises after epoch \d+ while .* --keep best keeps", rises)
    assert re.match(r"The network learns rows by heart \(RMSE .* on training rows, .* on held-out", by_heart)
    assert "--test 0.2 with and without --validation 0.5" in by_heart


def test_no_better_than_a_line(run, table, rng):
    large_steps = ("--hidden", "", "--recipe", "tables", "--learning-rate", "5")
    assert not any("linear" in each for each in advice(run, table, *large_steps))
    table["y"] = table["a"] + rng.normal(size=400)
    said = advice(run, table, "--epochs", "20")
    assert any("no better than a linear one of the same features" in each for each in said)


@pytest.mark.parametrize("recipe", ["tables", "plain"])
def test_steps_that_are_too_large(run, table, recipe):
    options = ("--recipe", recipe, "--hidden", "64,64", "--learning-rate")
    instead = {"plain": "Try --learning-rate 0.001.", "tables": "--learning-rate out, which is then 0.035."}
    (said,) = [each for each in advice(run, table, *options, "5") if "the steps are too large" in each]
    assert said.endswith(instead[recipe])
    said = advice(run, table, "--recipe", recipe, "--hidden", "128,128,128", "--learning-rate", "20")
    assert any("the steps are too large" in each for each in said)
    assert not any("too large" in each for each in advice(run, table, *options, "0.001"))


def test_steps_that_are_too_small_for_the_factors_of_the_recipe(run, table):
    options = ("--recipe", "tables", "--hidden", "64,64", "--learning-rate")
    (said,) = [each for each in advice(run, table, *options, "1e-5") if "the steps are" in each]
    assert re.match(r"The model is no better than .*: the steps are too small\. Leave --learning-rate", said)
    assert not any("the steps are" in each for each in advice(run, table, *options, "0.01"))


def test_a_first_epoch_that_was_the_best(run, rng):
    a, when = rng.normal(size=300), np.arange(300)
    options = ("--time", "when", "--exclude", "when", "--recipe", "tables", "--learning-rate", "0.02")
    said = advice(run, {"a": a, "when": when, "y": np.where(when < 240, a, 0.2 * a)}, *options)
    assert any(
        each.startswith("The first epoch was the best one: the columns say little of y") for each in said
    )
    said = advice(run, {"a": a, "when": when, "y": np.where(when < 240, a, -a)}, *options)
    assert any("or those held out are unlike the others. Give" in each for each in said)
    assert not any("first epoch" in each for each in said)  # it is the same thing


def test_amounts_as_classes(run, rng):
    amounts = rng.permutation(1500) * 7
    said = advice(run, {"a": amounts + rng.normal(size=1500), "y": amounts}, *CLASSES)
    assert any(each.startswith("There are 1,500 classes, with 0.9 rows each on average") for each in said)


CLASSES = ("--task", "classification", "--epochs", "2")


def test_a_target_over_decades(run, table):
    table["y"] = np.exp(3 * table["a"]).round(6)
    assert any("so that its largest values decide" in each for each in advice(run, table))
    assert not any("largest values" in each for each in advice(run, table, "--loss", "poisson"))


def test_too_few_epochs(run, table):
    assert "The last epoch was the best one: more may be better, --epochs 6." in advice(
        run, table, "--epochs", "3"
    )


def test_one_epoch_of_the_recipe_is_too_few_to_judge_the_columns_by(run, table):
    (said,) = advice(run, table, "--epochs", "1", "--recipe", "tables")
    assert said == "The last epoch was the best one: more may be better, --epochs 75."


def test_two_sentences_end_a_run(run, table):
    assert len(advice(run, {"id": np.arange(1000, 1400), "after": table["y"]} | table, "--epochs", "2")) > 2
    out = run("train", "d.csv", "--target", "y", "--hidden", "16", "--learning-rate", "0.03").out
    said = out.rstrip().split("\n\n")[2:]
    assert [said[0].split("'")[1], len(said)] == ["after", 2]
