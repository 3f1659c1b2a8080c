"""A table as a stream: its blocks, converted to records, as often as it is asked for."""

from collections.abc import Iterator, Sequence

import numpy as np

from mlp_xp.rows.arrays import Array
from mlp_xp.rows.streams import StreamBatch
from mlp_xp.tables.files.blocks import Part, TableFile
from mlp_xp.tables.files.column_kinds import Progress
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.files.records import Converter
from mlp_xp.tables.files.table_source import TableSource


class TableStream:
    """A table as a stream of batches that starts anew each time it is asked for."""

    def __init__(self, table: TableFile, converter: Converter, notes: Sequence[str] = ()) -> None:
        self.table, self.converter, self.notes = table, converter, tuple(notes)
        self.columns: tuple[RawColumn, ...] = converter.schema.features
        self.targets: tuple[RawColumn, ...] = converter.schema.targets
        self.weight_name = converter.schema.weight.name if converter.schema.weight else ""

    def records(
        self, progress: Progress | None = None, parts: Sequence[Part] | None = None
    ) -> Iterator[Array]:
        """Blocks of records; RuntimeError at the end if a file was changed under way."""
        for block in self.table.blocks([column.name for column in self._columns], parts):
            yield self.converter.records(block)
            if progress:
                progress("converting", block.share)
        self.check_unchanged()

    @property
    def _columns(self) -> tuple[RawColumn, ...]:
        return self.converter.schema.columns

    def shuffled(self, generator: np.random.Generator) -> Iterator[StreamBatch]:
        """Batches of x, y and weights, the parts of the table in an order that is drawn."""
        parts = self.table.parts
        yield from self._batches([parts[at] for at in generator.permutation(len(parts))])

    def __iter__(self) -> Iterator[StreamBatch]:
        """Batches of x, y and weights, in the order of the files."""
        yield from self._batches(None)

    def _batches(self, parts: Sequence[Part] | None) -> Iterator[StreamBatch]:
        schema = self.converter.schema
        for records in self.records(None, parts):
            rows = TableSource(records, schema)
            x = np.empty((rows.n_rows, rows.n_features), schema.dtype)
            y = np.empty((rows.n_rows, rows.n_targets), schema.dtype) if rows.n_targets else None
            weight = np.empty(rows.n_rows, schema.dtype) if rows.has_weights else None
            rows.rows(np.arange(rows.n_rows), x, y, weight)
            yield x, y, weight

    def check_unchanged(self) -> None:
        """Raise RuntimeError if a file was changed since it was opened."""
        for file in self.table.files:
            file.check_unchanged()
