"""Checks of what users give: each returns a message or None, and `refuse` raises them all at once."""

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence


def refuse(problems: Iterable[str | None]) -> None:
    """Raise one ValueError that lists every problem; do nothing if there is none."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValueError("\n".join(found))


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """The sentence that follows `unknown ...`: the nearest name, then all of them."""
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(map(str, known))}"


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


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
    bounds = [
        (above, "> {:g}", lambda v, b: v > b),
        (least, ">= {:g}", lambda v, b: v >= b),
        (below, "< {:g}", lambda v, b: v < b),
        (most, "<= {:g}", lambda v, b: v <= b),
    ]
    stated = [(bound, text.format(bound), holds) for bound, text, holds in bounds if bound is not None]
    if _is_number(value) and all(holds(value, bound) for bound, _, holds in stated):
        return None
    needed = " and ".join(text for _, text, _ in stated)
    return f"{name}={value!r} must be a finite number{' ' + needed if needed else ''}."


def whole(name: str, value: object, *, least: int = 1) -> str | None:
    """A whole number of at least `least`."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least:
        return None
    return f"{name}={value!r} must be a whole number >= {least}."


def one_of(name: str, value: object, known: Sequence[str]) -> str | None:
    """One of a few words."""
    if isinstance(value, str) and value in known:
        return None
    return f"unknown {name} {value!r}; {did_you_mean(str(value), known)}."
