"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from mlp_xp.cli import configuration, stages
from mlp_xp.cli.commands import Train
from mlp_xp.cli.files import SUFFIXES, collected, given_data, output_problems, suffix_problem
from mlp_xp.cli.outputs import Outputs, command_line
from mlp_xp.cli.printing import explained, show
from mlp_xp.cli.progress import ReadingProgress
from mlp_xp.cli.run_control import controlled, find_ranks, lowest_first, seed_of_split
from mlp_xp.machine import cuda
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.report.plot import plot_problem
from mlp_xp.saved.model_file import load
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.tables.advice import Run
from mlp_xp.tables.fitting import Data, check_start, new_model, read_data
from mlp_xp.tables.measured import measured
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.recipe import PLAIN


def train(options: Train) -> int:
    """Train as options ask for; the exit status."""
    ranks = find_ranks(alone=options.no_mpi, all_reduce=options.all_reduce)
    is_first = ranks is None or ranks.rank == 0
    device = options.device if ranks is None else ranks.own_device(options.device)
    named = options
    options = dataclasses.replace(options, device=device, quiet=options.quiet or not is_first)
    outputs = (
        Outputs(options.report, options.plot, options.log, options.tensorboard) if is_first else Outputs()
    )
    check(options, ranks)
    if ranks is not None:
        ranks.refuse_differences(_of_all_ranks(options))
    if options.tf32:
        cuda.allow_tf32()
    if options.device_memory_limit is not None and device.startswith("cuda"):
        cuda.limit_memory(options.device_memory_limit, int(device.partition(":")[2] or 0))
    start = None if options.init is None else check_start(options, load(options.init, device))
    split_seed = seed_of_split(options, ranks)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(given_data(options.data))
        here = dataclasses.replace(options, data=data)
        with lowest_first(ranks), ReadingProgress(options.data, quiet=options.quiet) as progress:
            rows = read_data(here, start, progress=progress, split_seed=split_seed)
        model = start or new_model(rows)
        # Until the end of the process: a signal between the last epoch and the model's file waits too.
        settled = dataclasses.replace(named, **{name: getattr(rows.options, name) for name in PLAIN})
        control, state = stack.enter_context(controlled(settled, options, rows.table.source, ranks))
        outcome = stages.carry_out(here, rows, model, outputs, ranks, control, state)
        if is_first:
            finish(here, rows, model, outcome, outputs, 1 if ranks is None else ranks.size)
        return 128 + control.interrupted_by if control.interrupted_by else 0


def finish(
    options: Train, rows: Data, model: TableModel, outcome: stages.Outcome, outputs: Outputs, n_ranks: int
) -> None:
    """Measure the model, and write and print what was asked for.

    Raises OSError: something could not be written; all the rest was.
    """
    found = measured(model, rows.parts, options.seed)
    run = Run(rows, model, outcome.history, found, outcome.stopped)
    result = stages.whole_result(options, run, outcome, n_ranks)
    failed: list[OSError] = []
    if options.out is not None:
        saved = stages.save_model(rows, model, outcome, result, options.out)
        result["model"] = str(saved)
        if saved != options.out:
            failed.append(OSError(f"{options.out} cannot be written: the model is in {saved}."))
        else:
            with collected(failed):
                configuration.write(options, options.out)
    with collected(failed):
        outputs.finish(run, result, command_line("train", options))
    if options.as_json:
        show(json.dumps(result))
    elif not options.quiet:
        show(stages.report(result, keep=options.keep))
    if failed:
        raise OSError("\n".join(map(explained, failed)))


def _of_all_ranks(options: Train) -> dict[str, Any]:
    """What ranks must agree on: each may have a copy of the data, whose rows are compared later."""
    paths = {name: None for name in ("data", "init", "target", "weight_column") if not options.has_names}
    return options.determining(ahead=True) | {"data": None, "init": None} | paths


def check(options: Train, ranks: Ranks | None) -> None:
    """Refuse what cannot be, before any work; all that is wrong is said at once."""
    read: list[str | Path | None] = [options.data, options.init, options.config, options.weight_column]
    if not options.has_names:
        read += options.read("target")
    written = {name: getattr(options, name) for name in ("out", "report", "plot", "log")}
    toml = None if options.out is None else configuration.beside(options.out)
    wrong = [
        *options.problems(),
        *output_problems(written, read),
        *(suffix_problem(name, written[name], known) for name, known in SUFFIXES.items()),
        None if options.plot is None else plot_problem(options.plot),
        configuration.lost(options.config, options.out),
        *(
            f"{given(name, path)} is where {spelled('out')} writes its options: name another."
            for name, path in written.items()
            if path is not None and path == toml
        ),
    ]
    if options.tensorboard is not None and options.tensorboard.exists() and not options.tensorboard.is_dir():
        wrong.append(f"{given('tensorboard', options.tensorboard)} is a file: name a folder.")
    if ranks is not None and options.data == "-":
        wrong.append(
            f"{given('data', '-')}: standard input is that of one process, and {ranks.size} train together. "
            "Name a file."
        )
    checks.refuse(wrong)
