"""One record per row: how the columns of a table are laid out in memory and in the cache.

    row = dates (int64) | numbers (the run's dtype) | texts (int32)

A row lies in one place, so that a random row costs one cache miss in memory and one page on disk,
whatever the number of its columns.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_xp.rows.files import Arrow
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.arrow_values import (
    is_gap,
    numbers_of,
    seconds_counted,
    strings_from,
    texts_of_halves,
)
from mlp_xp.tables.files.blocks import TableBlock, TableFile
from mlp_xp.tables.files.column_kinds import ColumnKinds, strings_of
from mlp_xp.tables.files.columns import PLURAL, RawColumn, Selection
from mlp_xp.tables.files.one_value import SECONDS
from mlp_xp.tables.files.text_values import first_that_does_not_read, read, read_as_known
from mlp_xp.tables.files.typed_table import reading_of

Array = npt.NDArray[Any]

NO_DATE = np.iinfo(np.int64).min
"""A gap in a column of dates."""

NO_TEXT = -1
"""A gap in a column of text."""

_FIELD = {"number": "number", "bool": "number", "date": "date", "text": "text"}

# Values of columns that are converted as one.
_TOGETHER = 1 << 18

# Integers above this have no float64 of their own.
_EXACT = 2**53


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns that are used, by role, and where in a record each of them is.

    Parameters
    ----------
    features, targets : tuple of RawColumn
        In the order that x and y have them.
    weight : RawColumn, optional
        The sample weights.
    dtype : {"float32", "float64"}
        Of numbers.
    """

    features: tuple[RawColumn, ...]
    targets: tuple[RawColumn, ...]
    weight: RawColumn | None
    dtype: str

    @functools.cached_property
    def columns(self) -> tuple[RawColumn, ...]:
        """All of them: features, targets, weight."""
        return (*self.features, *self.targets, *((self.weight,) if self.weight else ()))

    def role(self, number: int) -> str:
        """What one of `columns` is: "feature", "target" or "weight"."""
        if number < len(self.features):
            return "feature"
        return "target" if number < len(self.features) + len(self.targets) else "weight"

    @functools.cached_property
    def places(self) -> tuple[tuple[str, int], ...]:
        """For each of `columns`, the field of the record and the position in that field."""
        taken = {"number": 0, "date": 0, "text": 0}
        places = []
        for column in self.columns:
            field = _FIELD[column.kind]
            places.append((field, taken[field]))
            taken[field] += 1
        return tuple(places)

    @functools.cached_property
    def record(self) -> np.dtype[Any]:
        """The dtype of a record, with the fields date, number and text."""
        types = {"date": np.int64, "number": np.dtype(self.dtype), "text": np.int32}
        fields = [
            (field, kind, (sum(at == field for at, _ in self.places),)) for field, kind in types.items()
        ]
        used = np.dtype([each for each in fields if each[2] != (0,)], align=True)
        # A field without columns is there for readers, but may not ask for an alignment of its own.
        offsets = [
            used.fields[field][1] if used.fields and field in used.fields else 0 for field, _, _ in fields
        ]
        return np.dtype(
            {
                "names": [field for field, _, _ in fields],
                "formats": [(kind, shape) for _, kind, shape in fields],
                "offsets": offsets,
                "itemsize": used.itemsize,
            }
        )


@dataclasses.dataclass(frozen=True)
class Converter:
    """Turns blocks of a table into records of a schema.

    Columns that are `known` have a reading from before they were looked at. `gaps` says whether features may
    be missing ("keep"), or targets too ("keep all"); weights never may.
    """

    schema: Schema
    table: TableFile
    known: frozenset[str]
    gaps: str

    def records(self, block: TableBlock) -> Array:
        """The block's rows.

        Raises ValueError: a value that can not be used; file, row and column are named.
        """
        records = np.zeros(block.batch.num_rows, self.schema.record)
        for numbers in self._alike(block):
            if len(numbers) == 1 or not self._convert_together(numbers, block, records):
                for number in numbers:
                    field, position = self.schema.places[number]
                    records[field][:, position] = self._column(number, block)
        return records

    def _alike(self, block: TableBlock) -> Iterator[range]:
        """Numbers of columns side by side that are read in the same way."""
        columns, most = self.schema.columns, max(1, _TOGETHER // max(1, block.batch.num_rows))
        likeness = [
            (self.schema.role(number), column.kind, column.reading, column.name in self.known, kind)
            for number, (column, kind) in enumerate(zip(columns, block.batch.schema.types, strict=True))
        ]
        first = 0
        for number in range(1, len(columns) + 1):
            if (
                number == len(columns)
                or likeness[number] != likeness[first]
                or columns[number].kind == "text"
                or number - first == most
            ):
                yield range(first, number)
                first = number

    def _convert_together(self, numbers: range, block: TableBlock, records: Array) -> bool:
        """Convert columns that are read in the same way as one; whether nothing is wrong with them.

        A call of pyarrow takes as long as it takes for a hundred values.
        """
        import pyarrow as pa

        try:
            joined = pa.concat_arrays([block.batch.column(number) for number in numbers])
            batch = pa.RecordBatch.from_arrays([joined], names=["several"])
            converted = self._column(numbers.start, dataclasses.replace(block, batch=batch), at=0)
        except (ValueError, pa.ArrowException):
            return False
        field, position = self.schema.places[numbers.start]
        together = converted.reshape(len(numbers), -1).T
        records[field][:, position : position + len(numbers)] = together
        return True

    def _column(self, number: int, block: TableBlock, at: int | None = None) -> Array:
        """The values of a column, which is the one `at` a place of the block if that is another."""
        column, at = self.schema.columns[number], number if at is None else at
        values = self._read(column, block, at)
        if values.null_count and not self._may_be_missing(number):
            row = int(np.argmax(is_gap(values)))
            raise ValueError(
                f"{block.place(row, at)}, where a value is needed. Fill it, leave the row out, "
                f"{self._words(column)}{self._rest(number)}."
            )
        return self._converted(values, column, block, at, may_be_missing=self._may_be_missing(number))

    def _may_be_missing(self, number: int) -> bool:
        """Whether a column may have gaps."""
        n_features, n_targets = len(self.schema.features), len(self.schema.targets)
        return number < {"refuse": 0, "keep": n_features, "keep all": n_features + n_targets}[self.gaps]

    def _rest(self, number: int) -> str:
        """What else may be done with a gap."""
        if self.gaps == "keep" and self.schema.columns[number] in self.schema.targets:
            return f"or all such rows with {spelled('drop_missing_target')}"
        return f"or leave the column out with {spelled('exclude')}"

    def _words(self, column: RawColumn) -> str:
        may_be_word = column.kind == "text" and self.table.gaps.words
        return f"keep words such as NA as texts with {given('null_words', False)}, " if may_be_word else ""

    def _read(self, column: RawColumn, block: TableBlock, number: int) -> Any:
        """A column's typed values; strings in the reading of the column."""
        import pyarrow as pa

        values = block.batch.column(number)
        if column.kind == "text" or reading_of(values.type) != "text":
            return strings_of(self.table, values, text=True) if column.kind == "text" else values
        strings = strings_of(self.table, values, text=False)
        if column.name not in self.known:
            return read(column.reading, strings)
        try:
            return read_as_known(column.reading, strings)
        except pa.ArrowInvalid:
            at = first_that_does_not_read(column.reading, strings, read_as_known)
            raise ValueError(
                f"{block.place(at, number)}, where {PLURAL[column.kind]} are needed ({column.reading}). Mend "
                f"it, leave the row out{_remedy(column)}."
            ) from None

    def _converted(
        self, values: Arrow, column: RawColumn, block: TableBlock, number: int, *, may_be_missing: bool
    ) -> Array:
        if column.kind == "text":
            return _codes(values, column, block)
        if column.kind == "date":
            return _moments(values, block, number)
        is_target = column in self.schema.targets
        converted = _numbers(_as_written(values) if is_target else values, block, number)
        if column.kind == "number" and self.table.gaps.numbers:
            converted = np.where(np.isin(converted, self.table.gaps.numbers), np.nan, converted)
        self._check(converted, column, block, number, may_be_missing=may_be_missing)
        return converted

    def _check(
        self, converted: Array, column: RawColumn, block: TableBlock, number: int, *, may_be_missing: bool
    ) -> None:
        largest = np.finfo(self.schema.dtype).max
        with np.errstate(invalid="ignore"):
            problems = [
                (np.isinf(converted), "which is infinite"),
                (np.abs(converted) > largest, f"which is too large for {self.schema.dtype}"),
            ]
            if column is self.schema.weight:
                problems.append((converted < 0, "but a sample weight is 0 or more"))
        if column.kind == "bool":
            is_truth = np.isin(converted, (0.0, 1.0)) | np.isnan(converted)
            problems.append((~is_truth, "which is neither true nor false"))
        # A NaN among floats is a gap, as pandas and polars write it.
        if not may_be_missing:
            problems.append((np.isnan(converted), "which is no number"))
        for bad, reason in problems:
            if bad.any():
                at = int(np.argmax(bad))
                raise ValueError(
                    f"{block.place(at, number)}, {reason}. Mend it, leave the row out, {self._rest(number)}."
                )


def schema_of(settled: ColumnKinds, selection: Selection, dtype: str) -> Schema:
    """The schema of the selected columns; ValueError if the weight is no number."""
    columns, weight = settled.columns, selection.weight
    if weight is not None and columns[weight].kind not in ("number", "bool"):
        where = settled.first_text.get(weight, f"column {weight!r} is {columns[weight].kind}")
        raise ValueError(f"sample weights must be numbers, but {where}.")
    return Schema(
        tuple(columns[name] for name in selection.features),
        tuple(columns[name] for name in selection.targets),
        None if weight is None else columns[weight],
        dtype,
    )


def _codes(values: Arrow, column: RawColumn, block: TableBlock) -> Array:
    import pyarrow.compute as pc

    codes = pc.index_in(values, value_set=strings_from(column.levels))
    if codes.null_count > values.null_count:
        raise RuntimeError(
            f"{block.file.path} was changed while it was read: column {column.name!r} holds texts "
            f"that were not there before. Start again when nothing writes to it."
        )
    return numbers_of(codes, np.int32, NO_TEXT)


def _moments(values: Arrow, block: TableBlock, number: int) -> Array:
    import pyarrow as pa

    kind = values.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":  # the microsecond that it is in
        values, kind = _floor(values).cast(pa.timestamp("us")), pa.timestamp("us")
    try:
        moments = values.cast(pa.timestamp("us", getattr(kind, "tz", None)))
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{block.file.path}, column {block.batch.schema.names[number]!r}, after row "
            f"{block.first_row - 1:,}: {error}. Leave the column out with {spelled('exclude')}."
        ) from None
    return numbers_of(moments.cast(pa.int64()), np.int64, NO_DATE)


def _floor(nanoseconds: Arrow) -> Any:
    """Whole microseconds of an Arrow array of nanoseconds, as int64; what is finer is cut off."""
    import pyarrow as pa

    whole = numbers_of(nanoseconds.cast(pa.int64()), np.int64, 0) // 1000
    return pa.array(whole, mask=is_gap(nanoseconds))


def _numbers(values: Arrow, block: TableBlock, number: int) -> Array:
    """As float64, gaps as NaN; ValueError for integers that float64 would change."""
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    elif pa.types.is_time(kind) or pa.types.is_duration(kind):
        return _seconds(values)
    elif pa.types.is_decimal(kind):  # the float that is nearest, as in text
        values = values.cast(pa.string())
    floats = numbers_of(values.cast(pa.float64(), safe=False), np.float64, np.nan)
    _check_exact(floats, values, block, number)
    return floats


def _as_written(values: Arrow) -> Any:
    """Floats of 32 bits and fewer as the float64 that is written alike: a class 0.1 is called so."""
    from pyarrow import string, types

    if types.is_float16(values.type):
        return texts_of_halves(values)
    return values.cast(string()) if types.is_float32(values.type) else values


def _seconds(values: Arrow) -> Array:
    """Times of day and durations: the same float in whatever unit they are counted."""
    import pyarrow as pa

    kind = values.type
    whole = values.cast(pa.int32()).cast(pa.int64()) if pa.types.is_time32(kind) else values.cast(pa.int64())
    count, unit = numbers_of(whole, np.int64, 0), kind.unit
    if unit == "ns" and pa.types.is_time(kind):  # Python's times of day have microseconds
        count, unit = count // 1000, "us"
    return np.where(is_gap(values), np.nan, seconds_counted(count, unit))


def _remedy(column: RawColumn) -> str:
    """What may help where a value is written otherwise than in training."""
    said = {"number": given("decimal", ","), "date": given("date_format", "day first")}.get(column.kind)
    return "" if said is None or column.reading in SECONDS else f", or say how it is written, e.g. {said}"


def _check_exact(floats: Array, values: Arrow, block: TableBlock, number: int) -> None:
    """Refuse whole numbers, of an integer type or written in text, that float64 changes."""
    import pyarrow as pa

    if pa.types.is_string(block.batch.column(number).type):
        values = block.batch.column(number)
    elif not (pa.types.is_integer(values.type) and values.type.bit_width == 64):
        return
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(np.isfinite(floats) & (np.abs(floats) >= _EXACT))
    for at in map(int, suspects):
        written = str(values[at].as_py()).strip()
        if written.lstrip("+-").isdecimal() and int(written) != int(floats[at]):
            raise ValueError(
                f"{block.place(at, number)}, which is beyond 2^53 and has no exact float64: such "
                f"numbers are names rather than amounts. Leave the column out with {spelled('exclude')}, or "
                f"have it read as text, {given('text', block.batch.schema.names[number])}."
            )
