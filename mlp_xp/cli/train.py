"""`mlp-xp train`: from a table on disk, or a data set that comes along, to a trained model."""

import contextlib
import dataclasses
import json

from mlp_xp.cli import configuration, stages
from mlp_xp.cli.commands import Train
from mlp_xp.cli.files import given_data, output_problem
from mlp_xp.cli.outputs import Outputs, command_line
from mlp_xp.cli.printing import reading
from mlp_xp.cli.run_control import find_ranks, lowest_first
from mlp_xp.machine import cuda
from mlp_xp.saved.model_file import load
from mlp_xp.settings.options import Problems
from mlp_xp.tables.fitting import check_start, new_model, read_data


def train(asked: Train) -> int:
    """Train as options ask for; the exit status."""
    determining = asked.determining
    ranks = find_ranks(alone=asked.no_mpi, all_reduce=asked.all_reduce)
    is_first = ranks is None or ranks.rank == 0
    device = asked.device if ranks is None else ranks.own_device(asked.device)
    asked = dataclasses.replace(asked, device=device, quiet=asked.quiet or not is_first)
    outputs = Outputs(asked.report, asked.plot, asked.log, asked.tensorboard) if is_first else Outputs()
    check(asked, outputs)
    if asked.tf32:
        cuda.allow_tf32()
    if asked.device_memory_limit is not None and device.startswith("cuda"):
        cuda.limit_memory(asked.device_memory_limit, int(device.partition(":")[2] or 0))
    start = None if asked.init is None else check_start(asked, load(asked.init, device))
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(given_data(asked.data))
        here = dataclasses.replace(asked, data=data)
        with lowest_first(ranks), reading(asked.data, quiet=asked.quiet) as progress:
            rows = read_data(here, start, progress=progress)
        model = start or new_model(here, rows)
        outcome = stages.carry_out(here, rows, model, outputs, ranks, determining)
        if not is_first:
            return outcome.status
        result = stages.result_of(here, rows, model, outcome, 1 if ranks is None else ranks.size)
        if asked.out is not None:
            stages.save_model(here, rows, model, outcome, result, asked.out)
            configuration.write(asked, asked.out)
        outputs.finish(
            model,
            outcome.history,
            result,
            training=rows.parts.raw_training,
            held_out=rows.parts.raw_held_out,
            source=rows.table.name,
            introduction=stages.introduction(here, rows, model.network),
            command=command_line("train", asked),
            seed=asked.seed,
        )
    if asked.as_json:
        print(json.dumps(result))
    elif not asked.quiet:
        print(stages.report(result))
    return outcome.status


def check(asked: Train, outputs: Outputs) -> None:
    """Refuse what cannot be, before any work; all that is wrong is said at once."""
    read = [asked.data, asked.init, asked.config, asked.weight_column, *asked.read("target")]
    wrong = Problems()
    wrong.add(
        *asked.problems(),
        None if asked.out is None else output_problem(asked.out, read),
        *outputs.problems(read),
    )
    wrong.refuse()
