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

TESTS = ("tests/algorithm", "tests/run", "tests/rows", "tests/whole/test_gradients.py")
"""What is run: the core's own tests."""

MUTATIONS = (
    ("forward.py", "drop(backend, a, step, layer, first_row)", "drop(backend, a, step, layer, 0)"),
    ("forward.py", "weights = into(memo.scaled,", "into(memo.scaled,"),
    ("backprop.py", "delta *= memo.masks[layer - 1]", "delta *= 1.0"),
    ("backprop.py", "gradient.input_scale += of_scale", "gradient.input_scale[...] = of_scale"),
    ("backprop.py", "out += left @ right", "out[...] = left @ right"),
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
    own = [str(path.relative_to(folder)) for path in folder.glob(f"tests/*/test_{Path(file).stem}.py")]
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
