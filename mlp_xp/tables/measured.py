"""What is measured when a training is over: the model, its baselines, and the rows that it was trained on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlp_xp.rows.source import Source
from mlp_xp.tables.baselines import baselines
from mlp_xp.tables.evaluation import Evaluation, assess
from mlp_xp.tables.members import CrossValidation, cross_validated
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.sample import Sample, most_rows, sample
from mlp_xp.tables.split import Split


@dataclasses.dataclass(frozen=True)
class Measured:
    """How good a model is, beside what it must beat.

    Attributes
    ----------
    on : {"test", "held-out", "left-out", "training"}
        Which rows it is measured on: those that nothing looked at before; else those held out; else all, with
        folds each by the member that has left it out.
    model : Evaluation
        With intervals, unless it is of training rows.
    others : mapping of str to Evaluation
        Of the baselines on the same rows, and of the model on other rows, "training" (some of them) last.
    rows : source
        Those that it is measured on.
    sample : Sample
        Some rows of the training part.
    folds : CrossValidation or None
        Of members that each leave a fold out.
    """

    on: str
    model: Evaluation
    others: Mapping[str, Evaluation]
    rows: Source
    sample: Sample
    folds: CrossValidation | None = None

    def description(self) -> dict[str, Any]:
        """As JSON values, for a result and for a model file."""
        others = {name: found.description()["metrics"] for name, found in self.others.items()}
        return self.model.description() | {
            "metrics_on": self.on,
            "rows_measured": self.model.n_rows,
            "baselines": {name: metrics for name, metrics in others.items() if name not in ROWS},
            **{f"{ROWS[name]}_metrics": metrics for name, metrics in others.items() if name in ROWS},
            **({} if self.folds is None else {"cross_validation": self.folds.description()}),
        }


ROWS = {"held-out": "held_out", "training": "training"}
"""Names of rows among those of baselines, and as they stand in JSON."""


def some_rows(model: TableModel, source: Source, seed: int) -> Sample:
    """Raw rows of a source, as many as are looked at for a model."""
    return sample(source, seed, most_rows(len(model.inputs.names) + len(model.output_names)))


def measured(model: TableModel, parts: Split, seed: int) -> Measured:
    """Measure a model that was trained on a part of a table; `seed` is that of the rows that are drawn."""
    training = some_rows(model, parts.raw_training, seed)
    on, rows = parts.measured
    fitted = [(training, rows)]
    if parts.folds is not None and on == "training":
        members = range(parts.folds.n)
        fitted = [(some_rows(model, parts.seen_by(n), seed), parts.left_out_by(n)) for n in members]
    others = baselines(model, fitted)
    if on == "test" and parts.raw_held_out is not None:
        others["held-out"] = assess(model, parts.raw_held_out)
    folds = None if parts.folds is None else cross_validated(model, parts, seed)
    if folds is not None and on == "training":
        on, found = "left-out", folds.of_all
    else:
        found = assess(model, rows, seed=None if on == "training" else seed)
    if on != "training":
        others["training"] = assess(model, training)
    return Measured(on, found, others, rows, training, folds)
