"""An activation, a loss and an update rule added as CONTRIBUTING says: one class and one line each.

Nothing else knows them, and nothing else fails: they train on the plain way, whatever way is asked for, in
the command line and in the estimators, and an ONNX file says in one sentence what is missing.
"""

import dataclasses

import numpy as np
import pytest
from arrays import host
from command_line import runner

from mlp_xp import Loader, Network, load, save, train
from mlp_xp.activations import ACTIVATIONS, Activation
from mlp_xp.fast import on_cpu
from mlp_xp.losses import LOSSES, Pointwise
from mlp_xp.optimizers import OPTIMIZERS, Rule


@dataclasses.dataclass(frozen=True)
class Softsign(Activation):
    """f(z) = z / (1 + |z|), f' = (1 − |a|)²."""

    keeps_output = True

    def forward(self, backend, z, kept):
        z /= 1.0 + backend.xp.abs(z)

    def derivative(self, backend, kept):
        return (1.0 - backend.xp.abs(kept)) ** 2


@dataclasses.dataclass(frozen=True)
class LogCosh(Pointwise):
    """L = log cosh(z − y), δ = tanh(z − y)."""

    def differentiate(self, backend, z, y):
        z -= y
        size = backend.xp.abs(z)
        value = size + backend.xp.log1p(backend.xp.exp(-2.0 * size)) - np.log(2.0)
        backend.into(z, backend.xp.tanh, z)
        return value


@dataclasses.dataclass(frozen=True)
class SignDescent(Rule):
    """p ← p − η sign(g)."""

    def update(self, xp, t, rate, p, g):
        p -= rate * xp.sign(g)


X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.sin(X[:, :1]) + X[:, 1:2]


@pytest.fixture(autouse=True)
def new_pieces(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "softsign", Softsign)
    monkeypatch.setitem(LOSSES, "log_cosh", LogCosh)
    monkeypatch.setitem(OPTIMIZERS, "sign_descent", SignDescent)


NEW = [
    {"activation": "softsign"},
    {"loss": "log_cosh"},
    {"optimizer": "sign_descent"},
    {"activation": "softsign", "loss": "log_cosh", "optimizer": "sign_descent"},
]


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("way", ["plain", "fused", "fast"])
def test_they_train_in_every_way(new, way, monkeypatch):
    monkeypatch.setattr(on_cpu, "first_compiled_step", lambda *_: 3)  # long before the end
    options = {"activation": "tanh", "loss": "squared_error", "optimizer": "adam", **new}

    def weights(way):
        network = Network((3, 6, 1), activation=options["activation"], seed=1, dtype="float64")
        loader = Loader(X, Y, batch_size=10)
        rest = {"loss": options["loss"], "optimizer": options["optimizer"]}
        losses = [epoch.train_loss for epoch in train(network, loader, way=way, max_epochs=10, **rest)]
        assert losses[-1] < losses[0]
        return host(network.parameters.flat)

    np.testing.assert_allclose(weights(way), weights("plain"), rtol=1e-7, atol=1e-9)


def test_they_have_the_gradients_that_they_state():
    network = Network((3, 6, 1), activation="softsign", seed=1, dtype="float64")
    _, gradient = network.gradient(X, Y, loss="log_cosh")
    flat, h = network.parameters.flat, 1e-6
    for at in range(flat.size):
        kept, ends = flat[at], []
        for step in (h, -h):
            flat[at] = kept + step
            ends.append(network.gradient(X, Y, loss="log_cosh")[0])
        flat[at] = kept
        assert gradient.flat[at] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


def test_files_have_them_by_name(tmp_path):
    network = Network((3, 6, 1), activation="softsign", seed=1)
    save(network, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load(tmp_path / "model.safetensors").predict(X), network.predict(X))


@pytest.mark.needs("sklearn")
def test_the_estimators_have_them():
    from mlp_xp import MLPRegressor

    fitted = MLPRegressor(
        hidden_layer_sizes=(6,),
        activation="softsign",
        loss="huber",
        solver="sign_descent",
        max_iter=50,
        tol=1.0,
    ).fit(X, Y[:, 0])
    assert np.isfinite(fitted.predict(X)).all()


def test_the_command_line_and_the_report_have_them(tmp_path, capsys):
    table = tmp_path / "table.csv"
    np.savetxt(table, np.hstack([X, Y]), delimiter=",", header="a,b,c,y", comments="")
    outcome = runner(capsys)(
        *("train", str(table), "--target", "y", "--epochs", "3", "--hidden", "6"),
        *("--activation", "softsign", "--loss", "log_cosh", "--optimizer", "sign_descent"),
        *("--out", str(tmp_path / "run"), "--report", str(tmp_path / "report.html")),
    )
    assert outcome.status == 0, outcome.err
    assert "softsign" in (tmp_path / "report.html").read_text()


@pytest.mark.needs("onnx")
def test_an_onnx_file_says_what_is_missing(tmp_path):
    from mlp_xp.saved.onnx_file import export_onnx

    with pytest.raises(ValueError, match=r"the activation 'softsign' has no form in ONNX's operators yet"):
        export_onnx(Network((3, 6, 1), activation="softsign"), tmp_path / "model.onnx")
