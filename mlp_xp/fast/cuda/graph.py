"""A step that is launched as one: CUDA graphs.

A training step is some thirty launches of 5 to 10 µs each on the host, more than a small network's
computation takes. Recorded once as a graph they are launched together. Everything a graph touches keeps its
address for the graph's life, and numbers passed to a kernel are frozen in it: what changes from step to step
lies in device memory.

What no machine without a GPU can confirm: that what is captured replays to the same bits; and that a capture
bears the thread that gathers beside it, which copies on a stream of its own and never uses cuBLAS.
"""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

CAPTURING = threading.RLock()
"""Held in a capture, and where what may wait for the whole device comes and goes, graphs' memory and cuBLAS's
handles: one at a time, also where several threads train."""


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Nothing is freed by chance inside; a collection beforehand would cost a large process 50 to 100 ms."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class NotCapturedError(RuntimeError):
    """A step cannot be captured; the message says why. The stream is as it was."""


class Captured:
    """A recorded sequence of launches.

    Raises NotCapturedError: `run` did what a capture does not allow.

    Parameters
    ----------
    stream : cupy.cuda.Stream
        Non-blocking, current, and idle.
    run : callable
        Launches what is to be recorded on that stream; it computes nothing now. It must have run before, so
        that kernels are compiled.
    """

    def __init__(self, stream: Any, run: Callable[[], Any]) -> None:
        import cupy

        # Temporaries come from a pool of the graph's own: in the stream's pool their addresses would be given
        # to later arrays, which each launch would then overwrite.
        pool = cupy.cuda.MemoryPool()
        self._graph: Any = None
        self._stream, self._device = stream, cupy.cuda.Device()
        with CAPTURING, _without_garbage_collection(), cupy.cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            self._pool = pool  # from here on there may be something to give back
            try:
                self._kept = run()
            except BaseException as error:
                # The capture must end, also where that fails; what it gives is incomplete.
                with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                if not isinstance(error, Exception):
                    raise
                raise NotCapturedError(f"{type(error).__name__}: {error}") from error
            try:
                self._graph = stream.end_capture()
                self._graph.upload(stream)
            except cupy.cuda.runtime.CUDARuntimeError as error:
                raise NotCapturedError(str(error)) from error

    def launch(self) -> Any:
        """Run all of it on the stream, after what the stream was given before; what `run` returned."""
        self._graph.launch(self._stream)
        return self._kept

    def __del__(self) -> None:
        """Give the memory back: a pool that is dropped with free blocks keeps them for ever (CuPy 14)."""
        pool = getattr(self, "_pool", None)
        if pool is not None:
            with CAPTURING, self._device:  # a pool looks at the current device alone
                self._graph = self._kept = None
                pool.free_all_blocks()
