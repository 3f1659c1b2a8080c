"""What `train` is given for each member: one thing for all, or one each."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mlp_xp.dropout import Dropout
from mlp_xp.members.pieces import EachDropout
from mlp_xp.settings import checks, fields

PIECES = ("loss", "watched_loss", "optimizer", "regularizer")
"""Of these a list holds one for each member."""

NUMBERS = ("learning_rate", "clip_norm")
"""Of these any sequence holds one for each member."""


def given_to(n: int, members: int, given: dict[str, Any]) -> dict[str, Any]:
    """What a member is given, by name.

    Raises ValueError: there are more or fewer than members.
    """
    found = dict(given)
    for name in (*PIECES, *NUMBERS, "dropout"):
        value = given[name]
        if _is_one_each(name, value):
            if len(value) != members:
                raise ValueError(
                    f"{name} has {len(value)} entries for {members} members: give one for all, or {members}."
                )
            found[name] = _of_layers(value[n]) if name == "dropout" else value[n]
    return found


def _of_layers(rates: Any) -> Any:
    """A rate for each layer, or one for all."""
    if not hasattr(rates, "__len__"):
        return rates
    return rates[0] if len(rates) == 1 else list(rates)


def with_own_numbers(name: str, piece: Any, n: int, members: int | None) -> Any:
    """A piece with a member's numbers, where it holds one for each; n counts the members.

    Raises ValueError: there are more or fewer than members, of which a network may have none.
    """
    each = fields.numbers_of_each(piece)
    checks.refuse(
        f"{name}: {field} has {len(numbers)} numbers, one for each member, and this network has "
        f"{'no members' if members is None else f'{members} members'}: give one for all, or as many."
        for field, numbers in each.items()
        if len(numbers) != members
    )
    own = {field: numbers[n] for field, numbers in each.items()}
    return dataclasses.replace(piece, **own) if own else piece


def shared(name: str, piece: Any) -> Any:
    """A piece, unless it holds numbers for each member, which those of an estimator share."""
    checks.refuse(
        f"{name}: {field}={numbers!r} are numbers for each member of a network, and an estimator's members "
        "share all: give one, or use mlp_xp.train."
        for field, numbers in fields.numbers_of_each(piece).items()
    )
    return piece


def _is_one_each(name: str, value: Any) -> bool:
    if name in PIECES:
        return isinstance(value, list)
    is_many = hasattr(value, "__len__") and not isinstance(value, str)
    if name == "dropout":  # a sequence has one rate a layer
        return is_many and any(hasattr(each, "__len__") for each in value)
    return is_many


def dropout_of(each: Sequence[Dropout | None], n_hidden: int, seeds: Sequence[int]) -> Dropout | None:
    """Masks of each member; None where none has any."""
    if not any(each):
        return None
    nothing = (0.0,) * n_hidden
    return EachDropout(
        [Dropout(nothing, seed) if one is None else one for one, seed in zip(each, seeds, strict=True)]
    )
