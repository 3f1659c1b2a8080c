"""Members of a table's network: which rows each one draws, and what those say that it has left out."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlp_xp.rows.member_weights import MemberWeighted, StreamBootstrap, bootstrap
from mlp_xp.rows.source import Source, Subset, passes
from mlp_xp.tables.evaluation import Evaluation, Running, finite
from mlp_xp.tables.model import PREDICT_ROWS, TableModel
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.split import Split


def bootstrapped(options: TrainingOptions, source: Source) -> Source:
    """The rows with how often each member draws each of them; as they are, where all see all rows."""
    if not options.bootstrap:
        return source
    members = options.members or 1
    if source.order is not None:
        return StreamBootstrap(source, members, options.seed)
    return MemberWeighted(source, bootstrap(source.n_rows, members, options.seed))


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What was measured of rows by the members that have left them out: of all together, and of each fold."""

    of_all: Evaluation
    of_folds: Sequence[Evaluation]

    def description(self) -> dict[str, dict[str, float | None]]:
        """Of each metric the mean over the folds and the deviation; None where it has no meaning in one."""
        first, *others = (each.metrics for each in self.of_folds)
        values = {
            name: [first[name], *(each[name] for each in others)]
            for name in first
            if all(name in each for each in others)
        }
        return {
            name: {"mean": finite(float(np.mean(each))), "deviation": finite(float(np.std(each, ddof=1)))}
            for name, each in values.items()
        }


def cross_validated(model: TableModel, parts: Split, seed: int) -> CrossValidation:
    """Measure each member on the rows that it has left out; `seed` is of the rows drawn for intervals.

    What is done with columns (means, quantiles) was measured on all rows.
    """
    of_all, of_folds = Running(model, parts.raw_training.n_rows), []
    for n, alone in enumerate(model.each()):
        left_out = parts.left_out_by(n)
        of_fold = Running(alone, left_out.n_rows)
        for index, x, y, weight in passes(left_out, PREDICT_ROWS, n_more=model.n_numbers):
            predicted = alone.predict_raw(x)
            of_fold.add(index, y, predicted, weight)
            numbers = left_out.index[index] if isinstance(left_out, Subset) else index
            of_all.add(numbers, y, predicted, weight)
        of_folds.append(of_fold.evaluation())
    return CrossValidation(of_all.evaluation(seed), of_folds)
