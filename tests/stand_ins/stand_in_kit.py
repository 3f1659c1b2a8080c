"""A kit (mlp_xp.fast.cuda.kit) of NumPy functions, for the logic around the kernels of a GPU.

What a graph has captured reads arrays by their addresses, and nothing else: `launch` runs the captured
function again, after setting to nonsense what the host knew of the step.
"""

import math

import numpy as np

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.losses import GroupedCrossEntropy
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.regularizers import ElasticNet

PARAMETERS = {"leaky_relu": "slope", "elu": "alpha"}


class StandInKit:
    """Counts what it is asked for in `calls`."""

    class NotCapturedError(RuntimeError):
        pass

    activations = tuple(name for name in ACTIVATIONS if name != "identity")

    def __init__(self, dtype="float64", *, captures=True):
        self.backend = find_backend("cpu", dtype)
        self.scalars = np.zeros(8, dtype)
        self.inverse = self.scalars[6:7]
        self.counters = np.zeros(2, np.int64)
        self.number = -1
        self.captures = captures
        self.calls = []
        self.graphs = 0

    def is_current(self):
        return True

    def handles(self, array):
        return array.flags.c_contiguous

    def writer(self, backend):
        plain = backend.into

        def write(out, f, *args):
            if f is backend.xp.matmul:
                self.calls.append("product")
            return plain(out, f, *args)

        return write

    def _activation(self, name, c):
        given = {PARAMETERS[name]: c} if name in PARAMETERS else {}
        return ACTIVATIONS[name](**given)

    def activate(self, name, c, z, biases, kept):
        self.calls.append("activate")
        self._activation(name, c).activate(self.backend, z, biases, kept)

    def chain(self, name, c, delta, kept):
        self.calls.append("chain")
        delta *= self._activation(name, c).derivative(self.backend, kept.copy())

    def cross_entropy(self, z, y, weight, groups, smoothing, eps, per_row):
        self.calls.append("cross_entropy")
        loss = GroupedCrossEntropy(groups, smoothing, eps)
        for row in range(len(z)):
            part = slice(row, row + 1)
            s = None if weight is None else weight[part]
            per_row[row] = loss(self.backend, z[part], y[part], s)

    def pinball(self, z, y, weight, quantiles, per_output):
        self.calls.append("pinball")
        s = 1.0 if weight is None else weight
        for column in range(z.shape[1]):
            q = quantiles[column % len(quantiles)]
            r = y[:, column // len(quantiles), None] - z[:, column, None]
            per_output[:, column, None] = s * np.maximum(q * r, (q - 1) * r)
            z[:, column, None] = s * np.where(r > 0, -q, np.where(r < 0, 1 - q, 0))

    def penalty(self, w, l1, l2):
        self.calls.append("penalty")
        return np.asarray(ElasticNet(l1, l2).value(self.backend, w))

    def penalty_gradient(self, w, g, scale, l1, l2):
        g += scale[0] * (l1 * np.sign(w) + 2 * l2 * w)

    def clip(self, g, limit):
        self.calls.append("clip")
        g *= min(1.0, limit / max(float(np.linalg.norm(g)), 1e-300))

    def dropout_mask(self, mask, seed, layer, first_row, threshold, factor):
        from mlp_xp.dropout import Dropout

        self.calls.append("mask")
        rate = 1.0 - 1.0 / factor
        rates = (0.0,) * layer + (rate,)
        mask[...] = Dropout(rates, seed).mask(
            self.backend, mask.shape, int(self.counters[0]), layer, first_row
        )

    def begin(self, sources, targets, numbers, inverse, number, place):
        self.calls.append("begin")
        for source, target in zip(sources, targets, strict=True):
            if source is not None:
                target[...] = source
        self.scalars[:] = math.nan
        self.scalars[: len(numbers)] = numbers
        self.scalars[6] = inverse
        self.counters[:] = number, place
        self.number = number

    def record(self, value, penalty, waiting):
        place = int(self.counters[1])
        waiting[place] = value
        if penalty is not None:
            waiting[place + 1] = penalty

    def update(self, rule, g, n_weights, p, state):
        self.calls.append(rule)
        h, m, v = self.scalars, state.get("m"), state.get("v")
        if rule == "sgd":
            p -= h[0] * g
        elif rule == "momentum":
            v[:] = h[1] * v - h[0] * g
            p += v
        elif rule == "nesterov":
            v[:] = h[1] * v - h[0] * g
            p += h[1] * v - h[0] * g
        elif rule == "rmsprop":
            v[:] = h[1] * v + h[2] * g * g
            p -= h[0] * g / (np.sqrt(v) + h[3])
        else:
            if rule == "adamw":
                p[:n_weights] *= h[4]
            m[:] = h[1] * m + g
            v[:] = h[2] * v + g * g
            step = h[4] * m + h[5] * g if rule == "nadam" else m
            p -= h[0] * step / (np.sqrt(v) + h[3])

    def capture(self, run):
        if not self.captures:
            raise self.NotCapturedError("a reason")
        self.graphs += 1
        return StandInGraph(self, run, self.number)


class StandInGraph:
    def __init__(self, kit, run, number):
        self.kit, self.run, self.number = kit, run, number
        self.launches = 0

    def launch(self):
        """The host's number of the step is the one at the capture: what counts lies in the arrays."""
        self.launches += 1
        now, self.kit.number = self.kit.number, self.number
        self.run()
        self.kit.number = now
        self.kit.calls.append("launch")
