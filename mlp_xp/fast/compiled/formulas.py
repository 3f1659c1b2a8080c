"""Programs (`machine.symbolic`) as compiled loops, each at an address by which a compiled step calls it.

So a step is compiled once, whatever it computes with, and a function that is new is compiled alone. Numba
keeps both on disk, a loop under the text of its program.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from mlp_xp.fast.compiled import elementary
from mlp_xp.fast.compiled.compiler import (
    ANY_ORDER,
    EXACT,
    carray,
    for_c,
    intrinsic,
    intrinsic_of_text,
    ir,
    pointer,
    types,
)
from mlp_xp.fast.compiled.intrinsics import Builder, Context, Signature, Type, Typing, Values
from mlp_xp.fast.compiled.losses import signature, weight_of
from mlp_xp.machine.array_api import Array
from mlp_xp.machine.symbolic import COMPARISONS, Program

WIDE, WHOLE, NUMBERS = types.float64, types.int64, pointer("float64")
IN_DOUBLE = {**elementary.IN_DOUBLE, "log": math.log, "sin": math.sin, "cos": math.cos}
"""Functions of float64; those of float32 that are not in `elementary` are these, too."""


def _called(name: str) -> Callable[..., Any]:
    return lambda to, x: to.call(to.module.declare_intrinsic(name, [x.type]), [x])


def _compared(sign: str) -> Callable[..., Any]:
    return lambda to, x, y: to.fcmp_ordered(sign, x, y)


def _larger(sign: str) -> Callable[..., Any]:
    """The one that `sign` prefers; what is not a number stays that."""
    return lambda to, x, y: to.select(
        to.or_(to.fcmp_ordered(sign, x, y), to.fcmp_unordered("uno", y, y)), y, x
    )


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "add": lambda to, x, y: to.fadd(x, y),
    "subtract": lambda to, x, y: to.fsub(x, y),
    "multiply": lambda to, x, y: to.fmul(x, y),
    "divide": lambda to, x, y: to.fdiv(x, y),
    "maximum": _larger("<"),
    "minimum": _larger(">"),
    "where": lambda to, condition, x, y: to.select(condition, x, y),
    "negative": lambda to, x: to.fneg(x),
    "absolute": _called("llvm.fabs"),
    "sqrt": _called("llvm.sqrt"),
    **{name: _compared(sign) for name, sign in zip(COMPARISONS, ("<", "<=", ">", ">=", "=="), strict=False)},
    "not_equal": lambda to, x, y: to.fcmp_unordered("!=", x, y),
}
"""In LLVM's instructions."""

WITH_A_NUMBER: Mapping[str, Callable[..., Any]] = {
    "maximum": lambda to, x, y: to.select(to.fcmp_ordered("<", x, y), y, x),
    "minimum": lambda to, x, y: to.select(to.fcmp_ordered(">", x, y), y, x),
}
"""Where the second is a constant, which is a number: one instruction less."""


def text_of(program: Program, n_outputs: int = 0) -> str:
    """The steps and outputs, by which a loop is found again; the first output stands for those that lack."""
    steps = ";".join(" ".join(map(str, step)) for step in program.steps)
    outputs = program.outputs + program.outputs[:1] * (n_outputs - len(program.outputs))
    return f"{steps}|{' '.join(map(str, outputs))}"


def _steps_of(text: str) -> tuple[list[tuple[str, list[int]]], list[int]]:
    steps, outputs = text.split("|")
    parts = [step.split() for step in steps.split(";")]
    return [(name, list(map(int, places))) for name, *places in parts], list(map(int, outputs.split()))


def _n_numbers(text: str) -> int:
    return sum(name == "number" for name, _ in _steps_of(text)[0])


@intrinsic_of_text
def _computed(typing: Typing, text: Type, inputs: Type, numbers: Type) -> Any:
    """A program's outputs, float64."""
    (steps, outputs), real = _steps_of(text.literal_value), inputs.dtype

    def typed(name: str, kind: Any) -> tuple[Any, Any]:
        own = elementary.IN_SINGLE if kind is types.float32 else IN_DOUBLE
        known = typing.resolve_value_type(own[name])
        return known, known.get_call_type(typing, (kind,), {})

    functions = {
        (name, kind): typed(name, kind)
        for name, _ in steps
        if name in IN_DOUBLE
        for kind in {WIDE, real if name in elementary.IN_SINGLE else WIDE}
    }

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        values: list[tuple[Any, Any]] = []  # each with its type; a number takes that of what it meets

        def taken(place: int, kind: Any) -> Any:
            value, own = values[place]
            return value if own is types.boolean else context.cast(builder, value, own or WIDE, kind)

        for name, places in steps:
            if name in ("input", "number"):
                value = builder.extract_value(given[1 if name == "input" else 2], *places)
                values.append((value, real if name == "input" else None))
            elif name in IN_DOUBLE:
                kind = values[places[0]][1]
                kind = kind if (name, kind) in functions else WIDE
                function = context.get_function(*functions[name, kind])
                for library in getattr(function, "libs", ()):
                    context.active_code_library.add_linking_library(library)
                values.append((function(builder, [taken(places[0], kind)]), kind))
            else:
                kinds = {values[place][1] for place in places}
                kind = WIDE if WIDE in kinds else real if real in kinds or name == "where" else None
                operation = OPERATIONS[name]
                if values[places[-1]][1] is None:
                    operation = WITH_A_NUMBER.get(name, operation)
                value = operation(builder, *(taken(place, kind or WIDE) for place in places))
                values.append((value, types.boolean if name in COMPARISONS else kind))
        return context.make_tuple(builder, signature.return_type, [taken(place, WIDE) for place in outputs])

    return types.UniTuple(WIDE, len(outputs))(text, inputs, numbers), build


@intrinsic_of_text
def _numbers_of(_typing: Typing, text: Type, start: Type, _first: Type, _apart: Type) -> Any:
    """A program's numbers, from a place on, so many apart."""
    n, whole = _n_numbers(text.literal_value), ir.IntType(64)

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        _, numbers, at, apart = given
        values = []
        for k in range(n):
            place = builder.add(at, builder.mul(ir.Constant(whole, k), apart))
            values.append(builder.load(builder.gep(numbers, [place])))
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(WIDE, n)(text, start, WHOLE, WHOLE), build


@intrinsic
def call(_typing: Typing, address: Type, arguments: Type) -> Any:
    """What the function of C at an address gives for some arguments; of arrays their beginnings."""

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        passed = []
        for k, kind in enumerate(signature.args[1]):
            value = builder.extract_value(given[1], k)
            if isinstance(kind, types.Array):
                passed.append(context.make_array(kind)(context, builder, value).data)
            else:
                to = WIDE if kind is WIDE else WHOLE
                passed.append(context.cast(builder, value, kind, to))
        of = ir.FunctionType(ir.DoubleType(), [value.type for value in passed])
        return builder.call(builder.inttoptr(given[0], of.as_pointer()), passed)

    return WIDE(address, arguments), build


@functools.cache
def activate(text: str, dtype: str) -> Any:
    """(z, kept, biases, numbers, n_units, n_rows): z ← f(z + b), kept ← f'(z + b) if that is computed."""
    real, keeps = pointer(dtype), len(_steps_of(text)[1]) > 1

    @for_c(WIDE(real, real, real, NUMBERS, WHOLE, WHOLE), ANY_ORDER)
    def loop(z_: Array, kept_: Array, biases: Array, numbers: Array, n_units: int, n_rows: int) -> float:
        z, kept, given = (
            carray(z_, (n_units, n_rows)),
            carray(kept_, (n_units, n_rows)),
            _numbers_of(text, numbers, 0, 1),
        )
        for j in range(n_units):
            bias = biases[j]
            for i in range(n_rows):
                found = _computed(text, (z[j, i] + bias,), given)
                if keeps:
                    kept[j, i] = found[-1]
                z[j, i] = found[0]
        return 0.0

    return loop


@functools.cache
def chain(text: str, dtype: str) -> Any:
    """(δ, kept, numbers, n): δ ← δ f'."""

    @for_c(WIDE(*[pointer(dtype)] * 2, NUMBERS, WHOLE), ANY_ORDER)
    def loop(delta_: Array, kept_: Array, numbers: Array, n: int) -> float:
        delta, kept, given = carray(delta_, n), carray(kept_, n), _numbers_of(text, numbers, 0, 1)
        for i in range(n):
            delta[i] = _computed(text, (delta[i], kept[i]), given)[0]
        return 0.0

    return loop


@functools.cache
def differentiate(text: str, dtype: str, *, of_members: bool = False) -> Any:
    """A pointwise loss, with the arguments of `losses.softmax`, of which it reads no labels."""

    @for_c(signature(dtype), ANY_ORDER)
    def loop(
        z_: Array,
        y_: Array,
        _labels: Array,
        weight: Array,
        _rest: Array,
        numbers: Array,
        factor: Array,
        totals: Array,
        n_outputs: int,
        n_rows: int,
        n_weights: int,
        members: int,
    ) -> float:
        z, y = carray(z_, (n_outputs, n_rows * members)), carray(y_, (n_rows, n_outputs))
        shared, total, one_factor = _numbers_of(text, numbers, 0, 1), 0.0, factor[0]
        n_outer, n_inner = (n_rows, members) if of_members else (1, n_rows)
        for m in range(members):
            totals[m] = 0.0
        for j in range(n_outputs):
            for outer in range(n_outer):
                for inner in range(n_inner):
                    row, i = (outer if of_members else inner), outer * n_inner + inner
                    s = weight_of(weight, n_weights, row, inner if of_members else 0)
                    given = _numbers_of(text, numbers, inner, members) if of_members else shared
                    slope, value = _computed(text, (1.0 * z[j, i], 1.0 * y[row, j]), given)  # float64
                    if of_members:
                        totals[inner] += s * value
                    else:
                        total += s * value
                    z[j, i] = (factor[inner] if of_members else one_factor) * s * slope
        if not of_members:
            totals[0] = total
        return 0.0

    return loop


@functools.cache
def update(text: str, dtype: str, n_state: int, shrinks: bool, *, of_each: bool = False) -> Any:
    """(p, g, first, second, numbers, n, n_weights, members): a rule's step, with the bits of the plain one.

    Behind the program's numbers comes the factor on the weights, which are the first n_weights of p. The
    vectors are of members, (n, members), which share the numbers unless they are `of_each`.
    """
    real, at_factor = getattr(types, dtype), _n_numbers(text)

    @for_c(WIDE(*[pointer(dtype)] * 4, NUMBERS, *[WHOLE] * 3), EXACT)
    def loop(
        p_: Array,
        g_: Array,
        first_: Array,
        second_: Array,
        numbers: Array,
        n: int,
        n_weights: int,
        members: int,
    ) -> float:
        n_outer, n_inner = (n, members) if of_each else (1, n * members)
        n_shrinking = (n_weights, members) if of_each else (1, n_weights * members)
        shape = n_outer, n_inner
        p, g, first, second = (
            carray(p_, shape),
            carray(g_, shape),
            carray(first_, shape),
            carray(second_, shape),
        )
        shared = _numbers_of(text, numbers, 0, 1)
        if shrinks:
            shared_factor = real(numbers[at_factor])
            for outer in range(n_shrinking[0]):
                for i in range(n_shrinking[1]):
                    p[outer, i] *= real(numbers[at_factor * members + i]) if of_each else shared_factor
        for outer in range(n_outer):
            for i in range(n_inner):
                given = _numbers_of(text, numbers, i, members) if of_each else shared
                before = p[outer, i], g[outer, i], first[outer, i], second[outer, i]
                found = _computed(text, before, given)
                if n_state > 0:
                    first[outer, i] = found[1]
                if n_state > 1:
                    second[outer, i] = found[2]
                p[outer, i] = found[0]
        return 0.0

    return loop
