"""What a training step on the GPU is made of, for one thread that trains: kernels, products, capture.

Two streams share the work. On one lies what waits for one another: the layers' outputs, the loss, every δ.
Products that give derivatives with respect to the parameters, which nobody reads before the update, are made
aside, on a second stream with a handle and a workspace of its own.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np

from mlp_xp.fast.cuda import kernels
from mlp_xp.fast.cuda.gemm import Gemm
from mlp_xp.fast.cuda.graph import Captured, NotCapturedError
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.machine.cuda.feeding import Streams
from mlp_xp.machine.symbolic import Program

Made = TypeVar("Made")

_of_thread = threading.local()


class Engine:
    """Kernels and products on the thread's compute stream, and the numbers of the steps under way.

    Parameters
    ----------
    streams : feeding.Streams
        Of the device.
    dtype : dtype
        Of all arithmetic.
    members : int, optional
        How many networks train together.

    Attributes
    ----------
    at_once : int
        Steps that may be begun together.
    inverse : array (1, 1), or (members, 1, 1)
        1 / Σ s_i of the step, on the device; 0 for a member that does not move.
    adds : bool
        Whether derivatives are added to those of the chunks before.
    """

    NotCapturedError = NotCapturedError
    N_SCALARS, INVERSE = kernels.N_SCALARS, kernels.INVERSE
    activate = staticmethod(kernels.activate)
    penalty_gradient = staticmethod(kernels.penalty_gradient)

    def __init__(self, streams: Streams, dtype: object, members: int | None = None) -> None:
        self.streams, self.stream = streams, streams.compute
        with streams.working():
            self._make_buffers(dtype, members)
        products = _once_a_thread("products", streams, lambda: Products(streams))
        self.side, self.gemm, self.gemm_aside = products.side, products.gemm, products.aside

    def _make_buffers(self, dtype: object, members: int | None) -> None:
        import cupy

        n = members or 1
        self.sums = kernels.Sums(dtype, members)
        self.scalars = cupy.zeros((n, kernels.N_SCALARS), dtype=dtype)
        self.at_once = kernels.at_once(self.scalars.itemsize)
        self._table = cupy.zeros((self.at_once * n * kernels.N_SCALARS,), dtype=dtype)
        self._addresses = cupy.zeros((6,), dtype=cupy.int64)
        self._counters = cupy.zeros((kernels.N_COUNTERS,), dtype=cupy.int64)
        inverse = self.scalars[:, kernels.INVERSE :]
        self.inverse = inverse if members is None else inverse[:, None, :]
        self.penalty, self.clip = self.sums.penalty, self.sums.clip
        loss = kernels.Loss(dtype, self.inverse)
        self.differentiate, self.pinball, self._cross_entropy = (
            loss.differentiate,
            loss.pinball,
            loss.cross_entropy,
        )
        self.adds = False
        self._readers: dict[int, Any] = {}  # by the address of a δ: when what reads it aside is over
        self._product: tuple[Array, Array] | None = None
        self._summed: Array = None

    def is_current(self) -> bool:
        """Whether the calling thread works on the stream on which products and graphs run."""
        import cupy

        return bool(cupy.cuda.get_current_stream().ptr == self.stream.ptr)

    def handles(self, array: Array) -> bool:
        """Whether the kernels take an array: gaps between members alone, elements that they can count."""
        own = array[0] if array.ndim == 3 else array
        return bool(own.flags.c_contiguous) and array.size <= kernels.LARGEST

    def writer(self, backend: Backend, *, all_fused: bool) -> Callable[..., Array]:
        """`Backend.into` with our own matrix product on our stream; elsewhere the library's.

        On the way back, where δ of one output is a column, its product with the weights' row is left to
        `chain`, which comes next where all activations are fused.
        """
        plain, matmul, multiply = backend.into, backend.xp.matmul, backend.xp.multiply

        def write(out: Array, f: Callable[..., Array], *args: Array) -> Array:
            is_outer = f is multiply and all_fused and self._readers
            reader = self._readers.pop(kernels.address(out), None) if self._readers else None
            if reader is not None:
                self.stream.wait_event(reader)
            if not (f is matmul or is_outer) or not self.is_current():
                return plain(out, f, *args)
            if is_outer:
                self._product = (args[0], args[1])
            else:
                self.gemm(out, *args)
            return out

        return write

    def write_gradient(self, out: Array, left: Array, right: Array, add: bool) -> None:
        """out ← left @ right, or added to, aside; nothing where `chain` has summed it already."""
        if out is self._summed:
            self._summed = None
            return
        if not self.is_current():
            out[...] = out + left @ right if add else left @ right
            return
        self.side.wait_event(self.stream.record(_event()))
        self.gemm_aside(out, left, right, add=add)
        self._readers[kernels.address(right)] = self.side.record(_event())

    def join(self) -> None:
        """All that comes now comes after what was made aside."""
        if self._readers:
            self._readers.clear()
            self.stream.wait_event(self.side.record(_event()))

    def break_off(self) -> None:
        """Forget a step under way: what comes now, also what is freed, comes after what it made aside."""
        self._product = self._summed = None
        with contextlib.suppress(RuntimeError):  # CUDA's, in a capture that has failed
            self.join()

    def chain(
        self, program: Program, delta: Array, kept: Array, sums: Array, drops: kernels.Drops | None
    ) -> None:
        """δ ← δ ⊙ f', dropped as the outputs were, and Σ_i δ_i where it is asked for and δ has few rows."""
        few = sums if delta.shape[-2] <= kernels.SUMMED_ROWS else None
        kernels.chain(
            program, delta, kept, self._counters,
            product=self._product, sums=few, adds=self.adds, drops=drops,
        )  # fmt: skip
        self._product, self._summed = None, few

    def drop(self, a: Array, dropped: Array, drops: kernels.Drops) -> None:
        """dropped ← a with units dropped."""
        kernels.drop(a, dropped, self._counters, drops)

    def begin(
        self,
        sources: tuple[Array, Array, Array],
        numbers: np.ndarray,
        number: int,
        place: int,
        first_row: int,
    ) -> None:
        """Bring the numbers of the coming steps to the device, and say where their rows are.

        Parameters
        ----------
        sources : x, y and weight
            Of all these steps, one after the other; None for what is not there.
        numbers : array (n_steps, 1 or members, N_SCALARS)
            The rule's, and at `INVERSE` 1 / Σ s_i.
        number : int
            The first step's, of which dropout is a function; −1 where there is none.
        place : int
            Where its loss goes among the values that wait for the host.
        first_row : int
            The position of its rows in the global batch.
        """
        buffers = (self._table, self._addresses, self._counters)
        kernels.begin_steps(sources, numbers, *buffers, number, place, first_row)

    def take(self, targets: tuple[Array, Array, Array]) -> None:
        """Bring the rows and numbers of the step whose turn it is to where it reads them."""
        kernels.take_step(targets, self._addresses, self._counters, self._table, self.scalars)

    def end_step(self, value: Array, penalty: Array, waiting: Array) -> None:
        """Store the step's loss and penalty at their place; it is the next step's turn."""
        kernels.end_step(value, penalty, self._counters, waiting)

    def update(self, program: Program, *vectors: Array) -> None:
        """Apply a rule with the step's numbers: g, how many weights there are, p, and the state."""
        kernels.update(program, self.scalars, *vectors)

    def cross_entropy(self, ends: Array, smoothing: float, eps: float, *arrays: Array) -> Array:
        """Softmax cross-entropy, summed over groups of classes: of z, biases, y and weight; z becomes δ."""
        bounds = (-math.log1p(-eps), -math.log(eps)) if eps else None
        return self._cross_entropy(ends, smoothing, bounds, *arrays)

    def capture(self, run: Callable[[], Any]) -> Captured:
        """Record what `run` launches."""
        return Captured(self.stream, run)


def _event() -> Any:
    import cupy

    return cupy.cuda.Event(disable_timing=True)


class Products:
    """Products on a thread's compute stream and aside, whatever their dtype: each has a large workspace."""

    def __init__(self, streams: Streams) -> None:
        import cupy

        with streams.working():
            self.side = cupy.cuda.Stream(non_blocking=True)
            self.gemm, self.aside = Gemm(streams.compute), Gemm(self.side)


def engine_of(streams: Any, dtype: object, members: int | None = None) -> Engine:
    """What a training in the calling thread computes with: made once for each device, dtype and members."""
    of = (streams, dtype, members)
    return _once_a_thread("engines", of, lambda: Engine(*of))


def _once_a_thread(kind: str, of: Hashable, make: Callable[[], Made]) -> Made:
    made: dict[Hashable, Made] = vars(_of_thread).setdefault(kind, {})
    if of not in made:
        made[of] = make()
    return made[of]
