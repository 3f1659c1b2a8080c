"""Fused kernels: one launch and one pass over memory where the plain rule makes several.

Each says what a plain rule of the package says, which stays its oracle. Numbers that change from step to step
(rates, 1 / Σ s_i, the step's number) are read from device memory, so that a captured step can be launched
again with others. CuPy compiles with -ftz=true: subnormal numbers count as zero here.

A function that makes a kernel takes no arguments or Literal ones: cuda_without_gpu in tests compiles all.

What no machine without a GPU can confirm: the results.
"""

import functools
from typing import Any, Literal, get_args

import numpy as np

ActivationName = Literal[
    "relu", "tanh", "logistic", "leaky_relu", "elu", "selu", "softplus", "silu", "gelu", "mish"
]
RuleName = Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "nadam"]
Real = Literal["float", "double"]

ACTIVATIONS: tuple[str, ...] = get_args(ActivationName)
RULES: tuple[str, ...] = get_args(RuleName)

N_SCALARS = 8
"""Numbers of a step in device memory: a rule's own from 0, and the two that follow."""

INVERSE = 6
"""Where 1 / Σ s_i is among them."""

_SELU_SCALE, _SELU_ALPHA = "(T)1.0507009873554805", "(T)1.6732632423543772"
_TANH_C, _TANH_K = "(T)0.7978845608028654", "(T)0.044715"

# a = f(x) and f'(x); what follows from a has its derivative in _FROM_OUTPUT. NaN must stay NaN: a comparison
# that decides for the constant branch would hide it.
_FORWARD = {
    "relu": "a = x < 0 ? (T)0 : x;",
    "tanh": "a = tanh(x);",
    "logistic": "a = (T)1 / ((T)1 + exp(-x));",
    "leaky_relu": "a = x < 0 ? c * x : x;",
    "elu": "a = x > 0 ? x : c * expm1(x);",
    "selu": f"a = {_SELU_SCALE} * (x > 0 ? x : {_SELU_ALPHA} * expm1(x));",
    "softplus": "a = (x < 0 ? (T)0 : x) + log1p(exp(-abs(x)));",
    "silu": "T s = (T)1 / ((T)1 + exp(-x)); slope = s * ((T)1 + x * ((T)1 - s)); a = x * s;",
    "gelu": (
        "T w = x < -100 ? (T)-100 : x > 100 ? (T)100 : x; T q = w * w;"
        f"T t = tanh({_TANH_C} * w * ((T)1 + {_TANH_K} * q)); T h = (T)0.5 * ((T)1 + t);"
        f"slope = h + (T)0.5 * w * (((T)1 - t * t) * {_TANH_C} * ((T)1 + (T)3 * {_TANH_K} * q)); a = x * h;"
    ),
    "mish": (
        "T t = tanh((x < 0 ? (T)0 : x) + log1p(exp(-abs(x))));"
        "T s = (T)1 / ((T)1 + exp(-x)); slope = t + x * s * ((T)1 - t * t); a = x * t;"
    ),
}
_FROM_OUTPUT = {
    "relu": "kept > 0 ? (T)1 : (T)0",
    "tanh": "(T)1 - kept * kept",
    "logistic": "kept - kept * kept",
    "leaky_relu": "kept > 0 ? (T)1 : c",
    "elu": "kept > 0 ? (T)1 : kept + c",
    "selu": f"kept > 0 ? {_SELU_SCALE} : kept + {_SELU_SCALE} * {_SELU_ALPHA}",
    "softplus": "-expm1(-kept)",
}

_UPDATE = {
    "sgd": "p -= h[0] * g;",
    "momentum": "v = h[1] * v - h[0] * g; p += v;",
    "nesterov": "v = h[1] * v - h[0] * g; p += h[1] * v - h[0] * g;",
    "rmsprop": "v = h[1] * v + h[2] * (g * g); p -= h[0] * g / (sqrt(v) + h[3]);",
    "adam": "m = h[1] * m + g; v = h[2] * v + g * g; p -= h[0] * m / (sqrt(v) + h[3]);",
    "adamw": (
        "T q = i < n_weights ? p * h[4] : p; m = h[1] * m + g; v = h[2] * v + g * g;"
        "p = q - h[0] * m / (sqrt(v) + h[3]);"
    ),
    "nadam": (
        "m = h[1] * m + g; v = h[2] * v + g * g; p -= h[0] * (h[4] * m + h[5] * g) / (sqrt(v) + h[3]);"
    ),
}
_STATE = {
    "sgd": (),
    "momentum": ("v",),
    "nesterov": ("v",),
    "rmsprop": ("v",),
    "adam": ("m", "v"),
    "adamw": ("m", "v"),
    "nadam": ("m", "v"),
}

LARGEST = 2**31 - 1
"""Elements up to which indices are computed in 32 bits."""


@functools.cache
def _activate_kernel(name: ActivationName, keeps: Literal[True, False]) -> Any:
    """z ← f(z + b), and kept ← f'(z + b) where it does not follow from that."""
    import cupy

    both = keeps and name not in _FROM_OUTPUT
    return cupy.ElementwiseKernel(
        "T z, raw T b, int32 n_b, T c",
        "T a, T kept" if both else "T a",
        "T x = z + b[(unsigned int)i % (unsigned int)n_b]; T slope = (T)0; "
        f"{_FORWARD[name]} {'kept = slope;' if both else ''}",
        f"mlp_xp_{name}{'_kept' if both else ''}",
    )


@functools.cache
def _chain_kernel(name: ActivationName) -> Any:
    """δ ← δ f', with f' from what was kept."""
    import cupy

    return cupy.ElementwiseKernel(
        "T delta_in, T kept, T c",
        "T delta",
        f"delta = delta_in * ({_FROM_OUTPUT.get(name, 'kept')});",
        f"mlp_xp_chain_{name}",
    )


@functools.cache
def _update_kernel(name: RuleName) -> Any:
    """A rule's update of p and its state, with its numbers h in device memory.

    All is loaded before anything is stored: any array may be any other, for all that the compiler knows, so
    that it would load g and h again after each store, one wait for the memory after the other.
    """
    import cupy

    written = ("p", *_STATE[name])
    load = "".join(f"T {each} = {each}_; " for each in ("g", *written))
    numbers = ", ".join(f"h_[{k}]" for k in range(INVERSE))
    store = "".join(f" {each}_ = {each};" for each in written)
    return cupy.ElementwiseKernel(
        "T g_, raw T h_, int64 n_weights",
        ", ".join(f"T {each}_" for each in written),
        f"{load}const T h[] = {{{numbers}}}; {_UPDATE[name]}{store}",
        f"mlp_xp_{name}",
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


def _real(array: Any) -> Real:
    return "float" if array.dtype.itemsize == 4 else "double"


def activate(name: ActivationName, c: float, z: Any, biases: Any, kept: Any) -> None:
    """z ← f(z + b) and, where the derivative does not follow from that, kept ← f'(z + b).

    Parameters
    ----------
    name : str
        Of `ACTIVATIONS`.
    c : float
        The activation's parameter (slope, α), where it has one.
    z : array (n_rows, n_units)
        Filled; fewer than 2³¹ elements.
    biases : array (n_units,) or (1,)
        Read.
    kept : array (n_rows, n_units) or None
        Filled; None where the derivative follows from the output, or nobody will ask for it.
    """
    kernel = _activate_kernel(name, kept is not None)
    outputs = (z,) if kept is None else (z, kept)
    kernel(z, biases, biases.size, c, *outputs)


def chain(name: ActivationName, c: float, delta: Any, kept: Any) -> None:
    """δ ← δ ⊙ f': from a where it follows from it, else from f' itself, whichever was kept."""
    _chain_kernel(name)(delta, kept, c, delta)


def update(name: RuleName, g: Any, scalars: Any, n_weights: int, p: Any, state: dict[str, Any]) -> None:
    """A rule's step on flat vectors, in one pass.

    Parameters
    ----------
    g : array (n,)
        Read.
    scalars : array (N_SCALARS,)
        On the device: the rule's numbers of this step (`mlp_xp.fast.scalars`).
    n_weights : int
        Elements from the first on that decay, where the rule decays weights.
    p, state : array (n,), dict of arrays (n,)
        Filled.
    """
    _update_kernel(name)(g, scalars, n_weights, p, *(state[each] for each in _STATE[name]))


class Sums:
    """Σ |v| and Σ v² of flat vectors, and what follows from them, without the host.

    Parameters
    ----------
    dtype : dtype
        Of the vectors and results.
    """

    def __init__(self, dtype: Any) -> None:
        import cupy

        self._partial = cupy.empty((2 * _PARTS,), dtype=cupy.float64)
        self._result = cupy.empty((2,), dtype=dtype)

    def _finish(self, v: Any, l1: float, l2: float, limit: float) -> None:
        real, n_parts = _real(v), min(_PARTS, -(-v.size // _THREADS))
        _partial_sums_kernel(real)((n_parts,), (_THREADS,), (v, np.int64(v.size), self._partial))
        numbers = (np.int32(n_parts), np.float64(l1), np.float64(l2), np.float64(limit))
        _finish_sums_kernel(real)((1,), (1,), (self._partial, *numbers, self._result))

    def penalty(self, w: Any, l1: float, l2: float) -> Any:
        """l1 Σ |w| + l2 Σ w², a 0-d array that the next call overwrites."""
        self._finish(w, l1, l2, 1.0)
        return self._result[0]

    def clip(self, g: Any, limit: float) -> None:
        """Scale g so that its Euclidean norm is at most `limit` (from 1e154 on it counts as infinite)."""
        self._finish(g, 0.0, 0.0, limit)
        g *= self._result[1]


def penalty_gradient(w: Any, g: Any, scale: Any, l1: float, l2: float) -> None:
    """g ← g + scale (l1 sign(w) + 2 l2 w), with the scale in device memory."""
    _penalty_gradient_kernel()(w, scale, l1, l2, g)


def cross_entropy(
    z: Any,
    y: Any,
    weight: Any,
    groups: tuple[int, ...],
    smoothing: float,
    bounds: tuple[float, float] | None,
    per_row: Any,
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


def pinball(z: Any, y: Any, weight: Any, quantiles: Any, per_output: Any) -> None:
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
    mask: Any, counters: Any, seed: int, layer: int, first_row: int, threshold: int, factor: float
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
    sources: tuple[Any, Any, Any], targets: tuple[Any, Any, Any], scalars: Any, numbers: tuple[float, ...],
    counters: Any, number: int, place: int,
) -> None:  # fmt: skip
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


def record(value: Any, penalty: Any, counters: Any, waiting: Any) -> None:
    """waiting[place] ← value, waiting[place + 1] ← penalty (if not None), with the place in device memory."""
    arguments = (value, value if penalty is None else penalty, np.int32(penalty is not None))
    _record_kernel(_real(waiting))((1,), (1,), (*arguments, counters, waiting))


def _blocks(size: int) -> int:
    """Blocks of threads for so many elements; each thread takes several of a large array."""
    return max(1, min(1024, -(-size // _THREADS)))
