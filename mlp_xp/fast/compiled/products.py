"""The three products of a layer, by the BLAS where matrices are large enough for it, else by loops.

    z = Wᵀ a        ∂L/∂W = a δᵀ        δ_{l−1} = W δ

a and δ are (n_units, n_rows), W is (n_in, n_out). Loops run along whatever lies side by side: rows, or for a
single row the units of the next layer. The BLAS is SciPy's, which is what Numba calls.

Of members that are trained side by side all arrays have one more axis, the last one: loops run along it.
"""

from typing import Any

import numpy as np

from mlp_xp.fast.compiled.compiler import in_any_order, types
from mlp_xp.fast.compiled.lanes import sum_products
from mlp_xp.machine.array_api import Array

BLAS_FROM = 16_384
"""Multiplications from which the BLAS is faster than the loops."""

NARROW = 4
"""It is not, for matrices of fewer rows, inputs or outputs than this."""

WARMED_FROM, WARMED_TO, DEEP = 2**18, 2**21, 512
"""Weights, and inputs of a layer, for which the way there reads W in its order first: the BLAS reads it in
columns, and each line of them from memory that is far (512 × 512 with 128 rows: 790 instead of 960 µs)."""

TILE = 16
"""Rows that are transposed at a time: a cache line of float32."""


_AT, _SIZE = types.voidptr, types.intp
_GEMM = types.ExternalFunction(
    "numba_xxgemm",
    types.intc(*[types.char] * 3, *[_SIZE] * 3, _AT, _AT, _SIZE, _AT, _SIZE, _AT, _AT, _SIZE),
)
"""The BLAS's product with all its arguments, by Numba's name for it."""

FLOAT, DOUBLE, AS_IT_IS, TURNED = map(ord, "sdnt")


@in_any_order
def suits_blas(n_in: int, n_out: int, n_rows: int) -> bool:
    """Whether the products of a layer are left to the BLAS."""
    return min(n_in, n_out, n_rows) >= NARROW and n_in * n_out * n_rows >= BLAS_FROM


@in_any_order
def forward(w: Array, a: Array, z: Array) -> None:
    """z ← Wᵀ a."""
    n_in, n_out = w.shape[:2]
    if w.ndim == 3:
        n_rows = a.shape[1]
        for j in range(n_out):
            for i in range(n_rows):
                sum_products(z, j * n_rows + i, w, j, n_out, a, i, n_rows, n_in)
    elif suits_blas(n_in, n_out, a.shape[1]):
        if n_in >= DEEP and WARMED_FROM <= n_in * n_out <= WARMED_TO:
            z[0, 0] = _sum(w)  # written over at once
        np.dot(w.T, a, z)
    elif a.shape[1] == 1:
        _add_rows(a.reshape(-1), w, z.reshape(-1))
    else:
        for j in range(n_out):
            _add_rows(w[:, j], a, z[j])


@in_any_order
def _sum(w: Array) -> Any:
    """Σ w."""
    total = w.dtype.type(0.0)
    for k in range(w.shape[0]):
        for j in range(w.shape[1]):
            total += w[k, j]
    return total


@in_any_order
def _add_rows(factors: Array, rows: Array, out: Array) -> None:
    """Out ← Σ_k factor_k row_k, four rows at a time: `out` is read and written a quarter as often."""
    n_rows, n = rows.shape
    x0, row0 = factors[0], rows[0]
    for i in range(n):
        out[i] = x0 * row0[i]
    k = 1
    while k + 4 <= n_rows:
        x0, x1, x2, x3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        row0, row1, row2, row3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        for i in range(n):
            out[i] += x0 * row0[i] + x1 * row1[i] + x2 * row2[i] + x3 * row3[i]
        k += 4
    while k < n_rows:
        x0, row0 = factors[k], rows[k]
        for i in range(n):
            out[i] += x0 * row0[i]
        k += 1


@in_any_order
def gradient(a: Array, delta: Array, g: Array, add: bool) -> None:
    """g ← a δᵀ, or g ← g + a δᵀ; of members, whose steps are not shared out, always the first."""
    n_in, n_out = g.shape[:2]
    if g.ndim == 3:
        n_rows = a.shape[1]
        for k in range(n_in):
            for j in range(n_out):
                sum_products(g, k * n_out + j, a, k * n_rows, 1, delta, j * n_rows, 1, n_rows)
        return
    if suits_blas(n_in, n_out, a.shape[1]):
        _multiply(a, delta, g, add)
        return
    number = g.dtype.type
    for k in range(n_in):
        row = g[k]
        if not add:
            row[:] = number(0.0)
        if a.shape[1] == 1:
            x, one_row = a[k, 0], delta.reshape(-1)
            for j in range(n_out):
                row[j] += x * one_row[j]
        else:
            for j in range(n_out):
                row[j] += _dot(a[k], delta[j])


@in_any_order
def _multiply(a: Array, delta: Array, g: Array, add: bool) -> None:
    """g ← a δᵀ, or g ← g + a δᵀ. To the BLAS, which thinks in columns, that is gᵀ and a product δ aᵀ."""
    factors = np.ones(2, a.dtype)
    if not add:
        factors[1] = 0.0
    _GEMM(
        np.uint8(FLOAT if a.itemsize == 4 else DOUBLE),
        np.uint8(TURNED),
        np.uint8(AS_IT_IS),
        g.shape[1],
        g.shape[0],
        a.shape[1],
        factors[:1].ctypes,
        delta.ctypes,
        delta.shape[1],
        a.ctypes,
        a.shape[1],
        factors[1:].ctypes,
        g.ctypes,
        g.shape[1],
    )


@in_any_order
def back(w: Array, delta: Array, out: Array) -> None:
    """Out ← W δ."""
    n_in, n_out = w.shape[:2]
    if w.ndim == 3:
        n_rows = delta.shape[1]
        for k in range(n_in):
            for i in range(n_rows):
                sum_products(out, k * n_rows + i, w, k * n_out, 1, delta, i, n_rows, n_out)
    elif suits_blas(n_in, n_out, delta.shape[1]):
        np.dot(w, delta, out)
    elif delta.shape[1] == 1:
        one_row = delta.reshape(-1)
        for k in range(n_in):
            out[k, 0] = _dot(w[k], one_row)
    else:
        for k in range(n_in):
            _add_rows(w[k], delta, out[k])


@in_any_order
def _dot(one: Array, other: Array) -> Any:
    """Σ_i one_i other_i."""
    total = one.dtype.type(0.0)
    for i in range(one.size):
        total += one[i] * other[i]
    return total


@in_any_order
def row_sums(delta: Array, g: Array, add: bool) -> None:
    """g ← Σ_i δ_i, or g ← g + Σ_i δ_i: the gradient of the biases."""
    zero = g.dtype.type(0.0)
    for j in range(delta.shape[0]):
        if g.ndim == 2:
            out = g[j]
            out[:] = zero
            for i in range(delta.shape[1]):
                one_row = delta[j, i]
                for m in range(out.size):
                    out[m] += one_row[m]
            continue
        row, total = delta[j], zero
        for i in range(row.size):
            total += row[i]
        g[j] = g[j] + total if add else total


@in_any_order
def transpose(x: Array, out: Array) -> None:
    """Out ← xᵀ, in tiles that stay in the cache; for members, as often as there are some."""
    n_rows, n_columns = x.shape
    if out.ndim == 3:
        for j in range(n_columns):
            for i in range(n_rows):
                out[j, i, :] = x[i, j]
        return
    for first in range(0, n_rows, TILE):
        tile = x[first : first + TILE]
        for j in range(n_columns):
            row = out[j, first : first + TILE]
            for i in range(tile.shape[0]):
                row[i] = tile[i, j]
