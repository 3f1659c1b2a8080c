"""What `train` is told beside its data: names become pieces, numbers are within bounds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlp_xp.dropout import Dropout, resolve_dropout
from mlp_xp.losses import LOSSES, Loss
from mlp_xp.members.given import with_own_numbers
from mlp_xp.optimizers import OPTIMIZERS, Rule
from mlp_xp.own import find
from mlp_xp.regularizers import REGULARIZERS, Regularizer
from mlp_xp.schedules import SCHEDULES, Schedule
from mlp_xp.settings import checks, fields

WAYS = ("fast", "fused", "plain")
"""How updates are made: "fast" is all that the device has, "fused" the same without recording a step and
launching it as one (a CUDA graph; on a CPU they are the same), "plain" the rules as they are written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `train` is told beside its data, checked; all that is wrong is said at once.

    `train` says what each of them means, and has the defaults. `problems` are those of names.

    Raises ValueError, TypeError: a name, an instance or a number is refused.
    """

    loss: Loss
    watched_loss: Loss | None
    optimizer: Rule
    schedule: Schedule
    decay_schedule: Schedule
    dropout_schedule: Schedule
    regularizer: Regularizer | None
    learning_rate: float = fields.number(above=0)
    reduction: str = fields.one_of(("mean", "sum"))
    keep: str = fields.one_of(("last", "best"))
    on_divergence: str = fields.one_of(("stop", "rollback"))
    way: str = fields.one_of(WAYS)
    max_epochs: int = fields.whole()
    tolerance: float = fields.number(least=0)
    average: float = fields.number(least=0, below=1)
    seed: int = fields.whole(least=0)
    clip_norm: float | None = fields.number(None, above=0)
    patience: int | None = fields.whole(None)
    threads: int | None = fields.whole(None)
    loss_below: float | None = fields.number(None)
    time_budget: float | None = fields.number(None, above=0)

    masks: Dropout | None = None
    problems: dataclasses.InitVar[Sequence[str | None]] = ()

    def __post_init__(self, problems: Sequence[str | None]) -> None:
        """Refuse what is wrong."""
        checks.refuse([*problems, *fields.problems(self)])

    @classmethod
    def of(
        cls, given: Mapping[str, Any], seed: Any, n_hidden: int, n: int = 0, members: int | None = None
    ) -> "Settings":
        """What `train` is given by name, for a network with so many hidden layers, or for its member n."""
        problems: list[str | None] = []
        rest = {name: value for name, value in given.items() if name not in (*CATALOGUES, "dropout")}
        found = _found(problems, **{name: given[name] for name in CATALOGUES})
        pieces = {name: with_own_numbers(name, piece, n, members) for name, piece in found.items()}
        made = cls(**pieces, **rest, seed=seed, problems=problems)
        return dataclasses.replace(made, masks=resolve_dropout(given["dropout"], n_hidden, seed))


CATALOGUES: dict[str, Mapping[str, type]] = {
    "loss": LOSSES,
    "watched_loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "decay_schedule": SCHEDULES,
    "dropout_schedule": SCHEDULES,
    "regularizer": REGULARIZERS,
}
"""Settings that are named."""


def _found(problems: list[str | None], **given: object) -> dict[str, Any]:
    """What names stand for; with None for those that stand for nothing, and a note of why."""
    as_it_is: dict[str, tuple[type, ...]] = {
        "regularizer": (type(None),),
        "watched_loss": (type(None), Loss),
    }
    return {
        name: value
        if isinstance(value, as_it_is.get(name, ()))
        else find(problems, name, CATALOGUES[name], value)
        for name, value in given.items()
    }
