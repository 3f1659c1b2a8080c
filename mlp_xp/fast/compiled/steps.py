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

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.fast.compiled.compiler import in_any_order
from mlp_xp.fast.compiled.formulas import call
from mlp_xp.fast.compiled.masks import drop
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
"""Layers whose δ live at a time: others may still read that of the layer behind."""

INPUTS, KEPT, DELTAS = range(3)
"""What `places_of` knows of each layer."""

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
    places: Array,
    n_numbers: int,
    at_scale: int,
    functions: Array,
    constants: Array,
    no_biases: Array,
    loss: int,
    loss_constants: Array,
    l1: Array,
    l2: Array,
    clip_norms: Array,
    drops: Array,
    rule: int,
    bounds: Array,
    numbers: Array,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    n_weights: int,
    n_biases: int,
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
    places, n_numbers : array (3, n_layers + 1), int
        Where things lie in the memory for a row, and how much of it there is (`places_of`).
    at_scale : int
        Where the scale of the inputs begins in p; −1 without one.
    functions : array (n_layers, 3)
        The addresses of each layer's activation and of its way back (`formulas`), 0 for none; and whether its
        output is kept before units are dropped, for the derivative to follow from.
    constants : array (n_layers, 2, …)
        Their numbers.
    no_biases : array (n_units,), or (n_units, members)
        Zeros, as many as the widest layer has units.
    loss, loss_constants : int, array (n_constants,), or (n_constants, members)
        The loss's address and numbers.
    l1, l2, clip_norms : arrays (members,)
        Of penalty and clipping; 0 for none. Here and below a network without members has one.
    drops : array (n_steps, n_layers − 1, 4, members), or (0, 0, 4, members)
        Of each step and hidden layer the two keys of its dropout mask, the least hash of a unit that
        survives, and what its output is multiplied with; 0 where all units survive.
    rule, bounds, numbers : int, array (n_groups + 1,), array (n_steps, n_groups, …)
        The rule's address, and its numbers for each step: one group of all, or one for each layer's weights,
        each layer's biases, and the scale of the inputs, with the places in p where they begin and end.
    p, g, m, v : arrays (size,), or (size, members)
        Parameters, gradient, and the rule's state, in the place of which p stands; updated.
    n_weights, n_biases : int
        How many of them are weights, and biases behind them.
    x, y, labels, weight : arrays (n_rows, …)
        The rows of all steps; read. See `losses.softmax`.
    batch : int
        Rows a step; the last one may have fewer.
    scales : array (n_steps, 1 or members)
        What J is multiplied with: 1 / Σ s, or 1.
    memory : array (n,), or (n, members)
        As many numbers as `n_numbers` says for each row and part; to be written on.
    values : array (n_steps, 1 or 2, members)
        Filled with Σ s L and, where there is room, the penalty.
    """
    p, g, m, v, memory, scales = held(p), held(g), held(m), held(v), held(memory), held(scales)
    x, y, labels, weight, values = held(x), held(y), held(labels), held(weight), held(values)
    totals, numbers, constants = held(totals), held(numbers), held(constants)
    n_layers, size, members = sizes.size - 1, p.shape[0], l1.size
    has_biases, clips = n_biases > 0, np.any(clip_norms > 0.0)
    penalises = np.any(l1 != 0.0) or np.any(l2 != 0.0)
    room = -(-min(batch, x.shape[0]) // n_parts) * n_numbers
    is_grouped, hashes = numbers.shape[1] > 1, np.empty((batch + 1) * members if drops.size else 0, np.uint32)
    own, scale = memory[part * room : (part + 1) * room], np.empty(members)
    ticket = wait_for_all(part, n_parts, arrived, 1)
    if ticket == 0:  # part 0 was interrupted before it came here
        return
    for step in range(numbers.shape[0]):
        start = step * batch
        n_rows = min(batch, x.shape[0] - start)
        n_sharing = parts_for(n_rows, n_weights, n_parts)
        first, last = share(n_rows, part, n_sharing)
        n_own, n_before = last - first, first
        scale[:] = scales[step]
        given_x = _units(own, places[KEPT, 0], sizes[0], n_own)
        transpose(x[start + first : start + last], given_x)
        if at_scale >= 0:
            scale_rows(given_x, p[at_scale:], _units(own, places[INPUTS, 0], sizes[0], n_own))
        at_weights, at_biases = 0, n_weights
        for layer in range(n_layers):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            a = _units(own, places[INPUTS, layer], n_in, n_own)
            z = _units(own, places[INPUTS, layer + 1], n_out, n_own)
            forward(block(p, at_weights, n_in, n_out), a, z)
            b = p[at_biases : at_biases + n_out] if has_biases else no_biases
            kept = _units(own, places[KEPT, layer + 1], n_out, n_own)
            _activate(functions[layer, 0], constants[layer, 0], z, kept, b, no_biases)
            if functions[layer, 2] != 0:
                copy(z, kept)
            if drops.size and layer < n_layers - 1:
                drop(z, drops[step, layer], first, hashes)
            at_weights, at_biases = at_weights + n_in * n_out, at_biases + n_out
        delta = _units(own, places[DELTAS, n_layers - 1], sizes[n_layers], n_own)
        copy(z, delta)
        at, rest = start + first, _units(own, places[DELTAS, n_layers], 1, n_own)
        given = (block(y, at, n_own, 1), block(labels, at, n_own, 1), block(weight, at, n_own, 1))
        n_own_weights = weight.shape[1] if weight.size else 0
        told = (rest, loss_constants, scale, block(totals, part * LINE, 1, 1))
        call(loss, (delta, *given, *told, delta.shape[0], n_own, n_own_weights, members))
        _chain(functions, constants, n_layers - 1, delta, kept)
        if part == 0 and values.shape[1] > 1:
            _penalty(p[:n_weights], l1, l2, values[step, 1])
        for layer in range(n_layers - 1, -1, -1):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            at_weights, at_biases = at_weights - n_in * n_out, at_biases - n_out
            of_weights, of_biases = (layer, n_layers + layer) if is_grouped else (0, 0)
            if layer > 0:
                before = _units(own, places[DELTAS, layer - 1], n_in, n_own)
                back(block(p, at_weights, n_in, n_out), delta, before)
                kept = _units(own, places[KEPT, layer], n_in, n_own)
                _chain(functions, constants, layer - 1, before, kept)
                if drops.size:
                    drop(before, drops[step, layer - 1], n_before, hashes)
                delta = before
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            if layer == n_layers - 1 and part == 0:
                for n in range(members):
                    values[step, 0, n] = 0.0
                    for other in range(n_parts):
                        values[step, 0, n] += totals[other * LINE + n]
            first, last = share(n_in, part, n_sharing)
            at_inputs = places[INPUTS if layer > 0 else KEPT, layer]
            for top in range(first, last, HEIGHT):
                bottom = min(top + HEIGHT, last)
                begin, end = at_weights + top * n_out, at_weights + bottom * n_out
                of_block = block(g, begin, bottom - top, n_out)
                for other in range(n_sharing):
                    theirs = memory[other * room : (other + 1) * room]
                    n_theirs = _n_own(n_rows, other, n_sharing)
                    a = block(theirs, (at_inputs + top) * n_theirs, bottom - top, n_theirs)
                    gradient(a, _units(theirs, places[DELTAS, layer], n_out, n_theirs), of_block, other > 0)
                if layer == 0 and at_scale >= 0:
                    w = block(p, begin, bottom - top, n_out)
                    through_scale(w, p[at_scale + top :], of_block, g[at_scale + top :])
                if penalises:
                    _add_penalty(p[begin:end], g[begin:end], l1, l2, scale)
                if not clips:
                    apply_rule(rule, numbers[step, of_weights], p, g, m, v, begin, end, n_weights)
            if has_biases:
                first, last = share(n_out, part, n_sharing)
                begin, end = at_biases + first, at_biases + last
                for other in range(n_sharing):
                    n_theirs = _n_own(n_rows, other, n_sharing)
                    theirs = memory[other * room : (other + 1) * room]
                    at = (places[DELTAS, layer] + first) * n_theirs
                    of_units = block(theirs, at, last - first, n_theirs)
                    row_sums(of_units, g[begin:end], other > 0)
                if not clips:
                    apply_rule(rule, numbers[step, of_biases], p, g, m, v, begin, end, n_weights)
        if at_scale >= 0 and not clips:
            first, last = share(sizes[0], part, n_sharing)
            begin, end = at_scale + first, at_scale + last
            apply_rule(rule, numbers[step, -1], p, g, m, v, begin, end, n_weights)
        if clips:
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            factors = _clip_factors(g, clip_norms)
            ticket = wait_for_all(part, n_parts, arrived, ticket)
            first, last = share(size, part, n_sharing)
            _multiply(g[first:last], factors)
            for k in range(numbers.shape[1]):
                begin, end = max(first, bounds[k]), min(last, bounds[k + 1])
                if begin < end:
                    apply_rule(rule, numbers[step, k], p, g, m, v, begin, end, n_weights)
        ticket = wait_for_all(part, n_parts, arrived, ticket)


@in_any_order
def _n_own(n_rows: int, part: int, n_sharing: int) -> int:
    """Rows of a part."""
    first, last = share(n_rows, part, n_sharing)
    return last - first


def places_of(sizes: Sequence[int], keeps: Sequence[bool], *, has_scale: bool) -> tuple[np.ndarray, int]:
    """Where in the memory of a row lies what a step computes of it, and how much there is.

    Parameters
    ----------
    sizes : sequence of int
        Units per layer.
    keeps : sequence of bool
        Of each layer whether what the derivative follows from is not the input of the next one.
    has_scale : bool
        Whether x is not the input of the first one.

    Returns
    -------
    places : array (3, n_layers + 1)
        Of the inputs x, a_1, …, a_L; of x as it was given and what each layer's derivative follows from; of
        δ_1, …, δ_L, and of a number for the loss to write on.
    n_numbers : int
    """
    *inputs, n_all = itertools.accumulate(sizes, initial=0)
    is_apart = [has_scale, *keeps]
    kept = [at + n_all if apart else at for at, apart in zip(inputs, is_apart, strict=True)]
    widths = [max([1, *sizes[turn + 1 :: N_DELTAS]]) for turn in range(N_DELTAS)]
    *starts, n_numbers = itertools.accumulate(widths, initial=n_all * (2 if any(is_apart) else 1))
    deltas = [starts[layer % N_DELTAS] for layer in range(len(sizes))]
    return np.array([inputs, kept, deltas]), n_numbers


@in_any_order
def _units(memory: Array, at: int, n_units: int, n_rows: int) -> Any:
    """The (n_units, n_rows) numbers that come after `at` for each row."""
    return block(memory, at * n_rows, n_units, n_rows)


@in_any_order
def apply_rule(
    rule: int, h: Array, p: Array, g: Array, m: Array, v: Array, first: int, last: int, n_weights: int
) -> None:
    """Apply the rule to the elements first … last."""
    own_weights, members, n = max(0, min(last, n_weights) - first), p.size // p.shape[0], last - first
    vectors = (block(p, first, n, 1), block(g, first, n, 1), block(m, first, n, 1), block(v, first, n, 1))
    call(rule, (*vectors, h, n, own_weights, members))


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
def copy(z: Array, out: Array) -> None:
    """Out ← z."""
    for j in range(z.shape[0]):
        out[j, :] = z[j]


@in_any_order
def scale_rows(x: Array, s: Array, out: Array) -> None:
    """Out ← s ⊙ x; members side by side have no scale."""
    if x.ndim == 2:
        for j in range(x.shape[0]):
            for i in range(x.shape[1]):
                out[j, i] = s[j] * x[j, i]


@in_any_order
def through_scale(w: Array, s: Array, g: Array, of_scale: Array) -> None:
    """From U in g: ∂L/∂s_j = Σ_k w_jk u_jk, and ∂L/∂W = s ⊙ U."""
    if w.ndim == 2:
        for j in range(w.shape[0]):
            total = s.dtype.type(0.0)
            for k in range(w.shape[1]):
                total += w[j, k] * g[j, k]
                g[j, k] *= s[j]
            of_scale[j] = total


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
