"""MLPClassifier."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, unique_labels
from sklearn.utils.validation import _check_sample_weight

from mlp_xp import checks
from mlp_xp.estimators.fitting import Held, fit
from mlp_xp.estimators.homes import on_host
from mlp_xp.estimators.parameters import is_stochastic, stated
from mlp_xp.estimators.perceptron import Perceptron
from mlp_xp.estimators.targets import Labels, kind_of, labels_of
from mlp_xp.losses import BinaryCrossEntropy, GroupedCrossEntropy, SoftmaxCrossEntropy


class MLPClassifier(ClassifierMixin, Perceptron):
    """PLACEHOLDER."""

    loss = "log_loss"
    _y_numeric = False

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool | str = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        device: str | None = None,
        dtype: str | None = None,
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        clip_norm: float | None = None,
        initializer: Any = None,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        scoring: Any = None,
        time_budget: float | None = None,
        callback: Callable[[Any], Any] | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.device = device
        self.dtype = dtype
        self.dropout = dropout
        self.l1 = l1
        self.clip_norm = clip_norm
        self.initializer = initializer
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.scoring = scoring
        self.time_budget = time_budget
        self.callback = callback

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> "MLPClassifier":
        """Fit the model to X and the classes y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data; read.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels; an indicator matrix of labels; or several columns of class labels.
        sample_weight : array-like of shape (n_samples,), optional
            Weights >= 0.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows of your own to score after every epoch, instead of `validation_fraction`.
        coef_init, intercept_init : list of arrays, optional
            Weights (and biases, else zeros) to start from, shaped like `coefs_` and `intercepts_`.

        Returns
        -------
        self : MLPClassifier
            After an error it is as it was before.
        """
        held = Held(X_val, y_val, sample_weight_val)
        return fit(self, X, y, sample_weight, held=held, start=(coef_init, intercept_init))

    @available_if(lambda self: self._has_partial_fit())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        classes: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "MLPClassifier":
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
        return fit(
            self,
            X,
            y,
            sample_weight,
            held=held,
            incremental=True,
            prepare=lambda: self._first_classes(on_host(y), classes),
        )

    def _has_partial_fit(self) -> bool:
        """L-BFGS has none."""
        if not is_stochastic(self):
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def _first_classes(self, y: Any, classes: Any) -> None:
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

    def predict(self, X: Any) -> Any:
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
        found = labels.decode(labels.numbers(self._outputs(X)))
        return home.send(found) if isinstance(found, np.ndarray) else found

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        array of shape (n_samples, n_classes), or list of them
            In the order of `classes_`; for an indicator matrix the probability of each label; for several
            columns of classes one array a column.
        """
        return self._probabilities(X, "predict_proba", lambda p: p)

    def predict_log_proba(self, X: Any) -> Any:
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

    def _probabilities(self, X: Any, method: str, change: Callable[[np.ndarray], Any]) -> Any:
        X, home = self._input(X, method)
        output = self._outputs(X)
        if self._labels.kind == "multioutput":
            return [home.send(change(each.copy())) for each in self._labels.split(output)]
        if self._labels.kind == "binary":
            output = np.column_stack([1 - output, output])
        return home.send(change(output))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
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

    def _predicted(self, X: Any) -> Any:
        return self._labels.decode(self._labels.numbers(self._outputs(X)))

    def _encode_targets(self, y: Any, dtype: str, incremental: bool) -> np.ndarray:
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

    def _encode(self, y: Any, dtype: str) -> np.ndarray:
        """Targets for the core's losses."""
        if y.ndim == 2 and y.shape[1] == 1 and self._labels.kind in ("binary", "multiclass"):
            y = column_or_1d(y, warn=True)
        encoded = self._labels.encode(y, dtype)
        smoothing = float(self.label_smoothing)
        if smoothing and self._labels.kind in ("binary", "multilabel"):
            encoded = (1.0 - smoothing) * encoded + np.asarray(0.5 * smoothing, dtype=encoded.dtype)
        return encoded

    def _decode_targets(self, encoded: np.ndarray) -> Any:
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

    def _weighted(self, y: Any, weight: np.ndarray | None, incremental: bool) -> np.ndarray | None:
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

    def _n_outputs(self, encoded: np.ndarray) -> int:
        return self._labels.n_outputs

    def _stratify(self, encoded: np.ndarray) -> np.ndarray | None:
        """scikit-learn stratifies where there is one output."""
        return encoded > 0.5 if self._labels.kind == "binary" else None

    def _out_activation(self) -> str:
        return "logistic" if self._labels.kind in ("binary", "multilabel") else "softmax"

    def _loss(self, dtype: str) -> Any:
        """The core's loss, with scikit-learn's bound on what it reports."""
        labels, eps = self._labels, float(np.finfo(dtype).eps)
        if labels.kind in ("binary", "multilabel"):
            return BinaryCrossEntropy(eps=eps)
        smoothing = float(self.label_smoothing)
        if labels.kind == "multiclass":
            return SoftmaxCrossEntropy(smoothing, eps=eps)
        return GroupedCrossEntropy(labels.groups, smoothing, eps=eps)

    def _link(self) -> Any:
        return self._loss("float64").link

    def _loss_scale(self) -> float:
        return 1.0

    def _more_problems(self) -> list[str | None]:
        smoothing = checks.number("p", self.label_smoothing, least=0, below=1)
        known = self.class_weight is None or isinstance(self.class_weight, dict | list)
        return [
            stated(self, smoothing, "label_smoothing", "a number in [0, 1)"),
            stated(
                self,
                None if known or self.class_weight == "balanced" else "",
                "class_weight",
                "a dict, a list of dicts, 'balanced' or None",
            ),
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


def _is_list_of_arrays(classes: Any) -> bool:
    return isinstance(classes, list | tuple) and bool(classes) and np.ndim(classes[0]) == 1
