"""How the columns of a table are understood: what a model keeps of the table that it was trained on."""

import dataclasses

from mlp_xp.losses import Loss
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.tables.written import Written


@dataclasses.dataclass(eq=False, repr=False)
class Interpretation:
    """What raw rows mean, and what predictions do.

    Attributes
    ----------
    inputs : Inputs
        What is done with each column.
    targets : Targets
        How targets were standardised.
    levels : tuple of str or None
        Names of the classes; None for regression.
    loss : loss or None
        What predictions are for, where that is known.
    written : Written
        How the columns of the training table were written.
    """

    inputs: Inputs
    targets: Targets
    levels: tuple[str, ...] | None
    loss: Loss | None
    written: Written
