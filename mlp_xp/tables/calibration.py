"""Probabilities that are as sure as they are right: one temperature, found on held-out rows.

    p = softmax(z / T),     T = argmin  n Σ_i s_i −log p_i / Σ_i s_i  +  c (log T + 2 ε)²

s are the rows' weights; n = (Σ s)² / Σ s² is how many rows they amount to.

Smoothed labels make a network less sure than it should be, too many steps make it too sure; dividing the last
z by one number mends both, and leaves the likeliest class as it is. Where few rows or none say another, T is
e^(−2 ε), which undoes what smoothing by ε does to a network that is sure; both constants measured best.

Weights w of classes are multiplied into the probabilities after that:

    p_c ∝ w_c softmax(z / T)_c,     which adds log w_c to a bias of the last layer

That is what weighing each row's loss is to come to. With a class of 1%, a network whose few rows weigh 50
times as much learns them by heart: 1 − AUC was five times as large, and the balanced accuracy less.

References
----------
Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017 (temperature scaling).
Menon et al., Long-tail learning via logit adjustment, ICLR 2021 (section 4.1).
"""

import numpy as np

from mlp_xp.machine.array_api import to_host
from mlp_xp.network import Network
from mlp_xp.rows.class_weights import balanced
from mlp_xp.rows.source import Source, passes
from mlp_xp.tables.fitting import Data, is_calibrated, smoothing_of
from mlp_xp.tables.model import PREDICT_ROWS, TableModel
from mlp_xp.tables.recipe import weighs_in_the_end
from mlp_xp.tables.split import Split
from mlp_xp.tables.watched import DOUBT, LARGEST_LOG

STEPS = (0.1, 0.01)
"""Apart are the temperatures that are tried first, as logarithms, and then those near the best."""

MOST_ROWS, MOST_NUMBERS = 20_000, 2**20
"""Held-out rows that one number is found on, and values of z in them."""


def calibrate(model: TableModel, data: Data) -> None:
    """Divide the last layer of a classifier by the temperature that suits it, by its held-out rows if any."""
    network, loss = model.network, data.loss
    if not (is_calibrated(data) and network.output_is_linear):
        return
    divisor = temperature(*unseen(network, data.parts), smoothing_of(loss))
    network.parameters.weights[-1][...] = network.parameters.weights[-1] / divisor
    if network.parameters.biases:
        network.parameters.biases[-1][...] = network.parameters.biases[-1] / divisor
    weigh_classes(model, data)


def weigh_classes(model: TableModel, data: Data) -> None:
    """Shift what a classifier says by the weights of its classes, where its training was without them."""
    options = data.options
    if options.class_weight == "none" or not weighs_in_the_end(options, data.loss):
        return
    bias = model.network.parameters.biases[-1]
    shift = np.zeros(bias.shape[-1])
    for label, weight in balanced(data.parts.raw_training, options.class_weight).items():
        shift[label] = np.log(weight)
    bias[...] = bias + model.network.backend.asarray(shift)


Unseen = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The last z of some rows, their labels and their weights."""


def unseen(network: Network, parts: Split) -> Unseen:
    """Of rows held out, or of each member's those that it has left out."""
    found: list[Unseen] = [(np.empty((0, 1)), np.empty(0, int), np.empty(0))]
    rows = min(MOST_ROWS, -(-MOST_NUMBERS // (network.layer_sizes[-1] * (network.members or 1))))
    if parts.folds is not None:
        each = enumerate(network.each())
        most = -(-rows // parts.folds.n)
        found = [_seen_by(member, parts.prepared(parts.left_out_by(n)), most) for n, member in each]
    elif (held_out := parts.judging()) is not None:
        found = [_seen_by(network, held_out, rows)]
    z, labels, weight = zip(*found, strict=True)
    return np.concatenate(z, axis=-2), np.concatenate(labels), np.concatenate(weight)


def _seen_by(network: Network, source: Source, most: int) -> Unseen:
    """Of the first rows of a source, z of each member."""
    z, labels, weights, n_rows = [], [], [], 0
    for _, x, y, weight in passes(source, min(PREDICT_ROWS, most)):
        z.append(to_host(network.predict(x, output="raw", members="all")).astype(float))
        labels.append(y[:, 0].astype(int))
        weights.append(weight.astype(float))
        n_rows += len(y)
        if n_rows >= most:
            break
    return np.concatenate(z, axis=-2), np.concatenate(labels), np.concatenate(weights)


def temperature(z: np.ndarray, labels: np.ndarray, weight: np.ndarray, smoothing: float = 0.0) -> float:
    """The T of some rows from their last z (n_rows, n_classes), labels and weights (n_rows,).

    Of members, (members, n_rows, n_classes), the mean probabilities count. The labels were smoothed by ε.
    """
    s = weight * (weight.sum() / np.square(weight).sum()) if weight.any() else weight
    shifted = z - z.max(axis=-1, keepdims=True)
    of_label = shifted[..., np.arange(len(labels)), labels]

    def cost(log: float) -> float:
        rate = np.exp(-log)
        nats = np.log(np.exp(rate * shifted).sum(axis=-1)) - rate * of_label
        if nats.ndim == 2:
            nats = np.log(len(nats)) - np.logaddexp.reduce(-nats, axis=0)
        return float(s @ nats + DOUBT * (log + 2 * smoothing) ** 2)

    best, within = 0.0, LARGEST_LOG
    for step in STEPS:
        n = round(within / step)
        best = min((best + step * k for k in range(-n, n + 1)), key=cost)
        within = step
    return float(np.exp(best))
