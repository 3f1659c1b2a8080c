"""Checks of what users give: each returns a message or None, and `refuse` raises them all at once."""

import difflib
import itertools
import math
import numbers
from collections.abc import Iterable, Sequence

from mlp_xp.settings.other_names import OTHER_NAMES
from mlp_xp.settings.spelling import spelled

MOST_LISTED, SHOWN = 100, 20
"""Names that a message lists; of more than that it shows the first."""


def refuse(problems: Iterable[str | None]) -> None:
    """Raise one ValueError that lists the problems, the first of many; do nothing if there is none."""
    found = list(itertools.islice(filter(None, problems), SHOWN + 1))
    if found:
        more = ["... and more of the kind."] if len(found) > SHOWN else []
        raise ValueError("\n".join([*found[:SHOWN], *more]))


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """The sentence that follows `unknown ...`: the nearest name, then all of them, or of many the nearest."""
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    if near and len(known) > 2 * SHOWN:
        others = [each for each in difflib.get_close_matches(given, known) if each != near]
        return f"{hint}There are {len(known):,}{', such as ' * bool(others)}{', '.join(others)}"
    return f"{hint}{'Known' if near else 'known'}: {listed(known)}"


def listed(names: Sequence[object], most: int = MOST_LISTED) -> str:
    """Names; of more than `most` the first, and how many there are."""
    if len(names) <= most:
        return ", ".join(map(str, names))
    return f"{', '.join(map(str, names[:SHOWN]))} ... ({len(names):,} in all)"


def counted(n: int, noun: str) -> str:
    """So many of a thing.

    Examples
    --------
    >>> counted(1, "row"), counted(1024, "row")
    ('1 row', '1,024 rows')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def nearest(given: str, known: Sequence[str]) -> str | None:
    """The known name that is meant by a usual one, or by one that is written nearly so; else None."""
    plain = {str(name).lower().replace("-", "_"): str(name) for name in known}
    usual_form = given.lower().replace("-", "_")
    for usual in (usual_form, OTHER_NAMES.get(usual_form)):
        if usual in plain:
            return plain[usual]
    near = difflib.get_close_matches(usual_form, plain, n=1)
    return plain[near[0]] if near else None


def _as_number(value: object) -> float:
    """The value as a float; nan where it is no finite number, or a larger one than there are."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError:
            return math.nan
    return math.nan


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> str | None:
    """A finite number within bounds (`above` and `below` are exclusive)."""
    found = value if type(value) is float else _as_number(value)
    if above < found < below and least <= found <= most:
        return None
    needed = " and ".join(signed(above, least, below, most))
    return f"{spelled(name)}={value!r} must be a finite number{' ' + needed if needed else ''}."


def signed(above: float, least: float, below: float, most: float) -> list[str]:
    """The bounds that there are, each after its sign."""
    bounds = {">": above, ">=": least, "<": below, "<=": most}
    return [f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound)]


def whole(name: str, value: object, *, least: int = 1) -> str | None:
    """A whole number of at least `least`."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least:
        return None
    return f"{spelled(name)}={value!r} must be a whole number >= {least}."


def one_of(name: str, value: object, known: Sequence[str]) -> str | None:
    """One of a few words."""
    if isinstance(value, str) and value in known:
        return None
    return f"unknown {spelled(name)} {value!r}; {did_you_mean(str(value), known)}."
