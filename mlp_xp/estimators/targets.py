"""What the targets of a fit are to the core, and back: numbers, or labels of classes."""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils.multiclass import type_of_target, unique_labels

from mlp_xp.losses import BinaryCrossEntropy, GroupedCrossEntropy, Loss, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Targets of a regression, with a loss of the core.

    Of squared error scikit-learn reports the mean over targets rather than the sum (`takes_mean`).
    """

    of_core: Loss
    takes_mean: bool = False

    @property
    def out_activation(self) -> str:
        """Of the loss's link."""
        return self.of_core.link.as_activation

    def loss(self, dtype: str) -> Loss:
        """The same for each dtype."""
        return self.of_core

    def n_outputs(self, n_targets: int) -> int:
        """One each, or one for each quantile of it."""
        return self.of_core.n_outputs(n_targets, None)

    def loss_scale(self, n_outputs: int) -> float:
        """Of a mean, 1 / outputs."""
        return 1.0 / n_outputs if self.takes_mean else 1.0

    def encode(self, y: ArrayLike, dtype: str) -> np.ndarray:
        """Columns of numbers for which the loss has a meaning."""
        encoded = np.asarray(y, dtype=dtype)
        encoded = encoded[:, None] if encoded.ndim == 1 else encoded
        self.of_core.check_targets(encoded, self.n_outputs(encoded.shape[1]))
        return encoded

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """One column is flat."""
        return encoded[..., 0] if encoded.shape[-1] == 1 else encoded

    def strata(self, encoded: np.ndarray) -> None:
        """None."""

    def score(self, encoded: ArrayLike, output: np.ndarray, weight: np.ndarray | None) -> float:
        """R²; with several quantiles the mean D² of their pinball losses."""
        if not np.isfinite(output).all():
            return float("nan")
        quantiles = self.of_core.quantiles or (0.5,)
        if len(quantiles) == 1:
            return float(r2_score(encoded, output, sample_weight=weight))
        columns = output.reshape(len(output), -1, len(quantiles))
        scores = [
            d2_pinball_score(encoded, columns[:, :, place], sample_weight=weight, alpha=quantile)
            for place, quantile in enumerate(quantiles)
        ]
        return float(np.mean(scores))


@dataclasses.dataclass(frozen=True)
class Labels:
    """Targets of a classification: several columns or one, each of two classes or of more.

    Parameters
    ----------
    kind : str
        "binary" (two classes or one: one logistic output), "multiclass" (a softmax over the classes),
        "multilabel" (a logistic output a label) or "multioutput" (several targets: a softmax each).
    classes : array, or list of arrays for "multioutput"
        In ascending order.
    sparse : bool
        Whether multilabel predictions are sparse, as the targets of `fit` were.
    smoothing : float in [0, 1)
        ε: targets become (1 − ε) · one-hot + ε / classes.
    """

    kind: str
    classes: Any
    sparse: bool = False
    smoothing: float = 0.0

    @property
    def is_logistic(self) -> bool:
        """Whether each output is a probability of its own."""
        return self.kind in ("binary", "multilabel")

    @property
    def by_column(self) -> bool:
        """Whether there are several targets."""
        return self.kind in ("multilabel", "multioutput")

    @property
    def of_each(self) -> list[np.ndarray]:
        """The classes of each target that has classes."""
        return self.classes if self.kind == "multioutput" else [self.classes]

    @property
    def out_activation(self) -> str:
        """Of the output layer."""
        return "logistic" if self.is_logistic else "softmax"

    def n_outputs(self, n_targets: int) -> int:
        """One for two classes, else one for each class or label."""
        return 1 if self.kind == "binary" else sum(map(len, self.of_each))

    def loss(self, dtype: str) -> Loss:
        """A cross-entropy, with scikit-learn's bound on what it reports."""
        eps = float(np.finfo(dtype).eps)
        if self.is_logistic:
            return BinaryCrossEntropy(eps, self.smoothing)
        if self.kind == "multiclass":
            return SoftmaxCrossEntropy(self.smoothing, eps=eps)
        return GroupedCrossEntropy(tuple(map(len, self.classes)), self.smoothing, eps=eps)

    def loss_scale(self, n_outputs: int) -> float:
        """1."""
        return 1.0

    def encode(self, y: ArrayLike, dtype: str) -> np.ndarray:
        """int32 class numbers for a softmax, else probabilities of `dtype`.

        Raises ValueError: y is of another kind than these labels, or has a label that is none of them.
        """
        kind = kind_of(y)
        by_column = kind in ("multilabel", "multioutput")
        fits = kind == self.kind if self.kind == "multilabel" else by_column == self.by_column
        if not fits or (by_column and y.shape[1] != len(self.classes)):
            raise ValueError(
                f"The estimator was fitted with {self.kind} targets of {len(self.classes)} "
                f"{'columns' if self.by_column else 'classes'}, but y is {kind} with shape "
                f"{np.shape(y)}: give y of the same kind."
            )
        if self.kind == "multilabel":
            numbers = (y.toarray() if scipy.sparse.issparse(y) else np.asarray(y)) != 0
        else:
            columns = y.T if self.by_column else [y]
            numbers = np.stack(list(map(numbers_of, columns, self.of_each)), axis=1)
        return numbers.astype(dtype) if self.is_logistic else numbers

    def numbers(self, output: np.ndarray) -> np.ndarray:
        """The predicted class numbers (or zeros and ones a label) from the network's probabilities."""
        if self.is_logistic:
            return self._flat(np.minimum(output > 0.5, self.by_column or len(self.classes) - 1))
        if self.kind == "multiclass":
            return output.argmax(axis=1)
        return np.stack([group.argmax(axis=1) for group in self.split(output)], axis=1)

    def _flat(self, numbers: np.ndarray) -> np.ndarray:
        numbers = numbers.astype(np.int64)
        return numbers if self.by_column else numbers[:, 0]

    def _known(self, encoded: np.ndarray) -> np.ndarray:
        """The class numbers that `encode` was given, as `numbers` gives them."""
        return self._flat(encoded > 0.5 if self.is_logistic else encoded)

    def decode(self, encoded: np.ndarray) -> Array:
        """Labels."""
        return self.named(self._known(encoded))

    def named(self, numbers: np.ndarray) -> Array:
        """Labels from class numbers."""
        if self.kind == "multilabel":
            return scipy.sparse.csr_matrix(numbers) if self.sparse else numbers
        if self.kind == "multioutput":
            columns = zip(self.classes, numbers.T, strict=True)
            return np.stack([classes[column] for classes, column in columns], axis=1)
        return self.classes[numbers]

    def split(self, output: np.ndarray) -> list[np.ndarray]:
        """The group of columns of each target."""
        return np.split(output, np.cumsum([len(each) for each in self.of_each])[:-1], axis=1)

    def probabilities(self, output: np.ndarray) -> list[np.ndarray]:
        """Those of all classes, or of all labels; of several targets, of each."""
        if self.kind == "multioutput":
            return [each.copy() for each in self.split(output)]
        if self.kind != "binary":
            return [output]
        return [np.ones_like(output) if len(self.classes) == 1 else np.column_stack([1 - output, output])]

    def strata(self, encoded: np.ndarray) -> np.ndarray | None:
        """scikit-learn stratifies where there is one output."""
        return encoded > 0.5 if self.kind == "binary" else None

    def score(self, encoded: np.ndarray, output: np.ndarray, weight: np.ndarray | None) -> float:
        """The fraction of rows that are predicted right, in all columns."""
        right = self.numbers(output) == self._known(encoded)
        return float(np.average(right if right.ndim == 1 else right.all(axis=1), weights=weight))

    def has_same_classes(self, other: "Labels") -> bool:
        """Whether other labels are of the same kind and classes."""
        return self.kind == other.kind and all(map(np.array_equal, self.of_each, other.of_each))


Targets = Numbers | Labels
"""What a fit asks of its targets: loss, outputs, what to make of y, and what an output is worth."""


def numbers_of(y: ArrayLike, classes: np.ndarray) -> np.ndarray:
    """int32 positions in `classes`.

    Raises ValueError: y has a label that is none of them.
    """
    y = np.asarray(y)
    numbers = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    if np.any(classes[numbers] != y):
        raise ValueError(
            f"`y` has classes not in `self.classes_`. `self.classes_` has {classes}. 'y' has {np.unique(y)}."
        )
    return numbers.astype(np.int32)


KINDS = {
    "binary": "binary",
    "multiclass": "multiclass",
    "multilabel-indicator": "multilabel",
    "multiclass-multioutput": "multioutput",
}
"""scikit-learn's names of what targets are, and those of `Labels`."""


def kind_of(y: ArrayLike) -> str:
    """What class labels are, of `KINDS`.

    Raises ValueError: y holds no class labels; TypeError: they have no order.
    """
    refuse_objects(y)
    found = type_of_target(y, input_name="y")
    if found not in KINDS:
        raise ValueError(NO_CLASSES.format(found))
    return KINDS[found]


def refuse_objects(y: ArrayLike) -> None:
    """Refuse labels that are Python objects: ValueError for a gap, TypeError for labels without an order."""
    values = np.asarray(None if scipy.sparse.issparse(y) else y)
    if values.dtype != object or values.size == 0 or values.ndim == 0:
        return
    labels = values.ravel().tolist()
    for at, label in enumerate(labels):
        if label is None or type(label).__name__ == "NAType" or label != label:
            row = at * len(values) // len(labels)
            raise ValueError(f"y holds {label!r} in row {row} (from 0): leave the row out.")
    try:
        sorted(set(labels))
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
        raise TypeError(f"y mixes labels of the types {kinds}: make all of them texts, or numbers.") from None


NO_CLASSES = (
    "Unknown label type: {}. Maybe you are trying to fit a classifier, which expects discrete classes on a "
    "regression target with continuous values."
)


def labels_of(y: ArrayLike) -> Labels:
    """The labels that a y has."""
    kind = kind_of(y)
    if kind == "multioutput":
        return Labels(kind, [np.unique(column) for column in np.asarray(y).T])
    return Labels(kind, unique_labels(y), scipy.sparse.issparse(y))
