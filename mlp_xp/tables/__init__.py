"""Columns of a table to the numbers of a network, and back to the user's units."""

from mlp_xp.tables.model import TableModel

__all__ = ["TableModel"]
