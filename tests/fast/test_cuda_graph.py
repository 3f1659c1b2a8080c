"""Capturing a step, and what is left where that fails, with a stand-in for CuPy."""

import contextlib
import gc
import sys
from types import SimpleNamespace

import pytest

from mlp_xp.fast.cuda.graph import Captured, NotCapturedError


class CudaRuntimeError(RuntimeError):
    pass


class Stream:
    def __init__(self, *, ends_badly=False):
        self.log, self.ends_badly = [], ends_badly

    def begin_capture(self):
        self.log.append("begin")

    def end_capture(self):
        self.log.append("end")
        if self.ends_badly:
            raise CudaRuntimeError("cudaErrorStreamCaptureInvalidated")
        return SimpleNamespace(
            upload=lambda stream: stream.log.append("upload"),
            launch=lambda stream: stream.log.append("launch"),
        )


@pytest.fixture
def allocators(monkeypatch):
    """The allocator inside and outside of the capture."""
    current = ["the stream's pool"]

    @contextlib.contextmanager
    def using_allocator(malloc):
        current.append(malloc)
        try:
            yield
        finally:
            current.pop()

    cuda = SimpleNamespace(
        Device=contextlib.nullcontext,
        MemoryPool=lambda: SimpleNamespace(
            malloc="a pool of its own", free_all_blocks=lambda: current.append("freed")
        ),
        using_allocator=using_allocator,
        runtime=SimpleNamespace(CUDARuntimeError=CudaRuntimeError),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    return current


def test_a_capture(allocators):
    stream, seen = Stream(), []
    captured = Captured(stream, lambda: seen.append(allocators[-1]))
    assert stream.log == ["begin", "end", "upload"]
    assert seen == ["a pool of its own"]
    assert allocators == ["the stream's pool"]
    captured.launch()
    captured.launch()
    assert stream.log[3:] == ["launch", "launch"]
    assert len(seen) == 1


def test_a_graphs_memory_is_given_back(allocators):
    captured = Captured(Stream(), lambda: None)
    assert "freed" not in allocators
    del captured
    assert allocators[-1] == "freed"


def test_nothing_is_freed_by_chance_in_a_capture(allocators):
    assert gc.isenabled()
    Captured(Stream(), lambda: None if not gc.isenabled() else pytest.fail("collects garbage"))
    assert gc.isenabled()


@pytest.mark.parametrize("ends_badly", [True, False])
@pytest.mark.parametrize("error", [NotImplementedError("cuBLAS"), RuntimeError("H2D"), MemoryError("no")])
def test_what_cannot_be_captured(error, ends_badly, allocators):
    stream = Stream(ends_badly=ends_badly)

    def run():
        raise error

    with pytest.raises(NotCapturedError, match=f"{type(error).__name__}: {error}") as refusal:
        Captured(stream, run)
    assert refusal.value.__cause__ is error
    assert stream.log == ["begin", "end"]  # the capture is over, whatever it gives
    assert allocators == ["the stream's pool"]


def test_a_capture_that_was_invalidated(allocators):
    stream = Stream(ends_badly=True)
    with pytest.raises(NotCapturedError, match="Invalidated"):
        Captured(stream, lambda: None)
    assert stream.log == ["begin", "end"]


def test_an_interrupt_ends_the_capture_too(allocators):
    stream = Stream()

    def run():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Captured(stream, run)
    assert stream.log == ["begin", "end"]
