"""How the command line spells settings: a class of options becomes a command of typer's."""

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_type_hints

import typer

from mlp_xp.cli import configuration
from mlp_xp.cli.commands import flags, in_order
from mlp_xp.settings.options import Option, Options
from mlp_xp.settings.spelling import Spelling


class OptionSpelling(Spelling):
    """Fields as options of the command that runs: `target` is ``--target``, `data` is ``DATA``."""

    def __init__(self, kind: type[Options]) -> None:
        self._known = kind.described()

    def name(self, field: str) -> str:
        """The option's name."""
        known = self._known.get(field)
        if known is None:
            return field
        return known.metavar or field.upper() if known.position is not None else flags(field, known)[0]

    def given(self, field: str, value: object) -> str:
        """The option with its value, as a shell would have it."""
        if field not in self._known:
            return super().given(field, value)
        if isinstance(value, bool):
            return flags(field, self._known[field], default=True)[0 if value else 1]
        text = str(value)
        return f"{self.name(field)} {shlex.quote(text) if text.isprintable() else repr(text)}"


def whole(text: str) -> int:
    """The whole number that an option is given as."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number.") from None


def real(text: str) -> float:
    """The number that an option is given as."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


def function_of(kind: type[Options], run: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function that typer makes a command of: it runs with what the command was given."""

    def call(context: typer.Context, **named: Any) -> Any:
        source = context.get_parameter_source
        given = frozenset(name for name in named if getattr(source(name), "name", None) == "COMMANDLINE")
        return run(kind(**named, given=given))

    parameters = list(_parameters(kind))
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    call.__dict__["__signature__"] = inspect.Signature([context, *parameters])
    call.__annotations__ = {each.name: each.annotation for each in (context, *parameters)}
    return call


def _parameters(kind: type[Options]) -> Iterable[inspect.Parameter]:
    hints, defaults = get_type_hints(kind), kind.defaults()
    for name, known in in_order(kind).items():
        default = defaults[name]
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
            annotation=Annotated[hints[name], _for_typer(name, known, hints[name], default)],
        )


def _for_typer(name: str, known: Option, hint: Any, default: Any) -> Any:
    if known.position is not None:
        return typer.Argument(metavar=known.metavar)
    bare = hint if isinstance(hint, type) else next(each for each in hint.__args__)
    more: dict[str, Any] = {}
    if bare in (int, float):
        more = {"parser": whole if bare is int else real}
    if name == "config":
        more = {"callback": configuration.load, "is_eager": True}
    return typer.Option("/".join(flags(name, known, default=default)), **more)
