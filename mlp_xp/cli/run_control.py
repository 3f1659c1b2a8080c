"""How a run lasts: checkpoints and resuming, signals, and the processes that train together."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlp_xp.cli.commands import Train
from mlp_xp.cli.printing import say as say_line
from mlp_xp.history import History
from mlp_xp.machine.data_parallel import Ranks, under_mpi, world
from mlp_xp.saved.checkpoint import Checkpoints, Interruption, decode, encode, fingerprint, interruptible
from mlp_xp.settings.spelling import given, spelled
from mlp_xp.training_loop import TrainingState


def find_ranks(*, alone: bool, all_reduce: str = "auto") -> Ranks | None:
    """The processes that a launcher of MPI started together.

    Parameters
    ----------
    alone : bool
        Train as one process, whatever started it.
    all_reduce : str
        How gradients on GPUs are summed, of `cuda.ALL_REDUCES`.
    """
    ranks = None if alone else world()
    if ranks is not None:
        ranks.all_reduce = all_reduce
    return ranks


def lowest_first(ranks: Ranks | None) -> contextlib.AbstractContextManager[None]:
    """Where a file is written that all ranks on a machine read: one writes it, before the others look."""
    return contextlib.nullcontext() if ranks is None else ranks.lowest_first()


def end_all(message: str, status: int, given: Sequence[str]) -> None:
    """Where this process trains as one of several, say its error and end all of them; else do nothing."""
    if not under_mpi() or "--no-mpi" in given or "train" not in given[:1]:
        return
    ranks = world()
    if ranks is None:
        return

    def say() -> None:
        for line in message.splitlines():
            say_line(f"mlp-xp: error: {line}" + (f" (rank {ranks.rank})" if ranks.rank else ""))

    ranks.end_all(say, status)


@contextlib.contextmanager
def controlled(
    asked: Train, determining: Mapping[str, Any], source: Any, ranks: Ranks | None
) -> Iterator[tuple[Interruption, TrainingState | None]]:
    """Handle signals, and give the run's checkpoints and the state that it goes on from.

    Parameters
    ----------
    asked : Train
        Where and how often checkpoints are written (only rank 0 does), and whether the run goes on.
    determining : mapping
        The settings that the run's steps depend on.
    source : source
        The data, for its fingerprint.
    ranks : Ranks or None

    Raises
    ------
    ValueError
        The folder has checkpoints of another run, or of one that was not to be resumed.
    """
    with contextlib.ExitStack() as stack:
        run: Interruption = Interruption()
        state: TrainingState | None = None
        folder = asked.checkpoint_dir
        if folder is not None and (ranks is None or ranks.rank == 0):
            data = fingerprint(source)
            checkpoints = Checkpoints(
                folder,
                asked.checkpoint_every,
                configuration=determining,
                data=data,
                on_error=asked.checkpoint_errors,
            )
            run = stack.enter_context(checkpoints)
            state = _latest(checkpoints, resume=asked.resume, override=asked.override)
            if asked.resume and not asked.quiet:
                _say_where(checkpoints)
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
        say_line(f"{run.folder} has no checkpoint yet: starting from the beginning")
    else:
        say_line(f"going on after epoch {at['epoch']}, step {at['step']}, from {run.folder}")


def history_of(state: TrainingState) -> History:
    """The history in a state."""
    names = History.__dataclass_fields__
    return History(**{name: value for name, value in state.numbers.items() if name in names})
