"""The loss over rows that are only looked at: held out, or all of them."""

import math

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

    In chunks, on the device, shared out over ranks; the host reads once.
    """

    def over_rows() -> tuple[float, float]:
        memo = Memo(network, 1, way_back=False)
        values, divisor = Values(network.backend), 0.0
        computing, most_weights = network.backend.runtime.computing, network.parameters.most_weights
        for batch in loader.batches(0, network.backend, **targets_of(network, loss, ranks)):
            for x, y, weight in batch:
                with computing(x.shape[0] * most_weights):
                    value = loss(network.backend, forward(network, x, memo.of(x.shape[0])), y, weight)
                values.append(value)
            divisor += batch.own_weight
        values.flush()
        return math.fsum(values.read), divisor

    network.backend.runtime.select()
    with network.backend.runtime.working():
        total, divisor = within_memory(loader, network, over_rows)
    if ranks is not None:
        total, divisor = ranks.sum_numbers([total, divisor])
    return total / divisor if divisor else math.nan
