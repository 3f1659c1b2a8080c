"""Which settings are tried: drawn at random around the recipe's, a pure function of the seed."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.optimizers import OPTIMIZERS, AdamW
from mlp_xp.settings.catalogue import describe
from mlp_xp.tables.options import TrainingOptions

RATES = (0.2, 3.0)
"""A learning rate is between these times the recipe's, evenly by magnitude."""

DECAYS = (0.05, 10.0)
"""So is a weight decay."""

DROPOUTS = (0.0, 0.05, 0.1, 0.2, 0.3)
PENALTIES = (0.0, 0.0, 1e-6, 1e-5, 1e-4)
WIDTHS, DEPTHS = (64, 128, 256), (1, 2, 3, 4)
ACTIVATIONS = ("mish", "relu", "selu", "tanh", "silu")
ENCODINGS = ("encoded", "encoded", "standard", "robust")
"""What is drawn from; what stands there twice comes twice as often."""

OF_ONE_SHAPE = 8
"""Tries that differ by numbers alone, and are trained at once."""

SHAPE = ("hidden", "activation", "scaling")
"""Settings that tries of one shape have in common."""

SEARCHED = ("learning_rate", "optimizer", "dropout", "l2", *SHAPE)
"""Settings that are drawn, unless somebody gave them."""


def draw(base: TrainingOptions, n_tries: int, fixed: Sequence[str]) -> list[TrainingOptions]:
    """Options of each try; the first are the base's own, the next ones have its shape.

    The base has all that the recipe decides; settings that are fixed are not drawn.
    """
    tries = []
    for number in range(n_tries):
        drawn = _numbers(base, np.random.default_rng([base.seed, 1, number])) if number else {}
        if shape := number // OF_ONE_SHAPE:
            drawn |= _shape(np.random.default_rng([base.seed, 2, shape]))
        if not drawn.get("hidden", base.hidden):
            drawn["dropout"] = "0"
        tries.append(
            dataclasses.replace(base, **{name: value for name, value in drawn.items() if name not in fixed})
        )
    return tries


def _numbers(base: TrainingOptions, generator: np.random.Generator) -> dict[str, Any]:
    """What tries of one shape differ by."""
    rate = _by_magnitude(generator, base.read("learning_rate"), RATES)
    rule = base.read("optimizer")
    drawn: dict[str, Any] = {
        "learning_rate": rate,
        "dropout": str(generator.choice(DROPOUTS)),
        "l2": float(generator.choice(PENALTIES)),
    }
    if isinstance(rule, AdamW):
        decay = _by_magnitude(generator, rule.weight_decay or 0.01, DECAYS)
        rule = dataclasses.replace(rule, weight_decay=decay)
        drawn["optimizer"] = _written(describe(OPTIMIZERS, rule))
    return drawn


def _written(described: str | dict[str, Any]) -> str:
    """A rule as it is written: adamw:beta2=0.95,weight_decay=0.02."""
    if isinstance(described, str):
        return described
    pairs = [f"{name}={value}" for name, value in described.items() if name != "name"]
    return f"{described['name']}:{','.join(pairs)}"


def _shape(generator: np.random.Generator) -> dict[str, Any]:
    """What makes a network of another shape."""
    width, depth = generator.choice(WIDTHS), generator.choice(DEPTHS)
    return {
        "hidden": ",".join([str(width)] * int(depth)),
        "activation": str(generator.choice(ACTIVATIONS)),
        "scaling": str(generator.choice(ENCODINGS)),
    }


def _by_magnitude(generator: np.random.Generator, base: float, times: tuple[float, float]) -> float:
    low, high = map(math.log, times)
    return float(f"{base * math.exp(generator.uniform(low, high)):.3g}")
