"""Whether float32 tells values apart: its steps grow with the values, not with what they differ by."""

import numpy as np

STEP = float(np.finfo(np.float32).eps)
"""From one float32 to the next, as a part of the number."""

COARSE = 1e-2
"""Steps above this part of a deviation are coarse: rounding is then a loss that a training can see."""


def is_coarse(size: float, deviation: float) -> bool:
    """Whether float32's steps at numbers of this size are coarse against their deviation.

    Examples
    --------
    >>> is_coarse(1.7e9, 300.0), is_coarse(100.0, 1.0)
    (True, False)
    """
    return abs(size) * STEP > COARSE * deviation > 0
