"""A engine (mlp_xp.fast.cuda.engine) of NumPy functions, for the logic around the kernels of a GPU.

What a graph has captured reads arrays by their addresses, and nothing else: `launch` runs the captured
function again, after setting to nonsense what the host knew of the step.
"""

import math

import numpy as np

from mlp_xp.losses import GroupedCrossEntropy
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.regularizers import ElasticNet


def computed(program, inputs, changing=()):
    """What a program says of arrays, step by step, by NumPy."""
    values, numbers = [], (*changing, *program.numbers)
    with np.errstate(all="ignore"):
        for name, *places in program.steps:
            if name in ("input", "number"):
                values.append((inputs if name == "input" else numbers)[places[0]])
            else:
                values.append(getattr(np, name)(*(values[place] for place in places)))
    return [values[place] for place in program.outputs]


class StandInEngine:
    """Counts what it is asked for in `calls`."""

    class NotCapturedError(RuntimeError):
        pass

    def __init__(self, dtype="float64", *, captures=True):
        self.backend = find_backend("cpu", dtype)
        self.scalars = np.zeros(16, dtype)
        self.inverse = self.scalars[14:15]
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

    def activate(self, program, z, biases, kept):
        self.calls.append("activate")
        found = computed(program, [z + biases])
        z[...] = found[0]
        if kept is not None:
            kept[...] = found[1]

    def chain(self, program, delta, kept):
        self.calls.append("chain")
        (delta[...],) = computed(program, [delta.copy(), kept])

    def differentiate(self, program, z, y, weight, per_output):
        self.calls.append("differentiate")
        s = 1.0 if weight is None else weight
        delta, value = computed(program, [z.copy(), y])
        z[...], per_output[...] = s * delta, s * value

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
        self.scalars[14] = inverse
        self.counters[:] = number, place
        self.number = number

    def record(self, value, penalty, waiting):
        """The kernel reads memory as numbers of its own dtype."""
        assert {each.dtype for each in (value, penalty) if each is not None} == {waiting.dtype}
        place = int(self.counters[1])
        waiting[place] = value
        if penalty is not None:
            waiting[place + 1] = penalty

    def update(self, program, shrinks, g, n_weights, p, *state):
        self.calls.append("update")
        n = sum(name == "number" for name, *_ in program.steps)
        if shrinks:
            p[:n_weights] *= self.scalars[n]
        found = computed(program, [p.copy(), g, *(each.copy() for each in state)], self.scalars[:n])
        for vector, new in zip((p, *state), found, strict=True):
            vector[...] = new

    def capture(self, run):
        if not self.captures:
            raise self.NotCapturedError("a reason")
        self.graphs += 1
        return StandInGraph(self, run, self.number)


class StandInGraph:
    def __init__(self, engine, run, number):
        self.engine, self.run, self.number = engine, run, number
        self.launches = 0

    def launch(self):
        """The host's number of the step is the one at the capture: what counts lies in the arrays."""
        self.launches += 1
        now, self.engine.number = self.engine.number, self.number
        self.run()
        self.engine.number = now
        self.engine.calls.append("launch")
