"""`--report`: one page about a training, which needs no network, no script and no other file."""

import dataclasses
import datetime as dt
import math
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.history import History
from mlp_xp.report import charts, findings
from mlp_xp.report.charts import escaped, number
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.report.style import STYLE
from mlp_xp.rows.source import Source
from mlp_xp.settings.checks import counted
from mlp_xp.settings.spelling import given
from mlp_xp.tables.advice import Run
from mlp_xp.tables.evaluation import Evaluation, assess
from mlp_xp.tables.fitting import RESULTS
from mlp_xp.tables.introduction import introduction
from mlp_xp.tables.measured import some_rows
from mlp_xp.tables.metrics import METRICS
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.sample import Sample
from mlp_xp.version import VERSION

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may do for the page: apply its own style, load nothing and run nothing."""

MOST_DOTS = 1500
"""Rows that a cloud of points shows."""

MOST_CLASSES = 20
"""Classes whose whole confusion matrix is shown."""

MOST_COLUMNS = 40
"""Columns that are listed."""

MOST_VALUES = 6
"""Columns of a row that is shown."""

MOST_TARGETS = 6
"""Targets whose residuals are drawn."""

LIBRARIES = ("numpy", "scipy", "sklearn", "pyarrow", "numba", "cupy", "mpi4py")
"""Whose versions are told where they took part."""


@dataclasses.dataclass(frozen=True)
class RunReport:
    """What a report tells of a run beside what it finds out itself.

    It has what the rows were read from, what the run said when it began, what to type to do it again, what
    ``--json`` prints, the rate of each epoch (nan for those before this process began), and the seed of the
    rows that are drawn for it.
    """

    source: str
    introduction: Sequence[str]
    command: str
    result: Mapping[str, Any]
    history: History
    learning_rates: Sequence[float] = ()
    seed: int = 0

    @classmethod
    def of(
        cls, run: Run, result: Mapping[str, Any], command: str, learning_rates: Sequence[float]
    ) -> "RunReport":
        """What it tells of a training that is over."""
        begun = introduction(run.data, run.model.network)
        name, seed = run.data.table.name, run.data.options.seed
        return cls(name, begun, command, result, run.history, learning_rates, seed)


def page(run: RunReport, model: TableModel, training: Source, measured: Source) -> str:
    """The page as HTML, of a model as it was trained.

    It tells of raw rows: those that were trained on, and those that the model is judged on, as ``metrics_on``
    of the result says; with folds, and of rows that are given, both are the same.
    """
    seen, judged = (some_rows(model, rows, run.seed) for rows in (training, measured))
    on = run.result["metrics_on"]
    # Metrics are of each member on its own; the rest of the page is of their mean, which has seen all.
    n_judged, part = judged.n_all, "training rows" if on == "left-out" else f"{on} rows"
    names = model.targets.names
    more = f" and {len(names) - MOST_TARGETS:,} more" if len(names) > MOST_TARGETS else ""
    title = f"{', '.join(names[:MOST_TARGETS])}{more} from {run.source}"
    found, affordable = assess(model, judged), findings.affordable(model, judged)
    metric, importances = "", None
    if affordable is not None:
        metric, importances = findings.importance_of_columns(model, affordable, run.seed)
    sections = [
        ("", _tiles(run)),
        *_advice(run),
        ("How good it is", _metrics(run)),
        *_curves(run, model),
        *_of_predictions(model, judged, _some(judged.n_rows, n_judged, part)),
        *_worst(model, judged, found, [each.name for each in importances or ()]),
        (
            f"What each column is worth, on {_some(affordable.n_rows if affordable else 0, n_judged, part)}",
            _importances(metric, importances),
        ),
        (f"Columns of the {'given rows' if on == 'given' else 'training part'}", _columns(model, seen)),
        ("How it was trained", _facts(run, model)),
        ("Do it again", f'<pre tabindex="0"><code>{escaped(run.command)}</code></pre>'),
        ("Made with", _table(_versions())),
    ]
    body = "".join(
        f"<section>{f'<h2>{escaped(heading)}</h2>' if heading else ''}{content}</section>"
        for heading, content in sections
    )
    introduction = "".join(f"<p>{escaped(sentence)}</p>" for sentence in run.introduction)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{escaped(title)}</h1>{introduction}</header><main>{body}</main></body></html>\n"
    )


def _advice(run: RunReport) -> Iterator[tuple[str, str]]:
    """What to look at and to try."""
    said = "".join(f'<p class="advice">{_sentence(each)}</p>' for each in run.result.get("advice", ()))
    if said:
        yield "What to try", said


def _sentence(text: str) -> str:
    """A text whose options do not break at their dashes."""
    return re.sub(r"--[a-z][a-z-]*", r'<span class="option">\g<0></span>', escaped(text))


def _metrics(run: RunReport) -> str:
    """The model beside its baselines, and each class."""
    result, on = run.result, run.result["metrics_on"]
    tables = [_of_numbers(table) for table in metric_tables(result)]
    chosen = (
        f"<p>The {on} rows chose the epoch, so that these metrics are a little too good. "
        f"{_sentence(given('test', 0.1))} keeps rows apart that only measure.</p>"
    )
    about = (
        "<p>95% interval: where the metric may be on other rows of the kind. Mean or majority: the same "
        "prediction for every row. Linear: a linear model of the same features.</p>"
    )
    return (
        "".join(tables)
        + (about if result.get("baselines") else "")
        + (chosen if on in ("held-out", "left-out") and result["best_epoch"] else "")
    )


def _of_numbers(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first line and column are names."""
    head, *lines = rows
    names = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row">{_name(METRICS[name].words if name in METRICS else name)}</th>'
        f"{''.join(f'<td>{escaped(value)}</td>' for value in values)}</tr>"
        for name, *values in lines
    )
    return (
        '<div class="wide" tabindex="0"><table class="numbers"><thead><tr>'
        f'<th scope="col">{escaped(head[0])}</th>'
        f"{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _worst(
    model: TableModel, judged: Sample, found: Evaluation, columns: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Rows that cost most, with the columns that count most; where they have numbers, and one prediction."""
    if judged.numbers is None or len(model.targets.names) > 1 or model.quantiles is not None:
        return
    names = model.inputs.names
    shown = [names.index(name) for name in (columns or names)[:MOST_VALUES]]
    head = [
        "row",
        f"true {model.targets.names[0]}",
        "predicted",
        "part of the loss",
        *(names[at] for at in shown),
    ]
    rows = []
    for at, _, share in found.worst:
        predicted = model.predict_raw(judged.x[at : at + 1])
        guess = number(float(predicted[0, 0])) if model.levels is None else str(model.choose(predicted)[0])
        true = judged.y[at, 0]
        truth = number(float(true)) if model.levels is None else model.levels[int(true)]
        values = [findings.value_of(model.inputs.columns[each], judged.x[at, each]) for each in shown]
        rows.append([f"{judged.numbers[at] + 1:,}", truth, guess, f"{share:.1%}", *values])
    if rows:
        yield "Rows that it predicts worst", _of_numbers([head, *rows])


def _some(n: int, n_all: int, rows: str) -> str:
    """Some rows of all, in words."""
    return f"{n:,} of {n_all:,} {rows}" if n < n_all else rows


def _tiles(run: RunReport) -> str:
    result = run.result
    where = f"on {result['rows_measured']:,} {result['metrics_on']} rows"
    tiles = [
        (METRICS[name].words, number(value), where)
        for name, value in result["metrics"].items()
        if name in METRICS
    ]
    best = result["best_epoch"]
    tiles.append(("epochs", f"{result['epochs']:,}", f"best: {best:,}" if best else ""))
    if run.history.train_losses:
        tiles.append(("time", f"{result['seconds']:,.1f} s", f"on {result['device']}"))
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>'


def _tile(name: str, value: str, note: str) -> str:
    name, value, note = map(escaped, (name, value, note))
    return f"<div><span>{name}</span><strong>{value}</strong><small>{note}</small></div>"


def _figures(drawn: Iterable[tuple[str, str]], whole: int = 0) -> str:
    """Charts side by side where there is room, each with its caption; the first ones over the whole width."""
    figures = [
        f'<figure class="{"whole" if at < whole else "part"}">'
        f"<figcaption>{caption}</figcaption>{chart}</figure>"
        for at, (caption, chart) in enumerate(drawn)
    ]
    return f'<div class="figures">{"".join(figures)}</div>'


def _curves(run: RunReport, model: TableModel) -> Iterator[tuple[str, str]]:
    history, loss = run.history, _value(model.described_loss)
    curves = {"training": history.train_losses, "held-out": history.validation_losses}
    known = {name: losses for name, losses in curves.items() if losses}
    if not known:
        return
    about = f"Loss over {len(history.train_losses)} epochs"
    both = "".join(
        f'<div class="{kind}">{charts.curves(known, "epoch", "loss", about, history.best_epoch, width)}</div>'
        for kind, width in (("broad", charts.BROAD), ("small", charts.WIDTH))
    )
    drawn = [(f"Loss ({escaped(loss)}) after each epoch", both)]
    rates = [rate for rate in run.learning_rates if math.isfinite(rate)]
    if rates and min(rates) < max(rates):
        rate = charts.curves({"learning rate": run.learning_rates}, "epoch", "learning rate", "Learning rate")
        drawn.append(("Learning rate at the end of each epoch", rate))
    stopped = f"<p>Why it stopped: {escaped(run.result['stopped'])}.</p>"
    yield "Curves", _figures(drawn, whole=1) + stopped


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
    return _figures(drawn) + _more(len(model.targets.names) - MOST_TARGETS, "target")


def _more(n: int, what: str) -> str:
    """How many of a thing are not shown, where some are not."""
    return f"<p>... and {counted(n, f'more {what}')}.</p>" if n > 0 else ""


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
    chart = charts.calibration(*found, what, found_title, about)
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
    return _figures(drawn) + _more(len(model.targets.names) - MOST_TARGETS, "target")


def _importances(metric: str, found: Sequence[findings.Importance] | None) -> str:
    if found is None:
        return "<p>So many columns and weights would take too long to measure.</p>"
    change = "falls" if METRICS[metric].higher else "rises"
    most = max([each.loss for each in found], default=0.0)
    lines = []
    for each in found[:MOST_COLUMNS]:
        share = max(0.0, each.loss / most) if most > 0 else 0.0
        lines.append(
            f'<tr><th scope="row">{_name(each.name)}</th><td><i style="--share:{share:.3f}"></i></td>'
            f"<td>{number(each.loss)} <small>± {number(each.spread)}</small></td></tr>"
        )
    return (
        f"<p>How much the {METRICS[metric].words} {change} when the values of a column are shuffled "
        f"({findings.REPEATS} times: mean and deviation). Columns that say the same share what they are "
        f'worth.</p><table class="bars"><tbody>{"".join(lines)}</tbody></table>'
        + _more(len(found) - MOST_COLUMNS, "column")
    )


def _columns(model: TableModel, rows: Sample) -> str:
    found = findings.summaries(model, rows)
    n_inputs = len(model.inputs.names)
    shown = [*found[n_inputs:], *found[: min(n_inputs, MOST_COLUMNS)]]
    lines = [
        f'<tr><th scope="row">{_name(each.name)}<small>{escaped(each.kind)}'
        f"{f', {each.gaps:.2%} missing' if each.gaps else ''}</small></th>"
        f"<td>{charts.sparkline(each.counts)}</td><td>{escaped(each.words)}</td></tr>"
        for each in shown
    ]
    drawn = f" (of {_some(rows.n_rows, rows.n_all, 'rows')})" if rows.n_rows < rows.n_all else ""
    return (
        f"<p>{counted(n_inputs, 'column')} and {len(found) - n_inputs:,} to predict{drawn}.</p>"
        f'<table class="columns"><tbody>{"".join(lines)}</tbody></table>'
        + _more(n_inputs - MOST_COLUMNS, "column")
    )


CALLED = {"mlp_xp": "mlp_xp", "data": "checksum of the data"}
"""What is known of a training and has another name for people."""


def _facts(run: RunReport, model: TableModel) -> str:
    network = model.network
    summary = {"loss": model.described_loss} | model.training
    rows = [
        ("layers", "-".join(map(str, network.layer_sizes))),
        ("parameters", f"{network.parameters.size:,}"),
        *(
            (CALLED.get(name, name.replace("_", " ")), _value(value))
            for name, value in summary.items()
            if name not in RESULTS and value is not None and value is not False
        ),
        ("device", run.result["device"]),
        ("dtype", run.result["dtype"]),
        ("processes", str(run.result.get("ranks", 1))),
    ]
    return _table(rows)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name}={_value(each)}" for name, each in value.items() if name != "name")
        return f"{value['name']}: {inner}" if "name" in value else inner
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _versions() -> list[tuple[str, str]]:
    modules = {name: sys.modules[name] for name in LIBRARIES if name in sys.modules}
    versions = {name: getattr(module, "__version__", "") for name, module in modules.items()}
    return [
        ("mlp_xp", VERSION),
        ("Python", platform.python_version()),
        *versions.items(),
        ("machine", f"{platform.system()} {platform.release()}, {platform.machine()}"),
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
    """A name from outside, in its own direction of writing; a long one breaks after its low lines first."""
    return f"<bdi>{escaped(text).replace('_', '_<wbr/>')}</bdi>"
