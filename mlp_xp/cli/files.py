"""The files that a command reads and writes, looked at before any work."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlp_xp.settings.spelling import given


@contextlib.contextmanager
def given_data(data: str | None) -> Iterator[str | None]:
    """The path of the data: of a file that standard input was written to, for '-'."""
    if data != "-":
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        first = sys.stdin.buffer.read(len(max(FIRST_BYTES, key=len)))
        suffix = next((suffix for mark, suffix in FIRST_BYTES.items() if first.startswith(mark)), ".csv")
        path = Path(folder) / f"standard input{suffix}"
        with path.open("wb") as file:
            file.write(first)
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


FIRST_BYTES = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
"""How files begin that are no text."""


def output_problem(out: Path, inputs: Iterable[str | Path | None] = (), *, name: str = "out") -> str | None:
    """Why a file cannot be written there, found out before any work; None if it can.

    Parameters
    ----------
    out : Path
    inputs : paths
        What is read, and must not be overwritten.
    name : str
        The field that names it.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        return f"{given(name, out)}: there is no folder {out.parent}. Make it first."
    if out.is_dir():
        return f"{given(name, out)} is a folder: name a file."
    if out.exists() and not out.is_file():
        return f"{given(name, out)} is a device or a pipe: name a file."
    for each in inputs:
        if each is not None and out.exists() and Path(each).exists() and out.samefile(each):
            return f"{given(name, out)} is a file that is read: name another."
    if not os.access(folder, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        return f"{given(name, out)} cannot be written: no permission. Name another place."
    return None
