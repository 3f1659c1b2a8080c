"""What Array API code computes of one element, written down instead of done.

An activation, a loss or an update rule is written once, in Array API code that is read and is the oracle.
Run on symbols in the place of arrays it leaves a `Program`: the operations on an element, one by one. From it
follow compiled loops (`fast.compiled.formulas`), CUDA kernels (`fast.cuda.kernels`) and ONNX's operators:
nobody writes a function a second time. Code that asks an array for anything but its elements has no program,
and is computed as it is written.

Numbers (constants, parameters, what changes from step to step) stand apart from the steps, so that one
compiled loop serves a slope of 0.1 and of 0.2.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
FUNCTIONS = ("sqrt", "exp", "expm1", "log", "log1p", "tanh", "sin", "cos")
ARITHMETIC = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "negative", "absolute", "where")
OPERATIONS = (*COMPARISONS, *FUNCTIONS, *ARITHMETIC)
"""What a program is made of, besides inputs and numbers: each has a form in every language."""


REFUSALS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
"""What code that is no formula raises of symbols, whatever it asked of them."""


class Program(NamedTuple):
    """What becomes of one element of each input.

    Attributes
    ----------
    steps : tuple of tuples
        ("input", k), ("number", k), or one of `OPERATIONS` with the places of its operands among the steps.
    outputs : tuple of int
        The places of what comes out.
    numbers : tuple of float
        The constants; those that change from call to call come before them, and are not among them.
    """

    steps: tuple[Any, ...]
    outputs: tuple[int, ...]
    numbers: tuple[float, ...]

    @property
    def changes_nothing(self) -> bool:
        """Whether the first input comes out, and nothing else."""
        return [self.steps[place] for place in self.outputs] == [("input", 0)]


class Symbol(np.lib.mixins.NDArrayOperatorsMixin):
    """An element of an array, known by its place; an assignment changes what the name stands for.

    NumPy's functions and all operators on it write steps down. A place of −1 is that of an output.
    """

    def __init__(self, tape: "_Tape", place: int) -> None:
        self._tape, self.place = tape, place

    def __array_ufunc__(self, function: Any, method: str, *operands: Any, out: Any = None) -> "Symbol":
        """A step, for a function of elements."""
        result = self._tape.apply(function.__name__ if method == "__call__" else method, operands)
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def __array_function__(self, function: Any, kinds: Any, operands: Any, named: Any) -> "Symbol":
        """A step, for another function."""
        if named:
            raise TypeError(f"{function.__name__} of a symbol takes no {', '.join(named)}")
        return self._tape.apply(function.__name__, operands)

    def __setitem__(self, which: Any, value: Any) -> None:
        if which is not Ellipsis:
            raise TypeError("a symbol is one element")
        self.place = self._tape.number_at(value)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a symbol has no value")

    __bool__ = __float__ = __array__


def _power(x: Any, exponent: Any) -> Any:
    return math.prod([x] * exponent, start=1.0)  # of floats and negative numbers a list refuses to be made


DERIVED: dict[str, Callable[..., Any]] = {
    "astype": lambda x, dtype: x + 0.0,
    "clip": lambda x, least, most: np.minimum(np.maximum(x, least), most),
    "ones_like": lambda x: 1.0,
    "positive": lambda x: x + 0.0,
    "power": _power,
    "reciprocal": lambda x: 1.0 / x,
    "sign": lambda x: np.where(x > 0.0, 1.0, np.where(x < 0.0, -1.0, x)),
    "square": lambda x: x * x,
    "zeros_like": lambda x: 0.0,
}
"""Functions made of the operations."""

NEUTRAL = (("multiply", 1.0), ("add", 0.0))
"""What leaves a number as it is."""


class _Tape:
    """The steps so far: what is computed twice is written once."""

    def __init__(self, n_inputs: int, n_changing: int) -> None:
        self.places: dict[tuple[Any, ...], int] = {}
        self.numbers: list[float] = []
        self.missing: str | None = None
        self.inputs = [self._symbol("input", k) for k in range(n_inputs)]
        self.changing = [self._symbol("number", k) for k in range(n_changing)]

    def _symbol(self, *step: Any) -> Symbol:
        return Symbol(self, self.places.setdefault(step, len(self.places)))

    def _at(self, operand: Any) -> int:
        """The place of a symbol or a number."""
        if isinstance(operand, Symbol) and operand.place >= 0:
            return operand.place
        if not isinstance(operand, int | float | np.number):
            raise TypeError(f"{operand!r} is no part of a formula")
        number = float(operand)
        if number not in self.numbers:
            self.numbers.append(number)
        return self._symbol("number", len(self.changing) + self.numbers.index(number)).place

    def number_at(self, operand: Any) -> int:
        """The place of a number: of 1 or 0 for a comparison."""
        place = self._at(operand)
        if list(self.places)[place][0] in COMPARISONS:
            return self._symbol("where", place, self._at(1.0), self._at(0.0)).place
        return place

    def apply(self, operation: str, operands: Sequence[Any]) -> Any:
        """A symbol for what an operation gives."""
        if operation in DERIVED:
            return DERIVED[operation](*operands)
        if operation not in OPERATIONS:
            self.missing = operation
            raise TypeError(f"{operation} is no function of elements")
        if isinstance(operands[-1], float) and (operation, operands[-1]) in NEUTRAL:
            return Symbol(self, self.number_at(operands[0]))
        if operation == "where":
            return self._symbol(operation, self._at(operands[0]), *map(self.number_at, operands[1:]))
        return self._symbol(operation, *map(self.number_at, operands))


def program(function: Callable[..., Sequence[Any]], n_inputs: int, n_changing: int = 0) -> Program | None:
    """What a function makes of one element of each input; None where that is not all that it does.

    It runs array code on NumPy's namespace, with symbols: of arrays, of numbers that change from call to
    call, and of an output, which is to be assigned before it is read.
    """
    tape = _Tape(n_inputs, n_changing)
    try:
        found = function(tape.inputs, tape.changing, Symbol(tape, -1))
        outputs = tuple(map(tape.number_at, found))
    except REFUSALS:
        return None
    return Program(tuple(tape.places), outputs, tuple(tape.numbers))


def missing(function: Callable[..., Sequence[Any]], n_inputs: int) -> str | None:
    """The function that is none of `OPERATIONS` and so leaves another one without a program, if one does."""
    tape = _Tape(n_inputs, 0)
    with contextlib.suppress(*REFUSALS):
        function(tape.inputs, tape.changing, Symbol(tape, -1))
    return tape.missing
