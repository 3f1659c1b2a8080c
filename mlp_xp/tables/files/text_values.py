"""What a column of text can be read as: numbers, booleans, dates, times of day, durations.

Each reading turns Arrow strings into typed values, or raises ArrowInvalid if one of them is
something else; what one text means is defined in `one_value`. A CSV column is what all of its values
can be read as, the first that fits in the order of `READINGS`; if nothing fits, it is text.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mlp_xp.tables.files.arrow_values import strings_from
from mlp_xp.tables.files.one_value import GAPS, GROUPS, MARKS, MEANINGS, grouped_pattern, meaning

Strings = Any
"""A pyarrow array of strings."""

# Values that are tried before all: pyarrow formats a message for each that does not fit, and takes
# 0.3 s to say so of 75,000.
_FEW = 64

_DAY_OR_MONTH_FIRST = r"^(\d\d?)[-/.](\d\d?)[-/.](\d{4})"


@dataclasses.dataclass(frozen=True)
class Reading:
    """A kind of column, and how its texts become Arrow values of that kind.

    Parameters
    ----------
    kind : str
        The kind of column (see `RawColumn`).
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


def _grouped_numbers(group: str, mark: str) -> Callable[[Strings], Any]:
    pattern = f"^{grouped_pattern(group, mark)}$"
    between = group if len(group) > 1 else f"[{group}]"

    def read(strings: Strings) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not pc.all(pc.match_substring_regex(strings, pattern), min_count=0).as_py():
            raise pa.ArrowInvalid("a number with other marks")
        return _numbers(pc.replace_substring(pc.replace_substring_regex(strings, between, ""), mark, "."))

    return read


def _dates(strings: Strings) -> Any:
    return _moments(strings, None)


def _dates_with_zone(strings: Strings) -> Any:
    return _moments(strings, "UTC")


def _moments(strings: Strings, zone: str | None) -> Any:
    import pyarrow as pa

    kind = pa.timestamp("us", zone)
    try:
        return strings.cast(kind)
    except pa.ArrowInvalid:
        return _as_iso(strings).cast(kind)


def _as_iso(strings: Strings) -> Strings:
    """2020/1/5 as 2020-01-05, and microseconds where there is something finer."""
    import pyarrow.compute as pc

    for pattern, iso in (
        (r"^(\d{4})[-/.](\d)([-/.])", r"\1-0\2\3"),
        (r"^(\d{4})[-/.](\d\d)[-/.](\d)(\D|$)", r"\1-\2-0\3\4"),
        (r"^(\d{4})[-/.](\d\d)[-/.](\d\d)", r"\1-\2-\3"),
        (r"(\.\d{6})\d+", r"\1"),
        (r"([ T])(\d:)", r"\10\2"),
    ):
        strings = pc.replace_substring_regex(strings, pattern, iso)
    return strings


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

    if not pc.all(pc.match_substring(strings, ":"), min_count=0).as_py():  # Arrow takes 10 for 10:00
        raise pa.ArrowInvalid("no time of day")
    moments = _dates(pc.binary_join_element_wise("1970-01-01", strings, " "))
    return pc.divide(moments.cast(pa.int64()).cast(pa.float64()), 1e6)


def _text_by_text(mean: Callable[[str], float], strings: Strings) -> Any:
    """What each of the different texts means, as floats."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.dictionary_encode(strings)
    try:
        values = np.array([mean(text) for text in distinct.dictionary.to_pylist()], float)
    except (ValueError, KeyError) as error:
        raise pa.ArrowInvalid(str(error)) from None
    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.float64(), len(values), buffers).take(distinct.indices)


READINGS: Mapping[str, Reading] = {
    "number with a decimal point": Reading("number", _numbers),
    "number with a decimal comma": Reading("number", _numbers_with_comma),
    **{
        name: Reading("number", _grouped_numbers(GROUPS[between], MARKS[mark]))
        for between in GROUPS
        for mark in MARKS
        if (name := f"number with {between} between thousands and a decimal {mark}") in MEANINGS
    },
    "boolean": Reading("bool", functools.partial(_text_by_text, MEANINGS["boolean"])),
    "date, year first": Reading("date", _dates),
    "date with a time zone": Reading("date", _dates_with_zone),
    "date, day first": Reading("date", _dates_with_day_first, ("date, month first",)),
    "date, month first": Reading("date", _dates_with_month_first),
    "time of day, in seconds": Reading("number", _times_of_day),
    "duration, in seconds": Reading(
        "number", functools.partial(_text_by_text, MEANINGS["duration, in seconds"])
    ),
}

GROUPED = tuple(name for name in READINGS if "thousands" in name)
"""Readings of numbers with something between their thousands: tried where no other fits."""


def kind_of_reading(known: str) -> str:
    """The kind of a column, from that or from the reading that it is known to have."""
    return READINGS[known].kind if known in READINGS else known


def read(name: str, strings: Strings) -> Any:
    """The values that `strings` stand for in the reading called `name`.

    Raises pyarrow.ArrowInvalid: at least one of them is something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    reading = READINGS[name].read
    first = first_text(strings)
    if first and not has_meaning(name, first):  # tells most columns apart, in a hundredth of the time
        raise pa.ArrowInvalid(f"{first!r} is no {name}")
    try:
        return _few_first(reading, strings)
    except pa.ArrowInvalid:
        # Only now, as it costs as much as the reading: blanks around values, and around words for a gap.
        return _few_first(reading, without_gaps(pc.utf8_trim_whitespace(strings), GAPS))


def _few_first(reading: Callable[[Strings], Any], strings: Strings) -> Any:
    if len(strings) > _FEW:
        reading(strings.slice(0, _FEW))
    return reading(strings)


def first_text(strings: Strings) -> str:
    """The first text that is no gap, without blanks around it; nothing if there is none."""
    import pyarrow.compute as pc

    text: str | None = strings[0].as_py() if len(strings) else ""
    if text is None or text.strip() in GAPS:
        trimmed = without_gaps(pc.utf8_trim_whitespace(strings), GAPS).drop_null()
        return str(trimmed[0].as_py()) if len(trimmed) else ""
    return text.strip()


def has_meaning(reading: str, text: str) -> bool:
    """Whether a text means something in a reading."""
    try:
        MEANINGS[reading](text)
    except (ValueError, KeyError, OverflowError):
        return False
    return True


def read_as_known(name: str, strings: Strings) -> Any:
    """`read`, or else what each text means by itself in a column that is known to be read so.

    Raises pyarrow.ArrowInvalid: at least one of them means nothing there.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return read(name, strings)
    except pa.ArrowInvalid:
        texts = without_gaps(pc.utf8_trim_whitespace(strings), GAPS)
        floats = _text_by_text(functools.partial(meaning, name), texts)
        if READINGS[name].kind != "date":
            return floats
        micros = pc.round(pc.multiply(floats, 86_400e6)).cast(pa.int64())
        return micros.cast(pa.timestamp("us"))


def without_gaps(strings: Strings, words: Iterable[str]) -> Strings:
    """Strings in which the words for a gap are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(strings, _value_set(frozenset(words), strings.type), skip_nulls=True)
    gap = pa.nulls(1, strings.type)[0]
    return pc.if_else(found, gap, strings) if pc.any(found).as_py() else strings


@functools.lru_cache(maxsize=16)
def _value_set(words: frozenset[str], kind: Any) -> Strings:
    """Words as Arrow looks for them: of 8,000 columns each would take as long again to make them."""
    return strings_from(sorted(words), kind)


def first_that_does_not_read(
    name: str, strings: Strings, reader: Callable[[str, Strings], Any] = read
) -> int:
    """The position of the first string that stops the reading `name` (bisection: log₂ n readings)."""
    import pyarrow as pa

    low, high = 0, len(strings)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            reader(name, strings.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
