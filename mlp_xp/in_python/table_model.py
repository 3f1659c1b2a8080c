"""A model of a table as a user has it in Python: trained, loaded, measured, shown and written."""

import contextlib
import dataclasses
import html
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from mlp_xp.history import History
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.report.metric_tables import metric_tables
from mlp_xp.report.page import RunReport, page
from mlp_xp.rows.source import Source
from mlp_xp.saved import model_file
from mlp_xp.saved.onnx_file import export_onnx
from mlp_xp.settings.options import written
from mlp_xp.tables import fit_table as fitting
from mlp_xp.tables import model as plain
from mlp_xp.tables.advice import MOST
from mlp_xp.tables.evaluation import assess
from mlp_xp.tables.fit_table import IN_MEMORY, at_a_path
from mlp_xp.tables.measured import some_rows
from mlp_xp.tables.options import TargetOptions
from mlp_xp.tables.own_tables import columns_of
from mlp_xp.tables.reading import Table, for_model, open_for
from mlp_xp.tables.result import result_of
from mlp_xp.tables.sample import Sample

if TYPE_CHECKING:
    from mlp_xp.estimators import MLPClassifier, MLPRegressor
    from mlp_xp.network import Network


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a model knows of its training as long as it is in the memory of the process that trained it.

    Attributes
    ----------
    report : RunReport
    training, measured : Sample
        Raw rows, at most 20,000 each: those that it was trained on, and those that it is judged on.
    """

    report: RunReport
    training: Sample
    measured: Sample


class TableModel(plain.TableModel):
    """A model of a table, and what may be done with it.

    `fit_table` and `load` give one. Its `training` holds how it was trained and what was measured then; its
    `history` the losses of each epoch, where it was trained in this process, and its `advice` what to look at
    and to try.
    """

    _kept: Kept | None = None

    @classmethod
    def from_plain(cls, model: plain.TableModel) -> "TableModel":
        """The same model, with these methods."""
        own = cls.__new__(cls)
        own.__dict__.update(model.__dict__)
        return own

    def __getstate__(self) -> dict[str, Any]:
        """A copy knows no rows of the training."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    @property
    def advice(self) -> list[str]:
        """What `mlp-xp train` says in the end; empty unless the model was trained in this process."""
        return [] if self._kept is None else list(self._kept.report.result["advice"])

    def evaluate(self, data: ArrayLike, *, weight_column: str | None = None) -> dict[str, float]:
        """Metrics on the rows of a table, as `mlp-xp evaluate` has them.

        Parameters
        ----------
        data : path, table, mapping or sequence of mappings
            With the columns and targets of the training table; as for `fit_table`, or rows by name.
        weight_column : str, optional
            Of sample weights; every row counts 1 if not given.

        Returns
        -------
        dict of str to float
            nan where a metric has no meaning.
        """
        with self._opened(data, weight_column) as table:
            return dict(assess(self, table.source).metrics)

    def report(
        self,
        path: str | os.PathLike[str],
        data: ArrayLike | None = None,
        *,
        weight_column: str | None = None,
    ) -> None:
        """Write a page about the model and its training, as `mlp-xp train --report` writes one.

        Parameters
        ----------
        path : path
            Usually ``*.html``. Replaced at once.
        data : path, table, mapping or sequence of mappings, optional
            Rows to measure the model on, as for `evaluate`; those that it was judged on after its training,
            if not given.
        weight_column : str, optional
            Of sample weights in `data`.

        Raises
        ------
        ValueError
            There are no rows: a model that was loaded or copied has none of its training.
        """
        if data is None:
            kept = self._kept
            if kept is None:
                raise ValueError(
                    "this model was loaded or copied: it has neither the rows nor the losses of its "
                    "training. Give rows to measure it on, report(path, data)."
                )
            self._write(path, kept.report, kept.training, kept.measured)
            return
        with self._opened(data, weight_column) as table:
            found = assess(self, table.source, seed=0)
            backend, history = self.network.backend, self.history or History()
            result = found.description() | {
                "metrics_on": "given",
                "rows_measured": found.n_rows,
                "epochs": self.training.get("epochs", len(history.train_losses)),
                "best_epoch": history.best_epoch or None,
                "stopped": self.training.get("stopped"),
                "seconds": history.seconds,
                "device": backend.name,
                "dtype": backend.dtype_name,
            }
            command = f"model.report({os.fspath(path)!r}, data)"
            name = table.name if isinstance(data, str | os.PathLike) else IN_MEMORY
            about_run = RunReport(name, [], command, result, history)
            self._write(path, about_run, table.source, table.source)

    def _write(
        self, path: str | os.PathLike[str], report: RunReport, training: Source, measured: Source
    ) -> None:
        write_whole(path, page(report, self, training, measured).encode("utf-8", "replace"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a model file: `mlp_xp.save`."""
        save(self, path)

    def export_onnx(self, path: str | os.PathLike[str], *, matrix_input: bool = False) -> None:
        """Write an ONNX file: `mlp_xp.export_onnx`."""
        export_onnx(self, path, matrix_input=matrix_input)

    def _repr_html_(self) -> str:
        """What notebooks show: the network, what was measured, and what to try."""
        tables = metric_tables(self.training) if self.training.get("metrics") else []
        advice = "".join(f"<p>{html.escape(said)}</p>" for said in self.advice[:MOST])
        return f"<p><code>{html.escape(repr(self))}</code></p>{''.join(map(_table, tables))}{advice}"

    @contextlib.contextmanager
    def _opened(self, data: ArrayLike, weight_column: str | None) -> Iterator[Table]:
        """A table with the columns and targets of the model, for as long as it is looked at."""
        columns = None if isinstance(data, str | os.PathLike) else columns_of(data)
        with at_a_path(data if columns is None else columns) as path:
            target = written(self.targets.names)
            options = TargetOptions(data=path, target=target, weight_column=weight_column)
            yield for_model(open_for(options, self), self)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def fit_table(
    data: ArrayLike,
    target: str | Sequence[str],
    *,
    levels: Sequence[str] | None = None,
    **options: Any,
) -> TableModel:
    """Train a model on a table, as `mlp-xp train` does: the same options give the same model.

    Parameters
    ----------
    data : path, table, mapping or sequence of mappings
        A file that `mlp-xp train` reads (CSV, Parquet, Arrow, a folder or glob of them), or a table in
        memory: pandas, polars, Arrow, or any with `__arrow_c_stream__`; or columns by name, or rows by name.
        A table in memory needs pyarrow, the extra mlp-xp[files].
    target : str or sequence of str
        The column to predict, or several.
    levels : sequence of str, optional
        Names of classes whose numbers, from 0, the target holds; they are taken from the target if not given.
    **options
        Options of `mlp-xp train` with underscores in their names: ``epochs=50``, ``hidden=(64, 64)``,
        ``recipe="plain"``. `mlp-xp train --help` explains each.

    Returns
    -------
    TableModel
        Its `training` holds the metrics and on which rows they were measured, its `history` the losses.

    Raises
    ------
    ValueError, TypeError, OSError
        An option or the data cannot be used; the message says why.
    ModuleNotFoundError
        The data needs an extra that is not installed.
    FloatingPointError
        The training diverged.

    Examples
    --------
    >>> x = [number / 50 for number in range(200)]
    >>> table = {"x": x, "y": [3 * each + 1 for each in x]}
    >>> model = fit_table(table, "y", epochs=40)
    >>> model.training["metrics_on"], model.training["metrics"]["r2"] > 0.95
    ('held-out', True)
    """
    with at_a_path(data) as path:
        run, rates = fitting.fit_table(path, target, levels=levels, **options)
        given = path if isinstance(data, str | os.PathLike) else None
        about = run if given else run.called(IN_MEMORY)
        report = RunReport.of(about, result_of(run), _call(given, target, levels, options), rates)
        judged = some_rows(run.model, run.found.rows, report.seed)
    model = TableModel.from_plain(run.model)
    model.history, model._kept = run.history, Kept(report, run.found.sample, judged)
    return model


def _call(
    path: str | None, target: str | Sequence[str], levels: Sequence[str] | None, options: Mapping[str, Any]
) -> str:
    """What to type to do it again."""
    data = IN_MEMORY if path is None else repr(path)
    all_named = options if levels is None else {"levels": list(levels), **options}
    named = (f"{name}={value!r}" for name, value in all_named.items())
    return f"fit_table({', '.join([data, repr(target), *named])})"


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model file; of a scikit-learn pipeline an ONNX file.

    Parameters
    ----------
    model : Network, TableModel, fitted estimator, or Pipeline that ends in one
        What `load` will give back; of an estimator of tables, its table model. A pipeline's other steps are
        code, which no model file holds; `export_onnx`, which explains it, writes them by skl2onnx.
    path : path
        Usually ``*.safetensors``, of a pipeline ``*.onnx``. An existing file is replaced, at once and only
        when the new one is complete.

    Raises
    ------
    OSError
        The file cannot be written; what was there is untouched.
    TypeError
        `model` is nothing that can be saved.
    ValueError
        Its weights are not all finite, it is an estimator that is not fitted, or the name's end is of the
        other kind of file.
    ModuleNotFoundError
        It is a pipeline, and skl2onnx is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from mlp_xp import Network
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Network((3, 8, 1), seed=0), f"{folder}/model.safetensors")
    ...     load(f"{folder}/model.safetensors").predict([[1.0, 2.0, 3.0]]).shape
    (1, 1)
    """
    name, is_pipeline = os.fspath(path), hasattr(model, "steps")
    if is_pipeline and not name.endswith(".onnx"):
        raise ValueError(
            f"path={name!r}: a pipeline's steps before the last are code, which no model file holds; name a "
            "file that ends in .onnx, or save its last step."
        )
    if is_pipeline:
        export_onnx(model, path)
    elif name.endswith(".onnx"):
        raise ValueError(f"path={name!r}: save writes *.safetensors; export_onnx writes *.onnx.")
    else:
        model_file.save(model, path)


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    activations: Mapping[str, Any] | None = None,
) -> "Network | TableModel | MLPClassifier | MLPRegressor":
    """Read a model file, whatever device it was trained on.

    Parameters
    ----------
    path : path
        What `save` wrote.
    device : str
        "cpu", "cuda", "cuda:N": where the network's parameters go.
    activations : mapping of str to (value, derivative), optional
        A user's own activations by the name of their value function: a file holds names, not code.

    Returns
    -------
    Network, TableModel, MLPClassifier or MLPRegressor
        What was saved.

    Raises
    ------
    ValueError
        The file is not a model file, is damaged, is of a newer version, or needs activations.
    OSError
        It cannot be read.
    RuntimeError
        The device cannot be used here.
    ModuleNotFoundError
        It holds an estimator, and scikit-learn is not installed.
    """
    model = model_file.load(path, device, activations=activations)
    if isinstance(model, plain.TableModel):
        return TableModel.from_plain(model)
    return cast("Network | MLPClassifier | MLPRegressor", model)
