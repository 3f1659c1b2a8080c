"""Streams and events on the host: each stream is a thread that works off its queue, late and at random."""

import contextlib
import queue
import random
import threading
import time
from types import SimpleNamespace

import numpy as np


class CudaRuntimeError(RuntimeError):
    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


class Stream:
    """A queue of work. What is enqueued happens in order, each after a delay; nobody waits for it."""

    def __init__(self, machine, name):
        self.machine, self.name = machine, name
        self.ptr = id(self)
        self.work = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while (job := self.work.get()) is not None:
            time.sleep(self.machine.delay(self.name))
            job()

    def enqueue(self, job):
        self.work.put(job)

    def wait_event(self, event):
        record = event.latest  # of the records made so far, the last one counts
        self.machine.log.append((self.name, "waits", event))
        self.enqueue(record.wait)

    def record(self, event=None):
        event = event or Event(self.machine)
        event.record(self)
        return event

    def synchronize(self):
        self.record().synchronize()

    def __enter__(self):
        self.machine.stack.append(self)
        return self

    def __exit__(self, *error):
        self.machine.stack.pop()


class Event:
    """Complete from the start, until it is recorded."""

    def __init__(self, machine):
        self.machine = machine
        self.latest = threading.Event()
        self.latest.set()

    def record(self, stream):
        self.latest = threading.Event()
        self.machine.log.append((stream.name, "records", self))
        stream.enqueue(self.latest.set)

    def synchronize(self):
        self.machine.log.append(("host", "waits", self))
        assert self.latest.wait(20), "a deadlock"


class DeviceArray:
    """Memory that only jobs on streams read and write: `values` is theirs; made on a stream, by its name."""

    def __init__(self, values, made_on=None):
        self.values, self.made_on = values, made_on
        self.shape, self.size, self.dtype = values.shape, values.size, values.dtype

    def __getitem__(self, index):
        return DeviceArray(self.values[index])

    @property
    def data(self):
        return SimpleNamespace(ptr=self.values.ctypes.data)

    def set(self, host, stream):
        self._copy(host, self.values, stream)

    def get(self, stream, out, blocking):
        assert not blocking
        self._copy(self.values, out, stream)

    def _copy(self, source, target, stream):
        """The bus reads memory when it comes to it, half now and half later."""
        assert source.shape == target.shape
        assert source.dtype == target.dtype
        half = len(source) // 2

        def copy():
            target[:half] = source[:half]
            time.sleep(0.0005)
            target[half:] = source[half:]

        stream.enqueue(copy)


class Machine:
    """A GPU: streams that share nothing but events.

    Parameters
    ----------
    delays : dict of str to float
        The longest delay, in seconds, of a job on a stream of that name.
    """

    def __init__(self, delays):
        self.delays, self.random = delays, random.Random(4)
        self.log, self.used_by, self.streams = [], set(), []
        self._stacks = threading.local()
        self.null = self._stream("null")

    def _stream(self, name):
        self.streams.append(Stream(self, name))
        return self.streams[-1]

    def close(self):
        for stream in self.streams:
            stream.enqueue(None)

    def delay(self, name):
        return self.random.random() * self.delays.get(name, 0.0)

    @property
    def stack(self):
        if not hasattr(self._stacks, "stack"):
            self._stacks.stack = [self.null]
        return self._stacks.stack

    def cupy(self):
        """What `import cupy` gives."""
        machine, names = self, iter(("copy", *(f"compute {i}" for i in range(100))))

        class Device(contextlib.nullcontext):
            def __init__(self, index):
                super().__init__()
                self.id, self.pci_bus_id = index, "A"

            def use(self):
                machine.used_by.add(threading.get_ident())

            def synchronize(self):
                raise CudaRuntimeError(900)  # another thread may be capturing

        def make_stream(non_blocking):
            assert non_blocking
            return machine._stream(next(names))

        return SimpleNamespace(
            cuda=SimpleNamespace(
                Device=Device,
                Stream=make_stream,
                Event=lambda disable_timing: Event(machine),
                runtime=SimpleNamespace(CUDARuntimeError=CudaRuntimeError),
                get_current_stream=lambda: machine.stack[-1],
            ),
            empty=lambda shape, dtype: DeviceArray(np.full(shape, -1, dtype), machine.stack[-1].name),
            get_default_pinned_memory_pool=lambda: SimpleNamespace(
                free_all_blocks=lambda: machine.log.append(("pinned pool", "frees", None))
            ),
        )
