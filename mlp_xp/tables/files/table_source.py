"""Rows of a table that was converted to records, in memory or mapped from the cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.machine.maps import Guard
from mlp_xp.rows.arrays import Array, find_not_finite, parts, take
from mlp_xp.rows.files import File
from mlp_xp.rows.source import Source
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.files.records import NO_DATE, Schema

_DAY = 86_400e6
"""Microseconds in a day."""


class SchemaSource(Source):
    """Rows whose columns a schema describes, from files that must stay as they are."""

    def __init__(self, files: Sequence[File], schema: Schema, notes: Sequence[str]) -> None:
        self.files, self.schema, self.notes = tuple(files), schema, tuple(notes)
        self.columns, self.targets = schema.features, schema.targets
        self.weight: RawColumn | None = schema.weight
        self.n_features, self.n_targets = len(schema.features), len(schema.targets)
        self.has_weights = schema.weight is not None
        self.weight_name = schema.weight.name if schema.weight else ""

    def check_unchanged(self) -> None:
        """Raise RuntimeError if a file was changed, truncated or deleted since it was opened."""
        for file in self.files:
            file.check_unchanged()


class TableSource(SchemaSource):
    """Records of a table, one per row, in memory or mapped from a file; *read* only.

    `files` are the data files, and the cache if there is one, which records are mapped from; `notes` say what
    was recognised and where the rows are kept, for people.
    """

    threads_may_share = True

    def __init__(
        self,
        records: Array,
        schema: Schema,
        files: Sequence[File] = (),
        notes: Sequence[str] = (),
        cache: File | None = None,
    ) -> None:
        super().__init__(files, schema, notes)
        self.records, self.cache, self.n_rows = records, cache, len(records)
        self._guard = Guard({} if cache is None else {cache.path: (records.ctypes.data, records.nbytes)})
        places = schema.places
        self._x = _runs(places[: self.n_features])
        self._y = _runs(places[self.n_features : self.n_features + self.n_targets])
        self._weight = places[-1][1]

    def rows(self, index: Array, x: Array, y: Array | None, weight: Array | None) -> None:
        """Fill x (m, n_features), y (m, n_targets) and weight (m,) with the rows of `index` (m,).

        A y or weight of None is left out; without sample weights, `weight` is filled with ones.
        """
        self._check_cache()
        with self._guard:
            for part in parts(self.records, len(index)):
                records = take(self.records, index[part])
                _fill(x[part], records, self._x)
                if y is not None:
                    _fill(y[part], records, self._y)
                if weight is not None:
                    weight[part] = records["number"][:, self._weight] if self.has_weights else 1

    def _check_cache(self) -> None:
        try:
            if self.cache is not None:
                self.cache.check_unchanged()
        except RuntimeError:  # two runs that made it at once: the same rows, and ours stay mapped
            if self.cache is None or not self.cache.is_replaced:
                raise

    def check_finite(self, *, gaps: bool = False) -> None:
        """Raise ValueError that names row and column of the first gap among the numbers, if any."""
        with self._guard:
            place = None if gaps else find_not_finite(self.records["number"])
        if place is not None:
            names = [
                column.name
                for column, (field, position) in zip(self.schema.columns, self.schema.places, strict=True)
                if (field, position) == ("number", place[1])
            ]
            raise ValueError(
                f"row {place[0] + 1:,}, column {names[0]!r} is {self.records['number'][place]}; "
                f"finite numbers are needed. Fill the gaps or leave these rows out."
            )

    def check_unchanged(self) -> None:
        """Raise RuntimeError if the cache, or a file that it was made from, changed; rows in memory stay."""
        if self.cache is not None:
            super().check_unchanged()
        self._check_cache()


def _runs(places: Sequence[tuple[str, int]]) -> list[tuple[str, slice, slice]]:
    """Columns that lie side by side in a record and in a batch: field, there, here."""
    runs: list[tuple[str, slice, slice]] = []
    for here, (field, there) in enumerate(places):
        if runs and runs[-1][0] == field and runs[-1][1].stop == there:
            _, old_there, old_here = runs.pop()
            runs.append((field, slice(old_there.start, there + 1), slice(old_here.start, here + 1)))
        else:
            runs.append((field, slice(there, there + 1), slice(here, here + 1)))
    return runs


def _fill(out: Array, records: Array, runs: Sequence[tuple[str, slice, slice]]) -> None:
    for field, there, here in runs:
        values: Any = records[field][:, there]
        if field == "date":
            values = np.where(values == NO_DATE, np.nan, values / _DAY)
        np.copyto(out[:, here], values, casting="unsafe")
