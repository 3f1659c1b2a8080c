"""The files that a command reads and writes, looked at before any work."""

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mlp_xp.machine.whole_file import is_address
from mlp_xp.rows.files import known_as
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.files.arrow_files import FORMATS


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
        with known_as("standard input", str(path)):
            yield str(path)


FIRST_BYTES = {form.mark: form.suffixes[0] for form in FORMATS.values() if form.mark}
"""How files begin that are no text."""


def output_problems(outputs: Mapping[str, Path | None], inputs: Iterable[str | Path | None]) -> list[str]:
    """Why files, by the field that names each, cannot be written, found out before any work.

    What is read (files, folders, globs) must not be overwritten.
    """
    given_outputs = {name: path for name, path in outputs.items() if path is not None}
    read = [file for each in inputs if each is not None for file in _files_of(each)]
    found = [_output_problem(name, out, read) for name, out in given_outputs.items()]
    places: dict[str, str] = {}
    for name, out in given_outputs.items():
        first = places.setdefault(os.path.realpath(out), name)
        if first != name:
            found.append(f"{given(name, out)} and {spelled(first)} are the same file: name another.")
    return [problem for problem in found if problem]


def _files_of(given_path: str | Path) -> list[Path]:
    """The files that are read where a file, a folder or a glob is named."""
    path = Path(given_path)
    if path.is_file():
        return [path]
    if path.is_dir():
        return [each for each in path.rglob("*") if each.is_file()]
    if any(mark in str(given_path) for mark in "*?["):
        pattern = path.absolute()
        return list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    return []


def _output_problem(name: str, out: Path, read: Iterable[Path]) -> str | None:
    folder, named = out.absolute().parent, given(name, out)
    if str(out) == "-":
        return f"{named}: only predictions and ONNX files can go to standard output. Name a file."
    if is_address(out) and not folder.is_dir():
        return f"{named}: files are written to this machine alone. Name one here."
    if not folder.is_dir():
        return f"{named}: there is no folder {out.parent}. Make it first."
    if out.is_dir():
        return f"{named} is a folder: name a file."
    if out.exists() and not out.is_file():
        return f"{named} is a device or a pipe: name a file."
    if out.exists() and any(each.exists() and out.samefile(each) for each in read):
        return f"{named} is a file that is read: name another."
    if not os.access(folder, os.W_OK) or (out.exists() and not os.access(out, os.W_OK)):
        return f"{named} cannot be written: no permission. Name another place."
    return None


KNOWN_SUFFIXES = {
    *(".csv", ".tsv", ".parquet", ".arrow", ".feather", ".npy", ".npz", ".json", ".jsonl", ".toml"),
    *(".safetensors", ".onnx", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".h5", ".keras"),
    *(".html", ".htm", ".pdf", ".png", ".svg", ".jpg", ".md", ".docx", ".txt", ".log"),
    *(".xlsx", ".xls", ".ods"),
}
"""Ends of names that tell what a file is."""


ALIKE = {".html": (".htm",), ".jsonl": (".json", ".txt", ".log"), ".csv": (".txt",)}
"""Ends of names that are as good."""


SUFFIXES = {
    "out": (".safetensors", "a model is written as .safetensors"),
    "report": (".html", "the page is written as .html"),
    "log": (".jsonl", "the log is written as .jsonl"),
}
"""What each file of a training is; another suffix that is known to mean something else is refused."""


def suffix_problem(name: str, out: Path | None, known: tuple[str, str]) -> str | None:
    """What is wrong with a name that promises another kind of file."""
    suffix, says = known
    found = "" if out is None else out.suffix.lower()
    if found not in KNOWN_SUFFIXES or found in (suffix, *ALIKE.get(suffix, ())):
        return None
    more = " (mlp-xp export writes .onnx from it)" if found == ".onnx" else ""
    return f"{given(name, out)}: {says}{more}. Name a {suffix} file."


def write_somewhere(path: Path, write: Callable[[Path], None]) -> Path:
    """Write what took long to make: where it was to go, or else where there is room; where it is now.

    Raises OSError: there is no place at all.
    """
    try:
        write(path)
    except OSError as error:
        for folder in (Path.cwd(), Path(tempfile.gettempdir()), Path.home()):
            other = folder / f"{path.stem}-{secrets.token_hex(4)}{path.suffix}"
            with contextlib.suppress(OSError):
                write(other)
                return other
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}), nor any other place."
        ) from error
    return path


@contextlib.contextmanager
def collected(failed: list[OSError]) -> Iterator[None]:
    """Keep an error of writing, so that the rest is still written."""
    try:
        yield
    except OSError as error:
        failed.append(error)
