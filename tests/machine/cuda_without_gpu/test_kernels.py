"""Every CUDA kernel of the package compiles for sm_80 and sm_90, on a machine without a GPU."""

import importlib
import importlib.util
import pkgutil

import cupy
import pytest
from cupy.cuda.compiler import CompileException
from machine.cuda_without_gpu.kernel_compiler import ARCHITECTURES, compile_kernel, kernels_of, portable_code
from stand_ins.all_programs import ARGUMENTS, RULES

from mlp_xp.fast import cuda as fast
from mlp_xp.fast.cuda import kernels
from mlp_xp.machine import cuda as machine

ROOMS = (fast, machine)
MODULES = [each.name for room in ROOMS for each in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")]


def test_there_are_kernels_to_compile():
    assert sum(len(kernels_of(importlib.import_module(module))) for module in MODULES) > 30


@pytest.mark.parametrize(
    "given", ARGUMENTS["_update_kernel"], ids=[f"{name} {of}" for name in RULES for of in "1k"]
)
def test_updates_load_before_they_store(given):
    """Else each store would be followed by loads of what it might have changed."""
    ptx = portable_code(kernels._update_kernel(*given), "float32")
    loads = [at for at, line in enumerate(ptx) if "ld.global" in line]
    stores = [at for at, line in enumerate(ptx) if "st.global" in line]
    assert loads
    assert max(loads) < min(stores)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("module", MODULES)
def test_all_kernels_compile(module, architecture):
    for kernel in kernels_of(importlib.import_module(module)):
        compile_kernel(kernel, architecture)


def raw(body):
    return f'extern "C" __global__ void raw(float *w, const float *g, int n) {{ {body} }}'


TEMPLATE = "template<typename T> __global__ void twice(T *w) { w[threadIdx.x] += w[threadIdx.x]; }"
GOOD = {
    "generic": lambda: cupy.ElementwiseKernel("T g, raw float32 rate", "T w", "w -= rate[0] * g", "generic"),
    "many arrays": lambda: cupy.ElementwiseKernel(
        "float32 g, float32 rate, int32 t",
        "float32 w, float32 m",
        "m = half_of(m) + g; w -= rate * m / t",
        "many_arrays",
        preamble="__device__ float half_of(float x) { return 0.5f * x; }",
        loop_prep="int unused = 0",
    ),
    "raw": lambda: cupy.RawKernel(raw("if (threadIdx.x < n) w[threadIdx.x] -= g[0];"), "raw"),
    "module": lambda: cupy.RawModule(code=raw("w[0] = g[n];")),
    "template": lambda: cupy.RawModule(code=TEMPLATE, name_expressions=["twice<double>"]),
}
BROKEN = {
    "undefined": lambda: cupy.ElementwiseKernel("T g", "T w", "w -= rate * g", "undefined"),
    "input written": lambda: cupy.ElementwiseKernel("T g", "T w", "g = w", "input_written"),
    "raw indexed as a value": lambda: cupy.ElementwiseKernel(
        "raw float32 rate", "float32 w", "w -= rate", "raw_as_value"
    ),
    "only for one type": lambda: cupy.ElementwiseKernel("T g", "T w", "float *p = &w; *p = g", "one_type"),
    "raw": lambda: cupy.RawKernel(raw("w[0] = q[0];"), "raw"),
    "module": lambda: cupy.RawModule(code=raw("w[0] = g[n]")),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", GOOD)
def test_a_good_kernel_compiles(name, architecture):
    compile_kernel(GOOD[name](), architecture)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_does_not(name):
    with pytest.raises(CompileException, match="error"):
        compile_kernel(BROKEN[name](), "80")


MODULE = """
from functools import cache
from typing import Literal

@cache
def sgd():
    import cupy

    return cupy.ElementwiseKernel(
        "T g", "T w",
        "w -= g", "sgd",
    )

def activation(name: Literal["tanh", "exp"]):
    import cupy as cp

    return cp.ElementwiseKernel("T z", "T a", f"a = {name}(z)", f"{name}_of")

def products():
    from cupy import RawKernel, RawModule

    RawModule(code='extern "C" __global__ void m() {}')
    return RawKernel('extern "C" __global__ void k() {}', "k")

def not_a_maker(size):
    return size
"""


def module_of(text, tmp_path):
    path = tmp_path / "written_by_the_test.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_kernels_of_a_module_are_found(tmp_path):
    module = module_of(MODULE, tmp_path)
    module.sgd()  # one that is cached already is found all the same
    for _ in range(2):
        found = kernels_of(module)
        names = [getattr(kernel, "name", "module") for kernel in found]
        assert names == ["tanh_of", "exp_of", "module", "k", "sgd"]
    for kernel in found:
        compile_kernel(kernel, "90")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f():\n  if 0:\n    import cupy\n    cupy.RawKernel('', 'f')", "did not make"),
        ("def f():\n  import cupy\n  class K:\n    k = cupy.fuse", "can be checked"),
        (
            "class K:\n  def f(self):\n    import cupy\n    cupy.RawKernel('', 'f')",
            "plain function",
        ),
    ],
)
def test_a_kernel_that_escapes_is_an_error(text, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        kernels_of(module_of(text, tmp_path))
