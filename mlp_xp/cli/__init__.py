"""The command line: `mlp-xp train`, `predict`, `evaluate`, `export`, `show`, `devices` and `cache`.

Exit statuses: 0 done; 1 the training diverged; 2 something that was given is refused (the message says what
was given, what is needed and what to do); 3 an error of mlp-xp itself; 130 interrupted; 143 terminated.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    from mlp_xp.cli import completion
    from mlp_xp.cli.streams import usable_streams

    given = list(sys.argv[1:] if arguments is None else arguments)
    with usable_streams():
        if given == ["--version"]:
            from mlp_xp.version import VERSION

            print(f"mlp-xp {VERSION}")
            status = 0
        elif completion.is_asked():
            status = completion.answer()
        else:
            from mlp_xp.cli.application import run

            status = run(given)
    sys.exit(status)
