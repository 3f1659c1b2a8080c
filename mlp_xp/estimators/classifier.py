"""MLPClassifier."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight

from mlp_xp.estimators.array_home import on_host
from mlp_xp.estimators.data import Encoded, targets_of, weight_of_each
from mlp_xp.estimators.fitting import OF_SKLEARN, Given, Learner, checked
from mlp_xp.estimators.parameters import COUNT, PART, allowed
from mlp_xp.estimators.targets import Labels, kind_of, labels_of
from mlp_xp.machine.array_api import Array, ArrayLike
from mlp_xp.rows.class_weights import ClassWeighted
from mlp_xp.rows.source import Source


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
    regularizer : str, object, pair of functions or None
        A penalty of `mlp_xp.regularizers` or your own, in the place of those of `alpha` and `l1`.
    clip_norm : float or None
        The largest Euclidean norm of a step's gradient.
    initializer : str, object or None
        Of `mlp_xp.initializers`; None draws what scikit-learn draws.
    class_weight : dict, list of dicts, "balanced" or None
        Weights of classes, multiplied with the sample weights; as everywhere in scikit-learn. Rows held out
        are judged without them, those of early stopping as well as X_val.
    label_smoothing : float in [0, 1)
        ε: targets become (1 − ε) · one-hot + ε / classes. Rows held out are judged without it.
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

    hidden_layer_sizes: object = field(default=(100,), metadata=allowed("array-like", COUNT))
    activation: object = "relu"
    _: dataclasses.KW_ONLY
    class_weight: object = field(default=None, metadata=allowed(dict, list, StrOptions({"balanced"}), None))
    label_smoothing: float = field(default=0.0, metadata=allowed(PART))

    @available_if(lambda self: self._has_partial_fit())
    @checked
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
        classes : array-like of shape (n_classes,), or list of them, optional
            All classes of all calls: needed in the first call, except for an indicator matrix. A list of
            arrays where y has several columns of classes.
        others :
            As in `fit`. With early_stopping=True the estimator predicts with the best weights so far, while
            training goes on from the latest.

        Returns
        -------
        self : MLPClassifier
        """
        rows, held = Given(X, y, sample_weight), Given(X_val, y_val, sample_weight_val)
        return self._fit(rows, held, prepare=lambda: self._first_classes(on_host(y), classes))

    def _has_partial_fit(self) -> bool:
        """L-BFGS has none."""
        if not self._makes_steps():
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def predict(self, X: ArrayLike) -> Array:
        """Class labels of rows, (n_rows,) or (n_rows, n_outputs)."""
        X, home = self._input(X, "predict")
        found = self._predicted(self._finite_outputs(X))
        return home.send(found) if isinstance(found, np.ndarray) else found

    def _predicted(self, output: np.ndarray) -> Array:
        return self._labels.named(self._labels.numbers(output))

    def predict_proba(self, X: ArrayLike, *, return_std: bool = False) -> Any:
        """Probabilities of the classes, (n_rows, n_classes) in the order of `classes_`.

        For an indicator matrix the probability of each label; for several columns of classes a list with one
        array a column. With `return_std` two of them: also the standard deviations over the members, 0
        without members.
        """
        if not return_std:
            return self._probabilities(X, "predict_proba", lambda p: p)
        X, home = self._input(X, "predict_proba")
        each = [self._labels.probabilities(output) for output in self._finite_outputs(X, members="all")]
        columns = list(zip(*each, strict=True))
        means, deviations = (
            [home.send(of(column, axis=0)) for column in columns] for of in (np.mean, np.std)
        )
        return (means, deviations) if self._labels.kind == "multioutput" else (means[0], deviations[0])

    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Logarithms of `predict_proba`."""
        return self._probabilities(X, "predict_log_proba", _log)

    def _probabilities(self, X: ArrayLike, method: str, change: Callable[[np.ndarray], np.ndarray]) -> Array:
        X, home = self._input(X, method)
        found = [home.send(change(each)) for each in self._labels.probabilities(self._finite_outputs(X))]
        return found if self._labels.kind == "multioutput" else found[0]

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """The fraction of rows that are predicted right, in all columns of y."""
        X, _ = self._input(X, "score")
        predicted, y, weight = self._predicted(self._outputs(X)), on_host(y), on_host(sample_weight)
        if self._labels.kind == "multioutput":
            return float(np.average(np.all(np.asarray(y) == predicted, axis=1), weights=weight))
        return float(accuracy_score(y, predicted, sample_weight=weight))

    @property
    def _targets(self) -> Labels:
        return dataclasses.replace(self._labels, smoothing=float(self.label_smoothing))

    def _know(self, labels: Labels) -> None:
        """Have these classes from now on, and say where there is one alone; a warm start must have them.

        Raises ValueError: it has others.
        """
        if self.warm_start and hasattr(self, "_labels"):
            if not labels.has_same_classes(self._labels):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to "
                    f"fit. Previously got {self.classes_}, `y` has {labels.classes}"
                )
            return
        self._labels: Labels = labels
        self.classes_: Any = labels.classes
        for t, classes in enumerate(() if labels.kind == "multilabel" else labels.of_each):
            if len(classes) == 1:
                where = f"column {t} of y" if labels.by_column else "y"
                warnings.warn(
                    f"{where} has a single class, {classes[0]}: there is nothing to learn, and each row will "
                    "be predicted to have it.",
                    RuntimeWarning,  # scikit-learn's own tests take no UserWarning here
                    stacklevel=OF_SKLEARN + 4,
                )

    def _first_classes(self, y: ArrayLike, classes: ArrayLike) -> None:
        """Learn the classes in the first call of partial_fit."""
        first = not hasattr(self, "classes_")
        kind = kind_of(y) if first else self._labels.kind
        if first and kind == "multilabel":
            self._know(labels_of(y))
        elif kind == "multioutput" or (first and _is_list_of_arrays(classes)):
            if first and classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            if first:
                self._know(Labels("multioutput", [np.unique(each) for each in classes]))
        elif _check_partial_fit_first_call(self, classes):
            self._know(Labels("binary" if len(self.classes_) <= 2 else "multiclass", self.classes_))

    def _learn(self, y: ArrayLike, *, incremental: bool) -> None:
        """Learn the classes, or check that they are those of the last fit; `Labels.encode` finds others."""
        if self.warm_start or not (incremental and hasattr(self, "classes_")):
            self._know(labels_of(y))

    def _encoded_source(self, source: Source, *, learn: bool) -> Source:
        """A source with encoded targets; one pass learns or checks the classes."""
        found = targets_of(source)
        if learn:
            self._know(found.labels)
        labels = self._targets
        if (found.labels.kind == "multioutput") != (labels.kind == "multioutput"):
            raise ValueError(f"the targets are {found.labels.kind}, but those of fit {labels.kind}.")
        encoded = Encoded(source, not labels.is_logistic, found.encoder(labels))
        if self.class_weight is None or not learn:
            return encoded
        if source.n_targets > 1 or isinstance(self.class_weight, list):
            raise ValueError("class_weight with a source needs one target, and a dict or 'balanced'.")
        return ClassWeighted(encoded, found.class_weights(self.class_weight))

    def _weighted(self, y: ArrayLike, weight: np.ndarray | None, *, incremental: bool) -> np.ndarray | None:
        """Sample weights times class weights."""
        if self.class_weight is None:
            return weight
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which does not see all rows. "
                "Compute the weights with sklearn.utils.compute_class_weight('balanced', ...) and pass "
                "them as a dict."
            )
        if isinstance(self.class_weight, Mapping) and self._labels.kind in ("binary", "multiclass"):
            of_class = weight_of_each(self.classes_, self.class_weight)[np.searchsorted(self.classes_, y)]
        else:
            of_class = compute_sample_weight(self.class_weight, y)
        return _check_sample_weight(of_class, y) if weight is None else of_class * weight

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


def _is_list_of_arrays(classes: ArrayLike) -> bool:
    return isinstance(classes, list | tuple) and bool(classes) and np.ndim(classes[0]) == 1
