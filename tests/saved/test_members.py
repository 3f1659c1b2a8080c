"""Networks with members in files: one model file, one ONNX graph, one checkpoint."""

import numpy as np
import pytest

from mlp_xp import Loader, Network, load, save, train
from mlp_xp.losses import GroupedSoftmaxLink, SortedLink
from mlp_xp.saved.checkpoint import Checkpoints, decode, encode
from mlp_xp.saved.onnx_file.model import onnx_bytes

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")


def network(n_outputs=2, **options):
    made = Network((3, 6, n_outputs), members=4, input_scale=True, seed=5, **options)
    made.parameters.flat[...] += 0.1
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_file_has_all_members(tmp_path, bias):
    saved = network(bias=bias)
    save(saved, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.members == 4
    np.testing.assert_array_equal(loaded.parameters.flat, saved.parameters.flat)
    np.testing.assert_array_equal(loaded.predict(X, members="all"), saved.predict(X, members="all"))
    save(saved.each()[2], tmp_path / "one.safetensors")
    one = load(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(one.predict(X), saved.predict(X, members="all")[2])


@pytest.mark.parametrize("members", [0, 3, "4", -1])
def test_a_wrong_number_of_members_is_refused(tmp_path, members, monkeypatch):
    from mlp_xp.saved import model_file

    described = model_file._network_description
    monkeypatch.setattr(
        model_file, "_network_description", lambda given: described(given) | {"members": members}
    )
    save(network(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("loss", "link", "n_outputs"),
    [
        ("squared_error", None, 2),
        ("softmax_cross_entropy", None, 3),
        ("binary_cross_entropy", None, 1),
        ("squared_error", SortedLink(3), 6),
        ("squared_error", GroupedSoftmaxLink((2, 3)), 5),
    ],
)
def test_an_onnx_file_gives_the_mean(loss, link, n_outputs):
    runtime = pytest.importorskip("onnxruntime")
    given = network(n_outputs, activation="tanh")
    labels = loss == "softmax_cross_entropy"
    y = np.arange(40) % 2 if labels else np.full((40, n_outputs), 0.5)
    list(train(given, Loader(X, y), loss=loss, max_epochs=1))
    given.output = link or given.output
    session = runtime.InferenceSession(onnx_bytes(given, matrix_input=True))
    *_, found = session.run(None, {"X": X})
    np.testing.assert_allclose(found, given.predict(X), rtol=2e-5, atol=1e-6)


def test_a_run_of_members_goes_on_from_a_checkpoint(tmp_path):
    def run(folder, max_epochs, state=None):
        given = network(1, dtype="float64")
        y = X[:, :1] - X[:, 1:2]
        with Checkpoints(folder, "1epoch") as checkpoints:
            options = {"learning_rate": [0.1, 0.01, 0.003, 0.001], "patience": 2, "tolerance": 0.01}
            rows = Loader(X, y, batch_size=8)
            state = checkpoints.latest()
            for epoch in train(given, rows, max_epochs=9, checkpoints=checkpoints, state=state, **options):
                if epoch.number == max_epochs:
                    break
        return given.parameters.to_host()

    run(tmp_path / "a", 4)
    np.testing.assert_array_equal(run(tmp_path / "a", 9), run(tmp_path / "b", 9))


@pytest.mark.parametrize("wrong", [{"stopped": 3}, {"step": "a"}, {"behind": -1}, None])
def test_a_checkpoint_whose_members_are_none_is_refused(wrong):
    given = network(1)
    state = next(iter(train(given, Loader(X, X[:, :1]), max_epochs=3))).state()
    members = state.numbers["members"]
    state.numbers["members"] = [{**members[0], **wrong}, *members[1:]] if wrong else []
    with pytest.raises(ValueError, match="members"):
        decode(encode(state, {}, None))
