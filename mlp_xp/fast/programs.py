"""The programs of the catalogues' functions: compiled, made CUDA kernels, and written as ONNX operators.

None for what has none, and for all that is not itself of a catalogue: a subclass may compute otherwise, and
a user's own function may change from call to call.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlp_xp.activations import ACTIVATIONS, Activation
from mlp_xp.losses import LINKS, LOSSES, Link, Loss, Pointwise
from mlp_xp.machine.array_api import Array, backend
from mlp_xp.machine.symbolic import Program, missing, program
from mlp_xp.optimizers import OPTIMIZERS, Rule
from mlp_xp.settings.catalogue import known_name


class Both(NamedTuple):
    """An activation on the way there, and on the way back.

    Attributes
    ----------
    forward : Program
        Of z: a, and f'(z) where that does not follow from it.
    chain : Program
        Of δ and what was kept: δ f'.
    """

    forward: Program
    chain: Program


def of_activation(f: Activation, dtype: str) -> Both | None:
    """An activation's two programs."""
    return _of_activation(f, dtype) if known_name(ACTIVATIONS, f) else None


@functools.lru_cache(maxsize=1024)
def _of_activation(f: Activation, dtype: str) -> Both | None:
    on = backend("cpu", dtype)

    def forward(inputs: Sequence[Array], _: Sequence[Array], kept: Array) -> Sequence[Array]:
        f.forward(on, inputs[0], None if f.keeps_output else kept)
        return inputs if f.keeps_output else [*inputs, kept]

    def chain(inputs: Sequence[Array], *_: object) -> Sequence[Array]:
        f.chain(on, *inputs)
        return inputs[:1]

    there, back = program(forward, 1), program(chain, 2)
    return None if there is None or back is None else Both(there, back)


def of_loss(loss: Loss, dtype: str) -> Program | None:
    """Of z and y: ∂L/∂z and L."""
    return _of_loss(loss, dtype) if isinstance(loss, Pointwise) and known_name(LOSSES, loss) else None


@functools.lru_cache(maxsize=1024)
def _of_loss(loss: Pointwise, dtype: str) -> Program | None:
    on = backend("cpu", dtype)

    def differentiate(inputs: Sequence[Array], *_: object) -> Sequence[Array]:
        z, y = inputs
        return z, loss.differentiate(on, z, y) * loss.part

    return program(differentiate, 2)


def of_prediction(piece: Activation | Link, dtype: str) -> Program | None:
    """Of z: what a prediction has of it."""
    is_known = known_name(ACTIVATIONS, piece) or known_name(LINKS, piece)
    return program(_applied(piece, dtype), 1) if is_known else None


def missing_in(piece: Activation | Link, dtype: str) -> str | None:
    """The function that leaves a prediction without a program, if one does."""
    return missing(_applied(piece, dtype), 1)


def _applied(piece: Activation | Link, dtype: str) -> Callable[..., Sequence[Array]]:
    on = backend("cpu", dtype)

    def apply(inputs: Sequence[Array], *_: object) -> Sequence[Array]:
        if isinstance(piece, Link):
            return [piece(on, inputs[0])]
        piece.forward(on, inputs[0], None)
        return inputs

    return apply


def of_rule(rule: Rule) -> Program | None:
    """Of p, g and the state, with the numbers of a step: p and the state."""
    return _of_rule(rule) if known_name(OPTIMIZERS, rule) else None


@functools.lru_cache(maxsize=1024)
def _of_rule(rule: Rule) -> Program | None:
    def move(inputs: Sequence[Array], h: Sequence[float], _: object) -> Sequence[Array]:
        p, g, *state = inputs
        rule.move(np, h, p, g, **dict(zip(rule.state, state, strict=True)))
        return p, *state

    return program(move, 2 + len(rule.state), len(rule.numbers(1, 1.0)))


def steps_of(rule: Rule) -> Any:
    """What rules that differ in numbers alone have in common; None for a rule without a program."""
    found = of_rule(rule)
    return None if found is None else (found.steps, found.outputs, rule.state)


def numbers_of_step(rule: Rule, program: Program, t: int, rate: Any) -> tuple[Any, ...]:
    """A program's numbers at step t and rate η, and behind them the factor on weights that decay.

    Those of several rates are arrays, where they depend on the rate.
    """
    return (*rule.numbers(t, rate), *program.numbers, 1.0 - rate * rule.weight_decay)


def numbers_of_steps(rule: Rule, program: Program, t: int, rates: np.ndarray) -> np.ndarray:
    """Those of the steps from t on at rates (n_steps, n_groups): (n_steps, n_groups, …)."""
    if rule.counts_steps:
        of_steps = enumerate(rates.tolist(), t)
        return np.array([[numbers_of_step(rule, program, t, own) for own in each] for t, each in of_steps])
    return np.stack(np.broadcast_arrays(*numbers_of_step(rule, program, t, rates)), axis=-1)
