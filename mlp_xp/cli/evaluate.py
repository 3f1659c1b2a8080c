"""`mlp-xp evaluate`: how good a model is on the rows of a table."""

import dataclasses
import json

from mlp_xp.cli.commands import Evaluate
from mlp_xp.cli.files import given_data
from mlp_xp.cli.predict import known_names, no_data, say_unlike, with_names
from mlp_xp.cli.printing import aligned, say, show
from mlp_xp.cli.progress import reading
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.saved.model_file import load
from mlp_xp.settings.options import Problems, written
from mlp_xp.tables.evaluation import assess
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TableOptions
from mlp_xp.tables.reading import for_model, open_for, open_table
from mlp_xp.tables.unlike import Watched, refuse_unlike


def evaluate(options: Evaluate) -> None:
    """Print a model's metrics on the rows of a table."""
    wrong = Problems()
    wrong.add(*options.problems(), no_data(options))
    wrong.refuse()
    with given_data(options.data) as path:
        here = dataclasses.replace(options, data=path)
        loaded = load(options.model, options.device)
        with reading(options.data, quiet=options.quiet) as progress:
            if isinstance(loaded, TableModel):
                fitted, table = loaded, open_for(_with_targets(here, loaded), loaded, progress=progress)
            else:
                columns = known_names(loaded, here)
                table = open_table(here, columns=columns, numbers_alone=True, progress=progress)
                fitted = with_names(loaded, table)
            table = for_model(table, fitted)
        for line in table.unseen:
            say(line)
        if options.strict:
            refuse_unlike(table.source, fitted)
        watched = Watched(table.source, fitted)
        result = assess(fitted, watched, seed=0).description()
    if not options.quiet:
        say_unlike(watched)
    result |= {"unlike": watched.found(), "rows_measured": table.source.n_rows, "model": str(options.model)}
    show(json.dumps(result) if options.as_json else "\n\n".join(map(aligned, metric_tables(result))))


def _with_targets(options: TableOptions, model: TableModel) -> TableOptions:
    """The options with the targets that a model was trained on, unless others are named."""
    if options.target or options.data is None or not options.has_names:
        return options
    return dataclasses.replace(options, target=written(model.targets.names))
