"""A engine (mlp_xp.fast.cuda.engine) of NumPy functions, for the logic around the kernels of a GPU.

What a graph has captured reads arrays by their addresses, and nothing else: `launch` runs the captured
function again, after setting to nonsense what the host knew of the step.
"""

import math

import numpy as np

from mlp_xp.dropout import Dropout
from mlp_xp.losses import GroupedCrossEntropy, Pinball
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

    at_once, N_SCALARS, INVERSE = 3, 16, 15

    class NotCapturedError(RuntimeError):
        pass

    def __init__(self, dtype="float64", *, captures=True, members=None):
        self.backend = find_backend("cpu", dtype)
        self.scalars = np.zeros((members or 1, 16), dtype)
        inverse = self.scalars[:, 15:]
        self.inverse = inverse if members is None else inverse[:, None, :]
        self.counters = np.zeros(4, np.int64)
        self.captures = captures
        self.calls = []
        self.graphs = 0
        self.begun = (None, None)
        self.adds, self.late = False, []

    def is_current(self):
        return True

    def handles(self, array):
        return (array if array.ndim == 2 else array[0]).flags.c_contiguous

    def writer(self, backend, *, all_fused):
        plain = backend.into

        def write(out, f, *args):
            if f is backend.xp.matmul:
                self.calls.append("product")
            return plain(out, f, *args)

        return write

    def write_gradient(self, out, left, right, add):
        """What reads it before `join` reads nonsense."""
        self.late.append((out, left @ right + (out if add else 0)))
        out[...] = math.nan

    def break_off(self):
        self.late.clear()

    def join(self):
        self.calls.append("join")
        for out, product in self.late:
            out[...] = product
        self.late.clear()

    def activate(self, program, z, biases, kept):
        self.calls.append("activate")
        found = computed(program, [z + biases])
        z[...] = found[0]
        if kept is not None:
            kept[...] = found[1]

    def chain(self, program, delta, kept, sums, drops):
        self.calls.append("chain")
        (delta[...],) = computed(program, [delta.copy(), kept])
        if drops is not None:
            delta *= self._mask(delta.shape, drops)

    def drop(self, a, dropped, drops):
        self.calls.append("drop")
        dropped[...] = a * self._mask(a.shape, drops)

    def _mask(self, shape, drops):
        step, layer, first_row = int(self.counters[0]), drops.layer, int(self.counters[3])
        masks = []
        for (low, high, _), factor in zip(drops.seeds.view(np.uint32), drops.factors, strict=True):
            dropout = Dropout((0.0,) * layer + (1.0 - 1.0 / factor,), int(low) + (int(high) << 32))
            masks.append(dropout.mask(self.backend, shape, step, layer, first_row))
        return masks[0] if len(shape) == 2 else np.stack(masks)

    def differentiate(self, program, z, biases, y, weight):
        self.calls.append("differentiate")
        s = 1.0 if weight is None else weight
        delta, value = computed(program, [z + (0.0 if biases is None else biases), y])
        z[...] = s * delta * self.inverse
        return np.asarray((s * value).sum(dtype=z.dtype, axis=(-2, -1)))

    def cross_entropy(self, ends, smoothing, eps, z, biases, y, weight):
        self.calls.append("cross_entropy")
        groups = np.diff(ends, prepend=0)
        return self._by(GroupedCrossEntropy(tuple(map(int, groups)), smoothing, eps), z, biases, y, weight)

    def pinball(self, quantiles, z, biases, y, weight):
        self.calls.append("pinball")
        return self._by(Pinball(tuple(map(float, quantiles))), z, biases, y, weight)

    def _by(self, loss, z, biases, y, weight):
        z += 0.0 if biases is None else biases
        value = loss(self.backend, z, y, weight)
        z *= self.inverse
        return np.asarray(value, z.dtype)

    def penalty(self, w, l1, l2):
        self.calls.append("penalty")
        return np.asarray(ElasticNet(l1, l2).value(self.backend, w))

    def penalty_gradient(self, w, g, scale, l1, l2):
        g += scale * (l1 * np.sign(w) + 2 * l2 * w)

    def clip(self, g, limits):
        self.calls.append("clip")
        norms = np.maximum(np.linalg.norm(g, axis=-1, keepdims=True), 1e-300)
        g *= np.minimum(1.0, limits.reshape(norms.shape) / norms)

    def begin(self, sources, numbers, number, place, first_row):
        assert 1 <= len(numbers) <= self.at_once
        self.calls.append("begin")
        self.begun = sources, numbers.astype(self.scalars.dtype)
        self.counters[:] = number, place, 0, first_row

    def take(self, targets):
        (sources, numbers), step = self.begun, int(self.counters[2])
        for source, target in zip(sources, targets, strict=True):
            if source is not None:
                n_rows = target.shape[-2]
                target[...] = source[..., step * n_rows :, :][..., :n_rows, :]
        self.scalars[:] = numbers[step]

    def end_step(self, value, penalty, waiting):
        """The kernel reads memory as numbers of its own dtype."""
        assert {each.dtype for each in (value, penalty) if each is not None} == {waiting.dtype}
        place = int(self.counters[1])
        waiting[place] = value
        if penalty is not None:
            waiting[place + 1] = penalty
        self.counters[:3] += 1, 1 if penalty is None else 2, 1

    def update(self, program, g, n_weights, p, *state):
        self.calls.append("update")
        n = sum(name == "number" for name, *_ in program.steps)
        *numbers, moves = self.scalars.T if p.ndim == 1 else self.scalars.T[..., None]
        shrunk = p.copy()
        shrunk[..., :n_weights] *= numbers[n]
        found = computed(program, [shrunk, g, *(each.copy() for each in state)], numbers[:n])
        for vector, new in zip((p, *state), found, strict=True):
            np.copyto(vector, new, where=moves != 0)

    def capture(self, run):
        if not self.captures:
            raise self.NotCapturedError("a reason")
        self.graphs += 1
        return StandInGraph(self, run)


class StandInGraph:
    def __init__(self, engine, run):
        self.engine, self.run = engine, run

    def launch(self):
        """The host's variables are those of the capture: what counts lies in the arrays."""
        adds = self.engine.adds
        value = self.run()
        self.engine.adds = adds
        self.engine.calls.append("launch")
        return value
