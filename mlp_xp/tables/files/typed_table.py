"""Files that say the type of each column, as one table."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mlp_xp.rows.files import Arrow, File
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.files.arrow_files import Format
from mlp_xp.tables.files.blocks import Part, TableBlock, TableFile
from mlp_xp.tables.files.one_value import ANY, SECONDS, Gaps
from mlp_xp.tables.files.signatures import reading
from mlp_xp.tables.files.text_values import kind_of_reading

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


def read(
    form: Format, function: Callable[..., Iterable[Any]], of: File | Part, *names: Sequence[str]
) -> Iterator[Any]:
    """What a function of a format gives of a file or a part."""
    with reading(of if isinstance(of, File) else of.file, form.name):
        yield from function(of, *names)


class TypedTable(TableFile):
    """Files that say the type of each column, as one table: read one after the other, columns by name."""

    def __init__(self, files: Sequence[File], form: Format, gaps: Gaps | None = None) -> None:
        self.files, self.form, self.gaps = list(files), form, gaps or Gaps()
        self._columns = [list(read(form, form.columns, file)) for file in self.files]
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
        found = [part for file in self.files for part in read(self.form, self.form.parts, file)]
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
            for batch in read(self.form, self.form.batches, part, names):
                n_read += batch.num_rows
                share = min(1.0, n_read / n_rows)
                yield TableBlock(part.file, first_row, batch.select(list(names)), share)
                first_row += batch.num_rows
