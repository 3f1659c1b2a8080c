"""Files as a table: parts that can be read on their own, and blocks of rows that were read together."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from mlp_xp.rows.files import Arrow, File
from mlp_xp.tables.files.one_value import Gaps


@dataclasses.dataclass(frozen=True)
class Part:
    """What a reader can start at: a file, some lines of a CSV file, a row group of a Parquet file.

    The first row's number in the file counts from 1, without the line of names; rows are counted where the
    file says so. `start` and `stop` are the first byte and that after the last; all of the file if stop is
    None.
    """

    file: File
    first_row: int = 1
    n_rows: int | None = None
    group: int = 0
    start: int = 0
    stop: int | None = None


@dataclasses.dataclass(frozen=True)
class TableBlock:
    """Some thousands of consecutive rows of one file.

    The first row's number in it counts from 1, without the line of names. The batch has the columns that were
    asked for, in that order; `share` is how much of what was asked for has been read after it, about.
    `line_of` gives the line of a text file, from 1, on which a row starts.
    """

    file: File
    first_row: int
    batch: Arrow
    share: float
    line_of: Callable[[int], int | None] | None = None

    def place(self, position: int, column: int) -> str:
        """File, row, line, column and value, for messages."""
        row = self.first_row + position
        line = self.line_of(row) if self.line_of else None
        where = f"row {row:,} (line {line:,})" if line is not None else f"row {row:,}"
        try:
            value = self.batch.column(column)[position].as_py()
        except (ValueError, OverflowError):
            value = "a value that Python has no type for"
        shown = "nothing" if value is None else repr(value)
        if len(shown) > 60:
            shown = shown[:57] + "..."
        name = self.batch.schema.names[column]
        return f"{self.file.path}, {where}, column {name!r} holds {shown}"


class TableFile:
    """Files of one format as one table.

    Attributes
    ----------
    files : list of File
    names : list of str
        Of the columns.
    gaps : Gaps
        What stands for a gap among texts.
    note : str
        What was recognised, for people.
    readings : list of str
        What the text of a column can be read as; none where files say the type of each column.
    marks_are_open : bool
        Whether 1.234 may be 1234: whether both decimal marks are possible.
    """

    files: list[File]
    names: list[str]
    gaps: Gaps
    note: str = ""
    readings: Sequence[str] = ()
    marks_are_open: bool = False

    @property
    def n_rows(self) -> int | None:
        """Rows, where the files say so."""
        return None

    def reading(self, name: str, *, as_text: bool = False) -> str | None:
        """How a column is read, where the files say so: a reading, "text", or "gap" if it holds nothing.

        What is to be read `as_text` may have several types.
        """
        return None

    @property
    def parts(self) -> list[Part]:
        """What can be read on its own, in order."""
        raise NotImplementedError

    def blocks(self, names: Sequence[str], parts: Sequence[Part] | None = None) -> Iterator[TableBlock]:
        """The rows of the columns `names`, of all parts or of some."""
        raise NotImplementedError
