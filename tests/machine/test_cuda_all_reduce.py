"""Sums over processes in the order of a GPU's streams, with threads for streams that are late at random."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins.host_streams import DeviceArray, Machine, Stream

from mlp_xp.machine.cuda import all_reduce, feeding

N, STEPS = 12, 6
"""Elements of the vector, the last two of them room for numbers; and steps."""


@pytest.fixture
def machine(monkeypatch):
    machine = Machine({"compute 0": 0.003, "compute 1": 0.003})
    cupy = machine.cupy()
    cupy.cuda.runtime.runtimeGetVersion = lambda: 12090
    cupy.cuda.nccl = nccl(machine)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    yield machine
    machine.close()


class Ranks:
    """Two ranks seen from one: the other has `others` in its vector, and 10 in each number."""

    size = 2

    def __init__(self, way="auto", rank=0, cards=("A", "B"), others_fail=(0, 0)):
        self.all_reduce, self.rank, self.cards = way, rank, cards
        self.others_fail = iter(others_fail)  # before NCCL is started, and when it is
        self.others = np.zeros(N)
        self.asked = []

    def add_up(self, buffer):
        """MPI reads and writes the memory at once, whosever it is."""
        values = getattr(buffer, "values", buffer)
        values += self.others[: len(values)] if len(values) < N else [*self.others[:-2], 10.0, 10.0]

    def sum_numbers(self, numbers):
        if len(numbers) == 1:
            return [numbers[0] + next(self.others_fail)]
        return [each + 10.0 for each in numbers]

    def bytes_from_first(self, content):
        self.asked.append(content)
        return None if self.rank == 0 and content is None else b"the id"

    def gather_on_machine(self, text):
        return list(self.cards)


def nccl(machine):
    """NCCL between this GPU and another, whose vector is `ranks.others`."""

    class NcclCommunicator:
        def __init__(self, size, identity, rank):
            assert identity == b"the id"
            machine.communicators.append(self)

        def allReduce(self, source, target, n, dtype, operation, stream):
            assert (source, operation, dtype) == (target, "sum", "float64")
            (queue,) = [each for each in machine.streams if each.ptr == stream]
            values, others = machine.arrays[source], self.others.copy()

            def add():
                values[:n] += others[:n]

            queue.enqueue(add)

    machine.communicators, machine.arrays = [], {}
    return SimpleNamespace(
        available=True,
        get_unique_id=lambda: b"the id",
        NcclCommunicator=NcclCommunicator,
        NCCL_SUM="sum",
        NCCL_FLOAT32="float32",
        NCCL_FLOAT64="float64",
    )


def train(machine, ranks, streams):
    """Steps whose kernels write a gradient, and read its sum; what they have read, and sums of numbers.

    Parameters
    ----------
    streams : list of Stream
        On which the steps run, in turn.
    """
    add_up = all_reduce.choose(ranks, 0)
    vector, read, numbers = DeviceArray(np.zeros(N)), [], []
    machine.arrays[vector.data.ptr] = vector.values
    for step in range(STEPS):
        ranks.others = np.arange(N) * 100.0**step
        for communicator in machine.communicators:
            communicator.others = ranks.others
        stream = streams[step % len(streams)]
        if step:  # as a training does that goes on on another stream
            stream.wait_event(streams[(step - 1) % len(streams)].record())

        def write(step=step):
            vector.values[:-2], vector.values[-2:] = step + 1.0, np.nan

        stream.enqueue(write)
        with stream:
            numbers.append(add_up(vector, [float(step), 0.0]))
        stream.enqueue(lambda: read.append(vector.values[:-2].copy()))
    for stream in streams:
        stream.synchronize()
    return np.array(read), numbers


def check(read, numbers):
    expected = [step + 1.0 + np.arange(N - 2) * 100.0**step for step in range(STEPS)]
    np.testing.assert_array_equal(read, expected)
    assert numbers == [[step + 10.0, 10.0] for step in range(STEPS)]


def streams_of(machine, n=1):
    cupy = sys.modules["cupy"]
    cupy.cuda.Stream(non_blocking=True)  # the copy stream is the first that a run makes
    return [cupy.cuda.Stream(non_blocking=True) for _ in range(n)]


@pytest.mark.parametrize("n_streams", [1, 2])
@pytest.mark.parametrize("way", ["nccl", "host", "mpi"])
def test_every_step_has_its_own_sum(way, n_streams, machine):
    check(*train(machine, Ranks(way), streams_of(machine, n_streams)))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("way", ["host", "mpi"])
def test_the_host_waits_for_the_gradient(way, waits, machine, monkeypatch):
    """Without the wait the other rank's part is lost: this test's own stand-ins notice."""
    ranks = Ranks(way)
    ranks.others = np.full(N, 100.0)
    add_up, (stream,) = all_reduce.choose(ranks, 0), streams_of(machine)
    monkeypatch.setattr(machine, "delay", lambda name: 0.02)
    if not waits:
        monkeypatch.setattr(Stream, "synchronize", lambda stream: None)
    vector = DeviceArray(np.zeros(N))
    stream.enqueue(lambda: vector.values.fill(5.0))
    with stream:
        add_up(vector, [0.0, 0.0])
    stream.record().synchronize()
    assert vector.values[0] == (105.0 if waits else 5.0)


@pytest.mark.parametrize("waits", [True, False])
def test_pinned_memory_is_written_again_when_it_was_sent(waits, machine, monkeypatch):
    """Two trainings on two streams, the first one's slow; without the wait it gets the other's sum."""
    ranks = Ranks("host")
    ranks.others = np.full(N, 100.0)
    add_up, streams = all_reduce.choose(ranks, 0), streams_of(machine, 2)
    monkeypatch.setattr(machine, "delay", lambda name: 0.03 if name == streams[0].name else 0.0)
    if not waits:
        monkeypatch.setattr(Stream, "wait_event", lambda stream, event: None)
    vectors = [DeviceArray(np.full(N, number)) for number in (1.0, 2.0)]
    for stream, vector in zip(streams, vectors, strict=True):
        with stream:
            add_up(vector, [0.0, 0.0])
    for stream in streams:
        stream.synchronize()
    assert [vector.values[0] for vector in vectors] == ([101.0, 102.0] if waits else [102.0, 102.0])


def test_nccl_leaves_the_host_alone(machine):
    add_up = all_reduce.choose(Ranks("nccl"), 0)
    machine.log.clear()
    (stream,) = streams_of(machine)
    vector = DeviceArray(np.zeros(N))
    machine.arrays[vector.data.ptr] = vector.values
    machine.communicators[0].others = np.ones(N)
    with stream:
        for _ in range(3):
            add_up(vector, [1.0, 0.0])
    assert machine.log == []
    stream.synchronize()
    np.testing.assert_array_equal(vector.values, [3.0] * (N - 2) + [0.0] * 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_makes_the_id(rank, machine):
    ranks = Ranks("nccl", rank)
    all_reduce.choose(ranks, 0)
    assert ranks.asked == [b"the id" if rank == 0 else None]


def test_which_way(machine, caplog):
    for way, kind in (
        ("auto", all_reduce.ByNccl),
        ("nccl", all_reduce.ByNccl),
        ("host", all_reduce.ThroughHost),
        ("mpi", all_reduce.ByMpi),
    ):
        assert type(all_reduce.choose(Ranks(way), 0)) is kind
    assert caplog.records == []


def no_library(machine):
    sys.modules["cupy"].cuda.nccl.available = False


def no_start(machine):
    def refuse(size, identity, rank):
        raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")

    sys.modules["cupy"].cuda.nccl.NcclCommunicator = refuse


PROBLEMS = {
    "no library": (no_library, {}, 'the library is not installed (pip install "nvidia-nccl-cu12").'),
    "one card": (lambda machine: None, {"cards": ("A", "A")}, "2 ranks share the GPU A."),
    "elsewhere": (lambda machine: None, {"others_fail": (1,)}, "it is missing on 1 of 2 ranks."),
    "no start": (no_start, {}, "it does not start: NCCL_ERROR_SYSTEM_ERROR: unhandled system error."),
    "no start elsewhere": (
        lambda machine: None,
        {"others_fail": (0, 1)},
        "it does not start on 1 of 2 ranks.",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_without_nccl_it_goes_through_the_host_and_one_rank_says_why(name, machine, caplog):
    break_it, named, reason = PROBLEMS[name]
    break_it(machine)
    with caplog.at_level(logging.WARNING):
        for rank in (0, 1):
            assert type(all_reduce.choose(Ranks(rank=rank, **named), 0)) is all_reduce.ThroughHost
    assert [record.getMessage() for record in caplog.records] == [
        f"gradients are summed through the host's memory, since NCCL cannot be used: {reason}"
    ]
    with pytest.raises(RuntimeError, match="NCCL cannot sum gradients between these GPUs: ") as refusal:
        all_reduce.choose(Ranks("nccl", **named), 0)
    assert str(refusal.value).endswith(reason)


def test_without_an_id_the_others_are_told(machine, monkeypatch):
    """They wait for it: the first rank says that there is none before it gives up."""

    def refuse():
        raise RuntimeError("no usable interface")

    monkeypatch.setattr(sys.modules["cupy"].cuda.nccl, "get_unique_id", refuse)
    first, other = Ranks(), Ranks(rank=1)
    other.bytes_from_first = lambda content: None
    for ranks in (first, other):
        assert type(all_reduce.choose(ranks, 0)) is all_reduce.ThroughHost
    assert first.asked == [None]


def test_a_device_asks_for_all(machine):
    assert type(feeding.Streams(3).all_reduce(Ranks("host"))) is all_reduce.ThroughHost
