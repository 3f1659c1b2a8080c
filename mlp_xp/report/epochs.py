"""The numbers of an epoch, and files that get them as it ends: a log of JSON lines, and an event file."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from mlp_xp.machine.whole_file import write_whole
from mlp_xp.report.event_file import EventFile
from mlp_xp.run.epoch import Epoch
from mlp_xp.tables.evaluation import finite


def numbers_of(epoch: Epoch) -> dict[str, Any]:
    """An epoch as JSON values; a number that is not finite is None."""
    numbers = {
        "epoch": epoch.number,
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "learning_rate": epoch.learning_rate,
        "steps": epoch.steps,
        "rows": epoch.n_rows,
        "seconds": epoch.seconds,
        "is_best": epoch.is_best,
        "stopped": epoch.stopped,
    }
    return {name: finite(value) for name, value in numbers.items()}


class Log:
    """A file (*.jsonl) with one JSON object a line, an epoch each, written as the epoch ends.

    It is replaced when the first epoch ends. A run that goes on from a checkpoint keeps the lines of the
    epochs before it, and replaces those after.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._begun = False

    def add(self, epoch: dict[str, Any]) -> None:
        """Write the line of an epoch (`numbers_of`).

        Raises OSError: the file cannot be written.
        """
        if not self._begun:
            write_whole(self.path, b"".join(self._lines_before(epoch["epoch"])))
            self._begun = True
        with self.path.open("ab") as file:
            file.write(json.dumps(epoch).encode() + b"\n")

    def _lines_before(self, number: int) -> list[bytes]:
        """Lines of an earlier run that are about epochs before this one."""
        if number == 1 or not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        return [line for line in lines if line.endswith(b"\n") and _number_in(line) < number]


def _number_in(line: bytes) -> float:
    """The epoch that a line is about; infinite where it is about none."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorBoardLog:
    """A folder with an event file, which TensorBoard shows while it grows: a point an epoch in each curve.

    It is made if needed, when the first epoch ends. A run that goes on from a checkpoint adds a file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self._file: EventFile | None = None

    def add(self, epoch: dict[str, Any]) -> None:
        """Write the points of an epoch (`numbers_of`).

        Raises OSError: the folder or the file cannot be written.
        """
        if self._file is None:
            self._file = EventFile.in_folder(self.path, time.time())
        curves = {
            "loss/train": epoch["train_loss"],
            "loss/validation": epoch["validation_loss"],
            "learning_rate": epoch["learning_rate"],
        }
        known = {tag: value for tag, value in curves.items() if value is not None}
        self._file.add(time.time(), epoch["epoch"], known)
