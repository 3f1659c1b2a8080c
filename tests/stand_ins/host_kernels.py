"""CUDA kernels on the host: the source of a kernel is compiled as C++ and run on NumPy arrays.

A block's threads are coroutines that take turns at every barrier and exchange between threads, which is all
that the kernels of the package know of each other. Whatever a machine does beyond that (its exp, fused
multiply-add, memory) is not tested here.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
}

PRELUDE = r"""
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
using std::abs; using std::exp; using std::expm1; using std::log; using std::log1p; using std::sqrt;
using std::tanh; using std::sin; using std::cos;
#define __global__
#define __device__ static
#define __shared__ static
#define __launch_bounds__(n)
struct Index { unsigned x, y; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static ucontext_t scheduler;
static std::vector<ucontext_t> contexts;
static std::vector<char> alive;
static std::vector<double> slots;
static std::function<void()> body;
static void wait() { unsigned me = threadIdx.x; swapcontext(&contexts[me], &scheduler); threadIdx.x = me; }
static void __syncthreads() { wait(); }
static void __threadfence() {}
static unsigned atomicInc(unsigned *at, unsigned most) {
    unsigned was = *at;
    *at = was >= most ? 0 : was + 1;
    return was;
}
template<typename T> static T __shfl_xor_sync(unsigned, T value, int step) {
    std::memcpy(&slots[threadIdx.x], &value, sizeof(T));
    wait();
    T other;
    std::memcpy(&other, &slots[threadIdx.x ^ step], sizeof(T));
    wait();
    return other;
}
static bool __any_sync(unsigned, bool value) {
    slots[threadIdx.x] = value;
    wait();
    bool any = false;
    for (unsigned i = threadIdx.x / 32 * 32; i < threadIdx.x / 32 * 32 + 32; i++) any = any || slots[i] != 0;
    wait();
    return any;
}
static void one_thread() { body(); alive[threadIdx.x] = 0; }
static void run(unsigned grid, unsigned rows, unsigned block) {
    const size_t stack = 1 << 14;
    static std::vector<char> stacks;
    if (stacks.size() < stack * block) stacks.resize(stack * block);
    gridDim.x = grid; gridDim.y = rows; blockDim.x = block;
    for (unsigned at = 0; at < rows * grid; at++) {
        blockIdx.x = at % grid; blockIdx.y = at / grid;
        contexts.assign(block, ucontext_t()); alive.assign(block, 1); slots.assign(block, 0.0);
        for (unsigned i = 0; i < block; i++) {
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = &stacks[stack * i];
            contexts[i].uc_stack.ss_size = stack;
            contexts[i].uc_link = &scheduler;
            makecontext(&contexts[i], one_thread, 0);
        }
        for (bool any = true; any;) {
            any = false;
            for (unsigned i = 0; i < block; i++) if (alive[i]) {
                threadIdx.x = i;
                swapcontext(&scheduler, &contexts[i]);
                any = true;
            }
        }
    }
}
"""


def compiler():
    """The command that compiles C++, or None."""
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "c++"] if find_spec("ziglang") else None


class Shop:
    """Makes kernels; compiles all that were made when the first is called.

    Parameters
    ----------
    folder : path
        For source and library.
    """

    def __init__(self, folder):
        self.folder, self.on_launch = folder, lambda: None
        self.sources = {}
        self.library = None

    def add(self, name, source):
        if self.sources.get(name) != source:
            self.sources[name] = source
            self.library = None

    def get(self, name):
        if self.library is None:
            path = self.folder / f"kernels_{len(self.sources)}.cpp"
            path.write_text(PRELUDE + "\n".join(self.sources.values()))
            target = path.with_suffix(".so")
            options = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared"]
            subprocess.run([*compiler(), *options, "-o", str(target), str(path)], check=True)
            self.library = ctypes.CDLL(str(target))
        return getattr(self.library, name)

    def cupy(self):
        """What `import cupy` gives to a module that makes kernels, with NumPy's arrays."""
        return SimpleNamespace(
            ElementwiseKernel=lambda *arguments: Elementwise(self, *arguments),
            RawKernel=lambda code, name: Raw(self, code, name),
            empty=np.empty,
            zeros=np.zeros,
            float64=np.float64,
            int64=np.int64,
            uint32=np.uint32,
        )


def parameters(text):
    """(raw, type, name) of each parameter in CuPy's notation."""
    return [("raw" in each.split(), *each.split()[-2:]) for each in text.split(",") if each.strip()]


class Elementwise:
    """As cupy.ElementwiseKernel: parameters are references to the elements, raw ones are indexed."""

    def __init__(self, shop, inputs, outputs, operation, name):
        self.shop, self.name = shop, name
        self.inputs, self.outputs = parameters(inputs), parameters(outputs)
        for real in ("float", "double"):
            shop.add(f"{name}_{real}", self._source(real, operation))

    def _source(self, real, operation):
        declared, read = [], []
        for is_output, params in ((False, self.inputs), (True, self.outputs)):
            for raw, kind, name in params:
                kind = "T" if kind == "T" else C_TYPES[kind]
                kind = kind.replace("T", real)
                const = "" if is_output else "const "
                if raw:
                    declared.append(f"{const}{kind} *{name}, long long")
                else:
                    declared.append(f"{const}{kind} *{name}_, long long {name}_step")
                    read.append(f"{const}{kind} &{name} = {name}_[i * {name}_step];")
        return (
            f'extern "C" void {self.name}_{real}(long long n, {", ".join(declared)}) {{\n'
            f"  typedef {real} T;\n"
            f"  for (ptrdiff_t i = 0; i < n; i++) {{ {' '.join(read)} {operation}; }}\n}}\n"
        )

    def __call__(self, *arguments):
        self.shop.on_launch()
        params = [*self.inputs, *self.outputs]
        assert len(arguments) == len(params), self.name
        output = arguments[-1]
        real = {4: "float", 8: "double"}[output.itemsize]
        pointers, kept, to_copy_back = [], [], []
        for (raw, kind, name), given in zip(params, arguments, strict=True):
            dtype = output.dtype if kind == "T" else np.dtype(kind)
            if isinstance(given, np.ndarray):
                assert given.dtype == dtype, (self.name, name, given.dtype)
                if not raw:
                    assert given.shape == output.shape, (self.name, name)
                if not given.flags.c_contiguous:
                    to_copy_back.append((given, given.copy()))
                    given = to_copy_back[-1][1]
                step = 1
            else:
                assert not raw, (self.name, name)
                given, step = np.array([given], dtype=dtype), 0
            kept.append(given)
            pointers += [ctypes.c_void_p(given.ctypes.data), ctypes.c_longlong(step)]
        self.shop.get(f"{self.name}_{real}")(ctypes.c_longlong(output.size), *pointers)
        for given, computed in to_copy_back:
            given[...] = computed


NUMBERS = {
    "int": (np.int32, ctypes.c_int),
    "unsigned int": (np.uint32, ctypes.c_uint),
    "long long": (np.int64, ctypes.c_longlong),
    "float": (np.float32, ctypes.c_float),
    "double": (np.float64, ctypes.c_double),
}
ELEMENTS = {"int": 4, "unsigned int": 4, "long long": 8, "float": 4, "double": 8}


def _by_value(given):
    """A structure of arrays, as CuPy passes it: an array of one element."""
    assert given.size == 1
    kinds = {"f4": ctypes.c_float, "f8": ctypes.c_double, "i8": ctypes.c_longlong}
    fields = [(n, kinds[each.base.str[1:]] * each.shape[0]) for n, (each, _) in given.dtype.fields.items()]
    kind = type("Structure", (ctypes.Structure,), {"_fields_": fields})
    return kind.from_buffer_copy(given.tobytes())


class Raw:
    """As cupy.RawKernel; a call checks the type of every argument against the kernel's own list."""

    def __init__(self, shop, code, name):
        self.shop = shop
        real = "float" if re.search(r"\bfloat\b", code) else "double"
        self.name = f"{name}_{real}"
        listed = re.search(rf"void {name}\s*\((.*?)\)\s*{{", code, re.DOTALL)[1]
        self.params = [
            (kind.replace("const", "").replace("T", real).strip(), bool(star))
            for kind, star in re.findall(r"\s*([\w ]+?)\s*(\*?)\s*\w+\s*(?:,|$)", listed.strip())
        ]
        count = len(self.params)
        declared = ", ".join(
            f"{kind if kind in NUMBERS else f'{self.name}_::{kind}'} {'*' if star else ''}a{i}"
            for i, (kind, star) in enumerate(self.params)
        )
        passed = ", ".join(f"a{i}" for i in range(count))
        own = code.replace('extern "C" ', "")
        shop.add(
            self.name,
            f"namespace {self.name}_ {{ {own} }}\n"
            f'extern "C" void {self.name}(unsigned grid, unsigned rows, unsigned block, {declared}) {{\n'
            f"  body = [=] {{ {self.name}_::{name}({passed}); }}; run(grid, rows, block); }}\n",
        )

    def __call__(self, grid, block, arguments):
        self.shop.on_launch()
        assert len(arguments) == len(self.params), self.name
        passed = []
        for (kind, is_pointer), given in zip(self.params, arguments, strict=True):
            if is_pointer:
                assert isinstance(given, np.ndarray), self.name
                # Rows are copied word by word, whatever they hold.
                assert given.itemsize == ELEMENTS[kind] or kind == "unsigned int", self.name
                assert given.flags.c_contiguous or given.ndim > 2, self.name  # members may have gaps
                passed.append(ctypes.c_void_p(given.ctypes.data))
            elif kind in NUMBERS:
                dtype, c_type = NUMBERS[kind]
                assert type(given) is dtype, (self.name, kind, type(given))
                passed.append(c_type(given.item()))
            else:
                passed.append(_by_value(given))
        sizes = map(ctypes.c_uint, (*grid, 1, block[0]) if len(grid) == 1 else (*grid, block[0]))
        self.shop.get(self.name)(*sizes, *passed)
