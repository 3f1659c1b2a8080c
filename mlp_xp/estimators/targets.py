"""Class labels to what the core's losses read, and back."""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.utils.multiclass import type_of_target, unique_labels

from mlp_xp.machine.array_api import Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a classification.

    Parameters
    ----------
    kind : str
        "binary" (two classes or one: one output), "multiclass" (one output a class), "multilabel" (one
        output a label) or "multioutput" (several multiclass targets: a group of outputs each).
    classes : array, or list of arrays for "multioutput"
        In ascending order.
    sparse : bool
        Whether multilabel predictions are sparse, as the targets of `fit` were.
    """

    kind: str
    classes: Any
    sparse: bool = False

    @property
    def n_outputs(self) -> int:
        """Outputs that the network needs."""
        if self.kind == "multioutput":
            return sum(len(each) for each in self.classes)
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def groups(self) -> tuple[int, ...]:
        """Classes of each target of a multioutput problem."""
        return tuple(len(each) for each in self.classes)

    def encode(self, y: ArrayLike, dtype: str) -> np.ndarray:
        """Targets for the core: int32 class numbers, or zeros and ones of `dtype`.

        Raises
        ------
        ValueError
            y is of another kind than these labels.
        """
        kind = kind_of(y)
        by_column = kind in ("multilabel", "multioutput")
        fits = kind == self.kind if self.kind == "multilabel" else by_column == self._by_column
        if not fits or (by_column and y.shape[1] != len(self.classes)):
            raise ValueError(
                f"The estimator was fitted with {self.kind} targets of {len(self.classes)} "
                f"{'columns' if self._by_column else 'classes'}, but y is {kind} with shape "
                f"{np.shape(y)}: give y of the same kind."
            )
        if self.kind == "multilabel":
            dense = y.toarray() if scipy.sparse.issparse(y) else np.asarray(y)
            return (dense != 0).astype(dtype)
        if self.kind == "multioutput":
            return np.stack([numbers_of(y[:, t], classes) for t, classes in enumerate(self.classes)], axis=1)
        numbers = numbers_of(y, self.classes)[:, None]
        return numbers.astype(dtype) if self.kind == "binary" else numbers

    @property
    def _by_column(self) -> bool:
        return self.kind in ("multilabel", "multioutput")

    def numbers(self, output: np.ndarray) -> np.ndarray:
        """The predicted class numbers (or zeros and ones a label) from the network's probabilities."""
        if self.kind == "binary":
            return (output[:, 0] > 0.5).astype(np.int64) if len(self.classes) == 2 else _zeros(output)
        if self.kind == "multiclass":
            return output.argmax(axis=1)
        if self.kind == "multilabel":
            return (output > 0.5).astype(np.int64)
        return np.stack([group.argmax(axis=1) for group in self.split(output)], axis=1)

    def decode(self, numbers: np.ndarray) -> Array:
        """Labels from class numbers."""
        if self.kind == "multilabel":
            return scipy.sparse.csr_matrix(numbers) if self.sparse else numbers
        if self.kind == "multioutput":
            columns = [classes[numbers[:, t]] for t, classes in enumerate(self.classes)]
            return np.stack(columns, axis=1)
        return self.classes[numbers]

    def split(self, output: np.ndarray) -> list[np.ndarray]:
        """The group of columns of each target."""
        return np.split(output, np.cumsum(self.groups)[:-1], axis=1)


def _zeros(output: np.ndarray) -> np.ndarray:
    return np.zeros(len(output), dtype=np.int64)


def numbers_of(y: ArrayLike, classes: np.ndarray) -> np.ndarray:
    """int32 positions in `classes`.

    Raises
    ------
    ValueError
        y has a label that is none of them.
    """
    y = np.asarray(y)
    numbers = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    unknown = classes[numbers] != y
    if np.any(unknown):
        raise ValueError(
            f"`y` has classes not in `self.classes_`. `self.classes_` has {classes}. 'y' has {np.unique(y)}."
        )
    return numbers.astype(np.int32)


def kind_of(y: ArrayLike) -> str:
    """One of "binary", "multiclass", "multilabel" and "multioutput".

    Raises
    ------
    ValueError
        y holds no class labels.
    """
    found = type_of_target(y, input_name="y")
    kinds = {
        "binary": "binary",
        "multiclass": "multiclass",
        "multilabel-indicator": "multilabel",
        "multiclass-multioutput": "multioutput",
    }
    if found not in kinds:
        raise ValueError(
            f"Unknown label type: {found}. Maybe you are trying to fit a classifier, which expects "
            "discrete classes on a regression target with continuous values."
        )
    return kinds[found]


def labels_of(y: ArrayLike) -> Labels:
    """The labels that a y has."""
    kind = kind_of(y)
    if kind == "multioutput":
        return Labels(kind, [np.unique(column) for column in np.asarray(y).T])
    return Labels(kind, unique_labels(y), scipy.sparse.issparse(y))
