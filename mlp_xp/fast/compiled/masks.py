"""Dropout's masks, as `dropout.Dropout` draws them."""

from typing import Any

import numpy as np

from mlp_xp.dropout import ROW, UNIT
from mlp_xp.fast.compiled.compiler import in_any_order
from mlp_xp.machine.array_api import Array


@in_any_order
def _mix(h: Any) -> Any:
    """As `dropout._mix`, without signs."""
    h = np.uint32((h ^ (h >> 16)) * 0x7FEB352D)
    h = np.uint32((h ^ (h >> 15)) * 0x846CA68B)
    return np.uint32(h ^ (h >> 16))


@in_any_order
def drop(a: Array, numbers: Array, first_row: int, hashes: Array) -> None:
    """a ← a ⊙ mask, for a of (n_units, n_rows); members side by side have none.

    Parameters
    ----------
    a : array
        Updated.
    numbers : array (4,)
        See `steps.make_steps`.
    first_row : int
        Position of the first row in the step's batch.
    hashes : array of uint32
        To be written on, one for each row.
    """
    if a.ndim == 2:
        row_key, unit_key = np.uint32(numbers[0]), np.uint32(numbers[1])
        least, factor, zero = np.int32(numbers[2]), a.dtype.type(numbers[3]), a.dtype.type(0.0)
        for i in range(a.shape[1]):
            hashes[i] = _mix(np.uint32((first_row + i) * ROW + row_key))
        for j in range(a.shape[0]):
            of_unit = _mix(np.uint32(j * UNIT + unit_key))
            for i in range(a.shape[1]):
                a[j, i] *= factor if np.int32(_mix(np.uint32(hashes[i] + of_unit))) >= least else zero
