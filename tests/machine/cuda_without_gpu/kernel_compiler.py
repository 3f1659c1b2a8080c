"""Find every CUDA kernel of a module and compile it with NVRTC for a GPU that is not there."""

import ast
import inspect
import itertools
import sys
import typing
from contextlib import contextmanager

import cupy
import numpy as np
from cupy._core import _kernel, core
from cupy.cuda import compiler
from stand_ins.all_programs import ARGUMENTS

ARCHITECTURES = ("80", "90")
FLOATS = ("float32", "float64")
KINDS = ("ElementwiseKernel", "RawKernel", "RawModule")
# CuPy puts these in front of every kernel of its own making.
HEADERS = "".join(
    f"#include <cupy/{name}>\n" for name in ("complex.cuh", "carray.cuh", "atomics.cuh", "math_constants.h")
)
ARRAY = 1  # CuPy's kinds of arguments, an enumeration that Python cannot see
INDEXER = 2


def kernels_of(module):
    """Return every kernel that the functions of ``module`` make.

    A function that makes one takes no arguments, those of `all_programs`, or arguments that are
    annotated with Literal: it is called with each combination of them. A place in the source that
    makes a kernel and is not reached in this way is an error, so that no kernel goes unchecked.
    """
    source = inspect.getsource(module)
    places = _places(ast.parse(source))
    makers = {maker for _, _, maker in places}
    with _recording(module.__file__) as made:
        for maker in sorted(makers):
            function = inspect.unwrap(getattr(module, maker))
            for arguments in _combinations(function):
                function(*arguments)
    lines = {line for line, _ in made}
    for first, last, maker in places:
        if lines.isdisjoint(range(first, last + 1)):
            raise AssertionError(f"{module.__file__}:{first}: {maker}() did not make this kernel")
    return [kernel for _, kernel in made]


def _places(tree):
    """List (first line, last line, function at the top level) of all calls that make kernels."""
    places = []
    for statement in tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and _last_name(node.func) in KINDS:
                if not isinstance(statement, ast.FunctionDef):
                    raise AssertionError(f"line {node.lineno}: make kernels in a plain function")
                places.append((node.lineno, node.end_lineno, statement.name))
            elif _last_name(node) in ("ReductionKernel", "fuse", "rawkernel"):
                raise AssertionError(f"line {node.lineno}: only {', '.join(KINDS)} can be checked")
    return places


def _last_name(node):
    return getattr(node, "attr", None) or getattr(node, "id", None)


def _combinations(function):
    if function.__name__ in ARGUMENTS:
        return ARGUMENTS[function.__name__]
    annotations = typing.get_type_hints(function)
    names = inspect.signature(function).parameters
    return itertools.product(*(typing.get_args(annotations[name]) for name in names))


@contextmanager
def _recording(path):
    """Collect (line of ``path`` that made it, kernel) while inside."""
    made = []
    originals = {kind: getattr(cupy, kind) for kind in KINDS}

    def recorder(original):
        def make(*args, **kwargs):
            kernel = original(*args, **kwargs)
            caller = sys._getframe(1)
            if caller.f_code.co_filename == path:
                made.append((caller.f_lineno, kernel))
            return kernel

        return make

    for kind, original in originals.items():
        setattr(cupy, kind, recorder(original))
    try:
        yield made
    finally:
        for kind, original in originals.items():
            setattr(cupy, kind, original)


def compile_kernel(kernel, architecture):
    """Compile for one architecture; raises CuPy's CompileException with NVRTC's words."""
    if isinstance(kernel, cupy.ElementwiseKernel):
        for dtype in FLOATS if _is_generic(kernel) else (None,):
            _compile(_elementwise_source(kernel, dtype), (), architecture, None)
        return
    if kernel.backend != "nvrtc":
        raise AssertionError(f"kernels are compiled at run time, so not by {kernel.backend}")
    names = getattr(kernel, "name_expressions", None)
    _compile(kernel.code, tuple(kernel.options), architecture, names)


def _is_generic(kernel):
    return any(each.dtype is None for each in kernel.in_params + kernel.out_params)


def _elementwise_source(kernel, dtype):
    """Write the source that CuPy writes, for contiguous arrays with one axis."""
    dtypes = [[each.dtype or np.dtype(dtype) for each in side] for side in _sides(kernel)]
    *_, types = _kernel._decide_params_type(*_sides(kernel), *map(tuple, dtypes))
    arguments = [_argument(ARRAY, cupy.ndarray, each) for side in dtypes for each in side]
    return _kernel._get_elementwise_kernel_code(
        (*arguments, _argument(INDEXER, type(None), None)),
        types,
        kernel.params,
        kernel.operation,
        kernel.name,
        kernel.preamble,
        **kernel.kwargs,
    )


def _sides(kernel):
    return kernel.in_params, kernel.out_params


def _argument(kind, of, dtype):
    n_axes, contiguous, short_index = 1, True, True
    return _kernel._ArgInfo(kind, of, dtype, n_axes, contiguous, short_index)


def portable_code(kernel, dtype):
    """The lines of an elementwise kernel's PTX."""
    code, _ = _compile(_elementwise_source(kernel, dtype), (), ARCHITECTURES[-1], None, "ptx", "compute")
    return code.decode().splitlines()


def _compile(source, options, architecture, names, method="cubin", kind="sm"):
    # compile_using_nvrtc asks for the current device, of which there is none.
    program = compiler._NVRTCProgram(HEADERS + source, "kernel.cu", name_expressions=names, method=method)
    return program.compile(
        (
            f"-arch={kind}_{architecture}",
            "-ftz=true",
            "--device-as-default-execution-space",
            *core.assemble_cupy_compiler_options(options),
        )
    )
