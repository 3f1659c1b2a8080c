"""Folds of a table, at hand and streamed: who leaves which row out, and what is said of the rows left out."""

import csv
import dataclasses

import numpy as np
import pytest

from mlp_xp import Loader, fit_table, load, save
from mlp_xp.rows.order import Shuffled
from mlp_xp.rows.source import passes
from mlp_xp.tables.calibration import unseen
from mlp_xp.tables.fitting import fit, loader_for, new_model, read_data
from mlp_xp.tables.folds import stratified
from mlp_xp.tables.members import cross_validated
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


def members_of(source, batch_size=64):
    """Which member has which row, (N_ROWS, members): with a weight for it, or as one of its own."""
    counts = np.zeros((source.n_at_once * source.n_weights, N_ROWS), int)
    for batch in Loader(source, batch_size=batch_size, chunk_rows=64, dtype="float64"):
        for x, _, weight in batch:
            has = np.ones((*x.shape[:-1], 1), bool) if weight is None else weight > 0
            ids, has = np.broadcast_arrays(x[..., 0].astype(int), has[..., 0])
            for own, row, is_there in zip(counts, ids, has, strict=True):
                np.add.at(own, row[is_there], 1)
    assert counts.max() == 1
    return counts.T > 0


WAYS = pytest.mark.parametrize("more", [{}, CACHED, STREAM], ids=["at hand", "cached", "stream"])


@WAYS
@pytest.mark.parametrize("by", [{}, {"group": "who"}], ids=["rows", "groups"])
@pytest.mark.parametrize("batch_size", [64, "full"])
def test_every_row_is_left_out_once(folder, more, by, batch_size):
    parts = read_data(options(folder, **more, **by, seed=3)).parts
    seen = members_of(parts.folds.for_members(parts.raw_training), batch_size)
    left_out = members_of(parts.folds.for_members(parts.raw_training, left_out=True), batch_size)
    np.testing.assert_array_equal(left_out, ~seen)
    np.testing.assert_array_equal(left_out.sum(axis=1), 1)
    assert left_out.sum(axis=0).min() > N_ROWS // 8
    for member in range(4):
        alone = np.concatenate([x[:, 0] for _, x, _, _ in passes(parts.left_out_by(member))])
        assert set(alone) == set(np.flatnonzero(left_out[:, member]))
    twice = members_of(parts.folds.for_members(parts.raw_training, 2), batch_size)
    np.testing.assert_array_equal(twice, np.hstack([seen, seen]))


@WAYS
def test_a_group_is_in_one_fold(folder, more):
    parts = read_data(options(folder, group="who", **more)).parts
    left_out, ids = members_of(parts.folds.for_members(parts.raw_training, left_out=True)), np.arange(N_ROWS)
    fold, group = left_out.argmax(axis=1), np.minimum(ids, 6 + ids % 40)
    assert all(len(set(fold[group == each])) == 1 for each in np.unique(group))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 8  # rows of the largest group: they are dealt out, not hashed
    assert [column.name for column in parts.inputs.columns] == ["id", "a", "b", "w", "kind"]


@pytest.mark.parametrize("recipe", ["plain", "tables"])
def test_each_class_has_its_share_in_each_fold(folder, recipe):
    parts = read_data(options(folder, target="kind", recipe=recipe)).parts
    left_out, ids = members_of(parts.folds.for_members(parts.raw_training, left_out=True)), np.arange(N_ROWS)
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


LINEAR = {"hidden": "", "exclude": "id,who,kind", "learning_rate": 0.2, "epochs": 150, "schedule": "cosine"}
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
    assert model.training["training_metrics"]["r2"] > 0.5
    assert model.training["metrics_on"] == "left-out"
    assert model.training["metrics"]["r2"] < 0
    assert model.training["cross_validation"]["r2"]["mean"] < 0


def test_a_class_that_folds_lack_leaves_a_model_that_can_be_saved(rng, tmp_path):
    table = {"x": rng.normal(size=60), "y": ["rare" if row in (3, 50) else "often" for row in range(60)]}
    model = fit_table(table, "y", folds=5, hidden="4", epochs=2)
    save(model, tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors").training["cross_validation"]
    assert found["roc_auc"] == {"mean": None, "deviation": None}
    assert found["accuracy"]["mean"] > 0.5


@WAYS
def test_the_linear_model_beside_them_has_not_seen_the_rows_either(folder, more, rng):
    table = {f"x{at}": rng.normal(size=60) for at in range(20)} | {"y": rng.normal(size=60)}
    rows = "\n".join(",".join(map(str, row)) for row in [table, *zip(*table.values(), strict=True)])
    path = folder.parent / "noise.csv"
    path.write_text(rows)
    found = fit_table(path, "y", folds=3, epochs=1, **more).training["baselines"]
    assert found["mean"]["r2"] < 0.0
    assert found["linear"]["r2"] < 0.0


@WAYS
def test_rows_left_out_are_measured_together_too(folder, more):
    data = read_data(options(folder, epochs=1, **more))
    model, parts = new_model(data), data.parts
    found = cross_validated(model, parts, seed=0)
    y, predicted, ids = (np.concatenate(each) for each in zip(*(
        (y[:, 0], alone.predict_raw(x)[:, 0], x[:, 0].astype(int))
        for n, alone in enumerate(model.each()) for _, x, y, _ in passes(parts.left_out_by(n))
    ), strict=True))  # fmt: skip
    assert np.array_equal(np.sort(ids), np.arange(N_ROWS))
    assert found.of_all.n_rows == N_ROWS
    assert found.of_all.metrics["mae"] == pytest.approx(np.mean(np.abs(y - predicted)))
    assert sum(each.n_rows for each in found.of_folds) == N_ROWS
    if more is not STREAM:  # whose rows have no numbers
        assert found.of_all.worst[0][0] == ids[np.argmax((y - predicted) ** 2)]


def test_a_temperature_is_found_on_rows_left_out(folder):
    data = read_data(options(folder, target="kind", recipe="tables", epochs=1))
    network = new_model(data).network
    network.parameters.flat[...] += 0.1
    z, labels, _ = unseen(network, data.parts)
    x = np.concatenate([x for _, x, _, _ in passes(data.parts.prepared(data.parts.raw_training))])
    ids = np.arange(N_ROWS)
    left_out = members_of(data.parts.folds.for_members(data.parts.raw_training, left_out=True))
    of_each = network.predict(x, output="raw", members="all")
    own = np.concatenate([of_each[n][left_out[:, n]] for n in range(4)])
    np.testing.assert_allclose(z.reshape(own.shape), own, rtol=1e-5, atol=1e-6)
    rare = np.concatenate([ids[left_out[:, n]] % 10 == 0 for n in range(4)])
    np.testing.assert_array_equal(labels == data.table.levels.index("rare"), rare)


@pytest.mark.parametrize("recipe", ["plain", "tables"])
@pytest.mark.parametrize("target", ["y", "kind"])
def test_a_member_is_what_a_network_alone_is_on_the_rows_that_it_sees(folder, target, recipe):
    """In the order of all rows, without those that it leaves out: to the bit, in several steps an epoch."""
    more = {"epochs": 3, "hidden": "8", "dropout": "0.2", "seed": 7, "batch_size": "32", "recipe": recipe}
    data = read_data(options(folder, target=target, plain_steps=True, **more))
    together, parts = new_model(data), data.parts
    *_, last = fit(data, together.network, loader_for(data.options, parts.training))
    x, y = (np.concatenate(each) for each in zip(*((x, y) for _, x, y, _ in passes(parts.prepared(
        parts.raw_training))), strict=True))  # fmt: skip
    fold = np.empty(N_ROWS, int)
    for n in range(4):
        fold[np.concatenate([each[:, 0] for _, each, _, _ in passes(parts.left_out_by(n))]).astype(int)] = n
    start = new_model(data).network
    for n in range(4):
        seen = np.flatnonzero(fold != n)

        def order(n_rows, seed, epoch, seen=seen):
            of_all = np.asarray(Shuffled()(N_ROWS, seed, epoch)[:N_ROWS])
            return np.searchsorted(seen, of_all[np.isin(of_all, seen)])

        alone = start.each()[n]
        own = Loader(
            x[seen], y[seen] if target == "y" else y[seen].astype(int), batch_size=32, order=order, seed=7
        )
        judged = Loader(x[fold == n], y[fold == n], batch_size="full")
        alone_data = dataclasses.replace(data, options=dataclasses.replace(data.options, seed=7 + n))
        *_, epoch = fit(alone_data, alone, own, own={"validation": judged})
        assert last.members[n].validation_loss == pytest.approx(epoch.validation_loss, rel=1e-6)
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
