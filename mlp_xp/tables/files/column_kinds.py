"""What each column of a table is, settled over the whole of it before anything is converted.

A CSV column may be integers for 200,000 rows and decimals after that, or empty before its first
number; both are numbers. So one pass reads everything and keeps, for each column, what all of its
values so far can be read as, and the different texts of those that can be nothing else. What a model
knows a column to be is not looked for: its values are read so, or refused.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlp_xp.rows.files import Arrow
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.arrow_values import texts_of_halves
from mlp_xp.tables.files.blocks import TableBlock, TableFile
from mlp_xp.tables.files.columns import PLURAL, RawColumn
from mlp_xp.tables.files.one_value import SECONDS, name_of_number, seconds_of
from mlp_xp.tables.files.text_values import (
    GROUPED,
    READINGS,
    first_text,
    first_that_does_not_read,
    read,
    without_gaps,
)

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""

# Different texts of one column that are kept: above that, it names rows rather than groups them.
MOST_LEVELS = 1_000_000

LABEL = "label"
"""What a column is known to be whose values name classes: texts, and it is said whether they are numbers."""

POINT, COMMA = "number with a decimal point", "number with a decimal comma"
POINTS, COMMAS = (
    "number with points between thousands and a decimal comma",
    "number with commas between thousands and a decimal point",
)


@dataclasses.dataclass(frozen=True)
class ColumnKinds:
    """What was found: rows, columns by name, and which had readings that were known before.

    `first_text` has, for text columns of a CSV file, the place of the first value that is no number; `notes`
    what may surprise, for people.
    """

    n_rows: int
    columns: dict[str, RawColumn]
    known: frozenset[str]
    first_text: dict[str, str]
    notes: list[str]


def settle(
    table: TableFile,
    names: Sequence[str],
    progress: Progress | None = None,
    known: Mapping[str, str] | None = None,
) -> ColumnKinds:
    """Settle the kinds of the columns `names`, the levels of text, and the number of rows.

    What is `known` to have a reading, or to be text, is so; text that is known to be of a kind is read as
    that if it can be.

    Raises ValueError: a column is of a type that cannot be what it is known to be, or can be read in two
    ways.
    """
    known = {name: kind for name in names if (kind := (known or {}).get(name)) is not None}
    fixed = frozenset(name for name, kind in known.items() if kind in READINGS)
    own = {name: table.reading(name, as_text=known.get(name) in ("text", LABEL)) for name in names}
    checks.refuse(_mismatch(table, name, known[name], own[name]) for name in sorted(fixed))
    columns = {name: _opened(table, known.get(name), own[name]) for name in names}
    looked_at = {
        name: each for name, each in columns.items() if each.levels is not None or len(each.fits) > 1
    }
    n_rows = table.n_rows
    if looked_at or n_rows is None:
        n_rows = _look_at(table, looked_at, progress, to_count=names[:1])
    notes = _settle_marks(table, looked_at)
    for name, column in looked_at.items():
        if column.is_code and name not in known:
            notes.append(
                f"column {name!r} is read as text: its values are codes, digits of one length some of which "
                "begin with 0"
            )
            column.become_text()
        elif column.is_words or (column.is_code and column.levels is not None):
            column.become_text()
    _look_again(table, {name: column for name, column in looked_at.items() if column.is_late})
    found = {name: _settled(table, name, column) for name, column in columns.items()}
    first_text = {name: column.first_text for name, column in columns.items() if column.first_text}
    return ColumnKinds(n_rows, found, fixed, first_text, notes)


def _mismatch(table: TableFile, name: str, known: str, own: str | None) -> str | None:
    """Why a column of this type cannot be read as it is known to be."""
    if own in (None, "text", "gap"):
        return None
    kind, own_kind = READINGS[known].kind, READINGS[own].kind
    numbers = ("number", "bool")
    fits = own_kind == kind or (own_kind in numbers and kind in numbers)
    if fits and (own not in SECONDS or own == known):
        return None
    found = own.replace(", in seconds", "s").replace("time of days", "times of day")
    shown = found if own in SECONDS else PLURAL[own_kind]
    needed = known if known in SECONDS else PLURAL[kind]
    return f"{table.files[0].path}, column {name!r} holds {shown}, where {needed} are needed."


def _opened(table: TableFile, known: str | None, own: str | None) -> "OpenColumn":
    """A column before it is looked at: one reading is left where it is known, or follows from its type."""
    if (known or own) == "text" or (known == LABEL and own is not None):
        return OpenColumn([], set(), are_numbers=own in READINGS)
    if known is not None and known in READINGS:
        return OpenColumn([known])
    if own is not None and own != "text":
        return OpenColumn([POINT if own == "gap" else own])
    # What gives a kind that it is known to be before all else.
    readings = [name for name in table.readings or READINGS if name not in GROUPED]
    readings.sort(key=lambda name: READINGS[name].kind != known)
    return OpenColumn(readings, set() if known == LABEL else None)


class OpenColumn:
    """A column that is a text, or that can still be several things.

    Attributes
    ----------
    fits : list of str
        Readings that all values so far fit.
    levels : set of str or None
        The different texts so far, where it is one or its texts are wanted.
    are_numbers : bool
        Whether these are of something else for which the file has a type.
    is_late : bool
        Whether values before were not looked at as what it is now: texts, or numbers with something between
        their thousands.
    first_text : str
        The place of the first value that no reading fits.
    has, as_groups : dict of str to bool
        For each decimal mark, whether there is one, and whether all values may have it between thousands.
    """

    def __init__(self, fits: list[str], levels: set[str] | None = None, *, are_numbers: bool = False) -> None:
        self.fits, self.levels, self.are_numbers, self.is_late = fits, levels, are_numbers, False
        self.has = {".": False, ",": False}
        self.as_groups = {".": True, ",": True}
        self._width: int | None = None
        self._one_width = True
        self._leading_zero = False
        self._n_seen = 0
        self._has_value, self._has_word = False, False
        self._ended = self.first_text = ""

    @property
    def is_code(self) -> bool:
        """Whether all values are digits, of one length, and some begin with 0."""
        return self._one_width and self._leading_zero

    @property
    def is_words(self) -> bool:
        """Whether there is nothing but words such as NA, which are texts where one says so."""
        return self._has_word and not self._has_value

    def become_text(self, *, is_late: bool = True) -> None:
        """Keep its texts from now on, as no reading is left."""
        self.fits = []
        if self.levels is None:
            self.levels, self.is_late = set(), is_late

    def look(self, table: TableFile, block: TableBlock, number: int) -> None:
        """Take note of a block's values."""
        if self.fits:
            self._narrow(table, block, number)
            if not self.fits:
                self.become_text(is_late=self._n_seen > block.batch.num_rows)
        if self.levels is not None:
            self._add_levels(self.levels, table, block, number)

    def _narrow(self, table: TableFile, block: TableBlock, number: int) -> None:
        """Leave in `fits` the readings that the block's values fit too."""
        column = block.batch.column(number)
        strings = strings_of(table, column, text=False)
        if not (table.gaps.words or self._has_value):
            self._has_value = strings.null_count < len(strings)
            self._has_word = self._has_word or column.null_count < len(column)
        before = list(self.fits)
        self._drop_misfits(strings)
        if not self.fits and not set(before) & set(GROUPED):
            # Of what all values before could be, the likeliest: where did that end?
            at = max(first_that_does_not_read(reading, strings) for reading in before)
            self._ended = block.place(at, number)
            self.fits = [name for name in GROUPED if name in (table.readings or READINGS)]
            self._drop_misfits(strings)
            self.is_late = self.levels is None and bool(self.fits) and self._n_seen > 0
        if not self.fits:
            self.first_text = self._ended
        elif POINT in self.fits or COMMA in self.fits:
            if table.marks_are_open:
                self._look_at_marks(strings)
            if self._one_width:
                self._look_at_width(strings)
        self._n_seen += len(strings)

    def _drop_misfits(self, strings: Arrow) -> None:
        import pyarrow as pa

        for reading in list(self.fits):
            try:
                read(reading, strings)
            except pa.ArrowInvalid:
                self.fits.remove(reading)

    def _look_at_marks(self, strings: Arrow) -> None:
        import pyarrow.compute as pc

        for mark in self.has:
            if pc.any(pc.match_substring(strings, mark)).as_py():
                self.has[mark] = True
        for mark, possible in self.as_groups.items():
            if possible:
                pattern = rf"^\s*[+-]?([1-9]\d{{0,2}}([{mark}]\d{{3}})*|\d{{1,3}})\s*$"
                fit = pc.all(pc.match_substring_regex(strings, pattern), min_count=0).as_py()
                self.as_groups[mark] = fit

    def _look_at_width(self, strings: Arrow) -> None:
        import pyarrow.compute as pc

        first = first_text(strings)
        if first and not first.isdecimal():
            self._one_width = False
            return
        lengths = pc.min_max(pc.utf8_length(strings)).as_py()
        if lengths["min"] is None:
            return
        same = lengths["min"] == lengths["max"] == (self._width or lengths["min"]) > 1
        self._one_width = same and pc.all(pc.ascii_is_decimal(strings)).as_py()
        self._width = lengths["min"]
        if self._one_width and not self._leading_zero:
            self._leading_zero = pc.any(pc.starts_with(strings, "0")).as_py()

    def _add_levels(self, levels: set[str], table: TableFile, block: TableBlock, number: int) -> None:
        import pyarrow.compute as pc

        strings = strings_of(table, block.batch.column(number), text=True)
        levels.update(pc.unique(strings).drop_null().to_pylist())
        if len(levels) > MOST_LEVELS:
            name = block.batch.schema.names[number]
            raise ValueError(
                f"{block.file.path}, column {name!r} holds more than {MOST_LEVELS:,} different texts: it "
                f"names rows rather than groups them. Leave it out with {spelled('exclude')}."
            )

    def looks_grouped(self, mark: str) -> bool:
        """Whether its marks may all stand between thousands: 1.234 and 987."""
        return self.has[mark] and self.as_groups[mark]


def _settle_marks(table: TableFile, columns: Mapping[str, OpenColumn]) -> list[str]:
    """Decide by the other columns where 1.234 may be 1234; what may surprise of that, for people."""
    if not table.marks_are_open:
        return []
    points = [name for name, each in columns.items() if each.fits[:1] == [POINT] and each.has["."]]
    commas = [name for name, each in columns.items() if each.fits[:1] == [COMMA] and each.has[","]]
    unclear = {name: (POINTS, ".", ",") for name in points if columns[name].looks_grouped(".")}
    unclear |= {name: (COMMAS, ",", ".") for name in commas if columns[name].looks_grouped(",")}
    clear_points = [name for name in points if name not in unclear]
    clear_commas = [name for name in commas if name not in unclear]
    for name, each in columns.items():
        clear_points += [name] * (each.fits[:1] == [COMMAS])
        clear_commas += [name] * (each.fits[:1] == [POINTS])
    notes = []
    for name, (grouped, own, other) in unclear.items():
        for_other, for_own = (clear_commas, clear_points) if own == "." else (clear_points, clear_commas)
        if for_other and for_own:
            raise ValueError(
                f"{table.files[0].path}, column {name!r}: its values, such as 1{own}234, can be read with "
                f"{own!r} as the decimal mark, as in column {for_own[0]!r}, and with {other!r}, as in column "
                f"{for_other[0]!r}. Say which, e.g. {given('decimal', own)}."
            )
        if for_other:
            columns[name].fits = [grouped]
        elif not for_own:
            notes.append(
                f"column {name!r}: {own!r} is taken for the decimal mark, so that 1{own}234 is a little more "
                f"than 1; if it is 1234, say {given('decimal', other)}"
            )
    return notes


def _look_at(
    table: TableFile,
    columns: Mapping[str, OpenColumn],
    progress: Progress | None = None,
    to_count: Sequence[str] = (),
) -> int:
    """Read some columns, or those that count the rows; how many there are."""
    n_rows = 0
    for block in table.blocks(list(columns or to_count)):
        n_rows += block.batch.num_rows
        for number, column in enumerate(columns.values()):
            column.look(table, block, number)
        if progress:
            progress("looking at the columns", block.share)
    return n_rows


def _look_again(table: TableFile, late: Mapping[str, OpenColumn]) -> None:
    """Read some columns once more from the start: text that came late, and thousands."""
    verified = [column for column in late.values() if column.levels is None]
    for column in verified:
        column.levels = set()
    if late:
        _look_at(table, late)
    for column in verified:
        if column.fits:
            column.levels = None


def strings_of(table: TableFile, column: Arrow, *, text: bool) -> Any:
    """A column as strings in which gaps are none, for a column of text or of anything else."""
    if not table.readings:
        return without_gaps(as_text(column), table.gaps.in_text if text else table.gaps.elsewhere)
    # Those of text were found when the file was cut into values.
    return column if text or table.gaps.words else without_gaps(column, table.gaps.elsewhere)


def as_text(column: Arrow) -> Any:
    """A column, dictionary-encoded or not, as plain Arrow strings; durations are numbers of seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        # Decoding knows no string views, of which the categories of polars are.
        levels = column.dictionary.cast(pa.string())
        column = pa.DictionaryArray.from_arrays(column.indices, levels).dictionary_decode()
    if pa.types.is_duration(column.type):  # else a count of whatever unit it has
        count = column.cast(pa.duration("ns")).cast(pa.int64()).dictionary_encode()
        seconds = [name_of_number(seconds_of(each)) for each in count.dictionary.to_pylist()]
        return pa.array(seconds, pa.string()).take(count.indices)
    if column.type == pa.float16():
        return texts_of_halves(column)
    if column.type in (pa.float32(), pa.float64()):
        column = pc.add(column, pa.scalar(0, column.type))  # -0.0 is 0.0
    return column.cast(pa.string())


def _settled(table: TableFile, name: str, column: OpenColumn) -> RawColumn:
    """What a column is: texts, or the first reading that fits, unless a later one gives another meaning."""
    if column.levels is not None:
        reading = "text of numbers" if column.fits or column.are_numbers else "text"
        return RawColumn(name, "text", tuple(sorted(column.levels)), reading)
    chosen = column.fits[0]
    rivals = [other for other in READINGS[chosen].excludes if other in column.fits]
    if rivals:
        raise ValueError(
            f"{table.files[0].path}, column {name!r}: all of its dates can be read as {chosen!r} and "
            f"as {rivals[0]!r}. Say which, e.g. {given('date_format', 'day first')}."
        )
    return RawColumn(name, READINGS[chosen].kind, (), chosen)
