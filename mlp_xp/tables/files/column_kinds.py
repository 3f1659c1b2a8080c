"""What each column of a table is, settled over the whole of it before anything is converted.

A CSV column may be integers for 200,000 rows and decimals after that, or empty before its first
number; both are numbers. So one pass reads everything and keeps, for each column, what all of its
values so far can be read as, and the different texts of those that can be nothing else.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mlp_xp.rows.files import File
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.blocks import Block, Part
from mlp_xp.tables.files.columns import Column
from mlp_xp.tables.files.text_values import READINGS, first_that_does_not_read, read

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""

# Different texts of one column that are kept: above that, it names rows rather than groups them.
MOST_LEVELS = 1_000_000


class Table(Protocol):
    """Files of one format as one table: `CsvTable` or `TypedTable`."""

    files: list[File]
    names: list[str]

    @property
    def note(self) -> str:
        """What was recognised, for people."""

    @property
    def n_rows(self) -> int | None:
        """Rows, where the files say so."""

    @property
    def readings(self) -> list[str]:
        """What the text of a column can be read as."""

    def kind(self, name: str) -> str | None:
        """What a column is, where the files say so."""

    @property
    def parts(self) -> list[Part]:
        """What can be read on its own, in order."""

    def blocks(self, names: Sequence[str], parts: Sequence[Part] | None = None) -> Iterator[Block]:
        """The rows of the columns `names`, of all parts or of some."""


@dataclasses.dataclass(frozen=True)
class Settled:
    """What was found.

    Parameters
    ----------
    n_rows : int
        Rows of the table.
    columns : dict of str to Column
        Name to what the column holds.
    readings : dict of str to str
        Name to how its text is read, for columns that are text in the file.
    first_text : dict of str to str
        For text columns of a CSV file, the place of the first value that is no number.
    """

    n_rows: int
    columns: dict[str, Column]
    readings: dict[str, str]
    first_text: dict[str, str]


def settle(
    table: Table,
    names: Sequence[str],
    progress: Progress | None = None,
    known: Mapping[str, str] | None = None,
) -> Settled:
    """Settle the kinds of the columns `names`, the levels of text, and the number of rows.

    What is `known` to be text is text; where text can be read as what it is known to be, it is read so.
    """
    known = known or {}
    kinds = {name: "text" if known.get(name) == "text" else table.kind(name) for name in names}
    possible = {name: _readings(table, known.get(name)) for name, kind in kinds.items() if kind is None}
    levels: dict[str, set[str]] = {name: set() for name, kind in kinds.items() if kind == "text"}
    first_text: dict[str, str] = {}
    late: set[str] = set()
    n_rows = 0
    if possible or levels or table.n_rows is None:
        for block in table.blocks([*possible, *levels]):
            n_rows += block.batch.num_rows
            for number, name in enumerate(possible):
                if possible[name] and not _narrow(possible[name], block, number, first_text):
                    levels[name] = set()
                    if n_rows > block.batch.num_rows:
                        late.add(name)
            for name, texts in levels.items():
                _add_levels(texts, block, name)
            if progress:
                progress("looking at the columns", block.share)
    else:
        n_rows = table.n_rows
    if late:
        # Text came after values that looked like something else: those are levels too.
        for block in table.blocks(sorted(late)):
            for name in late:
                _add_levels(levels[name], block, name)
    readings = {name: _choose(table, name, fits) for name, fits in possible.items() if fits}
    columns = {}
    for name in names:
        kind = kinds[name] or (READINGS[readings[name]].kind if name in readings else "text")
        columns[name] = Column(name, kind, tuple(sorted(levels.get(name, ()))))
    return Settled(n_rows, columns, readings, first_text)


def _readings(table: Table, kind: str | None) -> list[str]:
    """What a column of text can be read as, what gives a kind that it is known to be before all else."""
    return sorted(table.readings, key=lambda name: READINGS[name].kind != kind)


def _narrow(fits: list[str], block: Block, number: int, first_text: dict[str, str]) -> bool:
    """Leave in `fits` the readings that the block's values fit too; whether there are any."""
    import pyarrow as pa

    strings = block.batch.column(number)
    before = list(fits)
    for reading in before:
        try:
            read(reading, strings)
        except pa.ArrowInvalid:
            fits.remove(reading)
    if not fits:
        # Of what all values before could be, the likeliest: where did that end?
        at = first_that_does_not_read(before[0], strings)
        name = block.batch.schema.names[number]
        first_text[name] = block.place(at, number)
    return bool(fits)


def _add_levels(levels: set[str], block: Block, name: str) -> None:
    import pyarrow.compute as pc

    levels.update(pc.unique(as_text(block.batch.column(name))).drop_null().to_pylist())
    if len(levels) > MOST_LEVELS:
        raise ValueError(
            f"{block.file.path}, column {name!r} holds more than {MOST_LEVELS:,} different texts: it "
            f"names rows rather than groups them. Leave it out with {spelled('exclude')}."
        )


def as_text(column: Any) -> Any:
    """A column of text, dictionary-encoded or not, as plain Arrow strings."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def _choose(table: Table, name: str, fits: Sequence[str]) -> str:
    """The first reading that fits, unless a later one gives the same texts another meaning."""
    chosen = fits[0]
    rivals = [other for other in READINGS[chosen].excludes if other in fits]
    if rivals:
        raise ValueError(
            f"{table.files[0].path}, column {name!r}: all of its dates can be read as {chosen!r} and "
            f"as {rivals[0]!r}. Say which, e.g. {given('date_format', 'day first')}."
        )
    return chosen
