"""When memory runs out: the same gradient from fewer rows at a time.

A step is a list of chunks whose gradients add up, so that a step which does not fit is made again in chunks
of half as many rows, with the same result up to the rounding of sums.
"""

import warnings
from collections.abc import Callable
from typing import TypeVar

from mlp_xp.forward import Memo
from mlp_xp.network import Network
from mlp_xp.optimizers import Optimizer
from mlp_xp.rows.loader import Loader

Result = TypeVar("Result")


def halve_chunks(loader: Loader, network: Network, error: MemoryError, n_vectors: int = 2) -> None:
    """Make the loader's chunks half as long, and give its buffers back; the first time, say so.

    Raises MemoryError: not even one row fits beside `n_vectors` of the parameters' size; the message says how
    much is needed and how much there is.
    """
    rows = min(loader.chunk_rows, loader.batch_size)
    if rows == 1:
        raise MemoryError(_too_little(network, error, n_vectors)) from error
    loader.chunk_rows = -(-rows // 2)
    loader.forget_buffers()
    if not loader.ran_out_of_memory:
        loader.ran_out_of_memory = True
        warnings.warn(
            f"{rows} rows at a time do not fit the memory of {network.backend.name}: going on with "
            f"{loader.chunk_rows}, or fewer where those do not fit either, whose gradients are added up. The "
            "steps and their result stay the same.",
            stacklevel=2,
        )


def within_memory(
    loader: Loader,
    network: Network,
    work: Callable[[], Result],
    forget: Callable[[], None] = lambda: None,
    optimizer: Optimizer | None = None,
) -> Result:
    """Do work that takes a loader's chunks, from the start again with smaller ones where memory runs out.

    `work` may be called several times, and does not do again what it has completed; `forget` lets go of its
    own buffers before. An update of the optimizer that has begun to move the weights is not made again.

    Raises MemoryError: not even one row fits, or an update was under way.
    """
    while True:
        try:
            return work()
        except MemoryError as error:
            if optimizer is not None and optimizer.is_moving:
                raise
            halve_chunks(loader, network, error, 2 if optimizer is None else 5 + len(optimizer.state))
        forget()


def _too_little(network: Network, error: MemoryError, n_vectors: int) -> str:
    backend = network.backend
    bits = backend.xp.finfo(backend.dtype).bits
    vectors = n_vectors * network.parameters.size * bits // 8
    row = Memo.bytes_per_row(network)
    there = backend.runtime.available()
    free = "" if there is None else f"; {_amount(there)} are free now"
    return (
        f"not even one row at a time fits the memory of {backend.name}: parameters, gradient and optimizer "
        f"take {_amount(vectors)}, a row {_amount(row)} more{free} ({error}). Make the network smaller, free "
        "memory that other programs hold, or use another device."
    )


def _amount(n_bytes: int) -> str:
    """Bytes in the unit that people would use."""
    size, unit = float(n_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
