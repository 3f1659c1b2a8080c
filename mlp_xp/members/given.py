"""What `train` is given for each member: one thing for all, or one each."""

from collections.abc import Sequence
from typing import Any

from mlp_xp.dropout import Dropout
from mlp_xp.members.pieces import EachDropout, EachLoss, EachPenalty, as_one
from mlp_xp.regularizers import Regularizer
from mlp_xp.settings import checks

PIECES = ("loss", "watched_loss", "optimizer", "regularizer")
"""Of these a list holds one for each member."""

NUMBERS = ("learning_rate", "clip_norm")
"""Of these any sequence holds one for each member."""


def given_to(n: int, members: int, given: dict[str, Any]) -> dict[str, Any]:
    """What a member is given, by name.

    Raises
    ------
    ValueError
        There are more or fewer than members.
    """
    found = dict(given)
    for name in (*PIECES, *NUMBERS, "dropout"):
        value = given[name]
        if _is_one_each(name, value):
            checks.refuse(
                [
                    f"{name} has {len(value)} entries for {members} members: give one for all, or {members}."
                    if len(value) != members
                    else None
                ]
            )
            found[name] = value[n]
    return found


def _is_one_each(name: str, value: Any) -> bool:
    if name in PIECES:
        return isinstance(value, list)
    is_many = hasattr(value, "__len__") and not isinstance(value, str)
    if name == "dropout":  # a sequence has one rate a layer
        return is_many and any(hasattr(each, "__len__") for each in value)
    return is_many


def loss_of(losses: Sequence[Any]) -> Any:
    """The loss of all members, or each one's."""
    return as_one(losses, EachLoss)


def penalty_of(penalties: Sequence[Regularizer | None]) -> Any:
    """The penalty of all members, or each one's; None where none has one."""
    return as_one(penalties, EachPenalty)


def dropout_of(each: Sequence[Dropout | None], n_hidden: int, seeds: Sequence[int]) -> Dropout | None:
    """Masks of each member; None where none has any."""
    if not any(each):
        return None
    nothing = (0.0,) * n_hidden
    return EachDropout(
        [Dropout(nothing, seed) if one is None else one for one, seed in zip(each, seeds, strict=True)]
    )
