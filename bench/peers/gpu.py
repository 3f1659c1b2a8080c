"""The steps of `bench.peers.step` on a GPU, one library a process, with the rows on the device.

As a command, `python -m bench.peers.gpu NAME` reads trainings from standard input, one JSON document a line,
and answers with the time of a step and the movement of the weights for each.
"""

import dataclasses
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers import step as step_peers
from bench.peers.step import Run, Task, Training, Weights, make_task, movement

CHECKED_STEPS = 4
SLICES = 3


def mlp_xp(task: Task, way: str = "fast") -> tuple[Run, Weights]:
    """An epoch of `train` over the task's rows in their order."""
    from mlp_xp import Loader, Network, train
    from mlp_xp.initializers import Given
    from mlp_xp.machine.array_api import to_host

    training = task.training
    network = Network(
        training.sizes, activation=training.activation, initializer=Given(task.weights), device="cuda"
    )
    asarray = network.backend.asarray
    y = asarray(task.y, "int32" if training.classes else None)
    epochs = train(
        network,
        Loader(asarray(task.x), y, batch_size=training.batch, order="sequential"),
        loss="softmax_cross_entropy" if training.classes else "half_squared_error",
        optimizer=training.optimizer,
        learning_rate=task.rate,
        max_epochs=10**9,
        way=way,
    )
    layers = zip(network.parameters.weights, network.parameters.biases, strict=True)
    return functools.partial(next, epochs), lambda: [to_host(part) for layer in layers for part in layer]


def products(task: Task) -> tuple[Run, Weights]:
    """The matrix products of a step and nothing else, captured as a graph: a bound from below."""
    from mlp_xp.fast.cuda.engine import engine_of
    from mlp_xp.machine.array_api import backend as find_backend

    backend = find_backend("cuda", "float32")
    batch, sizes, runtime = task.training.batch, task.training.sizes, backend.runtime
    engine = engine_of(runtime, backend.dtype)
    weights, last = [backend.asarray(w) for w in task.weights], len(task.weights) - 1
    x = backend.ones((batch, sizes[0]))
    z = [backend.ones((batch, n)) for n in sizes[1:]]
    deltas = [backend.ones((batch, n)) for n in sizes[1:]]
    gradients = [backend.zeros(w.shape) for w in weights]

    def step() -> None:
        a = x
        for layer, w in enumerate(weights):
            engine.gemm(z[layer], a, w)
            a = z[layer]
        for layer in range(last, -1, -1):
            engine.gemm(gradients[layer], (z[layer - 1] if layer else x).mT, deltas[layer])
            if layer:
                engine.gemm(deltas[layer - 1], deltas[layer], weights[layer].mT)

    with runtime.working():
        step()
        step()
        graph = engine.capture(step)
    n_steps = len(task.x) // batch

    def run() -> None:
        with runtime.working():
            for _ in range(n_steps):
                graph.launch()
        backend.device.synchronize()

    return run, list


def _torch(task: Task, mode: str | None) -> tuple[Run, Weights]:
    import torch
    from torch.nn import functional

    training, modules = task.training, []
    nonlinear = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[training.activation]
    for w in task.weights:
        linear = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T.copy()))
            linear.bias.zero_()
        modules += [linear, nonlinear()]
    model = torch.nn.Sequential(*modules[:-1]).cuda()
    rule = torch.optim.Adam if training.optimizer == "adam" else torch.optim.SGD
    optimizer = rule(model.parameters(), lr=task.rate, fused=True)

    def objective(x: Any, y: Any) -> Any:
        if training.classes:
            return functional.cross_entropy(model(x), y)
        return 0.5 * functional.mse_loss(model(x), y)

    if mode is not None:
        torch._dynamo.reset()  # it compiles one function so many times only, and is eager after that
        objective = torch.compile(objective, mode=mode)
    x = torch.from_numpy(task.x).cuda()
    y = torch.from_numpy(task.y[:, 0].astype(np.int64) if training.classes else task.y).cuda()
    starts = range(0, len(task.x), training.batch)

    def run() -> None:
        for start in starts:
            optimizer.zero_grad()
            objective(x[start : start + training.batch], y[start : start + training.batch]).backward()
            optimizer.step()
        torch.cuda.synchronize()

    def weights() -> list[np.ndarray]:
        linear = modules[:-1:2]
        return [p.detach().cpu().numpy() for l in linear for p in (l.weight.T, l.bias)]

    return run, weights


def jax_jit(task: Task) -> tuple[Run, Weights]:
    """A compiled step, called once a batch, on batches that are on the device; float32 without TF32."""
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    return step_peers.jax_jit(task, placed=True)


PEERS: dict[str, tuple[Callable[[Task], tuple[Run, Weights]], str]] = {
    "mlp_xp": (mlp_xp, "mlp_xp"),
    "mlp_xp, no graph": (functools.partial(mlp_xp, way="fused"), "mlp_xp"),
    "mlp_xp, plain": (functools.partial(mlp_xp, way="plain"), "mlp_xp"),
    "matrix products": (products, "mlp_xp"),
    "torch eager": (functools.partial(_torch, mode=None), "torch"),
    "JAX jit": (jax_jit, "jax"),
    "torch.compile": (functools.partial(_torch, mode="reduce-overhead"), "torch"),
}
"""How each is made, and the module that it needs. All have their rows on the device beforehand. What compiles
longest is last, and has the time that the others leave."""


def measure(name: str, training: Training) -> dict[str, Any]:
    """µs a step, the median of a few slices, and where the weights have gone after the first few steps."""
    make = PEERS[name][0]
    task = make_task(training, CHECKED_STEPS)
    run, weights = make(task)
    run()
    moved = movement(task, weights())
    run, _ = make(make_task(training, training.steps))
    run()  # compiles, makes buffers, captures
    seconds = []
    for _ in range(SLICES):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    answer = {"microseconds": 1e6 * statistics.median(seconds) / training.steps, "movement": moved}
    if name == "mlp_xp":
        answer["idle"] = idle_share(run)
    elif name == "matrix products":
        answer["bandwidth"] = memory_bandwidth()
    return answer


def memory_bandwidth(n_bytes: int = 2**28, repeats: int = 5) -> float:
    """Bytes a second that the GPU's memory reads and writes: a copy within it, the best of a few."""
    import cupy

    source, target = cupy.zeros((2, n_bytes), cupy.uint8)
    seconds = []
    for _ in range(repeats + 1):
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        began.record()
        target[...] = source
        ended.record()
        ended.synchronize()
        seconds.append(cupy.cuda.get_elapsed_time(began, ended) / 1e3)
    return 2 * n_bytes / min(seconds[1:])


def idle_share(run: Run) -> float | None:
    """The part of the time in which the GPU waits between the graphs of two steps; None without graphs."""
    import cupy

    from mlp_xp.fast.cuda import graph

    launch, times = graph.Captured.launch, []

    def timed(captured: Any) -> Any:
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        began.record()
        found = launch(captured)
        ended.record()
        times.append((began, ended))
        return found

    graph.Captured.launch = timed
    try:
        run()
    finally:
        graph.Captured.launch = launch
    if len(times) < 2:
        return None
    cupy.cuda.Device().synchronize()
    busy = sum(cupy.cuda.get_elapsed_time(*each) for each in times)
    return 1.0 - busy / cupy.cuda.get_elapsed_time(times[0][0], times[-1][1])


def serve(name: str) -> None:
    """Answer for each training that is asked for."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries may print
    for line in sys.stdin:
        given = json.loads(line)
        given["sizes"] = tuple(given["sizes"])
        try:
            answer = measure(name, Training(**given))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def as_json(training: Training) -> str:
    """A training as the command reads it."""
    return json.dumps(dataclasses.asdict(training))


if __name__ == "__main__":
    serve(sys.argv[1])
