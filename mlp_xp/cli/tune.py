"""`mlp-xp tune`: many settings tried on a table, the best model and its options written."""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from mlp_xp.cli import configuration
from mlp_xp.cli.commands import Train, Tune
from mlp_xp.cli.files import SUFFIXES, given_data, output_problems, suffix_problem
from mlp_xp.cli.printing import aligned, say, show
from mlp_xp.report.charts import KINDS
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.report.plot import draw_lines, plot_problem
from mlp_xp.saved.model_file import save
from mlp_xp.settings import checks
from mlp_xp.tables.evaluation import finite
from mlp_xp.tuning.tune import Tuning, search

SHOWN = 10
"""Tries that the table at the end has."""

DRAWN = len(KINDS)
"""Tries that the picture has."""


def tune(options: Tune) -> int:
    """Search as options ask for; the exit status."""
    checks.refuse(
        [
            *options.problems(),
            *output_problems({"out": options.out, "plot": options.plot}, [options.data]),
            suffix_problem("out", options.out, SUFFIXES["out"]),
            None if options.plot is None else plot_problem(options.plot),
        ]
    )
    began = time.monotonic()
    with given_data(options.data) as data:
        found = search(
            dataclasses.replace(options, data=data, time_budget=None),
            tries=options.tries,
            time_budget=options.read("time_budget"),
            folder=options.kept_in,
            say=(lambda line: None) if options.quiet else say,
            fixed=tuple(options.given),
        )
    result = _result(found) | {"seconds": time.monotonic() - began}
    if options.out is not None:
        save(found.model, options.out)
        configuration.write(_as_train(options, found), options.out)
        result["model"] = str(options.out)
    if options.plot is not None:
        curves = {f"try {one.number}": one.standing.losses for one in found.tries[:DRAWN]}
        draw_lines(options.plot, curves, "held-out loss", "the best tries")
    if options.as_json:
        show(json.dumps(result))
    elif not options.quiet:
        tables: list[Sequence[Sequence[str]]] = [_tries(found), *metric_tables(result)]
        show("\n\n".join(map(aligned, tables)))
    return 0


def _as_train(options: Tune, found: Tuning[Any]) -> Train:
    """The command that trains the best try again."""
    names = Train.described().keys() & Tune.described().keys() - {"plot", "data", "time_budget"}
    own = {name: getattr(found.options, name) for name in names}
    if found.options.folds is not None:
        own["validation"] = None  # members judge by what they leave out
    return Train(**own, data=options.data)


def _result(found: Tuning[Any]) -> dict[str, Any]:
    """What came out, as JSON values."""
    measured = found.model.training
    metrics = ("metrics", "metrics_on", "rows_measured", "intervals", "baselines", "cross_validation")
    return {name: measured[name] for name in metrics if measured.get(name)} | {
        "best": found.tries[0].settings,
        "stopped": found.stopped,
        "tries": [
            {
                "number": one.number,
                "epochs": one.standing.epochs,
                "loss": finite(one.standing.best),
                **one.settings,
            }
            for one in found.tries
        ],
        "model": None,
    }


def _tries(found: Tuning[Any]) -> list[tuple[str, ...]]:
    """The best tries as a table."""
    head = ("try", "epochs", "held-out loss", *(name.replace("_", " ") for name in found.tries[0].settings))
    lines = [
        (
            str(one.number),
            str(one.standing.epochs),
            f"{one.standing.best:.5g}",
            *(str(value) for value in one.settings.values()),
        )
        for one in found.tries[:SHOWN]
    ]
    return [head, *lines]
