"""Folders whose names hold a column, as Hive writes them: `year=2024/month=1/part.parquet`.

Each `NAME=VALUE` between the folder that was named and a file is a column with that value in all of the
file's rows. They are texts, read as those of a CSV file are: what a column is, is settled over all files.
`__HIVE_DEFAULT_PARTITION__` stands for nothing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from mlp_xp.tables.files.blocks import Part, TableBlock, TableFile

_NOTHING = "__HIVE_DEFAULT_PARTITION__"


def partition_of(parts: Sequence[str]) -> dict[str, str | None]:
    """Names and values of the columns that the names of some folders hold."""
    pairs = (part.partition("=") for part in parts if "=" in part)
    return {unquote(name): None if value == _NOTHING else unquote(value) for name, _, value in pairs}


class PartitionedTable(TableFile):
    """A table with columns from the names of its folders beside those in its files."""

    def __init__(self, table: TableFile) -> None:
        self.table, self.files = table, table.files
        found = {file: partition_of(file.folders) for file in table.files}
        first = found[self.files[0]]
        for file, values in found.items():
            if list(values) != list(first):
                raise ValueError(
                    f"{file.path} lies in folders that say {', '.join(values) or 'nothing'}, and "
                    f"{self.files[0].path} in folders that say {', '.join(first) or 'nothing'}: all files of "
                    "a table need the same. Name those of one kind with a glob."
                )
        self._values = {
            name: {
                file: None if values[name] in table.gaps.in_text else values[name]
                for file, values in found.items()
            }
            for name in first
        }
        self.names = [*table.names, *first]
        self.gaps, self.readings, self.marks_are_open = table.gaps, table.readings, table.marks_are_open
        said = f"{', '.join(map(repr, first))} from the names of folders"
        self.note = f"{table.note}, {said}" if table.note else said

    @property
    def n_rows(self) -> int | None:
        """Rows, where the files say so."""
        return self.table.n_rows

    def reading(self, name: str, *, as_text: bool = False) -> str | None:
        """How a column is read, where that is known before it is."""
        return None if name in self._values else self.table.reading(name, as_text=as_text)

    @property
    def parts(self) -> list[Part]:
        """What can be read on its own, in order."""
        return self.table.parts

    def blocks(self, names: Sequence[str], parts: Sequence[Part] | None = None) -> Iterator[TableBlock]:
        """The rows of the columns `names`, of all parts or of some."""
        import pyarrow as pa

        inside = {name: at for at, name in enumerate(name for name in names if name not in self._values)}
        for block in self.table.blocks(list(inside) or self.table.names[:1], parts):
            n_rows = block.batch.num_rows
            columns = [
                pa.repeat(pa.scalar(self._values[name][block.file], pa.string()), n_rows)
                if name in self._values
                else block.batch.column(inside[name])
                for name in names
            ]
            batch = pa.RecordBatch.from_arrays(columns, names=list(names))
            yield dataclasses.replace(block, batch=batch)
