"""Fused kernels: one launch and one pass over memory where the plain rule makes several.

Each says what a plain rule of the package says, which stays its oracle. Numbers that change from step to step
(rates, 1 / Σ s_i, the step's number) are read from device memory, so that a captured step can be launched
again with others. CuPy compiles with -ftz=true: subnormal numbers count as zero here.

What is computed of each element follows from the plain code itself, as a `Program`. A function that makes a
kernel takes no arguments, Literal ones, or a program: cuda_without_gpu in tests compiles all.

What no machine without a GPU can confirm: the results.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mlp_xp.machine.array_api import Array
from mlp_xp.machine.symbolic import COMPARISONS, FUNCTIONS, Program

Real = Literal["float", "double"]

N_SCALARS = 16
"""Numbers of a step in device memory: a rule's own from 0, and the two that follow."""

INVERSE = 14
"""Where 1 / Σ s_i is among them."""

_SIGNS = zip(COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True)
_IN_C: Mapping[str, str] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "absolute": "abs({0})",
    # What is not a number stays that: a comparison that decides for the other one would hide it.
    "maximum": "{0} < {1} || {1} != {1} ? {1} : {0}",
    "minimum": "{0} > {1} || {1} != {1} ? {1} : {0}",
    "where": "{0} ? {1} : {2}",
    **{name: f"{name}({{0}})" for name in FUNCTIONS},
    **{name: f"{{0}} {sign} {{1}}" for name, sign in _SIGNS},
}


def _computed(program: Program, inputs: Sequence[str], numbers: str, outputs: Sequence[str]) -> str:
    """Statements that compute a program's first outputs, T, from what inputs and numbers are called."""
    lines = []
    for place, (name, *operands) in enumerate(program.steps):
        if name in ("input", "number"):
            value = inputs[operands[0]] if name == "input" else numbers.format(*operands)
        else:
            value = _IN_C[name].format(*(f"t{operand}" for operand in operands))
        lines.append(f"{'bool' if name in COMPARISONS else 'T'} t{place} = {value};")
    lines += [f"{name} = t{place};" for name, place in zip(outputs, program.outputs, strict=False)]
    return " ".join(lines)


def _name(what: str, program: Program, *more: object) -> str:
    """A name for a program's kernel alone."""
    return f"mlp_xp_{what}_{zlib.crc32(repr((program.steps, program.outputs, more)).encode()):08x}"


def _numbers(program: Program) -> str:
    """Its numbers as parameters of a kernel."""
    return "".join(f", T h{k}" for k in range(len(program.numbers)))


LARGEST = 2**31 - 1
"""Elements up to which indices are computed in 32 bits."""


@functools.cache
def _activate_kernel(program: Program, n_outputs: int) -> Any:
    """z ← f(z + b), and kept ← f'(z + b) where it is asked for."""
    import cupy

    outputs = ("a", "kept")[:n_outputs]
    return cupy.ElementwiseKernel(
        f"T z, raw T b, int32 n_b{_numbers(program)}",
        ", ".join(f"T {each}" for each in outputs),
        f"T x = z + b[(unsigned int)i % (unsigned int)n_b]; {_computed(program, ['x'], 'h{}', outputs)}",
        _name("activate", program, n_outputs),
    )


@functools.cache
def _chain_kernel(program: Program) -> Any:
    """δ ← δ f', with f' from what was kept."""
    import cupy

    return cupy.ElementwiseKernel(
        f"T delta_in, T kept{_numbers(program)}",
        "T delta",
        _computed(program, ["delta_in", "kept"], "h{}", ["delta"]),
        _name("chain", program),
    )


@functools.cache
def _differentiate_kernel(program: Program) -> Any:
    """z ← s ∂L/∂z, value ← s L."""
    import cupy

    return cupy.ElementwiseKernel(
        f"T y, raw T weight, int32 n_outputs, int32 weighted{_numbers(program)}",
        "T z, T value",
        "T s = weighted ? weight[(unsigned int)i / (unsigned int)n_outputs] : (T)1; T delta, loss;"
        f"{_computed(program, ['z', 'y'], 'h{}', ['delta', 'loss'])} z = s * delta; value = s * loss;",
        _name("differentiate", program),
    )


@functools.cache
def _update_kernel(program: Program, shrinks: Literal[True, False]) -> Any:
    """A rule's update of p and its state, with its numbers h in device memory.

    All is loaded before anything is stored: any array may be any other, for all that the compiler knows, so
    that it would load g and h again after each store, one wait for the memory after the other.
    """
    import cupy

    written = [f"v{k}" for k in range(len(program.outputs))]  # p and the state
    inputs = [written[0], "g", *written[1:]]
    load = "".join(f"T {each} = {each}_; " for each in ("g", *written))
    n = sum(name == "number" for name, *_ in program.steps)
    numbers = "".join(f"T h{k} = h_[{k}]; " for k in range(n + shrinks))
    shrink = f"v0 = i < n_weights ? v0 * h{n} : v0; " if shrinks else ""
    store = "".join(f" {each}_ = {each};" for each in written)
    return cupy.ElementwiseKernel(
        "T g_, raw T h_, int64 n_weights",
        ", ".join(f"T {each}_" for each in written),
        f"{load}{numbers}{shrink}{_computed(program, inputs, 'h{}', written)}{store}",
        _name("update", program, shrinks),
    )


@functools.cache
def _penalty_gradient_kernel() -> Any:
    """g ← g + scale (l1 sign(w) + 2 l2 w)."""
    import cupy

    return cupy.ElementwiseKernel(
        "T w, raw T scale, T l1, T l2",
        "T g",
        "g += scale[0] * ((T)2 * l2 * w + l1 * (T)((w > 0) - (w < 0)));",
        "mlp_xp_penalty_gradient",
    )


_THREADS = 256
_PARTS = 256


@functools.cache
def _partial_sums_kernel(real: Real) -> Any:
    """Σ |v| and Σ v² over a block's part of a vector: always the same elements in the same order."""
    import cupy

    return cupy.RawKernel(
        f"""
extern "C" __global__ void partial_sums(const {real} *v, long long n, double *partial) {{
    __shared__ double absolute[{_THREADS}], square[{_THREADS}];
    double a = 0, s = 0;
    for (long long i = blockIdx.x * {_THREADS}ll + threadIdx.x; i < n; i += gridDim.x * {_THREADS}ll) {{
        double x = v[i];
        a += fabs(x);
        s += x * x;
    }}
    absolute[threadIdx.x] = a;
    square[threadIdx.x] = s;
    __syncthreads();
    for (int half = {_THREADS // 2}; half > 0; half /= 2) {{
        if (threadIdx.x < half) {{
            absolute[threadIdx.x] += absolute[threadIdx.x + half];
            square[threadIdx.x] += square[threadIdx.x + half];
        }}
        __syncthreads();
    }}
    if (threadIdx.x == 0) {{
        partial[blockIdx.x] = absolute[0];
        partial[gridDim.x + blockIdx.x] = square[0];
    }}
}}
""",
        "partial_sums",
    )


@functools.cache
def _finish_sums_kernel(real: Real) -> Any:
    """result[0] ← l1 Σ |v| + l2 Σ v²;  result[1] ← limit / max(√Σ v², limit)."""
    import cupy

    return cupy.RawKernel(
        f"""
extern "C" __global__ void finish_sums(
    const double *partial, int n_parts, double l1, double l2, double limit, {real} *result
) {{
    double a = 0, s = 0;
    for (int i = 0; i < n_parts; i++) {{
        a += partial[i];
        s += partial[n_parts + i];
    }}
    double norm = sqrt(s);
    result[0] = l1 * a + l2 * s;
    result[1] = limit / (norm < limit ? limit : norm);
}}
""",
        "finish_sums",
    )


@functools.cache
def _cross_entropy_kernel(real: Real) -> Any:
    """A row's loss over some classes, and δ in the place of their z; a warp of 32 threads a row."""
    import cupy

    return cupy.RawKernel(
        f"""
typedef {real} T;
__device__ T sum_of_warp(T x) {{
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}}
extern "C" __global__ void cross_entropy(
    T *z, int n_outputs, int first, int n_classes, const int *y, int n_targets, int target,
    const T *weight, int weighted, int n_rows, T smoothing, T least, T most, int bounded, int add, T *per_row
) {{
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= n_rows) return;
    T *d = z + (long long)row * n_outputs + first;
    int label = y[(long long)row * n_targets + target];
    T s = weighted ? weight[row] : (T)1;
    T largest = d[0];
    bool broken = false;
    for (int j = lane; j < n_classes; j += 32) {{
        if (d[j] > largest) largest = d[j];
        broken = broken || d[j] != d[j];
    }}
    for (int step = 16; step > 0; step /= 2) {{
        T other = __shfl_xor_sync(0xffffffffu, largest, step);
        if (other > largest) largest = other;
    }}
    if (__any_sync(0xffffffffu, broken)) largest = (T)0 / (T)0 * largest;
    T rest = 0, ties = 0;
    for (int j = lane; j < n_classes; j += 32) {{
        T below = d[j] - largest;
        d[j] = below;
        if (below == 0) ties += 1;
        else rest += exp(below);
    }}
    rest = sum_of_warp(rest) + (sum_of_warp(ties) - 1);
    T log_sum = log1p(rest), value = 0, others = 0;
    for (int j = lane; j < n_classes; j += 32) {{
        T aim = smoothing / n_classes + (j == label ? (T)1 - smoothing : (T)0);
        T minus_log_p = log_sum - d[j];
        if (bounded) {{
            if (minus_log_p < least) minus_log_p = least;
            if (minus_log_p > most) minus_log_p = most;
            value += aim * minus_log_p;
        }} else {{
            value -= aim * d[j];
        }}
        if (j != label) others += exp(d[j]) / ((T)1 + rest);
    }}
    value = sum_of_warp(value) + (bounded ? (T)0 : log_sum);
    others = sum_of_warp(others);
    for (int j = lane; j < n_classes; j += 32) {{
        T delta = j == label ? -others : exp(d[j]) / ((T)1 + rest);
        delta += smoothing * ((j == label ? (T)1 : (T)0) - (T)1 / n_classes);
        d[j] = s * delta;
    }}
    if (lane == 0) per_row[row] = (add ? per_row[row] : (T)0) + s * value;
}}
""",
        "cross_entropy",
    )


@functools.cache
def _pinball_kernel() -> Any:
    """An output's loss, and δ in the place of z; outputs are grouped by target, each with all quantiles."""
    import cupy

    return cupy.ElementwiseKernel(
        "raw T y, raw T quantiles, raw T weight, int32 n_quantiles, int32 n_outputs, int32 weighted",
        "T z, T value",
        "unsigned int at = i; T q = quantiles[at % (unsigned int)n_quantiles];"
        "T r = y[at / (unsigned int)n_quantiles] - z;"
        "T s = weighted ? weight[at / (unsigned int)n_outputs] : (T)1;"
        "value = s * (r > 0 ? q * r : (q - (T)1) * r);"
        "z = s * (r > 0 ? -q : r < 0 ? (T)1 - q : (T)0)",
        "mlp_xp_pinball",
    )


@functools.cache
def _mask_kernel(real: Real) -> Any:
    """Dropout's factors from a counter: the hash of `mlp_xp.dropout`, with the step's number in memory."""
    import cupy

    return cupy.RawKernel(
        f"""
__device__ unsigned int mix(unsigned int h) {{
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    return h ^ (h >> 16);
}}
extern "C" __global__ void dropout_mask(
    {real} *mask, const long long *counters, unsigned int seed_low, unsigned int seed_high,
    int layer, unsigned int first_row, int n_units, long long size, int threshold, {real} factor
) {{
    unsigned long long step = (unsigned long long)counters[0];
    unsigned int parts[5] = {{seed_low, seed_high, (unsigned int)step, (unsigned int)(step >> 32),
                              (unsigned int)layer}};
    unsigned int key = 0;
    for (int i = 0; i < 5; i++) key = mix(key ^ parts[i]) + 0x9E3779B9u;
    unsigned int row_key = mix(key), unit_key = mix(key + 1u);
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size;
         i += (long long)gridDim.x * blockDim.x) {{
        unsigned int row = (unsigned int)(i / n_units) + first_row, unit = (unsigned int)(i % n_units);
        unsigned int h = mix(mix(row * 0x9E3779B1u + row_key) + mix(unit * 0x85EBCA77u + unit_key));
        mask[i] = (int)h >= threshold ? factor : ({real})0;
    }}
}}
""",
        "dropout_mask",
    )


@functools.cache
def _begin_kernel(real: Real) -> Any:
    """A step's rows to where the captured step reads them, and its numbers; copied word by word."""
    import cupy

    values = ", ".join(f"double h{i}" for i in range(N_SCALARS))
    stores = " ".join(f"h[{i}] = ({real})h{i};" for i in range(N_SCALARS))
    return cupy.RawKernel(
        f"""
__device__ void copy(const unsigned int *from, unsigned int *to, long long n) {{
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) to[i] = from[i];
}}
extern "C" __global__ void begin_step(
    const unsigned int *x, unsigned int *x_to, long long n_x,
    const unsigned int *y, unsigned int *y_to, long long n_y,
    const unsigned int *w, unsigned int *w_to, long long n_w,
    {real} *h, {values}, long long *counters, long long number, long long place
) {{
    copy(x, x_to, n_x);
    copy(y, y_to, n_y);
    copy(w, w_to, n_w);
    if (blockIdx.x == 0 && threadIdx.x == 0) {{
        {stores}
        counters[0] = number;
        counters[1] = place;
    }}
}}
""",
        "begin_step",
    )


@functools.cache
def _record_kernel(real: Real) -> Any:
    """The step's loss, and its penalty behind it, to their place among the values that wait for the host."""
    import cupy

    return cupy.RawKernel(
        f"""
extern "C" __global__ void record_values(
    const {real} *value, const {real} *penalty, int has_penalty, const long long *counters, {real} *waiting
) {{
    waiting[counters[1]] = value[0];
    if (has_penalty) waiting[counters[1] + 1] = penalty[0];
}}
""",
        "record_values",
    )


def _real(array: Array) -> Real:
    return "float" if array.dtype.itemsize == 4 else "double"


def activate(program: Program, z: Array, biases: Array, kept: Array) -> None:
    """z ← f(z + b) and, where the derivative does not follow from that, kept ← f'(z + b).

    Parameters
    ----------
    program : Program
        Of z: f(z), and f'(z) where it is kept.
    z : array (n_rows, n_units)
        Filled; fewer than 2³¹ elements.
    biases : array (n_units,) or (1,)
        Read.
    kept : array (n_rows, n_units) or None
        Filled; None where the derivative follows from the output, or nobody will ask for it.
    """
    outputs = (z,) if kept is None else (z, kept)
    _activate_kernel(program, len(outputs))(z, biases, biases.size, *program.numbers, *outputs)


def chain(program: Program, delta: Array, kept: Array) -> None:
    """δ ← δ ⊙ f': from a where it follows from it, else from f' itself, whichever was kept."""
    _chain_kernel(program)(delta, kept, *program.numbers, delta)


def differentiate(program: Program, z: Array, y: Array, weight: Array, per_output: Array) -> None:
    """A pointwise loss: per_output ← s L, and z becomes δ.

    Parameters
    ----------
    program : Program
        Of z and y: ∂L/∂z and L.
    z : array (n_rows, n_outputs)
        Without gaps; filled.
    y : array like z
        Read.
    weight : array (n_rows, 1) or None
        Read.
    per_output : array like z
        Filled.
    """
    weighted = weight is not None
    numbers = (z.shape[1], int(weighted), *program.numbers)
    _differentiate_kernel(program)(y, weight if weighted else y, *numbers, z, per_output)


def update(
    program: Program, shrinks: bool, scalars: Array, g: Array, n_weights: int, p: Array, *state: Array
) -> None:
    """A rule's step on flat vectors, in one pass.

    Parameters
    ----------
    program : Program
        Of p, g and the state: p and the state.
    shrinks : bool
        Whether the factor behind the rule's numbers is on the weights, before the step.
    scalars : array (N_SCALARS,)
        On the device: the rule's numbers of this step (`fast.programs.numbers_of_step`).
    g : array (n,)
        Read.
    n_weights : int
        Elements from the first on that are weights.
    p, *state : arrays (n,)
        Filled.
    """
    _update_kernel(program, shrinks)(g, scalars, n_weights, p, *state)


class Sums:
    """Σ |v| and Σ v² of flat vectors, and what follows from them, without the host.

    Parameters
    ----------
    dtype : dtype
        Of the vectors and results.
    """

    def __init__(self, dtype: object) -> None:
        import cupy

        self._partial = cupy.empty((2 * _PARTS,), dtype=cupy.float64)
        self._result = cupy.empty((2,), dtype=dtype)

    def _finish(self, v: Array, l1: float, l2: float, limit: float) -> None:
        real, n_parts = _real(v), min(_PARTS, -(-v.size // _THREADS))
        _partial_sums_kernel(real)((n_parts,), (_THREADS,), (v, np.int64(v.size), self._partial))
        numbers = (np.int32(n_parts), np.float64(l1), np.float64(l2), np.float64(limit))
        _finish_sums_kernel(real)((1,), (1,), (self._partial, *numbers, self._result))

    def penalty(self, w: Array, l1: float, l2: float) -> Any:
        """l1 Σ |w| + l2 Σ w², a 0-d array that the next call overwrites."""
        self._finish(w, l1, l2, 1.0)
        return self._result[0]

    def clip(self, g: Array, limit: float) -> None:
        """Scale g so that its Euclidean norm is at most `limit` (from 1e154 on it counts as infinite)."""
        self._finish(g, 0.0, 0.0, limit)
        g *= self._result[1]


def penalty_gradient(w: Array, g: Array, scale: Array, l1: float, l2: float) -> None:
    """g ← g + scale (l1 sign(w) + 2 l2 w), with the scale in device memory."""
    _penalty_gradient_kernel()(w, scale, l1, l2, g)


def cross_entropy(
    z: Array,
    y: Array,
    weight: Array,
    groups: tuple[int, ...],
    smoothing: float,
    bounds: tuple[float, float] | None,
    per_row: Array,
) -> None:
    """Softmax cross-entropy, summed over targets: per_row ← s L, and z becomes δ; a launch for each target.

    Parameters
    ----------
    z : array (n_rows, n_outputs)
        Without gaps; filled.
    y : int32 array (n_rows, n_targets)
        Without gaps; read.
    weight : array (n_rows, 1) or None
        Read.
    groups : tuple of int
        Classes of each target, whose outputs lie side by side.
    smoothing : float
        ε of label smoothing.
    bounds : pair of float, optional
        Least and largest −log p that the value takes.
    per_row : array (n_rows,)
        Filled.
    """
    real, (n_rows, n_outputs), first = z.dtype.type, z.shape, 0
    least, most = bounds or (0.0, 0.0)
    for target, n_classes in enumerate(groups):
        arguments = (
            z, np.int32(n_outputs), np.int32(first), np.int32(n_classes),
            y, np.int32(len(groups)), np.int32(target),
            z if weight is None else weight, np.int32(weight is not None), np.int32(n_rows),
            real(smoothing), real(least), real(most), np.int32(bounds is not None),
            np.int32(target > 0), per_row,
        )  # fmt: skip
        _cross_entropy_kernel(_real(z))(((n_rows + 3) // 4,), (128,), arguments)
        first += n_classes


def pinball(z: Array, y: Array, weight: Array, quantiles: Array, per_output: Array) -> None:
    """Pinball loss: per_output ← s L, and z becomes δ.

    Parameters
    ----------
    z : array (n_rows, n_targets · n_quantiles)
        Without gaps; filled.
    y : array (n_rows, n_targets)
        Without gaps; read.
    weight : array (n_rows, 1) or None
        Read.
    quantiles : array (n_quantiles,)
        Read.
    per_output : array like z
        Filled.
    """
    weighted = weight is not None
    numbers = (quantiles.size, z.shape[1], int(weighted))
    _pinball_kernel()(y, quantiles, weight if weighted else y, *numbers, z, per_output)


def dropout_mask(
    mask: Array, counters: Array, seed: int, layer: int, first_row: int, threshold: int, factor: float
) -> None:
    """mask ← 0 or `factor`, by a hash of (seed, step, layer, unit, row); the step's number is counters[0].

    Parameters
    ----------
    mask : array (n_rows, n_units)
        Filled.
    counters : int64 array (2,)
        On the device; read.
    threshold : int
        The least int32 hash of a unit that survives.
    """
    size = mask.size
    arguments = (
        mask, counters, np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF), np.int32(layer),
        np.uint32(first_row & 0xFFFFFFFF), np.int32(mask.shape[1]), np.int64(size), np.int32(threshold),
        mask.dtype.type(factor),
    )  # fmt: skip
    _mask_kernel(_real(mask))((_blocks(size),), (_THREADS,), arguments)


def begin_step(
    sources: tuple[Array, Array, Array],
    targets: tuple[Array, Array, Array],
    scalars: Array,
    numbers: tuple[float, ...],
    counters: Array,
    number: int,
    place: int,
) -> None:
    """Copy a step's rows to fixed addresses, and write its numbers to device memory: one launch.

    The numbers travel as the launch's arguments, so that nothing on the host must outlive the call.

    Parameters
    ----------
    sources, targets : x, y and weight (or None)
        Without gaps, of 4 or 8 bytes a number; the targets are filled.
    scalars : array (N_SCALARS,)
        Filled with `numbers`.
    counters : int64 array (2,)
        Filled with the step's number and the place of its loss.
    """
    arguments: list[Any] = []
    words = [0 if each is None else each.size * each.dtype.itemsize // 4 for each in sources]
    for source, target, n in zip(sources, targets, words, strict=True):
        arguments += [counters, counters, np.int64(0)] if source is None else [source, target, np.int64(n)]
    arguments += [scalars, *map(np.float64, numbers), counters, np.int64(number), np.int64(place)]
    _begin_kernel(_real(scalars))((_blocks(max(words)),), (_THREADS,), tuple(arguments))


def record(value: Array, penalty: Array, counters: Array, waiting: Array) -> None:
    """waiting[place] ← value, waiting[place + 1] ← penalty (if not None), with the place in device memory."""
    arguments = (value, value if penalty is None else penalty, np.int32(penalty is not None))
    _record_kernel(_real(waiting))((1,), (1,), (*arguments, counters, waiting))


def _blocks(size: int) -> int:
    """Blocks of threads for so many elements; each thread takes several of a large array."""
    return max(1, min(1024, -(-size // _THREADS)))
