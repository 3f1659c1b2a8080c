"""Programs of array code, against the code itself on arrays."""

import math
import sys

import numpy as np
import pytest
from stand_ins import host_kernels
from stand_ins.stand_in_engine import computed

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.fast import programs
from mlp_xp.fast.cuda import kernels
from mlp_xp.losses import LINKS, LOSSES
from mlp_xp.machine.array_api import backend
from mlp_xp.machine.symbolic import OPERATIONS, program
from mlp_xp.optimizers import OPTIMIZERS

X = np.r_[np.linspace(-3.0, 3.0, 25), 0.0, 1e-3, 40.0, -40.0]

FORMULAS = {
    "arithmetic": lambda x, y: (x + 1.0) * (2.0 - y) / (1.0 + x * x) - -x,
    "in place": lambda x, y: _in_place(x + 0.0, y),
    "comparisons": lambda x, y: (x > y) * 2.0 + (x <= 0.5) - (x == 0.0) + (x != y) - (x < y) + (x >= 1.0),
    "where": lambda x, y: np.where(x > y, x, -y),
    "where with numbers": lambda x, y: x * np.where(y < 0.0, 0.25, 1.0),
    "extremes": lambda x, y: np.maximum(x, y) - np.minimum(0.5, x) + np.clip(y, -1.0, 2.0),
    "roots": lambda x, y: np.sqrt(np.abs(x)) + np.log(1.0 + np.square(y)) + np.log1p(np.abs(x)),
    "exponentials": lambda x, y: np.exp(-np.abs(x)) + np.expm1(np.minimum(x, 1.0)) + np.tanh(y),
    "waves": lambda x, y: np.sin(x) + np.cos(y),
    "powers": lambda x, y: x**2 + y**3 + x**1,
    "signs": lambda x, y: np.sign(x) + np.reciprocal(2.0 + np.abs(y)) + np.positive(x),
    "likes": lambda x, y: np.ones_like(x) + np.zeros_like(y) * x,
    "casts": lambda x, y: np.astype(x > 0.0, np.float64) - y,
    "numbers of NumPy's": lambda x, y: np.float64(2.0) * x + np.float32(0.5) - y * np.int64(3),
    "twice the same": lambda x, y: np.tanh(x + y) * np.tanh(x + y),
    "nothing is lost of -0.0 and nan": lambda x, y: np.maximum(x, 0.0) * 1.0 + 0.0,
}


def _in_place(x, y):
    x *= 2.0
    x += y
    np.subtract(x, 1.0, out=x)
    x[...] = np.maximum(x, -1.0)
    np.greater(x, 0.5, out=x)  # 1 or 0
    x /= 4.0
    x -= y
    return x


@pytest.mark.parametrize("name", FORMULAS)
def test_a_program_computes_what_the_code_computes(name):
    formula, y = FORMULAS[name], np.roll(X, 7)
    found = program(lambda inputs, changing, output: [formula(*inputs)], 2)
    assert found is not None
    assert {step[0] for step in found.steps} <= {"input", "number", *OPERATIONS}
    np.testing.assert_allclose(
        np.broadcast_to(computed(found, [X, y])[0], X.shape), formula(X, y), rtol=1e-15
    )


def test_what_is_computed_twice_is_written_once():
    found = program(lambda inputs, changing, output: [np.tanh(inputs[0]) * np.tanh(inputs[0])], 1)
    assert [step[0] for step in found.steps] == ["input", "tanh", "multiply"]


def test_numbers_that_change_come_before_those_that_do_not():
    def formula(inputs, changing, output):
        (x,), (h,) = inputs, changing
        output[...] = h * x + math.nan
        return [3.0 * h, output]

    found = program(formula, 1, 1)
    assert found.numbers == pytest.approx((math.nan, 3.0), nan_ok=True)
    three, nothing = computed(found, [X], [2.0])
    assert three == 6.0
    assert np.isnan(nothing).all()


NO_FORMULAS = {
    "a sum": lambda x, y: x - np.sum(x),
    "a product": lambda x, y: x @ y,
    "a shape": lambda x, y: x * x.shape[0],
    "an element": lambda x, y: x - x[0],
    "a decision": lambda x, y: x if x > 0 else y,
    "a value": lambda x, y: x * math.exp(x),
    "a matrix": lambda x, y: x + np.ones((3, 3)),
    "a reduction": lambda x, y: np.add.reduce(x),
    "a power of its own": lambda x, y: x**y,
    "a root as a power": lambda x, y: x**0.5,
    "a keyword": lambda x, y: np.where(x > 0, x, y).astype("float32"),
    "an axis": lambda x, y: np.max(x, axis=-1),
    "no function of the table": lambda x, y: np.arctan(x),
    "an array of it": lambda x, y: np.asarray(x) + y,
    "an error": lambda x, y: {}["nothing"],
}


@pytest.mark.parametrize("name", NO_FORMULAS)
def test_what_is_more_than_a_formula_has_no_program(name):
    assert program(lambda inputs, changing, output: [NO_FORMULAS[name](*inputs)], 2) is None


def test_an_output_is_written_before_it_is_read():
    assert program(lambda inputs, changing, output: [inputs[0] + output], 1) is None


def test_all_of_the_catalogues_are_formulas_but_for_those():
    without = {name for name, f in ACTIVATIONS.items() if programs.of_activation(f(), "float32") is None}
    without |= {name for name, loss in LOSSES.items() if programs.of_loss(loss(), "float32") is None}
    without |= {name for name, rule in OPTIMIZERS.items() if programs.of_rule(rule()) is None}
    without |= {name for name, link in LINKS.items() if programs.of_prediction(link(), "float32") is None}
    assert without == {
        *("pinball", "softmax_cross_entropy", "lbfgs"),
        *("softmax", "sorted", "grouped_softmax"),
    }, "a new one that is a formula of each element trains compiled; list it here if it is not"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_programs_of_activations(name, dtype):
    on, f, z = backend("cpu", dtype), ACTIVATIONS[name](), X.astype(dtype)
    a, kept = z.copy(), np.empty_like(z)
    f.forward(on, a, None if f.keeps_output else kept)
    there, back = programs.of_activation(f, dtype)
    found = computed(there, [z])
    np.testing.assert_allclose(found[0], a, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-30)
    kept = a if f.keeps_output else kept
    delta = np.ones_like(z)
    f.chain(on, delta, kept.copy())
    (chained,) = computed(back, [np.ones_like(z), kept])
    np.testing.assert_allclose(chained, delta, rtol=1e-5 if dtype == "float32" else 1e-14, atol=1e-7)


def test_a_subclass_of_the_catalogue_has_none():
    class Mine(ACTIVATIONS["tanh"]):
        pass

    assert programs.of_activation(Mine(), "float32") is None


def everything(x, y):
    return sum((formula(x, y) for formula in FORMULAS.values()), 0.0)


@pytest.fixture
def program_of_everything():
    found = program(lambda inputs, changing, output: [everything(*inputs)], 2)
    assert {step[0] for step in found.steps} == {"input", "number", *OPERATIONS}
    return found


@pytest.mark.needs("numba", "scipy")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_is_compiled(dtype, program_of_everything):
    from mlp_xp.fast.compiled import formulas

    y = np.roll(X, 7)
    arrays = [each.astype(dtype) for each in (X, y)]
    numbers = np.array(program_of_everything.numbers)
    loop = formulas.chain(formulas.text_of(program_of_everything), dtype)
    pointers = [
        each.ctypes.data_as(kind)
        for each, kind in zip((*arrays, numbers), loop.ctypes.argtypes, strict=False)
    ]
    loop.ctypes(*pointers, X.size)
    np.testing.assert_allclose(arrays[0], everything(X, y), rtol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.needs("onnx", "onnxruntime")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operation_is_written_in_onnx(dtype):
    import onnxruntime

    from mlp_xp.saved.onnx_file.graph import Graph
    from mlp_xp.saved.onnx_file.network import Layers

    found = program(lambda inputs, changing, output: [everything(inputs[0], 0.5 - inputs[0])], 1)
    assert {step[0] for step in found.steps} == {"input", "number", *OPERATIONS}
    graph = Graph(["x", "a"])
    graph.output("a", Layers(graph, dtype).computed(found, graph.input("x", dtype, 1)), dtype, 1)
    session = onnxruntime.InferenceSession(graph.to_bytes({}))
    (a,) = session.run(None, {"x": X[:, None].astype(dtype)})
    np.testing.assert_allclose(a[:, 0], everything(X, 0.5 - X), rtol=1e-4 if dtype == "float32" else 1e-10)


def test_every_operation_is_written_in_c(tmp_path, program_of_everything, monkeypatch):
    if host_kernels.compiler() is None:
        pytest.skip("needs a C++ compiler")
    monkeypatch.setitem(sys.modules, "cupy", host_kernels.Shop(tmp_path).cupy())
    y = np.roll(X, 7)
    delta = X.copy()
    monkeypatch.setattr(kernels, "_chain_kernel", kernels._chain_kernel.__wrapped__)
    delta, y = delta.reshape(-1, 1), y.reshape(-1, 1)
    kernels.chain(program_of_everything, delta, y, np.zeros(kernels.N_COUNTERS, np.int64))
    np.testing.assert_allclose(delta[:, 0], everything(X, y[:, 0]), rtol=1e-12)
