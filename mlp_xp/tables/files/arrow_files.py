"""Parquet and Arrow (IPC, Feather) files: typed tables, read some thousands of rows at a time."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlp_xp.rows.files import Arrow, File, reading
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.files.blocks import Part, TableBlock, TableFile
from mlp_xp.tables.files.one_value import ANY, SECONDS, Gaps
from mlp_xp.tables.files.text_values import kind_of_reading

# Bytes of each column that are read ahead.
_BUFFER_BYTES = 1 << 16

# Rows that are decoded together: no more, and fewer where there are many columns.
BLOCK_ROWS, BLOCK_VALUES, FEWEST_ROWS = 65_536, 1 << 23, 64


def block_rows(n_columns: int) -> int:
    """Rows of so many columns that are decoded together: 64 MiB of numbers."""
    return max(FEWEST_ROWS, min(BLOCK_ROWS, BLOCK_VALUES // max(1, n_columns)))


DIGITS = {32: 9, 64: 18, 128: 38, 256: 76}
"""What decimals of so many bits have at most, and so on which side of the point they may end."""


def reading_of(arrow_type: Arrow) -> str | None:
    """How the values of an Arrow type are read, in words of `READINGS`; None if it is no column.

    It is "text" for texts, and "gap" if it holds nothing.
    """
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    if types.is_decimal(arrow_type) and abs(arrow_type.scale) > DIGITS[arrow_type.bit_width]:
        return None  # of a damaged file: Arrow has no text for such numbers
    known = {
        ANY: (types.is_integer, types.is_floating, types.is_decimal),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "boolean": (types.is_boolean,),
        "date, year first": (types.is_timestamp, types.is_date),
        "time of day, in seconds": (types.is_time,),
        "duration, in seconds": (types.is_duration,),
        "gap": (types.is_null,),
    }
    return next((name for name, ones in known.items() if any(is_one(arrow_type) for is_one in ones)), None)


def _common_reading(readings: dict[str, str], name: str, *, as_text: bool) -> str:
    """What a column is read as whose type differs from file to file: {reading: first file that has it}."""
    seen = set(readings) - {"gap"} or {"gap"}
    kinds = set(map(kind_of_reading, seen))
    is_one_kind = len(kinds) == 1 or kinds == {"number", "bool"}
    if is_one_kind and (as_text or len(seen) == 1 or not seen & set(SECONDS)):
        return max(seen, key=len)  # a number, where there are booleans too
    listed = ", ".join(
        f"{reading if is_one_kind else kind_of_reading(reading)} in {path}"
        for reading, path in readings.items()
    )
    raise ValueError(
        f"column {name!r} has different types: {listed}. Write it alike in all files, or leave it "
        f"out with {spelled('exclude')}."
    )


@dataclasses.dataclass(frozen=True)
class Format:
    """How files of one format are known and read.

    Attributes
    ----------
    suffixes : tuple of str
        Ends of their names, the usual one first.
    mark : bytes
        How they begin.
    columns : callable (File) -> list of (str, Arrow type)
        Names and types of the columns.
    parts : callable (File) -> list of Part
        What can be read on its own.
    batches : callable (Part, names) -> iterator of Arrow batches
        The rows of some columns of a part, checked.
    looked_at : callable (Part, names) -> iterator of Arrow batches, optional
        The same where rows are only looked at, if that can cost less.
    """

    suffixes: tuple[str, ...]
    mark: bytes
    columns: Callable[[File], list[tuple[str, Any]]]
    parts: Callable[[File], list[Part]]
    batches: Callable[[Part, Sequence[str]], Iterator[Any]]
    looked_at: Callable[[Part, Sequence[str]], Iterator[Any]] | None = None


def _parquet(stream: Arrow) -> Any:
    from pyarrow import parquet

    # A buffer, and no pre_buffer: else the compressed bytes of a whole row group are held.
    return parquet.ParquetFile(
        stream,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit="us",  # nanoseconds would end in 2262
    )


def _parquet_columns(file: File) -> list[tuple[str, Any]]:
    with reading(file), file.open() as stream:
        return [(field.name, field.type) for field in _parquet(stream).schema_arrow]


def _parquet_parts(file: File) -> list[Part]:
    parts, first_row = [], 1
    with reading(file), file.open() as stream:
        metadata = _parquet(stream).metadata
        for group in range(metadata.num_row_groups):
            n_rows = metadata.row_group(group).num_rows
            parts.append(Part(file, first_row, n_rows, group))
            first_row += n_rows
    return parts


def _parquet_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    with reading(part.file), part.file.open() as stream:
        reader = _parquet(stream)
        for batch in reader.iter_batches(
            block_rows(len(names)), row_groups=[part.group], columns=list(names)
        ):
            # That text is UTF-8 is not checked by the reader.
            batch.validate(full=True)
            yield batch


def _ipc_columns(file: File) -> list[tuple[str, Any]]:
    from pyarrow import ipc

    with reading(file), file.open() as stream:
        return [(field.name, field.type) for field in ipc.open_file(stream).schema]


def _ipc_parts(file: File) -> list[Part]:
    from pyarrow import ipc

    with reading(file), file.open() as stream:
        reader = ipc.open_file(stream)
        if hasattr(reader, "count_rows"):
            return [Part(file, 1, int(reader.count_rows()))]
        # Older versions of pyarrow count what they read: one column is enough.
        reader = ipc.open_file(stream, options=ipc.IpcReadOptions(included_fields=[0]))
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        return [Part(file, 1, sum(batch.num_rows for batch in batches))]


def _ipc_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    with reading(part.file), part.file.open() as stream:
        n_rows = block_rows(len(names))
        for batch in _checked_ipc(stream, names):
            for start in range(0, batch.num_rows, n_rows):
                yield batch.slice(start, n_rows)


def _mapped_ipc_batches(part: Part, names: Sequence[str]) -> Iterator[Any]:
    """Numbers that are not compressed are not looked at, and cost nothing however many they are."""
    from pyarrow import memory_map

    with reading(part.file), memory_map(part.file.path) as stream:
        yield from _checked_ipc(stream, names)


def _checked_ipc(stream: Arrow, names: Sequence[str]) -> Iterator[Any]:
    from pyarrow import ipc

    known = ipc.open_file(stream).schema.names
    first = {name: at for at, name in reversed(list(enumerate(known)))}
    fields = sorted(first[name] for name in names)
    reader = ipc.open_file(stream, options=ipc.IpcReadOptions(included_fields=fields))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        # Nothing in an IPC file is checked before it is used, offsets included.
        batch.validate(full=True)
        yield batch


PARQUET = Format((".parquet", ".pq"), b"PAR1", _parquet_columns, _parquet_parts, _parquet_batches)
ARROW = Format(
    (".arrow", ".feather", ".ipc"), b"ARROW1", _ipc_columns, _ipc_parts, _ipc_batches, _mapped_ipc_batches
)

FORMATS = {"Parquet": PARQUET, "Arrow": ARROW}


class TypedTable(TableFile):
    """Files that say the type of each column, as one table: read one after the other, columns by name."""

    def __init__(self, files: Sequence[File], form: Format, gaps: Gaps | None = None) -> None:
        self.files, self.form, self.gaps = list(files), form, gaps or Gaps()
        self._columns = [form.columns(file) for file in self.files]
        self.names = [name for name, _ in self._columns[0]]

    def reading(self, name: str, *, as_text: bool = False) -> str | None:
        """The reading that has the values of a column; ValueError if files disagree."""
        readings: dict[str, str] = {}
        for file, types in zip(self.files, self._types, strict=True):
            if name not in types:
                raise ValueError(
                    f"{file.path} has no column {name!r}, which {self.files[0].path} has; "
                    f"{checks.did_you_mean(name, list(types))}."
                )
            reading = reading_of(types[name])
            if reading is None:
                raise ValueError(
                    f"{file.path}, column {name!r} is of type {types[name]}; numbers, booleans, dates "
                    f"and text are read. Leave it out with {spelled('exclude')}."
                )
            readings.setdefault(reading, file.path)
        return _common_reading(readings, name, as_text=as_text)

    @functools.cached_property
    def _types(self) -> list[dict[str, Any]]:
        return [dict(columns) for columns in self._columns]

    @functools.cached_property
    def parts(self) -> list[Part]:
        """What can be read on its own, in order."""
        found = [part for file in self.files for part in self.form.parts(file)]
        for part in found:
            if part.n_rows is not None and part.n_rows < 0:
                raise ValueError(f"{part.file.path} is damaged: it says that it has {part.n_rows:,} rows.")
        return found

    @property
    def n_rows(self) -> int | None:
        """Rows of all files together, by what they say of themselves."""
        return sum(part.n_rows or 0 for part in self.parts)

    def blocks(self, names: Sequence[str], parts: Sequence[Part] | None = None) -> Iterator[TableBlock]:
        """The rows of the columns `names`, part by part (of `parts`, if given)."""
        parts = self.parts if parts is None else parts
        n_rows = max(1, sum(part.n_rows or 0 for part in parts))
        n_read = 0
        for part in parts:
            first_row = part.first_row
            for batch in self.form.batches(part, names):
                n_read += batch.num_rows
                share = min(1.0, n_read / n_rows)
                yield TableBlock(part.file, first_row, batch.select(list(names)), share)
                first_row += batch.num_rows
