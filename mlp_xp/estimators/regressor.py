"""MLPRegressor."""

import dataclasses
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import column_or_1d

from mlp_xp import own
from mlp_xp.estimators.array_home import on_host
from mlp_xp.estimators.data import Encoded
from mlp_xp.estimators.fitting import Held, Learner
from mlp_xp.losses import LOSSES, HalfSquaredError, Poisson
from mlp_xp.rows.source import Source


@dataclasses.dataclass(eq=False, repr=False, match_args=False)
class MLPRegressor(RegressorMixin, Learner):
    """A multilayer perceptron for regression, in the place of scikit-learn's.

    For one `random_state`, float64 data and "adam" or "sgd" it gives scikit-learn 1.9's loss curve, weights
    and predictions to 1e-8. Where it differs, and why: see the table of `MLPClassifier`.

    Parameters
    ----------
    loss : str or object
        "squared_error" (half of it, reported as the mean over targets) and "poisson" (half the deviance;
        predictions are e^z) are scikit-learn's. Others are `mlp_xp.losses`: "absolute_error",
        "huber:delta=2", "pinball:quantiles=0.1/0.5/0.9" for several quantiles at once; reported as the sum
        over targets.
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
    scoring : "loss", str, callable or None
        What early stopping watches: the validation loss, a scorer by name or your own
        ``scorer(estimator, X, y)``; None is `score`.
    time_budget : float or None
        Seconds, looked at after every epoch.
    callback : callable or None
        Called after every epoch with its `Progress` (number, loss, validation_loss, validation_score,
        learning_rate, seconds, snapshot()); returning True stops. scikit-learn's own callbacks go to
        `set_callbacks`.

    Attributes
    ----------
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

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from mlp_xp import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor("pinball:quantiles=0.1/0.9", solver="adam", learning_rate_init=0.1, max_iter=500,
    ...                      random_state=0).fit(X, y)
    >>> model.predict(X[:5]).shape
    (5, 2)
    """

    _y_numeric = True

    loss: object = "squared_error"
    hidden_layer_sizes: object = (100,)
    activation: object = "relu"

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Update the model with one epoch over the given rows (with "lbfgs": with a whole fit).

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in `fit`.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows to score. With early_stopping=True the estimator predicts with the best weights so far,
            while training goes on from the latest.

        Returns
        -------
        self : MLPRegressor
        """
        held = Held(X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held)

    def predict(self, X: Any) -> Any:
        """Predict the targets of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            With several quantiles, column t · n_quantiles + q for target t, in ascending order.
        """
        X, home = self._input(X, "predict")
        return home.send(self._shaped(self._finite_outputs(X)))

    def _shaped(self, output: np.ndarray) -> np.ndarray:
        return output[:, 0] if output.shape[1] == 1 else output

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions; with several quantiles, the mean D² of their pinball losses.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights.

        Returns
        -------
        float
        """
        X, _ = self._input(X, "score")
        output = self._outputs(X)
        return self._score_of_outputs(on_host(y), output, on_host(sample_weight))

    def _score_of_outputs(self, y: Any, output: np.ndarray, weight: np.ndarray | None) -> float:
        if not np.isfinite(output).all():
            return float("nan")
        quantiles = self._loss("float64").quantiles or (0.5,)
        if len(quantiles) == 1:
            return float(r2_score(y, output, sample_weight=weight))
        columns = output.reshape(len(output), -1, len(quantiles))
        return float(
            np.mean(
                [
                    d2_pinball_score(y, columns[:, :, place], sample_weight=weight, alpha=quantile)
                    for place, quantile in enumerate(quantiles)
                ]
            )
        )

    def _encode_targets(self, y: Any, dtype: str, incremental: bool) -> np.ndarray:
        """Targets as columns of numbers."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return self._encode(y, dtype)

    def _encode(self, y: Any, dtype: str) -> np.ndarray:
        encoded = np.asarray(y, dtype=dtype)
        encoded = encoded[:, None] if encoded.ndim == 1 else encoded
        loss = self._loss(dtype)
        loss.check_targets(encoded, loss.n_outputs(encoded.shape[1], None))
        return encoded

    def _encoded_source(self, source: Source, dtype: str, *, learn: bool) -> Encoded:
        """A source with targets that are numbers."""
        if not source.n_targets:
            raise ValueError("the source has no targets: name the target column as y.")
        texts = [c.name for c in source.targets if c.kind == "text"]
        if texts:
            raise ValueError(
                f"the targets {texts} are text: MLPRegressor needs numbers (MLPClassifier takes text)."
            )
        return Encoded(source, False, self._checked_targets)

    def _checked_targets(self, y: np.ndarray) -> np.ndarray:
        loss = self._loss("float64")
        loss.check_targets(y, loss.n_outputs(y.shape[1], None))
        return y

    def _decode_targets(self, encoded: np.ndarray) -> np.ndarray:
        return self._shaped(encoded)

    def _weighted(self, y: Any, weight: np.ndarray | None, incremental: bool) -> np.ndarray | None:
        return weight

    def _n_outputs(self, n_targets: int) -> int:
        return int(self._loss("float64").n_outputs(n_targets, None))

    def _stratify(self, data: Any) -> None:
        return None

    def _out_activation(self) -> str:
        return str(self._link().as_activation)

    def _loss(self, dtype: str) -> Any:
        """The core's loss: scikit-learn's two names mean what they mean there."""
        known = {"squared_error": HalfSquaredError(), "poisson": Poisson(deviance=True)}
        if isinstance(self.loss, str) and self.loss in known:
            return known[self.loss]
        for_numbers = {
            name: loss for name, loss in LOSSES.items() if not loss.labels and not loss.takes_two_classes
        }
        return own.resolve("loss", for_numbers, self.loss)

    def _link(self) -> Any:
        return self._loss("float64").link

    def _loss_scale(self) -> float:
        """scikit-learn reports the mean over outputs for squared error."""
        is_squared = isinstance(self.loss, str) and self.loss == "squared_error"
        return 1.0 / self.n_outputs_ if is_squared else 1.0

    def _more_problems(self) -> list[str | None]:
        return [self._unknown("loss", lambda _: self._loss("float64"))]
