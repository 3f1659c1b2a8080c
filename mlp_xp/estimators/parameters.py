"""Constructor parameters: declared once, checked as scikit-learn checks its own, translated to the core."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import field
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_parameter_constraints,
)

from mlp_xp import own
from mlp_xp.activations import Activation, resolve_activation
from mlp_xp.initializers import INITIALIZERS, Initializer
from mlp_xp.machine.array_api import DTYPES
from mlp_xp.members.given import shared
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, SGD, Adam, Momentum, Nesterov, Rule
from mlp_xp.regularizers import REGULARIZERS, ElasticNet, Regularizer
from mlp_xp.schedules import SCHEDULES, Constant, InverseScaling, Schedule

SCIPY_LOSS_TOLERANCE = 1e7 * np.finfo(float).eps
"""SciPy's default for L-BFGS-B, which scikit-learn leaves alone."""

SOLVERS_OF_SKLEARN = ("lbfgs", "sgd", "adam")
SCHEDULES_OF_SKLEARN = ("constant", "invscaling", "adaptive")

POSITIVE = Interval(Real, 0, None, closed="neither")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
PART = Interval(Real, 0, 1, closed="left")
COUNT = Interval(Integral, 1, None, closed="left")


def allowed(*values: object) -> dict[str, object]:
    """What a parameter may be, as scikit-learn declares it; without it, it names something of mlp_xp."""
    return {"allowed": list(values)}


@dataclasses.dataclass(eq=False, repr=False, match_args=False, kw_only=True)
class Parameters(BaseEstimator):
    """The keyword parameters of both classes; the docstring of `MLPClassifier` says what they mean.

    As fields, from which the constructor follows: scikit-learn reads its signature. Each class has its
    positional ones, `hidden_layer_sizes` and `activation` among them, and those that it has alone.
    """

    solver: object = "adam"
    alpha: float = field(default=0.0001, metadata=allowed(NOT_NEGATIVE))
    batch_size: int | str = field(default="auto", metadata=allowed(StrOptions({"auto"}), COUNT))
    learning_rate: object = "constant"
    learning_rate_init: float = field(default=0.001, metadata=allowed(POSITIVE))
    power_t: float = field(default=0.5, metadata=allowed(NOT_NEGATIVE))
    max_iter: int = field(default=200, metadata=allowed(COUNT))
    shuffle: bool = field(default=True, metadata=allowed("boolean"))
    random_state: int | np.random.RandomState | None = field(default=None, metadata=allowed("random_state"))
    tol: float = field(default=1e-4, metadata=allowed(NOT_NEGATIVE))
    verbose: bool = field(default=False, metadata=allowed("verbose"))
    warm_start: bool | str = field(default=False, metadata=allowed("boolean", StrOptions({"continue"})))
    momentum: float = field(default=0.9, metadata=allowed(Interval(Real, 0, 1, closed="both")))
    nesterovs_momentum: bool = field(default=True, metadata=allowed("boolean"))
    early_stopping: bool = field(default=False, metadata=allowed("boolean"))
    validation_fraction: float = field(default=0.1, metadata=allowed(PART))
    beta_1: float = field(default=0.9, metadata=allowed(PART))
    beta_2: float = field(default=0.999, metadata=allowed(PART))
    epsilon: float = field(default=1e-8, metadata=allowed(POSITIVE))
    n_iter_no_change: float = field(default=10, metadata=allowed(COUNT, Options(Real, {np.inf})))
    max_fun: int = field(default=15000, metadata=allowed(COUNT))
    device: str | None = field(default=None, metadata=allowed(str, None))
    dtype: str | None = field(default=None, metadata=allowed(StrOptions(set(DTYPES)), None))
    dropout: float | Sequence[float] = field(default=0.0, metadata=allowed(PART, "array-like"))
    l1: float = field(default=0.0, metadata=allowed(NOT_NEGATIVE))
    regularizer: object = None
    clip_norm: float | None = field(default=None, metadata=allowed(POSITIVE, None))
    initializer: object = None
    scoring: str | Callable[..., float] | None = field(default=None, metadata=allowed(str, callable, None))
    time_budget: float | None = field(default=None, metadata=allowed(POSITIVE, None))
    callback: Callable[..., object] | None = field(default=None, metadata=allowed(callable, None))
    members: int | None = field(default=None, metadata=allowed(COUNT, None))

    @property
    def _parameter_constraints(self) -> dict[str, list[object]]:
        """What parameters may be, under scikit-learn's name."""
        fields = dataclasses.fields(self)
        return {each.name: each.metadata["allowed"] for each in fields if each.metadata}

    def _validate_params(self) -> None:
        """Refuse all that is wrong, of scikit-learn's parameters and of ours."""
        found = self._problems()
        constraints, named = self._parameter_constraints, type(self).__name__
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is not each.default:
                try:
                    validate_parameter_constraints(constraints, {each.name: value}, caller_name=named)
                except InvalidParameterError as error:
                    found.append(str(error))
        found += [] if any(found) else [self._lbfgs_problem()]
        if problems := [problem for problem in found if problem]:
            raise InvalidParameterError("\n".join(problems))

    def _problems(self) -> list[str | None]:
        """What is wrong with the parameters that name something of mlp_xp."""
        return [
            self._unknown("activation", hidden_activations),
            self._unknown("solver", lambda _: self._rule(), SOLVERS_OF_SKLEARN),
            self._unknown("learning_rate", lambda _: self._schedule(), SCHEDULES_OF_SKLEARN),
            None if self.initializer is None else self._unknown("initializer", _initializer, (None,)),
            None if self.regularizer is None else self._unknown("regularizer", _penalty, (None,)),
        ]

    def _unknown(
        self, name: str, find: Callable[[object], object], also: Sequence[str | None] = ()
    ) -> str | None:
        """The problem with a parameter that is none of some words, and that `find` does not resolve."""
        value = getattr(self, name)
        if isinstance(value, str) and value in also:  # what goes with it has messages of its own
            return None
        try:
            find(value)
        except (ValueError, TypeError) as error:
            return (
                f"The {name!r} parameter of {type(self).__name__} must be "
                f"{''.join(f'{each!r}, ' for each in also)}{'or ' * (len(also) > 1)}a name or an object of "
                f"mlp_xp. Got {value!r} instead: {error}"
            )
        return None

    def _lbfgs_problem(self) -> str | None:
        """L-BFGS works on the objective over all rows, the same in each iteration."""
        more = np.any(self.dropout) or self.clip_norm is not None or self.members is not None
        if not more or self._makes_steps():
            return None
        return (
            f"solver={self.solver!r} works on all rows at once, for one network: it needs dropout=0, "
            "clip_norm=None and members=None."
        )

    def _goes_on(self) -> bool:
        """Whether fits go on where the last one ended."""
        return isinstance(self.warm_start, str) and self.warm_start == "continue"

    def _hidden_sizes(self) -> list[int]:
        """Units of the hidden layers."""
        given = self.hidden_layer_sizes
        sizes = list(given) if hasattr(given, "__iter__") else [given]
        if not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}: give whole numbers of units.")
        return list(map(int, sizes))

    def _rule(self) -> Rule:
        """The update rule of `solver`: scikit-learn's three with its parameters, or one of the core's."""
        if not isinstance(self.solver, str) or self.solver not in SOLVERS_OF_SKLEARN:
            return shared("solver", own.resolve("optimizer", OPTIMIZERS, self.solver))
        if self.solver == "lbfgs":
            return LBFGS(
                gradient_tolerance=float(self.tol),
                loss_tolerance=SCIPY_LOSS_TOLERANCE,
                max_evaluations=int(self.max_fun),
            )
        if self.solver == "adam":
            return Adam(float(self.beta_1), float(self.beta_2), float(self.epsilon), eps_on="raw")
        if self.momentum == 0:
            return SGD()
        return (Nesterov if self.nesterovs_momentum else Momentum)(float(self.momentum))

    def _makes_steps(self) -> bool:
        """Whether the solver makes steps, rather than L-BFGS's iterations over all rows."""
        return self._rule().search is None

    def _is_adaptive(self) -> bool:
        """Whether the rate is divided by 5 where training would stop: scikit-learn's, for "sgd" only."""
        given = self.learning_rate
        return self.solver == "sgd" and isinstance(given, str) and given == "adaptive"

    def _schedule(self) -> Schedule:
        """The schedule of `learning_rate`; scikit-learn's three names have an effect with "sgd" only."""
        given = self.learning_rate
        if isinstance(given, str) and given in SCHEDULES_OF_SKLEARN:
            scaling = given == "invscaling" and self.solver == "sgd"
            return InverseScaling(float(self.power_t)) if scaling else Constant()
        return own.resolve("schedule", SCHEDULES, given)

    def _regularizer(self) -> Regularizer | None:
        """What `regularizer` says, else alpha / 2 Σ w² + l1 Σ |w|."""
        if self.regularizer is not None:
            return _penalty(self.regularizer)
        if not self.alpha and not self.l1:
            return None
        return ElasticNet(l1=float(self.l1), l2=0.5 * float(self.alpha))

    def _batch_rows(self, n_rows: int) -> int:
        """Rows a step, at most those there are."""
        return min(200 if isinstance(self.batch_size, str) else int(self.batch_size), n_rows)


def _initializer(given: object) -> Initializer:
    return own.resolve("initializer", INITIALIZERS, given)


def _penalty(given: object) -> Regularizer:
    return shared("regularizer", own.resolve("regularizer", REGULARIZERS, given))


def hidden_activations(given: object, n_hidden: int | None = None) -> list[Activation]:
    """The activation of each hidden layer from one for all or a list with one for each.

    Raises ValueError, TypeError: one is not known, or the list is of another length than n_hidden.
    """
    pair = isinstance(given, tuple) and len(given) == 2 and any(map(callable, given))
    if isinstance(given, list | tuple) and not pair:
        if n_hidden is not None and len(given) != n_hidden:
            raise ValueError(
                f"activation has {len(given)} entries, but there are {n_hidden} hidden layers: give one "
                "for all, or one for each."
            )
        return [resolve_activation(each) for each in given]
    return [resolve_activation(given)] * (1 if n_hidden is None else n_hidden)
