"""Measurements, one file per question, the question in its first line: `python -m bench --help`."""
