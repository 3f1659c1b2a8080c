"""How much of a GPU's memory is there, and how much of it may be used."""

import re

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_limit(text: str) -> int | float:
    """Bytes (an int) or a part of the device's memory (a float in (0, 1]) from what a user wrote.

    Raises ValueError: it is neither an amount nor a percentage.

    Examples
    --------
    >>> parse_limit("4GiB"), parse_limit("50%")
    (4294967296, 0.5)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[KMG]I?B|)", text.strip().upper())
    if match is not None and match[2] == "%" and 0 < float(match[1]) <= 100:
        return float(match[1]) / 100
    if match is not None and match[2] != "%" and float(match[1]) * _UNITS[match[2]] >= 1:
        return int(float(match[1]) * _UNITS[match[2]])
    raise ValueError(
        f"device memory limit {text!r} must be an amount or a part of the GPU's memory: 4GiB, 500MB, 50%."
    )


def limit(text: str, index: int = 0) -> int:
    """Let this process take no more of ``cuda:index`` than "4GiB", "500MB" or "50%"; the limit in bytes.

    What CuPy's pool holds counts, in use or kept for later. The driver's context and compiled kernels (some
    hundred MB) do not, nor what a recorded step computes in between, which has a pool of its own.
    """
    import cupy

    amount = parse_limit(text)
    with cupy.cuda.Device(index):
        pool = cupy.get_default_memory_pool()
        if isinstance(amount, float):
            pool.set_limit(fraction=amount)
        else:
            pool.set_limit(size=amount)
        # The pool asks for its limit only where it needs more, and then counts also what lies idle in it.
        pool.free_all_blocks()
        return int(pool.get_limit())


def available(index: int) -> int:
    """Bytes of ``cuda:index`` that this process can still get: free, or in its pool; up to its limit."""
    import cupy

    with cupy.cuda.Device(index):
        pool = cupy.get_default_memory_pool()
        free, _ = cupy.cuda.runtime.memGetInfo()
        found = free + pool.free_bytes()
        most = pool.get_limit()
        return int(min(found, most - pool.used_bytes()) if most else found)


def taken(index: int) -> int:
    """Bytes of ``cuda:index`` that this process holds in CuPy's pool, in use or kept for later."""
    import cupy

    with cupy.cuda.Device(index):
        return int(cupy.get_default_memory_pool().total_bytes())
