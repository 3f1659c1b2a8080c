"""How fast is each activation, its derivative, and an epoch of training with it?

Backprop needs a derivative on the way back for every value on the way there. Where f' follows from the
output a (tanh: 1 − a²), the memo already has what is needed; where it does not (gelu), mlp_xp computes
f'(z) on the way there, while z and its exponentials are at hand, and keeps it. The alternative is to keep
z and compute f'(z) from it on the way back, as the formula is written: that is what `DERIVATIVE_OF_Z`
does, independently of mlp_xp, which is checked against it before anything is timed.

Nanoseconds an element, float32, for a hidden layer of 256 rows × 256 units that lies in the cache. mlp_xp
overwrites z with a and what was kept with f', so each timed call starts with a fresh copy, and the
time of the copy alone is subtracted.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np

from bench.harness import measure, results
from bench.harness.measure import paired_medians, waiter
from bench.harness.results import Result
from mlp_xp import Loader, Network, train
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.machine.array_api import Array, Backend, to_host
from mlp_xp.machine.array_api import backend as find_backend

EPOCHS = 7
LAYER_SIZES = (32, 64, 64, 1)
BATCH_SIZE = 256


def _logistic(xp: Any, z: Array) -> Array:
    return 1.0 / (1.0 + xp.exp(-z))


def _silu(xp: Any, z: Array) -> Array:
    sigma = _logistic(xp, z)
    return sigma * (1.0 + z * (1.0 - sigma))


def _gelu(xp: Any, z: Array) -> Array:
    c, k = (2.0 / np.pi) ** 0.5, 0.044715
    t = xp.tanh(c * (z + k * z * z * z))
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * (c * (1.0 + 3.0 * k * z * z))


def _mish(xp: Any, z: Array) -> Array:
    e = xp.exp(z)
    t = xp.tanh(xp.log1p(e))
    return t + z * (e / (1.0 + e)) * (1.0 - t * t)


DERIVATIVE_OF_Z = {
    "identity": lambda xp, z: xp.ones_like(z),
    "logistic": lambda xp, z: _logistic(xp, z) * _logistic(xp, -z),
    "tanh": lambda xp, z: 1.0 - xp.tanh(z) ** 2,
    "relu": lambda xp, z: xp.astype(z > 0.0, z.dtype),
    "leaky_relu": lambda xp, z: 0.01 + 0.99 * xp.astype(z > 0.0, z.dtype),
    "elu": lambda xp, z: xp.exp(xp.minimum(z, 0.0)),
    "selu": lambda xp, z: (
        1.0507009873554805
        * (1.0 + 0.6732632423543772 * xp.astype(z <= 0.0, z.dtype))
        * xp.exp(xp.minimum(z, 0.0))
    ),
    "softplus": _logistic,
    "silu": _silu,
    "gelu": _gelu,
    "mish": _mish,
}

MEASURED = {name: ACTIVATIONS[name] for name in DERIVATIVE_OF_Z}
"""Activations whose derivative is written here as a function of z, too."""


class Layer:
    """One activation on the z of one layer, in the buffers that a training would use.

    Parameters
    ----------
    activation : activation
        From mlp_xp's catalogue.
    backend : Backend
        Where.
    z : array (n_rows, n_units)
        Read.
    """

    def __init__(self, activation: Any, backend: Backend, z: Array) -> None:
        self.activation, self.backend, self.given = activation, backend, z
        self.z = z + 0.0
        self.buffer = None if activation.keeps_output else z + 0.0
        self.way_there()
        self.kept = (self.z if self.buffer is None else self.buffer) + 0.0
        self.consumed = z + 0.0

    def copy(self) -> None:
        """What every other call begins with."""
        self.z[...] = self.given

    def value(self) -> None:
        """a = f(z) alone."""
        self.z[...] = self.given
        self.activation.forward(self.backend, self.z, None)

    def way_there(self) -> None:
        """a = f(z), and what the way back needs."""
        self.z[...] = self.given
        self.activation.forward(self.backend, self.z, self.buffer)

    def way_back(self) -> Array:
        """f' from what was kept."""
        self.consumed[...] = self.kept
        return self.activation.derivative(self.backend, self.consumed)


def elementwise(backend: Backend, shape: tuple[int, int], seconds: float) -> dict[str, dict[str, float]]:
    """Nanoseconds an element of each part of each activation, measured in turn."""
    z = backend.asarray(2.0 * np.random.default_rng(0).standard_normal(shape))
    calls: dict[tuple[str, str], Any] = {}
    for name, activation in MEASURED.items():
        layer, recompute = Layer(activation(), backend, z), DERIVATIVE_OF_Z[name]
        check(name, layer, recompute(backend.xp, z))
        calls |= {
            (name, "copy"): layer.copy,
            (name, "value"): layer.value,
            (name, "way there"): layer.way_there,
            (name, "way back"): layer.way_back,
            (name, "recomputed"): lambda recompute=recompute: recompute(backend.xp, z),
        }
    medians = paired_medians(calls, seconds=seconds, wait=waiter(backend))
    n = shape[0] * shape[1]
    # The copy is the same for all: the median over the activations is steadier than any one.
    copy = statistics.median(medians[name, "copy"] for name in MEASURED)
    return {
        name: {
            part: 1e9 * (medians[name, part] - (0.0 if part == "recomputed" else copy)) / n
            for part in ("value", "way there", "way back", "recomputed")
        }
        for name in MEASURED
    }


def check(name: str, layer: Layer, expected: Array) -> None:
    """Refuse to time derivatives that differ by more than float32's rounding."""
    found = layer.way_back()
    error = np.abs((to_host(found) if hasattr(found, "shape") else found) - to_host(expected)).max()
    if not error <= 1e-5:
        raise RuntimeError(f"{name}: f' from what was kept and f'(z) differ by {error:.3g}.")


def epochs(backend: Backend, n_rows: int, n_epochs: int) -> dict[str, float]:
    """Median seconds an epoch with each activation in the hidden layers, epochs taken in turn."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((n_rows, LAYER_SIZES[0]), dtype=np.float32)
    y = np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    trainings = {
        name: train(
            Network(LAYER_SIZES, activation=name, device=backend),
            Loader(x, y, batch_size=min(BATCH_SIZE, n_rows)),
            optimizer="adam",
            max_epochs=n_epochs + 1,
            way="plain",
        )
        for name in MEASURED
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(n_epochs + 1):
        for name, training in trainings.items():
            began = time.perf_counter()
            next(training)  # it reads the epoch's loss: the device is done
            seconds[name].append(time.perf_counter() - began)
    return {name: measure.Median(each[1:]) for name, each in seconds.items()}


def answer(quick: bool, device: str) -> Result:
    """Time the parts, then whole epochs."""
    backend = find_backend(device)
    parts = elementwise(backend, (8, 8) if quick else (256, 256), 0.0 if quick else 0.25)
    n_rows = 300 if quick else 20_000
    seconds = epochs(backend, n_rows, 1 if quick else EPOCHS)
    rows = []
    for name, activation in MEASURED.items():
        part = parts[name]
        kept = part["way there"] + part["way back"]
        recomputed = part["value"] + part["recomputed"]
        rows.append(
            {
                "activation": name,
                "f' is kept as": "a" if activation.keeps_output else "f'(z)",
                "f alone (ns)": part["value"],
                "f, keeping (ns)": part["way there"],
                "f' from kept (ns)": part["way back"],
                "f' recomputed from z (ns)": part["recomputed"],
                "f and f', kept (ns)": kept,
                "f and f', recomputed (ns)": recomputed,
                "recomputed ÷ kept": recomputed / kept if kept > 0 else None,
                "epoch (s)": seconds[name],
                "epoch ÷ relu's": seconds[name] / seconds["relu"],
            }
        )
    shape = "-".join(map(str, LAYER_SIZES))
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=[
            (
                "ns: nanoseconds an element of a hidden layer of 256 rows × 256 units, float32; the copy "
                "that each call starts with is subtracted."
            ),
            "kept: as mlp_xp does it. recomputed: f alone on the way there, f'(z) from z on the way back.",
            (
                f"epoch: {n_rows:,} rows through {shape}, Adam, batches of {BATCH_SIZE}, shuffled, "
                f"median of {1 if quick else EPOCHS}."
            ),
        ],
        device=backend.name,
    )


def draw(result: Result, figure: Any) -> None:
    """Bars: f and f' kept and recomputed, and the epoch."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names, at = result.column("activation"), np.arange(len(result.rows))
    for offset, how, colors in (
        (-0.2, ("f, keeping (ns)", "f' from kept (ns)"), ("tab:blue", "lightskyblue")),
        (0.2, ("f alone (ns)", "f' recomputed from z (ns)"), ("tab:red", "lightsalmon")),
    ):
        below = np.maximum(result.column(how[0]), 0.0)
        left.barh(at + offset, below, 0.38, color=colors[0], label=how[0].removesuffix(" (ns)"))
        left.barh(
            at + offset,
            np.maximum(result.column(how[1]), 0.0),
            0.38,
            left=below,
            color=colors[1],
            label=how[1].removesuffix(" (ns)"),
        )
    left.set(yticks=at, yticklabels=names, xlabel="nanoseconds an element (there and back)")
    left.invert_yaxis()
    left.grid(axis="x", alpha=0.3)
    left.legend(fontsize=7)
    right.barh(at, result.column("epoch (s)"), 0.6, color="tab:blue")
    right.set(yticks=at, yticklabels=names, xlabel="seconds an epoch")
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.3)
    right.set_title(result.notes[-1].partition(", median")[0].removeprefix("epoch: "), fontsize=8)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
