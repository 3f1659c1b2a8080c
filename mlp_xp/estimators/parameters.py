"""Constructor parameters: checked as scikit-learn checks its own, translated to the core's objects."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
)

from mlp_xp import own
from mlp_xp.activations import resolve_activation
from mlp_xp.initializers import INITIALIZERS
from mlp_xp.machine.array_api import DTYPES
from mlp_xp.optimizers import LBFGS, OPTIMIZERS, SGD, Adam, Momentum, Nesterov
from mlp_xp.regularizers import ElasticNet
from mlp_xp.schedules import SCHEDULES, Constant, InverseScaling
from mlp_xp.settings import checks

SCIPY_LOSS_TOLERANCE = 1e7 * np.finfo(float).eps
"""SciPy's default for L-BFGS-B, which scikit-learn leaves alone."""

CONSTRAINTS: dict[str, Any] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "momentum": [Interval(Real, 0, 1, closed="both")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
}
"""The parameters that have scikit-learn's values alone."""

SCHEDULES_OF_SKLEARN = ("constant", "invscaling", "adaptive")


def refuse(problems: list[str | None]) -> None:
    """Raise all problems with parameters in one error of the type that scikit-learn uses."""
    found = [problem for problem in problems if problem]
    if found:
        raise InvalidParameterError("\n".join(found))


def found_by(estimator: Any, name: str, find: Callable[[Any], Any], also: str = "") -> str | None:
    """The problem with a parameter that `find` resolves, if it does not."""
    value = getattr(estimator, name)
    try:
        find(value)
    except (ValueError, TypeError) as error:
        return (
            f"The {name!r} parameter of {type(estimator).__name__} must be {also}a name or an object "
            f"of mlp_xp. Got {value!r} instead: {error}"
        )
    return None


def stated(estimator: Any, problem: str | None, name: str, needed: str) -> str | None:
    """A problem in scikit-learn's words, with all values that may be given."""
    if problem is None:
        return None
    value = getattr(estimator, name)
    kind = type(estimator).__name__
    return f"The {name!r} parameter of {kind} must be {needed}. Got {value!r} instead."


def problems_with(e: Any) -> list[str | None]:
    """What is wrong with the parameters that have values of our own."""

    def optional(name: str, needed: str, check: Callable[[Any], str | None]) -> str | None:
        value = getattr(e, name)
        return None if value is None else stated(e, check(value), name, f"{needed} or None")

    rates = e.dropout if isinstance(e.dropout, list | tuple) else [e.dropout]
    return [
        found_by(e, "activation", hidden_activations),
        found_by(e, "solver", lambda _: rule_of(e), "'lbfgs', 'sgd', 'adam', or "),
        found_by(e, "learning_rate", lambda _: schedule_of(e), f"{SCHEDULES_OF_SKLEARN}, or "),
        stated(
            e,
            None if isinstance(e.warm_start, bool | np.bool_) or is_continue(e.warm_start) else "",
            "warm_start",
            "True, False or 'continue'",
        ),
        optional(
            "device",
            "'cpu', 'cuda' or 'cuda:N'",
            lambda v: None if isinstance(v, str) else "",
        ),
        optional("dtype", f"one of {DTYPES}", lambda v: checks.one_of("dtype", v, DTYPES)),
        stated(
            e,
            next(filter(None, (checks.number("p", p, least=0, below=1) for p in rates)), None),
            "dropout",
            "a number in [0, 1), or one for each hidden layer",
        ),
        stated(e, checks.number("l1", e.l1, least=0), "l1", "a number >= 0"),
        optional("clip_norm", "a number > 0", lambda v: checks.number("", v, above=0)),
        optional("time_budget", "a number of seconds > 0", lambda v: checks.number("", v, above=0)),
        None
        if e.initializer is None
        else found_by(e, "initializer", lambda g: own.resolve("initializer", INITIALIZERS, g), "None, "),
        optional(
            "scoring",
            "'loss', the name of a scorer, a callable",
            lambda v: None if isinstance(v, str) or callable(v) else "",
        ),
        _lbfgs_problem(e),
        optional("callback", "a callable", lambda v: None if callable(v) else ""),
    ]


def _lbfgs_problem(e: Any) -> str | None:
    """L-BFGS works on the objective over all rows, the same in each iteration."""
    if e.solver != "lbfgs" or not (np.any(e.dropout) or e.clip_norm is not None):
        return None
    return "solver='lbfgs' works on all rows at once: it needs dropout=0 and clip_norm=None."


def is_continue(warm_start: Any) -> bool:
    """Whether fits go on where the last one ended."""
    return isinstance(warm_start, str) and warm_start == "continue"


def hidden_sizes(estimator: Any) -> list[int]:
    """Units of the hidden layers."""
    given = estimator.hidden_layer_sizes
    sizes = list(given) if hasattr(given, "__iter__") else [given]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return sizes


def hidden_activations(given: Any, n_hidden: int | None = None) -> list[Any]:
    """The activation of each hidden layer from one for all or a list with one for each.

    Raises
    ------
    ValueError, TypeError
        One is not known, or the list is of another length than n_hidden.
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


def rule_of(e: Any) -> Any:
    """The update rule of `solver`: scikit-learn's three with its parameters, or one of the core's."""
    if not isinstance(e.solver, str) or e.solver not in ("sgd", "adam", "lbfgs"):
        return own.resolve("optimizer", OPTIMIZERS, e.solver)
    if e.solver == "lbfgs":
        return LBFGS(
            gradient_tolerance=float(e.tol),
            loss_tolerance=SCIPY_LOSS_TOLERANCE,
            max_evaluations=int(e.max_fun),
        )
    if e.solver == "adam":
        return Adam(float(e.beta_1), float(e.beta_2), float(e.epsilon), eps_on="raw")
    if e.momentum == 0:
        return SGD()
    return (Nesterov if e.nesterovs_momentum else Momentum)(float(e.momentum))


def is_stochastic(e: Any) -> bool:
    """Whether the solver makes steps, rather than L-BFGS's iterations over all rows."""
    return not rule_of(e).takes_all_rows


def is_adaptive(e: Any) -> bool:
    """Whether the rate is divided by 5 where training would stop: scikit-learn's, for "sgd" only."""
    return e.solver == "sgd" and isinstance(e.learning_rate, str) and e.learning_rate == "adaptive"


def schedule_of(e: Any) -> Any:
    """The schedule of `learning_rate`; scikit-learn's three names have an effect with "sgd" only."""
    given = e.learning_rate
    if isinstance(given, str) and given in SCHEDULES_OF_SKLEARN:
        scaling = given == "invscaling" and e.solver == "sgd"
        return InverseScaling(float(e.power_t)) if scaling else Constant()
    return own.resolve("schedule", SCHEDULES, given)


def regularizer_of(e: Any) -> ElasticNet | None:
    """alpha / 2 Σ w² + l1 Σ |w|."""
    return ElasticNet(l1=float(e.l1), l2=0.5 * float(e.alpha)) if e.alpha or e.l1 else None


def batch_rows(e: Any, n_rows: int) -> int:
    """Rows a step, at most those there are."""
    size = 200 if isinstance(e.batch_size, str) else int(e.batch_size)
    return min(size, n_rows)
