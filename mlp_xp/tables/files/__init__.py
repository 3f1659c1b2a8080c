"""Files of tables: CSV, Parquet, Arrow, folders, their cache. `open_source` opens what a path holds."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_xp.tables.files.opening import open_source

__all__ = ["open_source"]


def __getattr__(name: str) -> Any:
    """Import what opens files when it is asked for: help names the kinds of files, and opens none."""
    if name == "open_source":
        from mlp_xp.tables.files.opening import open_source

        return open_source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
