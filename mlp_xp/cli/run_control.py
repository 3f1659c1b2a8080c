"""How a run lasts: checkpoints and resuming, signals, and the processes that train together."""

import contextlib
from collections.abc import Iterator

from mlp_xp.cli.commands import Train
from mlp_xp.cli.printing import say
from mlp_xp.history import History
from mlp_xp.machine.data_parallel import Ranks, world
from mlp_xp.rows.fingerprint import fingerprint
from mlp_xp.rows.source import Source
from mlp_xp.run.state import TrainingState
from mlp_xp.saved.checkpoint import (
    Checkpoints,
    Interruption,
    configuration_in,
    decode,
    encode,
    interruptible,
)
from mlp_xp.settings.spelling import given, spelled


def find_ranks(*, alone: bool, all_reduce: str = "auto") -> Ranks | None:
    """The processes that a launcher of MPI started together; none for a training that is to be alone."""
    ranks = None if alone else world()
    if ranks is not None:
        ranks.all_reduce = all_reduce
    return ranks


def seed_of_split(options: Train, ranks: Ranks | None) -> int:
    """The seed that rows are held out by: that of the run that is gone on with, whatever it is now.

    Rows that were trained on are not measured on later, and the columns' statistics stay as they were.
    """
    seed = options.seed
    if options.resume and options.checkpoint_dir is not None and (ranks is None or ranks.rank == 0):
        seed = int(configuration_in(options.checkpoint_dir).get("seed", seed))
    return seed if ranks is None else int(ranks.from_first(seed))


def lowest_first(ranks: Ranks | None) -> contextlib.AbstractContextManager[None]:
    """Where a file is written that all ranks on a machine read: one writes it, before the others look."""
    return contextlib.nullcontext() if ranks is None else ranks.lowest_first()


@contextlib.contextmanager
def controlled(
    named: Train, options: Train, source: Source, ranks: Ranks | None
) -> Iterator[tuple[Interruption, TrainingState | None]]:
    """Handle signals, and give the run's checkpoints and the state that it goes on from.

    Checkpoints, which only rank 0 writes, tell what the user `named` and the data's fingerprint.

    Raises ValueError: the folder has checkpoints of another run, or of one that was not to be resumed.
    """
    with contextlib.ExitStack() as stack:
        run: Interruption = Interruption()
        state: TrainingState | None = None
        folder = options.checkpoint_dir
        data = fingerprint(source) if folder is not None or ranks is not None else None
        if ranks is not None:
            ranks.refuse_differences({"data": data})
            ranks.have_agreed = True
        if folder is not None and (ranks is None or ranks.rank == 0):
            determining = named.determining(ahead=False)
            checkpoints = Checkpoints(
                folder,
                options.checkpoint_every,
                configuration=determining,
                defaults=options.defaults(),
                may_differ=options.described().keys() - determining.keys(),
                data=data,
                on_error=options.checkpoint_errors,
            )
            run = stack.enter_context(checkpoints)
            state = _latest(checkpoints, resume=options.resume, override=options.override)
            if options.resume and not options.quiet:
                _say_where(checkpoints)
                _say_how(named, state)
        if ranks is not None:
            content = ranks.bytes_from_first(None if state is None else encode(state, {}, None))
            state = None if content is None else decode(content)[0]
        stack.enter_context(interruptible(run))
        yield run, state


def _latest(run: Checkpoints, *, resume: bool, override: bool) -> TrainingState | None:
    if resume:
        return run.latest(override=override)
    if run.paths():
        raise ValueError(
            f"{given('checkpoint_dir', run.folder)} has checkpoints of an earlier run: go on from them with "
            f"{spelled('resume')}, or name another folder."
        )
    return None


def _say_where(run: Checkpoints) -> None:
    at = run.resumed_from
    if at is None:
        say(f"{run.folder} has no checkpoint yet: starting from the beginning")
    else:
        say(f"going on after epoch {at['epoch']}, step {at['step']}, from {run.folder}")


def _say_how(options: Train, state: TrainingState | None) -> None:
    """Say where the number of epochs changes what the steps to come do."""
    before = options.epochs if state is None else state.numbers["max_epochs"]
    stretched = [
        given(name, getattr(options, name))
        for name in ("schedule", "dropout_schedule", "decay_schedule")
        if getattr(options.read(name), "n_epochs", 0) is None
    ] + ([given("average", options.average)] if options.average else [])
    if before != options.epochs and stretched:
        say(
            f"{', '.join(stretched)}: over {options.epochs} epochs from here on, and over {before} before, "
            "so that the result is not that of one run"
        )


def history_of(state: TrainingState) -> History:
    """The history in a state."""
    names = History.__dataclass_fields__
    return History(**{name: value for name, value in state.numbers.items() if name in names})
