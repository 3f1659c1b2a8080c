"""Rows of large uncompressed Arrow files, gathered where they are: nothing is converted or kept.

An Arrow file holds its columns one after the other, in batches of rows. All of it lies in one
memory map, so the value of row r in column c is an element of that map seen as one array of c's
dtype:

    element = start of column c in the batch of r + position of r in the batch

Converted to a cache, as other large tables are, such a file would take its size on disk a second time.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlp_xp.machine.maps import Guard
from mlp_xp.rows.arrays import Array, find_in_batch
from mlp_xp.rows.files import Arrow, File
from mlp_xp.tables.files.records import Schema
from mlp_xp.tables.files.signatures import reading
from mlp_xp.tables.files.table_source import SchemaSource


@dataclasses.dataclass(frozen=True)
class _MappedFile:
    """One file: for each of its dtypes the map seen as such, which columns, and where they start.

    `starts[dtype]` is (n_batches, n_columns of that dtype), in elements; `place` the address and the bytes.
    """

    file: File
    place: tuple[int, int]
    first_rows: Array
    n_rows: int
    maps: dict[str, Array]
    columns: dict[str, list[int]]
    starts: dict[str, Array]


class ArrowSource(SchemaSource):
    """Numbers in Arrow (IPC, Feather) files as a source, mapped into memory.

    Made by `open_source` for files above the memory limit whose selected columns are all integers
    or floats without gaps, uncompressed. A row touches a page for each of its columns: if the file
    is much larger than memory, records in the cache (from Parquet) are read faster.

    Parameters
    ----------
    files : sequence of File
        Local files.
    schema : Schema
        The columns.
    notes : sequence of str
        For people.
    gaps : {"refuse", "keep", "keep all"}
        What to do with NaN among the features: an error when the row is gathered, or nothing.
    """

    threads_may_share = True

    def __init__(
        self, files: Sequence[File], schema: Schema, notes: Sequence[str] = (), gaps: str = "refuse"
    ) -> None:
        super().__init__(files, schema, notes)
        self._gaps, n_targets = gaps != "refuse", len(schema.targets)
        self._n_gappy = len(schema.features) + n_targets * (gaps == "keep all")
        names = [column.name for column in schema.columns]
        self._mapped = [_map(file, names) for file in files]
        self._guard = Guard({each.file.path: each.place for each in self._mapped})
        self._first_rows = np.cumsum([0, *(each.n_rows for each in self._mapped)])
        self.n_rows = int(self._first_rows[-1])

    def rows(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Fill x (m, n_features), y (m, n_targets) and weight (m,) with the rows of `index` (m,).

        A y or weight of None is left out; without sample weights, `weight` is filled with ones.
        """
        self.check_unchanged()
        outs: list[Array | None] = [x[:, at] for at in range(self.n_features)]
        outs += [None if y is None else y[:, at] for at in range(self.n_targets)]
        if self.has_weights:
            outs.append(weight)
        elif weight is not None:
            weight[...] = 1
        with self._guard:
            if len(self._mapped) == 1:
                _gather(self._mapped[0], index, slice(None), outs)
            else:
                of_file = np.searchsorted(self._first_rows, index, side="right") - 1
                for number in np.unique(of_file):
                    here = np.flatnonzero(of_file == number)
                    _gather(self._mapped[number], index[here] - self._first_rows[number], here, outs)
        for values, first in ((x, 0), (y, self.n_features)):
            if values is not None and find_in_batch(values) is not None:
                for at, column in enumerate(values.T, start=first):
                    self._check(index, column, at, gaps=self._gaps)
        if self.has_weights and weight is not None:
            self._check(index, weight, len(outs) - 1, gaps=False)

    def _check(self, index: Array, values: Array, number: int, *, gaps: bool) -> None:
        """Refuse what is not finite in a column, and weights below 0; with `gaps`, features may be NaN."""
        column = self.schema.columns[number]
        bad = np.isinf(values) if gaps and number < self._n_gappy else ~np.isfinite(values)
        needed = "finite numbers are needed"
        if column is self.weight:
            bad |= values < 0
            needed = "sample weights are finite numbers >= 0"
        if bad.any():
            at = int(np.argmax(bad))
            of_file = int(np.searchsorted(self._first_rows, index[at], side="right")) - 1
            raise ValueError(
                f"{self.files[of_file].path}, row {index[at] - self._first_rows[of_file] + 1:,}, column "
                f"{column.name!r} is {values[at]}; {needed}. Fill the gaps or leave these rows out."
            )

    def check_finite(self, *, gaps: bool = False) -> None:
        """Raise ValueError that names file, row and column of the first NaN or infinity, if any.

        With `gaps`, NaN among features is fine.
        """
        for before, mapped in zip(self._first_rows, self._mapped, strict=False):
            for start in range(0, mapped.n_rows, 65_536):
                index = np.arange(start, min(start + 65_536, mapped.n_rows))
                for number in range(len(self.schema.columns)):
                    values = np.empty(len(index))
                    outs: list[Array | None] = [None] * len(self.schema.columns)
                    outs[number] = values
                    with self._guard:
                        _gather(mapped, index, slice(None), outs)
                    self._check(before + index, values, number, gaps=gaps)


def _gather(mapped: _MappedFile, index: Array, where: slice | Array, outs: Sequence[Array | None]) -> None:
    batch = np.searchsorted(mapped.first_rows, index, side="right") - 1
    position = index - mapped.first_rows[batch]
    for dtype, columns in mapped.columns.items():
        wanted = [at for at, column in enumerate(columns) if outs[column] is not None]
        elements = mapped.starts[dtype][batch][:, wanted] + position[:, None]
        values = np.take(mapped.maps[dtype], elements, mode="clip")
        for number, at in enumerate(wanted):
            out = outs[columns[at]]
            if out is not None:
                out[where] = values[:, number]


def is_mappable(files: Sequence[File], names: Sequence[str]) -> bool:
    """Whether these columns can be used where they are: local, uncompressed, plain numbers, no gap."""
    if any(file.remote for file in files):
        return False
    try:
        for file in files:
            _map(file, names)
    except _NotPlainError:
        return False
    return True


class _NotPlainError(Exception):
    """A column that can not be seen as an array."""


def _map(file: File, names: Sequence[str]) -> _MappedFile:
    import pyarrow as pa
    from pyarrow import ipc

    with reading(file):
        whole = pa.memory_map(file.path).read_buffer()
        place = (whole.address, whole.size)
    with reading(file), Guard({file.path: place}):
        reader = ipc.open_file(pa.BufferReader(whole))
        counts, places = [], []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate()
            if batch.num_rows:
                counts.append(batch.num_rows)
                places.append([_place(batch.column(name), whole) for name in names])
    if not places:
        raise _NotPlainError
    columns: dict[str, list[int]] = {}
    for at, (dtype, _) in enumerate(places[0]):
        columns.setdefault(dtype, []).append(at)
    maps, starts = {}, {}
    for dtype, ats in columns.items():
        maps[dtype] = np.frombuffer(whole, dtype, whole.size // np.dtype(dtype).itemsize)
        starts[dtype] = np.array([[row[at][1] for at in ats] for row in places], np.int64)
    return _MappedFile(file, place, np.cumsum([0, *counts])[:-1], sum(counts), maps, columns, starts)


def _place(column: Arrow, whole: Arrow) -> tuple[str, int]:
    """The dtype of a column, and the element of the file at which it starts."""
    from pyarrow import types

    if not (types.is_integer(column.type) or types.is_floating(column.type)) or column.null_count:
        raise _NotPlainError
    dtype = column.type.to_pandas_dtype()
    size = np.dtype(dtype).itemsize
    start = column.buffers()[1].address - whole.address + column.offset * size
    if start < 0 or start % size or start + len(column) * size > whole.size:
        raise _NotPlainError
    return np.dtype(dtype).str, start // size
