"""A network with what its columns mean."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlp_xp.network import Network
from mlp_xp.tables.preparation import Columns


class TableModel:
    """A network with what its columns mean: predicts from raw rows, in the user's units.

    Parameters
    ----------
    network : Network
    inputs : Columns
        How inputs were standardised.
    targets : Columns
        How targets were; predictions are brought back.
    levels : sequence of str, optional
        Names of the classes; none for regression.
    """

    def __init__(
        self, network: Network, inputs: Columns, targets: Columns, levels: Sequence[str] | None = None
    ) -> None:
        self.network, self.inputs, self.targets = network, inputs, targets
        self.levels = None if levels is None else tuple(levels)

    def description(self) -> dict[str, Any]:
        """Everything but the network, for a model file."""
        return {
            "inputs": dataclasses.asdict(self.inputs),
            "targets": dataclasses.asdict(self.targets),
            "levels": self.levels,
        }

    @classmethod
    def of(cls, description: dict[str, Any], network: Network) -> "TableModel":
        """What `description` describes, checked against its network."""
        inputs, targets = (
            Columns(**{name: tuple(values) for name, values in description[part].items()})
            for part in ("inputs", "targets")
        )
        for columns in (inputs, targets):
            if not len(columns.names) == len(columns.means) == len(columns.scales):
                raise ValueError("the model file's columns have means or scales missing.")
        if len(inputs.names) != network.layer_sizes[0]:
            raise ValueError(
                f"the model file names {len(inputs.names)} columns for {network.layer_sizes[0]} inputs."
            )
        return cls(network, inputs, targets, description["levels"])

    def predict_raw(self, x: np.ndarray) -> np.ndarray:
        """Predictions in the user's units for raw rows (n_rows, n_features): values or probabilities."""
        standardised = np.array(x, dtype=float)
        self.inputs.standardise(standardised)
        outputs = self.network.predict(standardised)
        return outputs if self.levels is not None else self.targets.restore(outputs)

    def predict(self, x: Any) -> np.ndarray:
        """Predict for raw rows.

        Parameters
        ----------
        x : array_like (n_rows, n_features) or mapping of str to array_like (n_rows,)
            Columns in the order of the training table, or by name in any order; further columns of a mapping
            are ignored.

        Returns
        -------
        array
            (n_rows, n_outputs) numbers in the targets' units, or (n_rows,) names of classes.

        Raises
        ------
        ValueError
            A column is missing or the number of columns is wrong.
        """
        if hasattr(x, "keys"):
            missing = [name for name in self.inputs.names if name not in x]
            if missing:
                raise ValueError(f"column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing.")
            x = np.column_stack([np.asarray(x[name], dtype=float) for name in self.inputs.names])
        outputs = self.predict_raw(np.asarray(x))
        if self.levels is None:
            return outputs
        binary = outputs.shape[1] == 1
        chosen = (outputs[:, 0] > 0.5).astype(int) if binary else np.argmax(outputs, axis=1)
        return np.asarray(self.levels)[chosen]

    def __repr__(self) -> str:
        """The network and its targets."""
        return f"TableModel({self.network!r}, targets={list(self.targets.names)})"
