"""`mlp-xp evaluate`: how good a model is on the rows of a table."""

import json

from mlp_xp.cli.applied import no_data, opened, say_unlike
from mlp_xp.cli.commands import Evaluate
from mlp_xp.cli.files import given_data
from mlp_xp.cli.printing import aligned, show
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.settings import checks
from mlp_xp.tables.evaluation import assess


def evaluate(options: Evaluate) -> None:
    """Print a model's metrics on the rows of a table."""
    checks.refuse([*options.problems(), no_data(options)])
    with given_data(options.data) as path:
        fitted, watched = opened(options, path)
        result = assess(fitted, watched, seed=0).description()
    if not options.quiet:
        say_unlike(watched)
    result |= {"unlike": watched.found(), "rows_measured": watched.n_rows, "model": str(options.model)}
    show(json.dumps(result) if options.as_json else "\n\n".join(map(aligned, metric_tables(result))))
