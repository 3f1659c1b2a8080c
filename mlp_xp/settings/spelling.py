"""How a message names a setting: `memory_limit` in Python, `--memory-limit` on the command line.

What refuses something says which field it is about; the surface that the user is at spells it. Python is
the default; the command line takes over for as long as it runs (`speaking`).
"""

import contextlib
from collections.abc import Iterator


class Spelling:
    """How a surface spells fields: as arguments, where it is Python."""

    def name(self, field: str) -> str:
        """The argument's name."""
        return field

    def given(self, field: str, value: object) -> str:
        """The argument with its value."""
        return f"{field}={value!r}"


class _Surface:
    """The surface of this process: threads that gather rows speak to the same user."""

    spelling = Spelling()


def spelled(name: str) -> str:
    """A field's name, as the user writes it.

    Examples
    --------
    >>> spelled("memory_limit")
    'memory_limit'
    """
    return _Surface.spelling.name(name)


def given(name: str, value: object) -> str:
    """A field with a value, as the user writes it.

    Examples
    --------
    >>> given("target", "price")
    "target='price'"
    """
    return _Surface.spelling.given(name, value)


@contextlib.contextmanager
def speaking(spelling: Spelling) -> Iterator[None]:
    """Spell fields in another way inside the block."""
    before, _Surface.spelling = _Surface.spelling, spelling
    try:
        yield
    finally:
        _Surface.spelling = before
