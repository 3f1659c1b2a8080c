"""Learning rates over time: pure functions of the history.

`schedule(history)` is the factor on the base learning rate for the coming step. A schedule holds no state:
resumed, repeated or asked out of turn it answers the same. Where `once_an_epoch` is true the factor changes
only between epochs, and is asked for only there.
"""

import dataclasses
import math
from typing import Any

from mlp_xp.history import History
from mlp_xp.settings import fields
from mlp_xp.settings.catalogue import resolve


class Schedule(fields.Checked):
    """What a schedule is asked.

    Attributes
    ----------
    once_an_epoch : bool
        Whether the factor changes only between epochs.
    """

    once_an_epoch: bool = False

    def __call__(self, history: History) -> float:
        """The factor on the learning rate for the coming step."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """1 at every step."""

    once_an_epoch = True

    def __call__(self, history: History) -> float:
        """1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Step(Schedule):
    """factor^⌊epochs / every⌋: a cut after each `every` epochs.

    Parameters
    ----------
    every : int
        Epochs between cuts.
    factor : float in (0, 1]
        The cut.
    """

    every: int = fields.whole(30)
    factor: float = fields.number(0.1, above=0, most=1)
    once_an_epoch = True

    def __call__(self, history: History) -> float:
        """The factor now."""
        return self.factor ** (history.step // history.steps_per_epoch // self.every)


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """decay^epochs, falling a little at every step.

    Parameters
    ----------
    decay : float in (0, 1]
        The factor per epoch.
    """

    decay: float = fields.number(0.95, above=0, most=1)

    def __call__(self, history: History) -> float:
        """The factor now."""
        return self.decay**history.epochs


@dataclasses.dataclass(frozen=True)
class InverseScaling(Schedule):
    """1 / (t + 1)^power with t the rows seen, set once an epoch (scikit-learn's "invscaling").

    Parameters
    ----------
    power : float >= 0
        The exponent.
    """

    power: float = fields.number(0.5, least=0)
    once_an_epoch = True

    def __call__(self, history: History) -> float:
        """The factor now."""
        return 1.0 / (history.rows_at_epoch_start + 1) ** self.power


@dataclasses.dataclass(frozen=True)
class OverRun(Schedule):
    """One whose shape stretches over a run.

    Parameters
    ----------
    n_epochs : int, optional
        Its length; the run's maximum of epochs if not given.
    """

    n_epochs: int | None = fields.whole(None)

    def progress(self, history: History) -> float:
        """The part of it that is over."""
        return min(history.epochs / (self.n_epochs or history.max_epochs), 1.0)


@dataclasses.dataclass(frozen=True)
class Cosine(OverRun):
    """final + (1 − final) (1 + cos(π epochs / n_epochs)) / 2, then `final`.

    Parameters
    ----------
    n_epochs : int, optional
        Epochs until the factor is `final`; the run's maximum of epochs if not given.
    final : float in [0, 1]
        The factor at the end.

    References
    ----------
    Loshchilov and Hutter, SGDR, ICLR 2017, equation 5 without restarts.
    """

    final: float = fields.number(0.0, least=0, most=1)

    def __call__(self, history: History) -> float:
        """The factor now."""
        return self.final + (1.0 - self.final) * _half_cosine(self.progress(history))


def _half_cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclasses.dataclass(frozen=True)
class FlatCosine(OverRun):
    """1 until a part of the run, then (1 + cos(π t)) / 2 down to 0, with t from 0 to 1 over the rest of it.

    Parameters
    ----------
    n_epochs : int, optional
        Length of the run; its maximum of epochs if not given.
    flat : float in [0, 1)
        The part of the run with the factor 1.

    References
    ----------
    Holzmüller, Grinsztajn and Steinwart, Better by default, NeurIPS 2024 ("flat_cos").
    """

    flat: float = fields.number(0.5, least=0, below=1)

    def __call__(self, history: History) -> float:
        """The factor now."""
        return _half_cosine(max(0.0, self.progress(history) - self.flat) / (1.0 - self.flat))


@dataclasses.dataclass(frozen=True)
class WarmUp(Schedule):
    """Rise linearly over the first steps, (step + 1) / n_steps, times another schedule.

    Parameters
    ----------
    n_steps : int
        Steps until the full rate.
    after : str or schedule
        What it is multiplied with; it counts from the first step of all.

    References
    ----------
    Goyal et al., Accurate, large minibatch SGD, 2017, section 2.2.
    """

    n_steps: int = fields.whole(100)
    after: Any = "constant"

    def __post_init__(self) -> None:
        """Check the steps and resolve the other schedule."""
        super().__post_init__()
        object.__setattr__(self, "after", resolve("schedule", SCHEDULES, self.after))

    def __call__(self, history: History) -> float:
        """The factor now."""
        return min((history.step + 1) / self.n_steps, 1.0) * float(self.after(history))


@dataclasses.dataclass(frozen=True)
class OneCycle(OverRun):
    """Up from `start` to 1 over the first part of the run, then down to `final`, both along half a cosine.

    Parameters
    ----------
    n_epochs : int, optional
        Length of the cycle; the run's maximum of epochs if not given.
    rise : float in (0, 1)
        The part of the cycle that rises.
    start, final : float in [0, 1]
        The factors at both ends.

    References
    ----------
    Smith and Topin, Super-convergence, 2018. Their two linear pieces are half cosines here, as in PyTorch.
    """

    rise: float = fields.number(0.3, above=0, below=1)
    start: float = fields.number(0.04, least=0, most=1)
    final: float = fields.number(4e-6, least=0, most=1)

    def __call__(self, history: History) -> float:
        """The factor now."""
        progress = self.progress(history)
        if progress < self.rise:
            return 1.0 - (1.0 - self.start) * _half_cosine(progress / self.rise)
        return self.final + (1.0 - self.final) * _half_cosine((progress - self.rise) / (1.0 - self.rise))


@dataclasses.dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """A cut whenever the watched loss has not improved by `tolerance` for `patience` epochs.

    The watched loss is that of the validation rows where there are any, else the training loss.

    Parameters
    ----------
    factor : float in (0, 1)
        The cut.
    patience : int
        Epochs without improvement before a cut; counting starts again after it.
    tolerance : float >= 0
        What counts as an improvement, in units of the loss.
    floor : float in [0, 1]
        The factor never falls below it.
    """

    factor: float = fields.number(0.5, above=0, below=1)
    patience: int = fields.whole(10)
    tolerance: float = fields.number(1e-4, least=0)
    floor: float = fields.number(0.0, least=0, most=1)
    once_an_epoch = True

    def __call__(self, history: History) -> float:
        """The factor now."""
        scale, _, _ = history.fold(self, self._after, (1.0, math.inf, 0))
        return max(scale, self.floor)

    def _after(self, seen: tuple[float, float, int], loss: float) -> tuple[float, float, int]:
        """Factor, best loss and epochs waited, with one loss more."""
        scale, best, waited = seen
        best, waited = (loss, 0) if loss < best - self.tolerance else (best, waited + 1)
        return (scale * self.factor, best, 0) if waited >= self.patience else (scale, best, waited)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "inverse_scaling": InverseScaling,
    "cosine": Cosine,
    "flat_cosine": FlatCosine,
    "warm_up": WarmUp,
    "one_cycle": OneCycle,
    "reduce_on_plateau": ReduceOnPlateau,
}
