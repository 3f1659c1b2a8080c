"""The numbers that an update rule multiplies with at one step, for its form as one pass over memory."""

from typing import Any

from mlp_xp.optimizers import SGD, Adam, AdamW, Momentum, Nadam, Nesterov, RMSprop


def rule_numbers(rule: Any, t: int, rate: float) -> tuple[float, ...] | None:
    """A rule's numbers h_0, h_1, … at step t and rate η; None for a rule that is not known here.

        sgd         p ← p − h₀ g
        momentum    v ← h₁ v − h₀ g,  p ← p + v
        nesterov    v ← h₁ v − h₀ g,  p ← p + h₁ v − h₀ g
        rmsprop     v ← h₁ v + h₂ g²,  p ← p − h₀ g / (√v + h₃)
        adam        m ← h₁ m + g,  v ← h₂ v + g²,  p ← p − h₀ m / (√v + h₃)
        adamw       W ← h₄ W, then Adam's
        nadam       m, v as Adam's,  p ← p − h₀ (h₄ m + h₅ g) / (√v + h₃)

    Parameters
    ----------
    rule : optimizer rule
        Of `optimizers`; it is these classes themselves that are known, not their subclasses.
    t : int
        The step, from 1.
    rate : float
        η.
    """
    kind = type(rule)
    if kind is SGD:
        return (rate,)
    if kind in (Momentum, Nesterov):
        return rate, rule.momentum
    if kind is RMSprop:
        return rate, rule.decay, 1.0 - rule.decay, rule.eps
    if kind is Adam:
        scale, eps = rule.scales(t)
        return rate * scale, rule.beta1, rule.beta2, eps
    if kind is AdamW:
        scale, eps = Adam(rule.beta1, rule.beta2, rule.eps).scales(t)
        return rate * scale, rule.beta1, rule.beta2, eps, 1.0 - rate * rule.weight_decay
    if kind is Nadam:
        look_ahead, now, root = rule.scales(t)
        return rate / root, rule.beta1, rule.beta2, rule.eps / root, look_ahead, now
    return None
