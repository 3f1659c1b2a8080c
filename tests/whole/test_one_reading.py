"""One table, one reading: CSV, Parquet, Arrow, frames, dicts and rows give the same predictions.

Tables are random; what a column means is computed here anew, in Python, from the values themselves.
"""

import datetime as dt
import decimal
import itertools
import json

import numpy as np
import pytest

from mlp_xp import Network
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.fitting import read_data
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TableOptions, TrainingOptions
from mlp_xp.tables.preparation import Category, Constant, Date
from mlp_xp.tables.reading import for_model, open_for

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

N_ROWS = 60


def column(rng, kind):
    """Values of a kind; some are gaps."""
    days = dt.datetime(2020, 1, 1)
    make = {
        "number": lambda: float(np.round(rng.normal(), 4)),
        "whole": lambda: int(rng.integers(-5, 2_000)),
        "decimal": lambda: decimal.Decimal(int(rng.integers(-10_000, 10_000))).scaleb(-2),
        "truth": lambda: bool(rng.integers(2)),
        "date": lambda: (days + dt.timedelta(days=int(rng.integers(900)))).date(),
        "moment": lambda: days + dt.timedelta(seconds=int(rng.integers(10**8)), microseconds=250_000),
        "time": lambda: dt.time(int(rng.integers(24)), int(rng.integers(60)), int(rng.integers(60))),
        "duration": lambda: dt.timedelta(
            seconds=int(rng.integers(10**6)), milliseconds=int(rng.integers(999))
        ),
        "text": lambda: str(rng.choice(["x", "y z", "NA", "None", "01", "1", "1.0", "true", "größe"])),
    }[kind]
    return [None if rng.random() < 0.1 else make() for _ in range(N_ROWS)]


ARROW = {
    "number": pa.float64(),
    "whole": pa.int64(),
    "decimal": pa.decimal128(9, 2),
    "truth": pa.bool_(),
    "date": pa.date32(),
    "moment": pa.timestamp("us"),
    "time": pa.time64("us"),
    "duration": pa.duration("ms"),
    "text": pa.string(),
}


def meaning(column_, value, *, words):
    """What a value means to a prepared column, by a computation of this test's own."""
    is_gap = value is None or (words and value in ("NA", "None"))
    if isinstance(column_, Category):
        if is_gap:
            return -1.0
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return float(column_.levels.index(text)) if text in column_.levels else float(len(column_.levels))
    if isinstance(column_, Constant):
        return 0.0
    if is_gap:
        return np.nan
    if isinstance(column_, Date):
        moment = value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
        return (moment - dt.datetime(1970, 1, 1)) / dt.timedelta(microseconds=1) / 86_400e6
    if isinstance(value, dt.time):
        value = dt.datetime.combine(dt.date(1970, 1, 1), value) - dt.datetime(1970, 1, 1)
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


def same(found, expected):
    if found.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


CASES = list(enumerate(itertools.product(["csv", "parquet", "arrow"], [True, False])))


@pytest.mark.parametrize(("seed", "case"), CASES, ids=str)
def test_every_form_of_a_table_gives_the_same_predictions(tmp_path, monkeypatch, seed, case):
    trained_on, words = case  # words are gaps, or texts
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(seed)
    kinds = [*rng.permutation(list(ARROW)).tolist(), "text", "number"]
    values = {f"{kind} {at}": column(rng, kind) for at, kind in enumerate(kinds)}
    table = pa.table({name: pa.array(each, ARROW[name.split()[0]]) for name, each in values.items()})
    table = table.append_column("y", pa.array(rng.normal(size=N_ROWS)))
    parquet.write_table(table, "t.parquet")
    feather.write_feather(table, "t.arrow", compression="uncompressed")
    frame = table.to_pandas()
    frame.to_csv("t.csv", index=False)
    polars = pl.from_arrow(table)
    spans = pl.selectors.duration()
    polars.with_columns(spans.dt.to_string("iso")).write_csv("p.csv", null_value="")
    options = TrainingOptions(
        data=f"t.{trained_on}", target="y", task="regression", null_words=words, validation=0
    )
    data = read_data(options)
    network = Network((data.parts.inputs.n_features, 5, 1), activation="tanh", seed=seed)
    inputs, targets = data.parts.inputs, data.parts.targets
    model = TableModel(network, inputs, targets, loss=data.loss, written=data.table.written)
    model = TableModel.of(json.loads(json.dumps(model.description())), network)
    raw = np.array([[meaning(c, value, words=words) for value in values[c.name]] for c in inputs.columns]).T
    expected = model.predict_raw(raw)
    columns = {name: values[name] for name in values}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for form in ("t.csv", "t.parquet", "t.arrow", "p.csv", table, frame, polars, columns, rows):
        same(model.predict(form), expected)
    same(model.predict(rows[7]), expected[7:8])
    found = []
    for name in ("t.csv", "t.parquet", "t.arrow", "p.csv"):
        opened = open_for(TableOptions(data=name, target="y"), model)
        found.append(evaluate(model, for_model(opened, model).source))
    for metrics in found[1:]:
        assert metrics == pytest.approx(found[0])


@pytest.mark.needs("onnxruntime")
@pytest.mark.parametrize("seed", range(3))
def test_onnx_gives_the_same_predictions(tmp_path, monkeypatch, seed):
    import onnxruntime

    from mlp_xp.saved.onnx_file import onnx_bytes

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(seed)
    values = {"t": 1_700_000_000.0 + rng.integers(0, 1000, N_ROWS), "c": column(rng, "text")}
    table = pa.table({**values, "y": 1e9 + rng.normal(size=N_ROWS)})
    parquet.write_table(table, "t.parquet")
    data = read_data(TrainingOptions(data="t.parquet", target="y", task="regression", validation=0))
    inputs, targets = data.parts.inputs, data.parts.targets
    network = Network((inputs.n_features, 5, 1), activation="tanh", seed=seed)
    model = TableModel(network, inputs, targets, loss=data.loss, written=data.table.written)
    session = onnxruntime.InferenceSession(onnx_bytes(model), providers=["CPUExecutionProvider"])
    types = {each.name: each.type for each in session.get_inputs()}
    assert types == {"t": "tensor(double)", "c": "tensor(string)"}
    texts = np.array([["" if text is None else text] for text in values["c"]], dtype=object)
    (found,) = session.run(None, {"t": values["t"][:, None], "c": texts})
    np.testing.assert_allclose(found - 1e9, model.predict(table) - 1e9, rtol=1e-4, atol=1e-5)
