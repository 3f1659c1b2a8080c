"""Random tables, read in every form, evaluated, exported and computed anew in plain Python: one prediction.

    python -m tests.campaigns.readings --times 200
    python -m tests.campaigns.readings --minutes 5 --seed 3

A table of random columns is trained on in one form. Its CSV, Parquet and Arrow files, its frames of pandas
and polars, its columns and its rows as dicts must give the same predictions; so must ONNX, and a Python of
their own computation; and `evaluate` must measure what these predictions are worth.
"""

import datetime as dt
import decimal
import math
import random
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv, feather, parquet

from mlp_xp import fit_table, load, save
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.options import TableOptions
from mlp_xp.tables.reading import for_model, open_for
from tests.campaigns import draws
from tests.oracles.table_model import TableModel

START = dt.datetime(2020, 1, 1)

KINDS = {
    "number": (pa.float64(), lambda drawn: round(drawn.gauss(0, 10), 4)),
    "large": (pa.float64(), lambda drawn: 1.7e9 + drawn.randrange(1000)),
    "whole": (pa.int64(), lambda drawn: drawn.randrange(-5, 2000)),
    "decimal": (
        pa.decimal128(9, 2),
        lambda drawn: decimal.Decimal(drawn.randrange(-10_000, 10_000)).scaleb(-2),
    ),
    "truth": (pa.bool_(), lambda drawn: drawn.random() < 0.5),
    "date": (pa.date32(), lambda drawn: (START + dt.timedelta(days=drawn.randrange(900))).date()),
    "moment": (
        pa.timestamp("us"),
        lambda drawn: (
            START + dt.timedelta(seconds=drawn.randrange(10**8), microseconds=drawn.randrange(10**6))
        ),
    ),
    "time": (pa.time64("us"), lambda drawn: dt.time(*(drawn.randrange(most) for most in (24, 60, 60)))),
    "duration": (pa.duration("ms"), lambda drawn: dt.timedelta(milliseconds=drawn.randrange(10**9))),
    "text": (pa.string(), lambda drawn: drawn.choice(TEXTS)),
    "code": (pa.string(), lambda drawn: f"{drawn.randrange(30):05}"),
}
"""Kinds of columns: their type, and a value."""

TEXTS = ("x", "y z", "NA", "None", "01", "1", "1.0", "true", "größe", "a,b", 'quo"te', " blank ", "-", "=1+1")

N_ROWS = 90


def column(drawn: random.Random, kind: str, share_of_gaps: float) -> list:
    """Values of a kind, of which some are gaps."""
    _, value = KINDS[kind]
    return [None if drawn.random() < share_of_gaps else value(drawn) for _ in range(N_ROWS)]


def check(drawn: random.Random, folder: Path) -> None:
    """One table."""
    kinds = {
        f"{kind} {at}": kind for at, kind in enumerate(drawn.choices(list(KINDS), k=drawn.randint(1, 7)))
    }
    kinds["always"] = "number"
    values = {name: column(drawn, kind, drawn.choice((0, 0, 0.1))) for name, kind in kinds.items()}
    is_class = drawn.random() < 0.4
    y = [drawn.choice("pqr") if is_class else round(drawn.gauss(0, 3), 3) for _ in range(N_ROWS)]
    types = {name: pa.array(each, KINDS[kinds[name]][0]) for name, each in values.items()}
    table = pa.table({**types, "y": pa.array(y)})
    files = written(table, folder)
    frame = table.to_pandas()
    model = fit_table(
        str(files[drawn.choice(list(files))]),
        "y",
        recipe=drawn.choice(("plain", "plain", "tables")),
        task="classification" if is_class else "regression",
        epochs=2,
        hidden="6",
        activation="tanh",
        batch_size=16,
        validation=drawn.choice((0, 0.2)),
        dtype=drawn.choice(("float32", "float64")),
        null_words=drawn.random() < 0.7,
        seed=drawn.randrange(100),
    )
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    outputs = (
        model.predict_raw if False else (lambda x: model.predict_proba(x) if is_class else model.predict(x))
    )
    expected = outputs(str(files["parquet"]))
    forms = {**{name: str(path) for name, path in files.items()}, "Arrow": table, "pandas": frame}
    forms |= {"polars": pl.from_arrow(table), "columns": values, "rows": rows}
    for name, form in forms.items():
        np.testing.assert_array_equal(outputs(form), expected, err_msg=f"{name} against parquet")
    save(model, folder / "m.safetensors")
    np.testing.assert_array_equal(load(folder / "m.safetensors").predict(frame), model.predict(frame))
    close = {"rtol": 2e-4, "atol": 2e-5} if model.network.backend.dtype_name == "float32" else {"rtol": 1e-9}
    if not any(each.get("encoding") for each in model.description()["inputs"]):
        anew = TableModel(folder / "m.safetensors")
        found = [anew.probabilities(row) if is_class else anew.numbers(row) for row in rows]
        np.testing.assert_allclose(expected, found, **close, err_msg="plain Python")
    opened = open_for(TableOptions(data=str(files["csv"]), target="y"), model)
    metrics = evaluate(model, for_model(opened, model).source)
    for name, value in measured(expected, y, model.levels).items():
        assert math.isclose(metrics[name], value, rel_tol=1e-3, abs_tol=1e-6), (name, metrics[name], value)
    in_onnx(model, values, kinds, expected, is_class=is_class)


def written(table: pa.Table, folder: Path) -> dict[str, Path]:
    """The table as files, by their kind."""
    found = {name: folder / f"t.{name}" for name in ("csv", "parquet", "arrow")}
    texts = [
        pa.array([None if value is None else _as_text(value) for value in each.to_pylist()], pa.string())
        for each in table.columns
    ]
    options = csv.WriteOptions(quoting_style="needed")
    csv.write_csv(pa.table(texts, names=table.column_names), found["csv"], options)
    parquet.write_table(table, found["parquet"])
    feather.write_feather(table, found["arrow"])
    return found


def _as_text(value) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.timedelta):
        seconds = value / dt.timedelta(seconds=1)
        return f"PT{seconds:.3f}S"
    return str(value)


def measured(expected: np.ndarray, y: list, levels: tuple[str, ...] | None) -> dict[str, float]:
    """What predictions are worth, from the definitions."""
    if levels is not None:
        chosen = [levels[max(range(len(levels)), key=row.__getitem__)] for row in expected.tolist()]
        return {"accuracy": sum(map(str.__eq__, chosen, y)) / len(y)}
    errors = [guess[0] - true for guess, true in zip(expected.tolist(), y, strict=True)]
    mean = sum(y) / len(y)
    squares = sum(error**2 for error in errors)
    return {
        "r2": 1 - squares / sum((true - mean) ** 2 for true in y),
        "rmse": math.sqrt(squares / len(y)),
        "mae": sum(map(abs, errors)) / len(y),
    }


def in_onnx(model, values: dict, kinds: dict, expected: np.ndarray, *, is_class: bool) -> None:
    """Compare with what ONNX says of the same values."""
    import onnxruntime

    from mlp_xp.saved.onnx_file import onnx_bytes

    session = onnxruntime.InferenceSession(onnx_bytes(model), providers=["CPUExecutionProvider"])
    feeds = {}
    for each in session.get_inputs():
        column_ = values[each.name]
        if each.type == "tensor(string)":
            text = [("" if v is None else str(v).lower() if isinstance(v, bool) else str(v)) for v in column_]
            words = () if model.written.gaps.words is False else ("NA", "None")
            feeds[each.name] = np.array([["" if t in words else t] for t in text], dtype=object)
        elif each.type == "tensor(int64)":
            seconds = [-(2**63) if v is None else _seconds(v) for v in column_]
            feeds[each.name] = np.array(seconds, np.int64)[:, None]
        else:
            dtype = np.float32 if each.type == "tensor(float)" else np.float64
            numbers = [math.nan if v is None else _number(v) for v in column_]
            feeds[each.name] = np.array(numbers, dtype)[:, None]
    found = session.run(["probabilities" if is_class else "prediction"], feeds)[0]
    has_parts = "moment" in kinds.values()  # of a second, which ONNX has none of
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2 if has_parts else 1e-3, err_msg="ONNX")


def _seconds(value) -> int:
    moment = value if isinstance(value, dt.datetime) else dt.datetime.combine(value, dt.time())
    return (moment - dt.datetime(1970, 1, 1)) // dt.timedelta(seconds=1)


def _number(value) -> float:
    if isinstance(value, dt.time):
        value = dt.datetime.combine(dt.date(1970, 1, 1), value) - dt.datetime(1970, 1, 1)
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


if __name__ == "__main__":
    sys.exit(draws.main(check, "readings", "One table has one reading in"))
