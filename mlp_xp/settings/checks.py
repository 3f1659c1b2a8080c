"""Checks of what users give: each returns a message or None, and `refuse` raises them all at once."""

import difflib
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Sequence

from mlp_xp.settings.other_names import OTHER_NAMES
from mlp_xp.settings.spelling import spelled


def refuse(problems: Iterable[str | None]) -> None:
    """Raise one ValueError that lists every problem; do nothing if there is none."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError("\n".join(found))


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """The sentence that follows `unknown ...`: the nearest name, then all of them."""
    near = nearest(given, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{hint}Known: {', '.join(map(str, known))}"


def nearest(given: str, known: Sequence[str]) -> str | None:
    """The known name that is meant by a usual one, or by one that is written nearly so; else None."""
    plain = {str(name).lower().replace("-", "_"): str(name) for name in known}
    asked = given.lower().replace("-", "_")
    for usual in (asked, OTHER_NAMES.get(asked)):
        if usual in plain:
            return plain[usual]
    near = difflib.get_close_matches(asked, plain, n=1)
    return plain[near[0]] if near else None


def _as_number(value: object) -> float:
    """The value as a float; nan where it is no finite number."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return math.nan


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> str | None:
    """A finite number within bounds (`above` and `below` are exclusive)."""
    found = _as_number(value)
    bounds: list[tuple[str, float | None, Callable[[float, float], bool]]] = [
        (">", above, operator.gt),
        (">=", least, operator.ge),
        ("<", below, operator.lt),
        ("<=", most, operator.le),
    ]
    if not math.isnan(found) and all(bound is None or holds(found, bound) for _, bound, holds in bounds):
        return None
    needed = " and ".join(f"{sign} {bound:g}" for sign, bound, _ in bounds if bound is not None)
    return f"{spelled(name)}={value!r} must be a finite number{' ' + needed if needed else ''}."


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
