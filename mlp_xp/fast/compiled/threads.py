"""How the threads that share a step wait for each other: they spin, since they wait for microseconds.

Each thread calls the compiled step with its number; the cores that the BLAS would have used compute it.
"""

from typing import Any

from mlp_xp.fast.compiled.compiler import in_any_order, intrinsic, types
from mlp_xp.fast.compiled.intrinsics import Builder, Context, Signature, Type, Typing, Values
from mlp_xp.machine.array_api import Array

LINE = 8
"""Numbers (int64) from one thread's to the next one's: a cache line each."""

SPINS, SLEEP = 100_000, 20
"""Looks at a number (about 100 µs) before a waiting thread sleeps, and µs that it sleeps at a time.
Beside busy processes the thread it waits for has no core; a sleeper gets one at once when it wakes, one that
has spun or yielded has used up its turn (4 to 6 times as long a step)."""

GIVEN_UP = -1
"""The ticket of a thread that will not come: nobody may wait for it."""


@intrinsic
def _load(_typing: Typing, array: Type, i: Type) -> Any:
    """Element i of an int64 array, read in order with all else."""

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        return builder.load_atomic(builder.gep(data, [given[1]]), "acquire", 8)

    return types.int64(array, i), build


@intrinsic
def _store(_typing: Typing, array: Type, i: Type, value: Type) -> Any:
    """Element i ← value, written in order with all else."""

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        data = context.make_array(signature.args[0])(context, builder, given[0]).data
        builder.store_atomic(given[2], builder.gep(data, [given[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, i, value), build


_sleep = types.ExternalFunction("usleep", types.intc(types.uintc))


@in_any_order
def wait_for_all(part: int, n_parts: int, arrived: Array, ticket: int) -> int:
    """Return when all parts have come with this ticket: the next meeting's ticket, or 0 to give up."""
    if n_parts > 1:
        _store(arrived, part * LINE, ticket)
        for other in range(n_parts):
            spins, seen = 0, _load(arrived, other * LINE)
            while seen < ticket:
                if seen == GIVEN_UP:
                    return 0
                spins += 1
                if spins > SPINS:
                    _sleep(SLEEP)
                seen = _load(arrived, other * LINE)
    return ticket + 1


@in_any_order
def share(n: int, part: int, n_parts: int) -> tuple[int, int]:
    """The first of n things that belong to a part, and the one after its last; none to parts beyond."""
    if n_parts == 1:  # without divisions, of which a step of a tiny network would have two dozen
        return (0, n) if part == 0 else (n, n)
    part = min(part, n_parts)
    return n * part // n_parts, n * min(part + 1, n_parts) // n_parts
