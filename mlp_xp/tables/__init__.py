"""Columns of a table to the numbers of a network, and back to the user's units."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlp_xp.tables.model import TableModel

__all__ = ["TableModel"]


def __getattr__(name: str) -> Any:
    """Import the model when it is asked for: settings of tables need no arithmetic."""
    if name == "TableModel":
        from mlp_xp.tables.model import TableModel

        return TableModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
