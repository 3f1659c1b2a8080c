"""Files of tables: CSV, Parquet, Arrow, folders, their cache. `open_source` opens what a path holds."""

from mlp_xp.tables.files.arrow_map import ArrowSource
from mlp_xp.tables.files.columns import RawColumn
from mlp_xp.tables.files.copying import written_rows
from mlp_xp.tables.files.csv_files import CsvForm
from mlp_xp.tables.files.opening import MEMORY_LIMIT, open_source
from mlp_xp.tables.files.table_cache import CachedTable, cache_folder, cached, clear_cache
from mlp_xp.tables.files.table_source import TableSource

__all__ = [
    "MEMORY_LIMIT",
    "ArrowSource",
    "CachedTable",
    "CsvForm",
    "RawColumn",
    "TableSource",
    "cache_folder",
    "cached",
    "clear_cache",
    "open_source",
    "written_rows",
]
