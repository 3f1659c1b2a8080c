"""`mlp-xp cache`: the tables that were too large for memory and are kept on disk."""

from pathlib import Path
from typing import Annotated

import typer

from mlp_xp.cli import options
from mlp_xp.sources import cache_folder, cached, clear_cache


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete them.", show_default="off")] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The cache folder.", show_default="the user's own")
    ] = None,
    _debug: options.Debug = False,
) -> None:
    """List the tables that are kept in the cache folder, or delete them.

    A table larger than --memory-limit is converted once to a file there, of which any row can be read at any
    time. It is found again as long as the table's files do not change.
    """
    files = clear_cache(cache_dir) if clear else cached(cache_dir)
    for file in files:
        print(options.printable(f"{file.size / 2**20:10.1f} MiB  {file.made_from}"))
    total = sum(file.size for file in files) / 2**20
    done = "deleted from" if clear else "in"
    print(f"{len(files)} table{'s' * (len(files) != 1)}, {total:,.1f} MiB, {done} {cache_folder(cache_dir)}")
