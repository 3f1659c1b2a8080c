"""What to look at and to try after a training, in plain sentences, the most telling first."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mlp_xp.history import History
from mlp_xp.rows.source import numbers_in_file
from mlp_xp.settings.options import written
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.evaluation import Evaluation
from mlp_xp.tables.fitting import Data
from mlp_xp.tables.measured import Measured, some_rows
from mlp_xp.tables.metrics import METRICS, deciding
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Category, Constant
from mlp_xp.tables.recipe import PLAIN, TABLES, epochs, learning_rate, uses_tables
from mlp_xp.tables.sample import Sample

MOST = 2
"""Sentences at the end of a run; more are too many to act on."""

LARGE_SHARE, LARGE_COST = 0.5, 1.0
"""Of the whole loss, for one row; and what that is, in squared deviations of the target or in nats."""

FEWEST_ROWS = 30
"""Rows below which a column that differs in each, or that goes with the target, may do so by chance."""

SAME = 0.9999
"""The correlation from which on a column says the target."""

FEWEST_OF_CLASS = 5
"""Rows of a class, or on average of a level, below which a column may divide the classes by chance."""

OFTEN_ALIKE, MANY_COPIES = 0.05, 0.05
"""How often two rows are alike in a column that tells rows apart; which part of the rows may be copies."""

MANY_CLASSES = 1000

DECADES = 2.0
"""Powers of ten between the 5th and the 95th percentile of a target that are too many for squared errors."""

FAR_WORSE = 1.5
"""The loss over that of a constant or a linear model, from which on it is not the columns' fault."""

HARDLY_BETTER = 0.99
"""The loss over that of a constant, from which on it may be so by chance."""

TOO_LARGE = 5.0
"""Times the rate that suits most tables, from which on steps may be too large; the other way, too small."""

RISE = 1.1
"""Of the held-out loss over its least, from which on the last weights are worse than the best ones."""

BY_HEART = 0.65
"""Of the error on other rows, below which the one on training rows says that more rows would help."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A training that is over, and why it ended."""

    data: Data
    model: TableModel
    history: History
    found: Measured
    stopped: str | None = None

    def called(self, name: str) -> "Run":
        """The same with another name for its table."""
        table = dataclasses.replace(self.data.table, name=name)
        return dataclasses.replace(self, data=dataclasses.replace(self.data, table=table))


def advice(run: Run) -> list[str]:
    """Sentences, each with something to try."""
    said = {rule: list(rule(run)) for rule in RULES}
    unsaid = {rule for by, rules in INSTEAD_OF.items() if said[by] for rule in rules}
    return [each for rule in RULES if rule not in unsaid for each in said[rule]]


def _says_the_target(run: Run) -> Iterator[str]:
    rows = run.found.sample
    if rows.n_rows < FEWEST_ROWS or rows.n_targets > 1:
        return
    y, says = rows.y[:, 0], _follows if run.model.levels is None else _divides
    named = [
        column.name
        for at, column in enumerate(run.model.inputs.columns)
        if not isinstance(column, Constant) and says(rows.x[:, at], y, is_text=isinstance(column, Category))
    ]
    if named:
        is_one, which = len(named) == 1, ", ".join(map(repr, named))
        what = f"Column {which} says" if is_one else f"Columns {which} say"
        yield (
            f"{what} the target almost exactly. If {'it is' if is_one else 'they are'} known only "
            f"afterwards, leave {'it' if is_one else 'them'} out: {_leave_out(run, *named)}."
        )


def _follows(x: np.ndarray, y: np.ndarray, *, is_text: bool) -> bool:
    """Whether one number follows from the other, along a line or up or down alone; or level by level."""
    known = ~np.isnan(x)
    x, y = x[known], y[known]
    if len(x) < FEWEST_ROWS or len(np.unique(y)) < 2 or len(np.unique(x)) < 2:
        return False
    if is_text:
        n_pairs = len(np.unique(np.column_stack([x, y]), axis=0))
        return n_pairs == len(np.unique(x)) == len(np.unique(y)) and n_pairs < len(x) / 2
    x, y = (each / np.abs(each).max() for each in (x, y))  # squares of the least and largest floats are none
    ranks = (np.unique(each, return_inverse=True)[1] for each in (x, y))
    return any(abs(np.corrcoef(*pair)[0, 1]) > SAME for pair in ((x, y), ranks))


def _divides(x: np.ndarray, y: np.ndarray, *, is_text: bool) -> bool:
    """Whether a class follows from a level, or from the part of a line that a number is on; a gap is one."""
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    goes_on = (x[1:] == x[:-1]) | (np.isnan(x[1:]) & np.isnan(x[:-1]))
    changes = y[1:] != y[:-1]
    n_of_each = np.unique(y, return_counts=True)[1]
    if len(n_of_each) < 2 or n_of_each.min() < FEWEST_OF_CLASS or (changes & goes_on).any():
        return False
    if is_text:
        return bool(1 + np.count_nonzero(~goes_on) <= len(x) / FEWEST_OF_CLASS)
    return bool(np.count_nonzero(changes) == len(n_of_each) - 1)


def _copies(run: Run) -> Iterator[str]:
    """Rows measured that the network was trained on; not those that are alike as there are few values."""
    found = run.found
    if found.on not in ("held-out", "test"):
        return
    trained, others = (
        np.column_stack([rows.x, rows.y]) + 0.0  # without −0
        for rows in (found.sample, some_rows(run.model, found.rows, run.data.options.seed))
    )
    alike = [
        float(np.square(np.unique(column, return_counts=True)[1] / len(column)).sum()) for column in trained.T
    ]
    telling = np.argsort(alike)[:2]
    if len(others) < FEWEST_ROWS or max(alike[at] for at in telling) > OFTEN_ALIKE:
        return
    known = {hash(row.tobytes()) for row in trained}
    n_copies = sum(hash(row.tobytes()) in known for row in others)
    n_alike = np.count_nonzero(np.isin(others[:, telling[0]], trained[:, telling[0]]))
    if n_copies > max(MANY_COPIES * len(others), n_alike / 2):
        yield (
            f"{n_copies:,} of {len(others):,} {found.on} rows are training rows too, value by value, so that "
            f"what is measured on them is too good. Leave copies out, or keep them together: "
            f"{given('group', 'COLUMN')}."
        )


def _one_row(run: Run) -> Iterator[str]:
    for rows, found, numbers_of in _measured_rows(run):
        if not found.worst or found.n_rows < FEWEST_ROWS:
            continue
        at, cost, share = found.worst[0]
        numbers = numbers_of(np.array([at]))
        if share > LARGE_SHARE and cost > LARGE_COST and numbers is not None:
            robust = run.data.loss.robust
            of_numbers = f" {given('loss', robust)} heeds such rows less." if robust else ""
            yield (
                f"Row {numbers[0] + 1:,} alone makes {share:.0%} of the loss on the {rows} rows: look "
                f"whether its values are right, or leave it out.{of_numbers}"
            )


def _measured_rows(run: Run) -> Iterator[tuple[str, Evaluation, Callable[[np.ndarray], np.ndarray | None]]]:
    """Rows that the model was measured on, and what gives the numbers that they have in the file."""
    found, numbers = run.found, run.found.sample.numbers
    yield found.on, found.model, lambda at: numbers_in_file(found.rows, at)
    if "training" in found.others:
        yield "training", found.others["training"], lambda at: None if numbers is None else numbers[at]


def _class_not_found(run: Run) -> Iterator[str]:
    classes = run.found.model.classes or {}
    missed = [name for name, each in classes.items() if each["rows"] > 0 and not each["recall"]]
    if not missed or len(classes) > MANY_CLASSES or run.data.options.class_weight != "none":
        return
    level = max(missed, key=lambda name: classes[name]["rows"])
    more = f", nor of {len(missed) - 1} other classes" if len(missed) > 1 else ""
    area = run.found.model.metrics["roc_auc"]
    yield (
        f"None of the {classes[level]['rows']:,g} {run.found.on} rows of class {level!r} is found{more}, as "
        f"other classes are likelier. Choose by probability_{level} instead (ROC AUC {area:.3g}), or try "
        f"{given('class_weight', 'balanced')}."
    )


def _no_better_than_a_baseline(run: Run) -> Iterator[str]:
    if run.data.options.class_weight != "none":
        return  # probabilities are of classes that are equally frequent, and metrics of the rows as they are
    metric = deciding(run.found.model.metrics)
    own = run.found.model.metrics[metric]
    for name in ("mean", "majority", "linear"):
        if name not in run.found.others:
            continue
        other = run.found.others[name].metrics[metric]
        is_hardly_better = name != "linear" and own >= HARDLY_BETTER * other and _may_know_nothing(run)
        if not (own >= other or is_hardly_better):
            continue
        if name != "linear" and own > FAR_WORSE * other:
            yield from _smaller_steps(run, f"The model is worse than the {name} alone")
            return
        if _epochs_wanted(run):
            return
        compared = f"({METRICS[metric].words} {own:.4g}, and {other:.4g})"
        if _steps_are_small(run):
            than = "a linear one" if name == "linear" else f"the {name} alone"
            yield f"The model is no better than {than} {compared}: the steps are too small. {_own_rate(run)}."
            return
        if name != "linear" and _steps_are_large(run):
            yield from _smaller_steps(run, f"The model is no better than the {name} alone {compared}")
        elif name != "linear":
            unlike = ", or those held out are unlike the others" if run.data.table.split_column else ""
            yield (
                f"The model is no better than the {name} alone {compared}: the columns say nothing of "
                f"{', '.join(run.model.targets.names[:3])}, or the rows are too few{unlike}. Give other "
                "columns, or more rows."
            )
        elif _rate_wanted(run) is not None and own > FAR_WORSE * other:
            yield from _smaller_steps(run, f"The model is worse than a linear one {compared}")
        elif run.data.options.read("hidden"):
            yield (
                f"The model is no better than a linear one of the same features {compared}: "
                f"{given('hidden', '')} trains one, which is simpler. More rows or other columns would help."
            )
        return


def _may_know_nothing(run: Run) -> bool:
    """Whether what was measured is what a constant may have by chance."""
    chance = {"r2": 0.0, "roc_auc": 0.5}
    return any(
        run.found.model.intervals.get(name, (np.inf,))[0] < of_none for name, of_none in chance.items()
    )


def _first_epoch(run: Run) -> Iterator[str]:
    if run.history.best_epoch == 1 and len(run.history.watched) > 2:
        yield from _smaller_steps(run, "The first epoch was the best one")


def _smaller_steps(run: Run, found: str) -> Iterator[str]:
    wanted = _rate_wanted(run)
    if wanted is None:
        yield (
            f"{found}: the columns say little of {', '.join(run.model.targets.names[:3])}, or the rows held "
            "out are unlike the others. Give other columns, or more rows."
        )
        return
    instead = _own_rate(run) if _has_own_factors(run) else f"Try {given('learning_rate', f'{wanted:g}')}"
    yield f"{found}: the steps are too large. {instead}."


def _rate_wanted(run: Run) -> float | None:
    """A rate to try where steps may be too large; None where it is the one that suits most tables, or less.

    Rules that divide by the size of gradients move by the rate whatever the target; for the others there is
    none that suits most.
    """
    options = run.data.options
    rate, usual = options.read("learning_rate"), _usual_rate(run)
    if options.rate_factors != PLAIN["rate_factors"] and not _has_own_factors(run):
        return None
    if not hasattr(options.read("optimizer"), "eps"):
        return float(rate / 10)
    return usual if rate >= TOO_LARGE * usual else None


def _steps_are_large(run: Run) -> bool:
    """Whether the rate is far above the one that suits most tables, where there is such."""
    return hasattr(run.data.options.read("optimizer"), "eps") and _rate_wanted(run) is not None


def _steps_are_small(run: Run) -> bool:
    """Whether a rate that is usual elsewhere was given, where factors make it much smaller."""
    return _has_own_factors(run) and TOO_LARGE * run.data.options.read("learning_rate") <= _usual_rate(run)


def _own_rate(run: Run) -> str:
    return f"Leave {spelled('learning_rate')} out, which is then {_usual_rate(run):g}"


def _usual_rate(run: Run) -> float:
    if _has_own_factors(run):
        return learning_rate(has_classes=run.model.levels is not None)
    return float(PLAIN["learning_rate"])


def _has_own_factors(run: Run) -> bool:
    """Whether the rate has the factors of the recipe, whose own rate goes with them."""
    options = run.data.options
    return uses_tables(options) and options.rate_factors == TABLES["rate_factors"]


def _names_of_rows(run: Run) -> Iterator[str]:
    rows = run.found.sample
    named = [
        column.name
        for at, column in enumerate(run.model.inputs.columns)
        if column.kind == "number" and not isinstance(column, Constant) and _counts(rows, at)
    ]
    if named and run.data.table.split_column is None:
        yield (
            f"Column {named[0]!r} is a whole number that differs in every row, as numbers of rows are. Leave "
            f"it out: {_leave_out(run, *named)}."
        )


def _counts(rows: Sample, at: int) -> bool:
    """Whether a column numbers the rows: whole numbers, each once, close together."""
    values = rows.x[:, at]
    if len(values) < FEWEST_ROWS or np.isnan(values).any() or (values != np.floor(values)).any():
        return False
    different = np.unique(values)
    return len(different) == len(values) and bool(np.median(np.diff(different)) <= 2 * rows.n_rows)


def _many_classes(run: Run) -> Iterator[str]:
    n_classes = len(run.model.levels or ())
    if n_classes > MANY_CLASSES:
        rows = run.data.parts.raw_training.n_rows / n_classes
        yield (
            f"There are {n_classes:,} classes, with {rows:.1f} rows each on average: if they are amounts, "
            f"try {given('task', 'regression')}."
        )


def _decades(run: Run) -> Iterator[str]:
    loss = run.model.loss
    if run.model.levels is not None or loss is None or loss.metric or not loss.standardises_target:
        return
    for at, name in enumerate(run.model.targets.names):
        y = run.found.sample.y[:, at]
        if y.min() >= 0 and len(y) >= FEWEST_ROWS:
            low, high = np.quantile(y[y > 0], [0.05, 0.95]) if (y > 0).any() else (1.0, 1.0)
            if np.log10(high / low) > DECADES:
                yield (
                    f"Target {name!r} goes from {low:.3g} to {high:.3g}, so that its largest values decide. "
                    f"Try its logarithm as the target, or {given('loss', 'poisson')}."
                )
                return


def _by_heart(run: Run) -> Iterator[str]:
    yield from _last_weights(run)
    found = run.found
    if "training" not in found.others or found.model.n_rows < FEWEST_ROWS:
        return
    metric = deciding(found.model.metrics)
    own, trained = found.model.metrics[metric], found.others["training"].metrics[metric]
    if trained < BY_HEART * own:
        more = f"{given('test', 0.2)} with and without {given('validation', 0.5)} shows how much"
        yield (
            f"The network learns rows by heart ({METRICS[metric].words} {trained:.4g} on training rows, "
            f"{own:.4g} on {found.on} rows): more rows would help most. {more}."
        )


def _last_weights(run: Run) -> Iterator[str]:
    """What is said where the last weights are kept, and are not the best ones."""
    held_out, trained, best = run.history.validation_losses, run.history.train_losses, run.history.best_epoch
    if run.data.options.keep == "best" or not 1 < best < len(held_out):
        return
    if held_out[-1] > RISE * run.history.best_loss > 0 and trained[-1] < trained[best - 1]:
        yield (
            f"The held-out loss rises after epoch {best} while the training loss falls: "
            f"{given('keep', 'best')} keeps the weights of that epoch."
        )


def _too_few_epochs(run: Run) -> Iterator[str]:
    if wanted := _epochs_wanted(run):
        yield f"The last epoch was the best one: more may be better, {given('epochs', wanted)}."


def _epochs_wanted(run: Run) -> int | None:
    """How many epochs to try where the last one was the best; None where they may have been enough."""
    done, options = len(run.history.watched), run.data.options
    if run.history.best_epoch < done or done < options.read("epochs"):
        return None
    size, n_rows = options.read("batch_size"), run.data.parts.raw_training.n_rows
    has_classes, is_known = run.model.levels is not None, uses_tables(options) and isinstance(size, int)
    usual = epochs(n_rows, size, has_classes=has_classes) if is_known else 0
    # A schedule that falls to its end makes the last epoch the best one of any number.
    return max(usual, 2 * done) if options.schedule == "constant" or done < usual / 2 else None


RULES: Sequence[Callable[[Run], Iterator[str]]] = (
    _says_the_target,
    _copies,
    _one_row,
    _too_few_epochs,
    _class_not_found,
    _no_better_than_a_baseline,
    _first_epoch,
    _names_of_rows,
    _many_classes,
    _decades,
    _by_heart,
)

INSTEAD_OF: Mapping[Callable[[Run], Iterator[str]], Sequence[Callable[[Run], Iterator[str]]]] = {
    _one_row: (_too_few_epochs, _no_better_than_a_baseline, _first_epoch, _by_heart),
    _copies: (_by_heart,),
    _no_better_than_a_baseline: (_first_epoch,),
}
"""What is not said beside something else: where one row decides, the loss says nothing of the others."""


def _leave_out(run: Run, *names: str) -> str:
    return given("exclude", written([*run.data.options.read("exclude"), *names]))
