"""Fields of a dataclass that know their bounds: each is declared once, where it is written.

    @dataclass(frozen=True)
    class Momentum(fields.Checked):
        momentum: float = fields.number(0.9, least=0, most=1)

A field whose default is None may be None; one that is `of_each` may hold a sequence of numbers, one for each
member of a network. Whoever offers these fields elsewhere (options of a command, TOML,
documents) reads the same declaration with `of`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from mlp_xp.settings import checks

OneOrEach = Any
"""A number, or a tuple of one for each member."""

Answer = TypeVar("Answer")


def once_a_class(ask: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
    """A function of a class that remembers its answers."""
    return functools.cache(ask)


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


class Bound(Protocol):
    """What a value must be; as a text, for people."""

    def problem(self, name: str, value: object) -> str | None:
        """A message that names the field, or None where the value is right."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number; `above` and `below` are exclusive. Or several, with `of_each`."""

    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf
    of_each: bool = False

    def problem(self, name: str, value: object) -> str | None:
        """A message, or None."""
        values = value if self.of_each and isinstance(value, tuple) and value else (value,)
        for each in values:
            problem = checks.number(
                name, each, above=self.above, least=self.least, below=self.below, most=self.most
            )
            if problem is not None:
                return problem
        return None

    def __str__(self) -> str:
        return ", ".join(checks.signed(self.above, self.least, self.below, self.most))


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number of at least `least`."""

    least: int = 1

    def problem(self, name: str, value: object) -> str | None:
        """A message, or None."""
        return checks.whole(name, value, least=self.least)

    def __str__(self) -> str:
        return f">= {self.least}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def problem(self, name: str, value: object) -> str | None:
        """A message, or None."""
        return checks.one_of(name, value, self.words)

    def __str__(self) -> str:
        return ", ".join(self.words)


class Declared(NamedTuple):
    """What a field must be, and whether it may be None."""

    bound: Bound
    optional: bool


def number(default: Any = dataclasses.MISSING, *, kw_only: bool = False, **bounds: Any) -> Any:
    """Declare a field that is a `Number` within bounds."""
    return declare(Number(**bounds), default, kw_only=kw_only)


def whole(default: Any = dataclasses.MISSING, *, least: int = 1) -> Any:
    """Declare a field that is a whole number of at least `least`."""
    return declare(Whole(least), default)


def one_of(words: Sequence[str], default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that is one of a few words."""
    return declare(OneOf(tuple(words)), default)


def declare(bound: Bound, default: Any = dataclasses.MISSING, *, kw_only: bool = False) -> Any:
    """Declare a field with a bound of its own."""
    declared = Declared(bound, default is None)
    return dataclasses.field(default=default, metadata={Declared: declared}, kw_only=kw_only)


def of(thing: Dataclass | type[Dataclass]) -> dict[str, Declared]:
    """The declarations of a dataclass or of an instance of it, by the fields' names, in their order."""
    return _of_class(thing if isinstance(thing, type) else type(thing))


@once_a_class
def _of_class(kind: type[Dataclass]) -> dict[str, Declared]:
    return {
        field.name: field.metadata[Declared]
        for field in dataclasses.fields(kind)
        if Declared in field.metadata
    }


def numbers_of_each(thing: object) -> dict[str, tuple[float, ...]]:
    """Which fields of an instance hold a number for each member, and these."""
    values = {name: getattr(thing, name) for name in _of_each(type(thing))}
    return {name: value for name, value in values.items() if isinstance(value, tuple)}


@once_a_class
def _of_each(kind: type) -> list[str]:
    """Names of the fields that may hold a number for each member."""
    declared = of(kind) if dataclasses.is_dataclass(kind) else {}
    return [name for name, each in declared.items() if getattr(each.bound, "of_each", False)]


def problems(instance: Dataclass) -> list[str | None]:
    """What is wrong with an instance's declared fields: a message or None for each."""
    values = ((name, declared, getattr(instance, name)) for name, declared in of(instance).items())
    return [
        None if declared.optional and value is None else declared.bound.problem(name, value)
        for name, declared, value in values
    ]


class Checked:
    """A dataclass whose declared fields are checked when an instance is made."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        """Raise one ValueError that lists every problem."""
        for name in _of_each(type(self)):
            import numpy as np  # here: the command line declares its options with fields, and starts without

            value = getattr(self, name)
            if isinstance(value, (list, tuple, np.ndarray)):
                object.__setattr__(self, name, tuple(np.asarray(value).tolist()))
        checks.refuse(problems(self))
