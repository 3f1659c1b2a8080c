"""What `mlp-xp train` writes beside the model: --log, --tensorboard, --plot and --report."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.cli.commands import in_order
from mlp_xp.cli.printing import say
from mlp_xp.cli.surface import Spelling
from mlp_xp.history import History
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.report.epochs import Log, TensorBoardLog, numbers_of
from mlp_xp.report.page import RunReport, page
from mlp_xp.report.plot import draw_curves
from mlp_xp.rows.source import Source
from mlp_xp.run.epoch import Epoch
from mlp_xp.settings.options import Options
from mlp_xp.tables.model import TableModel
from mlp_xp.version import VERSION


@dataclasses.dataclass
class Outputs:
    """The files that were asked for; those that were not are None.

    Attributes
    ----------
    report, plot, log, tensorboard : path or None
    """

    report: Path | None = None
    plot: Path | None = None
    log: Path | None = None
    tensorboard: Path | None = None

    def __post_init__(self) -> None:
        """Prepare what is written while the training runs."""
        self._written: list[Log | TensorBoardLog] = []
        if self.log is not None:
            self._written.append(Log(self.log))
        if self.tensorboard is not None:
            self._written.append(TensorBoardLog(self.tensorboard))
        self._rates: dict[int, float] = {}

    def watch(self, run: Iterator[Epoch]) -> Iterator[Epoch]:
        """A run's epochs, written down as they pass.

        A file that cannot be written costs no training: that is said once, and the run goes on.
        """
        for epoch in run:
            self._rates[epoch.number] = epoch.learning_rate
            for file in self._written.copy():
                try:
                    file.add(numbers_of(epoch))
                except OSError as error:
                    self._written.remove(file)
                    say(f"{file.path}: {error.strerror}; going on without it")
            yield epoch

    def finish(
        self,
        model: TableModel,
        history: History,
        result: Mapping[str, Any],
        *,
        training: Source,
        measured: Source,
        source: str,
        introduction: Sequence[str],
        command: str,
        seed: int,
    ) -> None:
        """Write the picture and the page.

        Parameters
        ----------
        model : TableModel
            As it was trained.
        history : History
        result : mapping
            What ``--json`` prints.
        training, measured : source
            Raw rows, those that were trained on and those that the model is judged on.
        source : str
            What the rows were read from.
        introduction : sequence of str
            What was said when the run began.
        command : str
            What to type to do it again (`command_line`).
        seed : int
        """
        if self.plot is not None and history.train_losses:
            draw_curves(self.plot, history, "loss")
        if self.report is not None:
            rates = [self._rates.get(n + 1, math.nan) for n in range(len(history.train_losses))]
            about_run = RunReport(source, introduction, command, result, history, VERSION, rates, seed)
            write_whole(self.report, page(about_run, model, training, measured).encode("utf-8", "replace"))


def command_line(command: str, options: Options) -> str:
    """What to type to do the same again: the command with every option that is not its default.

    Wherever an option came from (the command line, a configuration), it is spelled out.
    """
    words, arguments, defaults = ["mlp-xp", command], [], options.defaults()
    spelling = Spelling(type(options))
    for name, known in in_order(type(options)).items():
        value = getattr(options, name)
        if known.once or value is None or value == defaults[name]:
            continue
        if known.position is not None:
            arguments.append(str(value))
        elif isinstance(value, bool):
            words.append(spelling.given(name, value))
        else:
            words += [spelling.name(name), str(value)]
    return shlex.join([*words[:2], *arguments, *words[2:]])
