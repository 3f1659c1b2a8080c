"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from mlp_xp.cli import configuration, stages
from mlp_xp.cli.commands import Train
from mlp_xp.cli.files import collected, explained, given_data, output_problems, suffix_problem
from mlp_xp.cli.outputs import Outputs, command_line
from mlp_xp.cli.printing import show
from mlp_xp.cli.progress import reading
from mlp_xp.cli.run_control import controlled, find_ranks, lowest_first, seed_of_split
from mlp_xp.machine import cuda
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.report.plot import plot_problem
from mlp_xp.saved.model_file import load
from mlp_xp.settings.options import Problems
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.fitting import Data, check_start, new_model, read_data
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.recipe import PLAIN


def train(asked: Train) -> int:
    """Train as options ask for; the exit status."""
    ranks = find_ranks(alone=asked.no_mpi, all_reduce=asked.all_reduce)
    is_first = ranks is None or ranks.rank == 0
    device = asked.device if ranks is None else ranks.own_device(asked.device)
    named = asked
    asked = dataclasses.replace(asked, device=device, quiet=asked.quiet or not is_first)
    outputs = Outputs(asked.report, asked.plot, asked.log, asked.tensorboard) if is_first else Outputs()
    check(asked, ranks)
    if ranks is not None:
        ranks.refuse_differences(_of_all_ranks(asked))
    if asked.tf32:
        cuda.allow_tf32()
    if asked.device_memory_limit is not None and device.startswith("cuda"):
        cuda.limit_memory(asked.device_memory_limit, int(device.partition(":")[2] or 0))
    start = None if asked.init is None else check_start(asked, load(asked.init, device))
    split_seed = seed_of_split(asked, ranks)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(given_data(asked.data))
        here = dataclasses.replace(asked, data=data)
        with lowest_first(ranks), reading(asked.data, quiet=asked.quiet) as progress:
            rows = read_data(here, start, progress=progress, split_seed=split_seed)
        model = start or new_model(rows)
        # Until the end of the process: a signal between the last epoch and the model's file waits too.
        settled = dataclasses.replace(named, **{name: getattr(rows.options, name) for name in PLAIN})
        control, state = stack.enter_context(controlled(settled, asked, rows.table.source, ranks))
        outcome = stages.carry_out(here, rows, model, outputs, ranks, control, state)
        if is_first:
            finish(here, rows, model, outcome, outputs, 1 if ranks is None else ranks.size)
        return 128 + control.interrupted_by if control.interrupted_by else 0


def finish(
    asked: Train, rows: Data, model: TableModel, outcome: stages.Outcome, outputs: Outputs, n_ranks: int
) -> None:
    """Measure the model, and write and print what was asked for.

    Raises
    ------
    OSError
        Something could not be written; all the rest was.
    """
    result = stages.result_of(asked, rows, model, outcome, n_ranks)
    failed: list[OSError] = []
    if asked.out is not None:
        saved = stages.save_model(rows, model, outcome, result, asked.out)
        result["model"] = str(saved)
        if saved != asked.out:
            failed.append(OSError(f"{asked.out} cannot be written: the model is in {saved}."))
        else:
            with collected(failed):
                configuration.write(asked, asked.out)
    with collected(failed):
        outputs.finish(
            model,
            outcome.history,
            result,
            training=rows.parts.raw_training,
            held_out=rows.parts.raw_held_out,
            source=rows.table.name,
            introduction=stages.introduction(rows, model.network),
            command=command_line("train", asked),
            seed=asked.seed,
        )
    if asked.as_json:
        show(json.dumps(result))
    elif not asked.quiet:
        show(stages.report(result))
    if failed:
        raise OSError("\n".join(map(explained, failed)))


def _of_all_ranks(asked: Train) -> dict[str, Any]:
    """What ranks must agree on: each may have a copy of the data, whose rows are compared later."""
    paths = {name: None for name in ("data", "init", "target", "weight_column") if not asked.has_names}
    return asked.determining(ahead=True) | {"data": None, "init": None} | paths


def check(asked: Train, ranks: Ranks | None) -> None:
    """Refuse what cannot be, before any work; all that is wrong is said at once."""
    read: list[str | Path | None] = [asked.data, asked.init, asked.config, asked.weight_column]
    if not asked.has_names:
        read += asked.read("target")
    written = {name: getattr(asked, name) for name in ("out", "report", "plot", "log")}
    wrong = Problems()
    wrong.add(
        *asked.problems(),
        *output_problems(written, read),
        *(suffix_problem(name, written[name], known) for name, known in SUFFIXES.items()),
        None if asked.plot is None else plot_problem(asked.plot),
    )
    toml = None if asked.out is None else configuration.beside(asked.out)
    wrong.add(
        *(
            f"{given(name, path)} is where {spelled('out')} writes its options: name another."
            for name, path in written.items()
            if path is not None and path == toml
        )
    )
    if asked.tensorboard is not None and asked.tensorboard.exists() and not asked.tensorboard.is_dir():
        wrong.add(f"{given('tensorboard', asked.tensorboard)} is a file: name a folder.")
    if ranks is not None and asked.data == "-":
        wrong.add(
            f"{given('data', '-')}: standard input is that of one process, and {ranks.size} train together. "
            "Name a file."
        )
    wrong.refuse()


SUFFIXES = {
    "out": (".safetensors", "a model is written as .safetensors"),
    "report": (".html", "the page is written as .html"),
    "log": (".jsonl", "the log is written as .jsonl"),
}
"""What each file is; another suffix that is known to mean something else is refused."""
