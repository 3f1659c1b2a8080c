"""Whether float32 tells values apart: its steps grow with the values, not with what they differ by."""

import warnings
from collections.abc import Sequence

import numpy as np

STEP = float(np.finfo(np.float32).eps)
"""From one float32 to the next, as a part of the number."""

COARSE = 1e-2
"""Steps above this part of a deviation are coarse: rounding is then a loss that a training can see."""


LOOKED_AT = 4096
"""Rows that are looked at."""


def is_coarse(size: float, deviation: float) -> bool:
    """Whether float32's steps at numbers of this size are coarse against their deviation.

    Examples
    --------
    >>> is_coarse(1.7e9, 300.0), is_coarse(100.0, 1.0)
    (True, False)
    """
    return abs(size) * STEP > COARSE * deviation > 0


def warn_if_coarse(what: str, values: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Warn where float32 rounds away what tells the values of a column apart, such as Unix seconds.

    The first `LOOKED_AT` rows are looked at.
    """
    part = np.asarray(values[:LOOKED_AT], dtype=float)
    if len(part) < 2:
        return
    with np.errstate(all="ignore"):  # of values so large that they overflow there is nothing to say here
        means = part.mean(axis=0)
        deviations = np.where(np.ptp(part, axis=0) > 0, part.std(axis=0), 0.0)  # not the mean's rounding
    for at, (mean, deviation) in enumerate(zip(means.tolist(), deviations.tolist(), strict=True)):
        if is_coarse(mean, deviation):
            column = f"{what}[:, {at}]" if names is None else f"column {names[at]!r}"
            warnings.warn(
                f"{column}: float32 has steps of {abs(mean) * STEP:.3g} at {mean:.6g}, which is coarse for "
                f"values that differ by {deviation:.3g}. Subtract their mean in float64, or compute with "
                "dtype='float64'.",
                stacklevel=2,
            )
