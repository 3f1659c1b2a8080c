"""The order in which copies and steps happen on a GPU, with threads for streams that are late at random."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from arrays import readonly
from stand_ins.host_streams import CudaRuntimeError, Event, Machine

from mlp_xp.machine.cuda import feeding
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.prefetch import SLOTS

N_ROWS = 60
X = readonly(np.arange(3.0 * N_ROWS).reshape(N_ROWS, 3), "float32")
DELAYS = {
    "none": {},
    "slow copies": {"copy": 0.004},
    "slow steps": {"compute 0": 0.004},
    "both": {"copy": 0.003, "compute 0": 0.003},
}


@pytest.fixture
def machine(request, monkeypatch):
    machine = Machine(DELAYS[getattr(request, "param", "both")])
    monkeypatch.setitem(sys.modules, "cupy", machine.cupy())
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    yield machine
    machine.close()


def backend_of(streams):
    return SimpleNamespace(runtime=streams, dtype_name="float32", name="cuda:0", xp="cupy")


def epoch(streams, loader, number, *, leave_after=None):
    """What the steps of an epoch read, at the time when they read it: (x, y, weight) each."""
    read = []
    with streams.working():
        compute = streams.compute
        steps = loader.batches(number, backend_of(streams), labels=True)
        for count, step in enumerate(steps):
            if count == leave_after:
                break
            for chunk in step:
                # A kernel starts when it starts, and takes its time.
                compute.enqueue(
                    lambda chunk=chunk: read.append(
                        [None if part is None else part.values.copy() for part in chunk]
                    )
                )
        steps.close()
    compute.synchronize()
    return read


def expected(loader, number):
    order = loader.order(loader.n_rows, loader.seed, number)
    return np.asarray(order[0 : loader.n_rows])


def check(read, index):
    x, y, weight = (np.concatenate(parts) for parts in zip(*read, strict=True))
    np.testing.assert_array_equal(x, X[index[: len(x)]])
    np.testing.assert_array_equal(y[:, 0], index[: len(x)])
    np.testing.assert_array_equal(weight[:, 0], index[: len(x)] + 1)


def make_loader(**options):
    y, weight = np.arange(N_ROWS), np.arange(N_ROWS) + 1.0
    return Loader(X, y, weight, **options)


@pytest.mark.parametrize("machine", DELAYS, indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4, "chunk_rows": 4},
        {"batch_size": 2, "chunk_rows": 6},
        {"batch_size": 16, "chunk_rows": 5},
        {"batch_size": "full", "chunk_rows": 7},
        {"batch_size": 8, "prefetch": "never", "chunk_rows": 8},
    ],
)
def test_every_step_reads_its_own_rows(options, machine):
    streams, loader = feeding.Streams(0), make_loader(seed=5, **options)
    for number in range(2):
        check(epoch(streams, loader, number), expected(loader, number))
    # An epoch that is left in the middle leaves copies and steps under way.
    check(epoch(streams, loader, 2, leave_after=2), expected(loader, 2))
    check(epoch(streams, loader, 3), expected(loader, 3))


@pytest.mark.parametrize("machine", ["slow copies"], indirect=True)
@pytest.mark.parametrize(
    ("who", "leave_out"), [("host", "copied"), ("compute 0", "copied"), ("copy", "consumed")]
)
def test_each_wait_is_needed(who, leave_out, machine, monkeypatch):
    """Without it rows are read that were not meant: this test's own stand-ins notice."""
    machine.delays = {"copy": 0.004} if leave_out == "copied" else {"compute 0": 0.02}
    streams, loader = feeding.Streams(0), make_loader(batch_size=4, chunk_rows=4, seed=5)
    made, slots = feeding.PinnedStaging, []

    def staging(*arguments):
        slots.append(made(*arguments))
        return slots[-1]

    monkeypatch.setattr(feeding, "PinnedStaging", staging)
    never = Event(machine)

    def events():
        return [getattr(slot, leave_out) for each in slots for slot in each.slots]

    waits, synchronize = type(machine.null).wait_event, Event.synchronize
    monkeypatch.setattr(
        type(machine.null),
        "wait_event",
        lambda stream, event: waits(stream, never if stream.name == who and event in events() else event),
    )
    monkeypatch.setattr(
        Event,
        "synchronize",
        lambda event: None if who == "host" and event in events() else synchronize(event),
    )

    def several_epochs():
        for number in range(5):
            check(epoch(streams, loader, number), expected(loader, number))

    with pytest.raises(AssertionError, match="Mismatched elements"):
        several_epochs()


def test_buffers_that_are_let_go_of_are_written_next_after_what_reads_them(machine):
    """The pool gives memory back to the stream on which it was made, whatever is still under way."""
    streams = feeding.Streams(0)
    staging = streams.staging(backend_of(streams), ((3, "float32"),), 4, 1)
    (array,) = staging.slots[0].on_device
    assert array.made_on == "copy"
    with streams.working():
        staging.host(0, 4)
        staging.send(0, 4)
        staging.receive(0)
        del machine.log[:]
        del staging
    assert [each[:2] for each in machine.log[:2]] == [("compute 0", "records"), ("copy", "waits")]


def test_buffers_are_made_once(machine, monkeypatch):
    shapes = []
    cupy = sys.modules["cupy"]
    empty = cupy.empty
    monkeypatch.setattr(cupy, "empty", lambda shape, dtype: shapes.append(shape) or empty(shape, dtype))
    streams, loader = feeding.Streams(0), make_loader(batch_size=8, chunk_rows=8)
    for number in range(3):
        epoch(streams, loader, number)
    assert shapes == [(8, 3), (8, 1), (8, 1)] * SLOTS
    loader.forget_buffers()
    epoch(streams, loader, 0)
    assert len(shapes) == 6 * SLOTS


@pytest.mark.parametrize("machine", ["slow copies"], indirect=True)
def test_pinned_memory_is_given_back_after_the_copies_out_of_it(machine):
    """The pool would keep it for ever, in powers of two, also after memory ran out."""
    streams, loader = feeding.Streams(0), make_loader(batch_size=8, chunk_rows=8)
    epoch(streams, loader, 0, leave_after=2)
    (((staging,),),) = [loader._idle.values()]
    del machine.log[:]
    loader.forget_buffers()
    assert [slot.host for slot in staging.slots] == [[]] * SLOTS
    assert [each[:2] for each in machine.log] == [("host", "waits")] * SLOTS + [("pinned pool", "frees")]


def test_the_gathering_thread_selects_its_device(machine):
    epoch(feeding.Streams(0), make_loader(batch_size=8), 0)
    assert machine.used_by
    assert threading.get_ident() not in machine.used_by


@pytest.mark.parametrize("machine", ["slow steps"], indirect=True)
def test_work_on_both_streams_is_in_the_callers_order(machine):
    streams, done = feeding.Streams(0), []
    for number in range(3):
        machine.null.enqueue(lambda number=number: done.append(("before", number)))
        with streams.working():
            assert machine.stack[-1] is streams.compute
            streams.compute.enqueue(lambda number=number: done.append(("inside", number)))
        assert machine.stack[-1] is machine.null
        machine.null.enqueue(lambda number=number: done.append(("after", number)))
    machine.null.synchronize()
    assert done == [(when, number) for number in range(3) for when in ("before", "inside", "after")]


def test_after_an_error_the_callers_stream_waits_too(machine):
    streams, done = feeding.Streams(0), []

    def fail():
        with streams.working():
            streams.compute.enqueue(lambda: done.append("inside"))
            raise RuntimeError("in a step")

    with pytest.raises(RuntimeError, match="in a step"):
        fail()
    machine.null.synchronize()
    assert done == ["inside"]


def test_threads_have_compute_streams_of_their_own(machine):
    streams, others = feeding.Streams(0), []
    thread = threading.Thread(target=lambda: others.append(streams.compute))
    thread.start()
    thread.join()
    assert streams.compute is streams.compute
    assert others[0] is not streams.compute


def test_streams_are_made_once_a_device(machine, monkeypatch):
    monkeypatch.setattr(feeding, "_streams", {})
    assert feeding.streams(0) is feeding.streams(0)
    assert feeding.streams(1) is not feeding.streams(0)
    assert feeding.streams(1).device.id == 1


@pytest.mark.parametrize(("status", "error"), [(2, MemoryError), (999, CudaRuntimeError)])
def test_memory_that_cannot_be_pinned(status, error, machine, monkeypatch):
    def empty_pinned(shape, dtype):
        raise CudaRuntimeError(status)

    monkeypatch.setattr(sys.modules["cupyx"], "empty_pinned", empty_pinned)
    with pytest.raises(error):
        feeding.Streams(0).staging(None, [(3, "float32"), None], 4, 2)


def test_columns_without_numbers_are_not_pinned(machine):
    staging = feeding.Streams(0).staging(None, [(3, "float32"), (0, "float32"), None], 4, 2)
    x, y, weight = staging.host(0, 2)
    assert (x.shape, y.shape, weight) == ((2, 3), (2, 0), None)
    assert staging.send(0, 2)[1].shape == (2, 0)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_large_blocks_are_gathered_by_several_threads(n_threads, machine, monkeypatch):
    monkeypatch.setattr(feeding, "PART_BYTES", 16)
    streams, loader = feeding.Streams(0), make_loader(batch_size=10, chunk_rows=10, seed=5)
    streams.n_threads = n_threads
    for number in range(2):
        check(epoch(streams, loader, number), expected(loader, number))
    parts = []
    streams.in_parts(lambda part: parts.append(range(100)[part]), 100, 100)
    assert sorted(row for part in parts for row in part) == list(range(100))
    assert len(parts) == n_threads
    with pytest.raises(ZeroDivisionError):
        streams.in_parts(lambda part: 1 / 0, 100, 100)


@pytest.mark.parametrize(("cores", "n_threads"), [(1, 1), (2, 1), (4, 2), (12, 10), (64, 16)])
def test_all_cores_but_two_gather(cores, n_threads, machine, monkeypatch):
    monkeypatch.setattr(feeding.blas, "cores", lambda: cores)
    assert feeding.Streams(0).n_threads == n_threads


def test_a_thread_can_select_the_device(machine):
    feeding.Streams(0).select()
    assert machine.used_by == {threading.get_ident()}
