"""`mlp-xp export`: a model as an ONNX file, for programs that know nothing of mlp_xp."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mlp_xp.cli import options
from mlp_xp.saved.model_file import load, write_whole
from mlp_xp.saved.onnx_file import onnx_bytes, signature


def export(
    model: options.Model,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="ONNX file to write; - for standard output.",
            show_default="MODEL's name with .onnx",
        ),
    ] = None,
    matrix_input: Annotated[
        bool,
        typer.Option(
            "--matrix-input",
            help="One input X with all columns (numbers and booleans, in the order of training), not one "
            "each.",
            show_default="off",
        ),
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> None:
    """Write a model as an ONNX file, from raw columns to predictions in the target's own units.

    Inputs are named as the columns and have the shape [N, 1]: numbers and booleans float32 (NaN is a gap),
    texts string ("" is a gap), dates int64 seconds since 1970 UTC. Outputs are prediction, or label and
    probabilities. Only standard operators are used.

    For example

      mlp-xp export houses.safetensors --out houses.onnx

      mlp-xp export digits.safetensors --matrix-input
    """
    path = model.with_suffix(".onnx") if out is None else Path(out)
    wrong = options.Problems()
    if out == "-":
        wrong.add("--out - and --json both write to standard output: name a file." if as_json else None)
    else:
        wrong.add(options.output_problem(path, [model]))
    wrong.refuse()
    content = onnx_bytes(load(model), matrix_input=matrix_input)
    if out == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    write_whole(path, content)
    found = signature(content)
    if as_json:
        print(json.dumps({"model": str(model), "out": str(path), **found}))
    elif not quiet:
        outputs = ", ".join(value["name"] for value in found["outputs"])
        options.say(f"{path}: {len(found['inputs'])} inputs ({_names(found['inputs'])}) to {outputs}")


def _names(values: Sequence[Mapping[str, Any]], most: int = 10) -> str:
    """Names and shapes of values, where there are many those of the first."""
    shown = [f"{value['name']} {value['dtype']} [{', '.join(map(str, value['shape']))}]" for value in values]
    return ", ".join(shown[:most]) + (" ..." if len(shown) > most else "")
