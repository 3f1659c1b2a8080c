"""Members of a table's network: which rows each one draws, and what those say that it has left out."""

import numpy as np

from mlp_xp.rows.member_weights import bootstrap
from mlp_xp.rows.source import Source
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.evaluation import evaluate
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.split import Split


def bootstrapped(options: TrainingOptions, source: Source) -> np.ndarray | None:
    """How often each member draws each row, (n_rows, members); None where all see all rows.

    Raises
    ------
    ValueError
        The rows are a stream, whose rows have no number.
    """
    if not options.bootstrap:
        return None
    if source.order is not None:
        raise ValueError(
            f"{spelled('bootstrap')}: a table that is streamed has no row numbers to draw. Leave it out, or "
            "train on a table that fits the memory."
        )
    return bootstrap(source.n_rows, options.members or 1, options.seed)


def cross_validated(model: TableModel, parts: Split) -> dict[str, dict[str, float]] | None:
    """Each metric on the rows that a member left out: mean and standard deviation over the folds.

    None without folds. What is done with columns (means, quantiles) was measured on all rows.
    """
    if parts.folds is None:
        return None
    found = [evaluate(alone, parts.left_out_by(n)) for n, alone in enumerate(model.each())]
    names = [name for name in found[0] if all(name in each for each in found)]
    values = {name: [each[name] for each in found] for name in names}
    return {
        name: {"mean": float(np.mean(each)), "deviation": float(np.std(each, ddof=1))}
        for name, each in values.items()
    }
