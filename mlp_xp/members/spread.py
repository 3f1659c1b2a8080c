"""How far members differ in what they predict."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.settings import checks


def with_spread(
    of_each: np.ndarray, *, return_std: bool, quantiles: Sequence[float] | None
) -> tuple[Any, ...]:
    """The members' mean of what each predicts (members, …), and what is asked for of how far they differ.

    That is their standard deviation, 0 where there is one, and quantiles over them (n_quantiles, …).

    Raises ValueError: a quantile is none.
    """
    wanted = [] if quantiles is None else list(quantiles)
    checks.refuse(checks.number("quantiles", q, least=0, most=1) for q in wanted)
    found = [of_each.mean(axis=0)]
    if return_std:
        found.append(of_each.std(axis=0))
    if quantiles is not None:
        found.append(np.quantile(of_each, wanted, axis=0))
    return tuple(found)
