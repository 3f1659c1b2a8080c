"""`mlp-xp export`: a model as an ONNX file, for programs that know nothing of mlp_xp."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.cli.commands import Export
from mlp_xp.cli.files import output_problems, suffix_problem
from mlp_xp.cli.printing import say, show
from mlp_xp.cli.streams import written_out
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.saved.model_file import load
from mlp_xp.saved.onnx_file import onnx_bytes, signature
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given, spelled


def export(options: Export) -> None:
    """Write a model as an ONNX file."""
    path = options.model.with_suffix(".onnx") if options.out is None else Path(options.out)
    if options.out is None and path == options.model:
        raise ValueError(f"{path} is what its ONNX file would be called: give another, {spelled('out')}.")
    if options.out != "-":
        kind = suffix_problem("out", path, (".onnx", "a model is exported as ONNX"))
        checks.refuse([*output_problems({"out": path}, [options.model]), kind])
    elif options.as_json:
        raise ValueError(
            f"{given('out', '-')} and {spelled('as_json')} both write to standard output: name a file."
        )
    content = onnx_bytes(load(options.model), matrix_input=options.matrix_input)
    if options.out == "-":
        with written_out():
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
        return
    write_whole(path, content)
    found = signature(content)
    if options.as_json:
        show(json.dumps({"model": str(options.model), "out": str(path), **found}))
    elif not options.quiet:
        outputs = ", ".join(value["name"] for value in found["outputs"])
        n_inputs = checks.counted(len(found["inputs"]), "input")
        say(f"{path}: {n_inputs} ({_names(found['inputs'])}) to {outputs}")


def _names(values: Sequence[Mapping[str, Any]], most: int = 10) -> str:
    """Names and shapes of values, where there are many those of the first."""
    shown = [f"{value['name']} {value['dtype']} [{', '.join(map(str, value['shape']))}]" for value in values]
    return ", ".join(shown[:most]) + (" ..." if len(shown) > most else "")
