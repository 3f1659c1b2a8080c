"""Targets of .npy and .npz files that are texts or dates: names of classes, as in a table."""

import numpy as np

from mlp_xp.machine import main_memory
from mlp_xp.rows.arrays import Array
from mlp_xp.tables.files.columns import RawColumn


class ClassNames:
    """Makes numbers of classes that are named; knows the names, as a column of text: none of numbers."""

    def __init__(self) -> None:
        self.columns: tuple[RawColumn, ...] = ()

    def numbers(self, y: Array) -> Array:
        """Targets of one column as the positions of their names, and any others as they are."""
        if y.dtype.kind not in "UM" or y.ndim not in (1, 2) or not y.size == len(y) > 0:
            return y
        main_memory.require(2 * y.nbytes, "telling the classes of y apart")
        names, numbers = np.unique(y, return_inverse=True)
        if y.dtype.kind == "M" and np.isnat(names[-1]):
            raise ValueError(f"y[{int(np.argmax(np.isnat(y)))}] is NaT: leave rows without a class out.")
        is_text = y.dtype.kind == "U"
        try:
            texts = tuple((names if is_text else _dates(names)).tolist())
        except (ValueError, SystemError) as error:  # codes that are no characters, in a damaged file
            raise ValueError(f"y holds texts that are none: {error}.") from None
        self.columns = (RawColumn("y", "text", texts, "text" if is_text else "text of numbers"),)
        return numbers.reshape(-1)


def _dates(moments: Array) -> Array:
    """Dates as they are written, no finer than they need."""
    units = [unit for unit in ("D", "s", "us", "ns") if (moments.astype(f"M8[{unit}]") == moments).all()]
    texts: Array = np.strings.replace(moments.astype(f"M8[{units[0]}]").astype(str), "T", " ")
    return texts
