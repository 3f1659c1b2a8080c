"""The loss over rows that are only looked at: held out, or all of them."""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from mlp_xp.epoch_losses import Values
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import Loss
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.machine.threads import together
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
    members, n_sums = network.members or 1, loss.n_sums
    width = members * n_sums

    def over_rows() -> tuple[list[float], float | np.ndarray]:
        values = Values(network.backend, network.members if n_sums == 1 else width)
        divisor: float | np.ndarray = 0.0
        work = min(loader.chunk_rows, loader.n_rows) * network.parameters.most_weights
        n_parts = network.backend.runtime.n_parts(members, work)
        losses_of = _losses_in_parts(network, loss, n_parts) if n_parts > 1 else _losses(network, loss)
        for batch in loader.batches(0, network.backend, **targets_of(network, loss, ranks)):
            for x, y, weight in batch:
                found = losses_of(x, y, weight)
                values.append(found if n_sums == 1 else network.backend.xp.reshape(found, (width,)))
            divisor = divisor + batch.own_weight
        values.flush()
        return [_sum(values.read[n::width]) for n in range(width)], divisor

    network.backend.runtime.select()
    with network.backend.runtime.working():
        totals, divisor = within_memory(loader, network, over_rows)
    divisors = np.broadcast_to(divisor, members).tolist()
    if ranks is not None:
        both = ranks.sum_numbers([*totals, *divisors])
        totals, divisors = both[:width], both[width:]
    sums = (totals[n : n + n_sums] for n in range(0, width, n_sums))
    return [loss.mean_of(of, own) if own else math.nan for of, own in zip(sums, divisors, strict=True)]


LossesOf = Callable[[Array, Array, Array | None], Array]
"""Σ s L of a chunk x, y, weight, of each member."""


def _losses(network: Network, loss: Loss) -> LossesOf:
    """By one thread."""
    memo = Memo(network, 1, way_back=False)

    def losses_of(x: Array, y: Array, weight: Array | None) -> Array:
        return loss(network.backend, forward(network, x, memo.of(x.shape[-2])), y, weight)

    return losses_of


def _losses_in_parts(network: Network, loss: Loss, n_parts: int) -> LossesOf:
    """By several threads, some members each."""
    members = network.members or 1
    bounds = list(itertools.pairwise(members * part // n_parts for part in range(n_parts + 1)))
    parts = [_losses(network.some(*own), loss.of_members(*own)) for own in bounds]

    def losses_of(*chunk: Array) -> Array:
        of_each = (
            [each[first:stop, ...] if each is not None and each.ndim == 3 else each for each in chunk]
            for first, stop in bounds
        )
        tasks = [functools.partial(part, *own) for part, own in zip(parts, of_each, strict=True)]
        return network.backend.xp.concat(together(tasks))

    return losses_of


def _sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan
