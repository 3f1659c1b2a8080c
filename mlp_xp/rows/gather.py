"""Rows in an epoch's order, from their source to buffers that are used again, and on to the device."""

from collections.abc import Callable

import numpy as np

from mlp_xp.machine.array_api import Backend
from mlp_xp.machine.staging import Staging
from mlp_xp.rows.batch import Chunk, Gathered
from mlp_xp.rows.order import RowNumbers, row_numbers
from mlp_xp.rows.source import Source, Taken


class Gatherer:
    """Fills reused host buffers with rows in an epoch's order, and sends them to the device.

    Targets may be checked (`check`). Rows that are on the device already are taken from there (`take`).
    """

    def __init__(
        self,
        source: Source,
        order: RowNumbers,
        staging: Staging,
        backend: Backend,
        check: Callable[[np.ndarray], None] | None = None,
        take: Callable[[np.ndarray], Taken] | None = None,
    ) -> None:
        self.source, self.order, self.staging, self.check = source, order, staging, check
        self.backend, self.runtime, self.take = backend, backend.runtime, take
        self.weighted = source.has_weights

    def __call__(self, ranges: list[tuple[int, int]], slot: int) -> Gathered:
        """The rows of some ranges of positions, one after the other; valid until the slot is filled again."""
        parts = [row_numbers(self.order, start, stop, self.source.n_rows) for start, stop in ranges]
        index = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.take is not None:
            *rows, host_weight = self.take(index)
            return Gathered(Chunk(*rows), host_weight, slot)
        x, y, column = self.staging.host(slot, len(index))
        weight = column if column is None or self.source.n_weights > 1 else column[:, 0]

        def fill(part: slice) -> None:
            self.source.rows(index[part], x[part], y[part], None if weight is None else weight[part])

        if self.source.threads_may_share:
            self.runtime.in_parts(fill, len(index), x.nbytes)
        else:
            fill(slice(None))
        if self.check is not None:
            check_rows(self.check, y, index)
        on_device = self.staging.send(slot, len(index))
        return Gathered(Chunk(*on_device), weight, slot)


CHECKED_ROWS = 65_536
"""Rows whose targets are looked at together before the first step."""


def check_rows(check: Callable[[np.ndarray], None], y: np.ndarray, index: np.ndarray) -> None:
    """Refuse targets, and name the row by its number in the source."""
    try:
        check(y)
    except ValueError:
        for position, row in enumerate(index.tolist()):
            try:
                check(y[position : position + 1])
            except ValueError as error:
                raise ValueError(str(error).replace("row 0", f"row {row}")) from None
        raise
