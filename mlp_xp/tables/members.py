"""Members of a table's network: which rows each one sees, and what those say that it has not seen."""

import numpy as np

from mlp_xp.rows.member_weights import bootstrap, folds
from mlp_xp.rows.source import Source, Subset
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TrainingOptions


def member_weights(options: TrainingOptions, source: Source, copies: int = 1) -> np.ndarray | None:
    """A weight of each row for each member, (n_rows, members); None where all see all rows.

    With `copies` there are as many such sets of members side by side.

    Raises
    ------
    ValueError
        The rows are a stream, whose rows have no number.
    """
    if options.folds is None and not options.bootstrap:
        return None
    if source.order is not None:
        name = "folds" if options.folds else "bootstrap"
        raise ValueError(
            f"{spelled(name)}: a table that is streamed has no row numbers to draw. Leave it out, or "
            "train on a table that fits the memory."
        )
    if options.folds is not None:
        return np.tile(folds(source.n_rows, options.folds, options.seed), (1, copies))
    return bootstrap(source.n_rows, options.members or 1, options.seed)


def cross_validated(
    model: TableModel, options: TrainingOptions, rows: Source
) -> dict[str, dict[str, float]] | None:
    """Each metric on the rows that a member left out: mean and standard deviation over the folds.

    None without folds. What is done with columns (means, quantiles) was measured on all rows.

    Parameters
    ----------
    model : TableModel
    options : TrainingOptions
    rows : source
        The raw rows that were trained on.
    """
    if options.folds is None:
        return None
    seen = folds(rows.n_rows, options.folds, options.seed)
    found = []
    for n, alone in enumerate(model.each()):
        found.append(evaluate(alone, Subset(rows, np.flatnonzero(~seen[:, n]))))
    names = [name for name in found[0] if all(name in each for each in found)]
    values = {name: [each[name] for each in found] for name in names}
    return {
        name: {"mean": float(np.mean(each)), "deviation": float(np.std(each, ddof=1))}
        for name, each in values.items()
    }
