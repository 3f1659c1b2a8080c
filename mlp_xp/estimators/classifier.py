"""MLPClassifier."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, unique_labels
from sklearn.utils.validation import _check_sample_weight

from mlp_xp.estimators.array_home import on_host
from mlp_xp.estimators.data import Encoded, InMemory, Rows, SeenTargets, seen_targets
from mlp_xp.estimators.fitting import Held, Learner
from mlp_xp.estimators.targets import Labels, kind_of, labels_of, numbers_of
from mlp_xp.losses import BinaryCrossEntropy, GroupedCrossEntropy, Link, Loss, SoftmaxCrossEntropy
from mlp_xp.machine.array_api import Array, ArrayLike
from mlp_xp.rows.source import Source
from mlp_xp.settings import checks


@dataclasses.dataclass(eq=False, repr=False, match_args=False)
class MLPClassifier(ClassifierMixin, Learner):
    """A multilayer perceptron for classification, in the place of scikit-learn's.

    For one `random_state`, float64 data and "adam" or "sgd" it gives scikit-learn 1.9's loss curve, weights
    and predictions to 1e-8. Losses are cross-entropies: of one logistic output for two classes, of a softmax
    for more, of a logistic output for each label of an indicator matrix, and the sum of a softmax's for each
    of several columns of classes.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Units of each hidden layer; one number is one layer, () is a linear model.
    activation : str, object, pair of functions, or list of them
        "identity", "logistic", "tanh", "relu", or any other of `mlp_xp.activations`: one for all hidden
        layers, or a list with one for each. A pair (value, derivative) of functions of z is your own.
    solver : str or object
        "adam", "sgd" and "lbfgs" are scikit-learn's; any other name or object of `mlp_xp.optimizers`
        ("nadam", "adamw:weight_decay=0.1") runs with its own parameters.
    alpha : float >= 0
        The penalty is alpha / 2 · Σ w², divided by Σ s_i like the loss.
    batch_size : int or "auto"
        Rows a step; "auto" is min(200, rows). "lbfgs" takes all rows.
    learning_rate : str or object
        "constant"; with "sgd" also "invscaling" and "adaptive"; any other name or object of
        `mlp_xp.schedules`, for every solver that makes steps.
    learning_rate_init : float > 0
        η, or what the schedule multiplies.
    power_t : float >= 0
        The exponent of "invscaling": η / (t + 1)^power_t, with t the rows seen, set once an epoch.
    max_iter : int
        Epochs, or L-BFGS iterations, at most.
    shuffle : bool
        Whether each epoch shuffles the order of the one before.
    random_state : int, RandomState or None
        Of weights, validation rows, order and dropout.
    tol, n_iter_no_change : float, int
        Training ends when more than `n_iter_no_change` epochs in a row did not improve what is watched by
        `tol`; "adaptive" divides the rate by 5 instead, down to 1e-6. For "lbfgs", `tol` bounds the
        gradient.
    verbose : bool
        Whether each epoch prints its loss.
    warm_start : bool or "continue"
        True: fit starts from the weights of the last one, with a new optimizer and order. "continue": it
        really goes on, with the optimizer's state, schedule, dropout, order and validation rows, so that 300
        fits of one epoch are one fit of 300. "lbfgs" goes on from its weights with an empty history.
    momentum, nesterovs_momentum : float in [0, 1], bool
        Of "sgd".
    early_stopping, validation_fraction : bool, float
        Whether to hold rows out, watch their score, and end with the weights of the best epoch.
    beta_1, beta_2, epsilon : float
        Of "adam", which adds epsilon to √v before the correction.
    max_fun : int
        Evaluations of "lbfgs", at most.
    device : "cpu", "cuda", "cuda:N" or None
        Where to compute; None: where X is.
    dtype : "float32", "float64" or None
        What to compute in; None: float32 for X of that, else float64 (a path or source: float32, unless it
        holds float64 arrays).
    dropout : float or sequence of float in [0, 1)
        Probability that a hidden unit is left out of a step: for all hidden layers, or for each.
    l1 : float >= 0
        Adds l1 · Σ |w| to the penalty.
    clip_norm : float or None
        The largest Euclidean norm of a step's gradient.
    initializer : str, object or None
        Of `mlp_xp.initializers`; None draws what scikit-learn draws.
    class_weight : dict, list of dicts, "balanced" or None
        Weights of classes, multiplied with the sample weights; as everywhere in scikit-learn. Rows held out
        are judged without them, those of early stopping as well as X_val.
    label_smoothing : float in [0, 1)
        ε: targets become (1 − ε) · one-hot + ε / classes.
    scoring : "loss", str, callable or None
        What early stopping watches: the validation loss, a scorer by name or your own
        ``scorer(estimator, X, y)``; None is `score`.
    time_budget : float or None
        Seconds, looked at after every epoch.
    callback : callable or None
        Called after every epoch with its `Progress` (number, loss, validation_loss, validation_score,
        learning_rate, seconds, snapshot()); returning True stops. scikit-learn's own callbacks go to
        `set_callbacks`.
    members : int or None
        Networks that start differently, are trained at once on the same batches, and predict their mean: of
        probabilities, or of numbers. Losses are their means, the score is that of their mean, and they end
        together. The arrays of `coefs_` and `intercepts_` have an axis of members first.

    Attributes
    ----------
    classes_ : array, or list of arrays
        In ascending order; a list for several columns of classes.
    coefs_, intercepts_ : list of arrays
        W_l (n_in, n_out) and b_l (n_out,) of each layer. What you write into them or assign predicts.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_ : int, array, int, int, str
        Of the network, inputs counted as a layer.
    n_iter_, t_ : int
        Epochs of the last fit; rows seen in all.
    loss_, loss_curve_, best_loss_ : float, list of float, float
        The loss of the last epoch, of every epoch, of the best.
    validation_scores_, best_validation_score_ : list of float, float
        With validation rows; else None.
    validation_loss_curve_, best_validation_loss_ : list of float, float
        With validation rows only, the best with early stopping.
    stopped_ : str or None
        Why training ended; None after partial_fit.
    device_ : str
        Where it was computed.

    Notes
    -----
    Where this class and `MLPRegressor` differ from scikit-learn's, and why, is a table of the documentation
    (``docs/scikit_learn.md``).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from mlp_xp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(max_iter=2000, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    """

    loss = "log_loss"
    _y_numeric = False

    hidden_layer_sizes: object = (100,)
    activation: object = "relu"
    _: dataclasses.KW_ONLY
    class_weight: object = None
    label_smoothing: float = 0.0

    @available_if(lambda self: self._has_partial_fit())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike = None,
        classes: ArrayLike = None,
        *,
        X_val: ArrayLike = None,
        y_val: ArrayLike = None,
        sample_weight_val: ArrayLike = None,
    ) -> Self:
        """Update the model with one epoch over the given rows.

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in `fit`.
        classes : array-like of shape (n_classes,), or list of them, optional
            All classes of all calls: needed in the first call, except for an indicator matrix. A list of
            arrays where y has several columns of classes.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows to score. With early_stopping=True the estimator predicts with the best weights so far,
            while training goes on from the latest.

        Returns
        -------
        self : MLPClassifier
        """
        held = Held(X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held, prepare=lambda: self._first_classes(on_host(y), classes))

    def _has_partial_fit(self) -> bool:
        """L-BFGS has none."""
        if not self._makes_steps():
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def _first_classes(self, y: ArrayLike, classes: ArrayLike) -> None:
        """Learn the classes in the first call of partial_fit."""
        first = not hasattr(self, "classes_")
        kind = kind_of(y) if first else None
        if kind == "multilabel":
            self._labels = labels_of(y)
            self.classes_ = self._labels.classes
        elif kind == "multioutput" or (first and _is_list_of_arrays(classes)):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._labels = Labels("multioutput", [np.unique(each) for each in classes])
            self.classes_ = self._labels.classes
        elif hasattr(self, "_labels") and self._labels.kind == "multioutput":
            pass
        elif _check_partial_fit_first_call(self, classes):
            kind = "binary" if len(self.classes_) <= 2 else "multiclass"
            self._labels = Labels(kind, self.classes_)

    def predict(self, X: ArrayLike) -> Array:
        """Predict the classes of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            Class labels.
        """
        X, home = self._input(X, "predict")
        labels = self._labels
        found = labels.decode(labels.numbers(self._finite_outputs(X)))
        return home.send(found) if isinstance(found, np.ndarray) else found

    def predict_proba(self, X: ArrayLike, *, return_std: bool = False) -> Any:
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        return_std : bool
            Whether also the standard deviation over the members is given; 0 without members.

        Returns
        -------
        array of shape (n_samples, n_classes), or list of them
            In the order of `classes_`; for an indicator matrix the probability of each label; for several
            columns of classes one array a column. With return_std two of them.
        """
        if not return_std:
            return self._probabilities(X, "predict_proba", lambda p: p)
        X, home = self._input(X, "predict_proba")
        each = [self._of_classes(output) for output in self._finite_outputs(X, members="all")]
        columns = list(zip(*each, strict=True)) if isinstance(each[0], list) else [each]
        means, deviations = (
            [home.send(of(column, axis=0)) for column in columns] for of in (np.mean, np.std)
        )
        return (means, deviations) if isinstance(each[0], list) else (means[0], deviations[0])

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Logarithms of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        array of shape (n_samples, n_classes), or list of them
        """
        return self._probabilities(X, "predict_log_proba", _log)

    def _probabilities(self, X: ArrayLike, method: str, change: Callable[[np.ndarray], np.ndarray]) -> Array:
        X, home = self._input(X, method)
        found = self._of_classes(self._finite_outputs(X))
        if isinstance(found, list):
            return [home.send(change(each)) for each in found]
        return home.send(change(found))

    def _of_classes(self, output: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """The probabilities that a network's outputs are, of each column of classes."""
        if self._labels.kind == "multioutput":
            return [each.copy() for each in self._labels.split(output)]
        if self._labels.kind == "binary" and len(self.classes_) == 1:
            return np.ones_like(output)
        return np.column_stack([1 - output, output]) if self._labels.kind == "binary" else output

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """The fraction of rows that are predicted right, in all columns of y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True labels.
        sample_weight : array-like of shape (n_samples,), optional
            Weights.

        Returns
        -------
        float
        """
        X, _ = self._input(X, "score")
        y, weight = on_host(y), on_host(sample_weight)
        if getattr(self._labels, "kind", None) == "multioutput":
            right = np.all(np.asarray(y) == self._predicted(X), axis=1)
            return float(np.average(right, weights=weight))
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, self._predicted(X), sample_weight=weight))

    def _predicted(self, X: ArrayLike) -> Array:
        return self._labels.decode(self._labels.numbers(self._outputs(X)))

    def _encode_targets(self, y: ArrayLike, dtype: str, incremental: bool) -> np.ndarray:
        """Learn the classes, or check that they are those of the last fit; return what losses read."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._labels = labels_of(y)
            self.classes_ = self._labels.classes
        elif self._labels.kind in ("binary", "multiclass", "multilabel"):
            classes = unique_labels(y)
            if self.warm_start:
                if set(classes) != set(self.classes_):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the previous "
                        f"call to fit. Previously got {self.classes_}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        return self._encode(y, dtype)

    def _encode(self, y: ArrayLike, dtype: str) -> np.ndarray:
        """Targets for the core's losses."""
        if y.ndim == 2 and y.shape[1] == 1 and self._labels.kind in ("binary", "multiclass"):
            y = column_or_1d(y, warn=True)
        encoded = self._labels.encode(y, dtype)
        smoothing = float(self.label_smoothing)
        if smoothing and self._labels.kind in ("binary", "multilabel"):
            encoded = (1.0 - smoothing) * encoded + np.asarray(0.5 * smoothing, dtype=encoded.dtype)
        return encoded

    def _encoded_source(self, source: Source, dtype: str, *, learn: bool) -> Encoded:
        """A source with encoded targets; one pass learns or checks the classes."""
        seen = seen_targets(source)
        if learn and not (self.warm_start and hasattr(self, "classes_")):
            self._labels = seen.labels
            self.classes_ = seen.labels.classes
        elif learn and not _same_classes(seen.labels, self._labels):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to "
                f"fit. Previously got {self.classes_}, `y` has {seen.labels.classes}"
            )
        if (seen.labels.kind == "multioutput") != (self._labels.kind == "multioutput"):
            raise ValueError(f"the targets are {seen.labels.kind}, but those of fit {self._labels.kind}.")
        encode = _encoder(seen, self._labels, float(self.label_smoothing))
        labels = self._labels.kind in ("multiclass", "multioutput")
        if self.class_weight is None or not learn:
            return Encoded(source, labels, encode)
        if source.n_targets > 1 or isinstance(self.class_weight, list):
            raise ValueError("class_weight with a source needs one target, and a dict or 'balanced'.")
        place_of = np.searchsorted(seen.labels.classes, seen.named[0])
        n = np.bincount(place_of, seen.counts[0])
        table = np.ones(len(place_of))
        if self.class_weight == "balanced":
            table = (n.sum() / (len(n) * n))[place_of]
        else:
            classes = seen.labels.classes
            table = compute_class_weight(self.class_weight, classes=classes, y=classes)[place_of]
        return Encoded(source, labels, encode, table, seen.values[0])

    def _decode_targets(self, encoded: np.ndarray) -> Array:
        """What `_encode` was given."""
        return self._labels.decode(self._numbers(encoded))

    def _numbers(self, encoded: np.ndarray) -> np.ndarray:
        """Class numbers as `Labels.numbers` gives them."""
        if self._labels.kind == "multilabel":
            return (encoded > 0.5).astype(np.int64)
        if self._labels.kind == "multioutput":
            return encoded
        return (encoded[:, 0] > 0.5).astype(np.int64) if self._labels.kind == "binary" else encoded[:, 0]

    def _score_of_outputs(self, encoded: np.ndarray, output: np.ndarray, weight: np.ndarray | None) -> float:
        right = self._labels.numbers(output) == self._numbers(encoded)
        if right.ndim == 2:
            right = right.all(axis=1)
        return float(np.average(right, weights=weight))

    def _weighted(self, y: ArrayLike, weight: np.ndarray | None, incremental: bool) -> np.ndarray | None:
        """Sample weights times class weights."""
        if self.class_weight is None:
            return weight
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which does not see all rows. "
                "Compute the weights with sklearn.utils.compute_class_weight('balanced', ...) and pass "
                "them as a dict."
            )
        of_class = compute_sample_weight(self.class_weight, y)
        if weight is None:
            return _check_sample_weight(of_class, y)
        return of_class * weight

    def _n_outputs(self, n_targets: int) -> int:
        return self._labels.n_outputs

    def _stratify(self, data: Rows) -> np.ndarray | None:
        """scikit-learn stratifies where there is one output; a source's targets are not all at hand."""
        if not isinstance(data, InMemory):
            return None
        return data.y > 0.5 if self._labels.kind == "binary" else None

    def _out_activation(self) -> str:
        return "logistic" if self._labels.kind in ("binary", "multilabel") else "softmax"

    def _loss(self, dtype: str) -> Loss:
        """The core's loss, with scikit-learn's bound on what it reports."""
        labels, eps = self._labels, float(np.finfo(dtype).eps)
        if labels.kind in ("binary", "multilabel"):
            return BinaryCrossEntropy(eps=eps)
        smoothing = float(self.label_smoothing)
        if labels.kind == "multiclass":
            return SoftmaxCrossEntropy(smoothing, eps=eps)
        return GroupedCrossEntropy(labels.groups, smoothing, eps=eps)

    def _link(self) -> Link:
        return self._loss("float64").link

    def _loss_scale(self) -> float:
        return 1.0

    def _more_problems(self) -> list[str | None]:
        smoothing = checks.number("p", self.label_smoothing, least=0, below=1)
        given = self.class_weight
        known = given is None or isinstance(given, dict | list) or given == "balanced"
        return [
            self._wrong("label_smoothing", "a number in [0, 1)", smoothing),
            self._wrong("class_weight", "a dict, a list of dicts, 'balanced' or None", not known),
        ]

    def __sklearn_tags__(self) -> Any:
        """Tags."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = False
        return tags


def _log(p: np.ndarray) -> np.ndarray:
    """Logarithms, −∞ for probabilities that round to 0."""
    with np.errstate(divide="ignore"):
        return np.log(p, out=p)


def _same_classes(one: Labels, other: Labels) -> bool:
    if one.kind != other.kind:
        return False
    if one.kind == "multioutput":
        return all(map(np.array_equal, one.classes, other.classes))
    return np.array_equal(one.classes, other.classes)


def _encoder(seen: SeenTargets, labels: Labels, smoothing: float) -> Callable[[np.ndarray], np.ndarray]:
    """The function from a source's targets to what the core's losses read."""
    if labels.kind == "multilabel":
        return lambda y: (1.0 - smoothing) * y + 0.5 * smoothing
    several = labels.kind == "multioutput"
    found = seen.named
    known = labels.classes if several else [labels.classes]
    tables = [numbers_of(column, classes) for column, classes in zip(found, known, strict=True)]

    def encode(y: np.ndarray) -> np.ndarray:
        columns = zip(y.T, seen.values, tables, strict=True)
        numbers = np.stack([table[numbers_of(column, values)] for column, values, table in columns], axis=1)
        if labels.kind != "binary":
            return numbers
        return (1.0 - smoothing) * numbers + 0.5 * smoothing

    return encode


def _is_list_of_arrays(classes: ArrayLike) -> bool:
    return isinstance(classes, list | tuple) and bool(classes) and np.ndim(classes[0]) == 1
