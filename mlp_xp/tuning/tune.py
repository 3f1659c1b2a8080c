"""The search itself: train all tries for a few epochs, drop the worse half, train the others on.

References
----------
Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016
(successive halving). Here tries of one shape are members of one network.
"""

import contextlib
import dataclasses
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from mlp_xp.machine import blas
from mlp_xp.machine.whole_file import read_plain, write_whole
from mlp_xp.rows.fingerprint import fingerprint, same_data
from mlp_xp.saved.checkpoint import decode, encode
from mlp_xp.settings import checks
from mlp_xp.settings.spelling import given
from mlp_xp.tables.fit_table import noted
from mlp_xp.tables.fitting import Data, loader_for, new_model, read_data, takes_all_rows
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tuning.group import Group, Standing
from mlp_xp.tuning.space import SEARCHED, SHAPE, draw

Model = TypeVar("Model", bound=TableModel)

MOST_RUNGS = 5
"""Times that tries are compared, at most: the first comparison comes after a 16th of all epochs."""

FIRST_SHARE = 1 / 3
"""Of the time, that the first comparison has: the later ones take twice as long."""

PRICE_ALONE = 2.0
"""Times an epoch's price that a try may take alone: measured 0.6 to 2.0 of that in a group of eight."""


@dataclasses.dataclass(frozen=True)
class Try:
    """Settings that were tried, and what came out; number 0 has the recipe's."""

    number: int
    options: TrainingOptions
    standing: Standing

    def __repr__(self) -> str:
        """Number, epochs, loss and settings, in a line."""
        of, settings = self.standing, ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Try({self.number}: {of.epochs} epochs, held-out loss {of.best:.5g}; {settings})"

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are searched for."""
        return {name: getattr(self.options, name) for name in SEARCHED}


@dataclasses.dataclass(frozen=True)
class Tuning(Generic[Model]):
    """What a search has found.

    Attributes
    ----------
    model : TableModel
        The best try's, trained to its end.
    options : TrainingOptions
        Its options, to train it again.
    tries : list of Try
        The best first.
    stopped : str
        Why the search ended.
    """

    model: Model
    options: TrainingOptions
    tries: list[Try]
    stopped: str

    def __repr__(self) -> str:
        """The best try and how many there are."""
        return f"Tuning(best of {len(self.tries)} tries: {self.tries[0]!r}; {self.stopped})"


def search(
    options: TrainingOptions,
    *,
    tries: int,
    time_budget: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    say: Callable[[str], object] = lambda line: None,
    fixed: Sequence[str] = (),
) -> Tuning[TableModel]:
    """`mlp_xp.tune` for options that are read; settings among `fixed` are not searched for."""
    checks.refuse(
        [
            *options.problems(),
            checks.whole("tries", tries),
            f"{given('members', options.members)}: tries are members already; leave it out."
            if options.members
            else None,
        ]
    )
    ends = math.inf if time_budget is None else time.monotonic() + time_budget
    first = read_data(options)
    if takes_all_rows(first.options):
        raise ValueError(f"{given('optimizer', options.optimizer)}: members need steps; name another rule.")
    drawn = list(enumerate(draw(first.options, tries, fixed)))
    run = Halving(first, drawn, None if folder is None else Path(folder), say)
    stopped = run.to_the_end(lambda: ends - time.monotonic())
    found = sorted(
        (Try(number, own, run.standings[number]) for number, own in drawn if number in run.standings),
        key=lambda one: (-one.standing.epochs, one.standing.best, one.number),
    )
    if not run.groups or not math.isfinite(found[0].standing.best):
        raise FloatingPointError("all tries diverged: give a lower learning_rate.")
    return Tuning(run.model_of(found[0]), found[0].options, found, stopped)


MOST_BYTES = 1 << 40
"""What a file of a search may have."""


class Halving:
    """A search at some comparison, kept in a folder if there is one; `standings`: the latest of each try.

    It is not whole, and not kept, where the time was too short for all tries.
    """

    def __init__(
        self,
        data: Data,
        tries: Sequence[tuple[int, TrainingOptions]],
        folder: Path | None,
        say: Callable[[str], object],
    ) -> None:
        self.folder, self.say, self.n_tries = folder, say, len(tries)
        self.most_epochs = data.options.read("epochs")
        self.standings: dict[int, Standing] = {}
        self.rung, self.is_whole = 0, True
        read: dict[Any, Data] = {data.options.scaling: data}
        by_shape: dict[tuple[Any, ...], list[tuple[int, TrainingOptions]]] = {}
        for number, own in tries:
            by_shape.setdefault(tuple(getattr(own, name) for name in SHAPE), []).append((number, own))
        self.groups = []
        for members in by_shape.values():
            own = members[0][1]
            if own.scaling not in read:
                read[own.scaling] = read_data(dataclasses.replace(data.options, scaling=own.scaling))
            self.groups.append(Group(dataclasses.replace(read[own.scaling], options=own), members))
        self.about = {str(number): _described(own) for number, own in tries}
        self.fingerprint = None if folder is None else fingerprint(data.table.source)

    @property
    def rungs(self) -> list[int]:
        """Epochs after which tries are compared, the last one all of them."""
        n_rungs = 1 + min(MOST_RUNGS - 1, int(math.log2(self.n_tries)), int(math.log2(self.most_epochs)))
        return [math.ceil(self.most_epochs / 2 ** (n_rungs - 1 - rung)) for rung in range(n_rungs)]

    def to_the_end(self, left: Callable[[], float]) -> str:
        """Compare until one is the last, or too few seconds are left; say why it was."""
        self._go_on()
        while self.rung < len(self.rungs):
            until = self.rungs[self.rung]
            alive = self._advanced(until, left)
            if not alive:
                return "all tries diverged"
            self.rung += 1
            is_last = self.rung == len(self.rungs)
            kept = alive if is_last else alive[: -(-len(alive) // 2)]
            best = self.standings[alive[0]].best
            self.say(
                f"epoch {until}/{self.most_epochs}: {len(alive)} of {self.n_tries} tries, the best is "
                f"{alive[0]} with a held-out loss of {best:.5g}"
                + ("" if is_last else f", {len(kept)} to go on")
            )
            self._let_go_but(kept)
            if self.is_whole:
                self._keep()
            if not is_last and left() < self.seconds_of_next():
                self._let_go_but(alive[:1])
                self._advanced(self.most_epochs, left)
                stopped = f"time budget used after {until} of {self.most_epochs} epochs, then the best alone"
                break
        else:
            stopped = f"reached {self.most_epochs} epochs"
        return stopped if self.is_whole else f"{stopped}; {len(self.standings)} of {self.n_tries} tries"

    def _advanced(self, until: int, left: Callable[[], float]) -> list[int]:
        """Train all tries on to an epoch; those that have not diverged, the best first.

        In the first comparison a group that is late, unless it is the first, is let go.
        """
        is_cut_off, in_time = threading.Event(), left() * (1.0 - FIRST_SHARE)

        def advance(group: Group) -> None:
            may_be_late = self.rung == 0 and group is not self.groups[0]
            group.advance(until, lambda: is_cut_off.is_set() or (may_be_late and left() < in_time))

        pool = ThreadPoolExecutor(blas.n_threads())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="member .* diverged")
            try:
                list(pool.map(advance, self.groups))
            finally:  # after Ctrl-C, say, nobody waits for the others, which end with their epoch
                is_cut_off.set()
                pool.shutdown(wait=False, cancel_futures=True)
        self.is_whole &= all(group.state is not None or not group.tries for group in self.groups)
        self.groups = [group for group in self.groups if group.state is not None]
        for each in self.groups:
            self.standings |= each.standings()
        alive = [number for group in self.groups for number, _ in group.tries]
        return sorted(alive, key=lambda number: (self.standings[number].best, number))

    def _let_go_but(self, numbers: Sequence[int]) -> None:
        """Let go of all other tries."""
        for group in self.groups:
            group.keep(set(numbers))
        self.groups = [group for group in self.groups if group.tries]

    def seconds_of_next(self) -> float:
        """What the next comparison takes and, after it, any one try alone, at most."""
        before, until = self.rungs[self.rung - 1 : self.rung + 1]
        of_groups = [group.price * len(group.tries) * (until - before) for group in self.groups]
        alone = PRICE_ALONE * max(group.price for group in self.groups) * (self.most_epochs - until)
        return max(*of_groups, sum(of_groups) / blas.n_threads()) + alone

    def model_of(self, one: Try) -> TableModel:
        """A try's model, at its best epoch."""
        group = next(group for group in self.groups if any(number == one.number for number, _ in group.tries))
        data = dataclasses.replace(group.data, options=one.options)
        model = new_model(data)
        model.network.parameters.flat[...] = model.network.backend.asarray(group.best_of(one.number))
        model.network.output = data.loss.link
        batch_size = loader_for(data.options, data.parts.training).batch_size
        noted(model, data, batch_size, one.standing.epochs, f"reached {one.standing.epochs} epochs")
        return model

    def _keep(self) -> None:
        """Write where the search is, so that it can go on from there."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for n, group in enumerate(self.groups):
            if group.state is not None:
                write_whole(self.folder / f"{self.rung}-{n}.safetensors", encode(group.state, {}, None))
        document = {
            "rung": self.rung,
            "tries": self.about,
            "data": self.fingerprint,
            "standings": {n: dataclasses.asdict(each) for n, each in self.standings.items()},
            "groups": [[number for number, _ in group.tries] for group in self.groups],
        }
        write_whole(self.folder / "search.json", json.dumps(document, sort_keys=True).encode())
        for old in self.folder.glob("*-*.safetensors"):
            if not old.name.startswith(f"{self.rung}-"):
                with contextlib.suppress(OSError):
                    old.unlink()

    def _go_on(self) -> None:
        """Go on from what is in the folder.

        Raises ValueError: it is that of another search, or damaged.
        """
        if self.folder is None or not (self.folder / "search.json").exists():
            return
        document = json.loads(read_plain(self.folder / "search.json", MOST_BYTES))
        is_same = document["tries"] == self.about
        if not (is_same and same_data(document.get("data"), self.fingerprint)):
            what = "of other data" if is_same else "another one"
            raise ValueError(
                f"the search in {self.folder} is {what}: give the same options and data, or another folder."
            )
        self.rung = document["rung"]
        self.standings = {int(n): Standing(**each) for n, each in document["standings"].items()}
        groups = []
        for n, numbers in enumerate(document["groups"]):
            group = next(
                group for group in self.groups if any(number == numbers[0] for number, _ in group.tries)
            )
            state, _, _ = decode(read_plain(self.folder / f"{self.rung}-{n}.safetensors", MOST_BYTES))
            tries = [each for each in group.tries if each[0] in numbers]
            groups.append(Group(group.data, tries, state))
        self.groups = groups
        self.say(f"going on from {self.folder}, after {checks.counted(self.rung, 'comparison')}")


def _described(options: TrainingOptions) -> dict[str, Any]:
    """What makes a try what it is, as JSON values."""
    left_out = {"out", "report", "plot", "log", "tensorboard", "data"}
    return {
        name: value if value is None or isinstance(value, bool | int | float | str) else str(value)
        for name, value in options.determining(ahead=True).items()
        if name not in left_out
    }
