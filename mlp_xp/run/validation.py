"""The loss over rows that are only looked at: held out, or all of them."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from mlp_xp.epoch_losses import Values
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import Loss
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.objective import targets_of
from mlp_xp.rows.loader import Loader
from mlp_xp.run.micro_batches import within_memory


def mean_loss(network: Network, loader: Loader, loss: Loss, ranks: Ranks | None = None) -> float:
    """The loss over all rows of a loader, without penalty and dropout: Σ s_i L_i / Σ s_i.

    Of members it is the mean. In chunks, on the device, shared out over ranks; the host reads once.
    """
    return statistics.fmean(mean_losses(network, loader, loss, ranks))


def mean_losses(network: Network, loader: Loader, loss: Loss, ranks: Ranks | None = None) -> list[float]:
    """`mean_loss` of each member, over the rows that it has a weight for; of one network alone, that one."""
    members = network.members or 1

    def over_rows() -> tuple[list[float], float | np.ndarray]:
        memo = Memo(network, 1, way_back=False)
        values = Values(network.backend, network.members)
        divisor: float | np.ndarray = 0.0
        computing, most_weights = network.backend.runtime.computing, network.parameters.most_weights
        for batch in loader.batches(0, network.backend, **targets_of(network, loss, ranks)):
            for x, y, weight in batch:
                n_rows = x.shape[-2]
                with computing(n_rows * most_weights):
                    value = loss(network.backend, forward(network, x, memo.of(n_rows)), y, weight)
                values.append(value)
            divisor = divisor + batch.own_weight
        values.flush()
        return [_sum(values.read[n::members]) for n in range(members)], divisor

    network.backend.runtime.select()
    with network.backend.runtime.working():
        totals, divisor = within_memory(loader, network, over_rows)
    divisors = np.broadcast_to(divisor, members).tolist()
    if ranks is not None:
        both = ranks.sum_numbers([*totals, *divisors])
        totals, divisors = both[:members], both[members:]
    return [total / own if own else math.nan for total, own in zip(totals, divisors, strict=True)]


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan
