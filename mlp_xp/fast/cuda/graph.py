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
from collections.abc import Callable
from typing import Any


class NotCapturedError(RuntimeError):
    """A step cannot be captured; the message says why. The stream is as it was."""


class Captured:
    """A recorded sequence of launches.

    Parameters
    ----------
    stream : cupy.cuda.Stream
        Non-blocking, current, and idle.
    run : callable
        Launches what is to be recorded on that stream; it computes nothing now. It must have run before, so
        that kernels are compiled.

    Raises
    ------
    NotCapturedError
        `run` did what a capture does not allow.
    """

    def __init__(self, stream: Any, run: Callable[[], Any]) -> None:
        import cupy

        gc.collect()  # nothing may be freed by chance during the capture
        # Temporaries come from a pool of the graph's own: in the stream's pool their addresses would be given
        # to later arrays, which each launch would then overwrite.
        self._pool = cupy.cuda.MemoryPool()
        self._stream = stream
        with cupy.cuda.using_allocator(self._pool.malloc):
            stream.begin_capture()
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

    def launch(self) -> None:
        """Run all of it on the stream, after what the stream was given before."""
        self._graph.launch(self._stream)
