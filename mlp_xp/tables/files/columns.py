"""Columns of a table: what each holds, and which of them are features, targets and sample weights."""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from mlp_xp.settings import checks
from mlp_xp.settings.checks import did_you_mean, listed, nearest
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
    described: Iterable[str] = (),
) -> Selection:
    """Which of the `known` columns of `where` (a path, for messages) are used, and for what.

    Features are `columns` in that order, or else all columns in the order of the file; without the
    targets, the weight and those in `exclude`. Of those `described` something is said, whatever their role.

    Raises ValueError: a column that does not exist or has two roles, a name that the file has twice, no
    feature left; all that is wrong in one message.
    """
    lists = [as_names(given) for given in (target, columns, exclude, weight_column)]
    found = meant(itertools.chain(*lists, described), known)
    targets, wanted, excluded, weight = (tuple(found[name] for name in names) for names in lists)
    others = {*excluded, *(() if columns is not None else (*targets, *weight))}
    features = tuple(name for name in (known if columns is None else wanted) if name not in others)
    named = dict.fromkeys((*targets, *weight, *wanted, *excluded, *(found[name] for name in described)))
    checks.refuse(_problems(known, where, named, (*features, *targets, *weight)))
    if not features:
        raise ValueError(
            f"no column of {where} is left as a feature; its columns are: {checks.listed(known)}."
        )
    return Selection(features, targets, weight[0] if weight else None)


def _problems(known: Sequence[str], where: str, named: Iterable[str], used: Sequence[str]) -> Iterator[str]:
    """What is wrong with names, and with columns that are used."""
    counts, roles = collections.Counter(known), collections.Counter(used)
    yield from no_column(f"{where} has", [name for name in named if name not in counts], known)
    for name in roles:
        if counts[name] > 1:
            yield (
                f"{where} has more than one column named {name!r}; rename one, or leave it out with "
                f"{spelled('exclude')}."
            )
        elif roles[name] > 1:
            yield (
                f"column {name!r} is named twice among target, columns and weight_column; it can have one "
                "role."
            )


def no_column(where_is: str, names: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """What is said of columns that there are not, in one sentence however many."""
    if len(names) == 1:
        yield f"{where_is} no column {names[0]!r}; {did_you_mean(names[0], known)}."
    elif names:
        near = {name: nearest(name, known) for name in names[: checks.MOST_LISTED]}
        said = [
            f"{name!r} (did you mean {other!r}?)" if (other := near.get(name)) else repr(name)
            for name in names
        ]
        yield f"{where_is} no columns {listed(said)}; known: {listed(known)}."


def meant(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each name the known one that is meant: itself, or the only one that differs by blanks around it."""
    there = set(known)
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in known:
        alike[name.strip()].append(name)
    found = {}
    for name in names:
        others = alike[name.strip()] if name not in there else []
        found[name] = others[0] if len(others) == 1 else name
    return found
