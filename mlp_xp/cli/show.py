"""`mlp-xp show`: what a model file holds."""

import contextlib
import functools
import itertools
import json
from collections.abc import Sequence

from mlp_xp.cli.commands import Show
from mlp_xp.cli.printing import aligned
from mlp_xp.cli.printing import show as write
from mlp_xp.losses import LINKS
from mlp_xp.network import Network
from mlp_xp.report.findings import value_of
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.saved.model_file import Contents, Estimator, read
from mlp_xp.settings.catalogue import name_of
from mlp_xp.settings.checks import counted
from mlp_xp.tables.fitting import RESULTS
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.preparation import Category, Column, Constant, Date, Targets

Sections = list[tuple[str, Sequence[Sequence[str]]]]
"""Titles, and rows of texts."""

COLUMNS_SHOWN = 20
"""Columns that are listed; all of them with --json."""

LEVELS_SHOWN = 5
"""Levels of a column that are listed."""

TRAINING = (
    "mlp_xp",
    "recipe",
    "data",
    "rows",
    "held_out_rows",
    "test_rows",
    "epochs",
    "stopped",
    *TrainingOptions.described(),
)
"""What is said about a training, in this order."""


def show(options: Show) -> None:
    """Print what a model file holds."""
    contents = read(options.model)
    found = sections(contents)
    if options.as_json:
        write(json.dumps(contents.document, sort_keys=True))
        return
    for title, rows in found:
        write(title)
        for line in aligned(rows).splitlines():
            write(f"  {line}")


def sections(contents: Contents) -> Sections:
    """What is printed: titles, and names with values."""
    layers = [
        (f"{n_in} -> {n_out}", name)
        for (n_in, n_out), name in zip(
            itertools.pairwise(contents.layer_sizes), contents.activation_names, strict=True
        )
    ]
    n_parameters = sum(tensor.size for tensor in contents.tensors.values())
    biases = "with biases" if contents.bias else "without biases"
    scale = ", a scale of each input" * ("input_scale" in contents.tensors)
    output = name_of(LINKS, contents.output)
    n_members = "" if contents.members is None else f"{contents.members} members, together "
    title = (
        f"network: {n_members}{n_parameters:,} parameters, {biases}{scale}, {contents.dtype}, output {output}"
    )
    # Nothing is computed here, so that a user's own activations need not be given.
    model = contents.model("cpu", dict.fromkeys(contents.own_activations, "identity"))
    if isinstance(model, Network):
        return [(title, layers)]
    return [(title, layers), *(_of_table(model) if isinstance(model, TableModel) else _of_estimator(model))]


def _of_estimator(model: Estimator) -> Sections:
    """Its parameters that are not the defaults, and its classes and columns."""
    defaults = type(model)().get_params()
    changed = [(name, str(value)) for name, value in model.get_params().items() if value != defaults[name]]
    fitted = [("epochs", str(model.n_iter_))] if hasattr(model, "n_iter_") else []
    for name, title in (("classes_", "classes"), ("feature_names_in_", "columns")):
        if hasattr(model, name):
            fitted.append((title, _value(", ".join(map(str, getattr(model, name))))))
    return [(f"estimator: {type(model).__name__}", [*changed, *fitted])]


def _of_table(model: TableModel) -> Sections:
    summary = {"loss": model.described_loss} | model.training
    training = [
        (name, _value(summary[name]))
        for name in sorted(summary, key=_in_order)
        if name not in RESULTS and summary[name] is not None
    ]
    found: Sections = [("training", training)]
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):  # a file may say anything
        found += [("measured", rows) for rows in metric_tables(model.training)]
    if model.levels is not None:
        shown = ", ".join(model.levels[:COLUMNS_SHOWN])
        more = " ..." if len(model.levels) > COLUMNS_SHOWN else ""
        target = f"one of {len(model.levels)} classes: {shown}{more}"
        found.append(("target", [(model.targets.names[0], target)]))
    else:
        found.append(("targets" if len(model.targets.names) > 1 else "target", _targets(model.targets)))
    n_columns, n_features = len(model.inputs.columns), model.inputs.n_features
    features = f", {n_features} features" if n_features != n_columns else ""
    inputs = _shown([(column.name, treatment(column)) for column in model.inputs.columns])
    found.append((f"inputs: {counted(n_columns, 'column')}{features}", inputs))
    return found


def _in_order(name: str) -> tuple[int, str]:
    """What is known about a training in the order of TRAINING, anything else after it."""
    return (TRAINING.index(name) if name in TRAINING else len(TRAINING), name)


def _targets(targets: Targets) -> list[tuple[str, str]]:
    treated = [
        _scaled(mean, scale) + ", a single value" * is_constant
        for mean, scale, is_constant in itertools.zip_longest(
            targets.means, targets.scales, targets.constant, fillvalue=False
        )
    ]
    return _shown(list(zip(targets.names, treated, strict=True)))


def _scaled(centre: float, scale: float) -> str:
    if (centre, scale) == (0.0, 1.0):
        return "as it is"
    return f"(value {'+' if centre < 0 else '-'} {abs(centre):.6g}) / {scale:.6g}"


def treatment(column: Column) -> str:
    """What is done with a column, in one line."""
    if isinstance(column, Constant):
        return f"{column.kind}, does not group the rows: not used"
    gaps = ", 1 for a gap" if column.gaps else ""
    if isinstance(column, Category):
        shown = [repr(level) if "," in level else level for level in column.levels[:LEVELS_SHOWN]]
        levels = ", ".join(shown) + " ..." * (len(column.levels) > LEVELS_SHOWN)
        others = ", 1 for others" if column.other else ""
        return f"{column.kind}, 1 for each of {len(column.levels)} levels ({levels}){others}{gaps}"
    clip = ", clipped smoothly" if column.clipped else ""
    value = functools.partial(value_of, column) if isinstance(column, Date) else "{:.6g}".format
    if column.encoding is not None:
        least, most = column.encoding.limits
        n_ramps = max(0, len(column.encoding.edges) - 1)
        clip += f", from {value(least)} to {value(most)}" + ", rank" * bool(column.encoding.knots)
        clip += f", {n_ramps} ramps" * bool(n_ramps)
    what = cycles = ""
    if isinstance(column, Date):
        what = "date, days since 1970: "
        cycles = "".join(f", sin and cos of {cycle}" for cycle in column.cycles)
    filled = f", gaps as {value(column.median)}" if column.gaps else ""
    return f"{what}{_scaled(column.centre, column.scale)}{clip}{filled}{gaps}{cycles}"


def _shown(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first of many rows."""
    n_more = len(rows) - COLUMNS_SHOWN
    return [*rows[:COLUMNS_SHOWN], (f"... and {n_more} more", "")] if n_more > 0 else rows


def _value(value: object) -> str:
    """A JSON value in one short line."""
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
    return text if len(text) <= 80 else f"{text[:77]}..."
