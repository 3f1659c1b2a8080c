"""Model files: the same bytes for the same model, bit for bit back again, and nothing but our errors."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command_line import ROOT, environment
from hypothesis import given as property_given
from hypothesis import settings
from hypothesis import strategies as st

from mlp_xp import Network, load, save
from mlp_xp.activations import ACTIVATIONS, Custom, LeakyRelu
from mlp_xp.losses import LINKS, LOSSES, GroupedSoftmaxLink, Huber, Pinball, SoftmaxLink, SortedLink
from mlp_xp.saved import model_file
from mlp_xp.tables.datasets import load_dataset
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Inputs, Number, Targets

FILES = Path(__file__).parent / "model_files"


def cube(z):
    return z * z * z


def cube_slope(z):
    return 3.0 * z * z


PAIR = (cube, cube_slope)


def square(z):
    return z * z


def square_slope(z):
    return 2.0 * z


def flat_bytes(network):
    return network.parameters.to_host().tobytes()


# What the files in tests/saved/model_files gave when they were written, in the first release of format 1.


def test_format_1_network():
    network = load(FILES / "format_1_network.safetensors")
    assert network.layer_sizes == (2, 3, 3)
    assert network.activations[0] == LeakyRelu(0.25)
    assert network.output == SoftmaxLink()
    expected = [
        [0.8514869809150696, 0.12734049558639526, 0.021172570064663887],
        [0.9164682626724243, 0.06762850284576416, 0.015903253108263016],
    ]
    np.testing.assert_allclose(network.predict([[0.5, -1.0], [2.0, 0.25]]), expected, rtol=1e-5)


def test_format_1_own_activation():
    path = FILES / "format_1_own_activation.safetensors"
    with pytest.raises(ValueError, match=r"trained with the activation 'square' .*activations=\{'square'"):
        load(path)
    network = load(path, activations={"square": (square, square_slope)})
    assert (network.backend.dtype_name, network.parameters.bias) == ("float64", False)
    assert network.output == SortedLink(2)
    expected = [[-0.5968606647905802, 0.11301703803154314], [-3.878137614940466, 0.4359628420831533]]
    np.testing.assert_allclose(network.predict([[0.5, -1.0], [2.0, 0.25]]), expected, rtol=1e-13)


def test_format_1_table():
    model = load(FILES / "format_1_table.safetensors")
    diabetes = load_dataset("diabetes")
    assert model.inputs.names == tuple(diabetes.feature_names)
    assert model.targets.names == ("progression",)
    assert model.training["epochs"] == 3
    expected = [[121.22816291715014], [209.39292718598085], [119.02046926802792]]
    np.testing.assert_allclose(model.predict(diabetes.x[:3]), expected, rtol=1e-5)


def test_format_1_classes():
    model = load(FILES / "format_1_classes.safetensors")
    assert model.levels == ("setosa", "versicolor", "virginica")
    # Rows 1, 61 and 121 of Fisher's iris.
    rows = [[5.1, 3.5, 1.4, 0.2], [5.0, 2.0, 3.5, 1.0], [6.9, 3.2, 5.7, 2.3]]
    assert model.predict(rows).tolist() == ["versicolor", "virginica", "setosa"]
    np.testing.assert_allclose(
        model.predict_raw(np.array(rows))[0],
        [0.1611921787261963, 0.6266341209411621, 0.2121737003326416],
        rtol=1e-5,
    )


def test_format_2_table():
    model = load(FILES / "format_2_table.safetensors")
    assert model.inputs.names == ("size", "income", "sold", "kind", "garden", "country")
    table = {
        "country": ["NL", "BE"],
        "garden": [True, False],
        "kind": ["flat", "tent"],
        "sold": ["2022-03-01", None],
        "income": [2.5, None],
        "size": [70, 120],
    }
    np.testing.assert_allclose(model.predict(table), [[224.19800758361816], [245.82601070404053]], rtol=1e-5)


def test_format_3_network():
    network = load(FILES / "format_3_network.safetensors")
    np.testing.assert_array_equal(network.parameters.input_scale, [[1.0], [-2.0], [0.5]])
    expected = [[-0.7885809540748596, 0.017243586480617523]]
    np.testing.assert_allclose(network.predict([[0.5, -1.0, 2.0]]), expected, rtol=1e-5)


def test_what_came_later_alone_needs_a_later_format(tmp_path):
    formats = []
    for input_scale in (False, True):
        save(Network((2, 1), input_scale=input_scale), tmp_path / "n")
        formats.append(model_file.read(tmp_path / "n").document["format"])
    assert formats == [2, 3]


def test_there_is_a_file_of_every_format():
    written = {path.name.partition("_n")[0].split("_")[1] for path in FILES.glob("format_*")}
    assert written == {str(version) for version in range(1, model_file.FORMAT + 1)}


# Round trips


def numeric_fields(kind):
    return [field.name for field in dataclasses.fields(kind) if field.init]


def instances(catalogue):
    """Every entry with its defaults, and with another value of each of its numbers."""
    return [
        kind(**changed)
        for kind in catalogue.values()
        for changed in ({}, *({name: 0.1234567890123456} for name in numeric_fields(kind)))
    ]


ALL_ACTIVATIONS = [*instances(ACTIVATIONS), PAIR]


@st.composite
def networks(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    activations = [draw(st.sampled_from(ALL_ACTIVATIONS)) for _ in sizes[1:]]
    network = Network(
        sizes,
        activation=activations,
        bias=draw(st.booleans()),
        input_scale=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float64"])),
    )
    width = 32 if network.backend.dtype_name == "float32" else 64
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=width)  # −0.0 and subnormals too
    n = network.parameters.size
    network.parameters.flat[...] = draw(st.lists(numbers, min_size=n, max_size=n))
    links = [link() for link in LINKS.values() if link is not GroupedSoftmaxLink]
    links += [SortedLink(sizes[-1]), GroupedSoftmaxLink((1,) * sizes[-1])]
    network.output = draw(st.sampled_from(links))
    return network


@settings(max_examples=60, deadline=None)
@property_given(networks())
def test_a_network_comes_back_bit_for_bit(tmp_path_factory, network):
    folder = tmp_path_factory.getbasetemp() / "round_trips"
    folder.mkdir(exist_ok=True)
    path, again = folder / "n.safetensors", folder / "again.safetensors"
    save(network, path)
    loaded = load(path, activations={"cube": PAIR})
    assert flat_bytes(loaded) == flat_bytes(network)
    assert loaded.layer_sizes == network.layer_sizes
    assert loaded.activations == network.activations
    assert loaded.output == network.output
    assert loaded.parameters.bias == network.parameters.bias
    assert (loaded.parameters.input_scale is None) == (network.parameters.input_scale is None)
    assert loaded.backend.dtype_name == network.backend.dtype_name
    save(loaded, again)
    assert path.read_bytes() == again.read_bytes()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("activation", ALL_ACTIVATIONS, ids=lambda f: type(f).__name__)
def test_every_activation_comes_back(tmp_path, activation):
    network = Network((2, 3, 1), activation=activation, seed=1)
    save(network, tmp_path / "n")
    loaded = load(tmp_path / "n", activations={"cube": PAIR})
    assert isinstance(loaded.activations[0], Custom) == (activation is PAIR)
    x = np.array([[0.3, -0.7], [1.5, 2.0]])
    assert loaded.predict(x).tobytes() == network.predict(x).tobytes()


def table_model(loss="squared_error", levels=None, n_targets=1, **network_options):
    resolved = LOSSES[loss]() if isinstance(loss, str) else loss
    n_outputs = resolved.n_outputs(n_targets, len(levels) if levels else None)
    network = Network((2, 3, n_outputs), **network_options)
    network.output = resolved.link
    inputs = Inputs((Number("a", 1.5, 0.1), Number('größe, "µ"\n', -2e300, 5e-324, median=-2e300)))
    targets = Targets.unscaled([f"t{i}" for i in range(n_targets)])
    return TableModel(network, inputs, targets, levels, loss=resolved, training={"epochs": 3})


@pytest.mark.parametrize(
    "model",
    [
        *(table_model(name) for name in LOSSES if not LOSSES[name]().labels),
        table_model(Huber(2.5), n_targets=3, dtype="float64"),
        table_model(Pinball((0.1, 0.5, 0.9)), n_targets=2),
        table_model("softmax_cross_entropy", ["ä", "b", "\U0001f600"]),
        table_model("binary_cross_entropy", ["no", "yes"]),
    ],
    ids=lambda model: f"{type(model.loss).__name__}-{len(model.output_names)}",
)
def test_a_table_model_comes_back(tmp_path, model):
    save(model, tmp_path / "t")
    loaded = load(tmp_path / "t")
    assert (loaded.inputs, loaded.targets) == (model.inputs, model.targets)
    assert (loaded.levels, loaded.loss, loaded.training) == (model.levels, model.loss, model.training)
    assert loaded.output_names == model.output_names
    assert flat_bytes(loaded.network) == flat_bytes(model.network)
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()


@pytest.fixture
def fitted(rng):
    """`fitted(estimator, y)`: an estimator of scikit-learn's kind, trained a little."""

    def fit(name, y, **options):
        from sklearn.exceptions import ConvergenceWarning

        import mlp_xp

        estimator = getattr(mlp_xp, name)(hidden_layer_sizes=(4,), max_iter=3, random_state=0, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return estimator.fit(X, y)

    return fit


X = np.random.default_rng(0).normal(size=(30, 3))


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(
    ("name", "y", "options"),
    [
        ("MLPRegressor", X[:, 0], {}),
        ("MLPRegressor", X[:, :2], {"alpha": 0.1}),
        ("MLPClassifier", np.arange(30) % 2, {}),
        ("MLPClassifier", np.array(["a", "b", "c"])[np.arange(30) % 3], {"activation": "tanh"}),
        ("MLPClassifier", (X > 0).astype(int), {}),
    ],
    ids=["regressor", "targets", "two classes", "classes", "labels"],
)
def test_an_estimator_comes_back(tmp_path, fitted, name, y, options):
    estimator = fitted(name, y, **options)
    save(estimator, tmp_path / "e")
    loaded = load(tmp_path / "e")
    assert type(loaded) is type(estimator)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
    assert str(loaded) == str(estimator)
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "e").read_bytes()


@pytest.mark.needs("sklearn")
def test_an_estimator_that_is_not_fitted_is_not_saved(tmp_path):
    from mlp_xp import MLPRegressor

    with pytest.raises(ValueError, match="not fitted"):
        save(MLPRegressor(), tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_device_is_chosen_when_it_is_loaded(tmp_path, device):
    network = Network((3, 2), device=device)
    save(network, tmp_path / "n")
    assert load(tmp_path / "n", device=device).backend.name == network.backend.name
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        load(tmp_path / "n", device="gpu")


def test_the_same_training_gives_the_same_bytes(tmp_path):
    for name, hash_seed in (("a", "1"), ("b", "2")):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "mlp_xp",
                "train",
                "--epochs",
                "3",
                "--quiet",
                "--out",
                f"{name}.safetensors",
            ],
            cwd=tmp_path,
            env=environment(PYTHONHASHSEED=hash_seed),
            check=True,
        )
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert first == second
    said = first[8 : 8 + struct.unpack("<Q", first[:8])[0]].decode()
    for secret in (str(tmp_path), os.uname().nodename, "seconds", "time"):
        assert secret not in said


# What cannot be saved


@pytest.mark.parametrize("model", [None, "a network", np.zeros(3)])
def test_what_cannot_be_saved(tmp_path, model):
    with pytest.raises(TypeError, match=r"cannot be saved: give a Network, a TableModel"):
        save(model, tmp_path / "n")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    network = Network((2, 1))
    network.parameters.weights[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="nan or infinite"):
        save(network, tmp_path / "n")
    assert list(tmp_path.iterdir()) == []


# Written whole or not at all


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "n"
    save(Network((2, 1), seed=1), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(Network((2, 1), seed=2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_killed_leaves_what_was_there(tmp_path):
    save(Network((2, 1)), tmp_path / "n")
    before = (tmp_path / "n").read_bytes()
    code = (
        "import os, mlp_xp\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "mlp_xp.save(mlp_xp.Network((200, 100)), 'n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == -9
    assert (tmp_path / "n").read_bytes() == before


def test_a_link_is_followed(tmp_path):
    (tmp_path / "latest").symlink_to(tmp_path / "n")
    save(Network((2, 1)), tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "n").is_file()


def test_a_write_that_fails_says_where(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*m\.safetensors'"):
        save(Network((2, 1)), tmp_path / "m.safetensors")


@pytest.mark.needs("sklearn")
def test_classes_take_no_more_than_their_texts_whatever_a_file_says(tmp_path):
    classes = [{"dtype": "<U500000000", "values": [str(number) for number in range(40)]}]
    labels = {"kind": "multiclass", "sparse": False, "classes": classes}
    described = document(
        kind="estimator",
        network={"layer_sizes": [2, 40], "activations": ["identity"], "output": "softmax"},
        estimator={"class": "MLPClassifier", "parameters": {}, "fitted": {}, "labels": labels},
    )
    tensors = {"weights.0": np.ones((2, 40), np.float32), "biases.0": np.ones(40, np.float32)}
    tracemalloc.start()
    try:
        loaded = load(write(tmp_path / "m", described, tensors))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert loaded.classes_.tolist() == classes[0]["values"]
    assert peak < 10_000_000


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(
    ("kind", "dtype", "values", "said"),
    [
        ("binary", "<U1", ["abc", "abd"], "some are alike, or have no room"),
        ("binary", "<i8", [1, 1], "some are alike"),
        ("binary", "<u1", [1, 300], "out of bounds"),
        ("binary", "<f8", ["nan", 1], "have no room in it"),
        ("binary", "<M8[1000000000s]", ["2020", "2021"], "have no room in it"),
        ("binary", "<i8", [0, 1, 2], "do not fit 1 outputs"),
        ("binary", "<i8", [], "."),
        ("multiclass", "<i8", [0, 1, 2], r"multiclass labels of \[3\] classes do not fit 1 outputs"),
        ("nonsense", "<i8", [0, 1], "do not fit 1 outputs"),
    ],
)
def test_classes_that_do_not_fit(kind, dtype, values, said, tmp_path):
    labels = {"kind": kind, "sparse": False, "classes": [{"dtype": dtype, "values": values}]}
    described = document(
        kind="estimator",
        network={"output": "logistic"},
        estimator={"class": "MLPClassifier", "parameters": {}, "fitted": {}, "labels": labels},
    )
    with pytest.raises(ValueError, match=rf"is damaged, or was not written by mlp_xp: .*{said}"):
        load(write(tmp_path / "m", described))


def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match="is a device or pipe"):
        model_file.write_whole("/dev/null", b"")
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^there is no folder .*no to write n in: make it first"):
        save(Network((2, 1)), tmp_path / "no" / "n")


# Hostile files


def document(**changes):
    network = {
        "layer_sizes": [2, 3, 1],
        "activations": ["relu", "identity"],
        "bias": True,
        "dtype": "float32",
        "output": "identity",
    } | changes.pop("network", {})
    return {"format": 1, "kind": "network", "network": network} | changes


def table(**changes):
    described = {
        "inputs": {"names": ["a", "b"], "means": [0.0, 1.0], "scales": [1.0, 2.0], "constant": []},
        "targets": {"names": ["t"], "means": [0.0], "scales": [1.0], "constant": []},
        "levels": None,
        "loss": "squared_error",
        "training": {},
    } | changes
    return document(kind="table", table=described)


def columns(**changes):
    return {"names": ["a", "b"], "means": [0.0, 1.0], "scales": [1.0, 2.0], "constant": []} | changes


TENSORS = {
    "weights.0": np.ones((2, 3), np.float32),
    "biases.0": np.ones(3, np.float32),
    "weights.1": np.ones((3, 1), np.float32),
    "biases.1": np.ones(1, np.float32),
}


def write(path, described, tensors=TENSORS):
    text = described if isinstance(described, str) else json.dumps(described)
    path.write_bytes(safetensors.numpy.save(tensors, {"mlp_xp": text}))
    return path


def test_the_files_that_are_damaged_below_are_good_before(tmp_path):
    assert load(write(tmp_path / "n", document())).layer_sizes == (2, 3, 1)
    assert load(write(tmp_path / "t", table())).targets.names == ("t",)


def estimator(**changes):
    described = {"class": "MLPRegressor", "parameters": {"alpha": 0.5}, "fitted": {"n_iter_": 3}} | changes
    return document(kind="estimator", estimator=described)


@pytest.mark.needs("sklearn")
@pytest.mark.parametrize(
    "described",
    [
        document(kind="estimator"),
        document(kind="estimator", estimator=[]),
        estimator(**{"class": "Popen"}),
        estimator(**{"class": []}),
        estimator(parameters=[]),
        estimator(parameters={"alpha": {"call": "os.system"}}),
        estimator(fitted=None),
        estimator(fitted={"n_iter_": {"number": "three"}}),
        estimator(labels={"kind": "multiclass", "classes": [{"dtype": "O8", "values": 3}]}),
        estimator(labels={"kind": "multiclass", "classes": [{"dtype": "V8", "values": []}], "sparse": False}),
    ],
    ids=str,
)
def test_a_wrong_estimator_is_refused(tmp_path, described):
    assert load(write(tmp_path / "good", estimator())).alpha == 0.5
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
        load(write(tmp_path / "damaged.safetensors", described))


DAMAGED = {
    "no JSON": "{",
    "no object": "[]",
    "text": '"network"',
    "null": "null",
    "deep": "[" * 100_000,
    "long number": '{"format": ' + "9" * 5000 + "}",
    "no format": {key: value for key, value in document().items() if key != "format"},
    "format as text": document(format="1"),
    "format true": document(format=True),
    "format 0": document(format=0),
    "format 1.5": document(format=1.5),
    "NaN": json.dumps(table()).replace("2.0", "NaN"),
    "Infinity": json.dumps(table()).replace("2.0", "-Infinity"),
    "no network": {"format": 1, "kind": "network"},
    "network is a list": document() | {"network": []},
    "network is null": document() | {"network": None},
    "kind unknown": document(kind="forest"),
    "kind is a list": document(kind=[]),
    "no table": document(kind="table"),
    "table is text": document(kind="table", table="t"),
    "table is null": document(kind="table", table=None),
    "no layer": document(network={"layer_sizes": [2]}),
    "another layer": document(network={"layer_sizes": [2, 3, 1, 1]}),
    "other sizes": document(network={"layer_sizes": [2, 4, 1]}),
    "huge sizes": document(network={"layer_sizes": [2**62, 2**62, 1]}),
    "sizes beyond 64 bits": document(network={"layer_sizes": [10**400, 3, 1]}),
    "negative size": document(network={"layer_sizes": [2, -3, 1]}),
    "size 0": document(network={"layer_sizes": [2, 0, 1]}),
    "size true": document(network={"layer_sizes": [2, 3, True]}),
    "size 3.0": document(network={"layer_sizes": [2, 3.0, 1]}),
    "sizes as text": document(network={"layer_sizes": "231"}),
    "sizes as a number": document(network={"layer_sizes": 3}),
    "bias 1": document(network={"bias": 1}),
    "no bias": document(network={"bias": False}),
    "another dtype": document(network={"dtype": "float64"}),
    "unknown dtype": document(network={"dtype": "int8"}),
    "dtype is a list": document(network={"dtype": []}),
    "unknown activation": document(network={"activations": ["rleu", "identity"]}),
    "activation is a number": document(network={"activations": [1, 2]}),
    "activation without a name": document(network={"activations": [{}, "identity"]}),
    "activation with a wrong parameter": document(
        network={"activations": [{"name": "leaky_relu", "slope": "steep"}, "identity"]}
    ),
    "activation with an unknown parameter": document(
        network={"activations": [{"name": "relu", "__class__": "os"}, "identity"]}
    ),
    "activation with a list for a name": document(network={"activations": [{"name": ["relu"]}, "identity"]}),
    "own activation with a number for a name": document(network={"activations": [{"custom": 1}, "identity"]}),
    "an activation is missing": document(network={"activations": ["relu"]}),
    "activations as a number": document(network={"activations": 7}),
    "unknown output": document(network={"output": "cubic"}),
    "output is null": document(network={"output": None}),
    "0 quantiles": document(network={"output": {"name": "sorted", "n_quantiles": 0}}),
    "quantiles as text": document(network={"output": {"name": "sorted", "n_quantiles": "2"}}),
    "quantiles that do not fit": document(network={"output": {"name": "sorted", "n_quantiles": 2}}),
    "groups that do not fit": document(network={"output": {"name": "grouped_softmax", "groups": [2]}}),
    "groups as text": document(network={"output": {"name": "grouped_softmax", "groups": "a"}}),
    "no inputs": table(inputs=None),
    "a column too many": table(inputs=columns(names=["a", "b", "c"])),
    "a column too few": table(inputs=columns(names=["a"], means=[0.0], scales=[1.0])),
    "a mean is missing": table(inputs=columns(means=[0.0])),
    "a mean is text": table(inputs=columns(means=["0", "1"])),
    "a mean is null": table(inputs=columns(means=[None, 0.0])),
    "a mean is huge": table(inputs=columns(means=[10**400, 0.0])),
    "a scale is 0": table(inputs=columns(scales=[0.0, 1.0])),
    "a scale is negative": table(inputs=columns(scales=[-1.0, 1.0])),
    "a name is a number": table(inputs=columns(names=["a", 1])),
    "a name comes twice": table(inputs=columns(names=["a", "a"])),
    "constant as numbers": table(inputs=columns(constant=[1, 0])),
    "constant too short": table(inputs=columns(constant=[True])),
    "no target": table(targets=columns(names=[], means=[], scales=[])),
    "targets too many": table(targets=columns()),
    "one class": table(levels=["a"]),
    "a class is a number": table(levels=[1, 2]),
    "a class comes twice": table(levels=["a", "a"]),
    "classes that do not fit": table(levels=["a", "b", "c"]),
    "classes as a number": table(levels=3),
    "unknown loss": table(loss="hinge"),
    "loss is a number": table(loss=1),
    "loss with a wrong parameter": table(loss={"name": "huber", "delta": -1}),
    "loss that does not fit": table(loss={"name": "pinball", "quantiles": [0.1, 0.9]}),
    "loss with text for quantiles": table(loss={"name": "pinball", "quantiles": "half"}),
    "training is a list": table(training=[]),
    "training is missing": document(kind="table", table={**table()["table"], "training": None}),
}


@pytest.mark.parametrize("described", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_wrong_document_is_refused(tmp_path, described):
    path = write(tmp_path / "damaged.safetensors", described)
    with pytest.raises(ValueError, match=r"damaged\.safetensors (is damaged|is not a model file of mlp_xp)"):
        load(path)


WRONG_TENSORS = {
    "none": {},
    "one is missing": {name: t for name, t in TENSORS.items() if name != "biases.1"},
    "one too many": TENSORS | {"weights.2": np.ones((1, 1), np.float32)},
    "another shape": TENSORS | {"weights.0": np.ones((3, 2), np.float32)},
    "another dtype": TENSORS | {"weights.0": np.ones((2, 3), np.float64)},
    "half precision": {name: t.astype(np.float16) for name, t in TENSORS.items()},
    "integers": TENSORS | {"weights.0": np.ones((2, 3), np.int32)},
    "nan": TENSORS | {"weights.0": np.full((2, 3), np.nan, np.float32)},
    "infinity": TENSORS | {"biases.1": np.full(1, np.inf, np.float32)},
    "flat": {name: t.reshape(-1) for name, t in TENSORS.items()},
    "no bytes": TENSORS | {"weights.0": np.ones((2**40, 0), np.float32)},
}


@pytest.mark.parametrize("tensors", WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
def test_wrong_tensors_are_refused(tmp_path, tensors):
    path = write(tmp_path / "damaged.safetensors", document(), tensors)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
        load(path)


def test_a_newer_version_is_refused_clearly(tmp_path):
    path = write(tmp_path / "n", {"format": 4, "kind": "forest", "network": "of another shape"})
    with pytest.raises(ValueError, match=r"has format 4, but this mlp_xp reads up to 3: upgrade it"):
        load(path)


GOOD = (FILES / "format_1_table.safetensors").read_bytes()
HEADER = struct.unpack("<Q", GOOD[:8])[0]


def lying(length):
    return struct.pack("<Q", length) + GOOD[8:]


BYTES = {
    "empty": b"",
    "seven bytes": GOOD[:7],
    "header cut": GOOD[: 8 + HEADER // 2],
    "tensors cut": GOOD[:-1],
    "tensors missing": GOOD[: 8 + HEADER],
    "a byte too many": GOOD + b"\0",
    "text": b"a,b,c\n1,2,3\n",
    "zeros": bytes(4096),
    "header longer than the file": lying(len(GOOD)),
    "header of exabytes": lying(2**63),
    "header of 2^64 - 1 bytes": lying(2**64 - 1),
    "header too short": lying(HEADER - 1),
    "header of no bytes": lying(0),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "not UTF-8": GOOD[:20] + b"\xff\xfe" + GOOD[22:],
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES.keys())
def test_bytes_that_are_no_model_file_are_refused(tmp_path, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.safetensors is (not a model file|damaged)"):
        load(path)


@pytest.mark.parametrize("shape", [[2**62, 4], [2**31, 2**31], [10**30], [-1, 3]])
def test_a_shape_that_lies_is_refused(tmp_path, shape):
    header = {
        "__metadata__": {"mlp_xp": json.dumps(document())},
        "weights.0": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "n").write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with pytest.raises(ValueError, match="is not a model file of mlp_xp, or is cut short"):
        load(tmp_path / "n")


def test_a_file_of_another_program_is_refused(tmp_path):
    (tmp_path / "n").write_bytes(safetensors.numpy.save(TENSORS, {"format": "pt"}))
    with pytest.raises(ValueError, match="it has no metadata under 'mlp_xp'"):
        load(tmp_path / "n")
    (tmp_path / "n").write_bytes(safetensors.numpy.save(TENSORS))
    with pytest.raises(ValueError, match="it has no metadata under 'mlp_xp'"):
        load(tmp_path / "n")


@settings(max_examples=200, deadline=None)
@property_given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_byte_or_a_cut_gives_a_model_or_our_error(tmp_path_factory, at, byte, cut):
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(GOOD[:at] if cut else GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])
    try:
        loaded = load(path)
    except ValueError as error:
        loaded, said = None, str(error)
    assert isinstance(loaded, TableModel) if loaded else "changed.safetensors" in said


def test_a_bit_that_turned_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "m.safetensors"
    save(Network((2, 3, 1), activation="tanh", dtype="float32"), path)
    content = path.read_bytes()
    assert load(path).layer_sizes == (2, 3, 1)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"m\.safetensors (is (not a model file|damaged)|has format)"):
            load(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*none"):
        load(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="is a folder: name a model file"):
        load(tmp_path)


def test_nothing_in_a_file_is_run_or_imported():
    text = (ROOT / "mlp_xp" / "saved" / "model_file.py").read_text()
    assert not any(word in text for word in ("pickle", "eval(", "exec(", "importlib", "getattr("))
