"""What one text means in each reading: the definition that the reading of whole columns follows.

A model reads texts so wherever they come from: cells of a CSV file, strings in a Parquet file, in a data
frame or in a list. Numbers, seconds and days since 1970 UTC are floats; true and false are 1 and 0.
"""

import collections
import contextlib
import dataclasses
import datetime as dt
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from mlp_xp.settings import checks

GAPS = (
    *("", "?", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NaN", "nan", "-NaN", "-nan"),
    *("NULL", "null", "None", "NaT", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
"""What stands for a missing value, beside what the user names."""


@dataclasses.dataclass(frozen=True)
class Gaps:
    """What stands for a missing value in texts.

    Attributes
    ----------
    null : tuple of str
        Beside the words of `GAPS`; one that is a number is a gap among numbers too.
    words : bool
        Whether those words are gaps where a column is text; they always are elsewhere, and nothing always is.
    """

    null: tuple[str, ...] = ()
    words: bool = True

    @functools.cached_property
    def in_text(self) -> frozenset[str]:
        """In a column of text."""
        return frozenset((*self.null, *(GAPS if self.words else ("",))))

    @functools.cached_property
    def elsewhere(self) -> frozenset[str]:
        """In a column of anything else."""
        return frozenset((*self.null, *GAPS))

    @functools.cached_property
    def numbers(self) -> tuple[float, ...]:
        """Among numbers."""
        return tuple(number(text) for text in self.null if is_number(text))


TRUTH = {"true": 1.0, "false": 0.0}

MARKS = {"point": ".", "comma": ","}
GROUPS = {"points": ".", "commas": ",", "blanks": "[ \u00a0\u202f]", "apostrophes": "['\u2019]"}
"""Decimal marks, and what stands between thousands (as regular expressions)."""

_PLAIN = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_CLOCK = r"(\d{1,2})(?::(\d\d)(?::(\d\d)(?:\.(\d+))?)?)?"
_DATE = re.compile(
    rf"(?:(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}})|(\d{{1,2}})[-/.](\d{{1,2}})[-/.](\d{{4}}))"
    rf"(?:[ T]{_CLOCK})?\s*(Z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d+))?)?", re.ASCII)
_DAYS = re.compile(r"(-?\d+) days?,?(?: ([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?)?", re.ASCII)
_HOURS = re.compile(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?", re.ASCII)
_ISO = re.compile(
    r"([+-]?)P(?=[\dT])(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d+))?S)?)?", re.ASCII
)
_DIGITS_AND_MARKS = re.compile(r"\s*[+-]?[\d.,'\s\u2019]*\d[.,]?\s*")
_NUMBER_OF_PEOPLE = re.compile(
    r"\s*[(+\-\u2212]?\s*[$\u20ac\u00a3\u00a5\u20b9]?\s*[+\-\u2212]?\d[\d.,'\u2019_\s]*([eEdD][+-]?\d+)?"
    r"\s*[%\u2030$\u20ac\u00a3\u00a5\u20b9]?\s*[)\-]?\s*"
)
_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zé]*"
_DATE_OF_PEOPLE = re.compile(
    rf"\d{{4}}-\d\d(-\d\d.*)?|\d{{4}}-W\d\d(-\d)?|\d{{8}}T\d{{4,6}}Z?|\d\d?([./-])\d\d?\3\d\d"
    rf"|\d\d?\.?[ -]{_MONTH}\.?[ -]\d{{2,4}}.*|{_MONTH}\.? \d\d?,? \d{{4}}.*"
    r"|\d\d?:\d\d(:\d\d(\.\d+)?)?( ?[ap]\.?m\.?)?",
    re.IGNORECASE,
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ t]\d\d:\d\d(:\d\d(\.\d+)?)?(z|[+-]\d\d:?\d\d)?", re.ASCII)
_EPOCH = dt.datetime(1970, 1, 1)
_DAY = 86_400e6


def number(text: str) -> float:
    """A number with a decimal point, and nothing between thousands.

    Raises ValueError: it is none.
    """
    if _PLAIN.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def grouped_pattern(group: str, mark: str) -> str:
    """The regular expression of numbers that may have something between their thousands, not anchored."""
    return rf"[+-]?(?:[1-9]\d{{0,2}}(?:{_escaped(group)}\d{{3}})+|\d+)(?:{re.escape(mark)}\d*)?"


def _escaped(group: str) -> str:
    return group if len(group) > 1 else re.escape(group)


def _grouped(group: str, mark: str) -> Callable[[str], float]:
    pattern = re.compile(grouped_pattern(group, mark), re.ASCII)
    between = re.compile(_escaped(group))

    def read(text: str) -> float:
        if pattern.fullmatch(text.strip()) is None:
            raise ValueError(f"{text!r} is no number")
        return number(between.sub("", text.strip()).replace(mark, "."))

    return read


def _with_comma(text: str) -> float:
    if "." in text:
        raise ValueError(f"{text!r} has a decimal point")
    return number(text.replace(",", "."))


def _truth(text: str) -> float:
    return TRUTH[text.strip().lower()]


def _microseconds(fraction: str | None) -> int:
    """Of the digits after a decimal point; what is finer is cut off."""
    return int((fraction or "")[:6].ljust(6, "0"))


def _moment(text: str, *, day_first: bool | None) -> float:
    """Days since 1970 UTC; with the day or month first only where that is said."""
    return (_datetime(text, day_first=day_first) - _EPOCH) // dt.timedelta(microseconds=1) / _DAY


def _datetime(text: str, *, day_first: bool | None) -> dt.datetime:
    """In UTC."""
    match = _DATE.fullmatch(text.strip())
    if match is None or (match[1] is None and day_first is None):
        raise ValueError(f"{text!r} is no date")
    if match[1] is not None:
        year, month, day = (int(match[number]) for number in (1, 2, 3))
    else:
        day, month = (int(match[number]) for number in ((4, 5) if day_first else (5, 4)))
        year = int(match[6])
    hour, minute, second = (int(match[number] or 0) for number in (7, 8, 9))
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, _microseconds(match[10]))
        return moment - _offset(match[11])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no date: {error}") from None


def _offset(zone: str | None) -> dt.timedelta:
    if zone in (None, "Z"):
        return dt.timedelta()
    digits = str(zone)[1:].replace(":", "").ljust(4, "0")
    offset = dt.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -offset if str(zone)[0] == "-" else offset


def _time_of_day(text: str) -> float:
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3] or 0) > 59:
        raise ValueError(f"{text!r} is no time of day")
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return (seconds * 1_000_000 + _microseconds(match[4])) / 1e6


def seconds_of(nanoseconds: int) -> float:
    """Seconds, the nearest float; the same for whole microseconds whatever they were counted in."""
    micro, rest = divmod(nanoseconds, 1000)
    return nanoseconds / 1e9 if rest else micro / 1e6


def _nanoseconds(sign: str | None, days: int, hours: str, minutes: str, seconds: str, rest: str) -> int:
    whole = (int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    within = whole * 10**9 + int((rest or "")[:9].ljust(9, "0"))
    return days * 86_400 * 10**9 + (-within if sign == "-" else within)


def _duration(text: str) -> float:
    given = text.strip()
    if match := _DAYS.fullmatch(given):
        days, sign, *clock = match.groups()
        return seconds_of(_nanoseconds(sign, int(days), *clock))
    if match := _HOURS.fullmatch(given):
        sign, *clock = match.groups()
        return seconds_of(_nanoseconds(sign, 0, *clock))
    if match := _ISO.fullmatch(given):
        sign, weeks, days, *clock = match.groups()
        whole = _nanoseconds(None, int(weeks or 0) * 7 + int(days or 0), *clock)
        return seconds_of(-whole if sign == "-" else whole)
    raise ValueError(f"{text!r} is no duration")


MEANINGS: Mapping[str, Callable[[str], float]] = {
    "number with a decimal point": number,
    "number with a decimal comma": _with_comma,
    **{
        f"number with {between} between thousands and a decimal {mark}": _grouped(
            GROUPS[between], MARKS[mark]
        )
        for between in GROUPS
        for mark in MARKS
        if not between.startswith(mark)
    },
    "boolean": _truth,
    "date, year first": lambda text: _moment(text, day_first=None),
    "date with a time zone": lambda text: _moment(text, day_first=None),
    "date, day first": lambda text: _moment(text, day_first=True),
    "date, month first": lambda text: _moment(text, day_first=False),
    "time of day, in seconds": _time_of_day,
    "duration, in seconds": _duration,
}
"""What a text means, by reading; ValueError or KeyError if it means nothing there."""

SECONDS = ("time of day, in seconds", "duration, in seconds")
"""Readings whose values may also be given as plain numbers of seconds."""

ANY = "number with a decimal point"
"""How a plain number is written where a column has no form of its own."""


def meaning(reading: str, text: str) -> float:
    """What a text means in a column that is known to be read as `reading`.

    Beside the texts of the reading itself: true and false among numbers, 0 and 1 among booleans, plain
    seconds among times and durations.

    Raises ValueError: it means nothing there.
    """
    try:
        return MEANINGS[reading](text)
    except (ValueError, KeyError):
        if reading == "boolean":
            value = number(text)
            checks.refuse([None if value in (0.0, 1.0) else f"{text!r} is neither true nor false"])
            return value
        if reading in SECONDS:
            return number(text)
        if reading.startswith("number") and text.strip().lower() in TRUTH:
            return TRUTH[text.strip().lower()]
        raise ValueError(f"{text!r} is no {reading}") from None


def key(text: str) -> str:
    """What texts share that are written differently and mean the same name: 1 and 1.0, True and true.

    Moments are those of UTC, times of day and durations are seconds. Leading zeros are kept: 01 is a name of
    its own.

    Examples
    --------
    >>> [key(text) for text in ("1.50", "1e-7", "01", "10:30", "PT5S", "2020-01-05 01:00:00+01:00")]
    ['1.5', '1e-07', '01', '37800', '5', '2020-01-05']
    """
    lower = text.strip().lower()
    if lower in TRUTH:
        return lower
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", lower, re.ASCII):
        return lower.rstrip("0").removesuffix(".")
    if is_name_of_number(lower):
        return name_of_number(float(lower)) if "e" in lower else lower
    if _MOMENT.fullmatch(lower):
        with contextlib.suppress(ValueError):
            moment = _datetime(lower.upper(), day_first=None)
            return str(moment.date() if moment.time() == dt.time() else moment)
    for seconds in (_time_of_day, _duration):
        with contextlib.suppress(ValueError):
            return name_of_number(seconds(text))
    return text


def is_name_of_number(text: str) -> bool:
    """Whether a text is a number as it is printed, without leading zeros."""
    return re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE) is not None


def are_names_of_numbers(levels: Iterable[str]) -> bool:
    """Whether numbers can be meant by texts: not by codes, whose leading zeros a number has lost."""
    found = list(levels)
    return any(map(is_name_of_number, found)) and not any(re.fullmatch(r"0\d+", text) for text in found)


def is_number(text: str) -> bool:
    """Whether a text is a number with a decimal point."""
    return _PLAIN.fullmatch(text.strip()) is not None


def resembles_number(text: str) -> bool:
    """Whether a text is a number, or may be meant as one: 1.234,50 or 1 000."""
    return is_number(text) or _DIGITS_AND_MARKS.fullmatch(text) is not None


def resembles_time(text: str) -> bool:
    """Whether a text is a date, a time of day or a duration."""
    for reading in ("date, day first", "date, month first", *SECONDS):
        try:
            MEANINGS[reading](text)
        except ValueError:
            continue
        return True
    return False


def looks_like(text: str) -> str | None:
    """What a person means by a text that no reading takes: "numbers", "dates", or nothing of the kind.

    Examples
    --------
    >>> [looks_like(text) for text in ("$1,234.50", "12 %", "3 Jan 2024", "2:30 PM", "2024-W05", "18-25")]
    ['numbers', 'numbers', 'dates', 'dates', 'dates', None]
    """
    if _DATE_OF_PEOPLE.fullmatch(text.strip()):
        return "dates"
    return "numbers" if _NUMBER_OF_PEOPLE.fullmatch(text) else None


class Names:
    """Texts that are known, found by what they mean: 1.0 is 1 where 1 is known and 1.0 is not.

    Attributes
    ----------
    exact : dict of str to int
        Their positions.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.exact = {text: at for at, text in enumerate(known)}
        keys = [key(text) for text in known]
        shared = {each for each, n in collections.Counter(keys).items() if n > 1}
        self._by_key = {each: at for at, each in enumerate(keys) if each not in shared}

    def find(self, text: str) -> int:
        """The position of a text, or the number of those that are known."""
        found = self.exact.get(text)
        return self._by_key.get(key(text), len(self.exact)) if found is None else found


def name_of_number(value: float) -> str:
    """The shortest text that means a number; whole ones in all their digits.

    Examples
    --------
    >>> name_of_number(0.1), name_of_number(3.0), name_of_number(-2.0**60)
    ('0.1', '3', '-1152921504606846976')
    """
    return str(int(value)) if value.is_integer() else repr(value)


def date_of(days: float) -> str:
    """The date, and the time of day where there is one, that is so many days after 1970 began."""
    moment = _EPOCH + dt.timedelta(microseconds=round(days * _DAY))
    return str(moment.date() if moment.time() == dt.time() else moment)
