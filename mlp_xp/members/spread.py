"""How far members differ in what they predict."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.settings import checks


def with_spread(
    of_each: np.ndarray, *, return_std: bool, quantiles: Sequence[float] | None
) -> tuple[Any, ...]:
    """The members' mean, and what is asked for of how far they differ.

    Raises ValueError: a quantile is none.

    Parameters
    ----------
    of_each : array (members, …)
        What each predicts.
    return_std : bool
        Whether their standard deviation is given; it is 0 where there is one.
    quantiles : sequence of float in [0, 1], or None
        Which quantiles over the members are given, (n_quantiles, …).
    """
    wanted = [] if quantiles is None else list(quantiles)
    checks.refuse(checks.number("quantiles", q, least=0, most=1) for q in wanted)
    found = [of_each.mean(axis=0)]
    if return_std:
        found.append(of_each.std(axis=0))
    if quantiles is not None:
        found.append(np.quantile(of_each, wanted, axis=0))
    return tuple(found)
