"""ONNX files: what onnxruntime computes from raw columns is what the model predicts."""

import dataclasses

import numpy as np
import pytest

from mlp_xp import Network, activations, fit_table, losses
from mlp_xp.activations import ACTIVATIONS
from mlp_xp.losses import LINKS, LOSSES
from mlp_xp.saved.onnx_file import export_onnx, onnx_bytes
from mlp_xp.tables.encoding import encoding_of
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import PERIODS, Category, Constant, Date, Inputs, Number, Targets

pytestmark = pytest.mark.needs("onnx", "onnxruntime")

N_ROWS = 200


def run(content, columns):
    """The outputs of a file by name, as onnxruntime computes them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, columns), strict=True))


def check_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.shape(found) == np.shape(expected)


def random_network(layer_sizes, output=None, **options):
    """A network with weights and biases that are not small, so that every unit counts."""
    network = Network(layer_sizes, **options)
    flat = network.parameters.flat
    flat[...] = np.random.default_rng(1).normal(scale=0.7, size=flat.shape)
    if output is not None:
        network.output = output
    return network


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, dtype, rng):
    network = random_network((3, 6, 5, 2), activation=activation, dtype=dtype)
    x = np.float32(rng.normal(scale=3, size=(N_ROWS, 3)))
    found = run(onnx_bytes(network), {"X": x})
    assert list(found) == ["prediction"]
    assert found["prediction"].dtype == dtype
    check_same(found["prediction"], network.predict(x))


def test_a_scale_of_the_inputs(rng):
    network = random_network((3, 6, 2), activation="tanh", input_scale=True)
    x = np.float32(rng.normal(size=(N_ROWS, 3)))
    check_same(run(onnx_bytes(network), {"X": x})["prediction"], network.predict(x))


PARAMETERS = [
    activations.LeakyRelu(0.2),
    activations.Elu(0.5),
    [activations.Elu(2.0), "tanh", "logistic"],
]


@pytest.mark.parametrize("activation", PARAMETERS, ids=str)
def test_activations_with_parameters_and_of_the_output_layer(activation, rng):
    network = random_network((3, 6, 5, 2), activation=activation, bias=False)
    x = np.float32(rng.normal(size=(N_ROWS, 3)))
    check_same(run(onnx_bytes(network), {"X": x})["prediction"], network.predict(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_far_from_zero_do_not_overflow(dtype):
    x = np.float32([[-1e30], [-200.0], [-90.0], [0.0], [90.0], [200.0], [1e30]])
    for activation in ("softplus", "silu", "gelu", "mish", "elu", "selu", "logistic"):
        network = random_network((1, 1, 1), activation=activation, bias=False, dtype=dtype)
        network.parameters.flat[...] = 1.0
        found = run(onnx_bytes(network), {"X": x})["prediction"]
        np.testing.assert_allclose(found, network.predict(x), rtol=1e-5, atol=1e-5, err_msg=activation)


ALL_LINKS = {
    "identity": losses.IdentityLink(),
    "logistic": losses.LogisticLink(),
    "exp": losses.ExpLink(),
    "sorted": losses.SortedLink(3),
    "grouped_softmax": losses.GroupedSoftmaxLink((2, 4)),
    "softmax": losses.SoftmaxLink(),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("link", LINKS)
def test_every_link(link, dtype, rng):
    network = random_network((3, 5, 6), ALL_LINKS[link], dtype=dtype)
    x = np.float32(rng.normal(size=(N_ROWS, 3)))
    found = run(onnx_bytes(network), {"X": x})
    expected = network.predict(x)
    if link == "softmax":
        assert found["label"].tolist() == expected.argmax(axis=1).tolist()
        check_same(found["probabilities"], expected)
    else:
        check_same(found["prediction"], expected)


OUTPUTS = {"pinball": 6, "softmax_cross_entropy": 3}
"""Of a network for two targets or three classes, where that is not 2."""


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_a_table(loss, rng):
    """Predictions in the targets' own units, of which one is large."""
    own = losses.Pinball((0.1, 0.5, 0.9)) if loss == "pinball" else LOSSES[loss]()
    names = ("y",) if own.labels else ("y", "z")
    targets = Targets.unscaled(names)
    if own.standardises_target:
        targets = Targets(names, (2e5, -3.0), (3e4, 1e-3))
    network = random_network((2, 5, OUTPUTS.get(loss, 2)), own.link)
    levels = ("no", "yes", "ümläut") if own.labels else None
    inputs = Inputs((Number("a", 1e6, 30.0), Number("b")))
    model = TableModel(network, inputs, targets, levels, loss=own)
    x = np.float32(rng.normal(size=(N_ROWS, 2)) * [30, 1] + [1e6, 0])
    check_table(model, {"a": x[:, :1], "b": x[:, 1:]}, x.astype(float))
    check_table(model, {"X": x}, x.astype(float), matrix_input=True)


def check_table(model, columns, values, **options):
    """A table model's file, run on columns, gives what the model predicts for raw values."""
    found = run(onnx_bytes(model, **options), columns)
    expected = model.predict_raw(values)
    if model.levels is None:
        assert list(found) == ["prediction"]
        check_same(found["prediction"], expected)
    else:
        assert list(found) == ["label", "probabilities"]
        check_same(found["probabilities"], expected)
        assert found["label"].tolist() == model.choose(expected).tolist()


def table_model(inputs, **options):
    network = random_network((Inputs(inputs).n_features, 7, 2), **options)
    return TableModel(network, Inputs(inputs), Targets(("y", "z"), (1.0, 2.0), (3.0, 4.0)))


NUMBERS = [
    Number("n", 5.0, 2.0),
    Number("n", 5.0, 2.0, clipped=True),
    Number("n", 5.0, 2.0, median=4.0, gaps=True),
    Number("n", 5.0, 2.0, clipped=True, median=4.0, gaps=True),
]


@pytest.mark.parametrize("column", NUMBERS, ids=str)
def test_numbers(column, rng):
    values = np.float32(rng.normal(5, 4, size=(N_ROWS, 1)))
    values[::7] = np.nan
    values[3] = 1e20
    model = table_model((column,))
    check_table(model, {"n": values}, values.astype(float))
    check_table(model, {"X": values}, values.astype(float), matrix_input=True)


def test_encoded_numbers(rng):
    values = np.float32(rng.exponential(5, size=(N_ROWS, 3)))
    columns = tuple(
        Number(name, 5.0, 2.0, median=4.0, gaps=gaps, encoding=encoding_of(values[:, 0].astype(float), n))
        for name, gaps, n in (("a", True, 6), ("b", False, 0), ("c", False, 6))
    )
    values[::7, 0] = np.nan
    values[3] = 1e20
    values[4] = -1e20
    check_table(
        table_model(columns), dict(zip("abc", values.T[:, :, None], strict=True)), values.astype(float)
    )


def test_numbers_whose_ramps_are_narrower_than_what_float32_tells_apart():
    """Microseconds as seconds, or times of day that differ by less than a millisecond."""
    values = np.tile([1e-6, 1e-5, 0.333333, 0.999999, 1.000001, 7e-6], 10)[:, None]
    column = Number("n", 0.39, 0.45, encoding=encoding_of(values[:, 0], 5))
    check_table(table_model((column,)), {"n": values}, values)


SECONDS = [
    np.datetime64(text, "s").astype(int)
    for text in ("1970-01-01T00:00:00", "1969-12-31T23:59:59", "2024-02-29T06:30:00", "1900-03-01T12:00:00",
                 "2100-12-31T00:00:01", "0001-01-01T00:00:00", "NaT")
]  # fmt: skip


@pytest.mark.parametrize("cycles", [(), ("day",), ("year", "week"), tuple(PERIODS)], ids=str)
@pytest.mark.parametrize("gaps", [False, True])
def test_dates(cycles, gaps):
    column = Date("when", 15_000.0, 5_000.0, clipped=gaps, median=14_000.25, gaps=gaps, cycles=cycles)
    seconds = np.array(SECONDS, dtype=np.int64)[:, None]
    days = np.where(seconds == seconds.min(), np.nan, seconds / 86400)
    assert np.isnan(days).sum() == 1
    check_table(table_model((column,)), {"when": seconds}, days)
    encoding = encoding_of(np.arange(10_000.0, 12_000.0), 5)
    column = dataclasses.replace(column, clipped=False, encoding=encoding)
    check_table(table_model((column,)), {"when": seconds}, days)


CATEGORIES = [
    Category("c", "text", ("a", "ü b", "😀"), other=other, gaps=gaps)
    for other in (False, True)
    for gaps in (False, True)
] + [
    Category("c", "text", ("a",), other=True),
    Category("c", "text", (), other=True, gaps=True),
    Category("c", "text", ("", "a"), other=True, gaps=True),
    Category("c", "text", ("1", "2.50", "3.00", "true"), other=True),
]


@pytest.mark.parametrize("column", CATEGORIES, ids=str)
def test_texts(column):
    texts = ["a", "ü b", "😀", "unseen", "", "A", "a ", "1.0", "2.5", "2.50", "3", "True"]
    is_gap = [text == "" and "" not in column.levels for text in texts]
    codes = np.where(is_gap, np.nan, column.codes(texts))[:, None]
    check_table(table_model((column,)), {"c": np.array(texts, dtype=object)[:, None]}, codes)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_booleans(other, gaps):
    column = Category("c", "bool", ("false", "true"), other=other, gaps=gaps)
    values = np.float32([[0], [1], [np.nan], [1]])
    check_table(table_model((column,)), {"c": values}, values.astype(float))
    check_table(table_model((column,)), {"X": values}, values.astype(float), matrix_input=True)


MIXED = (
    Category("text", "text", ("a", "b"), other=True, gaps=True),
    Number("x", 1.0, 2.0),
    Constant("useless", "text"),
    Date("when", 15_000.0, 5_000.0, median=14_000.0, gaps=True, cycles=("day", "year")),
    Number("<script>alert('x')</script>", 1.0, 2.0, clipped=True, gaps=True),
    Category("flag", "bool", ("false", "true"), gaps=True),
    Constant("const", "number"),
    Date("then", 1.0, 2.0, cycles=("year",)),
    Number("constant_0", -1.0, 0.5),
)


def mixed_rows(rng):
    """Columns for a file, and the same as the model's raw values."""
    texts = rng.choice(["a", "b", "c", ""], N_ROWS)
    seconds = rng.integers(-(10**9), 2 * 10**9, (N_ROWS, 2))
    seconds[::5, 0] = -(2**63)
    numbers = np.float32(rng.normal(size=(N_ROWS, 4)))
    numbers[::3, 1] = np.nan
    flags = np.float32(rng.choice([0, 1, np.nan], N_ROWS))
    columns = {
        "text": texts.astype(object),
        "x": numbers[:, 0],
        "useless": np.full(N_ROWS, "?", dtype=object),
        "when": seconds[:, 0],
        "<script>alert('x')</script>": numbers[:, 1],
        "flag": flags,
        "const": numbers[:, 2],
        "then": seconds[:, 1],
        "constant_0": numbers[:, 3],
    }
    codes = {"a": 0, "b": 1, "c": 2, "": -1}
    raw = columns | {
        "text": [codes[text] for text in texts],
        "useless": np.zeros(N_ROWS),
        "when": np.where(seconds[:, 0] == -(2**63), np.nan, seconds[:, 0] / 86400),
        "then": seconds[:, 1] / 86400,
    }
    values = np.column_stack([np.asarray(raw[column.name], dtype=float) for column in MIXED])
    return {name: column[:, None] for name, column in columns.items()}, values


def test_columns_of_all_kinds_together(rng):
    columns, values = mixed_rows(rng)
    check_table(table_model(MIXED), columns, values)


def test_classes_of_a_table_with_one_output(rng):
    columns, values = mixed_rows(rng)
    network = random_network((Inputs(MIXED).n_features, 4, 1), losses.LogisticLink())
    model = TableModel(network, Inputs(MIXED), Targets.unscaled(["y"]), ("no", "yes"))
    check_table(model, columns, values)


def signature(content):
    """Inputs and outputs: name, dtype, shape."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    both = session.get_inputs(), session.get_outputs()
    return [[(each.name, each.type, each.shape) for each in some] for some in both]


def test_one_input_a_column_under_its_name():
    inputs, outputs = signature(onnx_bytes(table_model(MIXED)))
    kinds = {
        "number": "tensor(float)",
        "bool": "tensor(float)",
        "text": "tensor(string)",
        "date": "tensor(int64)",
    }
    assert inputs == [(column.name, kinds[column.kind], ["N", 1]) for column in MIXED]
    assert outputs == [("prediction", "tensor(float)", ["N", 2])]


def test_standard_operators_alone(rng):
    import onnx

    model = onnx.load_from_string(onnx_bytes(table_model(MIXED)))
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 19)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


def test_the_reference_implementation_of_onnx_agrees(rng):
    import onnx
    from onnx.reference import ReferenceEvaluator

    columns, values = mixed_rows(rng)
    model = table_model(MIXED, activation=["gelu"])
    (found,) = ReferenceEvaluator(onnx.load_from_string(onnx_bytes(model))).run(None, columns)
    check_same(found, model.predict_raw(values))


def test_no_rows(rng):
    columns, _ = mixed_rows(rng)
    found = run(onnx_bytes(table_model(MIXED)), {name: column[:0] for name, column in columns.items()})
    assert found["prediction"].shape == (0, 2)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    export_onnx(table_model(MIXED), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == onnx_bytes(table_model(MIXED))


def test_texts_and_dates_do_not_fit_a_matrix():
    with pytest.raises(
        ValueError, match=r"matrix_input: .* 'text' \(text\), 'useless' \(text\), 'when' \(date\)"
    ):
        onnx_bytes(table_model(MIXED), matrix_input=True)


def test_columns_named_as_outputs_are():
    model = table_model((Number("prediction"), Number("a")))
    with pytest.raises(ValueError, match=r"column 'prediction': an ONNX .* or use matrix_input=True"):
        onnx_bytes(model)
    x = np.float32([[1, 2], [3, 4]])
    check_table(model, {"X": x}, x.astype(float), matrix_input=True)


def test_a_column_named_x_is_no_matrix():
    x = np.float32([[1], [2]])
    check_table(table_model((Number("X"),)), {"X": x}, x.astype(float))


def test_an_activation_of_the_users_own_is_refused():
    def cube(z):
        return z * z * z

    network = Network((2, 3, 1), activation=(cube, lambda z: 3 * z * z))
    with pytest.raises(ValueError, match="the activation 'cube' is its user's own Python code"):
        onnx_bytes(network)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="give a Network, a TableModel or a fitted estimator"):
        onnx_bytes([1, 2])


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_boolean_that_is_another_number_has_no_prediction(task):
    """Everywhere else it is refused. Relu, of some runtimes, makes 0 of nan."""
    rng = np.random.default_rng(0)
    truths, y = rng.random(60) < 0.5, rng.normal(size=60)
    y = np.where(y > 0, "a", "b") if task == "classification" else y
    table = {"k": [None, *truths[1:].tolist()], "j": (~truths).tolist(), "y": y}
    model = fit_table(table, "y", recipe="plain", epochs=2, activation="relu")
    k = np.array([[1, 0, np.nan, 2, 0.5, -1, np.inf]], "f4").T
    found = run(onnx_bytes(model), {"k": k, "j": np.ones_like(k)})
    found = found["probabilities" if task == "classification" else "prediction"]
    assert np.isfinite(found[:3]).all()
    assert np.isnan(found[3:]).all()
