"""Arrays for tests: that nobody may write, that are read from any device, and whose reads are traps."""

import contextlib

import numpy as np

from mlp_xp.machine.array_api import to_host

READS = (
    "__array__",
    "__bool__",
    "__buffer__",
    "__complex__",
    "__dlpack__",
    "__float__",
    "__format__",
    "__index__",
    "__int__",
    "__iter__",
    "__repr__",
    "__str__",
    "get",
    "item",
    "numpy",
    "to_device",
    "tolist",
)
"""Names under which the libraries hand an array's values to the host."""


def readonly(array, dtype=None):
    """An array like the user's, which mlp_xp must never write: NumPy raises where it is tried."""
    own = np.array(array, dtype=dtype)
    own.flags.writeable = False
    return own


def host(a):
    """A NumPy array of its own with the values of an array of any library."""
    return np.array(to_host(a))


def tolerance(backend, float64=1e-12, float32=2e-5):
    """The relative error that rounding explains in the backend's dtype."""
    return float64 if backend.dtype_name == "float64" else float32


@contextlib.contextmanager
def no_device_reads(backend):
    """Within the block, whatever hands values of the backend's arrays to the host raises.

    NumPy's arrays are on the host already: there it does nothing.
    """

    def forbid(name, original):
        def read(*arguments, **named):
            raise AssertionError(f"the host reads an array on the device: {name}")

        return read

    with _reads_replaced(backend, forbid):
        yield


@contextlib.contextmanager
def device_reads(backend):
    """Collect the names of what hands values of the backend's arrays to the host, in a list.

    NumPy's arrays are on the host already: there the list stays empty.
    """
    seen = []

    def watch(name, original):
        def read(*arguments, **named):
            seen.append(name)
            return original(*arguments, **named)

        return read

    with _reads_replaced(backend, watch):
        yield seen


@contextlib.contextmanager
def _reads_replaced(backend, replacement):
    kind = type(backend.zeros((1,)))
    if kind is np.ndarray:
        yield
        return
    own = {name: kind.__dict__[name] for name in READS if name in kind.__dict__}
    names = [name for name in READS if name in own or _inherits(kind, name)]
    for name in names:
        setattr(kind, name, replacement(name, getattr(kind, name)))
    try:
        yield
    finally:
        for name in names:
            if name in own:
                setattr(kind, name, own[name])
            else:
                delattr(kind, name)


def _inherits(kind, name):
    """Whether a class gets a method from its library, and not from Python's `object`."""
    return getattr(kind, name, None) is not getattr(object, name, None)
