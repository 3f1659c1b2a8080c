"""Training steps and all-reduces on one process or several ranks, to be timed by `bench.scaling`.

As a command, `python -m bench.harness.scaling_ranks`, alone or under mpiexec, obeys orders that the first
rank reads from standard input, one JSON document a line.
"""

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.peers import step as step_peers
from bench.peers.step import Server, Training
from mlp_xp.machine.array_api import backend
from mlp_xp.machine.data_parallel import Ranks, world
from mlp_xp.parameters import Parameters
from mlp_xp.rows.batch import Share

LONGEST_ORDER = 4096
"""Bytes."""

NAP = 2e-3
"""Seconds between looks for the next order: MPI's own waiting would take a core from who is measured."""


class Timed:
    """Ranks that remember how long each all-reduce of a gradient took, waiting for the others included."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.seconds = ranks, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ranks, name)

    def sum(self, *arguments: Any) -> list[float]:
        """As `Ranks.sum`."""
        began = time.perf_counter()
        found = self.ranks.sum(*arguments)
        self.seconds.append(time.perf_counter() - began)
        return found


class RankServer(Server):
    """Obeys orders on every rank at once; the first one's answers count.

    Parameters
    ----------
    ranks : Ranks or None
        None for one process.
    """

    def __init__(self, ranks: Ranks | None, communicator: Any) -> None:
        super().__init__(step_peers.PEERS["mlp_xp"])
        self.ranks, self.communicator = ranks, communicator
        self.timed = None if ranks is None else Timed(ranks)

    def make_way(self, way: str, training: dict[str, Any], steps: int) -> None:
        """Make a task of so many steps that is trained in one of mlp_xp's ways."""
        self.peer = self.peer._replace(make=functools.partial(step_peers.mlp_xp, way=way, ranks=self.timed))
        self.make(training, steps)

    def waits(self) -> float | None:
        """Median seconds of an all-reduce since this was last asked."""
        seconds = [] if self.timed is None else self.timed.seconds[:]
        if self.timed is not None:
            self.timed.seconds.clear()
        return statistics.median(seconds) if seconds else None

    def all_reduces(self, sizes: Sequence[int], repeats: int) -> list[float]:
        """Median seconds of an all-reduce of so many bytes."""
        found = []
        for size in sizes:
            buffer, seconds = np.ones(max(1, size // 4), np.float32), []
            for _ in range(repeats):
                self.communicator.Barrier()
                began = time.perf_counter()
                self.ranks.add_up(buffer)
                seconds.append(time.perf_counter() - began)
                buffer[:] = 1.0
            found.append(statistics.median(seconds))
        return found

    def overlap(self, training: dict[str, Any], repeats: int) -> float:
        """The way back with each layer's gradient sent as soon as it is there ÷ with all of it at its end."""
        training = Training(**training | {"sizes": tuple(training["sizes"])})
        start, stop = Share(*self.ranks.share).of(0, training.batch)
        step = BackwardStep(training, stop - start, self.communicator)
        ratios = []
        for _ in range(repeats):
            seconds = []
            for run in (step.at_once, step.layer_by_layer):
                self.communicator.Barrier()
                began = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - began)
            ratios.append(seconds[1] / seconds[0])
        return statistics.median(ratios)


class BackwardStep:
    """The matrix products of the way back through a network, and the sum of the gradient over ranks."""

    def __init__(self, training: Training, n_rows: int, communicator: Any) -> None:
        from mpi4py import MPI

        self.communicator, self.in_place = communicator, MPI.IN_PLACE
        cpu = backend("cpu", "float32")
        self.network, self.gradient = (Parameters(cpu, training.sizes, True) for _ in range(2))
        self.a = [np.ones((n_rows, n), np.float32) for n in training.sizes[:-1]]
        self.delta = [np.zeros((n_rows, n), np.float32) for n in training.sizes[1:]]

    def layers(self) -> Iterator[int]:
        """Compute the gradient, from the end of the network to the start; yield each layer that is done."""
        for layer in range(len(self.delta) - 1, -1, -1):
            np.matmul(self.a[layer].T, self.delta[layer], out=self.gradient.weights[layer])
            yield layer
            if layer:
                np.matmul(self.delta[layer], self.network.weights[layer].T, out=self.delta[layer - 1])

    def at_once(self) -> None:
        """One message at the end."""
        for _ in self.layers():
            pass
        self.communicator.Allreduce(self.in_place, self.gradient.flat)

    def layer_by_layer(self) -> None:
        """A message for each layer, under way while the layers before it are computed."""
        under_way = [
            self.communicator.Iallreduce(self.in_place, self.gradient.weights[layer].reshape(-1))
            for layer in self.layers()
        ]
        biases = self.gradient.flat[self.gradient.n_weights :]
        under_way.append(self.communicator.Iallreduce(self.in_place, biases))
        for each in under_way:
            each.Wait()


def orders(communicator: Any) -> Iterator[dict[str, Any]]:
    """What the first rank reads from its standard input, on every rank."""
    first = communicator is None or communicator.Get_rank() == 0
    buffer = np.zeros(LONGEST_ORDER, np.uint8)
    while True:
        text = sys.stdin.readline().encode() if first else b""
        if communicator is not None:
            buffer[:] = 0
            buffer[: len(text)] = np.frombuffer(text, np.uint8)
            under_way = communicator.Ibcast(buffer, root=0)
            while not under_way.Test():
                time.sleep(NAP)
            text = buffer.tobytes().rstrip(b"\0")
        if not text:
            return
        yield json.loads(text)


def serve() -> None:
    """Obey until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print
    ranks, communicator = world(), None
    if ranks is not None:
        from mpi4py import MPI

        communicator = MPI.COMM_WORLD
    server = RankServer(ranks, communicator)
    for order in orders(communicator):
        answer = getattr(server, order.pop("order"))(**order)
        if ranks is None or ranks.rank == 0:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    serve()
