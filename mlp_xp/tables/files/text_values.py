"""What a column of text can be read as: numbers, booleans, dates, times of day.

Each reading turns Arrow strings into typed values, or raises ArrowInvalid if one of them is
something else. A CSV column is what all of its values can be read as, the first that fits in the
order of `READINGS`; if nothing fits, it is text.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

Strings = Any
"""A pyarrow array of strings."""

GAPS = (
    *("", "?", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NaN", "nan", "-NaN", "-nan"),
    *("NULL", "null", "None", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""What stands for a missing value, beside what the user names."""

# Values that are tried before all: pyarrow formats a message for each that does not fit, and takes
# 0.3 s to say so of 75,000.
_FEW = 64

_DAY_OR_MONTH_FIRST = r"^(\d\d)[/.](\d\d)[/.](\d{4})"


@dataclasses.dataclass(frozen=True)
class Reading:
    """A kind of column, and how its texts become Arrow values of that kind.

    Parameters
    ----------
    kind : str
        The kind of column (see `Column`).
    read : callable
        Strings without surrounding blanks to typed values; raises ArrowInvalid.
    excludes : tuple of str
        Readings that give the same texts another meaning: where both fit, the user must choose.
    """

    kind: str
    read: Callable[[Strings], Any]
    excludes: tuple[str, ...] = ()


def _numbers(strings: Strings) -> Any:
    import pyarrow as pa

    return strings.cast(pa.float64())


def _numbers_with_comma(strings: Strings) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.any(pc.match_substring(strings, ".")).as_py():
        raise pa.ArrowInvalid("a decimal point among decimal commas")
    return _numbers(pc.replace_substring(strings, ",", "."))


def _booleans(strings: Strings) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow would take 0 and 1 too, but those are numbers.
    lower = pc.utf8_lower(strings)
    known = pc.is_in(lower.drop_null(), pa.array(["true", "false"], strings.type))
    if not pc.all(known, min_count=0).as_py():
        raise pa.ArrowInvalid("neither true nor false")
    return pc.equal(lower, "true")


def _dates(strings: Strings) -> Any:
    import pyarrow as pa

    return strings.cast(pa.timestamp("us"))


def _dates_with_zone(strings: Strings) -> Any:
    import pyarrow as pa

    return strings.cast(pa.timestamp("us", "UTC"))


def _dates_in_another_order(strings: Strings, iso: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    matches = pc.match_substring_regex(strings.drop_null(), _DAY_OR_MONTH_FIRST)
    if not pc.all(matches, min_count=0).as_py():
        raise pa.ArrowInvalid("neither day.month.year nor month/day/year")
    return _dates(pc.replace_substring_regex(strings, _DAY_OR_MONTH_FIRST, iso))


def _dates_with_day_first(strings: Strings) -> Any:
    return _dates_in_another_order(strings, r"\3-\2-\1")


def _dates_with_month_first(strings: Strings) -> Any:
    return _dates_in_another_order(strings, r"\3-\1-\2")


def _times_of_day(strings: Strings) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    moments = _dates(pc.binary_join_element_wise("1970-01-01", strings, " "))
    return pc.divide(moments.cast(pa.int64()).cast(pa.float64()), 1e6)


READINGS: Mapping[str, Reading] = {
    "number": Reading("number", _numbers),
    "number with a decimal comma": Reading("number", _numbers_with_comma),
    "boolean": Reading("bool", _booleans),
    "date": Reading("date", _dates),
    "date with a time zone": Reading("date", _dates_with_zone),
    "date, day first": Reading("date", _dates_with_day_first, ("date, month first",)),
    "date, month first": Reading("date", _dates_with_month_first),
    "time of day, in seconds": Reading("number", _times_of_day),
}


def read(name: str, strings: Strings) -> Any:
    """The values that `strings` stand for in the reading called `name`.

    Raises
    ------
    pyarrow.ArrowInvalid
        At least one of them is something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    reading = READINGS[name].read
    few = strings.slice(0, _FEW)
    try:
        reading(few)
        return reading(strings)
    except pa.ArrowInvalid:
        # Only now, as it costs as much as the reading: blanks around values.
        reading(pc.utf8_trim_whitespace(few))
        return reading(pc.utf8_trim_whitespace(strings))


def first_that_does_not_read(name: str, strings: Strings) -> int:
    """The position of the first string that stops the reading `name` (bisection: log₂ n readings)."""
    import pyarrow as pa

    low, high = 0, len(strings)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            read(name, strings.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


_DIGITS_AND_MARKS = re.compile(r"\s*[+-]?[\d.,'\s]*\d[.,]?\s*")


def resembles_number(text: str) -> bool:
    """Whether a text is a number, or may be meant as one: 1.234,50 or 1 000."""
    return is_number(text) or _DIGITS_AND_MARKS.fullmatch(text) is not None


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
