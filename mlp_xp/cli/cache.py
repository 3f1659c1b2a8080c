"""`mlp-xp cache`: the tables that were too large for memory and are kept on disk."""

import json
from typing import Annotated

from mlp_xp.cli import options
from mlp_xp.cli.options import GENERAL, option
from mlp_xp.tables.files import cache_folder, cached, clear_cache


def cache(
    clear: Annotated[bool, option(GENERAL, "Delete them.", "--clear", default="off")] = False,
    cache_dir: options.CacheDir = None,
    as_json: options.Json = False,
    _debug: options.Debug = False,
) -> None:
    """List the tables that are kept in the cache folder, or delete them.

    A table larger than --memory-limit is converted once to a file there, of which any row can be read at any
    time. It is found again as long as the table's files do not change.
    """
    files = clear_cache(cache_dir) if clear else cached(cache_dir)
    if as_json:
        tables = [{"path": str(file.path), "bytes": file.size, "made_from": file.made_from} for file in files]
        print(json.dumps({"folder": str(cache_folder(cache_dir)), "deleted": clear, "tables": tables}))
        return
    for file in files:
        print(options.printable(f"{file.size / 2**20:10.1f} MiB  {file.made_from}"))
    total = sum(file.size for file in files) / 2**20
    done = "deleted from" if clear else "in"
    print(f"{len(files)} table{'s' * (len(files) != 1)}, {total:,.1f} MiB, {done} {cache_folder(cache_dir)}")
