"""A network with what its columns mean."""

import copy
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp_xp.history import History
from mlp_xp.losses import LOSSES, Loss, loss_behind
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.members.spread import with_spread
from mlp_xp.network import Network
from mlp_xp.rows.source import PASS_BYTES, Source, passes, rows_in
from mlp_xp.settings import checks
from mlp_xp.settings.catalogue import describe, resolve
from mlp_xp.tables.files.columns import meant, no_column
from mlp_xp.tables.interpretation import Interpretation
from mlp_xp.tables.options import TableOptions
from mlp_xp.tables.own_tables import check_lengths, columns_of
from mlp_xp.tables.preparation import Inputs, Targets
from mlp_xp.tables.reading import open_inputs
from mlp_xp.tables.values import class_values, raw_values
from mlp_xp.tables.written import Written

PREDICT_ROWS = 8192
"""Rows that are prepared and predicted at a time."""


class TableModel(Interpretation):
    """A network with what its columns mean: predicts from raw rows, in the user's units.

    Parameters
    ----------
    network : Network
    inputs : Inputs
        What is done with each column.
    targets : Targets
        How targets were standardised; predictions are brought back.
    levels : sequence of str, optional
        Names of the classes; none for regression.
    loss : loss, optional
        What it was trained for; follows from the network's output if not given.
    training : mapping, optional
        How it was trained, for people: JSON values by name.
    written : Written, optional
        How the columns of the training table were written.

    Raises
    ------
    ValueError
        Columns, classes or loss do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        inputs: Inputs,
        targets: Targets,
        levels: Sequence[str] | None = None,
        *,
        loss: Loss | str | Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        written: Written | None = None,
    ) -> None:
        known = loss_behind(network.output) if loss is None else resolve("loss", LOSSES, loss)
        named = None if levels is None else tuple(levels)
        super().__init__(inputs, targets, named, known, written or Written())
        self.network, self.training = network, dict(training or {})
        self.history: History | None = None
        checks.refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        n_inputs, n_outputs = self.network.layer_sizes[0], self.network.layer_sizes[-1]
        n_targets = len(self.targets.names)
        if self.inputs.n_features != n_inputs:
            yield (
                f"{len(self.inputs.names)} columns are {self.inputs.n_features} features, but the network "
                f"has {n_inputs} inputs."
            )
        if self.levels is None:
            # Without a loss that says how many, a target may have several outputs (quantiles).
            loss = self.loss
            needed = None if loss is None or loss.labels else loss.n_outputs(n_targets, None)
            if not n_targets or n_outputs % n_targets or needed not in (None, n_outputs):
                yield f"{n_targets} targets do not fit a network with {n_outputs} outputs and this loss."
        else:
            n_levels = len(self.levels)
            if n_levels < 2 or len(set(self.levels)) != n_levels or n_targets != 1:
                yield f"classes need one target and at least two names, each once: got {self.levels!r}."
            if n_outputs != n_levels and (n_outputs, n_levels) != (1, 2):
                yield f"{n_levels} classes are named for a network with {n_outputs} outputs."

    @classmethod
    def of_network(
        cls,
        network: Network,
        input_names: Sequence[str],
        target_names: Sequence[str] | None = None,
        levels: Sequence[str] | None = None,
    ) -> "TableModel":
        """A model that adds nothing but names to a network: raw rows go in as they are.

        What is not named is numbered: classes, where the network is a classifier, and targets.
        """
        n_outputs = network.layer_sizes[-1]
        kind = network.output.probabilities
        if levels is None and (kind == "together" or (kind == "each" and n_outputs == 1)):
            levels = [str(number) for number in range(max(2, n_outputs))]
        n_targets = 1 if levels else n_outputs // network.output.n_quantiles
        names = target_names or [f"y{i}" if n_targets > 1 else "y" for i in range(n_targets)]
        return cls(network, Inputs.plain(input_names), Targets.unscaled(names), levels)

    def description(self) -> dict[str, Any]:
        """Everything but the network, for a model file."""
        return {
            "inputs": self.inputs.description(),
            "ranges": {name: list(ends) for name, ends in self.inputs.ranges.items()},
            "targets": self.targets.description(),
            "levels": self.levels,
            "loss": self.described_loss,
            "training": self.training,
            "written": self.written.description(),
        }

    @property
    def described_loss(self) -> str | dict[str, Any] | None:
        """The loss it was trained for, as JSON values."""
        return None if self.loss is None else describe(LOSSES, self.loss)

    @classmethod
    def of(cls, description: Mapping[str, Any], network: Network) -> "TableModel":
        """What `description` describes, checked against its network.

        Raises
        ------
        ValueError, TypeError, KeyError
            It describes no model around this network.
        """
        inputs, targets = (
            Inputs.of(description["inputs"], description.get("ranges")),
            Targets.of(description["targets"]),
        )
        levels, training = description["levels"], description["training"]
        if levels is not None and not all(isinstance(level, str) for level in levels):
            raise TypeError("the name of a class is no text")
        if not isinstance(training, dict):
            raise TypeError("how it was trained is no object")
        written = Written.of(description.get("written"))
        loss = description["loss"]
        return cls(network, inputs, targets, levels, loss=loss, training=training, written=written)

    @property
    def quantiles(self) -> tuple[float, ...] | None:
        """The quantiles that are predicted of each target, where that is so."""
        return None if self.loss is None else self.loss.quantiles

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each column of `predict_raw` is: a class, a target, a quantile (of a target)."""
        if self.levels is not None:
            return self.levels
        n_each = self.network.layer_sizes[-1] // len(self.targets.names)
        if n_each == 1 and self.quantiles is None:
            return self.targets.names
        each = [f"{q:g}" for q in self.quantiles] if self.quantiles else [str(i) for i in range(n_each)]
        if len(self.targets.names) == 1:
            return tuple(each)
        return tuple(f"{name}_{one}" for name, one in itertools.product(self.targets.names, each))

    @property
    def classes(self) -> np.ndarray | None:
        """The classes (n_classes,) in the order of `levels`, their names, as `predict` gives them back.

        Whole numbers, numbers, booleans, dates (datetime64) or texts, whichever the target held; None for
        regression.
        """
        if self.levels is None:
            return None
        return class_values(self.levels, self.written.readings.get(self.targets.names[0], ""))

    @property
    def n_numbers(self) -> int:
        """Numbers that are made of each row to predict for it: its features and its predictions."""
        return self.inputs.n_features + self.network.layer_sizes[-1] + len(self.output_names)

    def predict_raw(self, x: np.ndarray) -> np.ndarray:
        """Predictions in the user's units for raw rows, a column for each of `output_names`.

        Parameters
        ----------
        x : array (n_rows, n_columns)
            Columns in the order of `inputs.names`, as their `fill` takes them; *read*.

        Returns
        -------
        array (n_rows, n_outputs)
            Values (float64) or probabilities of classes (also where a network has one output for two).
        """
        n_rows = len(x)
        dtype = "float64" if self.levels is None else self.network.backend.dtype_name
        predicted = np.empty((n_rows, len(self.output_names)), dtype)
        step = min(PREDICT_ROWS, rows_in(PASS_BYTES, self.n_numbers))
        for start in range(0, n_rows, step):
            values = np.asarray(x[start : start + step], dtype=float)
            features = np.empty((len(values), self.inputs.n_features))
            self.inputs.fill(values, features)
            outputs = self.network.predict(features)
            if self.levels is None:
                outputs = self.targets.restore(outputs)
            elif outputs.shape[1] == 1:
                outputs = np.hstack([1 - outputs, outputs])
            predicted[start : start + step] = outputs
        return predicted

    def predict_parts(self, source: Source) -> Iterator[np.ndarray]:
        """`predict_raw` of all rows of a source of raw rows, some thousands at a time."""
        for _, x, _, _ in passes(source, PREDICT_ROWS, n_more=self.n_numbers):
            yield self.predict_raw(x)

    def choose(self, probabilities: np.ndarray) -> np.ndarray:
        """The names of the likeliest classes (n_rows,)."""
        return np.asarray(self.levels, dtype=object)[np.argmax(probabilities, axis=1)]

    def each(self) -> "list[TableModel]":
        """A model of each member of the network, which shares its weights; one without members."""
        models = []
        for network in self.network.each():
            model = copy.copy(self)
            model.network = network
            models.append(model)
        return models

    def predict(
        self, x: ArrayLike, *, return_std: bool = False, quantiles: Sequence[float] | None = None
    ) -> Any:
        """Predict for raw rows.

        Parameters
        ----------
        x : array_like (n_rows, n_columns), table, mapping, sequence of mappings, or path
            An array of numbers has its columns in the order of the training table. A table (pandas, polars,
            Arrow, or any with `__arrow_c_stream__`), a mapping of columns, a row or a list of rows as
            mappings, or the file at a path has them by name, in any order; further columns are ignored. None
            and nan are gaps; texts are read as in the training table.
        return_std : bool
            Whether also the standard deviation over the members is given, of numbers; 0 without members.
        quantiles : sequence of float in [0, 1], optional
            Which quantiles over the members are given, too.

        Returns
        -------
        array
            (n_rows, n_outputs) numbers in the targets' units, or (n_rows,) `classes`. With return_std or
            quantiles a tuple: these, the deviations (n_rows, n_outputs), and the quantiles
            (n_quantiles, n_rows, n_outputs), as far as they are asked for. They say how far the members
            differ, which is not how far the truth may be: noise is the same to all of them.

        Raises
        ------
        ValueError
            A column is missing or holds something else than it did in training, or their number is wrong.
        """
        if not return_std and quantiles is None:
            outputs = self._outputs(x)
            return outputs if self.classes is None else self.classes[np.argmax(outputs, axis=1)]
        if self.levels is not None:
            raise ValueError("names of classes have no deviation: ask predict_proba, with return_std.")
        return self._with_spread(x, return_std, quantiles)

    def _with_spread(self, x: ArrayLike, return_std: bool, quantiles: Sequence[float] | None) -> Any:
        """Predictions, and what is asked for of how members differ."""
        members = self.each()
        parts = [np.stack([model.predict_raw(part) for model in members]) for part in self._raw(x)]
        return with_spread(np.concatenate(parts, axis=1), return_std=return_std, quantiles=quantiles)

    def predict_proba(self, x: ArrayLike, *, return_std: bool = False) -> Any:
        """Probabilities of the classes, in the order of `levels`.

        Parameters
        ----------
        x : as for `predict`
        return_std : bool
            Whether also the standard deviation over the members is given.

        Returns
        -------
        array (n_rows, n_classes), or two of them

        Raises
        ------
        ValueError
            The model predicts numbers, or as for `predict`.
        """
        if self.levels is None:
            raise ValueError(f"this model predicts {', '.join(self.targets.names)}: it has no classes.")
        return self._with_spread(x, True, None) if return_std else self._outputs(x)

    def _outputs(self, x: ArrayLike) -> np.ndarray:
        """A column for each of `output_names`."""
        return np.vstack([self.predict_raw(part) for part in self._raw(x)])

    def _raw(self, x: ArrayLike) -> Iterator[np.ndarray]:
        """Raw rows as `predict_raw` takes them: of a file some thousands at a time."""
        if isinstance(x, str | os.PathLike):
            table = open_inputs(TableOptions(data=os.fspath(x)), self)
            for _, part, _, _ in passes(table.source, PREDICT_ROWS, n_more=self.n_numbers):
                yield part
            return
        columns = columns_of(x)
        yield self._rows(x) if columns is None else self._columns(columns)

    def _rows(self, x: ArrayLike) -> np.ndarray:
        """An array of rows, checked."""
        rows, columns = np.asarray(x), self.inputs.columns
        if rows.ndim != 2 or rows.shape[1] != len(columns):
            raise ValueError(
                f"x has shape {rows.shape}, but this model needs (n_rows, {len(columns)}): the columns "
                f"{checks.listed(self.inputs.names)}.{' One row is a dict by name.' * (rows.ndim == 1)}"
            )
        return np.column_stack(self._read([rows[:, at] for at in range(len(columns))]))

    def _read(self, given: Sequence[Any]) -> list[np.ndarray]:
        """The values of all columns; what is wrong with them in one message."""
        found, problems = [], []
        for column, values in zip(self.inputs.columns, given, strict=True):
            reading = self.written.readings.get(column.name, "")
            try:
                found.append(raw_values(column, values, reading, self.written.gaps))
            except ValueError as error:
                problems.append(str(error))
        checks.refuse(problems)
        return found

    def _columns(self, x: Mapping[str, Any]) -> np.ndarray:
        """The columns of a table by name, as rows, checked."""
        known = list(x)
        found = meant(self.inputs.names, known)
        checks.refuse(no_column("x has", [name for name, own in found.items() if own not in x], known))
        columns = self._read([x[name] for name in found.values()])
        check_lengths(dict(zip(self.inputs.names, columns, strict=True)))
        return np.column_stack(columns)

    def __repr__(self) -> str:
        """The network and its targets."""
        return f"TableModel({self.network!r}, targets={list(self.targets.names)})"
