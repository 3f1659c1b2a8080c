"""Predictions of one network by each library, to be timed by `bench.predict`, one library a process.

All have the same weights, and get the same float32 rows as a NumPy array in memory; what they return is
compared with the network written out in NumPy.

As a command, `python -m bench.peers.predict NAME CASE N_ROWS SECONDS` writes the seconds a call, after some
that are not timed.
"""

import itertools
import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.harness import measure

SIZES = ((32, 100, 1), (64, 256, 256, 1))
"""Units per layer: relu in the hidden ones, one real output."""

TOLERANCE = 1e-4

Weights = list[tuple[np.ndarray, np.ndarray]]
Predict = Callable[[np.ndarray], np.ndarray]


def draw_weights(sizes: tuple[int, ...]) -> Weights:
    """W_l (n_in, n_out) and b_l of each layer, float32."""
    generator = np.random.default_rng(0)
    return [
        (
            (generator.standard_normal((n_in, n_out)) * math.sqrt(2.0 / n_in)).astype(np.float32),
            generator.standard_normal(n_out).astype(np.float32),
        )
        for n_in, n_out in itertools.pairwise(sizes)
    ]


def written_out(weights: Weights, x: np.ndarray) -> np.ndarray:
    """What all must predict."""
    a = x
    for w, b in weights[:-1]:
        a = np.maximum(a @ w + b, 0.0)
    return a @ weights[-1][0] + weights[-1][1]


def mlp_xp(weights: Weights) -> Predict:
    """`Network.predict`."""
    from mlp_xp import Network
    from mlp_xp.initializers import Given

    network = Network(
        [len(weights[0][0]), *(len(b) for _, b in weights)], initializer=Given(*_parts(weights))
    )
    return network.predict


def _parts(weights: Weights) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [w for w, _ in weights], [b for _, b in weights]


def scikit_learn(weights: Weights) -> Predict:
    """`MLPRegressor.predict`."""
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=[len(b) for _, b in weights[:-1]])
    model.partial_fit(np.zeros((2, len(weights[0][0])), dtype=np.float32), np.zeros(2, dtype=np.float32))
    model.coefs_, model.intercepts_ = _parts(weights)
    return model.predict


def onnxruntime(weights: Weights) -> Predict:
    """An InferenceSession over Gemm and Relu nodes."""
    import onnx
    import onnxruntime as runtime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []
    for layer, (w, b) in enumerate(weights):
        last = layer == len(weights) - 1
        names = [f"a{layer}", f"w{layer}", f"b{layer}"]
        constants += [numpy_helper.from_array(w, names[1]), numpy_helper.from_array(b, names[2])]
        nodes.append(helper.make_node("Gemm", names, [f"a{layer + 1}" if last else f"z{layer}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{layer}"], [f"a{layer + 1}"]))
    shapes = [("a0", len(weights[0][0])), (f"a{len(weights)}", len(weights[-1][1]))]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", n])] for name, n in shapes
    )
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def predict(x: np.ndarray) -> np.ndarray:
        return session.run(None, {"a0": x})[0]

    return predict


class Peer(NamedTuple):
    """How predictions are made, and the modules they need."""

    make: Callable[[Weights], Predict]
    modules: tuple[str, ...]


PEERS = {
    "mlp_xp": Peer(mlp_xp, ("mlp_xp",)),
    "scikit-learn": Peer(scikit_learn, ("sklearn",)),
    "onnxruntime": Peer(onnxruntime, ("onnxruntime", "onnx")),
}


def time_predictions(name: str, sizes: tuple[int, ...], n_rows: int, seconds: float) -> float:
    """Seconds a call of a peer.

    Raises
    ------
    RuntimeError
        It predicts something else.
    """
    weights = draw_weights(sizes)
    x = np.random.default_rng(1).standard_normal((n_rows, sizes[0]), dtype=np.float32)
    predict = PEERS[name].make(weights)
    found = np.reshape(predict(x), (n_rows, -1))[:1000]
    off = np.abs(found - written_out(weights, x[:1000])).max()
    if not off <= TOLERANCE * np.abs(found).max():
        raise RuntimeError(f"{name} predicts what is off by {off:.3g}")
    calls: dict[Any, Callable[[], object]] = {name: lambda: predict(x)}
    return measure.paired_medians(calls, seconds=seconds)[name]


if __name__ == "__main__":
    name_, case_, n_rows_, seconds_ = sys.argv[1:]
    print(json.dumps(time_predictions(name_, SIZES[int(case_)], int(n_rows_), float(seconds_))))
