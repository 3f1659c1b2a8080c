"""Whether the suite catches mistakes in the core: ``python -m tests.campaigns.mutations [NUMBER ...]``.

Each mutation is one line of the core changed as a tired author might. A copy of the tree gets one of them at
a time, and the core's tests must fail; at first they must pass without any. The status is 1 where a
mutation was not caught, or is no longer a line of the code.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

TESTS = (
    "tests/algorithm",
    "tests/run",
    "tests/rows",
    "tests/whole/test_gradients.py",
    "tests/saved/test_checkpoint.py",
    "tests/fast/test_on_cpu.py",
)
"""What is run: the core's own tests."""

NEAREST = {"fast": "tests/fast/test_on_cpu.py", "members": "tests/algorithm/test_members_training.py"}
"""What is run first for files of a folder that have no tests of their name."""

MUTATIONS = (
    ("forward.py", "drop(backend, a, step, layer, first_row)", "drop(backend, a, step, layer, 0)"),
    ("forward.py", "weights = into(memo.scaled,", "into(memo.scaled,"),
    ("backprop.py", "delta *= memo.masks[layer - 1]", "delta *= 1.0"),
    ("backprop.py", "gradient.input_scale += of_scale", "gradient.input_scale[...] = of_scale"),
    ("backprop.py", "out += matmul(left, right)", "out[...] = matmul(left, right)"),
    ("activations.py", "return kept - kept * kept", "return kept - kept"),
    ("losses.py", "    part = 0.5", "    part = 1.0"),
    ("losses.py", "z[...] = _sign(backend, z)", "z[...] = -_sign(backend, z)"),
    ("objective.py", "if divisor and (penalty := ", "if (penalty := "),
    ("epoch_losses.py", "/ max(1, sum(map(bool, weights)))", "/ len(weights)"),
    ("dropout.py", "_signed(first_row * ROW + row_key)", "_signed(row_key)"),
    ("initializers.py", "return (n_in + n_out) / 2.0", "return (n_in + n_out) / 1.0"),
    ("regularizers.py", "(2.0 * l2 * scale)", "(l2 * scale)"),
    ("optimizers.py", "p += momentum * v - rate * g", "p += v"),
    ("schedules.py", "max(0.0, progress - self.flat)", "max(0.0, progress)"),
    ("stopping.py", "if lately < before - self.tolerance:", "if lately < before:"),
    ("averaging.py", "max(1.0, min(t, self.span))", "max(1.0, self.span)"),
    ("rows/loader.py", "blocks(gather, first_step * self.batch_size,", "blocks(gather, first_step,"),
    ("rows/batch.py", "self.own_weight += weight", "self.own_weight = weight"),
    ("rows/order.py", "SeedSequence((seed, epoch, stream))", "SeedSequence((seed, 0, stream))"),
    ("run/rates.py", "* 0.5**history.rollbacks", "* 0.5"),
    ("run/state.py", "history.watched[-1] < history.best_loss", "history.watched[-1] <= history.best_loss"),
    ("forward.py", "if memo.way_back and not network.output_is_linear:", "if False:"),
    ("forward.py", "memo.inputs[layer + 1] = a\n", "memo.inputs[layer + 1] = memo.z[layer]\n"),
    ("backprop.py", "gradient.weights[0] += of_weights", "gradient.weights[0][...] = of_weights"),
    ("backprop.py", "activations[-1].chain(backend, delta, memo.kept[-1])", "pass"),
    ("losses.py", "value = bounded * (z - 0.5 * bounded)", "value = bounded * (z - bounded)"),
    ("losses.py", "0.5 * self.label_smoothing", "self.label_smoothing"),
    ("losses.py", "minus_log_p + smoothing * (of_class - ", "minus_log_p - smoothing * (of_class - "),
    ("losses.py", "-math.log(eps), -math.log1p(-eps)", "-math.log(eps), 0.0"),
    ("regularizers.py", "gradient[..., block] += (l1 * scale) * sign", "gradient[..., block] += l1 * sign"),
    ("optimizers.py", 'root if self.eps_on == "corrected" else math.sqrt(1.0 - self.beta2)', "root"),
    ("optimizers.py", "(1.0 - product * self.mu(t + 1))", "(1.0 - product)"),
    ("optimizers.py", "(weights, rate * self.decay_factor)", "(weights, rate)"),
    ("optimizers.py", "min(part.stop, n_weights)", "part.stop"),
    ("optimizers.py", "self.t, rate * factor,", "self.t, rate,"),
    ("schedules.py", "min((history.step + 1) / self.n_steps, 1.0)", "min(history.step / self.n_steps, 1.0)"),
    ("schedules.py", "(scale * self.factor, best, 0)", "(scale * self.factor, best, waited)"),
    ("rows/loader.py", "first_row = share.of(start, stop)[0] - start", "first_row = 0"),
    ("rows/batch.py", "[*rows[:-1], float(stop - starts[-1])]", "rows"),
    ("rows/batch.py", "return float(np.sum(weight, dtype=np.float64))", "return float(np.sum(weight))"),
    ("rows/order.py", "while len(outside):", "if len(outside):"),
    ("rows/order.py", "origin = int(_generator(seed, epoch, _ORIGIN).integers(n_rows))", "origin = 0"),
    ("run/validation.py", "divisor = divisor + batch.own_weight", "divisor = divisor + batch.n_rows"),
    ("run/rates.py", "return More(self.first + start,", "return More(self.first,"),
    ("run/rates.py", "rates.append(self._at(later))", "rates.append(self._at(self.history))"),
    ("run/state.py", "self.history.step = steps_done", "pass"),
    ("run/state.py", 'self.rates.last = state.numbers["last_rate"]', "pass"),
    ("saved/checkpoint.py", "[KEPT:]", "[KEPT - 1:]"),
    ("saved/checkpoint.py", "self._written_after = self.resumed_from[", "self.resumed_from["),
    ("saved/checkpoint.py", "if not is_finite(state):  # the run", "if False:  # the run"),
    ("saved/checkpoint.py", "if not same_data(data, self.data):", "if False:"),
    ("fast/on_cpu.py", "own.dropout], own)", "own.dropout], more)"),
    ("fast/on_cpu.py", "rates[n_made:stop], own.decays", "rates[: stop - n_made], own.decays"),
    (
        "fast/on_cpu.py",
        "list(itertools.takewhile(bool, block.divisors(first, most)))",
        "block.divisors(first, most)",
    ),
    ("fast/compiled/steps.py", "scale[:] = scales[step]", "scale[:] = scales[0]"),
    ("fast/compiled/steps.py", "drops[step, layer], first, hashes", "drops[step, layer], 0, hashes"),
    ("fast/compiled/steps.py", "drop(before, drops[step, layer - 1], n_before, hashes)", "pass"),
    ("fast/compiled/steps.py", "g[begin:end], other > 0)", "g[begin:end], False)"),
    ("fast/compiled/steps.py", "total += w[j, k] * g[j, k]", "total += g[j, k]"),
    ("fast/compiled/losses.py", "z[k, i] += c", "z[k, i] += 1.0"),
    ("fast/compiled/elementary.py", "return -t if x < zero else t", "return t"),
    ("members/step.py", "= self.t - 1 - self.behind[n],", "= self.t - 1,"),
)
"""File of the package, the line as it is, and as it would be wrong."""


def copied(folder):
    """A copy of what the tests need."""
    for name in ("mlp_xp", "tests", "bench", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def passes(folder, *tests):
    """Whether tests pass in a copy of the tree, over NumPy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--backend=numpy", *tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode == 0


def is_caught(folder, file):
    """Whether the file's own tests fail, or any of the core's."""
    named = folder.glob(f"tests/*/test_{Path(file).stem}.py")
    own = [str(path.relative_to(folder)) for path in named] or [
        tests for place, tests in NEAREST.items() if file.startswith(f"{place}/")
    ]
    return (bool(own) and not passes(folder, *own)) or not passes(folder, *TESTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, help="which mutations; all if not given")
    numbers = parser.parse_args().numbers or range(len(MUTATIONS))
    survived = []
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        if not passes(folder, *TESTS):
            sys.exit("without a mutation the tests fail too: what they caught would say nothing.")
        for number in numbers:
            file, right, wrong = MUTATIONS[number]
            path = folder / "mlp_xp" / file
            before = path.read_text()
            began, caught = time.monotonic(), before.count(right) == 1
            if caught:
                path.write_text(before.replace(right, wrong))
                caught = is_caught(folder, file)
                path.write_text(before)
            survived += [] if caught else [number]
            said = "caught" if caught else "SURVIVED"
            print(
                f"{number:3} {file:20} {wrong[:60]!r}: {said}, {time.monotonic() - began:.0f} s", flush=True
            )
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
