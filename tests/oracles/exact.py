"""Activations and losses to 400 digits, with derivatives as difference quotients over 1e-60.

Plain definitions in Python's `decimal`: with so many digits nothing has to be rearranged, and no
derivative has to be written down.
"""

import decimal
import functools
from decimal import Decimal as D

CONTEXT = decimal.Context(prec=400, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
H = D("1e-60")
PI = D("3.14159265358979323846264338327950288419716939937510582097494459")
SELU_SCALE = D("1.0507009873554804934193349852946")
SELU_ALPHA = D("1.6732632423543772848170429916717")


def exactly(f):
    """Compute with 400 digits."""

    def g(*arguments, **named):
        with decimal.localcontext(CONTEXT):
            return f(*arguments, **named)

    return g


def exp(z):
    return z.exp()


def tanh(z):
    e = exp(2 * z)
    return (e - 1) / (e + 1)


def logistic(z):
    return 1 / (1 + exp(-z))


def softplus(z):
    return (1 + exp(z)).ln()


ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": logistic,
    "tanh": tanh,
    "relu": lambda z: max(z, D(0)),
    "leaky_relu": lambda z: z if z > 0 else D("0.01") * z,
    "elu": lambda z: z if z > 0 else exp(z) - 1,
    "selu": lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * (exp(z) - 1)),
    "softplus": softplus,
    "silu": lambda z: z * logistic(z),
    "gelu": lambda z: z / 2 * (1 + tanh((2 / PI).sqrt() * (z + D("0.044715") * z**3))),
    "mish": lambda z: z * tanh(softplus(z)),
}


def _huber(z, y, delta=1.0):
    r, d = abs(y[0] - z[0]), D(delta)
    return r**2 / 2 if r <= d else d * (r - d / 2)


def _pinball(z, y, quantiles=(0.5,)):
    total = D(0)
    for target, value in enumerate(y):
        for number, q in enumerate(quantiles):
            r = value - z[target * len(quantiles) + number]
            total += max(D(q) * r, (D(q) - 1) * r)
    return total


def _softmax_cross_entropy(z, y, label_smoothing=0.0):
    p = softmax(z)
    smooth = D(label_smoothing)
    targets = [(1 - smooth) * (j == y[0]) + smooth / len(z) for j in range(len(z))]
    return -sum(t * q.ln() for t, q in zip(targets, p, strict=True) if t)


def _binary_cross_entropy(z, y, label_smoothing=0.0):
    target = (1 - D(label_smoothing)) * y[0] + D(label_smoothing) / 2
    return target * softplus(-z[0]) + (1 - target) * softplus(z[0])


def softmax(z):
    e = [exp(each) for each in z]
    return [each / sum(e) for each in e]


def _grouped_cross_entropy(z, y, groups, label_smoothing=0.0):
    z = list(z)
    parts = [[z.pop(0) for _ in range(size)] for size in groups]
    return sum(_softmax_cross_entropy(part, [c], label_smoothing) for part, c in zip(parts, y, strict=True))


def _poisson(z, y, deviance=False):
    saturated = y[0] * y[0].ln() - y[0] if deviance and y[0] else 0
    return exp(z[0]) - y[0] * z[0] + saturated


def _summed(f):
    """A loss of one output, summed over outputs."""
    return lambda z, y, **named: sum(f([a], [b], **named) for a, b in zip(z, y, strict=True))


LOSSES = {
    "squared_error": _summed(lambda z, y: (y[0] - z[0]) ** 2),
    "half_squared_error": _summed(lambda z, y: (y[0] - z[0]) ** 2 / 2),
    "absolute_error": _summed(lambda z, y: abs(y[0] - z[0])),
    "huber": _summed(_huber),
    "pinball": _pinball,
    "poisson": _summed(_poisson),
    "binary_cross_entropy": _summed(_binary_cross_entropy),
    "softmax_cross_entropy": _softmax_cross_entropy,
    "grouped_cross_entropy": _grouped_cross_entropy,
}
"""L of one row: lists of z and of y."""


@functools.cache
@exactly
def activation(name, z):
    """Value and derivative of one number."""
    f, z = ACTIVATIONS[name], D(float(z))
    return float(f(z)), float((f(z + H) - f(z - H)) / (2 * H))


def loss(name, z, y, **parameters):
    """L of one row, and ∂L/∂z."""
    return _loss(name, tuple(map(float, z)), tuple(map(float, y)), tuple(parameters.items()))


@functools.cache
@exactly
def _loss(name, z, y, parameters):
    parameters = dict(parameters)
    z, y = [D(each) for each in z], [D(each) for each in y]

    def at(j, step):
        moved = [each + step * (i == j) for i, each in enumerate(z)]
        return LOSSES[name](moved, y, **parameters)

    slopes = [float((at(j, H) - at(j, -H)) / (2 * H)) for j in range(len(z))]
    return float(LOSSES[name](z, y, **parameters)), slopes


@exactly
def link(name, z):
    """Predictions of one row."""
    z = [D(float(each)) for each in z]
    if name == "softmax":
        return [float(p) for p in softmax(z)]
    f = {"identity": lambda v: v, "logistic": logistic, "exp": exp}[name]
    return [float(f(each)) for each in z]
