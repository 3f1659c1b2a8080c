"""Columns of a table: what each holds, and which of them are features, targets and sample weights."""

import collections
import dataclasses
from collections.abc import Sequence

from mlp_xp.settings import checks
from mlp_xp.settings.checks import did_you_mean
from mlp_xp.settings.spelling import spelled

PLURAL = {"number": "numbers", "bool": "true and false", "date": "dates", "text": "texts"}
"""What a column of each kind holds, for people."""

KINDS = tuple(PLURAL)


@dataclasses.dataclass(frozen=True)
class RawColumn:
    """One column of a table.

    Parameters
    ----------
    name : str
        As the file has it.
    kind : {"number", "bool", "date", "text"}
        Numbers and booleans are stored as floats (0 and 1; a gap is NaN), dates as microseconds
        since 1970 UTC (a gap is the smallest int64), text as positions in `levels` (a gap is -1).
    levels : tuple of str
        The different texts of the whole file, sorted; empty for other kinds.
    reading : str
        How its texts are read, of `text_values.READINGS`; "text", "text of numbers" where a file has numbers
        and text is asked for, or nothing where nobody looked.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    reading: str = ""


@dataclasses.dataclass(frozen=True)
class Selection:
    """Names of the columns that are used, by role, each in the order that a batch has them."""

    features: tuple[str, ...]
    targets: tuple[str, ...]
    weight: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them: features, targets, weight."""
        return (*self.features, *self.targets, *([self.weight] if self.weight is not None else []))


def as_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name or several as a tuple."""
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def select(
    known: Sequence[str],
    where: str,
    *,
    target: str | Sequence[str] | None = None,
    columns: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    weight_column: str | None = None,
) -> Selection:
    """Which of the `known` columns of `where` (a path, for messages) are used, and for what.

    Features are `columns` in that order, or else all columns in the order of the file; without the
    targets, the weight and those in `exclude`.

    Raises
    ------
    ValueError
        A column that does not exist or has two roles, a name that the file has twice, no feature
        left; all that is wrong in one message.
    """
    counts = collections.Counter(known)
    targets, wanted, excluded, weight = (
        tuple(name if name in counts else meant(name, known) for name in as_names(given))
        for given in (target, columns, exclude, weight_column)
    )
    others = {*excluded, *(() if columns is not None else (*targets, *weight))}
    features = tuple(name for name in (known if columns is None else wanted) if name not in others)
    problems: list[str | None] = [
        f"{where} has no column {name!r}; {did_you_mean(name, known)}."
        for name in dict.fromkeys((*targets, *weight, *wanted, *excluded))
        if name not in counts
    ]
    used = (*features, *targets, *weight)
    roles = collections.Counter(used)
    problems += [
        f"{where} has more than one column named {name!r}; rename one, or leave it out with "
        f"{spelled('exclude')}."
        for name in dict.fromkeys(used)
        if counts[name] > 1
    ]
    problems += [
        f"column {name!r} is named twice among target, columns and weight_column; it can have one role."
        for name in dict.fromkeys(used)
        if roles[name] > 1 and counts[name] <= 1
    ]
    if not features:
        problems.append(f"no column of {where} is left as a feature; its columns are: {', '.join(known)}.")
    checks.refuse(problems)
    return Selection(features, targets, weight[0] if weight else None)


def meant(name: str, known: Sequence[str]) -> str:
    """The known name that is meant: itself, or the only one that differs by blanks around it."""
    if name in known:
        return name
    alike = [other for other in known if other.strip() == name.strip()]
    return alike[0] if len(alike) == 1 else name
