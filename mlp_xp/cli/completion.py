"""What a shell offers on TAB: commands, their options and the names that an option can have.

The scripts that `--install-completion` puts into a shell are typer's; what they ask for is answered here,
without building a single command of typer's, since a shell waits for it.
"""

import os
import shlex
from collections.abc import Iterator, Mapping

from mlp_xp.cli.commands import COMMANDS, OF_ALL, OF_PROGRAM, flags, in_order

VARIABLE = "_MLP_XP_COMPLETE"
"""The variable in which a shell says what it wants: complete_bash, source_zsh, ..."""


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a shell wants to know how a line may go on."""
    return environment.get(VARIABLE, "").startswith("complete_")


def answer(environment: Mapping[str, str] = os.environ) -> int:
    """Print how a line may go on, as the shell wants it; the exit status."""
    shell = environment[VARIABLE].removeprefix("complete_")
    found = dict(candidates(*_words(shell, environment)))
    if shell == "bash":
        lines = list(found)
    elif shell == "zsh":
        offers = "\n".join(f'"{_zsh(name)}":"{_zsh(text)}"' for name, text in found.items())
        lines = [f"_arguments '*: :(({offers}))'"] if found else ["_files"]
    elif shell == "fish":
        if environment.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
            return 0 if found else 1
        lines = [f"{name}\t{text}" for name, text in found.items()]
    else:
        lines = [f"{name}:::{text or ' '}" for name, text in found.items()]
    print("\n".join(lines))
    return 0


def candidates(words: list[str], incomplete: str) -> Iterator[tuple[str, str]]:
    """How a line of words may go on, with what each is for.

    Examples
    --------
    >>> [name for name, _ in candidates(["train", "--optimizer"], "na")]
    ['nadam']
    """
    offers: dict[str, str] = {}
    if not words:
        offers = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in COMMANDS.items()}
        offers |= OF_PROGRAM if incomplete else {}
    elif words[0] in COMMANDS:
        kind = COMMANDS[words[0]]
        defaults, options = kind.defaults(), in_order(kind)
        spelled = {
            flag: option
            for name, option in options.items()
            if option.position is None
            for flag in flags(name, option, default=defaults[name])
        }
        before = spelled.get(words[-1])
        if before is not None and (known := before.offers()):
            offers = dict.fromkeys(known, "")
        elif incomplete.startswith("-"):
            offers = {flag: option.brief("a name") for flag, option in spelled.items()}
            offers |= OF_ALL
    return ((name, text) for name, text in offers.items() if name.startswith(incomplete))


def _words(shell: str, environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The words before the one that is being typed, without the program's name, and that one."""
    if shell == "bash":
        words = _split(environment.get("COMP_WORDS", ""))
        at = int(environment.get("COMP_CWORD", "1"))
        return words[1:at], words[at] if at < len(words) else ""
    line = environment.get("_TYPER_COMPLETE_ARGS", "")
    words = _split(line)[1:]
    ends = shell == "powershell" or not line[-1:].isspace()
    if shell == "powershell":
        incomplete = environment.get("_TYPER_COMPLETE_WORD_TO_COMPLETE", "")
        return (words[:-1] if incomplete and words[-1:] == [incomplete] else words), incomplete
    return (words[:-1], words[-1]) if words and ends else (words, "")


def _split(line: str) -> list[str]:
    """The words of a line in which a quote may still be open."""
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _zsh(text: str) -> str:
    """A text inside double quotes inside single quotes."""
    escaped = "".join(f"\\{character}" if character in '\\"$`:' else character for character in text)
    return escaped.replace("'", "''")
