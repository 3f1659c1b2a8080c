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
    """a ← a ⊙ mask, for a of (n_units, n_rows), or (n_units, n_rows, members) with a mask for each.

    Parameters
    ----------
    a : array
        Updated.
    numbers : array (4, members)
        See `steps.make_steps`.
    first_row : int
        Position of the first row in the step's batch.
    hashes : array of uint32
        To be written on: for each member one for each row, and one for a unit.
    """
    members, n_rows = numbers.shape[1], a.shape[1]
    least, factors, zero = numbers[2], numbers[3], a.dtype.type(0.0)
    if not np.any(factors > 0.0):
        return
    for i in range(n_rows):
        for n in range(members):
            hashes[i * members + n] = _mix(np.uint32((first_row + i) * ROW + np.uint32(numbers[0, n])))
    of_unit = hashes[n_rows * members :]
    for j in range(a.shape[0]):
        for n in range(members):
            of_unit[n] = _mix(np.uint32(j * UNIT + np.uint32(numbers[1, n])))
        if a.ndim == 2:
            one, bound, factor = of_unit[0], np.int32(least[0]), a.dtype.type(factors[0])
            for i in range(n_rows):
                a[j, i] *= factor if np.int32(_mix(np.uint32(hashes[i] + one))) >= bound else zero
        else:
            for i in range(n_rows):
                for n in range(members):
                    h = np.int32(_mix(np.uint32(hashes[i * members + n] + of_unit[n])))
                    if factors[n] > 0.0:
                        a[j, i, n] *= a.dtype.type(factors[n]) if h >= np.int32(least[n]) else zero
