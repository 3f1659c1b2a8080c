"""A run goes on from its last checkpoint to the very same model, however it was cut off."""

import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from arrays import readonly

from mlp_xp import Loader, Network, train
from mlp_xp.machine.whole_file import PART
from mlp_xp.rows import fingerprint as fingerprints
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.rows.fingerprint import fingerprint, same_data
from mlp_xp.saved.checkpoint import KEPT, Checkpoints, decode, encode
from mlp_xp.settings.interval import Interval

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /sys")

WAYS = {
    "adam with dropout": {"optimizer": "adam", "dropout": 0.2, "schedule": "cosine"},
    "nesterov on a plateau": {"optimizer": "nesterov", "schedule": "reduce_on_plateau:patience=1"},
    "nadam, clipped, penalised": {"optimizer": "nadam", "clip_norm": 0.5, "regularizer": "l1"},
    "sgd, inverse scaling": {"optimizer": "sgd", "schedule": "inverse_scaling:power=0.2"},
    "rmsprop, one cycle": {"optimizer": "rmsprop", "schedule": "one_cycle"},
}


@pytest.fixture
def rows():
    generator = np.random.default_rng(7)
    x = generator.normal(size=(150, 3))
    return readonly(x), readonly(np.sin(2 * x[:, :1]) + 0.1 * x[:, 1:2])


def start(rows, device, **options):
    """A new network and loader, and the arguments of a run of five epochs of five steps."""
    x, y = rows
    network = Network((3, 8, 8, 1), device=device, seed=3)
    held_out = Loader(x[120:], y[120:], batch_size="full")
    return (
        network,
        Loader(x[:120], y[:120], batch_size=25, seed=5),
        {"validation": held_out, "max_epochs": 5, "learning_rate": 0.01, **options},
    )


def outcome(network, epoch):
    history = epoch.training.history
    return network.parameters.to_host().tobytes(), history.train_losses, history.validation_losses


@pytest.mark.parametrize("way", WAYS)
def test_a_run_resumed_after_every_epoch_is_the_undisturbed_one(way, rows, device):
    network, loader, options = start(rows, device, keep="best", **WAYS[way])
    *_, last = train(network, loader, **options)
    other, loader, options = start(rows, device, keep="best", **WAYS[way])
    state = None
    for _ in range(4):
        epoch = next(train(other, loader, state=state, **options))
        state = epoch.state()
        other, loader, options = start(rows, device, keep="best", **WAYS[way])
    *_, epoch = train(other, loader, state=state, **options)
    assert outcome(other, epoch) == outcome(network, last)


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("step", [1, 4, 5, 6, 13, 24, 25])
@pytest.mark.parametrize("way", list(WAYS)[:2])
def test_a_run_cut_off_after_any_step_ends_as_if_it_had_not_been(way, step, rows, device, tmp_path):
    network, loader, options = start(rows, device, **WAYS[way])
    *_, last = train(network, loader, **options)

    class CutOff(Checkpoints):
        def asks_in(self, training):
            return 1

        def after_step(self, training):
            super().after_step(training)
            if training.history.step == step:
                raise CutOffError

    other, loader, options = start(rows, device, **WAYS[way])
    with CutOff(tmp_path, "1steps") as checkpoints, pytest.raises(CutOffError):
        list(train(other, loader, checkpoints=checkpoints, **options))

    other, loader, options = start(rows, device, **WAYS[way])
    with Checkpoints(tmp_path, "1steps") as checkpoints:
        state = checkpoints.latest()
        assert checkpoints.resumed_from == {"epoch": (step - 1) // 5, "step": step}
        *_, epoch = train(other, loader, checkpoints=checkpoints, state=state, **options)
    assert outcome(other, epoch) == outcome(network, last)


def test_a_finished_run_has_nothing_left_to_do(rows, device):
    network, loader, options = start(rows, device)
    *_, last = train(network, loader, **options)
    state = last.state()
    assert list(train(network, loader, state=state, **options)) == []


@pytest.mark.needs("scipy")
def test_lbfgs_goes_on_as_a_run_that_forgot_its_gradients_there(rows, device):
    x, y = rows

    def run(state, n_iterations):
        network = Network((3, 8, 1), device=device, dtype="float64", activation="tanh")
        loader = Loader(x, y, batch_size="full")
        epochs = train(network, loader, optimizer="lbfgs", max_epochs=9, state=state)
        for epoch in epochs:
            if epoch.number == n_iterations:
                break
        return network.parameters.to_host(), epoch.state()

    halfway, state = run(None, 4)
    with pytest.warns(UserWarning, match="L-BFGS goes on from its weights with an empty memory"):
        resumed, _ = run(state, 9)
    restarted = Network((3, 8, 1), device=device, dtype="float64", activation="tanh")
    restarted.parameters.flat[...] = restarted.backend.asarray(halfway)
    list(train(restarted, Loader(x, y, batch_size="full"), optimizer="lbfgs", max_epochs=5))
    np.testing.assert_array_equal(resumed, restarted.parameters.to_host())


def test_going_on_somewhere_else_is_said(rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()
    other, loader, options = start(rows, device)
    elsewhere = dataclasses.replace(state, where="cuda:7, 3 processes")
    said = rf"a run on cuda:7, 3 processes goes on with {device}.*, 1 process: .* up to rounding"
    with pytest.warns(UserWarning, match=said):
        next(train(other, loader, state=elsewhere, **options))


def test_a_state_of_another_network_is_refused_and_changes_nothing(rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()
    x, y = rows
    other = Network((3, 4, 1), device=device)
    before = other.parameters.to_host()
    with pytest.raises(ValueError, match="go on with the same"):
        train(other, Loader(x, y, batch_size=25), state=state)
    np.testing.assert_array_equal(other.parameters.to_host(), before)


def run_into(folder, rows, device, every="1epoch", epochs=5, **given):
    network, loader, options = start(rows, device)
    with Checkpoints(folder, every, **given) as checkpoints:
        state = checkpoints.latest()
        for _ in train(
            network, loader, checkpoints=checkpoints, state=state, **options | {"max_epochs": epochs}
        ):
            pass
        return network, checkpoints


def test_the_last_few_are_kept(rows, device, tmp_path):
    _, checkpoints = run_into(tmp_path, rows, device)
    assert [path.name[:20] for path in checkpoints.paths()] == [
        f"checkpoint-{number:09d}" for number in (5, 4, 3)
    ]
    assert len(checkpoints.paths()) == KEPT


@pytest.mark.parametrize(("every", "due"), [("10steps", [10, 20]), ("2epochs", [2, 4])])
def test_a_run_that_goes_on_writes_when_it_would_have_written(every, due, rows, device, tmp_path):
    for last_epoch in (2, 4):
        network, loader, options = start(rows, device)
        with Checkpoints(tmp_path, every) as checkpoints:
            state = checkpoints.latest()
            for epoch in train(network, loader, checkpoints=checkpoints, state=state, **options):
                if epoch.number == last_epoch:
                    break
            names = [re.findall(r"[0-9]+", path.stem) for path in reversed(checkpoints.paths())]
        assert [int(epoch if "epoch" in every else step) for epoch, step in names] == due[: last_epoch // 2]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(rows, device, tmp_path):
    _, checkpoints = run_into(tmp_path, rows, device, epochs=3)
    latest, before, first = checkpoints.paths()
    content = bytearray(latest.read_bytes())
    content[-5] ^= 1
    latest.write_bytes(content)
    with Checkpoints(tmp_path) as again, pytest.warns(UserWarning, match=latest.name):
        state = again.latest()
    assert len(state.numbers["train_losses"]) == 2
    for path in (before, first):
        path.write_bytes(path.read_bytes()[:100])
    with Checkpoints(tmp_path) as again, pytest.raises(ValueError, match="no good checkpoint"):
        again.latest()


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_checkpoint_that_is_a_link_is_neither_read_nor_written_through(rows, device, tmp_path):
    _, checkpoints = run_into(tmp_path / "c", rows, device, epochs=2)
    latest, _ = checkpoints.paths()
    others = tmp_path / "of somebody"
    latest.rename(others)
    before = others.read_bytes()
    latest.symlink_to(others)
    network, loader, options = start(rows, device)
    with Checkpoints(tmp_path / "c", "1epoch") as again:
        with pytest.warns(UserWarning, match="is a link, which is not followed here"):
            state = again.latest()
        next(train(network, loader, **options, checkpoints=again, state=state))
    assert others.read_bytes() == before
    assert not latest.is_symlink()


def test_later_files_that_cannot_be_read_take_no_good_checkpoint_with_them(rows, device, tmp_path):
    run_into(tmp_path, rows, device, epochs=2)
    for number in (7, 8, 9):
        (tmp_path / f"checkpoint-{number:09d}-{number:012d}.safetensors").write_bytes(b"\0" * 200)
    network, loader, options = start(rows, device)
    with Checkpoints(tmp_path, "1epoch") as again:
        with pytest.warns(UserWarning, match="000000007.* is damaged .it does not begin like one.: going on"):
            state = again.latest()
        list(train(network, loader, **options, checkpoints=again, state=state))
        with pytest.warns(UserWarning, match="going on from"):
            assert len(again.latest().numbers["train_losses"]) == options["max_epochs"]


def test_a_checkpoint_larger_than_memory_is_not_called_damaged(rows, device, tmp_path, monkeypatch):
    run_into(tmp_path, rows, device, epochs=2)
    monkeypatch.setattr("mlp_xp.machine.main_memory.total", lambda: 100)
    with Checkpoints(tmp_path) as again, pytest.raises(MemoryError, match="this machine has 100"):
        again.latest()


def test_a_file_that_only_seems_large_is_looked_at_before_it_is_read(rows, device, tmp_path):
    run_into(tmp_path, rows, device, epochs=2)
    path = tmp_path / f"checkpoint-{9:09d}-{9:012d}.safetensors"
    path.touch()
    os.truncate(path, 200 << 30)
    with Checkpoints(tmp_path) as again, pytest.warns(UserWarning, match="is damaged"):
        assert len(again.latest().numbers["train_losses"]) == 2


@pytest.mark.parametrize("position", range(0, 4000, 97))
def test_one_wrong_bit_anywhere_is_noticed(position, rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()
    content = bytearray(encode(state, {"a": 1}, "x"))
    content[position % len(content)] ^= 4
    with pytest.raises(ValueError, match=r".+"):
        decode(bytes(content))


def test_vectors_that_are_alike_are_written_once_and_come_back_apart(rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()
    state.arrays["best"][0], state.arrays["parameters"][0] = -0.0, 0.0  # equal, and not the same bits
    state.arrays["last_good"][:] = state.arrays["parameters"]
    content = encode(state, {}, None)
    found, _, _ = decode(content)
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in state.arrays.items()
    }
    assert not np.shares_memory(found.arrays["last_good"], found.arrays["parameters"])
    state.arrays["last_good"][1] += 1
    assert len(encode(state, {}, None)) > len(content) + state.arrays["parameters"].nbytes


def test_other_options_or_data_are_refused_and_named(rows, device, tmp_path):
    run_into(tmp_path, rows, device, configuration={"hidden": "8", "seed": 0}, data="a", epochs=2)
    with Checkpoints(tmp_path, configuration={"hidden": "9", "seed": 0}, data="b") as other:
        with pytest.raises(ValueError, match=r"hidden: '8' then, '9' now; the data"):
            other.latest()
        assert other.latest(override=True) is not None


def test_two_runs_in_one_folder(tmp_path):
    with Checkpoints(tmp_path), pytest.raises(RuntimeError, match="another run"):
        Checkpoints(tmp_path)
    Checkpoints(tmp_path).close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("on_error", ["go on", "stop"])
def test_a_disk_that_is_full_or_read_only_or_broken(on_error, number, rows, device, tmp_path, monkeypatch):
    _, checkpoints = run_into(tmp_path, rows, device, epochs=2)
    content = [path.read_bytes() for path in checkpoints.paths()]

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    if on_error == "stop":
        with pytest.raises(OSError, match="Earlier checkpoints are untouched"):
            run_into(tmp_path, rows, device, on_error=on_error)
    else:
        with pytest.warns(UserWarning, match=re.escape(os.strerror(number))):
            run_into(tmp_path, rows, device, on_error=on_error)
    assert [path.read_bytes() for path in checkpoints.paths()] == content
    assert {path.name for path in tmp_path.iterdir()} == {
        "lock",
        *(path.name for path in checkpoints.paths()),
    }


@pytest.mark.parametrize("folder", ["file/run", pytest.param("/sys/mlp-xp", marks=linux)])
def test_a_folder_that_cannot_be_written_to(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the checkpoint folder .* cannot be written to: .* Name another one"):
        Checkpoints(tmp_path / folder)


@pytest.mark.parametrize("on_error", ["go on", "stop"])
def test_a_folder_that_is_deleted_under_way(on_error, rows, device, tmp_path):
    network, loader, options = start(rows, device)
    with Checkpoints(tmp_path / "run", "1epoch", on_error=on_error) as checkpoints:
        epochs = train(network, loader, checkpoints=checkpoints, **options)
        next(epochs)
        shutil.rmtree(tmp_path / "run")
        if on_error == "stop":
            with pytest.raises(OSError, match="run was deleted under way"):
                next(epochs)
            return
        with pytest.warns(UserWarning, match="run was deleted under way: it is made again"):
            next(epochs)
        with pytest.raises(RuntimeError, match="another run"):
            Checkpoints(tmp_path / "run")
        list(epochs)
        assert len(checkpoints.latest().numbers["train_losses"]) == 5


def test_what_a_killed_run_had_not_finished_is_taken_away(tmp_path):
    (tmp_path / PART.replace("*", "0123")).write_bytes(b"half of a checkpoint")
    Checkpoints(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_run_that_diverges_takes_no_good_checkpoint_with_it(device, tmp_path):
    x = np.linspace(-1, 1, 400).reshape(-1, 1)

    def run(state, **options):
        network = Network((1, 1), device=device)
        loader = Loader(x, 3 * x, batch_size=4)
        return train(network, loader, optimizer="sgd", checkpoints=checkpoints, state=state, **options)

    with Checkpoints(tmp_path, "1steps") as checkpoints:
        next(run(None, learning_rate=0.1))
        with pytest.raises(FloatingPointError, match="became infinite or nan in epoch 2"):
            list(run(checkpoints.latest(), learning_rate=1e30))
        assert len(checkpoints.paths()) == KEPT
        state = checkpoints.latest()
        assert all(np.isfinite(array).all() for array in state.arrays.values())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"step": -1}, "step can not be -1"),
        ({"step": 10**9}, "at step 1000000000 after 1 epochs of 5"),
        ({"step": True}, "step can not be True"),
        ({"train_losses": [[1.0]]}, r"train_losses can not be \[\[1.0\]\]"),
        ({"train_losses": [float("nan")]}, "train_losses"),
        ({"validation_losses": [1.0, 2.0]}, "do not fit 1 epochs"),
        ({"best_epoch": 2}, "do not fit 1 epochs"),
        ({"last_rate": None}, "last_rate can not be None"),
        ({"steps_per_epoch": 0}, "steps_per_epoch can not be 0"),
        ({"t": 10**30}, "t can not be"),
    ],
)
def test_a_checkpoint_that_lies_with_the_right_checksum(changed, said, rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()
    decode(encode(state, {}, None))
    with pytest.raises(ValueError, match=said):
        decode(encode(dataclasses.replace(state, numbers=state.numbers | changed), {}, None))


def test_an_epoch_adds_its_losses_as_two_numbers(rows, device):
    network, loader, options = start(rows, device)
    state = next(train(network, loader, **options)).state()

    def size(n_epochs):
        losses = np.random.default_rng(0).normal(size=n_epochs).tolist()
        numbers = {"train_losses": losses, "validation_losses": losses}
        return len(encode(dataclasses.replace(state, numbers=state.numbers | numbers), {}, None))

    assert size(20_000) - size(10_000) <= 10_000 * 2 * 8 + 32


FILES = Path(__file__).parent / "checkpoints"


@pytest.mark.parametrize(
    ("name", "more"), [("format_1", {}), ("format_1_members", {"members": 2})], ids=["one", "members"]
)
def test_a_checkpoint_of_format_1_is_gone_on_with(name, more):
    x = np.linspace(-1, 1, 40).reshape(20, 2)
    y = x[:, :1] * x[:, 1:]

    def run(state):
        network = Network((2, 3, 1), seed=1, dtype="float64", **more)
        held_out = Loader(x[15:], y[15:], batch_size="full")
        options = {"validation": held_out, "max_epochs": 6, "learning_rate": 0.01}
        loader = Loader(x[:15], y[:15], batch_size=5, seed=2)
        *_, last = train(network, loader, state=state, way="plain", **options)
        return last.training.history, network.parameters.to_host()

    state, _, _ = decode((FILES / f"{name}.safetensors").read_bytes())
    assert len(state.numbers["train_losses"]) == 4
    (undisturbed, expected), (resumed, found) = run(None), run(state)
    # Written by another machine perhaps, whose BLAS rounds otherwise.
    np.testing.assert_allclose(resumed.train_losses, undisturbed.train_losses, rtol=1e-9)
    np.testing.assert_allclose(resumed.validation_losses, undisturbed.validation_losses, rtol=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_with_other_batches_the_epoch_under_way_begins_anew(rows, device, tmp_path):
    x, y = rows
    options = {"max_epochs": 4, "learning_rate": 0.01}
    with Checkpoints(tmp_path, "1steps") as checkpoints:
        network, loader = Network((3, 8, 1), device=device), Loader(x, y, batch_size=10)
        epochs = train(network, loader, checkpoints=checkpoints, **options)
        next(epochs)
        checkpoints.interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            next(epochs)
        state = checkpoints.latest()
    assert state.numbers["step"] == 16
    network = Network((3, 8, 1), device=device)
    *_, last = train(network, Loader(x, y, batch_size=50), state=state, **options)
    history = last.training.history
    assert (history.step, len(history.train_losses)) == (1 * 3 + 3 * 3, 4)


def test_an_interruption_ends_after_the_step_with_a_checkpoint(rows, device, tmp_path):
    network, loader, options = start(rows, device)
    with Checkpoints(tmp_path, "1h") as checkpoints:
        # Plain steps come one by one; an interruption waits for all that were handed over together.
        epochs = train(network, loader, checkpoints=checkpoints, way="plain", **options)
        next(epochs)
        checkpoints.interrupt(2)
        with pytest.raises(KeyboardInterrupt):
            next(epochs)
        state = checkpoints.latest()
    assert state.numbers["step"] == 6
    np.testing.assert_array_equal(state.arrays["parameters"], network.parameters.to_host())


def test_how_often():
    assert Interval.parse("5min") == Interval(300.0, "seconds")
    assert Interval.parse("2h") == Interval(7200.0, "seconds")
    assert Interval.parse("3epochs") == Interval(3.0, "epochs")
    for wrong in ("", "5", "min", "0steps", "-1epoch", "1day"):
        with pytest.raises(ValueError, match="checkpoint_every"):
            Interval.parse(wrong)


def test_the_fingerprint_sees_every_kind_of_change(rng):
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    of = {fingerprint(ArraySource(readonly(x), readonly(y)))}
    for part in (x, y):
        part.flat[-1] += 1e-12
        of.add(fingerprint(ArraySource(readonly(x), readonly(y))))
    of.add(fingerprint(ArraySource(readonly(x), readonly(y), readonly(np.ones(50)))))
    of.add(fingerprint(ArraySource(readonly(x[:49]), readonly(y[:49]))))
    x[17, 1] += 1e-12  # a row among many
    of.add(fingerprint(ArraySource(readonly(x), readonly(y))))
    assert len(of) == 6
    assert fingerprint(ArraySource(readonly(x), readonly(y))) in of


def test_rollback_goes_on_with_half_the_rate(device):
    x = np.linspace(-1, 1, 40).reshape(-1, 1)
    network = Network((1, 1), device=device)
    loader = Loader(x, 3 * x, batch_size="full")
    with pytest.warns(UserWarning, match="Rolled back"):
        *_, last = train(
            network, loader, optimizer="sgd", learning_rate=40.0, max_epochs=400, on_divergence="rollback"
        )
    assert last.training.history.rollbacks >= 1
    assert last.learning_rate == 40.0 * 0.5**last.training.history.rollbacks
    assert last.train_loss < 1e-3


TWICE = """
    import sys, time
    from mlp_xp import Loader, Network, train
    from mlp_xp.saved.checkpoint import Checkpoints, interruptible

    class Slow:
        n_rows, n_features, n_targets, has_weights = 8, 1, 1, False
        def rows(self, index, x, y, weight):
            print("gathering", flush=True)
            time.sleep(600)

    with Checkpoints(sys.argv[1]) as checkpoints, interruptible(checkpoints):
        list(train(Network((1, 1)), Loader(Slow()), checkpoints=checkpoints))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can handle")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TWICE), tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "gathering\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):  # the first one waits for the step under way
        process.wait(timeout=0.5)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number


SIGNALLED = """
    import os, signal, sys
    import numpy as np
    from mlp_xp import Loader, Network, train
    from mlp_xp.saved.checkpoint import Checkpoints, interruptible
    x = np.linspace(-1, 1, 64).reshape(-1, 1)
    with Checkpoints(sys.argv[1], "1h") as checkpoints, interruptible(checkpoints):
        try:
            for epoch in train(Network((1, 4, 1)), Loader(x, x, batch_size=8), checkpoints=checkpoints):
                os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            sys.exit(128 + checkpoints.interrupted_by)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can handle")
def test_sigterm_leaves_a_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SIGNALLED), tmp_path], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (143, "")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest().numbers["step"] == 9


KILLED = """
    import sys
    import numpy as np
    from mlp_xp import Loader, Network, train
    from mlp_xp.saved.checkpoint import Checkpoints
    generator = np.random.default_rng(0)
    x = generator.normal(size=(600, 3))
    network, loader = Network((3, 8, 1)), Loader(x, np.sin(x[:, :1]), batch_size=8)
    with Checkpoints(sys.argv[1], "7steps") as checkpoints:
        print("running", flush=True)
        for epoch in train(
            network, loader, dropout=0.1, max_epochs=12, checkpoints=checkpoints, state=checkpoints.latest()
        ):
            print(epoch.number, flush=True)
    print(network.parameters.to_host().tobytes().hex(), flush=True)
"""


def test_sigkill_at_any_moment(tmp_path):
    def run(folder):
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), folder], stdout=subprocess.PIPE, text=True
        )

    undisturbed, _ = run(tmp_path / "undisturbed").communicate()
    generator = np.random.default_rng(1)
    for _ in range(4):
        process = run(tmp_path / "killed")
        for _ in range(generator.integers(1, 4)):
            process.stdout.readline()
        process.kill()
        process.communicate()
    last, _ = run(tmp_path / "killed").communicate()
    assert last.splitlines()[-1] == undisturbed.splitlines()[-1]


def test_the_fingerprint_of_many_rows_sees_each_of_them(monkeypatch, rng):
    x, y = rng.normal(size=(5_000, 3)), rng.normal(size=5_000)
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 1_000)
    before = fingerprint(ArraySource(readonly(x), readonly(y)))
    assert same_data(before, before)
    assert same_data(before.partition(":")[0], before)  # that of an earlier checkpoint
    y[3] += 1e-12  # none of the 1,024
    after = fingerprint(ArraySource(readonly(x), readonly(y)))
    assert after.partition(":")[0] == before.partition(":")[0]
    assert not same_data(before, after)
    assert not same_data(None, after)
