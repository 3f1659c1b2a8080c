"""Pieces of the catalogues with numbers drawn within the bounds that they declare, and targets for losses."""

import dataclasses
import math

import numpy as np

from mlp_xp.settings import fields


def drawn(kind, rng, **given):
    """One whose numbers, words and switches are drawn, but for those given."""
    bounds = {name: declared.bound for name, declared in fields.of(kind).items()}
    switches = {each.name: None for each in dataclasses.fields(kind) if isinstance(each.default, bool)}
    return kind(**{name: _within(bound, rng) for name, bound in (switches | bounds).items()} | given)


def _within(bound, rng):
    if bound is None:
        return bool(rng.integers(2))
    if isinstance(bound, fields.OneOf):
        return str(rng.choice(bound.words))
    if isinstance(bound, fields.Whole):
        return bound.least + int(rng.integers(5))
    least, most = max(bound.above, bound.least), min(bound.below, bound.most)
    if math.isfinite(least) and math.isfinite(most):
        return float(rng.uniform(least, most))
    if math.isfinite(least):
        return float(least + rng.exponential())
    return float(most - rng.exponential()) if math.isfinite(most) else float(rng.normal())


def sizes_of(loss):
    """Targets and outputs for a loss."""
    n_targets = 1 if loss.labels else 2
    return n_targets, loss.n_outputs(n_targets, 3)


def targets(rng, loss, shape, n_outputs):
    """Targets for which a loss has a meaning, and which float32 holds exactly."""
    if loss.labels:
        return rng.integers(0, getattr(loss, "groups", n_outputs), shape)
    if math.isfinite(loss.least) and math.isfinite(loss.most):
        return loss.least + (loss.most - loss.least) * rng.integers(0, 5, shape) / 4
    if math.isfinite(loss.least):
        return loss.least + rng.poisson(2.0, shape)
    return np.round(rng.normal(size=shape), 2).astype("float32").astype(float)
