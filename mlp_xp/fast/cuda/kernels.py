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
from typing import Any, Literal, NamedTuple

import numpy as np

from mlp_xp.machine.array_api import Array
from mlp_xp.machine.symbolic import COMPARISONS, FUNCTIONS, Program

Real = Literal["float", "double"]

N_SCALARS = 16
"""Numbers of a step in device memory: a rule's own from 0, and the one that follows."""

INVERSE = 15
"""Where 1 / Σ s_i is among them."""

AT_ONCE = 24
"""Steps whose numbers travel as the arguments of one launch, which may have 4 KiB."""

N_COUNTERS = 4
"""What counts on the device: the step's number, the place of its loss, which step of those that were begun
together it is, and the first row's position in the global batch."""

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


_HASH = """
__device__ unsigned int mix(unsigned int h) {
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    return h ^ (h >> 16);
}
__device__ unsigned int key_of(const long long *counters, unsigned int low, unsigned int high, int layer) {
    unsigned long long step = (unsigned long long)counters[0];
    unsigned int parts[5] = {low, high, (unsigned int)step, (unsigned int)(step >> 32), (unsigned int)layer};
    unsigned int key = 0;
    for (int i = 0; i < 5; i++) key = mix(key ^ parts[i]) + 0x9E3779B9u;
    return key;
}
__device__ int hash(unsigned int key, unsigned int row, unsigned int unit) {
    return (int)mix(mix(row * 0x9E3779B1u + mix(key)) + mix(unit * 0x85EBCA77u + mix(key + 1u)));
}
"""
"""Dropout's hash (`mlp_xp.dropout`), with the step's number and the chunk's first row in device memory."""

_DROPS = (
    "const long long *counters, unsigned int seed_low, unsigned int seed_high, int layer, int threshold, "
    "T factor"
)
"""What it is of, as parameters of a kernel."""


@functools.cache
def _drop_kernel(real: Real) -> Any:
    """dropped ← a times 0 or a factor."""
    import cupy

    return cupy.RawKernel(
        f"""
typedef {real} T;
{_HASH}
extern "C" __global__ void drop(const T *a, T *dropped, int n_units, long long size, {_DROPS}) {{
    unsigned int key = key_of(counters, seed_low, seed_high, layer), first_row = (unsigned int)counters[3];
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size;
         i += (long long)gridDim.x * blockDim.x) {{
        int h = hash(key, (unsigned int)(i / n_units) + first_row, (unsigned int)(i % n_units));
        dropped[i] = a[i] * (h >= threshold ? factor : (T)0);
    }}
}}
""",
        "drop",
    )


_SIDE = 32
"""Rows and units of a tile, which a block of threads takes together."""


@functools.cache
def _chain_kernel(program: Program, real: Real) -> Any:
    """δ ← δ f' with f' from what was kept, times 0 or a factor where units were dropped, and Σ_i δ_i.

    δ may be the product of a column and a row that is still to be made: a network's one output.
    """
    import cupy

    name = _name(f"chain_{real}", program)
    return cupy.RawKernel(
        f"""
typedef {real} T;
{_HASH}
extern "C" __global__ void {name}(
    T *delta, const T *kept, int n_rows, int n_units, const T *column, const T *row, int is_product,
    T *sums, int is_summed, int adds, int drops, {_DROPS}{_numbers(program)}
) {{
    __shared__ T part[{_SIDE}][{_SIDE + 1}];
    int n_tiles = (n_units + {_SIDE - 1}) / {_SIDE}, x = threadIdx.x % {_SIDE}, y = threadIdx.x / {_SIDE};
    int unit = blockIdx.x % n_tiles * {_SIDE} + x, n_down = gridDim.x / n_tiles;
    unsigned int key = drops ? key_of(counters, seed_low, seed_high, layer) : 0u;
    unsigned int first_row = drops ? (unsigned int)counters[3] : 0u;
    T total = 0;
    if (unit < n_units)
        for (int r = blockIdx.x / n_tiles * {_SIDE} + y; r < n_rows; r += n_down * {_SIDE}) {{
            long long i = (long long)r * n_units + unit;
            T before = is_product ? column[r] * row[unit] : delta[i], from = kept[i], d;
            {_computed(program, ["before", "from"], "h{}", ["d"])}
            if (drops) d *= hash(key, (unsigned int)r + first_row, unit) >= threshold ? factor : (T)0;
            delta[i] = d;
            total += d;
        }}
    if (!is_summed) return;
    part[y][x] = total;
    __syncthreads();
    for (int half = {_SIDE // 2}; half > 0; half /= 2) {{
        if (y < half) part[y][x] += part[y + half][x];
        __syncthreads();
    }}
    if (y == 0 && unit < n_units) sums[unit] = adds ? sums[unit] + part[0][x] : part[0][x];
}}
""",
        name,
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

_SUMS = f"""
template<int N> __device__ void sum_of_block(double (&sums)[N]) {{
    __shared__ double part[{_THREADS}];
    for (int k = 0; k < N; k++) {{
        part[threadIdx.x] = sums[k];
        __syncthreads();
        for (int half = {_THREADS // 2}; half > 0; half /= 2) {{
            if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
            __syncthreads();
        }}
        sums[k] = part[0];
        __syncthreads();
    }}
}}
/* True in the first thread of the block that ends last, which then has the sums over all blocks. */
template<int N> __device__ bool sum_of_all(
    double (&sums)[N], volatile double *partial, unsigned int *arrived
) {{
    __shared__ bool is_last;
    sum_of_block(sums);
    if (threadIdx.x == 0) {{
        for (int k = 0; k < N; k++) partial[k * {_PARTS} + blockIdx.x] = sums[k];
        __threadfence();
        is_last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
    }}
    __syncthreads();
    if (!is_last) return false;
    __threadfence();
    for (int k = 0; k < N; k++)
        sums[k] = threadIdx.x < gridDim.x ? partial[k * {_PARTS} + threadIdx.x] : 0.0;
    sum_of_block(sums);
    return threadIdx.x == 0;
}}
"""
"""Sums over all threads as a tree, always of the same elements in the same order, in one launch."""


@functools.cache
def _norms_kernel(real: Real) -> Any:
    """result[0] ← l1 Σ |v| + l2 Σ v²;  result[1] ← limit / max(√Σ v², limit)."""
    import cupy

    return cupy.RawKernel(
        f"""
{_SUMS}
extern "C" __global__ void norms(
    const {real} *v, long long n, double l1, double l2, double limit, double *partial, unsigned int *arrived,
    {real} *result
) {{
    double sums[2] = {{0, 0}};
    for (long long i = blockIdx.x * {_THREADS}ll + threadIdx.x; i < n; i += gridDim.x * {_THREADS}ll) {{
        double x = v[i];
        sums[0] += fabs(x);
        sums[1] += x * x;
    }}
    if (!sum_of_all(sums, partial, arrived)) return;
    double norm = sqrt(sums[1]);
    result[0] = l1 * sums[0] + l2 * sums[1];
    result[1] = limit / (norm < limit ? limit : norm);
}}
""",
        "norms",
    )


_LOSS = (
    "T *z, const T *biases, int n_biases, const T *weight, int weighted, const T *factor, double *partial, "
    "unsigned int *arrived, T *value"
)
"""Parameters that the kernels of all losses begin with."""


def _pointwise(name: str, real: Real, parameters: str, target: str, body: str) -> str:
    """A loss of each output: z ← factor s ∂L/∂z with z of the last layer still without its biases; Σ s L."""
    return f"""
typedef {real} T;
{_SUMS}
extern "C" __global__ void {name}({_LOSS}, const T *y, int n_outputs, unsigned int size{parameters}) {{
    T own = 0;
    for (unsigned int i = blockIdx.x * {_THREADS}u + threadIdx.x; i < size; i += gridDim.x * {_THREADS}u) {{
        T before = z[i] + biases[i % (unsigned int)n_outputs % (unsigned int)n_biases], aim = y[{target}];
        T s = weighted ? weight[i / (unsigned int)n_outputs] : (T)1, delta, loss;
        {body}
        z[i] = s * delta * factor[0];
        own += s * loss;
    }}
    double sums[1] = {{own}};
    if (sum_of_all(sums, partial, arrived)) value[0] = sums[0];
}}
"""


@functools.cache
def _differentiate_kernel(program: Program, real: Real) -> Any:
    """A pointwise loss."""
    import cupy

    name = _name(f"differentiate_{real}", program)
    body = _computed(program, ["before", "aim"], "h{}", ["delta", "loss"])
    return cupy.RawKernel(_pointwise(name, real, _numbers(program), "i", body), name)


@functools.cache
def _pinball_kernel(real: Real) -> Any:
    """The loss of quantiles; outputs are grouped by target, each with all of them."""
    import cupy

    body = """T q = quantiles[i % (unsigned int)n_quantiles], r = aim - before;
        loss = r > 0 ? q * r : (q - (T)1) * r;
        delta = r > 0 ? -q : r < 0 ? (T)1 - q : (T)0;"""
    more, target = ", const T *quantiles, int n_quantiles", "i / (unsigned int)n_quantiles"
    return cupy.RawKernel(_pointwise("pinball", real, more, target, body), "pinball")


@functools.cache
def _cross_entropy_kernel(real: Real) -> Any:
    """A row's loss over the classes of each target, and δ in the place of z; a warp of 32 threads a row."""
    import cupy

    return cupy.RawKernel(
        f"""
typedef {real} T;
{_SUMS}
__device__ T sum_of_warp(T x) {{
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}}
extern "C" __global__ void cross_entropy(
    {_LOSS}, const int *y, int n_outputs, int n_rows, const int *ends, int n_targets, T smoothing, T least,
    T most, int bounded
) {{
    int lane = threadIdx.x % 32, n_warps = gridDim.x * {_THREADS // 32};
    double own = 0;
    for (int row = (blockIdx.x * {_THREADS} + threadIdx.x) / 32; row < n_rows; row += n_warps)
        for (int target = 0; target < n_targets; target++) {{
            int first = target ? ends[target - 1] : 0, n_classes = ends[target] - first;
            T *d = z + (long long)row * n_outputs + first;
            int label = y[(long long)row * n_targets + target];
            T s = weighted ? weight[row] : (T)1;
            T largest = -1 / (T)0;
            bool broken = false;
            for (int j = lane; j < n_classes; j += 32) {{
                d[j] += biases[(first + j) % n_biases];
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
            T log_sum = log1p(rest), value_of_row = 0, others = 0;
            for (int j = lane; j < n_classes; j += 32) {{
                T aim = smoothing / n_classes + (j == label ? (T)1 - smoothing : (T)0);
                T minus_log_p = log_sum - d[j];
                if (bounded) {{
                    if (minus_log_p < least) minus_log_p = least;
                    if (minus_log_p > most) minus_log_p = most;
                    value_of_row += aim * minus_log_p;
                }} else {{
                    value_of_row -= aim * d[j];
                }}
                if (j != label) others += exp(d[j]) / ((T)1 + rest);
            }}
            value_of_row = sum_of_warp(value_of_row) + (bounded ? (T)0 : log_sum);
            others = sum_of_warp(others);
            for (int j = lane; j < n_classes; j += 32) {{
                T delta = j == label ? -others : exp(d[j]) / ((T)1 + rest);
                delta += smoothing * ((j == label ? (T)1 : (T)0) - (T)1 / n_classes);
                d[j] = s * delta * factor[0];
            }}
            if (lane == 0) own += s * value_of_row;
        }}
    double sums[1] = {{own}};
    if (sum_of_all(sums, partial, arrived)) value[0] = sums[0];
}}
""",
        "cross_entropy",
    )


@functools.cache
def _begin_kernel(real: Real) -> Any:
    """Numbers of the coming steps, and where their rows are, to device memory."""
    import cupy

    return cupy.RawKernel(
        f"""
struct Numbers {{ {real} of[{AT_ONCE * N_SCALARS}]; }};
extern "C" __global__ void begin_steps(
    const unsigned int *x, const unsigned int *y, const unsigned int *w, const Numbers numbers, int n,
    {real} *table, long long *sources, long long *counters, long long number, long long place, long long row
) {{
    for (int i = threadIdx.x; i < n; i += blockDim.x) table[i] = numbers.of[i];
    if (threadIdx.x > 0) return;
    sources[0] = (long long)x; sources[1] = (long long)y; sources[2] = (long long)w;
    counters[0] = number; counters[1] = place; counters[2] = 0; counters[3] = row;
}}
""",
        "begin_steps",
    )


@functools.cache
def _take_kernel(real: Real) -> Any:
    """The rows of the step whose turn it is to where they are read, word by word, and its numbers."""
    import cupy

    return cupy.RawKernel(
        f"""
__device__ void copy(const unsigned int *from, unsigned int *to, long long n) {{
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) to[i] = from[i];
}}
extern "C" __global__ void take_step(
    const long long *sources, const long long *counters, const {real} *table, {real} *h,
    unsigned int *x, long long n_x, unsigned int *y, long long n_y, unsigned int *w, long long n_w
) {{
    long long step = counters[2];
    copy((const unsigned int *)sources[0] + step * n_x, x, n_x);
    copy((const unsigned int *)sources[1] + step * n_y, y, n_y);
    copy((const unsigned int *)sources[2] + step * n_w, w, n_w);
    int i = threadIdx.x;
    if (blockIdx.x == 0 && i < {N_SCALARS}) h[i] = table[step * {N_SCALARS} + i];
}}
""",
        "take_step",
    )


@functools.cache
def _end_kernel(real: Real) -> Any:
    """A step's loss, and its penalty behind it, to their place; the next step's turn."""
    import cupy

    return cupy.RawKernel(
        f"""
extern "C" __global__ void end_step(
    const {real} *value, const {real} *penalty, int has_penalty, long long *counters, {real} *waiting
) {{
    waiting[counters[1]] = value[0];
    if (has_penalty) waiting[counters[1] + 1] = penalty[0];
    counters[0] += 1; counters[1] += 1 + has_penalty; counters[2] += 1;
}}
""",
        "end_step",
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


class Drops(NamedTuple):
    """Which units of a layer are dropped: a hash of these, the step's number, the unit and the row.

    Attributes
    ----------
    seed, layer : int
        As in `mlp_xp.dropout`.
    threshold : int
        The least int32 hash of a unit that survives.
    factor : float
        What its output is multiplied with.
    """

    seed: int
    layer: int
    threshold: int
    factor: float

    def arguments(self, real: Any) -> tuple[Any, ...]:
        """As a kernel takes them, behind the counters."""
        low, high = np.uint32(self.seed & 0xFFFFFFFF), np.uint32((self.seed >> 32) & 0xFFFFFFFF)
        return low, high, np.int32(self.layer), np.int32(self.threshold), real(self.factor)


_NO_DROPS = Drops(0, 0, 0, 0.0)


def drop(a: Array, dropped: Array, counters: Array, drops: Drops) -> None:
    """dropped ← a times 0 or a factor; both (n_rows, n_units) without gaps."""
    sizes = (np.int32(a.shape[1]), np.int64(a.size))
    arguments = (a, dropped, *sizes, counters, *drops.arguments(a.dtype.type))
    _drop_kernel(_real(a))((_blocks(a.size),), (_THREADS,), arguments)


SUMMED_ROWS = 512
"""Rows up to which `chain` sums δ: a block goes through all rows of its units, and more would take long."""


def chain(
    program: Program,
    delta: Array,
    kept: Array,
    counters: Array,
    *,
    product: tuple[Array, Array] | None = None,
    sums: Array = None,
    adds: bool = False,
    drops: Drops | None = None,
) -> None:
    """δ ← δ ⊙ f': from a where it follows from it, else from f' itself, whichever was kept.

    Parameters
    ----------
    program : Program
        Of δ and what was kept: δ f'.
    delta : array (n_rows, n_units)
        Without gaps; filled.
    kept : array like delta
        Read.
    counters : int64 array (N_COUNTERS,)
        On the device; read.
    product : pair of arrays (n_rows, 1) and (1, n_units), optional
        Read: δ is their product, in the place of what `delta` holds.
    sums : array (n_units,), optional
        Filled with Σ_i δ_i; of at most `SUMMED_ROWS` rows.
    adds : bool
        Whether to add to the sums.
    drops : Drops, optional
        Which units were dropped.
    """
    real, (n_rows, n_units) = delta.dtype.type, delta.shape
    n_tiles = -(-n_units // _SIDE)
    n_down = 1 if sums is not None else max(1, min(-(-n_rows // _SIDE), 2048 // n_tiles))
    column, row = (delta, delta) if product is None else product
    arguments = (
        delta, kept, np.int32(n_rows), np.int32(n_units), column, row, np.int32(product is not None),
        delta if sums is None else sums, np.int32(sums is not None), np.int32(adds),
        np.int32(drops is not None), counters, *(drops or _NO_DROPS).arguments(real),
        *map(real, program.numbers),
    )  # fmt: skip
    _chain_kernel(program, _real(delta))((n_tiles * n_down,), (_SIDE * _SIDE,), arguments)


class Loss:
    """What the kernels of all losses are given, and where Σ s L goes.

    Parameters
    ----------
    dtype : dtype
        Of the values.
    factor : array (1,)
        On the device: what δ is multiplied with.
    """

    def __init__(self, dtype: object, factor: Array) -> None:
        import cupy

        self.factor, self.value = factor, cupy.zeros((), dtype=dtype)
        self._partial = cupy.empty((_PARTS,), dtype=cupy.float64)
        self._arrived = cupy.zeros((1,), dtype=cupy.uint32)
        self._no_biases = cupy.zeros((1,), dtype=dtype)

    def _run(
        self, kernel: Any, n_blocks: int, z: Array, biases: Array, weight: Array, more: tuple[Any, ...]
    ) -> Array:
        b = self._no_biases if biases is None else biases
        arguments = (
            z, b, np.int32(b.size), z if weight is None else weight, np.int32(weight is not None),
            self.factor, self._partial, self._arrived, self.value, *more,
        )  # fmt: skip
        kernel((min(_PARTS, n_blocks),), (_THREADS,), arguments)
        return self.value

    def differentiate(self, program: Program, z: Array, biases: Array, y: Array, weight: Array) -> Array:
        """A pointwise loss.

        Parameters
        ----------
        program : Program
            Of z and y: ∂L/∂z and L.
        z : array (n_rows, n_outputs)
            Without gaps; filled with δ. The biases, if there are any, are still to be added.
        biases : array (n_outputs,) or None
            Read.
        y : array like z
            Read.
        weight : array (n_rows, 1) or None
            Read.
        """
        real = z.dtype.type
        more = (y, np.int32(z.shape[1]), np.uint32(z.size), *map(real, program.numbers))
        kernel = _differentiate_kernel(program, _real(z))
        return self._run(kernel, -(-z.size // _THREADS), z, biases, weight, more)

    def pinball(self, quantiles: Array, z: Array, biases: Array, y: Array, weight: Array) -> Array:
        """Pinball loss of some quantiles (n,) on the device, for z of n outputs a target; else the same."""
        more = (y, np.int32(z.shape[1]), np.uint32(z.size), quantiles, np.int32(quantiles.size))
        return self._run(_pinball_kernel(_real(z)), -(-z.size // _THREADS), z, biases, weight, more)

    def cross_entropy(
        self,
        ends: Array,
        smoothing: float,
        bounds: tuple[float, float] | None,
        z: Array,
        biases: Array,
        y: Array,
        weight: Array,
    ) -> Array:
        """Softmax cross-entropy, summed over targets; y is int32 (n_rows, n_targets), the rest the same.

        Parameters
        ----------
        ends : int32 array (n_targets,)
            On the device: the output behind the last class of each target; classes lie side by side.
        smoothing : float
            ε of label smoothing.
        bounds : pair of float, optional
            Least and largest −log p that the value takes.
        """
        real, n_rows = z.dtype.type, z.shape[0]
        more = (
            y, np.int32(z.shape[1]), np.int32(n_rows), ends, np.int32(ends.size), real(smoothing),
            *map(real, bounds or (0.0, 0.0)), np.int32(bounds is not None),
        )  # fmt: skip
        n_blocks = -(-n_rows // (_THREADS // 32))
        return self._run(_cross_entropy_kernel(_real(z)), n_blocks, z, biases, weight, more)


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
        self._arrived = cupy.zeros((1,), dtype=cupy.uint32)
        self._result = cupy.empty((2,), dtype=dtype)

    def _finish(self, v: Array, l1: float, l2: float, limit: float) -> None:
        numbers = (np.float64(l1), np.float64(l2), np.float64(limit))
        arguments = (v, np.int64(v.size), *numbers, self._partial, self._arrived, self._result)
        _norms_kernel(_real(v))((min(_PARTS, -(-v.size // _THREADS)),), (_THREADS,), arguments)

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


def begin_steps(
    sources: tuple[Array, Array, Array],
    numbers: np.ndarray,
    table: Array,
    addresses: Array,
    counters: Array,
    *counts: int,
) -> None:
    """Say where the rows of some steps are, and write their numbers to device memory: one launch.

    The numbers travel as the launch's arguments, so that nothing on the host must outlive the call.

    Parameters
    ----------
    sources : x, y and weight (or None)
        Rows of all steps, one after the other; read by `take_step`.
    numbers : array (n_steps, N_SCALARS)
        On the host, of the table's dtype.
    table : array (AT_ONCE, N_SCALARS)
        Filled.
    addresses : int64 array (3,)
        Filled.
    counters : int64 array (N_COUNTERS,)
        Filled.
    *counts : int
        The first step's number, the place of its loss, and its first row's position.
    """
    all_numbers = np.zeros((), dtype=[("of", numbers.dtype, AT_ONCE * N_SCALARS)])
    all_numbers["of"][: numbers.size] = numbers.ravel()
    arguments = (
        *(counters if each is None else each for each in sources), all_numbers, np.int32(numbers.size),
        table, addresses, counters, *map(np.int64, counts),
    )  # fmt: skip
    _begin_kernel(_real(table))((1,), (_THREADS,), arguments)


def take_step(
    targets: tuple[Array, Array, Array], addresses: Array, counters: Array, table: Array, scalars: Array
) -> None:
    """Copy the rows and numbers of the step whose turn it is to where it reads them.

    Parameters
    ----------
    targets : x, y and weight (or None)
        Without gaps, of 4 or 8 bytes a number; filled. As many rows as a step has.
    scalars : array (N_SCALARS,)
        Filled.
    """
    arguments: list[Any] = [addresses, counters, table, scalars]
    words = [0 if each is None else each.size * each.dtype.itemsize // 4 for each in targets]
    for target, n in zip(targets, words, strict=True):
        arguments += [counters if target is None else target, np.int64(n)]
    _take_kernel(_real(scalars))((_blocks(max(words)),), (_THREADS,), tuple(arguments))


def end_step(value: Array, penalty: Array, counters: Array, waiting: Array) -> None:
    """waiting[place] ← value, waiting[place + 1] ← penalty (if not None); it is the next step's turn."""
    arguments = (value, value if penalty is None else penalty, np.int32(penalty is not None))
    _end_kernel(_real(waiting))((1,), (1,), (*arguments, counters, waiting))


def _blocks(size: int) -> int:
    """Blocks of threads for so many elements; each thread takes several of a large array."""
    return max(1, min(1024, -(-size // _THREADS)))
