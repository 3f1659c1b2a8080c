"""What Numba compiles for the CPU: loops over arrays, and a training step made of them.

Numba is imported with them, and they where there is no `problem`. Nothing here knows networks; `fast.on_cpu`
does.
"""

import functools
import importlib


@functools.cache
def problem() -> str | None:
    """Why nothing can be compiled here; None if it can. Imports Numba and what it calls of SciPy (0.5 s)."""
    for module, name in (("numba", "Numba"), ("scipy.linalg.cython_blas", "SciPy")):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            return f'{name} is not installed: pip install "mlp-xp[fast]"'
        except ImportError as error:  # Numba refuses versions of NumPy that it does not know
            return f"{name} cannot be used: {str(error).splitlines()[0]}"
    return None
