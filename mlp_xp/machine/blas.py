"""The BLAS libraries of this process, and how many threads each may use.

NumPy computes with one; SciPy's wheels bring another of their own.
"""

import contextlib
import functools
from pathlib import Path
from typing import Any


@functools.cache
def libraries() -> Any:
    """What knows and sets the threads of each BLAS that is loaded; None without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        return None
    return ThreadpoolController().select(user_api="blas")


@functools.cache
def _scipys_own() -> Any:
    """SciPy's BLAS, if it is not NumPy's, too: it lies in SciPy's folder, or beside it in scipy.libs."""
    import scipy
    from threadpoolctl import ThreadpoolController

    blas, folder = ThreadpoolController().select(user_api="blas"), str(Path(scipy.__file__).parent)
    files = [each["filepath"] for each in blas.info()]
    return blas.select(filepath=[file for file in files if file.startswith(folder)])


def one_thread_for_scipy() -> Any:
    """A context in which SciPy's own BLAS uses one thread.

    After each product the threads of a BLAS wait busily for the next. Where two libraries take turns, those
    of one wait on the cores that the other needs: 100 iterations of L-BFGS on 100 rows of 2-100-100-1 take
    900 instead of 110 ms.
    """
    try:
        return _scipys_own().limit(limits=1)
    except ModuleNotFoundError:  # threadpoolctl
        return contextlib.nullcontext()
