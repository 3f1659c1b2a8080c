"""The same training steps in each library, to be timed by `bench.steps`, one library a process.

A peer is a function of a `Task` that returns two functions: `run()` makes all steps of the task, each on
rows of its own, and returns when they are done; `weights()` gives W_1, b_1, W_2, … after them. Every peer
starts from the same weights, sees the same batches in the same order and minimises the same objective
(half squared error or softmax cross-entropy, averaged over the batch; no penalty), so that all end with
the same weights but for rounding.

The rows lie in one NumPy array in memory. Each step gets its own, as a view; what it takes a library to
make them its own (a tensor that shares the memory, a copy) is part of its step. mlp_xp and scikit-learn
take the whole array and cut it themselves; their time contains that, and what they do once an epoch.
Only "JAX scan" has its batches as JAX arrays before the clock starts: it is a bound, as a training whose
steps come one by one cannot be compiled as a whole.

As a command, `python -m bench.peers.step NAME` obeys orders on standard input, one JSON document a line.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
N_PROJECTIONS = 8


@dataclasses.dataclass(frozen=True)
class Training:
    """A network and how it is trained.

    Parameters
    ----------
    sizes : tuple of int
        Units per layer.
    activation : "tanh" or "relu"
        In the hidden layers.
    classes : bool
        Softmax cross-entropy over the outputs, rather than half squared error of one.
    batch : int
        Rows a step.
    optimizer : "sgd" or "adam"
        Without momentum; with the paper's defaults.
    steps : int
        In one slice of the measurement.
    rounds : int
        Slices.
    members : int
        Networks that are trained at once, on the same rows; 0 for one without an axis of members.
    """

    sizes: tuple[int, ...]
    activation: str
    classes: bool
    batch: int
    optimizer: str
    steps: int
    rounds: int = 5
    members: int = 0

    @property
    def name(self) -> str:
        """What the table calls it."""
        rule = {"sgd": "SGD", "adam": "Adam"}[self.optimizer]
        output = " softmax" if self.classes else ""
        layers = "-".join(map(str, self.sizes))
        members = f", {self.members} members" if self.members else ""
        return f"{layers} {self.activation}{output}, batch {self.batch}, {rule}{members}"


TRAININGS = (
    Training((4, 3, 2, 1), "tanh", False, 1, "sgd", steps=3000),
    Training((4, 3, 2, 1), "tanh", False, 100, "sgd", steps=3000),
    Training((32, 100, 1), "relu", False, 200, "adam", steps=1500),
    Training((64, 256, 256, 1), "relu", False, 256, "adam", steps=400),
    Training((784, 512, 512, 10), "relu", True, 128, "adam", steps=120),
    Training((1024, 2048, 2048, 10), "relu", True, 256, "adam", steps=40, rounds=3),
    Training((1024, 2048, 2048, 10), "relu", True, 1024, "adam", steps=16, rounds=3),
)
"""The rows of the table. Slices are long enough for what a library does once a slice not to count (mlp_xp's
end of an epoch: about 40 ms for the 6.3 million parameters of the last two)."""


class Task(NamedTuple):
    """A training with its data and starting weights.

    x (steps · batch, n_features) and y (steps · batch, n_targets) are float32, or y int32 class numbers;
    weights are float32 (n_in, n_out), or (members, n_in, n_out), biases zero.
    """

    training: Training
    rate: float
    x: np.ndarray
    y: np.ndarray
    weights: list[np.ndarray]

    @property
    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Views of the rows of each step."""
        batch = self.training.batch
        starts = range(0, len(self.x), batch)
        return [(self.x[start : start + batch], self.y[start : start + batch]) for start in starts]


def make_task(training: Training, steps: int) -> Task:
    """Random rows, and targets that are noise: no network fits them, so that no gradient dies out.

    (Gradients that vanish leave subnormal numbers in Adam's means, and some libraries are slow on those.)
    """
    generator = np.random.default_rng(0)
    lead = (training.members,) if training.members else ()
    weights = [
        generator.uniform(-1.0, 1.0, (*lead, n_in, n_out)).astype(np.float32)
        * np.float32(math.sqrt(6 / n_in))
        for n_in, n_out in zip(training.sizes, training.sizes[1:], strict=False)
    ]
    n_rows = steps * training.batch
    x = generator.standard_normal((n_rows, training.sizes[0]), dtype=np.float32)
    if training.classes:
        y = generator.integers(0, training.sizes[-1], (n_rows, 1), dtype=np.int32)
    else:
        y = generator.standard_normal((n_rows, training.sizes[-1]), dtype=np.float32)
    return Task(training, 1e-3 if training.optimizer == "sgd" else 1e-4, x, y, weights)


def _of_biases(w: np.ndarray) -> tuple[int, ...]:
    """The shape of the biases behind a layer's weights."""
    return (*w.shape[:-2], w.shape[-1])


Run = Callable[[], object]
Weights = Callable[[], list[np.ndarray]]


def mlp_xp(task: Task, way: str = "plain", ranks: Any = None) -> tuple[Run, Weights]:
    """An epoch of `train` over the task's rows in their order, perhaps shared out over ranks."""
    from mlp_xp import Loader, Network, train
    from mlp_xp.fast import on_cpu

    # From the first step on; a user's training turns to it when what it saves has paid for its import.
    on_cpu.PAYS_AFTER = 0.0
    training = task.training
    members = training.members or None
    network = Network(training.sizes, activation=training.activation, members=members)
    parameters = network.parameters
    for layer, w in enumerate(task.weights):
        parameters.weights[layer][...], parameters.biases[layer][...] = w, 0.0
    epochs = train(
        network,
        Loader(task.x, task.y, batch_size=training.batch, order="sequential"),
        loss="softmax_cross_entropy" if training.classes else "half_squared_error",
        optimizer=training.optimizer,
        learning_rate=task.rate,
        max_epochs=10**9,
        way=way,
        ranks=ranks,
    )
    layers = zip(parameters.weights, parameters.biases, strict=True)
    parts = [part for w, b in layers for part in (w, b if members is None else b[:, 0])]
    return functools.partial(next, epochs), lambda: parts


def products(task: Task) -> tuple[Run, Weights]:
    """The matrix products of a step and nothing else, by NumPy into buffers: a bound from below."""
    batch, sizes = task.training.batch, task.training.sizes
    weights, last = task.weights, len(task.weights) - 1
    z = [np.ones((batch, n), dtype=np.float32) for n in sizes[1:]]
    deltas = [np.ones((batch, n), dtype=np.float32) for n in sizes[1:]]
    gradients = [np.empty_like(w) for w in weights]
    batches = [x for x, _ in task.batches]

    def run() -> None:
        for x in batches:
            a = x
            for layer, w in enumerate(weights):
                a = np.matmul(a, w, out=z[layer])
            for layer in range(last, -1, -1):
                a = z[layer - 1] if layer else x
                np.matmul(a.T, deltas[layer], out=gradients[layer])
                if layer:
                    np.matmul(deltas[layer], weights[layer].T, out=deltas[layer - 1])

    return run, list


def update_rule(task: Task) -> tuple[Run, Weights]:
    """The update rule of a step and nothing else, by one core in one pass over memory."""
    from mlp_xp.fast.compiled.steps import apply_rule
    from mlp_xp.fast.on_cpu import CompiledRule
    from mlp_xp.fast.programs import of_rule
    from mlp_xp.optimizers import OPTIMIZERS

    training = task.training
    rule = OPTIMIZERS[training.optimizer]()
    compiled = CompiledRule(rule, of_rule(rule), "float32")
    numbers = compiled.numbers(1, [task.rate])[0]
    n_weights = sum(w.size for w in task.weights)
    n_parameters = n_weights + sum(training.sizes[1:])
    p, g, m, v = (np.full(n_parameters, value, dtype=np.float32) for value in (0.1, 1e-3, 1e-3, 1e-6))

    def run() -> None:
        for _ in task.batches:
            apply_rule(compiled.address, numbers, p, g, m, v, 0, n_parameters, n_weights)

    return run, list


def scikit_learn(task: Task) -> tuple[Run, Weights]:
    """One epoch of `partial_fit` over the task's rows in their order."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    training = task.training
    model = (MLPClassifier if training.classes else MLPRegressor)(
        hidden_layer_sizes=training.sizes[1:-1],
        activation=training.activation,
        solver=training.optimizer,
        alpha=0.0,
        batch_size=training.batch,
        learning_rate_init=task.rate,
        shuffle=False,
        momentum=0.0,
        nesterovs_momentum=False,
        n_iter_no_change=10**9,
    )
    y = task.y[:, 0]
    given: dict[str, Any] = {"classes": np.arange(training.sizes[-1])} if training.classes else {}
    # The first call draws weights of its own; they are overwritten, and the optimizer starts anew.
    model.partial_fit(task.x[: training.batch], y[: training.batch], **given)
    for theirs, ours in zip(model.coefs_, task.weights, strict=True):
        theirs[...] = ours
    for theirs in model.intercepts_:
        theirs[...] = 0.0
    del model._optimizer

    def weights() -> list[np.ndarray]:
        layers = zip(model.coefs_, model.intercepts_, strict=True)
        return [part for layer in layers for part in layer]

    return lambda: model.partial_fit(task.x, y), weights


def _torch(task: Task, compiled: bool) -> tuple[Run, Weights]:
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
    model = torch.nn.Sequential(*modules[:-1])
    rule = torch.optim.Adam if training.optimizer == "adam" else torch.optim.SGD
    optimizer = rule(model.parameters(), lr=task.rate, fused=True)

    def objective(x: Any, y: Any) -> Any:
        if training.classes:
            return functional.cross_entropy(model(x), y)
        return 0.5 * functional.mse_loss(model(x), y)

    if compiled:
        objective = torch.compile(objective)
    batches = [(x, y[:, 0].astype(np.int64) if training.classes else y) for x, y in task.batches]

    def run() -> None:
        for x, y in batches:
            optimizer.zero_grad()
            objective(torch.from_numpy(x), torch.from_numpy(y)).backward()
            optimizer.step()

    def weights() -> list[np.ndarray]:
        linear = modules[:-1:2]
        return [p for l in linear for p in (l.weight.detach().numpy().T, l.bias.detach().numpy())]

    return run, weights


def torch_eager(task: Task) -> tuple[Run, Weights]:
    """PyTorch's usual loop, with its fused optimizer."""
    return _torch(task, compiled=False)


def torch_compiled(task: Task) -> tuple[Run, Weights]:
    """The same with forward, loss and backward compiled."""
    return _torch(task, compiled=True)


def _jax_step(task: Task) -> tuple[Callable[..., Any], Any]:
    """A pure function (carry, batch) -> (carry, loss), and the first carry: parameters, means, count.

    Members are mapped over (`vmap`).
    """
    import jax
    import jax.numpy as jnp

    training = task.training
    nonlinear = {"tanh": jnp.tanh, "relu": jax.nn.relu}[training.activation]

    def objective(parameters: Any, x: Any, y: Any) -> Any:
        a = x
        for w, b in parameters[:-1]:
            a = nonlinear(a @ w + b)
        w, b = parameters[-1]
        z = a @ w + b
        if training.classes:
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), y, axis=1))
        return 0.5 * jnp.mean((z - y) ** 2)

    def step(carry: Any, batch: Any) -> Any:
        parameters, m, v, t = carry
        value, g = jax.value_and_grad(objective)(parameters, *batch)
        t = t + 1
        if training.optimizer == "sgd":
            return (jax.tree.map(lambda p, g: p - task.rate * g, parameters, g), m, v, t), value
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        first, second = 1 - BETA1**t, 1 - BETA2**t

        def update(p: Any, m: Any, v: Any) -> Any:
            return p - task.rate * (m / first) / (jnp.sqrt(v / second) + EPS)

        return (jax.tree.map(update, parameters, m, v), m, v, t), value

    parameters = [(jnp.array(w), jnp.zeros(_of_biases(w))) for w in task.weights]
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    means = (zeros(parameters), zeros(parameters)) if training.optimizer == "adam" else (None, None)
    if training.members:
        return jax.vmap(step, (0, None)), (parameters, *means, jnp.zeros(training.members))
    return step, (parameters, *means, jnp.float32(0.0))


def _jax_weights(carry: Any) -> list[np.ndarray]:
    return [np.asarray(part) for layer in carry[0] for part in layer]


def jax_jit(task: Task, *, placed: bool = False) -> tuple[Run, Weights]:
    """A compiled step, called once a batch; parameters and means are updated in place (donated).

    Batches come from the host, or are `placed` on the device beforehand.
    """
    import jax

    step, carry = _jax_step(task)
    step = jax.jit(step, donate_argnums=0)
    batches: Any = jax.block_until_ready(jax.device_put(task.batches)) if placed else task.batches

    def run() -> None:
        nonlocal carry
        for batch in batches:
            carry, _ = step(carry, batch)
        jax.block_until_ready(carry)

    return run, lambda: _jax_weights(carry)


def jax_scan(task: Task) -> tuple[Run, Weights]:
    """All steps of the task compiled into one loop."""
    import jax

    step, carry = _jax_step(task)
    training, n_steps = task.training, len(task.x) // task.training.batch

    def loop(carry: Any, x: Any, y: Any) -> Any:
        return jax.lax.scan(step, carry, (x, y))

    scan = jax.jit(loop, donate_argnums=0)
    x = jax.device_put(task.x.reshape(n_steps, training.batch, -1))
    y = jax.device_put(task.y.reshape(n_steps, training.batch, -1))
    jax.block_until_ready((x, y))

    def run() -> None:
        nonlocal carry
        carry, _ = jax.block_until_ready(scan(carry, x, y))

    return run, lambda: _jax_weights(carry)


def thinc(task: Task) -> tuple[Run, Weights]:
    """thinc's layers and optimizer; tanh, which it has no layer for, as a layer of three lines."""
    from thinc import api

    training, layers = task.training, []

    def tanh_forward(model: Any, x: Any, **_is_train: bool) -> Any:
        a = model.ops.xp.tanh(x)
        return a, lambda delta: delta * (1.0 - a * a)

    for layer, w in enumerate(task.weights):
        n_in, n_out = w.shape
        is_last = layer == len(task.weights) - 1
        kind = api.Linear
        if is_last and training.classes:
            kind = api.Softmax
        elif not is_last and training.activation == "relu":
            kind = api.Relu
        linear = kind(nO=n_out, nI=n_in)
        linear.set_param("W", w.T.copy())
        linear.set_param("b", np.zeros(n_out, dtype=np.float32))
        layers.append(linear)
        if not is_last and training.activation == "tanh":
            layers.append(api.Model("tanh", tanh_forward))
    model = api.chain(*layers)
    plain = {"L2": 0.0, "grad_clip": 0.0, "use_averages": False}
    if training.optimizer == "adam":
        optimizer = api.Adam(task.rate, beta1=BETA1, beta2=BETA2, eps=EPS, **plain)
    else:
        optimizer = api.SGD(task.rate, **plain)
    every_class = np.arange(training.sizes[-1])
    batches = [(x, (y == every_class).astype(np.float32) if training.classes else y) for x, y in task.batches]

    def run() -> None:
        for x, y in batches:
            predicted, backprop = model.begin_update(x)
            backprop((predicted - y) / len(x))
            model.finish_update(optimizer)

    def weights() -> list[np.ndarray]:
        linear = [layer for layer in layers if layer.has_param("W")]
        return [part for l in linear for part in (l.get_param("W").T, l.get_param("b"))]

    return run, weights


class Peer(NamedTuple):
    """How a peer is made, and the distribution it needs."""

    make: Callable[[Task], tuple[Run, Weights]]
    package: str
    module: str


PEERS = {
    "mlp_xp": Peer(mlp_xp, "mlp-xp", "mlp_xp"),
    "mlp_xp fast": Peer(functools.partial(mlp_xp, way="fast"), "mlp-xp[fast]", "numba"),
    "matrix products": Peer(products, "numpy", "numpy"),
    "update rule": Peer(update_rule, "mlp-xp[fast]", "numba"),
    "scikit-learn": Peer(scikit_learn, "scikit-learn", "sklearn"),
    "torch eager": Peer(torch_eager, "torch", "torch"),
    "torch.compile": Peer(torch_compiled, "torch", "torch"),
    "JAX jit": Peer(jax_jit, "jax", "jax"),
    "JAX scan": Peer(jax_scan, "jax", "jax"),
    "thinc": Peer(thinc, "thinc", "thinc"),
}


def movement(task: Task, after: list[np.ndarray]) -> list[float]:
    """How far the weights have gone: random projections of all w_new − w_old, comparable between peers.

    The root mean square of the differences between two peers' projections estimates the Euclidean
    distance of their weights.
    """
    if not after:
        return []
    before = [part for w in task.weights for part in (w, np.zeros(_of_biases(w), dtype=np.float32))]
    generator = np.random.default_rng(1)
    totals = np.zeros(N_PROJECTIONS)
    for old, new in zip(before, after, strict=True):
        moved = (np.asarray(new, dtype=np.float64) - old).ravel()
        for i in range(N_PROJECTIONS):
            totals[i] += moved @ generator.standard_normal(moved.size, dtype=np.float32)
    return totals.tolist()


class Server:
    """Obeys orders: `make` a training's task, `run` it (seconds), tell the `movement` of its weights.

    Parameters
    ----------
    peer : Peer
        Which library.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.run_all: Run = lambda: None
        self.weights: Weights = list

    def make(self, training: dict[str, Any], steps: int) -> None:
        """Forget the last task; make one of so many steps."""
        self.run_all, self.weights = lambda: None, list  # the last one's memory first
        training["sizes"] = tuple(training["sizes"])
        self.task = make_task(Training(**training), steps)
        self.run_all, self.weights = self.peer.make(self.task)

    def run(self) -> float:
        """Seconds for all steps of the task."""
        began = time.perf_counter()
        self.run_all()
        return time.perf_counter() - began

    def movement(self) -> list[float]:
        """See the function of that name."""
        return movement(self.task, self.weights())


def serve(peer: Peer) -> None:
    """Read orders, write answers, until the input ends."""
    # Libraries may print: what they write to standard output goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server(peer)
    with contextlib.closing(answers):
        for line in sys.stdin:
            order = json.loads(line)
            answer = getattr(server, order.pop("order"))(**order)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    serve(PEERS[sys.argv[1]])
