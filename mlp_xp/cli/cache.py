"""`mlp-xp cache`: the tables that were too large for memory and are kept on disk."""

import json

from mlp_xp.cli.commands import Cache
from mlp_xp.cli.printing import printable, show
from mlp_xp.settings.checks import counted
from mlp_xp.tables.files.table_cache import cache_folder, cached, clear_cache


def cache(options: Cache) -> None:
    """List the tables that are kept in the cache folder, or delete them."""
    files = clear_cache(options.cache_dir) if options.clear else cached(options.cache_dir)
    folder = cache_folder(options.cache_dir)
    if options.as_json:
        tables = [{"path": str(file.path), "bytes": file.size, "made_from": file.made_from} for file in files]
        show(json.dumps({"folder": str(folder), "deleted": options.clear, "tables": tables}))
        return
    for file in files:
        show(printable(f"{file.size / 2**20:10.1f} MiB  {file.made_from}"))
    total = sum(file.size for file in files) / 2**20
    done = "deleted from" if options.clear else "in"
    show(printable(f"{counted(len(files), 'table')}, {total:,.1f} MiB, {done} {folder}"))
