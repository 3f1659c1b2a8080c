"""The activations and their derivatives, with the bias in the same pass.

Arrays are (n_units, n_rows), unlike everywhere else: rows lie side by side, so that loops are long also where
layers are narrow, and a block of units is one piece of memory.
"""

from typing import Any

from mlp_xp.fast.compiled.compiler import in_any_order
from mlp_xp.fast.compiled.elementary import expm1, logistic, softplus, tanh

ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "tanh", "logistic", "elu", "selu", "softplus", "silu", "gelu", "mish",
)  # fmt: skip
IDENTITY, RELU, LEAKY_RELU, TANH, LOGISTIC, ELU, SELU, SOFTPLUS, SILU, GELU, MISH = range(len(ACTIVATIONS))
FIRST_KEPT = SILU
"""From here on the derivative does not follow from the output."""

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
GELU_C, GELU_K = 0.7978845608028654, 0.044715


@in_any_order
def keeps_derivatives(functions: Any) -> bool:
    """Whether one of these needs room for its derivative."""
    return bool((functions >= FIRST_KEPT).any())


@in_any_order
def activate(f: int, c: float, z: Any, kept: Any) -> None:
    """z ← f(z), for one unit; kept ← f'(z) where that does not follow from f(z). c: a slope or an α."""
    number = z.dtype.type
    if f == RELU:
        zero = number(0.0)
        for i in range(z.size):
            x = z[i]
            if x < zero:  # so that NaN stays; `max` would hide it
                x = zero
            z[i] = x
    elif f == LEAKY_RELU:
        slope = number(c)
        for i in range(z.size):
            z[i] = slope * z[i] if z[i] < number(0.0) else z[i]
    elif f == TANH:
        for i in range(z.size):
            z[i] = tanh(z[i])
    elif f == LOGISTIC:
        for i in range(z.size):
            z[i] = logistic(z[i])
    elif f == ELU:
        for i in range(z.size):
            z[i] = z[i] if z[i] > 0.0 else c * expm1(z[i])
    elif f == SELU:
        for i in range(z.size):
            z[i] = SELU_SCALE * (z[i] if z[i] > 0.0 else SELU_ALPHA * expm1(z[i]))
    elif f == SOFTPLUS:
        for i in range(z.size):
            z[i] = softplus(z[i])
    elif f == SILU:
        for i in range(z.size):
            x = z[i]
            sigma = logistic(x)
            kept[i] = sigma * (1.0 + x * (1.0 - sigma))
            z[i] = x * sigma
    elif f == GELU:
        for i in range(z.size):
            x = z[i]
            w = x
            if w < -100.0:  # beyond, t is ±1 and w³ would overflow
                w = -100.0
            if w > 100.0:
                w = 100.0
            t = tanh(GELU_C * w * (1.0 + GELU_K * w * w))
            half = 0.5 * (1.0 + t)
            kept[i] = half + 0.5 * w * (1.0 - t * t) * GELU_C * (1.0 + 3.0 * GELU_K * w * w)
            z[i] = x * half
    elif f == MISH:
        for i in range(z.size):
            x = z[i]
            t = tanh(softplus(x))
            kept[i] = t + x * logistic(x) * (1.0 - t * t)
            z[i] = x * t


@in_any_order
def chain(f: int, c: float, delta: Any, kept: Any) -> None:
    """δ ← δ f', for one unit, from f(z) or from what was kept."""
    number = delta.dtype.type
    zero, one = number(0.0), number(1.0)
    if f == RELU:
        for i in range(delta.size):
            delta[i] *= one if kept[i] > zero else zero
    elif f == LEAKY_RELU:
        slope = number(c)
        for i in range(delta.size):
            delta[i] *= one if kept[i] > zero else slope
    elif f == TANH:
        for i in range(delta.size):
            delta[i] *= one - kept[i] * kept[i]
    elif f == LOGISTIC:
        for i in range(delta.size):
            delta[i] *= kept[i] - kept[i] * kept[i]
    elif f == ELU:
        alpha = number(c)
        for i in range(delta.size):
            delta[i] *= one if kept[i] > zero else kept[i] + alpha
    elif f == SELU:
        right, left = number(SELU_SCALE), number(SELU_SCALE * SELU_ALPHA)
        for i in range(delta.size):
            delta[i] *= right if kept[i] > zero else kept[i] + left
    elif f == SOFTPLUS:
        for i in range(delta.size):
            delta[i] *= -expm1(-kept[i])
    elif f >= FIRST_KEPT:
        for i in range(delta.size):
            delta[i] *= kept[i]
