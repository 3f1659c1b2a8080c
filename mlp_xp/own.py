"""Pieces of a user's own: objects with the methods of a catalogue's, or functions; checked when given.

    loss          a pair (value, derivative) of functions of (z, y), for each output; or a `losses.Loss`
    optimizer     an `optimizers.Rule`, an object with `update` and `state`, or a function that needs no state
    schedule      a function of the history
    regularizer   a pair (value, derivative) of functions of w, for each weight; or an object with `value` and
                  `add_gradient`
    initializer   a function (generator, layer, n_in, n_out) of the weights; or an object with `weights` and
                  `biases`

They run as they are written: compiled steps and fused kernels know the catalogues alone.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard, TypeVar

import numpy as np

from mlp_xp.activations import check_derivative
from mlp_xp.history import History
from mlp_xp.initializers import Initializer
from mlp_xp.losses import Loss, Pointwise
from mlp_xp.machine.array_api import Array, Backend, Namespace
from mlp_xp.machine.array_api import backend as find_backend
from mlp_xp.optimizers import Rule
from mlp_xp.regularizers import Regularizer
from mlp_xp.schedules import Schedule
from mlp_xp.settings import catalogue

Thing = TypeVar("Thing")


def resolve(kind: str, names: Mapping[str, type[Thing]], given: object) -> Thing:
    """The thing that `given` names, as `catalogue.resolve`; or the user's own, checked.

    Raises
    ------
    ValueError
        The name is not known; or the user's own does not do what it must, and the message says where.
    TypeError
        `given` is none of these.
    """
    maker = next((maker for last, maker in MAKERS.items() if kind.endswith(last)), None)
    is_class = isinstance(given, type)
    is_known = given in names.values() if is_class else isinstance(given, (str, Mapping, *names.values()))
    if maker is None or is_known:
        return catalogue.resolve(kind, names, given)
    make, form = maker
    own = None if is_class else make(given)
    if own is None:
        raise TypeError(
            f"{kind}={given!r} must be a name or an instance of a known {kind}, or your own: {form}."
            f"{' It is a class: give an instance.' * is_class} Known: {', '.join(sorted(names))}."
        )
    return own


def find(
    problems: list[str | None], kind: str, names: Mapping[str, type[Thing]], given: object
) -> Thing | None:
    """`resolve`, but a ValueError is added to `problems`, to be raised with others; the result is None."""
    try:
        return resolve(kind, names, given)
    except ValueError as error:
        problems.append(str(error))
        return None


def name_of(thing: object) -> str:
    """What a message calls it."""
    return str(getattr(thing, "__name__", type(thing).__name__))


@contextlib.contextmanager
def _tried(what: str, form: str) -> Iterator[None]:
    """Say of an error inside a user's own code how it is called."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise TypeError(f"{what} is called as {form}, and raised {type(error).__name__}: {error}") from error


def _is_pair(given: object) -> TypeGuard[tuple[Callable[..., Any], Callable[..., Any]]]:
    return isinstance(given, tuple) and len(given) == 2 and all(map(callable, given))


@dataclasses.dataclass(frozen=True)
class OwnLoss(Pointwise):
    """A sum over outputs of value(z, y), with its derivative by z."""

    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]

    def differentiate(self, backend: Backend, z: Array, y: Array) -> Array:
        """Return L; z becomes ∂L/∂z."""
        value, slope = self.value(z, y), self.derivative(z, y)
        z[...] = slope
        return value


class OwnRule(Rule):
    """An object with `state` and `update` that knows nothing of `Rule`."""

    def __init__(self, given: Any) -> None:
        self.of_step = getattr(given, "update", given)
        self.state = tuple(getattr(given, "state", ()))

    def update(self, xp: Namespace, t: int, rate: float, p: Array, g: Array, **state: Array) -> None:
        """One step."""
        self.of_step(xp, t, rate, p, g, **state)


@dataclasses.dataclass(frozen=True)
class OwnSchedule(Schedule):
    """A function of the history, asked before every step."""

    function: Callable[[History], float]

    def __call__(self, history: History) -> float:
        """The factor now."""
        return float(self.function(history))


@dataclasses.dataclass(frozen=True)
class OwnPenalty(Regularizer):
    """A sum over weights of of_weight(w), with its derivative."""

    of_weight: Callable[[Array], Array]
    derivative: Callable[[Array], Array]

    def value(self, backend: Backend, w: Array) -> Array:
        """λ R(w)."""
        return backend.xp.sum(self.of_weight(w))

    def add_gradient(self, backend: Backend, w: Array, gradient: Array, scale: float) -> None:
        """Add scale · λ ∂R/∂w."""
        gradient += scale * self.derivative(w)


@dataclasses.dataclass(frozen=True)
class OwnInitializer:
    """A function that draws weights; biases are zeros."""

    function: Callable[[np.random.Generator, int, int, int], np.ndarray]

    def weights(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """What the function draws."""
        return self.function(generator, layer, n_in, n_out)

    def biases(self, generator: np.random.Generator, layer: int, n_in: int, n_out: int) -> np.ndarray:
        """Zeros."""
        return np.zeros(n_out)


def _loss(given: object) -> Loss | None:
    if _is_pair(given):
        given = OwnLoss(*given)
        z, y = np.random.default_rng(0).normal(size=(2, 4, 3))
        for role, function in (("value", given.value), ("derivative", given.derivative)):
            what = f"the {role} {name_of(function)} of a loss"
            with _tried(what, f"{name_of(function)}(z, y)"):
                shape = np.shape(function(z.copy(), y))
            if shape != z.shape:
                raise ValueError(
                    f"{what} must be one for each output, of shape {z.shape} for z and targets of that "
                    f"shape: got {shape}. Sums over outputs and means over rows are taken by the training."
                )
    if not isinstance(given, Loss):
        return None
    check_loss(given)
    return given


def check_loss(loss: Loss) -> None:
    """Refuse a loss whose δ is not the derivative of its value, or that does not heed weights.

    In float64, on rows of random z and targets, against central differences; kinks are skipped.
    """
    backend, generator = find_backend("cpu", "float64"), np.random.default_rng(0)
    n_rows, n_targets = 12, 1 if loss.labels else 2
    n_outputs = loss.n_outputs(n_targets, 3)
    if loss.labels:
        y: np.ndarray = generator.integers(0, 3, (n_rows, 1)).astype(np.int32)
    else:
        y = generator.uniform(max(loss.least, -2.0), min(loss.most, 2.0), (n_rows, n_targets))
    z, s = generator.normal(0.0, 1.5, (n_rows, n_outputs)), generator.uniform(0.5, 2.0, (n_rows, 1))
    what = f"the loss {name_of(loss.value if isinstance(loss, OwnLoss) else loss)}"

    def value_at(moved: np.ndarray, weight: np.ndarray | None = s) -> float:
        value = float(loss(backend, moved.copy(), y, weight))
        if not math.isfinite(value):
            raise ValueError(f"{what} is {value} for z and targets between −5 and 5.")
        return value

    delta, here, h = z.copy(), value_at(z), 1e-5
    loss(backend, delta, y, s)
    of_rows = sum(float(s[i, 0]) * value_at(z, np.eye(n_rows)[:, i : i + 1]) for i in range(n_rows))
    if not math.isclose(of_rows, here, rel_tol=1e-8, abs_tol=1e-10):
        raise ValueError(f"{what} must be Σ_i s_i L_i: with weights it is {here:.6g}, not {of_rows:.6g}.")
    for row, column in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[row, column] = h
        right, left = value_at(z + step), value_at(z - step)
        _compare(
            f"{what} has a derivative that is not that of its value: at z = {z[row, column]:.6g} and target "
            f"{y[row].tolist()}",
            float(delta[row, column] / s[row, 0]),
            *((quotient / float(s[row, 0])) for quotient in ((right - here) / h, (here - left) / h)),
        )


def _compare(where: str, given: float, forward: float, backward: float) -> None:
    """Refuse a derivative that is not the mean of two quotients, unless these say that there is a kink."""
    central = (forward + backward) / 2.0
    scale = max(abs(central), 1.0)
    if abs(forward - backward) <= 1e-3 * scale and not abs(given - central) <= 1e-5 * scale:
        raise ValueError(
            f"{where} it is {given:.6g}, but the value changes at a rate of {central:.6g} there (difference "
            f"{given - central:.3g})."
        )


def _rule(given: Any) -> Rule | None:
    if not callable(getattr(given, "update", given)):
        return None
    rule = given if isinstance(given, Rule) else OwnRule(given)
    name = name_of(given)
    call = f"{name}.update" if hasattr(given, "update") else name
    with _tried(
        f"the update rule {name}", f"{call}({', '.join(('xp', 't', 'rate', 'p', 'g', *rule.state))})"
    ):
        check_rule(rule, name)
    return rule


def check_rule(rule: Rule, name: str) -> None:
    """Refuse an update rule that does not come closer to the least of a small quadratic at any rate.

    200 steps in float64 on ½ Σ c_i p_i², at rates of 0.1, 0.01 and 0.001; at a rate of 0 nothing may move.
    """
    c, start = np.array([0.5, 1.0, 2.0, 4.0]), np.array([1.0, -2.0, 3.0, -1.0])

    def descended(rate: float) -> np.ndarray:
        p, state = start.copy(), {each: np.zeros(4) for each in rule.state}
        for t in range(1, 201):
            g = c * p
            kept = g.copy()
            rule.shrink(p, rate)
            rule.update(np, t, rate, p, g, **state)
            if not np.array_equal(g, kept, equal_nan=True):
                raise ValueError(f"the update rule {name} changes the gradient, which it may only read.")
        return p

    with np.errstate(all="ignore"):
        if not np.array_equal(still := descended(0.0), start):
            raise ValueError(
                f"the update rule {name} moves parameters by {np.abs(still - start).max():.3g} at a learning "
                "rate of 0."
            )
        values = {rate: 0.5 * float(c @ descended(rate) ** 2) for rate in (0.1, 0.01, 0.001)}
    before = 0.5 * float(c @ start**2)
    if not any(value < before for value in values.values()):
        found = ", ".join(f"{value:.3g} at a rate of {rate:g}" for rate, value in values.items())
        raise ValueError(
            f"the update rule {name} does not descend: 200 steps on ½ Σ c p² lead from {before:.3g} to "
            f"{found}. It must change p in place, against g."
        )


def _schedule(given: object) -> Schedule | None:
    if not callable(given):
        return None
    schedule = given if isinstance(given, Schedule) else OwnSchedule(given)
    history = History(steps_per_epoch=10, max_epochs=5)
    for history.step in range(50):
        if history.step and history.step % 10 == 0:
            history.train_losses.append(1.0 / history.step)
        with _tried(f"the schedule {name_of(given)}", f"{name_of(given)}(history)"):
            factor = schedule(history)
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(
                f"the schedule {name_of(given)} gives {factor!r} at step {history.step} of 5 epochs of 10 "
                "steps: it must be a positive finite factor on the learning rate."
            )
    return schedule


def _regularizer(given: Any) -> Regularizer | None:
    if _is_pair(given):
        check_derivative(given[0], given[1], "a regularizer", "w")
        return OwnPenalty(*given)
    if not all(callable(getattr(given, each, None)) for each in ("value", "add_gradient")):
        return None
    backend, w = find_backend("cpu", "float64"), np.random.default_rng(0).normal(size=7)
    gradient, h = np.ones(7), 1e-5
    given.add_gradient(backend, w, gradient, 0.5)
    for at, step in enumerate(h * np.eye(7)):
        right, here, left = (float(given.value(backend, moved)) for moved in (w + step, w, w - step))
        _compare(
            f"the regularizer {name_of(given)} has a gradient that is not its value's: at w = {w[at]:.6g}",
            float(gradient[at] - 1.0) / 0.5,
            (right - here) / h,
            (here - left) / h,
        )
    return given


def _initializer(given: Any) -> Initializer | None:
    has_both = all(callable(getattr(given, each, None)) for each in ("weights", "biases"))
    if not has_both and not callable(given):
        return None
    initializer = given if has_both else OwnInitializer(given)
    for role, shape in (("weights", (3, 2)), ("biases", (2,))):
        with _tried(f"the initializer {name_of(given)}", f"{name_of(given)}(generator, layer, n_in, n_out)"):
            drawn = np.asarray(getattr(initializer, role)(np.random.default_rng(0), 0, 3, 2))
        is_right = drawn.shape == shape and drawn.dtype.kind in "fiu"
        if not is_right or not np.isfinite(drawn).all():
            gives = (
                f"{drawn[~np.isfinite(drawn)][0]}" if is_right else f"{drawn.dtype} of shape {drawn.shape}"
            )
            raise ValueError(
                f"the initializer {name_of(given)} must give finite {role} of shape {shape} for 3 inputs and "
                f"2 outputs, but gives {gives}."
            )
    return initializer


MAKERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "loss": (_loss, "a pair (value, derivative) of functions of (z, y)"),
    "optimizer": (_rule, "an object with update(xp, t, rate, p, g, **state) and state, or such a function"),
    "schedule": (_schedule, "a function of the history"),
    "regularizer": (_regularizer, "a pair (value, derivative) of functions of w"),
    "initializer": (_initializer, "a function (generator, layer, n_in, n_out)"),
}
"""What makes a piece of a user's own, None where it is none, and what it may be."""
