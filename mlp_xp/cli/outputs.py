"""What `mlp-xp train` writes beside the model: --log, --tensorboard, --plot and --report."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlp_xp.cli.commands import in_order
from mlp_xp.cli.printing import say
from mlp_xp.cli.surface import OptionSpelling
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.report.epochs import Log, TensorBoardLog, numbers_of
from mlp_xp.report.page import RunReport, page
from mlp_xp.report.plot import draw_curves
from mlp_xp.run.epoch import Epoch
from mlp_xp.settings.options import Options
from mlp_xp.tables.advice import Run


@dataclasses.dataclass
class Outputs:
    """The files that were asked for; those that were not are None."""

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
        run: Run,
        result: Mapping[str, Any],
        command: str,
    ) -> None:
        """Write the picture and the page, which tells the result and the command (`command_line`)."""
        if self.plot is not None and run.history.train_losses:
            draw_curves(self.plot, run.history, "loss")
        if self.report is not None:
            rates = [self._rates.get(n + 1, math.nan) for n in range(len(run.history.train_losses))]
            report = RunReport.of(run, result, command, rates)
            whole = page(report, run.model, run.found.sample, run.found.rows)
            write_whole(self.report, whole.encode("utf-8", "replace"))


def command_line(command: str, options: Options) -> str:
    """What to type to do the same again: the command with every option that is not its default.

    Wherever an option came from (the command line, a configuration), it is spelled out.
    """
    words, arguments, defaults = ["mlp-xp", command], [], options.defaults()
    spelling = OptionSpelling(type(options))
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
