"""Metrics as tables of text: the model beside its baselines, and each class."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlp_xp.report.charts import number
from mlp_xp.settings.checks import counted
from mlp_xp.tables.measured import ROWS
from mlp_xp.tables.metrics import in_order

MOST_CLASSES = 12
"""Classes that have a line; of more, those that are recognised worst."""


def metric_tables(result: Mapping[str, Any]) -> list[list[Sequence[str]]]:
    """One table with a line a metric, and for classes one with a line each.

    Parameters
    ----------
    result : mapping
        "metrics", and as far as they are known "rows_measured", "metrics_on", "intervals", "baselines",
        "cross_validation", metrics of other rows as "training_metrics", and "classes".
    """
    metrics, intervals = in_order(result["metrics"]), result.get("intervals", {})
    columns = {"model": {name: number(value) for name, value in metrics.items()}}
    if intervals:
        columns["95% interval"] = {
            name: f"{number(low)} to {number(high)}" for name, (low, high) in intervals.items()
        }
    if folds := result.get("cross_validation"):
        columns["left-out folds"] = {
            name: f"{number(found['mean'])} ± {number(found['deviation'])}" for name, found in folds.items()
        }
    others = dict(sorted(result.get("baselines", {}).items(), key=lambda item: item[0] == "linear"))
    others |= {
        f"{rows} rows": result[f"{name}_metrics"]
        for rows, name in ROWS.items()
        if f"{name}_metrics" in result
    }
    columns |= {of: {name: number(value) for name, value in found.items()} for of, found in others.items()}
    rows = f"{result['metrics_on']} row" if "metrics_on" in result else "row"
    lines: list[Sequence[str]] = [
        (counted(result["rows_measured"], rows) if "rows_measured" in result else f"{rows}s", *columns),
        *((name, *(column.get(name, "") for column in columns.values())) for name in metrics),
    ]
    classes = result.get("classes")
    return [lines, _of_classes(classes)] if classes else [lines]


def _of_classes(classes: Mapping[str, Mapping[str, float]]) -> list[Sequence[str]]:
    there = [level for level in classes if classes[level]["rows"] > 0]
    worst = {*sorted(there, key=lambda level: classes[level]["f1"])[:MOST_CLASSES]}
    lines: list[Sequence[str]] = [("class", "rows", "precision", "recall", "f1")]
    for level in (level for level in there if level in worst):
        of = classes[level]
        lines.append((level, f"{of['rows']:,g}", *(number(of[name]) for name in lines[0][2:])))
    n_more = len(there) - MOST_CLASSES
    return [*lines, (f"... and {n_more:,} that are recognised better",)] if n_more > 0 else lines
