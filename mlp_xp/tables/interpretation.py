"""How the columns of a table are understood: what a model keeps of the table that it was trained on."""

import dataclasses

from mlp_xp.losses import Loss
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.tables.written import Written


@dataclasses.dataclass(eq=False, repr=False)
class Interpretation:
    """What raw rows mean, and what predictions do.

    `levels` are names of classes, None for regression; `loss` is what predictions are for, where that is
    known; `written` how the columns of the training table were written.
    """

    inputs: Inputs
    targets: Targets
    levels: tuple[str, ...] | None
    loss: Loss | None
    written: Written
