"""Columns of a table to the numbers of a network, and back to the user's units."""
