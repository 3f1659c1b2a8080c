"""How a name becomes a thing: 'adam', 'huber:delta=2' or {'name': 'huber', 'delta': 2} -> an instance.

Activations, losses, initializers, regularizers, schedules, optimizers and orders are frozen dataclasses;
each of those files ends with the one dictionary of its names. What is written here serves them all: finding
by name, reading parameters, and describing a thing again for files and for people.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from mlp_xp.settings.checks import did_you_mean
from mlp_xp.settings.fields import once_a_class
from mlp_xp.settings.spelling import Spelling, speaking

Thing = TypeVar("Thing")


def resolve(kind: str, catalogue: Mapping[str, type[Thing]], given: object) -> Thing:
    """Return the instance that `given` names.

    Raises ValueError: the name, a parameter or its value is not known; the message names the nearest;
    TypeError: `given` is none of these.

    Parameters
    ----------
    kind : str
        What it is, for messages: "activation", "loss", ...
    catalogue : mapping of str to type
        The names of that kind.
    given : str, mapping, type or instance
        A name, a name with parameters (``"step:every=10,factor=0.5"``; a list is written with slashes,
        ``"pinball:quantiles=0.1/0.5/0.9"``), the mapping that `describe` writes, a class, or an instance.
    """
    if isinstance(given, str):
        if given in catalogue and not any(_parameters_of(catalogue[given]).values()):
            return _with_defaults(catalogue[given])
        name, _, written = given.partition(":")
        pairs = [_parse(kind, given, part) for part in written.split(",") if part]
        parameters = dict(pairs)
        if len(parameters) < len(pairs):
            raise ValueError(f"{kind}={given!r} says a parameter twice: say each once.")
    elif isinstance(given, Mapping) and "name" in given:
        name, parameters = given["name"], {k: v for k, v in given.items() if k != "name"}
    elif isinstance(given, type) and given in catalogue.values():
        name, parameters = name_of(catalogue, given), {}
    elif isinstance(given, tuple(catalogue.values())):
        return _with_python_numbers(given)
    else:
        raise TypeError(
            f"{kind}={given!r} must be a name or an instance of a known {kind}. "
            f"Known: {', '.join(sorted(catalogue))}."
        )
    if name not in catalogue:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(str(name), sorted(catalogue))}.")
    fields = _parameters_of(catalogue[name])
    for parameter in parameters:
        if parameter not in fields:
            known = did_you_mean(parameter, [*fields]) if fields else "it has no parameters"
            raise ValueError(f"{kind} {name!r} has no parameter {parameter!r}; {known}.")
    missing = [each for each, is_needed in fields.items() if is_needed and each not in parameters]
    if missing:
        raise ValueError(f"{kind} {name!r} needs {', '.join(missing)}: it has no default.")
    try:
        with speaking(Spelling()):  # its patience is not --patience
            return _with_python_numbers(catalogue[name](**parameters))
    except ValueError as error:
        lines = str(error).splitlines()
        raise ValueError("\n".join(f"{kind} {name!r}: {line}" for line in lines)) from error


@once_a_class
def _with_defaults(kind: type[Thing]) -> Thing:
    """The instance whose parameters are all as declared: one, since none ever changes."""
    return kind()


@once_a_class
def _parameters_of(kind: type) -> dict[str, bool]:
    """Names of what a class takes, and whether it has no default."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(kind)
        if field.init
    }


def _with_python_numbers(thing: Any) -> Any:
    """The same with Python numbers for NumPy's, which would turn float32 arithmetic into float64."""
    changed = {
        field.name: value.item()
        for field in dataclasses.fields(thing)
        if field.init and isinstance(value := getattr(thing, field.name), np.generic)
    }
    return dataclasses.replace(thing, **changed) if changed else thing


def _parse(kind: str, given: str, part: str) -> tuple[str, Any]:
    parameter, equals, value = part.partition("=")
    if not equals:
        raise ValueError(
            f"{kind}={given!r}: {part!r} is not PARAMETER=VALUE. Parameters are written "
            f"NAME:PARAMETER=VALUE,PARAMETER=VALUE."
        )
    if "/" in value:
        return parameter, tuple(_value(item) for item in value.split("/"))
    return parameter, _value(value)


def _value(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def name_of(catalogue: Mapping[str, type], thing: object) -> str:
    """The name of a thing or of its class in its catalogue."""
    kind = thing if isinstance(thing, type) else type(thing)
    return next(name for name, known in catalogue.items() if known is kind)


def known_name(catalogue: Mapping[str, type], thing: object) -> str | None:
    """The name of a thing; None where its class is not itself in the catalogue, as a subclass is not."""
    return next((name for name, known in catalogue.items() if known is type(thing)), None)


def describe(catalogue: Mapping[str, type], thing: Any) -> str | dict[str, Any]:
    """What `resolve` reads back: the name alone, or a mapping where a parameter differs from its default.

    Examples
    --------
    >>> from mlp_xp.losses import LOSSES, Huber
    >>> describe(LOSSES, Huber(delta=2.0))
    {'name': 'huber', 'delta': 2.0}
    >>> describe(LOSSES, Huber())
    'huber'
    """
    name = name_of(catalogue, thing)
    parameters = {}
    for field in dataclasses.fields(thing):
        value = getattr(thing, field.name)
        if type(value) in catalogue.values():  # a schedule may hold another
            value = describe(catalogue, value)
        if field.init and value != field.default:
            parameters[field.name] = value
    return {"name": name, **parameters} if parameters else name
