"""Where rows come from.

A source is any object with `n_rows`, `n_features`, `n_targets`, `has_weights` and
`rows(index, x, y, weight)`, which fills the given host arrays with the rows that `index` names.
`open_source` makes one of whatever a path holds; `ArraySource` of arrays, `BatchSource` of a
stream.
"""

from mlp_xp.sources.arrays import ArraySource
from mlp_xp.sources.arrow_map import ArrowSource
from mlp_xp.sources.batches import BatchSource
from mlp_xp.sources.class_weights import ClassWeighted
from mlp_xp.sources.columns import Column
from mlp_xp.sources.copying import written_rows
from mlp_xp.sources.csv_files import CsvForm
from mlp_xp.sources.opening import MEMORY_LIMIT, open_source
from mlp_xp.sources.table_cache import Cached, cache_folder, cached, clear_cache
from mlp_xp.sources.table_source import TableSource

__all__ = [
    "MEMORY_LIMIT",
    "ArraySource",
    "ArrowSource",
    "BatchSource",
    "Cached",
    "ClassWeighted",
    "Column",
    "CsvForm",
    "TableSource",
    "cache_folder",
    "cached",
    "clear_cache",
    "open_source",
    "written_rows",
]
