"""Dropout masks from a counter: the same for a seed on every backend, in any chunks, on any number of ranks.

Whether a unit is dropped is a hash of (seed, step, layer, unit, position of the row in the step's global
batch), computed where the activations live, in int32 with wrap-around, the one integer arithmetic that every
backend has.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.settings import checks

ROW, UNIT = 0x9E3779B1, 0x85EBCA77  # odd: n -> n · c mod 2³² is one to one


Numbers = TypeVar("Numbers", int, np.ndarray)


def _signed(value: int) -> int:
    """The int32 with the lowest 32 bits of `value`."""
    return (value + 2**31) % 2**32 - 2**31


def _mix(h: Array) -> Array:
    """A one-to-one scrambling of 32 bits in which every input bit reaches every output bit.

    References
    ----------
    Wellons, Prospecting for hash functions, 2018: "lowbias32" (bias 0.17 of a bit in 1000).
    """

    def xor_shift(h: Array, bits: int) -> Array:
        # int32 shifts copy the sign; the mask makes the shift logical
        return h ^ ((h >> bits) & (2 ** (32 - bits) - 1))

    h = xor_shift(h, 16) * _signed(0x7FEB352D)
    h = xor_shift(h, 15) * _signed(0x846CA68B)
    return xor_shift(h, 16)


def _mix_host(h: Numbers) -> Numbers:
    """`_mix` of a Python int, or of uint64."""
    h = h & 0xFFFFFFFF
    h = (h ^ (h >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    h = (h ^ (h >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return h ^ (h >> 16)


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Each hidden unit's output is set to 0 with probability p, else divided by 1 − p; only in training.

    Parameters
    ----------
    rates : sequence of float in [0, 1)
        p of each hidden layer.
    seed : int
        Of all masks.

    References
    ----------
    Srivastava et al., Dropout, 2014; scaled in training ("inverted"), so that nothing changes in prediction.
    """

    rates: tuple[float, ...]
    seed: int = 0

    def times(self, factor: float) -> "Dropout":
        """The same with all probabilities times a factor in [0, 1]."""
        return dataclasses.replace(self, rates=tuple(factor * rate for rate in self.rates))

    def drop(
        self, backend: Backend, a: Array, step: int, layer: int, first_row: int
    ) -> tuple[Array, Array | None]:
        """A hidden layer's output with units dropped, and what δ is to be multiplied with on the way back.

        That is None where the layer's activation does so itself.
        """
        mask = self.mask(backend, a.shape, step, layer, first_row)
        return a * mask, mask

    def mask(self, backend: Backend, shape: tuple[int, ...], step: int, layer: int, first_row: int) -> Array:
        """Factors 0 or 1 / (1 − p), of shape (n_rows, n_units), for one hidden layer.

        All members have the same. Updates and layers are numbered from 0; `first_row` is the position of the
        chunk's first row in the step's global batch.
        """
        xp, (n_rows, n_units) = backend.xp, shape[-2:]
        row_key, unit_key = self.keys(step, layer)
        rows = backend.arange(n_rows) * _signed(ROW) + _signed(first_row * ROW + row_key)
        units = backend.arange(n_units) * _signed(UNIT) + _signed(unit_key)
        h = _mix(_mix(xp.reshape(rows, (n_rows, 1))) + _mix(xp.reshape(units, (1, n_units))))
        threshold, factor = self.threshold(layer)
        return xp.astype(h >= threshold, backend.dtype) * factor

    def keys(self, step: Numbers, layer: int) -> tuple[Numbers, Numbers]:
        """What rows and units are hashed with, in 32 bits; of one step or of many."""
        key = step * 0
        for part in (self.seed & 0xFFFFFFFF, self.seed >> 32, step & 0xFFFFFFFF, step >> 32, layer):
            key = _mix_host(key ^ part) + 0x9E3779B9
        return _mix_host(key), _mix_host(key + 1)

    def of_steps(self, first: int, dropping: np.ndarray) -> np.ndarray:
        """Keys and thresholds of steps from a number on, whose probabilities have factors of their own.

        Returns
        -------
        numbers : array (n_steps, n_layers, 4)
            What `keys` and `threshold` give; 0 where nothing is dropped.
        """
        found = np.zeros((len(dropping), len(self.rates), 4))
        steps = np.arange(first, first + len(dropping), dtype=np.uint64)
        for layer, rate in enumerate(self.rates):
            rates = dropping * rate
            least = np.minimum(np.rint(rates * 2.0**32), 2.0**32 - 1) - 2.0**31
            of_each = np.stack([*self.keys(steps, layer), least, 1.0 / (1.0 - rates)], axis=-1)
            found[:, layer] = np.where(rates[:, np.newaxis] > 0.0, of_each, 0.0)
        return found

    def threshold(self, layer: int) -> tuple[int, float]:
        """The least hash (int32) of a unit that survives, and what its output is multiplied with."""
        rate = self.rates[layer]
        return _signed(min(round(rate * 2**32), 2**32 - 1) - 2**31), 1.0 / (1.0 - rate)


def resolve_dropout(given: float | Sequence[float], n_hidden: int, seed: int) -> Dropout | None:
    """Dropout from a rate for all hidden layers or one for each; None where all are zero."""
    rates = (
        tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,) * n_hidden
    )
    checks.refuse(checks.number("dropout", rate, least=0, below=1) for rate in rates or (given,))
    if given and not n_hidden:
        raise ValueError(
            f"dropout={given!r}: this network has no hidden layer whose units could be left out."
        )
    if len(rates) != n_hidden:
        raise ValueError(
            f"dropout has {len(rates)} rates, but this network has {n_hidden} hidden layers: give one rate "
            "for all, or one for each."
        )
    return Dropout(tuple(map(float, rates)), seed) if any(rates) else None
