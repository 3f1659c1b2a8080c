"""Fused kernels: one launch and one pass over memory where the plain rule makes several.

Each says what a plain rule of the package says, which stays its oracle. Numbers that change from step to step
(rates, 1 / Σ s_i, the step's number) are read from device memory, so that a captured step can be launched
again with others. CuPy compiles with -ftz=true: subnormal numbers count as zero here.

Arrays of members have an axis for them before the others, `blockIdx.y` in the kernels: each of a grid's rows
of blocks computes a member's. From one's elements to the next one's is a stride, 0 where they share them.

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

ROOM = 3 * 2**10
"""Bytes of numbers that travel as the arguments of one launch, which may have 4 KiB."""

_HEAD = 12
"""Whole numbers that travel before them."""

N_COUNTERS = 5
"""What counts on the device: the step's number, the place of its loss, which step of those that were begun
together it is, the first row's position in the global batch, and how many members have numbers of their own:
all, or 1 for all."""

MOST_MEMBERS = 2**16 - 1
"""Rows of blocks that a grid may have."""

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
        f"T z, raw T b, int32 n_b, int32 of_b, int32 n_z{_numbers(program)}",
        ", ".join(f"T {each}" for each in outputs),
        "unsigned int n = i, unit = n % (unsigned int)n_b, member = n / (unsigned int)n_z; "
        f"T x = z + b[member * of_b + unit]; {_computed(program, ['x'], 'h{}', outputs)}",
        _name("activate", program, n_outputs),
    )


_HASH = """
__device__ unsigned int mix(unsigned int h) {
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    return h ^ (h >> 16);
}
__device__ unsigned int key_of(const long long *counters, const unsigned int *seeds, int layer) {
    unsigned long long step = (unsigned long long)counters[0];
    unsigned int parts[5] = {
        seeds[0], seeds[1], (unsigned int)step, (unsigned int)(step >> 32), (unsigned int)layer
    };
    unsigned int key = 0;
    for (int i = 0; i < 5; i++) key = mix(key ^ parts[i]) + 0x9E3779B9u;
    return key;
}
__device__ int hash(unsigned int key, unsigned int row, unsigned int unit) {
    return (int)mix(mix(row * 0x9E3779B1u + mix(key)) + mix(unit * 0x85EBCA77u + mix(key + 1u)));
}
"""
"""Dropout's hash (`mlp_xp.dropout`), with the step's number and the chunk's first row in device memory."""

_DROPS = "const long long *counters, const unsigned int *seeds, const T *factors, int layer"
"""What it is of, as parameters of a kernel; see `Drops`."""


@functools.cache
def _drop_kernel(real: Real) -> Any:
    """dropped ← a times 0 or a factor."""
    import cupy

    return cupy.RawKernel(
        f"""
typedef {real} T;
{_HASH}
extern "C" __global__ void drop(
    const T *a, long long of_a, T *dropped, int n_units, long long size, {_DROPS}
) {{
    a += blockIdx.y * of_a; dropped += blockIdx.y * size; seeds += blockIdx.y * 3;
    unsigned int key = key_of(counters, seeds, layer), first_row = (unsigned int)counters[3];
    int threshold = (int)seeds[2];
    T factor = factors[blockIdx.y];
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
extern "C" __global__ __launch_bounds__({_SIDE * _SIDE}) void {name}(
    T *delta, long long of_delta, const T *kept, long long of_kept, int n_rows, int n_units,
    const T *column, long long of_column, const T *row, long long of_row, int is_product,
    T *sums, long long of_sums, int is_summed, int adds, int drops, {_DROPS}{_numbers(program)}
) {{
    delta += blockIdx.y * of_delta; kept += blockIdx.y * of_kept; column += blockIdx.y * of_column;
    row += blockIdx.y * of_row; sums += blockIdx.y * of_sums; seeds += blockIdx.y * 3;
    __shared__ T part[{_SIDE}][{_SIDE + 1}];
    int n_tiles = (n_units + {_SIDE - 1}) / {_SIDE}, x = threadIdx.x % {_SIDE}, y = threadIdx.x / {_SIDE};
    int unit = blockIdx.x % n_tiles * {_SIDE} + x, n_down = gridDim.x / n_tiles;
    unsigned int key = drops ? key_of(counters, seeds, layer) : 0u;
    unsigned int first_row = drops ? (unsigned int)counters[3] : 0u;
    int threshold = drops ? (int)seeds[2] : 0;
    T factor = drops ? factors[blockIdx.y] : (T)1;
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
def _update_kernel(program: Program, of_members: bool) -> Any:
    """A rule's update of p and its state, with its numbers h in device memory, after the weights' decay.

    A member of which 1 / Σ s_i is 0 does not move.

    All is loaded before anything is stored: any array may be any other, for all that the compiler knows, so
    that it would load g and h again after each store, one wait for the memory after the other.
    """
    import cupy

    written = [f"v{k}" for k in range(len(program.outputs))]  # p and the state
    inputs = [written[0], "g", *written[1:]]
    load = "".join(f"T {each} = {each}_; " for each in ("g", *written))
    n = sum(name == "number" for name, *_ in program.steps)
    numbers = "".join(f"T h{k} = h_[at + {k}]; " for k in range(n + 1))
    place, at, moves = "i", "0", "true"
    if of_members:
        place, at, moves = "i % size", f"i / size * {N_SCALARS}", f"h_[at + {INVERSE}] != 0"
    shrink = f"v0 = {place} < n_weights ? v0 * h{n} : v0; "
    store = "".join(f" {each}_ = {each};" for each in written)
    return cupy.ElementwiseKernel(
        "T g_, raw T h_, int64 n_weights, int64 size",
        ", ".join(f"T {each}_" for each in written),
        f"ptrdiff_t at = {at}; if ({moves}) {{ "
        f"{load}{numbers}{shrink}{_computed(program, inputs, 'h{}', written)}{store} }}",
        _name("update", program, of_members),
    )


@functools.cache
def _penalty_gradient_kernel() -> Any:
    """g ← g + scale (l1 sign(w) + 2 l2 w)."""
    import cupy

    return cupy.ElementwiseKernel(
        "T w, raw T scale, int64 n_weights, T l1, T l2",
        "T g",
        "g += scale[i / n_weights] * ((T)2 * l2 * w + l1 * (T)((w > 0) - (w < 0)));",
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
/* True in the first thread of the block that ends last, which then has the sums over a row of blocks. */
template<int N> __device__ bool sum_of_all(
    double (&sums)[N], volatile double *partial, unsigned int *arrived
) {{
    partial += blockIdx.y * N * {_PARTS}; arrived += blockIdx.y;
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
    """result[0] ← l1 Σ |v| + l2 Σ v²;  result[1] ← limit / max(√Σ v², limit); of each member."""
    import cupy

    return cupy.RawKernel(
        f"""
{_SUMS}
extern "C" __global__ void norms(
    const {real} *v, long long of_v, long long n, double l1, double l2, const {real} *limits,
    double *partial, unsigned int *arrived, {real} *result
) {{
    v += blockIdx.y * of_v;
    double sums[2] = {{0, 0}};
    for (long long i = blockIdx.x * {_THREADS}ll + threadIdx.x; i < n; i += gridDim.x * {_THREADS}ll) {{
        double x = v[i];
        sums[0] += fabs(x);
        sums[1] += x * x;
    }}
    if (!sum_of_all(sums, partial, arrived)) return;
    double norm = sqrt(sums[1]), limit = limits[blockIdx.y];
    result[blockIdx.y] = l1 * sums[0] + l2 * sums[1];
    result[gridDim.y + blockIdx.y] = limit / (norm < limit ? limit : norm);
}}
""",
        "norms",
    )


_LOSS = (
    "T *z, long long of_z, const T *biases, int n_biases, long long of_biases, const T *weight, "
    "long long of_weight, long long weight_step, int weighted, const T *factor, long long of_factor, "
    "double *partial, unsigned int *arrived, T *value, {kind} *y, long long of_y"
)
"""Parameters that the kernels of all losses begin with."""

_OF_MEMBER = """
    z += blockIdx.y * of_z; biases += blockIdx.y * of_biases; weight += blockIdx.y * of_weight;
    factor += blockIdx.y * of_factor; value += blockIdx.y; y += blockIdx.y * of_y;
"""
"""What they begin with."""


def _pointwise(name: str, real: Real, parameters: str, target: str, body: str) -> str:
    """A loss of each output: z ← factor s ∂L/∂z with z of the last layer still without its biases; Σ s L."""
    return f"""
typedef {real} T;
{_SUMS}
extern "C" __global__ void {name}(
    {_LOSS.format(kind="const T")}, int n_outputs, unsigned int size{parameters}
) {{
    {_OF_MEMBER}
    T own = 0;
    for (unsigned int i = blockIdx.x * {_THREADS}u + threadIdx.x; i < size; i += gridDim.x * {_THREADS}u) {{
        T before = z[i] + biases[i % (unsigned int)n_outputs % (unsigned int)n_biases], aim = y[{target}];
        T s = weighted ? weight[i / (unsigned int)n_outputs * weight_step] : (T)1, delta, loss;
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
    {_LOSS.format(kind="const int")}, int n_outputs, int n_rows, const int *ends, int n_targets, T smoothing,
    T least, T most, int bounded
) {{
    {_OF_MEMBER}
    int lane = threadIdx.x % 32, n_warps = gridDim.x * {_THREADS // 32};
    double own = 0;
    for (int row = (blockIdx.x * {_THREADS} + threadIdx.x) / 32; row < n_rows; row += n_warps)
        for (int target = 0; target < n_targets; target++) {{
            int first = target ? ends[target - 1] : 0, n_classes = ends[target] - first;
            T *d = z + (long long)row * n_outputs + first;
            int label = y[(long long)row * n_targets + target];
            T s = weighted ? weight[row * weight_step] : (T)1;
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
struct Numbers {{ long long head[{_HEAD}]; {real} numbers[{ROOM} / sizeof({real})]; }};
extern "C" __global__ void begin_steps(
    const Numbers told, {real} *table, long long *sources, long long *counters
) {{
    long long first = told.head[10], n = told.head[11];
    for (int i = threadIdx.x; i < n; i += blockDim.x) table[first + i] = told.numbers[i];
    if (threadIdx.x > 0) return;
    for (int k = 0; k < 6; k++) sources[k] = told.head[k];
    for (int k = 0; k < {N_COUNTERS - 1}; k++) counters[k + (k > 1)] = told.head[6 + k];
    counters[2] = 0;
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
__device__ void copy(
    const long long *sources, int which, long long step, unsigned int *to, long long n, int n_members
) {{
    if (blockIdx.y >= n_members) return;
    const unsigned int *from = (const unsigned int *)sources[which] + step * n;
    from += blockIdx.y * sources[3 + which];
    to += blockIdx.y * n;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) to[i] = from[i];
}}
extern "C" __global__ void take_step(
    const long long *sources, const long long *counters, const {real} *table, {real} *h,
    unsigned int *x, long long n_x, int k_x, unsigned int *y, long long n_y, int k_y,
    unsigned int *w, long long n_w, int k_w
) {{
    long long step = counters[2], n_own = counters[4];
    copy(sources, 0, step, x, n_x, k_x);
    copy(sources, 1, step, y, n_y, k_y);
    copy(sources, 2, step, w, n_w, k_w);
    int i = threadIdx.x;
    if (blockIdx.x > 0 || i >= {N_SCALARS}) return;
    h[blockIdx.y * {N_SCALARS} + i] = table[(step * n_own + blockIdx.y % n_own) * {N_SCALARS} + i];
}}
""",
        "take_step",
    )


@functools.cache
def _end_kernel(real: Real) -> Any:
    """A step's losses, and its penalties behind them, to their place; the next step's turn."""
    import cupy

    return cupy.RawKernel(
        f"""
extern "C" __global__ void end_step(
    const {real} *value, const {real} *penalty, int has_penalty, long long *counters, {real} *waiting, int n
) {{
    for (int i = threadIdx.x; i < n; i += blockDim.x) {{
        waiting[counters[1] * n + i] = value[i];
        if (has_penalty) waiting[(counters[1] + 1) * n + i] = penalty[i];
    }}
    __syncthreads();
    if (threadIdx.x > 0) return;
    counters[0] += 1; counters[1] += 1 + has_penalty; counters[2] += 1;
}}
""",
        "end_step",
    )


def at_once(itemsize: int) -> int:
    """Steps whose numbers, of so many bytes each, travel as the arguments of one launch."""
    return ROOM // (N_SCALARS * itemsize)


def address(array: Array) -> int:
    """Where on the device its first element is."""
    return int(array.data.ptr)


def _real(array: Array) -> Real:
    return "float" if array.dtype.itemsize == 4 else "double"


def _stride(array: Array) -> np.int64:
    """Elements from what is a member's to what is the next one's; 0 where they share it."""
    return np.int64(array.strides[0] // array.itemsize if array.ndim == 3 else 0)


def _n_members(array: Array) -> int:
    return int(array.shape[0]) if array.ndim == 3 else 1


def activate(program: Program, z: Array, biases: Array, kept: Array) -> None:
    """z ← f(z + b) and, where the derivative does not follow from that, kept ← f'(z + b).

    Parameters
    ----------
    program : Program
        Of z: f(z), and f'(z) where it is kept.
    z : array (n_rows, n_units), or (members, n_rows, n_units)
        Filled; fewer than 2³¹ elements.
    biases : array (n_units,) or (members, 1, n_units), or (1,) for all
        Read.
    kept : array like z, or None
        Filled; None where the derivative follows from the output, or nobody will ask for it.
    """
    outputs = (z,) if kept is None else (z, kept)
    n_b = biases.shape[-1]
    sizes = (n_b, n_b if biases.ndim == 3 else 0, z.size // _n_members(z))
    _activate_kernel(program, len(outputs))(z, biases, *sizes, *program.numbers, *outputs)


class Drops(NamedTuple):
    """Which units of a layer are dropped: a hash of these, the step's number, the unit and the row.

    Attributes
    ----------
    layer : int
        From 0.
    seeds : int32 array (1 or members, 3)
        On the device: the low and the high half of the seed, and the least hash of a unit that survives.
    factors : array (1 or members,)
        On the device: what its output is multiplied with.
    """

    layer: int
    seeds: Array
    factors: Array

    def arguments(self) -> tuple[Any, ...]:
        """As a kernel takes them, behind the counters."""
        return self.seeds, self.factors, np.int32(self.layer)


def drop(a: Array, dropped: Array, counters: Array, drops: Drops) -> None:
    """dropped ← a times 0 or a factor; both are (n_rows, n_units) or (members, …), `dropped` without gaps."""
    n_rows, n_units = a.shape[-2:]
    sizes = (np.int32(n_units), np.int64(n_rows * n_units))
    arguments = (a, _stride(a), dropped, *sizes, counters, *drops.arguments())
    _drop_kernel(_real(a))((_blocks(n_rows * n_units), _n_members(a)), (_THREADS,), arguments)


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
    delta : array (n_rows, n_units), or (members, n_rows, n_units)
        Without gaps but between members; filled.
    kept : array like delta
        Read.
    counters : int64 array (N_COUNTERS,)
        On the device; read.
    product : pair of arrays (…, n_rows, 1) and (…, 1, n_units), optional
        Read: δ is their product, in the place of what `delta` holds.
    sums : array (n_units,), or (members, 1, n_units), optional
        Filled with Σ_i δ_i; of at most `SUMMED_ROWS` rows.
    adds : bool
        Whether to add to the sums.
    drops : Drops, optional
        Which units were dropped.
    """
    real, (n_rows, n_units) = delta.dtype.type, delta.shape[-2:]
    n_tiles = -(-n_units // _SIDE)
    n_down = 1 if sums is not None else max(1, min(-(-n_rows // _SIDE), 2048 // n_tiles))
    column, row = (delta, delta) if product is None else product
    totals, dropping = delta if sums is None else sums, drops or Drops(0, counters, delta)
    arguments = (
        delta, _stride(delta), kept, _stride(kept), np.int32(n_rows), np.int32(n_units),
        column, _stride(column), row, _stride(row), np.int32(product is not None),
        totals, _stride(totals), np.int32(sums is not None), np.int32(adds),
        np.int32(drops is not None), counters, *dropping.arguments(), *map(real, program.numbers),
    )  # fmt: skip
    grid = (n_tiles * n_down, _n_members(delta))
    _chain_kernel(program, _real(delta))(grid, (_SIDE * _SIDE,), arguments)


class Loss:
    """What the kernels of all losses are given, and where Σ s L goes.

    `factor` (1, 1), or (members, 1, 1), on the device: what δ is multiplied with.
    """

    def __init__(self, dtype: object, factor: Array) -> None:
        import cupy

        n = _n_members(factor)
        self.factor, self.value = factor, cupy.zeros(factor.shape[:-2], dtype=dtype)
        self._partial = cupy.empty((n * _PARTS,), dtype=cupy.float64)
        self._arrived = cupy.zeros((n,), dtype=cupy.uint32)
        self._no_biases = cupy.zeros((1,), dtype=dtype)

    def _run(
        self, kernel: Any, n_blocks: int, z: Array, biases: Array, y: Array, weight: Array, *more: Any
    ) -> Array:
        b, s = self._no_biases if biases is None else biases, z if weight is None else weight
        arguments = (
            z, _stride(z), b, np.int32(b.shape[-1]), _stride(b),
            s, _stride(s), np.int64(s.strides[-2] // s.itemsize), np.int32(weight is not None),
            self.factor, _stride(self.factor), self._partial, self._arrived, self.value,
            y, _stride(y), np.int32(z.shape[-1]), *more,
        )  # fmt: skip
        kernel((min(_PARTS, n_blocks), _n_members(z)), (_THREADS,), arguments)
        return self.value

    def _run_pointwise(self, kernel: Any, z: Array, *arrays: Array, more: tuple[Any, ...]) -> Array:
        size = z.size // _n_members(z)
        return self._run(kernel, -(-size // _THREADS), z, *arrays, np.uint32(size), *more)

    def differentiate(self, program: Program, z: Array, biases: Array, y: Array, weight: Array) -> Array:
        """A pointwise loss.

        Parameters
        ----------
        program : Program
            Of z and y: ∂L/∂z and L.
        z : array (n_rows, n_outputs), or (members, n_rows, n_outputs)
            Without gaps but between members; filled with δ. The biases, if there are any, are still to be
            added.
        biases : array (n_outputs,) or (members, 1, n_outputs), or None
            Read.
        y : array (n_rows, n_outputs), or like z
            Read.
        weight : array (n_rows, 1) or (members, n_rows, 1), or None
            Read.
        """
        kernel, numbers = _differentiate_kernel(program, _real(z)), map(z.dtype.type, program.numbers)
        return self._run_pointwise(kernel, z, biases, y, weight, more=tuple(numbers))

    def pinball(self, quantiles: Array, z: Array, biases: Array, y: Array, weight: Array) -> Array:
        """Pinball loss of some quantiles (n,) on the device, for z of n outputs a target; else the same."""
        more = (quantiles, np.int32(quantiles.size))
        return self._run_pointwise(_pinball_kernel(_real(z)), z, biases, y, weight, more=more)

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
        """Softmax cross-entropy, summed over targets; y is int32 (…, n_rows, n_targets), the rest the same.

        Parameters
        ----------
        ends : int32 array (n_targets,)
            On the device: the output behind the last class of each target; classes lie side by side.
        smoothing : float
            ε of label smoothing.
        bounds : pair of float, optional
            Least and largest −log p that the value takes.
        """
        real, n_rows = z.dtype.type, z.shape[-2]
        more = (
            np.int32(n_rows), ends, np.int32(ends.size), real(smoothing),
            *map(real, bounds or (0.0, 0.0)), np.int32(bounds is not None),
        )  # fmt: skip
        n_blocks = -(-n_rows // (_THREADS // 32))
        return self._run(_cross_entropy_kernel(_real(z)), n_blocks, z, biases, y, weight, *more)


def update(program: Program, scalars: Array, g: Array, n_weights: int, p: Array, *state: Array) -> None:
    """A rule's step on flat vectors, in one pass.

    Parameters
    ----------
    program : Program
        Of p, g and the state: p and the state.
    scalars : array (1 or members, N_SCALARS)
        On the device: the rule's numbers of this step, and the factor on the weights before it
        (`fast.programs.numbers_of_step`).
    g : array (n,), or (members, n)
        Read.
    n_weights : int
        Elements from the first on that are weights.
    p, *state : arrays like g
        Filled.
    """
    kernel = _update_kernel(program, p.ndim == 2)
    kernel(g, scalars, n_weights, p.shape[-1], p, *state)


class Sums:
    """Σ |v| and Σ v² of a flat vector, or of each member's, and what follows, without the host."""

    def __init__(self, dtype: object, members: int | None = None) -> None:
        import cupy

        n = members or 1
        self._partial = cupy.empty((2 * n * _PARTS,), dtype=cupy.float64)
        self._arrived = cupy.zeros((n,), dtype=cupy.uint32)
        self._result = cupy.empty((2,) if members is None else (2, n), dtype=dtype)

    def _finish(self, v: Array, l1: float, l2: float, limits: Array) -> None:
        n, stride = v.shape[-1], np.int64(v.strides[0] // v.itemsize if v.ndim == 2 else 0)
        arguments = (
            v[0] if v.ndim == 2 else v, stride, np.int64(n), np.float64(l1), np.float64(l2), limits,
            self._partial, self._arrived, self._result,
        )  # fmt: skip
        grid = (min(_PARTS, -(-n // _THREADS)), self._arrived.size)
        _norms_kernel(_real(v))(grid, (_THREADS,), arguments)

    def penalty(self, w: Array, l1: float, l2: float) -> Any:
        """l1 Σ |w| + l2 Σ w², a 0-d array, or (members,), that the next call overwrites."""
        self._finish(w, l1, l2, self._result)
        return self._result[0]

    def clip(self, g: Array, limits: Array) -> None:
        """Scale g so that its Euclidean norm is at most its limit (from 1e154 on it counts as infinite)."""
        self._finish(g, 0.0, 0.0, limits)
        g *= self._result[1][..., None]


def penalty_gradient(w: Array, g: Array, scale: Array, l1: float, l2: float) -> None:
    """g ← g + scale (l1 sign(w) + 2 l2 w), with the scale, of each member, in device memory."""
    _penalty_gradient_kernel()(w, scale, w.shape[-1], l1, l2, g)


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
    numbers : array (n_steps, 1 or members, N_SCALARS)
        On the host, of the table's dtype.
    table : array (at_once × members × N_SCALARS,)
        Filled.
    addresses : int64 array (6,)
        Filled.
    counters : int64 array (N_COUNTERS,)
        Filled.
    *counts : int
        The first step's number, the place of its loss, and its first row's position.
    """
    flat, told, where = numbers.ravel(), np.zeros((), dtype=_told(numbers.dtype)), []
    for each in sources:
        where += [0 if each is None else address(each)]
    for each in sources:
        where += [each.strides[0] // 4 if each is not None and each.ndim == 3 else 0]
    most = told["numbers"].size
    for first in range(0, flat.size, most):  # one launch, but for members with numbers of their own
        part = flat[first : first + most]
        told["head"] = *where, *counts, numbers.shape[1], first, part.size
        told["numbers"][: part.size] = part
        _begin_kernel(_real(table))((1,), (_THREADS,), (told, table, addresses, counters))


@functools.cache
def _told(dtype: Any) -> np.dtype[Any]:
    """What travels: addresses and strides of three sources, five counts, how many numbers, and these."""
    return np.dtype([("head", np.int64, _HEAD), ("numbers", dtype, ROOM // dtype.itemsize)])


def take_step(
    targets: tuple[Array, Array, Array], addresses: Array, counters: Array, table: Array, scalars: Array
) -> None:
    """Copy the rows and numbers of the step whose turn it is to where it reads them.

    Parameters
    ----------
    targets : x, y and weight (or None)
        Without gaps, of 4 or 8 bytes a number; filled. As many rows as a step has.
    scalars : array (1 or members, N_SCALARS)
        Filled.
    """
    arguments: list[Any] = [addresses, counters, table, scalars]
    most = 0
    for target in targets:
        n_members = 1 if target is None else _n_members(target)
        n = 0 if target is None else target.size * target.itemsize // (4 * n_members)
        arguments += [counters if target is None else target, np.int64(n), np.int32(n_members)]
        most = max(most, n)
    _take_kernel(_real(scalars))((_blocks(most), scalars.shape[0]), (_THREADS,), tuple(arguments))


def end_step(value: Array, penalty: Array, counters: Array, waiting: Array) -> None:
    """waiting[place] ← value, waiting[place + 1] ← penalty (if not None); it is the next step's turn."""
    arguments = (value, value if penalty is None else penalty, np.int32(penalty is not None))
    size = (min(_THREADS, value.size),)
    _end_kernel(_real(waiting))((1,), size, (*arguments, counters, waiting, np.int32(value.size)))


def _blocks(size: int) -> int:
    """Blocks of threads for so many elements; each thread takes several of a large array."""
    return max(1, min(1024, -(-size // _THREADS)))
