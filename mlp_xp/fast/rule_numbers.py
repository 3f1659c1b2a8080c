"""The numbers that an update rule multiplies with at one step, for its form as one pass over memory."""

from typing import Any

from mlp_xp.optimizers import OPTIMIZERS
from mlp_xp.settings.catalogue import known_name


def rule_numbers(rule: Any, t: int, rate: float) -> tuple[float, ...] | None:
    """`Rule.numbers`; None for what is not itself of the catalogue: a subclass may update otherwise."""
    return None if known_name(OPTIMIZERS, rule) is None else rule.numbers(t, rate)
