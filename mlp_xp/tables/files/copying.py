"""Columns of a table as they are written: text for text, row for row, for who copies them elsewhere."""

import os
from collections.abc import Iterator, Sequence

from mlp_xp.rows.files import find_files, pyarrow
from mlp_xp.tables.files.blocks import TableFile
from mlp_xp.tables.files.column_kinds import as_text
from mlp_xp.tables.files.columns import select
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import TABLE_SUFFIXES, table_of


def written_rows(
    path: str | os.PathLike[str], columns: Sequence[str], csv: CsvForm | None = None
) -> Iterator[list[str]]:
    """The values of some columns, row by row in the order of the files; a gap is an empty text.

    Raises ValueError, OSError: a column does not exist, or the files cannot be read.
    """
    pyarrow()
    _, table = table_of(find_files(path, TABLE_SUFFIXES), csv or CsvForm())
    names = select(table.names, os.fspath(path), columns=columns).features
    return _rows_of(table, names)


def _rows_of(table: TableFile, names: Sequence[str]) -> Iterator[list[str]]:
    for block in table.blocks(names):
        texts = [as_text(column).to_pylist() for column in block.batch.columns]
        for row in zip(*texts, strict=True):
            yield ["" if value is None else value for value in row]
