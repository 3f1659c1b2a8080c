"""What a training step on the GPU is made of, for one thread that trains: kernels, products, capture."""

import math
import threading
from collections.abc import Callable
from typing import Any

from mlp_xp.fast.cuda import kernels
from mlp_xp.fast.cuda.gemm import Gemm
from mlp_xp.fast.cuda.graph import Captured, NotCapturedError
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.machine.cuda.feeding import Streams
from mlp_xp.machine.symbolic import Program

_of_thread = threading.local()


class Engine:
    """Kernels and products on the thread's compute stream, and the numbers of the step under way.

    Parameters
    ----------
    streams : feeding.Streams
        Of the device.
    dtype : dtype
        Of all arithmetic.

    Attributes
    ----------
    number : int
        The step's number, as device memory has it; −1 where it has none.
    inverse : array (1,)
        1 / Σ s_i of the step, on the device.
    """

    NotCapturedError = NotCapturedError
    activate = staticmethod(kernels.activate)
    chain = staticmethod(kernels.chain)
    differentiate = staticmethod(kernels.differentiate)
    pinball = staticmethod(kernels.pinball)
    penalty_gradient = staticmethod(kernels.penalty_gradient)

    def __init__(self, streams: Streams, dtype: object) -> None:
        import cupy

        self.streams, self.stream = streams, streams.compute
        with streams.working():
            self.sums = kernels.Sums(dtype)
            self.scalars = cupy.zeros((kernels.N_SCALARS,), dtype=dtype)
            self.counters = cupy.zeros((2,), dtype=cupy.int64)
            self.gemm = Gemm(self.stream)
        self.inverse = self.scalars[kernels.INVERSE : kernels.INVERSE + 1]
        self.penalty, self.clip = self.sums.penalty, self.sums.clip
        self.number = -1

    def is_current(self) -> bool:
        """Whether the calling thread works on the stream on which products and graphs run."""
        import cupy

        return bool(cupy.cuda.get_current_stream().ptr == self.stream.ptr)

    def handles(self, array: Array) -> bool:
        """Whether the kernels take an array: no gaps, and not more elements than they can count."""
        return bool(array.flags.c_contiguous) and array.size <= kernels.LARGEST

    def writer(self, backend: Backend) -> Callable[..., Array]:
        """`Backend.into` with our own matrix product on our stream; elsewhere the library's."""
        plain, matmul = backend.into, backend.xp.matmul

        def write(out: Array, f: Callable[..., Array], *args: Array) -> Array:
            if f is matmul and self.is_current():
                self.gemm(out, *args)
                return out
            return plain(out, f, *args)

        return write

    def begin(
        self,
        sources: tuple[Array, ...],
        targets: tuple[Array, ...],
        numbers: tuple[float, ...],
        inverse: float,
        number: int,
        place: int,
    ) -> None:
        """Bring a step's rows and numbers to the addresses at which it reads them.

        Parameters
        ----------
        sources, targets : x, y and weight
            None for what is not there.
        numbers : tuple of float
            The rule's.
        inverse : float
            1 / Σ s_i.
        number : int
            The step's, of which dropout is a function; −1 where there is none.
        place : int
            Where its loss goes among the values that wait for the host.
        """
        padded = (*numbers, *(0.0,) * (kernels.INVERSE - len(numbers)), inverse, 0.0)
        kernels.begin_step(
            (sources[0], sources[1], sources[2]), (targets[0], targets[1], targets[2]),
            self.scalars, padded, self.counters, number, place,
        )  # fmt: skip
        self.number = number

    def record(self, value: Array, penalty: Array, waiting: Array) -> None:
        """Store the step's loss and penalty at their place."""
        kernels.record(value, penalty, self.counters, waiting)

    def update(self, program: Program, shrinks: bool, *vectors: Array) -> None:
        """Apply a rule with the step's numbers: g, how many weights there are, p, and the state."""
        kernels.update(program, shrinks, self.scalars, *vectors)

    def cross_entropy(
        self,
        z: Array,
        y: Array,
        weight: Array,
        groups: tuple[int, ...],
        smoothing: float,
        eps: float,
        per_row: Array,
    ) -> None:
        """Softmax cross-entropy per row, summed over groups of classes; z becomes δ."""
        bounds = (-math.log1p(-eps), -math.log(eps)) if eps else None
        kernels.cross_entropy(z, y, weight, groups, smoothing, bounds, per_row)

    def dropout_mask(
        self, mask: Array, seed: int, layer: int, first_row: int, threshold: int, factor: float
    ) -> None:
        """Fill a dropout mask for the step whose number is in device memory."""
        kernels.dropout_mask(mask, self.counters, seed, layer, first_row, threshold, factor)

    def capture(self, run: Callable[[], Any]) -> Captured:
        """Record what `run` launches."""
        return Captured(self.stream, run)


def engine_of(streams: Any, dtype: object) -> Engine:
    """What a training in the calling thread computes with: made once for each device and dtype."""
    engines: dict[Any, Engine] = vars(_of_thread).setdefault("engines", {})
    if (streams, dtype) not in engines:
        engines[streams, dtype] = Engine(streams, dtype)
    return engines[streams, dtype]
