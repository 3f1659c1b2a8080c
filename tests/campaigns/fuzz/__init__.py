"""Hostile files: good ones, mutated by the thousand, end in success or in our error.

    python -m tests.campaigns.fuzz                          10,000 files of every kind
    python -m tests.campaigns.fuzz csv npz --files 500      some kinds, fewer files
    python -m tests.campaigns.fuzz csv --seed 3 --first 41 --files 1 --keep FOLDER    one file again, kept

A file is a function of kind, seed and number alone. Files are judged by `judge`, many in one process, whose
death or silence is a failure of the file it was at.
"""
