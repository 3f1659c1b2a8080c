"""The stages of `mlp-xp train`: say what is known, train, say what came out."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.cli.commands import Train
from mlp_xp.cli.files import write_somewhere
from mlp_xp.cli.outputs import Outputs
from mlp_xp.cli.printing import aligned, say
from mlp_xp.cli.progress import Counted, Tally, duration, progress
from mlp_xp.cli.run_control import history_of
from mlp_xp.history import History
from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.rows.loader import Loader
from mlp_xp.run.epoch import Epoch
from mlp_xp.run.state import TrainingState
from mlp_xp.saved.checkpoint import Checkpoints, Interruption
from mlp_xp.saved.model_file import save
from mlp_xp.settings.checks import counted
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.stopping import Stopping
from mlp_xp.tables.advice import MOST, Run
from mlp_xp.tables.calibration import calibrate, weigh_classes
from mlp_xp.tables.fitting import (
    Data,
    fit,
    loader_for,
    stopping_of,
    takes_all_rows,
    training_notes,
)
from mlp_xp.tables.introduction import introduction
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.result import result_of

BOUNDS = {
    "4,096": "the most that 'auto' takes",
    "rows / 32": "the power of two that makes 32 steps an epoch or more",
    "memory": "the power of two whose step fits the memory there is",
}
"""What decided an "auto" batch size, by `Loader.batch_bound`."""


def _about_batches(loader: Loader) -> list[str]:
    """Which bound decided the batch size, where a bound did."""
    if loader.batch_bound not in BOUNDS:
        return []
    rows = counted(loader.batch_size, "row")
    return [f"{given('batch_size', 'auto')}: {rows} a step, {BOUNDS[loader.batch_bound]}"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How and why a training ended, where it went on; rows a step, and rows that each rank gathered."""

    history: History
    stopped: str | None
    batch_size: int
    rows_gathered: list[int]
    resumed_from: Mapping[str, Any] | None


def carry_out(
    options: Train,
    data: Data,
    model: TableModel,
    outputs: Outputs,
    ranks: Ranks | None,
    control: Interruption,
    state: TrainingState | None,
) -> Outcome:
    """Train a model, which then has the weights that are to be kept, from a state if there is one.

    Raises FloatingPointError: it diverged; the last good weights are saved.
    """
    network = model.network
    n_rows, where = data.parts.raw_training.n_rows, network.backend.name
    bar = progress(
        data.options.read("epochs"),
        n_rows,
        options.read("time_budget"),
        quiet=options.quiet,
        device=where,
    )
    loader = loader_for(data.options, Counted(data.parts.training, bar.passed))
    run = fit(data, network, loader, checkpoints=control, ranks=ranks, state=state)
    if not options.quiet:
        for line in [*introduction(data, network), *_about_batches(loader)]:
            say(line)
    try:
        speaks = ranks is None or ranks.rank == 0
        interrupted = _follow(outputs.watch(run), bar, control, speaks=speaks)
    except FloatingPointError as error:
        if bar.epoch is None or options.out is None or (ranks is not None and ranks.rank):
            raise
        kept = _put_back(network, bar, options.keep)
        weigh_classes(model, data)
        model.training |= {"epochs": kept.number, "stopped": "diverged in a later epoch"}
        saved = write_somewhere(options.out, lambda path: save(model, path))
        raise FloatingPointError(f"{error} {saved} has those of epoch {kept.number}.") from error
    if bar.epoch is not None:
        history, stopped = bar.epoch.training.history, bar.epoch.stopped
    elif state is not None:  # it had ended already
        history = history_of(state)
        stopped = Stopping(**stopping_of(data.options)).reason(history)
    if interrupted:
        stopped = "interrupted"
        _put_back(network, bar, options.keep)
        weigh_classes(model, data)
        if options.checkpoint_dir is not None and not options.quiet:
            say(
                f"interrupted after step {history.step}; go on with {spelled('resume')}: "
                f"{options.checkpoint_dir}"
            )
    else:
        calibrate(model, data)
    gathered = [bar.rows_gathered] if ranks is None else ranks.gather_numbers(bar.rows_gathered)
    return Outcome(
        history,
        stopped,
        loader.batch_size,
        [int(number) for number in gathered],
        control.resumed_from if isinstance(control, Checkpoints) else None,
    )


def _follow(run: Iterator[Epoch], bar: Tally, control: Interruption, *, speaks: bool) -> bool:
    """Show a run's epochs; whether a signal ended it after at least one."""
    with bar:
        try:
            for epoch in run:
                bar.show(epoch)
        except KeyboardInterrupt:
            if bar.epoch is None:
                if speaks:
                    say("mlp-xp: error: interrupted.", broken=False)
                raise SystemExit(128 + (control.interrupted_by or 2)) from None
            return True
    return False


def _put_back(network: Network, bar: Tally, keep: str) -> Epoch:
    """Give a network that was cut off inside an epoch the weights of the best or last one; that epoch."""
    epoch = bar.best if keep == "best" and bar.best else bar.epoch
    if epoch is None or bar.epoch is None:
        raise RuntimeError("no epoch is complete.")
    training = bar.epoch.training
    network.parameters.flat[...] = training.best if epoch is bar.best else training.last_good
    return epoch


def whole_result(options: Train, run: Run, outcome: Outcome, n_ranks: int) -> dict[str, Any]:
    """What came out, as JSON values."""
    before, is_full = outcome.resumed_from, takes_all_rows(run.data.options)
    steps = len(run.history.train_losses) if is_full else run.history.step
    return result_of(run) | {
        "steps_this_run": steps - (before["epoch" if is_full else "step"] if before else 0),
        "resumed_from": before,
        "ranks": n_ranks,
        "rows_gathered": outcome.rows_gathered,
        "model": None if options.out is None else str(options.out),
    }


def save_model(data: Data, model: TableModel, outcome: Outcome, result: Mapping[str, Any], out: Path) -> Path:
    """Write the model with what is known of its training; where."""
    model.training |= training_notes(data, outcome.batch_size, result, result["epochs"], result["stopped"])
    return write_somewhere(out, lambda path: save(model, path))


def report(result: Mapping[str, Any], *, keep: str = "best") -> str:
    """The tables at the end; `keep` says which epoch's weights are kept."""
    best = result["best_epoch"]
    epochs = str(result["epochs"]) + (f", best {best}" if best not in (None, result["epochs"]) else "")
    on = result["metrics_on"]
    if on in ("held-out", "left-out") and keep == "best":
        epochs += f", chosen by the {on} rows; {given('test', 0.1)} keeps rows apart that only measure"
    rows: list[Sequence[str]] = [
        ("epochs", epochs),
        ("stopped", result["stopped"]),
        ("time", duration(result["seconds"])),
        ("device", result["device"]),
    ]
    if result["model"]:
        rows.append(("model", result["model"]))
    tables = (aligned(each) for each in (*metric_tables(result), rows))
    return "\n\n".join([*tables, *result["advice"][:MOST]])
