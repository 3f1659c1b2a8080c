"""What a user sees where CUDA cannot be used, checked from outside: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(*arguments, folder, **environment):
    """Run Python in ``folder`` with the package importable and ``environment`` on top."""
    inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    inherited |= {"COLUMNS": "2000", "NO_COLOR": "1", "TERM": "dumb"}
    path = environment.pop("PYTHONPATH", None)
    inherited["PYTHONPATH"] = os.pathsep.join(str(p) for p in (path, ROOT) if p is not None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_refused(text, folder, **environment):
    """``train --device cuda`` refuses with ``text`` and writes nothing; ``devices`` shows it."""
    folder.mkdir()
    arguments = ("-m", "mlp_xp", "train", "--device", "cuda", "--out", "model.safetensors")
    train = run_python(*arguments, folder=folder, **environment)
    assert train.returncode == 2, train.stdout + train.stderr
    assert text in one_line(train.stderr)
    assert "mlp-xp: error:" in train.stderr
    assert "Traceback" not in train.stderr
    assert list(folder.iterdir()) == []

    devices = run_python("-m", "mlp_xp", "devices", folder=folder, **environment)
    assert devices.returncode == 0, devices.stdout + devices.stderr
    assert text in one_line(devices.stdout)
    assert list(folder.iterdir()) == []


def one_line(text):
    """Undo the wrapping of lines."""
    return " ".join(text.split())
