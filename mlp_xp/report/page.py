"""`--report`: one page about a training, which needs no network, no script and no other file."""

import dataclasses
import datetime as dt
import math
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.history import History
from mlp_xp.report import charts, findings
from mlp_xp.report.charts import escaped, number
from mlp_xp.report.style import STYLE
from mlp_xp.rows.source import Source
from mlp_xp.tables.fitting import RESULTS
from mlp_xp.tables.metrics import METRICS
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.sample import Sample, most_rows, sample

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may do for the page: apply its own style, load nothing and run nothing."""

MOST_DOTS = 1500
"""Rows that a cloud of points shows."""

MOST_CLASSES = 20
"""Classes whose whole confusion matrix is shown."""

MOST_COLUMNS = 40
"""Columns that are listed."""

MOST_TARGETS = 6
"""Targets whose residuals are drawn."""

LIBRARIES = ("numpy", "scipy", "sklearn", "pyarrow", "numba", "cupy", "mpi4py")
"""Whose versions are told where they took part."""


@dataclasses.dataclass(frozen=True)
class Account:
    """What a report tells of a run beside what it finds out itself.

    Attributes
    ----------
    source : str
        What the rows were read from.
    introduction : sequence of str
        What the run said when it began.
    command : str
        What to type to do it again.
    result : mapping
        What ``--json`` prints.
    history : History
    version : str
        Of mlp_xp.
    learning_rates : sequence of float
        Of each epoch; nan for those before this process began.
    seed : int
        Of the rows that are drawn and shuffled for the report.
    """

    source: str
    introduction: Sequence[str]
    command: str
    result: Mapping[str, Any]
    history: History
    version: str
    learning_rates: Sequence[float] = ()
    seed: int = 0


def page(account: Account, model: TableModel, training: Source, measured: Source) -> str:
    """The page as HTML.

    Parameters
    ----------
    account : Account
    model : TableModel
        As it was trained.
    training, measured : source
        Raw rows: those that were trained on, and those that the model is judged on, as ``metrics_on`` of the
        result says.
    """
    most = most_rows(max(len(model.inputs.names), len(model.output_names)))
    seen = sample(training, account.seed, most)
    judged = sample(measured, account.seed, most)
    n_judged, part = measured.n_rows, f"{account.result['metrics_on']} rows"
    names = model.targets.names
    more = f" and {len(names) - MOST_TARGETS:,} more" if len(names) > MOST_TARGETS else ""
    title = f"{', '.join(names[:MOST_TARGETS])}{more} from {account.source}"
    sections = [
        ("", _tiles(account)),
        ("Curves", _curves(account, model)),
        *_of_predictions(model, judged, _some(judged.n_rows, n_judged, part)),
        _importances(model, findings.affordable(model, judged), account.seed, n_judged, part),
        ("Columns of the training part", _columns(model, seen, training.n_rows)),
        ("How it was trained", _facts(account, model)),
        ("Do it again", f'<pre tabindex="0"><code>{escaped(account.command)}</code></pre>'),
        ("Made with", _table(_versions(account))),
    ]
    body = "".join(
        f"<section>{f'<h2>{escaped(heading)}</h2>' if heading else ''}{content}</section>"
        for heading, content in sections
    )
    introduction = "".join(f"<p>{escaped(sentence)}</p>" for sentence in account.introduction)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{escaped(title)}</h1>{introduction}</header><main>{body}</main></body></html>\n"
    )


def _some(n: int, n_all: int, rows: str) -> str:
    """Some rows of all, in words."""
    return f"{n:,} of {n_all:,} {rows}" if n < n_all else rows


def _tiles(account: Account) -> str:
    result = account.result
    where = f"on {result['rows_measured']:,} {result['metrics_on']} rows"
    tiles = [
        (METRICS[name].words, number(value), where)
        for name, value in result["metrics"].items()
        if name in METRICS
    ]
    best = result["best_epoch"]
    tiles.append(("epochs", f"{result['epochs']:,}", f"best: {best:,}" if best else ""))
    tiles.append(("time", f"{result['seconds']:,.1f} s", f"on {result['device']}"))
    of_each = [(name, number(value)) for name, value in result["metrics"].items() if name not in METRICS]
    more = _table(of_each[: 3 * MOST_TARGETS]) if of_each else ""  # of several targets
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>{more}'


def _tile(name: str, value: str, note: str) -> str:
    name, value, note = map(escaped, (name, value, note))
    return f"<div><span>{name}</span><strong>{value}</strong><small>{note}</small></div>"


def _figures(drawn: Iterable[tuple[str, str]]) -> str:
    """Charts side by side where there is room, each with its caption."""
    figures = [f"<figure><figcaption>{caption}</figcaption>{chart}</figure>" for caption, chart in drawn]
    return f'<div class="figures">{"".join(figures)}</div>'


def _curves(account: Account, model: TableModel) -> str:
    history, loss = account.history, _value(model.described_loss)
    curves = {"training": history.train_losses, "held-out": history.validation_losses}
    known = {name: losses for name, losses in curves.items() if losses}
    about = f"Loss over {len(history.train_losses)} epochs"
    named = f"Loss ({escaped(loss)}) after each epoch"
    drawn = [(named, charts.curves(known, "epoch", "loss", about, history.best_epoch))]
    rates = [rate for rate in account.learning_rates if math.isfinite(rate)]
    if rates and min(rates) < max(rates):
        rate = charts.curves(
            {"learning rate": account.learning_rates}, "epoch", "learning rate", "Learning rate"
        )
        drawn.append(("Learning rate at the end of each epoch", rate))
    return _figures(drawn) + f"<p>Why it stopped: {escaped(account.result['stopped'])}.</p>"


def _of_predictions(model: TableModel, rows: Sample, part: str) -> Iterator[tuple[str, str]]:
    """Sections that compare predictions with what was true."""
    predicted = model.predict_raw(rows.x)
    if model.levels is not None:
        true = rows.y[:, 0].astype(np.int64)
        yield f"Confusions, on {part}", _confusions(model.levels, true, predicted.argmax(axis=1))
        yield f"Calibration, on {part}", _calibration_of_classes(model.levels, true, predicted)
    elif model.loss is not None and model.loss.link.probabilities == "each":
        yield f"Calibration, on {part}", _calibration_of_labels(model, rows.y, predicted)
    elif model.quantiles is not None:
        yield f"Calibration, on {part}", _calibration_of_quantiles(model, rows.y, predicted)
    else:
        yield f"Residuals, on {part}", _residuals(model, rows.y, predicted)


def _residuals(model: TableModel, true: np.ndarray, predicted: np.ndarray) -> str:
    drawn = []
    shown = np.unique(np.linspace(0, len(true) - 1, MOST_DOTS).astype(int))
    for at, name in enumerate(model.targets.names[:MOST_TARGETS]):
        y, guess = true[:, at], predicted[:, at]
        about = f"True {name} against predicted {name}"
        cloud = charts.points(guess[shown], y[shown], f"predicted {name}", f"true {name}", about)
        errors = charts.histogram(
            guess - y, f"predicted − true {name}", f"How large the errors of {name} are"
        )
        drawn += [(f"{_name(name)}: true against predicted", cloud), (f"{_name(name)}: errors", errors)]
    more = len(model.targets.names) - MOST_TARGETS
    return _figures(drawn) + (f"<p>... and {more:,} more targets.</p>" if more > 0 else "")


def _confusions(levels: Sequence[str], true: np.ndarray, guess: np.ndarray) -> str:
    if len(levels) > MOST_CLASSES:
        pairs = [
            (f"{_name(levels[class_])} taken for {_name(levels[taken_for])}", f"{count:,}")
            for class_, taken_for, count in findings.worst_confusions(true, guess, MOST_CLASSES)
        ]
        return f"<p>The most frequent, of {len(levels):,} classes:</p>{_table(pairs, raw=True)}"
    head = "".join(f'<th scope="col">{_name(level)}</th>' for level in levels)
    body = []
    for level, row in enumerate(findings.confusions(true, guess, len(levels)).tolist()):
        total = max(1, sum(row))
        cells = "".join(
            f'<td class="{"right" if level == at else "wrong"}" style="--share:{n / total:.3f}">{n:,}</td>'
            for at, n in enumerate(row)
        )
        body.append(f'<tr><th scope="row">{_name(levels[level])}</th>{cells}</tr>')
    return (
        "<p>A line for each true class, a column for each predicted one.</p>"
        f'<div class="wide" tabindex="0"><table class="confusions"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _calibration_of_classes(levels: Sequence[str], true: np.ndarray, p: np.ndarray) -> str:
    if len(levels) == 2:
        said, happened, what = p[:, 1], true == 1, f"the probability of {levels[1]}"
        found_title = f"how often it was {levels[1]}"
    else:
        said, happened = p.max(axis=1), p.argmax(axis=1) == true
        what, found_title = "the probability of the predicted class", "how often it was right"
    return _reliability(findings.calibration_of(said, happened), what, found_title)


def _calibration_of_labels(model: TableModel, y: np.ndarray, p: np.ndarray) -> str:
    of_all = findings.calibration_of(p.reshape(-1), (y > 0.5).reshape(-1))
    names = ", ".join(model.targets.names)
    return _reliability(of_all, f"the probability of {names}", "how often it was so")


def _reliability(found: findings.Calibration, what: str, found_title: str) -> str:
    about = f"How often things happened against {what}"
    chart = charts.calibration(found.said, found.found, found.counts, what, found_title, about)
    return _figures([("On the dashed line, what was said is what happened", chart)])


def _calibration_of_quantiles(model: TableModel, y: np.ndarray, predicted: np.ndarray) -> str:
    quantiles = list(model.quantiles or ())
    grouped = predicted.reshape(*y.shape, len(quantiles))
    drawn = []
    for at, name in enumerate(model.targets.names[:MOST_TARGETS]):
        below = (y[:, at, None] <= grouped[:, at]).mean(axis=0).tolist()
        about = f"The part of rows with {name} below each predicted quantile"
        chart = charts.calibration(
            quantiles, below, [len(y)] * len(quantiles), "quantile", "part below it", about
        )
        drawn.append((f"{_name(name)}: the part of rows below each predicted quantile", chart))
    return _figures(drawn)


def _importances(
    model: TableModel, rows: Sample | None, seed: int, n_rows: int, part: str
) -> tuple[str, str]:
    heading = "What each column is worth"
    if rows is None:
        return heading, "<p>So many columns and weights would take too long to measure.</p>"
    metric, found = findings.importance_of_columns(model, rows, seed)
    change = "falls" if METRICS[metric].higher else "rises"
    most = max([each.loss for each in found], default=0.0)
    lines = []
    for each in found[:MOST_COLUMNS]:
        share = max(0.0, each.loss / most) if most > 0 else 0.0
        lines.append(
            f'<tr><th scope="row">{_name(each.name)}</th><td><i style="--share:{share:.3f}"></i></td>'
            f"<td>{number(each.loss)} <small>± {number(each.spread)}</small></td></tr>"
        )
    more = len(found) - MOST_COLUMNS
    return f"{heading}, on {_some(rows.n_rows, n_rows, part)}", (
        f"<p>How much the {METRICS[metric].words} {change} when the values of a column are shuffled "
        f"({findings.REPEATS} times: mean and deviation). Columns that say the same share what they are "
        f'worth.</p><table class="bars"><tbody>{"".join(lines)}</tbody></table>'
        + (f"<p>... and {more:,} more columns.</p>" if more > 0 else "")
    )


def _columns(model: TableModel, rows: Sample, n_rows: int) -> str:
    found = findings.summaries(model, rows)
    n_inputs = len(model.inputs.names)
    shown = [*found[n_inputs:], *found[: min(n_inputs, MOST_COLUMNS)]]
    lines = [
        f'<tr><th scope="row">{_name(each.name)}<small>{escaped(each.kind)}'
        f"{f', {each.gaps:.2%} missing' if each.gaps else ''}</small></th>"
        f"<td>{charts.sparkline(each.counts)}</td><td>{escaped(each.words)}</td></tr>"
        for each in shown
    ]
    drawn = f" (of {_some(rows.n_rows, n_rows, 'rows')})" if rows.n_rows < n_rows else ""
    more = n_inputs - MOST_COLUMNS
    return (
        f"<p>{n_inputs:,} columns and {len(found) - n_inputs:,} to predict{drawn}.</p>"
        f'<table class="columns"><tbody>{"".join(lines)}</tbody></table>'
        + (f"<p>... and {more:,} more columns.</p>" if more > 0 else "")
    )


def _facts(account: Account, model: TableModel) -> str:
    network = model.network
    summary = {"loss": model.described_loss} | model.training
    rows = [
        ("layers", "-".join(map(str, network.layer_sizes))),
        ("parameters", f"{network.parameters.size:,}"),
        *((name.replace("_", " "), _value(value)) for name, value in summary.items() if name not in RESULTS),
        ("device", account.result["device"]),
        ("dtype", account.result["dtype"]),
        ("processes", str(account.result["ranks"])),
    ]
    return _table(rows)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name}={_value(each)}" for name, each in value.items() if name != "name")
        return f"{value['name']}: {inner}" if "name" in value else inner
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions(account: Account) -> list[tuple[str, str]]:
    modules = {name: sys.modules[name] for name in LIBRARIES if name in sys.modules}
    versions = {name: getattr(module, "__version__", "") for name, module in modules.items()}
    return [
        ("mlp_xp", account.version),
        ("Python", platform.python_version()),
        *versions.items(),
        ("machine", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("device", account.result["device"]),
        ("made", dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]


def _table(rows: Iterable[tuple[str, str]], *, raw: bool = False) -> str:
    """Names and values; `raw` names are HTML."""
    lines = [
        f'<tr><th scope="row">{name if raw else escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in rows
    ]
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def _name(text: str) -> str:
    """A name from outside, in its own direction of writing."""
    return f"<bdi>{escaped(text)}</bdi>"
