"""The forward pass, and what it remembers for the way back."""

import copy
import functools
import math
import weakref
from typing import TYPE_CHECKING

import numpy as np

from mlp_xp.dropout import Dropout
from mlp_xp.losses import IdentityLink, Link, MeanOverMembers
from mlp_xp.machine.array_api import Array, ArrayLike, on_host, to_host
from mlp_xp.machine.threads import together
from mlp_xp.settings import checks

if TYPE_CHECKING:
    from mlp_xp.network import Network

LOSS_ARRAYS = 3
"""Arrays of the outputs' size that a loss makes beside them: which is hit, exponentials, a product."""


class Memo:
    """What the forward pass remembers: derivatives that recur are computed once and reused.

    "For slightly more memory, a huge speed-up": without the memo the cost of all derivatives grows with the
    number of paths through the network, the product of its widths (bench/memoisation.py).

    Buffers, for the rows of the largest chunk, are made once and reused in every step; those of members have
    an axis for them before the others. Without a way back, in predictions, two take turns, and nothing is
    kept.

    Attributes
    ----------
    inputs : list of arrays (n_rows, n_units)
        a_0 = x, a_1, …: what each layer multiplied with its weights (after dropout).
    kept : list of arrays (n_rows, n_units)
        Of each layer, what its activation's derivative follows from: a_l itself, or f'_l(z_l).
    masks : list of (array or None)
        Of each layer, the dropout mask on its output.
    deltas : list of arrays (n_rows, n_units)
        Where δ of each layer goes on the way back; two buffers take turns.
    ones : array (n_rows,), or (1, n_rows) with members
        Its product with δ is the bias gradient Σ_i δ_i.
    scaled : array (n_inputs, n_units) or None
        s ⊙ W_1, where inputs have a scale.
    matmul : callable (left, right, out) -> array
        What multiplies matrices of these sizes.
    matmuls : callable (products) or None
        What makes several products (left, right, out) at once, where they are large.
    products : array (n_inputs, n_units) or None
        Where xᵀ δ_1 goes on the way back, from which both ∂L/∂W_1 and ∂L/∂s follow.
    """

    def __init__(self, network: "Network", n_rows: int, *, way_back: bool = True) -> None:
        self.network = network
        self.n_rows = 0
        self.way_back = way_back
        self._of_size: dict[int, Memo] = {}
        has_scale, shape = network.parameters.input_scale is not None, network.parameters.weights[0].shape
        self.scaled = network.backend.empty(shape) if has_scale else None
        self.products = network.backend.empty(shape) if has_scale and way_back else None
        self._make(n_rows)

    def _make(self, n_rows: int) -> None:
        backend, sizes = self.network.backend, self.network.layer_sizes[1:]
        self.n_rows, members = n_rows, self.network.members
        self.matmul = backend.matmul(n_rows * self.network.parameters.most_weights)
        self.matmuls = None if self.matmul is backend.xp.matmul else backend.large_matmuls
        shape = (n_rows,) if members is None else (members, n_rows)
        n_all = math.prod(shape)
        turns = [backend.empty((n_all * max(sizes[turn::2], default=0),)) for turn in range(2)]

        def in_turn(layer: int) -> Array:
            flat = turns[layer % 2][: n_all * sizes[layer]]
            return backend.xp.reshape(flat, (*shape, sizes[layer]), copy=False)

        shared = [in_turn(layer) for layer in range(len(sizes))]
        self.masks: list[Array | None] = [None] * len(sizes)
        if self.way_back:
            self.z = [backend.empty((*shape, size)) for size in sizes]
            self.kept = [
                z if f.keeps_output else backend.empty(z.shape)
                for z, f in zip(self.z, self.network.activations, strict=True)
            ]
            self.deltas = shared
            self.ones = backend.ones((n_rows,) if members is None else (1, n_rows))
        else:
            self.z, self.kept = shared, [None] * len(sizes)
        self.inputs: list[Array] = [None, *self.z[:-1]]

    @staticmethod
    def bytes_per_row(network: "Network") -> int:
        """What one more row takes on the device in a training step, its own x and its loss included."""
        sizes = network.layer_sizes
        kept = sum(size for size, f in zip(sizes[1:], network.activations, strict=True) if not f.keeps_output)
        numbers = sum(sizes) + kept + 2 * max(sizes[1:]) + LOSS_ARRAYS * sizes[-1] + 1
        return numbers * (network.members or 1) * network.backend.xp.finfo(network.backend.dtype).bits // 8

    def of(self, n_rows: int) -> "Memo":
        """The memo for a chunk of `n_rows` rows: itself, or views of its first rows."""
        if n_rows == self.n_rows:
            return self
        if n_rows > self.n_rows:
            self._of_size.clear()
            self._make(n_rows)
            return self
        if n_rows not in self._of_size:
            if len(self._of_size) > 8:  # ragged chunks come in one or two sizes; never grow without bound
                self._of_size.clear()
            self._of_size[n_rows] = self._first(n_rows)
        return self._of_size[n_rows]

    def _first(self, n_rows: int) -> "Memo":
        memo = copy.copy(self)
        memo.n_rows, memo._of_size = n_rows, {}
        memo.z = [z[..., :n_rows, :] for z in self.z]
        memo.kept = [None if kept is None else kept[..., :n_rows, :] for kept in self.kept]
        memo.masks = [None] * len(self.masks)
        if self.way_back:
            memo.deltas = [delta[..., :n_rows, :] for delta in self.deltas]
            memo.ones = self.ones[..., :n_rows]
        memo.inputs = [None, *memo.z[:-1]]
        return memo


def forward(
    network: "Network",
    x: Array,
    memo: Memo,
    dropout: Dropout | None = None,
    step: int = 0,
    first_row: int = 0,
) -> Array:
    """Compute the network's last z, layer by layer, and remember what the way back needs.

        z_l = a_{l−1} W_l + b_l        a_l = f_l(z_l)

    A scale of the inputs multiplies the rows of W_1, which are fewer than those of x: (s ⊙ x) W = x (s ⊙ W).

    Parameters
    ----------
    network : Network
        Read.
    x : array (n_rows, n_features)
        On the network's device, of its dtype; read. All members share it, unless it has an axis of members.
    memo : Memo
        Of n_rows rows (`memo.of`); filled.
    dropout : Dropout, optional
        Sets outputs of hidden units to zero; None in prediction.
    step, first_row : int
        The update's number and the chunk's first row in its global batch: what dropout is a function of.

    Returns
    -------
    array (n_rows, n_outputs), or (members, n_rows, n_outputs)
        The last layer's output, before the loss's link; the caller may overwrite it.
    """
    backend, last = network.backend, network.n_layers - 1
    into, matmul = backend.into, memo.matmul
    a = memo.inputs[0] = x
    for layer, (weights, biases, activation) in enumerate(network.layers):
        if layer == 0 and memo.scaled is not None:
            weights = into(memo.scaled, backend.xp.multiply, weights, network.parameters.input_scale)
        z = into(memo.z[layer], matmul, a, weights)
        activation.activate(backend, z, biases, memo.kept[layer])
        a, memo.masks[layer] = z, None
        if dropout is not None and layer < last and dropout.rates[layer]:
            a, memo.masks[layer] = dropout.drop(backend, a, step, layer, first_row)
        if layer < last:
            memo.inputs[layer + 1] = a
    if memo.way_back and not network.output_is_linear:
        # The loss overwrites what it gets, and the output activation's derivative may need a.
        a = into(memo.deltas[last], backend.xp.multiply, a, 1.0)
    return a


FEWEST_ROWS, MOST_ROWS = 320, 2**15
"""Rows of a chunk of a prediction: with fewer the matrix products are slower, more are no faster."""

MANY_ROWS = 4096
"""More are predicted in chunks eight times as large: their buffers are made once for all chunks."""


def _chunk_rows(network: "Network", n_rows: int) -> int:
    """Rows a chunk, so that a layer's outputs stay in a core's cache.

    For few rows, as many as fit 128 kB: what is larger is asked for anew of the system at every call, and
    filled with zeros by it, which may take longer than the prediction (1,000 rows of 32-100-1: 285 instead of
    155 µs).
    """
    fitting = _fitting_rows(network)
    return min(MOST_ROWS, max(FEWEST_ROWS, fitting if n_rows <= MANY_ROWS else 8 * fitting))


def _fitting_rows(network: "Network") -> int:
    """Rows of which the largest layer's outputs fit 128 kB on a CPU."""
    return network.backend.block // (max(network.layer_sizes[1:]) * (network.members or 1))


def unflagged() -> np.errstate:
    """Inside, NumPy says nothing of invalid values.

    Kernels of its BLAS set the processor's flag now and then where none is, as they compute with what is
    beside their operands; and where one is, an output is nan.
    """
    return np.errstate(invalid="ignore")


def predict(network: "Network", x: ArrayLike, *, output: str, members: str, chunk_rows: int | None) -> Array:
    """See `Network.predict`."""
    backend, n_features = network.backend, network.layer_sizes[0]
    checks.refuse(
        [
            checks.one_of("output", output, ("link", "raw")),
            checks.one_of("members", members, ("mean", "all")),
            None if chunk_rows is None else checks.whole("chunk_rows", chunk_rows),
        ]
    )
    backend.runtime.select()
    on_device = backend.xp is not np and backend.owns(x)
    if not on_device:
        x = on_host(x)
    if x.ndim != 2 or x.shape[1] != n_features:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, but this network was built for (n_rows, {n_features}) "
            f"(layer_sizes={network.layer_sizes})."
        )
    lead = (network.members or 1,) if members == "all" else ()
    shape = (*lead, x.shape[0], network.layer_sizes[-1])
    predictions = backend.empty(shape) if on_device else np.empty(shape, dtype=backend.dtype_name)
    link = network.output if output == "link" else IdentityLink()
    if network.members is not None and members == "mean":
        link = MeanOverMembers(link)
    chunk_rows = chunk_rows or _chunk_rows(network, x.shape[0])
    while True:
        try:
            _fill(predictions, network, x, link, chunk_rows, on_device)
            return predictions
        except MemoryError:
            if chunk_rows == 1:
                raise
        chunk_rows = -(-min(chunk_rows, x.shape[0]) // 2)


def _fill(
    predictions: Array, network: "Network", x: Array, link: Link, chunk_rows: int, on_device: bool
) -> None:
    """Predict chunk by chunk, some by each core."""
    backend, n_rows = network.backend, x.shape[0]
    work = min(chunk_rows, n_rows) * network.parameters.most_weights
    starts = range(0, n_rows, chunk_rows)
    n_parts = backend.runtime.n_parts(len(starts), work) if len(starts) > 1 else 1
    is_kept = n_rows <= min(chunk_rows, FEWEST_ROWS, _fitting_rows(network)) and not on_device
    memos = network.memos if is_kept else []

    def fill(part: int) -> None:
        try:
            memo = memos.pop()  # which no other thread has from now on
        except IndexError:
            owner = weakref.proxy(network)  # no circle: a network's memory is free with it
            memo = Memo(owner, max(1, min(chunk_rows, n_rows)), way_back=False)
        for start in starts[part::n_parts]:
            stop = min(start + chunk_rows, n_rows)
            rows = x[start:stop, ...]
            is_here = on_device or backend.xp is np  # rows of the right dtype need not be copied
            given = backend.xp.astype(rows, backend.dtype, copy=False) if is_here else backend.asarray(rows)
            of_rows = memo.of(stop - start)
            with backend.runtime.multiplying(*network.parameters.largest_products(stop - start)):
                found = link(backend, forward(network, given, of_rows))
            predictions[..., start:stop, :] = found if on_device else to_host(found)
            of_rows.inputs[0] = None  # the rows are the caller's
        memos.append(memo)

    with np.errstate(invalid="ignore", over="ignore"):  # see `unflagged`; what overflows is infinite
        if n_parts == 1:
            fill(0)
        else:
            together([functools.partial(fill, part) for part in range(n_parts)])
