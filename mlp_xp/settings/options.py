"""A setting that is declared once: a field of a dataclass with its help, its bounds and its scope.

The command line spells such a class as options, a TOML file as keys, Python as arguments, all with what is
declared here. A value is kept as it is written ("64,64"); `Options.read` gives what it means ((64, 64)).
"""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, get_args

from mlp_xp.settings import checks
from mlp_xp.settings.fields import Bound, OneOf
from mlp_xp.settings.spelling import spelled

Reader = Callable[[str, Any], Any]
"""From a field's name and what is written to what it means; ValueError if that is nothing."""

Words = Callable[[], Iterable[str]]
"""Names that a value can have, asked for when they are needed: finding them may import much."""

_METADATA = "option"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """What is known about a setting beside its name, type and default.

    Attributes
    ----------
    help : str
        What it is, with its unit; "{words}" stands for the names that there are.
    panel : str
        The heading that it stands under.
    shown : str or None
        What stands for the default in the help; None: the default itself, or what says that nothing is set.
    bound : callable or None
        Gives what a value must be, where that is declared.
    read : callable or None
        How what is written becomes what it means; None where that is the same.
    words : callable or None
        The names that it can be, where no bound says so.
    metavar : str or None
        What stands for its value in the help.
    option : str or None
        How the command line names it where that is not the field's name.
    position : int or None
        Where the command line takes it without a name: 0 is first.
    of_model : bool
        Whether a model to go on from decides it.
    may_differ : bool
        Whether the result of a run does not depend on it: each rank may have its own, and a run that is
        resumed another one.
    ahead : bool
        Whether it only changes steps that are still to be made: a run may be resumed with another value.
    once : bool
        Whether it belongs to one call: it is in no file of options and in no command to repeat.
    noted : bool
        Whether a model file says what it was.
    """

    help: str
    panel: str
    shown: str | None = None
    bound: Callable[[], Bound] | None = None
    read: Reader | None = None
    words: Words | None = None
    metavar: str | None = None
    option: str | None = None
    position: int | None = None
    of_model: bool = False
    may_differ: bool = False
    ahead: bool = False
    once: bool = False
    noted: bool = False

    def offers(self) -> list[str]:
        """The names that it can be; none where it is free."""
        if self.words is not None:
            return list(self.words())
        bound = None if self.bound is None else self.bound()
        return list(bound.words) if isinstance(bound, OneOf) else []

    def text(self) -> str:
        """The help, with the names that there are, and the bounds of a number."""
        bound = None if self.bound is None else self.bound()
        limits = "" if bound is None or isinstance(bound, OneOf) else str(bound)
        return self.brief(", ".join(self.offers()), limits)

    def brief(self, words: str, limits: str = "") -> str:
        """The help, with something else in the place of the names and bounds, which may take long to find."""
        text = self.help.replace("{words}", words)
        return f"{text.removesuffix('.')}; {limits}." if limits else text


def option(default: Any, text: str, *, panel: str, **more: Any) -> Any:
    """A field of an `Options` class: its default as it is written, help and heading, and more of `Option`."""
    known = Option(help=text, panel=panel, **more)
    return dataclasses.field(default=default, metadata={_METADATA: known})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings that belong together, as they are written.

    Attributes
    ----------
    given : frozenset of str
        Fields that the user named in this very call; a value may also come from a file or be the default.
    """

    given: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)

    @classmethod
    def described(cls) -> dict[str, Option]:
        """Every setting by its field's name."""
        return {
            each.name: each.metadata[_METADATA]
            for each in dataclasses.fields(cls)
            if _METADATA in each.metadata
        }

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every setting's default, as it is written."""
        return {name: cls.__dataclass_fields__[name].default for name in cls.described()}

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Self:
        """The settings that a call in Python names; a sequence stands for what has commas when written.

        Raises ValueError: one is not known.
        """
        known = cls.described()
        checks.refuse(
            f"unknown setting {name!r}; {checks.did_you_mean(name, sorted(known))}."
            for name in named
            if name not in known
        )
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        values = {name: written(value) for name, value in named.items()}
        for name, value in values.items():
            if isinstance(value, int | float) and str in (types[name], *get_args(types[name])):
                values[name] = str(value)  # such as a batch size, which may be a word
        return cls(**values, given=frozenset(named))

    def values(self) -> dict[str, Any]:
        """Every setting as it is written, by its field's name."""
        return {name: getattr(self, name) for name in self.described()}

    def read(self, name: str) -> Any:
        """What a setting means; None where nothing is set.

        Raises ValueError: it means nothing, and the message says what is needed.
        """
        value, known = getattr(self, name), self.described()[name]
        if value is not None and known.bound is not None:
            checks.refuse([known.bound().problem(name, value)])
        return value if value is None or known.read is None else known.read(name, value)

    def problems(self) -> list[str]:
        """What is wrong with settings, each looked at alone."""
        found = Problems()
        for name in self.described():
            found.reading(self.read, name)
        return found.found


class Problems:
    """Collects what is wrong with settings that do not depend on each other, to say all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, *problems: str | None) -> None:
        """Take note of what is a problem."""
        self.found += [problem for problem in problems if problem]

    def reading(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """The result, or None and a note of why there is none."""
        try:
            return read(*arguments)
        except (ValueError, TypeError, RuntimeError) as error:
            self.found.append(str(error))
            return None

    def refuse(self) -> None:
        """Raise ValueError with all that was found; do nothing if that is nothing."""
        checks.refuse(self.found)


def written(value: object) -> Any:
    """A value of Python or TOML as the command line has it: a sequence with commas.

    Examples
    --------
    >>> written(["age", "height, cm"])
    'age,"height, cm"'
    """
    if not isinstance(value, list | tuple):
        return value
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(value)
    return text.getvalue()


def names(_: str, text: str) -> tuple[str, ...]:
    """Names with commas between them; one that has a comma itself stands in double quotes.

    Examples
    --------
    >>> names("columns", 'age, "height, cm"')
    ('age', 'height, cm')
    """
    rows = list(csv.reader([text], skipinitialspace=True))
    return tuple(name.strip() for row in rows for name in row if name.strip())


def numbers(kind: type[int] | type[float]) -> Reader:
    """Numbers with commas between them; an empty text has none."""

    def read(name: str, text: object) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in str(text).split(",")) if str(text).strip() else ()
        except ValueError:
            what, such = ("whole numbers", "64,64") if kind is int else ("numbers", "0.1,0.2")
            raise ValueError(
                f"{spelled(name)}={text!r} must be {what} with commas between them, such as {such}."
            ) from None

    return read


def amount(name: str, text: object) -> int:
    """Bytes, from a number with a unit.

    Examples
    --------
    >>> amount("memory_limit", "2GiB")
    2147483648
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?i?)B?", str(text).strip())
    if match is None or not 0 < float(match[1]) < math.inf:
        raise ValueError(f"{spelled(name)}={text!r} must be an amount of memory > 0, such as 500MB or 4GB.")
    base = 1024 if match[2].endswith("i") else 1000
    return int(float(match[1]) * base ** " kMGT".index(match[2][:1].replace("K", "k") or " "))
