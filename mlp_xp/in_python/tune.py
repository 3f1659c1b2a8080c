"""A search for settings, in Python: what `mlp-xp tune` does."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from mlp_xp.in_python.table_model import TableModel
from mlp_xp.machine import blas
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.settings.interval import seconds
from mlp_xp.tables.fit_table import at_a_path
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tuning.tune import Tuning, search


def tune(
    data: ArrayLike,
    target: str | Sequence[str],
    *,
    tries: int = 64,
    time_budget: float | str | None = None,
    folder: str | os.PathLike[str] | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> Tuning[TableModel]:
    """Search for settings that suit a table.

    Learning rate, weight decay, dropout, penalty, width, depth, activation and encoding are drawn at random.
    Tries are judged by the held-out rows, or with ``folds=`` by those that each fold leaves out. What is
    given as an option is not searched for.

    Parameters
    ----------
    data, target
        As of `fit_table`.
    tries : int
        How many settings, the recipe's own among them.
    time_budget : float or str, optional
        Seconds, or "90s", "10min", "1h": tries that are late in its first third are let go, and no
        comparison is begun that would not end within it; the best try so far is still trained to its end.
    folder : path, optional
        Where the search is kept after each comparison: a search with the same arguments goes on from there.
    say : callable (str), optional
        Is told what goes on: `print`, for one.
    **options
        Options of `mlp-xp train`, as of `fit_table`.

    Returns
    -------
    Tuning
        The same for the same seed, whatever the number of threads, unless time ends it.

    Raises
    ------
    ValueError, TypeError, OSError
        An option or the data cannot be used, or the folder is that of another search.
    FloatingPointError
        All tries diverged.

    Examples
    --------
    >>> x = [number / 50 for number in range(200)]
    >>> table = {"x": x, "y": [3 * each + 1 for each in x]}
    >>> found = tune(table, "y", tries=2, epochs=8, hidden=(16,))
    >>> sorted(found.tries[0].settings)[:3], found.model.predict({"x": [1.0, 2.0]}).shape
    (['activation', 'dropout', 'hidden'], (2, 1))
    """
    with at_a_path(data) as path:
        settings = TrainingOptions.of({"data": path, "target": target, **options})
        with blas.at_most(settings.threads):
            found = search(
                settings,
                tries=tries,
                time_budget=None if time_budget is None else seconds("time_budget", time_budget),
                folder=folder,
                say=say or (lambda line: None),
                fixed=tuple(options),
            )
    return Tuning(TableModel.from_plain(found.model), found.options, found.tries, found.stopped)
