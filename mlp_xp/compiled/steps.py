"""Training steps as one compiled call: forward, loss, backprop and update, for several batches in turn.

The algorithm is that of `forward`, `objective`, `backprop` and `update`, and those are the place to read it.
What differs: a and δ are (n_units, n_rows).

Updating a wide layer's weights block by block, each while its gradient is in the cache, was tried: on two
cores it is no faster (1024-2048-2048-10: 1.05 × the matrix products both ways, in small blocks 1.2 ×).
"""

import math
from typing import Any

from mlp_xp.compiled.activations import FIRST_KEPT, activate, chain, keeps_derivatives
from mlp_xp.compiled.compiler import in_any_order
from mlp_xp.compiled.losses import differentiate
from mlp_xp.compiled.products import back, forward, gradient, row_sums, transpose
from mlp_xp.compiled.update_rules import apply_rule


@in_any_order
def make_steps(
    sizes: Any,
    functions: Any,
    constants: Any,
    loss: int,
    loss_constant: float,
    l1: float,
    l2: float,
    clip_norm: float,
    rule: int,
    numbers: Any,
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    n_weights: int,
    x: Any,
    y: Any,
    labels: Any,
    weight: Any,
    batch: int,
    divisors: Any,
    takes_mean: bool,
    memory: Any,
    values: Any,
) -> None:
    """Make one step for each row of `numbers`.

    Parameters
    ----------
    sizes : array (n_layers + 1,)
        Units per layer.
    functions, constants : arrays (n_layers,)
        Each layer's activation, and its slope or α.
    loss, loss_constant : int, float
        As in `losses.differentiate`.
    l1, l2, clip_norm : float
        Of penalty and clipping; 0 for none.
    rule, numbers : int, array (n_steps, N_NUMBERS)
        As in `update_rules.apply_rule`, for each step.
    p, g, m, v : arrays (size,)
        Parameters, gradient, and the rule's state, as far as it has any; updated.
    n_weights : int
        How many of them are weights.
    x, y, labels, weight : arrays (n_rows, …)
        The rows of all steps; read. See `losses.differentiate`.
    batch : int
        Rows a step; the last one may have fewer.
    divisors : array (n_steps,)
        Σ s.
    takes_mean : bool
        Whether to divide by it.
    memory : array
        Of `memory_size`; to be written on.
    values : array (n_steps, 1 or 2)
        Filled with Σ s L and, where there is room, the penalty.
    """
    n_layers, widest = sizes.size - 1, sizes[1:].max()
    units_kept = sizes.sum() if keeps_derivatives(functions) else 0
    for step in range(numbers.shape[0]):
        start, stop = step * batch, min((step + 1) * batch, x.shape[0])
        n_rows = stop - start
        scale = 1.0 / divisors[step] if takes_mean else 1.0
        # In memory: all a, then what else derivatives follow from, then two δ in turn: what is not one yet may be written on.
        inputs = memory[: sizes[0] * n_rows].reshape((sizes[0], n_rows))
        transpose(x[start:stop], inputs)
        at, at_weights, at_biases = 0, 0, n_weights
        for layer in range(n_layers):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            a = memory[at : at + n_in * n_rows].reshape((n_in, n_rows))
            at += n_in * n_rows
            z = memory[at : at + n_out * n_rows].reshape((n_out, n_rows))
            at_kept = units_kept * n_rows + at
            kept = memory[at_kept : at_kept + n_out * n_rows].reshape((n_out, n_rows))
            w = p[at_weights : at_weights + n_in * n_out].reshape((n_in, n_out))
            at_weights += n_in * n_out
            forward(w, a, z)
            for j in range(n_out):
                row = z[j]
                if n_weights < p.size:
                    b = p[at_biases + j]
                    for i in range(n_rows):
                        row[i] += b
                activate(functions[layer], constants[layer], row, kept[j])
            at_biases += n_out
        n_out = sizes[n_layers]
        at_deltas = (sizes.sum() + units_kept) * n_rows
        delta = memory[at_deltas : at_deltas + n_out * n_rows].reshape((n_out, n_rows))
        for j in range(n_out):
            delta[j, :] = z[j]
        values[step, 0] = differentiate(
            loss,
            loss_constant,
            delta,
            y[start:stop],
            labels[start:stop],
            weight[start:stop],
            scale,
            memory[at_deltas + widest * n_rows : at_deltas + (widest + 1) * n_rows],
        )
        _chain(functions[n_layers - 1], constants[n_layers - 1], delta, z, kept)
        if values.shape[1] > 1:
            values[step, 1] = _penalty(p[:n_weights], l1, l2)
        turn = 0
        for layer in range(n_layers - 1, -1, -1):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            at -= n_in * n_rows
            at_weights -= n_in * n_out
            at_biases -= n_out
            a = memory[at : at + n_in * n_rows].reshape((n_in, n_rows))
            turn = 1 - turn
            at_delta = at_deltas + turn * widest * n_rows
            gradient(
                a,
                delta,
                g[at_weights : at_weights + n_in * n_out].reshape((n_in, n_out)),
                memory[at_delta : at_delta + n_out * n_rows],
            )
            if n_weights < p.size:
                row_sums(delta, g[at_biases : at_biases + n_out])
            if layer > 0:
                before = memory[at_delta : at_delta + n_in * n_rows].reshape((n_in, n_rows))
                back(p[at_weights : at_weights + n_in * n_out].reshape((n_in, n_out)), delta, before)
                at_kept = units_kept * n_rows + at
                kept = memory[at_kept : at_kept + n_in * n_rows].reshape((n_in, n_rows))
                _chain(functions[layer - 1], constants[layer - 1], before, a, kept)
                delta = before
        _add_penalty(p[:n_weights], g[:n_weights], l1 * scale, l2 * scale)
        if clip_norm > 0.0:
            _clip(g, clip_norm)
        apply_rule(rule, numbers[step], p, g, m, v, n_weights)


@in_any_order
def memory_size(sizes: Any, functions: Any, n_rows: int) -> int:
    """Numbers of memory for steps of so many rows."""
    n_kept = sizes.sum() if keeps_derivatives(functions) else 0
    return (sizes.sum() + n_kept + 2 * sizes[1:].max()) * n_rows


@in_any_order
def _chain(f: int, c: float, delta: Any, a: Any, kept: Any) -> None:
    """Each unit's δ ← δ f'."""
    for j in range(delta.shape[0]):
        chain(f, c, delta[j], kept[j] if f >= FIRST_KEPT else a[j])


@in_any_order
def _penalty(w: Any, l1: float, l2: float) -> float:
    """l1 Σ |w| + l2 Σ w²."""
    sizes, squares = 0.0, 0.0
    for i in range(w.size):
        sizes += abs(w[i])
        squares += w[i] * w[i]
    return l1 * sizes + l2 * squares


@in_any_order
def _add_penalty(w: Any, g: Any, l1: float, l2: float) -> None:
    """g ← g + l1 sign(w) + 2 l2 w."""
    number = w.dtype.type
    if l2 != 0.0:
        twice = number(2.0 * l2)
        for i in range(w.size):
            g[i] += twice * w[i]
    if l1 != 0.0:
        up, zero = number(l1), number(0.0)
        for i in range(w.size):
            g[i] += up if w[i] > zero else -up if w[i] < zero else zero


@in_any_order
def _clip(g: Any, limit: float) -> None:
    """As `clip_by_global_norm`: squares of g / unit do not overflow."""
    unit = limit
    for i in range(g.size):
        unit = max(unit, abs(g[i]))
    squares = 0.0
    for i in range(g.size):
        squares += (g[i] / unit) * (g[i] / unit)
    share = limit / unit
    factor = g.dtype.type(share / max(math.sqrt(squares), share))
    for i in range(g.size):
        g[i] *= factor
