"""MLPRegressor."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import column_or_1d

from mlp_xp.catalogue import resolve
from mlp_xp.estimators.fitting import Held, fit
from mlp_xp.estimators.homes import on_host
from mlp_xp.estimators.parameters import found_by
from mlp_xp.estimators.perceptron import Perceptron
from mlp_xp.losses import LOSSES, HalfSquaredError, Poisson


class MLPRegressor(RegressorMixin, Perceptron):
    """PLACEHOLDER."""

    _y_numeric = True

    def __init__(
        self,
        loss: Any = "squared_error",
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
        scoring: Any = None,
        time_budget: float | None = None,
        callback: Callable[[Any], Any] | None = None,
    ) -> None:
        self.loss = loss
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
    ) -> "MLPRegressor":
        """Fit the model to X and the targets y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data; read.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights >= 0.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows of your own to score after every epoch, instead of `validation_fraction`.
        coef_init, intercept_init : list of arrays, optional
            Weights (and biases, else zeros) to start from, shaped like `coefs_` and `intercepts_`.

        Returns
        -------
        self : MLPRegressor
            After an error it is as it was before.
        """
        held = Held(X_val, y_val, sample_weight_val)
        return fit(self, X, y, sample_weight, held=held, start=(coef_init, intercept_init))

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
    ) -> "MLPRegressor":
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
        return fit(self, X, y, sample_weight, held=held, incremental=True)

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
        return home.send(self._shaped(self._outputs(X)))

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
        quantiles = getattr(self._loss("float64"), "quantiles", (None,))
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

    def _decode_targets(self, encoded: np.ndarray) -> np.ndarray:
        return self._shaped(encoded)

    def _weighted(self, y: Any, weight: np.ndarray | None, incremental: bool) -> np.ndarray | None:
        return weight

    def _n_outputs(self, encoded: np.ndarray) -> int:
        return int(self._loss("float64").n_outputs(encoded.shape[1], None))

    def _stratify(self, encoded: np.ndarray) -> None:
        return None

    def _out_activation(self) -> str:
        return "exp" if isinstance(self._loss("float64"), Poisson) else "identity"

    def _loss(self, dtype: str) -> Any:
        """The core's loss: scikit-learn's two names mean what they mean there."""
        known = {"squared_error": HalfSquaredError(), "poisson": Poisson(deviance=True)}
        if isinstance(self.loss, str) and self.loss in known:
            return known[self.loss]
        return resolve("loss", {name: LOSSES[name] for name in _REGRESSION}, self.loss)

    def _link(self) -> Any:
        return self._loss("float64").link

    def _loss_scale(self) -> float:
        """scikit-learn reports the mean over outputs for squared error."""
        is_squared = isinstance(self.loss, str) and self.loss == "squared_error"
        return 1.0 / self.n_outputs_ if is_squared else 1.0

    def _more_problems(self) -> list[str | None]:
        return [found_by(self, "loss", lambda _: self._loss("float64"))]


_REGRESSION = (
    "squared_error",
    "half_squared_error",
    "absolute_error",
    "huber",
    "pinball",
    "poisson",
)
