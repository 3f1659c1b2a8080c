"""Training steps as one compiled call: forward, loss, backprop and update, for several batches in turn.

The algorithm is that of `forward`, `objective`, `backprop` and `update`, and those are the place to read it.
What differs: a and δ are (n_units, n_rows); each of several threads has a part of the rows on the way there
and back, and a part of each layer's weights, which it updates block by block while their gradient is in its
cache. So δ_{l−1} is computed before W_l is updated, and between the two all wait for all.

Two cores with half of each product finish before the BLAS does with two threads of its own, and share what
lies between products, too: 64-256-256-1 with 256 rows takes 0.95 instead of 1.15 ms.

Several members of a tiny network are trained side by side by one thread: their vectors are (size, members),
all else has an axis of members behind its own, and what is a number for each member is one of an array.
"""

import math
from typing import Any

import numpy as np

from mlp_xp.fast.compiled.compiler import in_any_order
from mlp_xp.fast.compiled.formulas import call
from mlp_xp.fast.compiled.products import back, forward, gradient, row_sums, transpose
from mlp_xp.fast.compiled.threads import LINE, share, wait_for_all
from mlp_xp.fast.compiled.views import block, held
from mlp_xp.machine.array_api import Array

PART_WORK = 4_000_000
"""Parameters × rows for each thread, from which several pay. 32-100-1 with 200 rows has 0.7 million: what one
core has written costs the other more to fetch than half of the arithmetic saves."""

EXTRA_ROWS = 8
"""What a step does for each parameter that does not depend on its rows, in units of a row."""

N_DELTAS = 3
"""Layers whose δ live at a time."""

HEIGHT = 256
"""Inputs of a layer whose weights are updated at a time, while their gradient is in the cache. With fewer the
BLAS spends more on getting ready."""


@in_any_order
def parts_for(n_rows: int, n_weights: int, most: int) -> int:
    """Threads that a step is shared out to."""
    return min(most, max(1, n_weights * (n_rows + EXTRA_ROWS) // PART_WORK))


@in_any_order
def make_steps(
    part: int,
    n_parts: int,
    arrived: Array,
    totals: Array,
    sizes: Array,
    functions: Array,
    keeps: Array,
    constants: Array,
    no_biases: Array,
    loss: int,
    loss_constants: Array,
    l1: Array,
    l2: Array,
    clip_norms: Array,
    rule: int,
    numbers: Array,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    n_weights: int,
    x: Array,
    y: Array,
    labels: Array,
    weight: Array,
    batch: int,
    scales: Array,
    memory: Array,
    values: Array,
) -> None:
    """Make a thread's part of one step for each row of `numbers`.

    Parameters
    ----------
    part, n_parts : int
        Which thread this is, of how many; all others are called with the same other arguments.
    arrived, totals : arrays (n_parts · LINE,), (n_parts · LINE,) or (members,)
        Of int64 zeros, and of float64: where threads meet, and leave each its Σ s L.
    sizes : array (n_layers + 1,)
        Units per layer.
    functions : array (n_layers, 2)
        The addresses of each layer's activation and of its way back (`formulas`); 0 for none.
    keeps : array (n_layers,)
        Whether the derivative does not follow from the output, and is kept.
    constants : array (n_layers, 2, …)
        Their numbers.
    no_biases : array (n_units,), or (n_units, members)
        Zeros, as many as the widest layer has units.
    loss, loss_constants : int, array
        The loss's address and numbers.
    l1, l2, clip_norms : arrays (members,)
        Of penalty and clipping; 0 for none. Here and below a network without members has one.
    rule, numbers : int, array (n_steps, …)
        The rule's address, and its numbers for each step.
    p, g, m, v : arrays (size,), or (size, members)
        Parameters, gradient, and the rule's state, in the place of which p stands; updated.
    n_weights : int
        How many of them are weights.
    x, y, labels, weight : arrays (n_rows, …)
        The rows of all steps; read. See `losses.softmax`.
    batch : int
        Rows a step; the last one may have fewer.
    scales : array (n_steps, 1 or members)
        What J is multiplied with: 1 / Σ s, or 1.
    memory : array (n,), or (n, members)
        Of `memory_size`; to be written on.
    values : array (n_steps, 1 or 2, members)
        Filled with Σ s L and, where there is room, the penalty.
    """
    p, g, m, v, memory, scales = held(p), held(g), held(m), held(v), held(memory), held(scales)
    x, y, labels, weight, values = held(x), held(y), held(labels), held(weight), held(values)
    totals, numbers, constants = held(totals), held(numbers), held(constants)
    n_layers, size, members = sizes.size - 1, p.shape[0], l1.size
    has_biases, clips = n_weights < size, np.any(clip_norms > 0.0)
    deltas_at, room = deltas_from(sizes, keeps), memory.shape[0] // n_parts
    own, scale = memory[part * room : (part + 1) * room], np.empty(members)
    ticket = wait_for_all(part, n_parts, arrived, 1)
    if ticket == 0:  # part 0 was interrupted before it came here
        return
    for step in range(numbers.shape[0]):
        start = step * batch
        n_rows = min(batch, x.shape[0] - start)
        n_sharing = parts_for(n_rows, n_weights, n_parts)
        first, last = share(n_rows, part, n_sharing)
        n_own = last - first
        scale[:] = scales[step]
        transpose(x[start + first : start + last], _units(own, 0, sizes[0], n_own))
        at, at_weights, at_biases = 0, 0, n_weights
        for layer in range(n_layers):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            a, z = _units(own, at, n_in, n_own), _units(own, at + n_in, n_out, n_own)
            forward(block(p, at_weights, n_in, n_out), a, z)
            b = p[at_biases : at_biases + n_out] if has_biases else no_biases
            kept = _kept(own, sizes, keeps, layer, n_own)
            _activate(functions[layer, 0], constants[layer, 0], z, kept, b, no_biases)
            at, at_weights, at_biases = at + n_in, at_weights + n_in * n_out, at_biases + n_out
        delta = _delta(own, sizes, deltas_at, n_layers - 1, n_own)
        for j in range(delta.shape[0]):
            delta[j, :] = z[j]
        rows, rest = slice(start + first, start + last), _delta(own, sizes, deltas_at, n_layers, n_own)
        given = (y[rows], labels[rows], weight[rows], rest, loss_constants, scale, totals[part * LINE :])
        n_own_weights = weight.shape[1] if weight.size else 0
        call(loss, (delta, *given, delta.shape[0], n_own, n_own_weights, members))
        _chain(functions, constants, n_layers - 1, delta, _kept(own, sizes, keeps, n_layers - 1, n_own))
        if part == 0 and values.shape[1] > 1:
            _penalty(p[:n_weights], l1, l2, values[step, 1])
        for layer in range(n_layers - 1, -1, -1):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            at, at_weights, at_biases = at - n_in, at_weights - n_in * n_out, at_biases - n_out
            if layer > 0:
                before = _delta(own, sizes, deltas_at, layer - 1, n_own)
                back(block(p, at_weights, n_in, n_out), delta, before)
                kept = _kept(own, sizes, keeps, layer - 1, n_own)
                _chain(functions, constants, layer - 1, before, kept)
                delta = before
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            if layer == n_layers - 1 and part == 0:
                for n in range(members):
                    values[step, 0, n] = 0.0
                    for other in range(n_parts):
                        values[step, 0, n] += totals[other * LINE + n]
            first, last = share(n_in, part, n_sharing)
            for top in range(first, last, HEIGHT):
                bottom = min(top + HEIGHT, last)
                begin, end = at_weights + top * n_out, at_weights + bottom * n_out
                of_block = block(g, begin, bottom - top, n_out)
                for other in range(n_sharing):
                    theirs = memory[other * room : (other + 1) * room]
                    n_theirs = _n_own(n_rows, other, n_sharing)
                    a = _units(theirs, at, n_in, n_theirs)[top:bottom]
                    gradient(a, _delta(theirs, sizes, deltas_at, layer, n_theirs), of_block, other > 0)
                _add_penalty(p[begin:end], g[begin:end], l1, l2, scale)
                if not clips:
                    apply_rule(rule, numbers[step], p, g, m, v, begin, end, n_weights)
            if has_biases:
                first, last = share(n_out, part, n_sharing)
                begin, end = at_biases + first, at_biases + last
                for other in range(n_sharing):
                    n_theirs = _n_own(n_rows, other, n_sharing)
                    theirs = memory[other * room : (other + 1) * room]
                    of_units = _delta(theirs, sizes, deltas_at, layer, n_theirs)[first:last]
                    row_sums(of_units, g[begin:end], other > 0)
                if not clips:
                    apply_rule(rule, numbers[step], p, g, m, v, begin, end, n_weights)
        if clips:
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            factors = _clip_factors(g, clip_norms)
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            first, last = share(size, part, n_sharing)
            _multiply(g[first:last], factors)
            apply_rule(rule, numbers[step], p, g, m, v, first, last, n_weights)
        ticket = wait_for_all(part, n_parts, arrived, ticket)


@in_any_order
def _n_own(n_rows: int, part: int, n_sharing: int) -> int:
    """Rows of a part."""
    first, last = share(n_rows, part, n_sharing)
    return last - first


@in_any_order
def deltas_from(sizes: Array, keeps: Array) -> int:
    """Numbers a row before the δ: all a, and as many again where derivatives do not follow from them."""
    return sizes.sum() * (2 if keeps.any() else 1)


@in_any_order
def memory_size(sizes: Array, keeps: Array, n_rows: int, n_parts: int) -> int:
    """Numbers of memory for steps of so many rows."""
    a_row = deltas_from(sizes, keeps)
    for turn in range(N_DELTAS):
        a_row += _width(sizes, turn)
    return a_row * -(-n_rows // n_parts) * n_parts


@in_any_order
def _width(sizes: Array, turn: int) -> int:
    """The most units of the layers whose δ go to the same place; at least one, for the loss to write on."""
    widest = 1
    for layer in range(turn, sizes.size - 1, N_DELTAS):
        widest = max(widest, sizes[layer + 1])
    return widest


@in_any_order
def _units(memory: Array, at: int, n_units: int, n_rows: int) -> Any:
    """The (n_units, n_rows) numbers that come after `at` for each row."""
    return block(memory, at * n_rows, n_units, n_rows)


@in_any_order
def _kept(memory: Array, sizes: Array, keeps: Array, layer: int, n_rows: int) -> Any:
    """What a layer's derivative follows from: its a, or what stands as far behind all a."""
    at = sizes[: layer + 1].sum()
    if keeps[layer]:
        at += sizes.sum()
    return _units(memory, at, sizes[layer + 1], n_rows)


@in_any_order
def _delta(memory: Array, sizes: Array, at: int, layer: int, n_rows: int) -> Any:
    """Where a layer's δ goes: others may still read that of the layer behind, hence three in turn."""
    for turn in range(layer % N_DELTAS):
        at += _width(sizes, turn)
    return _units(memory, at, sizes[layer + 1] if layer + 1 < sizes.size else 1, n_rows)


@in_any_order
def apply_rule(
    rule: int, h: Array, p: Array, g: Array, m: Array, v: Array, first: int, last: int, n_weights: int
) -> None:
    """Apply the rule to the elements first … last."""
    own_weights, members = max(0, min(last, n_weights) - first), p.size // p.shape[0]
    vectors = (p[first:last], g[first:last], m[first:last], v[first:last])
    call(rule, (*vectors, h, last - first, own_weights, members))


@in_any_order
def _activate(function: int, numbers: Array, z: Array, kept: Array, b: Array, no_biases: Array) -> None:
    """z ← f(z + b)."""
    n_units = z.shape[0]
    if z.ndim == 2:
        call(function, (z, kept, b, numbers, n_units, z.shape[1]))
        return
    for j in range(n_units):
        for i in range(z.shape[1]):
            own, bias = z[j, i], b[j]
            for n in range(own.size):
                own[n] += bias[n]
    call(function, (z, kept, no_biases, numbers, n_units, z.shape[1] * z.shape[2]))


@in_any_order
def _chain(functions: Array, constants: Array, layer: int, delta: Array, kept: Array) -> None:
    """δ ← δ f'; for the identity there is nothing to do."""
    if functions[layer, 1] != 0:
        call(functions[layer, 1], (delta, kept, constants[layer, 1], delta.size))


@in_any_order
def _penalty(w: Array, l1: Array, l2: Array, out: Array) -> None:
    """Out ← l1 Σ |w| + l2 Σ w²."""
    if w.ndim == 1:
        sizes, squares = 0.0, 0.0
        for i in range(w.size):
            sizes += abs(w[i])
            squares += w[i] * w[i]
        out[0] = l1[0] * sizes + l2[0] * squares
        return
    out[:] = 0.0
    for i in range(w.shape[0]):
        for n in range(out.size):
            out[n] += l1[n] * abs(w[i, n]) + l2[n] * w[i, n] * w[i, n]


@in_any_order
def _add_penalty(w: Array, g: Array, l1: Array, l2: Array, scale: Array) -> None:
    """g ← g + scale (l1 sign(w) + 2 l2 w)."""
    number = w.dtype.type
    zero = number(0.0)
    if w.ndim == 2:
        largest = 0.0
        for n in range(l1.size):
            largest = max(largest, l1[n], l2[n])
        if largest > 0.0:
            for i in range(w.shape[0]):
                for n in range(scale.size):
                    up = number(l1[n] * scale[n])
                    sign = up if w[i, n] > zero else -up if w[i, n] < zero else zero
                    g[i, n] += number(2.0 * l2[n] * scale[n]) * w[i, n] + sign
        return
    if l2[0] != 0.0:
        twice = number(2.0 * (l2[0] * scale[0]))
        for i in range(w.size):
            g[i] += twice * w[i]
    if l1[0] != 0.0:
        up = number(l1[0] * scale[0])
        for i in range(w.size):
            g[i] += up if w[i] > zero else -up if w[i] < zero else zero


@in_any_order
def _clip_factors(g: Array, limits: Array) -> Any:
    """Of each member, as `clip_by_global_norm`: squares of g / unit do not overflow; 1 without a limit."""
    factors = np.ones(limits.size, g.dtype)
    for n in range(limits.size):
        if limits[n] > 0.0:
            factors[n] = _clip_factor(g if g.ndim == 1 else g[:, n], limits[n])
    return factors


@in_any_order
def _clip_factor(g: Array, limit: float) -> Any:
    unit = limit
    for i in range(g.size):
        unit = max(unit, abs(g[i]))
    squares = 0.0
    for i in range(g.size):
        squares += (g[i] / unit) * (g[i] / unit)
    share_ = limit / unit
    return g.dtype.type(share_ / max(math.sqrt(squares), share_))


@in_any_order
def _multiply(g: Array, factors: Array) -> None:
    """g ← g ⊙ factors."""
    if g.ndim == 1:
        for i in range(g.size):
            g[i] *= factors[0]
    else:
        for i in range(g.shape[0]):
            for n in range(factors.size):
                g[i, n] *= factors[n]
