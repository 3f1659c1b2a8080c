"""An activation, a loss and an update rule added as CONTRIBUTING says: one class and one line each.

Nothing else knows them, and they are everywhere: in compiled steps, CUDA kernels, ONNX files, the command
line, the estimators and the report. One that is more than a formula of each element trains on the plain way,
and an export says so in one sentence.
"""

import dataclasses
import functools

import numpy as np
import pytest
from arrays import host
from command_line import runner
from stand_ins.stand_in_engine import StandInEngine

from mlp_xp import Loader, Network, load, save, train, training_loop
from mlp_xp.activations import ACTIVATIONS, Activation
from mlp_xp.fast import on_cpu
from mlp_xp.fast.on_cuda import CudaStep
from mlp_xp.losses import LOSSES, Link, Pointwise
from mlp_xp.optimizers import OPTIMIZERS, Rule
from mlp_xp.step import Step


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
    """m ← ½ m + ½ g, p ← p − η sign(m)."""

    state = ("m",)

    def move(self, xp, h, p, g, m):
        (rate,) = h
        m *= 0.5
        m += 0.5 * g
        p -= rate * xp.sign(m)


@dataclasses.dataclass(frozen=True)
class Arctan(Activation):
    """f(z) = arctan z, f' = 1 / (1 + z²): nobody has written the arc tangent in other languages."""

    def forward(self, backend, z, kept):
        if kept is not None:
            kept[...] = 1.0 / (1.0 + z * z)
        backend.into(z, backend.xp.atan, z)

    def derivative(self, backend, kept):
        return kept


@dataclasses.dataclass(frozen=True)
class ArctanError(Pointwise):
    """With r = z − y: L = r arctan r − log(1 + r²) / 2, δ = arctan r."""

    def differentiate(self, backend, z, y):
        z -= y
        slope = backend.xp.atan(z)
        value = z * slope - 0.5 * backend.xp.log1p(z * z)
        z[...] = slope
        return value


@dataclasses.dataclass(frozen=True)
class ArctanDescent(Rule):
    """p ← p − η arctan g."""

    def move(self, xp, h, p, g):
        (rate,) = h
        p -= rate * xp.atan(g)


@dataclasses.dataclass(frozen=True)
class Centred(Activation):
    """f(z) = z less the mean of its row."""

    def forward(self, backend, z, kept):
        z -= backend.xp.mean(z, axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class ArctanLink(Link):
    """Predictions are arctan z."""

    def __call__(self, backend, z):
        return backend.into(z, backend.xp.atan, z)


X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.sin(X[:, :1]) + X[:, 1:2]


@pytest.fixture(autouse=True)
def new_pieces(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "softsign", Softsign)
    monkeypatch.setitem(ACTIVATIONS, "arctan", Arctan)
    monkeypatch.setitem(ACTIVATIONS, "centred", Centred)
    monkeypatch.setitem(LOSSES, "log_cosh", LogCosh)
    monkeypatch.setitem(LOSSES, "arctan_error", ArctanError)
    monkeypatch.setitem(OPTIMIZERS, "sign_descent", SignDescent)
    monkeypatch.setitem(OPTIMIZERS, "arctan_descent", ArctanDescent)


NEW = [
    {"activation": "softsign"},
    {"loss": "log_cosh"},
    {"optimizer": "sign_descent"},
    {"activation": "softsign", "loss": "log_cosh", "optimizer": "sign_descent"},
]
WITHOUT_FORM = [{"activation": "arctan"}, {"loss": "arctan_error"}, {"optimizer": "arctan_descent"}]


def trained(activation="tanh", loss="squared_error", optimizer="adam", way="plain"):
    """The weights after a training."""
    network = Network((3, 6, 1), activation=activation, seed=1, dtype="float64")
    named = {"loss": loss, "optimizer": optimizer, "way": way, "max_epochs": 10}
    losses = [epoch.train_loss for epoch in train(network, Loader(X, Y, batch_size=10), **named)]
    assert losses[-1] < losses[0]
    return host(network.parameters.flat)


@pytest.mark.parametrize("new", [*NEW, *WITHOUT_FORM])
@pytest.mark.needs("numba", "scipy")
def test_they_are_compiled_where_they_are_formulas(new, monkeypatch):
    monkeypatch.setattr(on_cpu, "first_compiled_step", lambda *_: 3)  # long before the end
    made, make_steps = [], on_cpu.CpuStep._make_steps
    monkeypatch.setattr(
        on_cpu.CpuStep, "_make_steps", lambda *given: made.append(make_steps(*given)) or made[-1]
    )
    np.testing.assert_allclose(trained(**new, way="fast"), trained(**new), rtol=1e-7, atol=1e-9)
    assert bool(made) == (new in NEW)


@pytest.mark.parametrize("new", [*NEW, *WITHOUT_FORM])
def test_they_are_kernels_where_they_are_formulas(new, monkeypatch):
    engine = StandInEngine()
    step = functools.partial(CudaStep, engine=engine)
    monkeypatch.setattr(training_loop, "ways", lambda _, way, **named: Step if way == "plain" else step)
    np.testing.assert_allclose(trained(**new, way="fast"), trained(**new), rtol=1e-7, atol=1e-9)
    kernels = {"activation": "activate", "loss": "differentiate", "optimizer": "update"}
    without = {kernels[kind] for kind in new} if new in WITHOUT_FORM else set()
    assert set(kernels.values()) - set(engine.calls) == without


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
        loss="log_cosh",
        solver="sign_descent",
        max_iter=50,
        tol=1.0,
        random_state=0,
    ).fit(X, Y[:, 0])
    assert np.isfinite(fitted.predict(X)).all()


@pytest.mark.parametrize("new", [NEW[-1], *WITHOUT_FORM])
def test_the_command_line_and_the_report_have_them(new, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(on_cpu, "first_compiled_step", lambda *_: 3)
    table = tmp_path / "table.csv"
    np.savetxt(table, np.hstack([X, Y]), delimiter=",", header="a,b,c,y", comments="")
    outcome = runner(capsys)(
        *("train", str(table), "--target", "y", "--epochs", "3", "--batch-size", "10", "--hidden", "6"),
        *(word for kind, name in new.items() for word in (f"--{kind}", name)),
        *("--out", str(tmp_path / "run"), "--report", str(tmp_path / "report.html")),
    )
    assert outcome.status == 0, outcome.err
    assert "mlp-xp:" not in outcome.err
    assert all(name in (tmp_path / "report.html").read_text() for name in new.values())


@pytest.mark.needs("onnx", "onnxruntime")
def test_an_onnx_file_has_them_or_says_what_is_missing(tmp_path):
    import onnxruntime

    from mlp_xp.saved.onnx_file import export_onnx

    network = Network((3, 6, 1), activation="softsign", seed=1)
    export_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: X.astype("float32")})
    np.testing.assert_allclose(found, network.predict(X), rtol=1e-5, atol=1e-6)
    network = Network((3, 6, 1), activation=["arctan", "centred"])
    network.output = ArctanLink()
    with pytest.raises(ValueError, match="no form") as refused:
        export_onnx(network, tmp_path / "model.onnx")
    assert str(refused.value).splitlines() == [
        f"the {what} has no form in ONNX's operators: {why}. Train with another one."
        for what, why in (
            ("activation 'arctan'", "it uses arctan, which has none"),
            ("activation 'centred'", "it is more than a formula of each element"),
            ("output 'ArctanLink'", "it uses arctan, which has none"),
        )
    ]
