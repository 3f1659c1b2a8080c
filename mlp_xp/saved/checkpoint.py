"""Everything that a run needs to go on, written whole or not at all.

A checkpoint folder belongs to one run. It holds the last few checkpoints, each a safetensors file named by
epoch and step, with the configuration of the run, a fingerprint of its data and a checksum; and a lock that
the system lets go of when the process ends, however it ends.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mlp_xp.history import History
from mlp_xp.machine.ending import end_by
from mlp_xp.machine.main_memory import require
from mlp_xp.machine.whole_file import PART, open_plain, write_whole
from mlp_xp.rows.fingerprint import same_data
from mlp_xp.run.state import Training, TrainingState
from mlp_xp.saved.model_file import checksum
from mlp_xp.settings import checks
from mlp_xp.settings.interval import Interval
from mlp_xp.settings.spelling import spelled

FORMAT = 2
"""The version of a checkpoint's layout; in format 1 losses are among the numbers."""

KEPT = 3
"""Checkpoints that stay in the folder; older ones are deleted."""

NAME = re.compile(r"checkpoint-(\d{9})-(\d{12})\.safetensors")


class Interruption:
    """Lets a run be left between two steps, where weights, optimizer and history agree.

    `interrupted_by` is the signal that asked for it.
    """

    def __init__(self) -> None:
        self.interrupted_by: int | None = None

    def interrupt(self, signal_number: int) -> None:
        """Ask the run to end after the step under way; safe in a signal handler."""
        self.interrupted_by = signal_number

    def is_to_end(self, training: Training) -> bool:
        """Whether the run is to end now: on all ranks in the same step."""
        ranks = training.objective.ranks
        if ranks is None:
            return self.interrupted_by is not None
        ranks.stop_wanted = self.interrupted_by is not None
        return ranks.stop_agreed

    def asks_in(self, training: Training) -> int:
        """After how many steps, at most, `after_step` is to be called.

        Ranks agree in every step. Else it is to be called when the steps that are made at once are over.
        """
        return sys.maxsize if training.objective.ranks is None else 1

    def after_step(self, training: Training) -> None:
        """End the run where `interrupt` asked for it.

        Raises KeyboardInterrupt: the run was interrupted.
        """
        if self.is_to_end(training):
            raise KeyboardInterrupt

    def after_epoch(self, training: Training) -> None:
        """Nothing more to do."""


class Checkpoints(Interruption):
    """Writes a run's state to a folder, and finds the last good one again.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    every : str
        "5min", "1epoch", "500steps". Another one is written when the run ends, also by an interruption.
    configuration : mapping, optional
        Options that must be the same when the run goes on; JSON values.
    defaults : mapping, optional
        What an option was where a checkpoint says nothing of it: it is older than the option.
    may_differ : collection of str
        Options of earlier checkpoints that need not be the same.
    data : str, optional
        The data's `fingerprint`.
    on_error : "stop" or "go on"
        What a checkpoint that cannot be written (full disk, folder gone) leads to.

    Raises
    ------
    OSError
        The folder cannot be made or written to.
    RuntimeError
        Another run is using it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: str = "5min",
        *,
        configuration: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        may_differ: Collection[str] = (),
        data: str | None = None,
        on_error: str = "go on",
    ) -> None:
        super().__init__()
        checks.refuse([checks.one_of("on_error", on_error, ("stop", "go on"))])
        self.folder = Path(folder)
        self.every = Interval.parse(every)
        self.configuration = json.loads(json.dumps(dict(configuration or {})))
        self._defaults, self._may_differ = dict(defaults or {}), frozenset(may_differ)
        self.data = data
        self.on_error = on_error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / "lock")
        except OSError as error:
            raise OSError(
                f"the checkpoint folder {self.folder} cannot be written to: {error.strerror or error}. Name "
                "another one."
            ) from error
        for unfinished in self.folder.glob(PART):  # of a run that was killed while it wrote
            with contextlib.suppress(OSError):
                unfinished.unlink()
        self._written_at = time.monotonic()
        self._written_after = 0.0
        self.resumed_from: dict[str, int] | None = None

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def __enter__(self) -> "Checkpoints":
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the folder."""
        self.close()

    def asks_in(self, training: Training) -> int:
        """After how many steps, at most, `after_step` is to be called: where the next checkpoint is due."""
        if self.every.unit != "steps":
            return super().asks_in(training)
        due = math.ceil(self._written_after + self.every.amount) - training.history.step
        return min(super().asks_in(training), max(1, due))

    def after_step(self, training: Training) -> None:
        """Write if it is time; end the run where `interrupt` asked for it.

        Raises
        ------
        KeyboardInterrupt
            The run was interrupted; its checkpoint is written.
        """
        if self.is_to_end(training):
            self.write(training)
            raise KeyboardInterrupt
        if self.every.unit == "steps":
            self._write_if_due(training, training.history.step)
        elif self.every.unit == "seconds" and time.monotonic() - self._written_at >= self.every.amount:
            self.write(training)

    def after_epoch(self, training: Training) -> None:
        """Write if it is time, and when the run is over: it may go on with more epochs."""
        if training.is_over:
            self.write(training)
        elif self.every.unit == "epochs":
            self._write_if_due(training, len(training.history.train_losses))

    def _write_if_due(self, training: Training, count: int) -> None:
        if count - self._written_after >= self.every.amount:
            self._written_after = count
            self.write(training)

    def write(self, training: Training) -> Path | None:
        """Write the state now; the file's path, or None if it failed and the run goes on.

        A state that is not finite is not written: the run that got there is over.
        """
        state = training.state()
        if not is_finite(state):  # the run is about to end, and must not take good checkpoints with it
            return None
        epoch, step = len(training.history.train_losses), training.history.step
        path = self.folder / f"checkpoint-{epoch:09d}-{step:012d}.safetensors"
        try:
            self._make_folder_again()
            write_whole(path, encode(state, self.configuration, self.data), follow=False)
            # Later ones cannot be read, or the run would have gone on from there.
            for old in [each for each in self.paths() if each.name <= path.name][KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            message = f"the checkpoint {path} could not be written: {error.strerror or error}"
            if self.on_error == "stop":
                raise OSError(f"{message.rstrip('.')}. Earlier checkpoints are untouched.") from error
            warnings.warn(f"{message}. Training goes on; earlier checkpoints are untouched.", stacklevel=2)
            return None
        finally:
            self._written_at = time.monotonic()
        return path

    def _make_folder_again(self) -> None:
        """Where the folder was deleted under way, go on as configured; another run's is left alone.

        Raises
        ------
        OSError
            The folder is another run's now, or was deleted and the run is to stop.
        """
        if self._holds_lock():
            return
        message = f"the checkpoint folder {self.folder} was deleted under way"
        if self.on_error == "stop":
            raise OSError(f"{message}.")
        self._lock.close()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / "lock")
        except RuntimeError as error:
            raise OSError(f"{message}, and another run is using it now") from error
        except OSError:
            return  # said when the checkpoint cannot be written
        if self.paths():
            self._lock.close()
            raise OSError(f"{message}, and has checkpoints of another run now")
        warnings.warn(f"{message}: it is made again, without the earlier checkpoints.", stacklevel=3)

    def _holds_lock(self) -> bool:
        """Whether the lock in the folder is the one that this run took: its folder is still its own."""
        if self._lock.closed:
            return False
        own = os.fstat(self._lock.fileno())
        try:
            found = (self.folder / "lock").stat(follow_symlinks=False)
        except OSError:
            return False
        return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)

    def paths(self) -> list[Path]:
        """Files of checkpoints, the latest first."""
        return checkpoints_in(self.folder)

    def latest(self, *, override: bool = False) -> TrainingState | None:
        """The state of the last good checkpoint; None where there is none.

        A damaged one is named in a warning, and the one before it is used.

        Parameters
        ----------
        override : bool
            Go on although configuration or data differ.

        Raises
        ------
        ValueError
            The run in this folder had another configuration or other data: what differs is named. Or none of
            its checkpoints is good.
        MemoryError
            None of them can be read, and there is too little memory for one of them.
        """
        damaged: list[str] = []
        shortage: MemoryError | None = None
        for path in self.paths():
            try:
                state, configuration, data = decode(_content(path))
            except (ValueError, OSError, MemoryError) as error:
                shortage = error if isinstance(error, MemoryError) else shortage
                what = "is damaged" if isinstance(error, ValueError) else "cannot be read"
                damaged.append(f"{path} {what} ({error})")
                continue
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}: going on from {path}.", stacklevel=2)
            if not override:
                checks.refuse([self._difference(path, configuration, data)])
            self.resumed_from = {
                "epoch": len(state.numbers["train_losses"]),
                "step": state.numbers["step"],
            }
            self._written_after = self.resumed_from["epoch" if self.every.unit == "epochs" else "step"]
            return state
        if shortage is not None:
            raise shortage
        if damaged:
            raise ValueError(f"{'; '.join(damaged)}: no good checkpoint is left.")
        return None

    def _difference(self, path: Path, configuration: Mapping[str, Any], data: str | None) -> str | None:
        then = {**{name: self._defaults.get(name) for name in self.configuration}, **configuration}
        names = sorted({*then, *self.configuration} - self._may_differ)
        changed = [
            f"{name}: {then.get(name)!r} then, {self.configuration.get(name)!r} now"
            for name in names
            if then.get(name) != self.configuration.get(name)
        ]
        if not same_data(data, self.data):
            changed.append("the data: other rows than then")
        if not changed:
            return None
        return (
            f"the run in {path.parent} was another one ({'; '.join(changed)}). Give the same options and "
            f"data, another folder, or {spelled('override')} to go on with what is given now."
        )


def checkpoints_in(folder: Path) -> list[Path]:
    """Files of checkpoints in a folder, the latest first."""
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def configuration_in(folder: Path) -> dict[str, Any]:
    """What the run in a folder was configured with, by its latest good checkpoint; nothing without one."""
    for path in checkpoints_in(folder) if folder.is_dir() else []:
        with contextlib.suppress(ValueError, OSError, MemoryError):
            return decode(_content(path))[1]
    return {}


def _content(path: Path) -> bytes:
    """What is in a checkpoint file, if it begins like one and fits into memory.

    Raises ValueError: it does not begin like one; OSError: it is no file of its own, or cannot be read;
    MemoryError: it does not fit.
    """
    with open_plain(path, follow=False) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)  # of the header: its length, and the first character of its JSON
        if not start.endswith(b"{") or int.from_bytes(start[:8], "little") > size:
            raise ValueError("it does not begin like one")
        require(size, f"the checkpoint {path}")
        return start + file.read(size - len(start))


def encode(state: TrainingState, configuration: Mapping[str, Any], data: str | None) -> bytes:
    """A state as the content of a checkpoint file; vectors that are alike are in it once."""
    bits = {name: state.arrays[name].view(np.uint8) for name in ("parameters", *ALIKE)}
    same = [name for name in ALIKE if np.array_equal(bits[name], bits["parameters"])]
    arrays = {name: array for name, array in state.arrays.items() if name not in same}
    numbers, losses = _without_losses(state.numbers)
    arrays |= losses
    document = {
        "format": FORMAT,
        "numbers": numbers,
        "where": state.where,
        "same": same,
        "configuration": configuration,
        "data": data,
    }
    text = json.dumps(document, sort_keys=True)
    metadata = {"mlp_xp_checkpoint": text, "sha256": checksum(text, arrays)}
    return bytes(safetensors.numpy.save(arrays, metadata))


def decode(content: bytes) -> tuple[TrainingState, dict[str, Any], str | None]:
    """The state, configuration and fingerprint in a checkpoint file's content.

    Raises ValueError: it is damaged, or of a newer version.
    """
    try:
        arrays = safetensors.numpy.load(content)
        header_size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + header_size])["__metadata__"]
        text = metadata["mlp_xp_checkpoint"]
        if metadata["sha256"] != checksum(text, arrays):
            raise ValueError("its checksum is wrong")
        document = json.loads(text)
        if document["format"] > FORMAT:
            raise ValueError(f"its format {document['format']} is newer than this mlp_xp's {FORMAT}")
        if document["format"] > 1:
            _put_losses_back(document["numbers"], arrays)
        arrays |= {name: arrays["parameters"].copy() for name in ALIKE if name in document["same"]}
        state = TrainingState(arrays, document["numbers"], document["where"])
        checks.refuse([_problem(state, document["configuration"], document["data"])])
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return state, document["configuration"], document["data"]


def _without_losses(numbers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Numbers without the losses of epochs, and these as vectors.

    Written as text, those of 20,000 epochs would take 20 ms; as vectors they take 1.
    """
    numbers = dict(numbers)
    if "members" in numbers:
        numbers["members"] = [dict(member) for member in numbers["members"]]
    return numbers, {
        name: np.array(history.pop(field), dtype=np.float64)
        for name, history, field in _places_of_losses(numbers)
    }


def _put_losses_back(numbers: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Undo `_without_losses`."""
    for name, history, field in _places_of_losses(numbers):
        history[field] = arrays.pop(name).tolist()


def _places_of_losses(numbers: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield each vector of losses: its name, the past that it belongs to, and as what."""
    for n, history in enumerate([numbers, *numbers.get("members", ())]):
        for field in LOSSES:
            yield f"{field}.{n}", history, field


def is_finite(state: TrainingState) -> bool:
    """Whether a run can go on from there: weights and losses that are not finite spread."""
    return all(np.isfinite(state.arrays[name]).all() for name in FINITE)


def _problem(state: TrainingState, configuration: object, data: object) -> str | None:
    """What in a state is not as `Training.state` gives it, whoever computed the checksum."""
    arrays, numbers = state.arrays, state.numbers
    if (
        not isinstance(configuration, dict)
        or not isinstance(data, str | None)
        or type(state.where) is not str
    ):
        return "its configuration, fingerprint or place is none"
    if wrong := [name for name, is_one in NUMBERS.items() if not is_one(numbers[name])]:
        return f"its {wrong[0]} can not be {str(numbers[wrong[0]])[:60]}"
    n_epochs, n_steps = len(numbers["train_losses"]), numbers["steps_per_epoch"]
    if numbers["step"] > (n_epochs + 1) * n_steps:
        return f"it is at step {numbers['step']} after {n_epochs} epochs of {n_steps} steps"
    if len(numbers["validation_losses"]) not in (0, n_epochs) or numbers["best_epoch"] > n_epochs:
        return f"losses or best epoch do not fit {n_epochs} epochs"
    if (what := _wrong_member(state)) is not None:
        return f"its members are none: {what}"
    values, steps, divisors = (arrays[f"epoch.{name}"] for name in ("values", "steps", "divisors"))
    of_each = arrays["parameters"].shape[:-1]  # of members each value is a row
    if (*steps.shape, *of_each) != values.shape or (len(divisors), *of_each) != divisors.shape:
        return "the values of its epoch do not fit together"
    if steps.ndim != 1 or len(divisors) > n_steps:
        return "its epoch has values of more steps than there are"
    if steps.dtype != np.int64 or (len(steps) and not 0 <= steps.min() <= steps.max() < len(divisors)):
        return "the values of its epoch are of steps that there are not"
    kinds = {name: array.dtype.kind for name, array in arrays.items() if name != "epoch.steps"}
    if wrong := [name for name, kind in kinds.items() if kind != "f"]:
        return f"its {wrong[0]} are no real numbers"
    return None if is_finite(state) else "it has weights or losses that are nan or infinite"


def _wrong_member(state: TrainingState) -> str | None:
    """What is wrong with what a state says of each member; None where nothing is, or there are none."""
    members, of_each = state.numbers.get("members", ()), state.arrays["parameters"].shape[:-1]
    if not isinstance(members, list | tuple) or len(of_each) > 1 or len(members) != sum(of_each):
        return f"{str(members)[:60]} for {sum(of_each)}"
    fields = {field.name: NUMBERS[field.name] for field in dataclasses.fields(History)}
    fields |= {"behind": _whole, "stopped": lambda why: why is None or type(why) is str}
    for n, member in enumerate(members):
        for name, is_one in fields.items():
            if not is_one(member[name]):
                return f"{name} of member {n} can not be {str(member[name])[:60]}"
    return None


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _real(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max


def _of_field(field: "dataclasses.Field[Any]") -> Callable[[Any], bool]:
    """Which values a field of a history can have: those of its type, nothing below its start."""
    default = field.default
    if field.type is int:
        return lambda value: _whole(value) and value >= default
    if field.type is float:  # the best loss before the first epoch is infinite; time starts at 0
        return lambda value: value == default or (_real(value) and (default == math.inf or value >= default))
    return lambda value: isinstance(value, list) and all(type(each) in (int, float) for each in value)


NUMBERS: dict[str, Callable[[Any], bool]] = {
    **{field.name: _of_field(field) for field in dataclasses.fields(History)},
    "train_losses": lambda value: isinstance(value, list) and all(map(_real, value)),  # else the run is over
    "t": _whole,
    "last_rate": lambda value: _real(value) and value >= 0,
}
"""Which values the numbers of a state can have: a history's, and those of optimizer and rate."""

LOSSES = ("train_losses", "validation_losses")
"""What a history has for each of its epochs."""

ALIKE = ("last_good", "best")
"""Vectors that often are the parameters: at the end of an epoch."""

FINITE = ("parameters", "last_good", "best", "epoch.values", "epoch.divisors")
"""Arrays without which a run goes nowhere if they are not finite."""


def _lock(path: Path) -> Any:
    """An open file that locks the folder until it is closed or the process ends.

    Raises RuntimeError: another process holds it.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no file of its own; delete it")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RuntimeError(
            f"another run is using the checkpoint folder {path.parent}: wait for it, or name another folder."
        ) from error
    return file


@contextlib.contextmanager
def interruptible(run: Interruption) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a clean end after the step under way; a second one leaves at once."""
    import signal

    def handle(number: int, _: object) -> None:
        if run.interrupted_by is not None:
            end_by(number)
        run.interrupt(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
