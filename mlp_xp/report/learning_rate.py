"""Which learning rate suits: a short training whose rate rises at every step, and its picture."""

import copy
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlp_xp.losses import LOSSES
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.optimizers import OPTIMIZERS, Optimizer
from mlp_xp.own import resolve
from mlp_xp.regularizers import REGULARIZERS
from mlp_xp.report.charts import rate_picture
from mlp_xp.rows.batch import Batch
from mlp_xp.rows.loader import Loader
from mlp_xp.settings import checks
from mlp_xp.step import Step

MEMORY = 0.9
"""The part of a smoothed loss that is left of it after a step."""

FIRST_STEPS = 10
"""Steps before the test may end, whose losses say little."""


@dataclasses.dataclass(frozen=True, eq=False)
class RateTest:
    """What a range test has found.

    Attributes
    ----------
    rates : array (n_steps,)
        The learning rate of each step, ascending.
    losses : array (n_steps,)
        The objective of each step's rows, before the step was made.
    smoothed : array (n_steps,)
        A running mean of these, in which the newest has a tenth.
    suggestion : float
        A tenth of the rate at which the smoothed loss is lowest: there it is about to rise.
    """

    rates: np.ndarray = dataclasses.field(repr=False)
    losses: np.ndarray = dataclasses.field(repr=False)
    smoothed: np.ndarray = dataclasses.field(repr=False)
    suggestion: float

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the losses over the rates, an SVG file.

        Raises
        ------
        ValueError
            The file has another suffix.
        OSError
            It cannot be written.
        """
        if Path(path).suffix.lower() != ".svg":
            raise ValueError(f"{os.fspath(path)!r}: the picture of a range test is an .svg file; name one.")
        rates, losses, smoothed = (each.tolist() for each in (self.rates, self.losses, self.smoothed))
        drawn = rate_picture(rates, losses, smoothed, self.suggestion)
        write_whole(path, drawn.encode())


def find_learning_rate(
    network: Network,
    loader: Loader,
    *,
    loss: object = "squared_error",
    optimizer: object = "adam",
    regularizer: object = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    n_steps: int = 200,
) -> RateTest:
    """Train a copy of a network with a rate that rises from step to step, until the loss explodes.

        η_t = lowest (highest / lowest)^(t / (n_steps − 1))

    The network itself is left as it is. The rows come as in a training, in as many epochs as it takes.

    Parameters
    ----------
    network, loader, loss, optimizer, regularizer
        As in `train`.
    lowest, highest : float > 0
        The range of rates.
    n_steps : int
        Steps at most, 20 or more.

    Returns
    -------
    RateTest
        Rates, losses and a suggestion; ``plot("rates.svg")`` draws them.

    Raises
    ------
    ValueError, TypeError
        An argument is refused.

    References
    ----------
    Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> loader = Loader(x, x.sum(axis=1), batch_size=25)
    >>> 1e-4 < find_learning_rate(Network((3, 20, 1), seed=1), loader).suggestion < 1
    True
    """
    checks.refuse(
        [
            checks.number("lowest", lowest, above=0),
            checks.number("highest", highest, above=0),
            checks.whole("n_steps", n_steps, least=2 * FIRST_STEPS),
        ]
    )
    checks.refuse([checks.number("highest", highest, above=lowest)])
    rule = resolve("optimizer", OPTIMIZERS, optimizer)
    penalty = None if regularizer is None else resolve("regularizer", REGULARIZERS, regularizer)
    if rule.search is not None:
        raise ValueError("L-BFGS sets its own step sizes: there is no learning rate to find.")
    if network.members is not None:
        raise ValueError("a range test is of one network: take one of the members (`network.each()`).")
    trained = copy.deepcopy(network)
    objective = Objective(trained, resolve("loss", LOSSES, loss), penalty)
    step = Step(objective, Optimizer(rule, trained.parameters))
    trained.backend.runtime.select()
    rates = np.geomspace(lowest, highest, n_steps).tolist()
    losses: list[float] = []
    smoothed: list[float] = []
    with trained.backend.runtime.working(), np.errstate(all="ignore"):
        for number, (rate, batch) in enumerate(zip(rates, _batches(loader, objective), strict=False)):
            objective.losses.start()
            step(batch, number, rate)
            found = objective.losses.objective()
            if not math.isfinite(found):
                break
            losses.append(found)
            smoothed.append(_running_mean(losses))
            if number >= FIRST_STEPS and smoothed[-1] > smoothed[0] + 3.0 * abs(smoothed[0]):
                break
    if len(losses) < FIRST_STEPS:
        raise ValueError(
            f"the loss became infinite or nan after {len(losses)} steps: begin with a lower rate than "
            f"{lowest!r}."
        )
    suggestion = 0.1 * rates[int(np.argmin(smoothed))]
    return RateTest(np.array(rates[: len(losses)]), np.array(losses), np.array(smoothed), suggestion)


def _batches(loader: Loader, objective: Objective) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    for epoch in itertools.count():
        yield from loader.batches(epoch, objective.network.backend, **objective.targets)


def _running_mean(losses: list[float]) -> float:
    """An exponential mean, without a bias to the first."""
    weights = MEMORY ** np.arange(len(losses) - 1, -1, -1)
    return float(weights @ losses / weights.sum())
