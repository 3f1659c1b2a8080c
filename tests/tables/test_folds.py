"""Folds of a table, at hand and streamed: who leaves which row out, and what is said of the rows left out."""

import csv

import numpy as np
import pytest

from mlp_xp import fit_table
from mlp_xp.rows.source import passes
from mlp_xp.tables.calibration import unseen
from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
from mlp_xp.tables.folds import stratified
from mlp_xp.tables.options import TrainingOptions

N_ROWS = 300
STREAM = {"memory_limit": "1kB", "cache": False}
CACHED = {"memory_limit": "1kB"}

pytestmark = pytest.mark.needs("pyarrow")


@pytest.fixture
def folder(tmp_path, rng, monkeypatch):
    """A table in three files, each sorted; every tenth row is of the rare class."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for part in range(3):
        path = tmp_path / "parts" / f"{part}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "who", "a", "b", "w", "kind", "y"])
            for row in range(part * N_ROWS // 3, (part + 1) * N_ROWS // 3):
                a, b = rng.normal(size=2)
                kind, y = "rare" if row % 10 == 0 else "common", 3 * a - 2 * b + rng.normal()
                writer.writerow([row, f"p{min(row, 6 + row % 40)}", a, b, row % 3, kind, y])
    return tmp_path / "parts"


def options(folder, target="y", **more):
    named = {"data": str(folder), "target": target, "folds": 4, "recipe": "plain", **more}
    return TrainingOptions.of(named)


def rows_of(source):
    """The numbers of rows, and the members that each has a weight for."""
    parts = [(x[:, 0].astype(int), weight > 0) for _, x, _, weight in passes(source)]
    ids, has = (np.concatenate(each) for each in zip(*parts, strict=True))
    at = np.argsort(ids)
    return ids[at], has[at]


WAYS = pytest.mark.parametrize("more", [{}, CACHED, STREAM], ids=["at hand", "cached", "stream"])


@WAYS
@pytest.mark.parametrize("by", [{}, {"group": "who"}], ids=["rows", "groups"])
def test_every_row_is_left_out_once(folder, more, by):
    parts = read_data(options(folder, **more, **by, seed=3)).parts
    ids, seen = rows_of(parts.folds.for_members(parts.raw_training))
    np.testing.assert_array_equal(ids, np.arange(N_ROWS))
    again, left_out = rows_of(parts.folds.for_members(parts.raw_training, left_out=True))
    np.testing.assert_array_equal(again, ids)
    np.testing.assert_array_equal(left_out, ~seen)
    np.testing.assert_array_equal(left_out.sum(axis=1), 1)
    assert left_out.sum(axis=0).min() > N_ROWS // 8
    for member in range(4):
        alone = np.concatenate([x[:, 0] for _, x, _, _ in passes(parts.left_out_by(member))])
        assert set(alone) == set(ids[left_out[:, member]])
    twice = rows_of(parts.folds.for_members(parts.raw_training, 2))[1]
    np.testing.assert_array_equal(twice, np.hstack([seen, seen]))


@WAYS
def test_a_group_is_in_one_fold(folder, more):
    parts = read_data(options(folder, group="who", **more)).parts
    ids, left_out = rows_of(parts.folds.for_members(parts.raw_training, left_out=True))
    fold, group = left_out.argmax(axis=1), np.minimum(ids, 6 + ids % 40)
    assert all(len(set(fold[group == each])) == 1 for each in np.unique(group))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 8  # rows of the largest group: they are dealt out, not hashed
    assert [column.name for column in parts.inputs.columns] == ["id", "a", "b", "w", "kind"]


@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_each_class_has_its_share_in_each_fold(folder, recipe):
    parts = read_data(options(folder, target="kind", recipe=recipe)).parts
    ids, left_out = rows_of(parts.folds.for_members(parts.raw_training, left_out=True))
    assert set(left_out[ids % 10 == 0].sum(axis=0)) == {7, 8}
    assert set(left_out.sum(axis=0)) == {75}


def test_classes_of_any_size_are_dealt_out_evenly(rng):
    labels = rng.integers(0, 7, 50) ** 2
    fold = stratified(labels, 3, seed=1)
    assert sorted(np.bincount(fold)) == [16, 17, 17]
    for label in np.unique(labels):
        counts = np.bincount(fold[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert not np.array_equal(fold, stratified(labels, 3, seed=2))


LINEAR = {"hidden": "", "exclude": "id,who,kind", "learning_rate": 0.05, "epochs": 300, "schedule": "cosine"}
TO_THE_END = {"keep": "last", "patience": 0, "batch_size": "full"}


@pytest.mark.parametrize("weighted", [False, True])
@WAYS
def test_the_metric_is_that_of_single_fits_on_the_rows_left_out(folder, more, weighted):
    """A linear network has one best fit, which least squares know: of each fold's other rows."""
    weights = {"weight_column": "w"} if weighted else {"exclude": "id,who,kind,w"}
    given = {**LINEAR, **TO_THE_END, **weights, **more}
    model = fit_table(folder, "y", folds=4, recipe="plain", seed=5, **given)
    found = model.training["cross_validation"]
    folds = read_data(options(folder, seed=5, **given)).parts.folds
    rows = np.genfromtxt(
        [line for path in sorted(folder.glob("*.csv")) for line in path.read_text().splitlines()[1:]],
        delimiter=",", usecols=(2, 3, 4, 6),
    )  # fmt: skip
    x = np.column_stack([rows[:, :2], np.ones(len(rows))])
    y, s = rows[:, 3], rows[:, 2] if weighted else np.ones(len(rows))
    fold = folds.of(np.arange(len(x)), rows[:, :2], y[:, None])
    errors = []
    for member in range(4):
        other, own = fold != member, fold == member
        root = np.sqrt(s[other])[:, None]
        best = np.linalg.lstsq(root * x[other], root[:, 0] * y[other], rcond=None)[0]
        errors.append(np.sqrt(np.average((x[own] @ best - y[own]) ** 2, weights=s[own])))
    assert found["rmse"]["mean"] == pytest.approx(np.mean(errors), rel=2e-3)
    assert found["rmse"]["deviation"] == pytest.approx(np.std(errors, ddof=1), rel=0.05)


def test_rows_learned_by_heart_do_not_count(rng):
    table = {"x": rng.normal(size=60), "z": rng.normal(size=60), "y": rng.normal(size=60)}
    given = {"hidden": "64,64", "epochs": 400, "learning_rate": 0.01, **TO_THE_END}
    model = fit_table(table, "y", folds=3, recipe="plain", **given)
    assert model.training["metrics"]["r2"] > 0.5
    assert model.training["cross_validation"]["r2"]["mean"] < 0


def test_a_temperature_is_found_on_rows_left_out(folder):
    data = read_data(options(folder, target="kind", recipe="tables", epochs=1))
    network = new_model(data).network
    network.parameters.flat[...] += 0.1
    z, labels, _ = unseen(network, data.parts)
    x = np.concatenate([x for _, x, _, _ in passes(data.parts.prepared(data.parts.raw_training))])
    ids, left_out = rows_of(data.parts.folds.for_members(data.parts.raw_training, left_out=True))
    of_each = network.predict(x, output="raw", members="all")
    own = np.concatenate([of_each[n][left_out[:, n]] for n in range(4)])
    np.testing.assert_allclose(z.reshape(own.shape), own, rtol=1e-5, atol=1e-6)
    rare = np.concatenate([ids[left_out[:, n]] % 10 == 0 for n in range(4)])
    np.testing.assert_array_equal(labels == data.table.levels.index("rare"), rare)


def test_a_member_is_what_a_network_alone_is_on_the_rows_that_it_sees(folder):
    data = read_data(options(folder, plain_steps=True, epochs=3, hidden="8", dropout="0.2", seed=7))
    together = new_model(data)
    *_, last = fit(data, together.network, loader_for(data.options, data.parts.training))
    _, seen = rows_of(data.parts.folds.for_members(data.parts.raw_training))
    x, y = (np.concatenate(each) for each in zip(*((x, y) for _, x, y, _ in passes(data.parts.prepared(
        data.parts.raw_training))), strict=True))  # fmt: skip
    from mlp_xp import Loader, Network, train

    for n in range(4):
        alone = Network((x.shape[1], 8, 1), seed=7 + n)
        rows = Loader(x, y, seen[:, n].astype(float), batch_size=256, seed=7)
        judged = Loader(x, y, (~seen[:, n]).astype(float), batch_size="full")
        more = {"max_epochs": 3, "patience": 20, "keep": "best", "way": "plain", "dropout": 0.2}
        *_, own = train(alone, rows, learning_rate=1e-3, validation=judged, seed=7 + n, **more)
        assert last.members[n].validation_loss == pytest.approx(own.validation_loss, rel=1e-6)
        np.testing.assert_array_equal(together.network.parameters.flat[n], alone.parameters.flat)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"folds": 301}, "301"),
        ({"folds": 301, **STREAM}, "301"),
        ({"folds": 50, "group": "who"}, "46 groups cannot be parted into 50 folds"),
        ({"folds": 50, "group": "who", **STREAM}, "46 groups"),
        ({"time": "id"}, "older than those that they learned from"),
        ({"folds": 200, **STREAM}, "Take fewer folds"),
    ],
)
def test_what_cannot_be_parted_is_refused(folder, more, message):
    with pytest.raises(ValueError, match=message):
        fit_table(folder, "y", **{"folds": 3, "epochs": 1, "recipe": "plain", **more})
