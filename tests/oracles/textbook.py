"""The definitions as a textbook prints them: for libraries that differentiate by themselves.

Nothing here is stable at large |z|, fast, or knows a derivative. `np` is a namespace with NumPy's
names: NumPy's own, autograd's, JAX's.
"""

import itertools

ACTIVATIONS = {
    "identity": lambda np, z: z,
    "logistic": lambda np, z: 1 / (1 + np.exp(-z)),
    "tanh": lambda np, z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
    "relu": lambda np, z: np.where(z > 0, z, 0 * z),
    "leaky_relu": lambda np, z: np.where(z > 0, z, 0.01 * z),
    "elu": lambda np, z: np.where(z > 0, z, np.exp(z) - 1),
    "selu": lambda np, z: (
        1.0507009873554804934193349852946
        * np.where(z > 0, z, 1.6732632423543772848170429916717 * (np.exp(z) - 1))
    ),
    "softplus": lambda np, z: np.log(1 + np.exp(z)),
    "silu": lambda np, z: z / (1 + np.exp(-z)),
    "gelu": lambda np, z: z / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3))),
    "mish": lambda np, z: z * np.tanh(np.log(1 + np.exp(z))),
}


def _huber(np, z, y, delta):
    r = np.abs(y - z)
    return np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))


def _pinball(np, z, y, quantiles):
    """Outputs of one target are neighbours: z has columns (target 0, quantile 0), (0, 1), ..."""
    losses = []
    for column in range(z.shape[1]):
        q = quantiles[column % len(quantiles)]
        r = y[:, column // len(quantiles)] - z[:, column]
        losses.append(np.where(r > 0, q * r, (q - 1) * r))
    return np.stack(losses, axis=1)


def _binary_cross_entropy(np, z, y):
    p = 1 / (1 + np.exp(-z))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def _softmax_cross_entropy(np, z, y, smoothing):
    p = np.exp(z) / np.sum(np.exp(z), axis=1, keepdims=True)
    n_classes = z.shape[1]
    target = (1 - smoothing) * (y == np.arange(n_classes)) + smoothing / n_classes
    return -target * np.log(p)


def _grouped_cross_entropy(np, z, y, groups):
    losses, start = [], 0
    for target, size in enumerate(groups):
        part = z[:, start : start + size]
        losses.append(_softmax_cross_entropy(np, part, y[:, target : target + 1], 0.0))
        start += size
    return np.concatenate(losses, axis=1)


LOSSES = {
    "squared_error": lambda np, z, y: (y - z) ** 2,
    "half_squared_error": lambda np, z, y: (y - z) ** 2 / 2,
    "absolute_error": lambda np, z, y: np.abs(y - z),
    "huber": lambda np, z, y, delta=1.0: _huber(np, z, y, delta),
    "pinball": lambda np, z, y, quantiles=(0.5,): _pinball(np, z, y, quantiles),
    "poisson": lambda np, z, y: np.exp(z) - y * z,
    "binary_cross_entropy": _binary_cross_entropy,
    "softmax_cross_entropy": lambda np, z, y, label_smoothing=0.0: _softmax_cross_entropy(
        np, z, y, label_smoothing
    ),
    "grouped_cross_entropy": _grouped_cross_entropy,
}
"""L of each row and output."""

REGULARIZERS = {
    "l1": lambda np, w, strength: strength * np.sum(np.abs(w)),
    "l2": lambda np, w, strength: strength * np.sum(w**2),
    "elastic_net": lambda np, w, l1, l2: l1 * np.sum(np.abs(w)) + l2 * np.sum(w**2),
}


def unpack(flat, layer_sizes, bias):
    """W_1 … W_L and b_1 … b_L (zero without biases) of a flat vector [W_1 | … | W_L | b_1 | …]."""
    pairs = list(itertools.pairwise(layer_sizes))
    weights, biases, start = [], [], 0
    for n_in, n_out in pairs:
        weights.append(flat[start : start + n_in * n_out].reshape((n_in, n_out)))
        start += n_in * n_out
    for _, n_out in pairs:
        biases.append(flat[start : start + n_out] if bias else 0.0)
        start += n_out if bias else 0
    return weights, biases


def forward(np, weights, biases, x, activations, masks):
    """All z, from the first layer's to what the last layer puts out (its activation applied)."""
    all_z, a = [], x
    for w, b, f, mask in zip(weights, biases, activations, masks, strict=True):
        z = np.dot(a, w) + b
        all_z.append(z)
        a = f(np, z) * mask
    return [*all_z[:-1], a]
